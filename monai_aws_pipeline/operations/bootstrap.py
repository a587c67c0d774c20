"""What an administrator asks of infra/bootstrap.yaml: its parameters, and what is refused before CloudFormation is asked.

Only what somebody has said is a parameter here; the rest keeps the value that the stack has, or gets the template's default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.cloud.secrets import secret_name
from monai_aws_pipeline.cloud.stack import StackError
from monai_aws_pipeline.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from monai_aws_pipeline.settings import Settings

TEMPLATE: Final = PROJECT_ROOT / "infra" / "bootstrap.yaml"


def parameters(settings: Settings, options: Mapping[str, str | None]) -> dict[str, str]:
    """The template's parameters. ``options``: by the template's names, None where nothing was said."""
    said = {
        "owner": ("Owner", settings.owner),
        "ecr_repository": ("EcrRepository", settings.ecr_repository),
        "app_source_secret": ("AppSourceSecret", secret_name(settings.app_source_secret)),
        "archive_secret": ("ArchiveSecret", secret_name(settings.archive_secret)),
        "monthly_budget_usd": ("MonthlyBudgetUsd", f"{settings.monthly_budget_usd:g}"),
    }
    found = {"Deployment": settings.deployment}
    found |= {name: value for setting, (name, value) in said.items() if setting in settings.model_fields_set}
    return found | {name: value for name, value in options.items() if value is not None}


def cors_command(bucket: str, origin: str) -> str:
    """What lets pages of an origin send uploads to a bucket that the stack does not make. It replaces the rules that the bucket has."""
    rule = {"AllowedOrigins": [origin], "AllowedMethods": ["PUT"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 3600}
    return f"aws s3api put-bucket-cors --bucket {bucket} --cors-configuration '{json.dumps({'CORSRules': [rule]})}'"


def object_arns(places: Sequence[str], partition: str) -> str:
    """ARNs of the objects at ``BUCKET`` or ``BUCKET/PREFIX``, as the template takes them. Raises StackError."""
    for place in places:
        if not place or ":" in place or place.startswith("/") or "," in place:
            raise StackError(f"{place!r} is no place of models.", "Write BUCKET or BUCKET/PREFIX, without s3://.")
    return ",".join(f"arn:{partition}:s3:::{place.rstrip('/')}/*" for place in places)


def check_bucket(s3: S3Client, bucket: str, *, exists: bool) -> None:
    """Refuse a bucket to be made that is there already, and one that is said to be there and is not. Raises StackError.

    CloudFormation would find out only in the middle of a creation.
    """
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if code_of(error) in ("404", "NoSuchBucket"):
            if exists:
                raise StackError(f"There is no bucket {bucket} in this account.", "Correct it, or leave --existing-bucket out.") from error
            return
        if not exists:
            raise StackError(
                f"The bucket name {bucket} is taken by somebody else ({code_of(error)}).", "Names are unique in all of AWS: choose another."
            ) from error
        raise StackError(f"The bucket {bucket} cannot be looked at ({code_of(error)}).", "It must be yours, in this region.") from error
    if not exists:
        raise StackError(f"The bucket {bucket} is there already.", "Use it with --existing-bucket, or choose another name.")
