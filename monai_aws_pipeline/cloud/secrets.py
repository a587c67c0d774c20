"""Secrets Manager: the text of one secret. What it means is its reader's business; nothing of it is logged or put into an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import SecretError, code_of, named

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


def read_secret(client: SecretsManagerClient, name: str, setting: str) -> str:
    """The current text of the secret with a name or ARN; ``setting`` is where the user wrote it.

    Raises SecretError where there is none or it is no text, AccessError where AWS refuses it.
    """
    try:
        text = client.get_secret_value(SecretId=name).get("SecretString", "")
    except ClientError as error:
        if code_of(error) in ("ResourceNotFoundException", "InvalidRequestException"):
            raise SecretError(
                f"There is no secret {name} in this region.", f"Create it in Secrets Manager, or correct {setting}."
            ) from error
        raise named(error, f"reading the secret that {setting} names") from error
    if not text:
        raise SecretError(f"The secret {name} holds no text.", "Store the token or key as text (SecretString), not as binary.")
    return text


def secret_name(name_or_arn: str) -> str:
    """The name in an ARN, without the six characters that Secrets Manager adds; a name stays as it is."""
    if not name_or_arn.startswith("arn:"):
        return name_or_arn
    return name_or_arn.split(":", 6)[-1].rpartition("-")[0]
