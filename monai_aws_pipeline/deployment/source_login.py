"""The login of a private application repository, read from Secrets Manager each time it is needed."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.secrets import read_secret
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.maps.git import SETTING, Login, SourceError, parse_login
from monai_aws_pipeline.settings import Settings


class LoginUnreadableError(SourceError):
    """AWS did not give the secret with the login."""

    remedy = f"Correct {SETTING}, or let 'monai-aws bootstrap' give the operator that secret; docs/building.md shows how"


def asked_login(settings: Settings) -> Login | None:
    """As ``source_login``, for whoever wants every trouble with it as a SourceError."""
    try:
        return source_login(settings)
    except CloudError as error:
        raise LoginUnreadableError(str(error).rstrip(".")) from error
    except (BotoCoreError, ClientError) as error:
        raise LoginUnreadableError(f"the secret of {SETTING} could not be read ({type(error).__name__})") from error


def source_login(settings: Settings) -> Login | None:
    """What git proves itself with, or None where the settings name no secret. Raises SecretError, AccessError or LoginUnusableError."""
    if not settings.app_source_secret:
        return None
    return parse_login(read_secret(Clients(settings.region).secrets, settings.app_source_secret, SETTING))
