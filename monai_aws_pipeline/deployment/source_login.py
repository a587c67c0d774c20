"""The login of a private application repository, read from Secrets Manager each time it is needed."""

from __future__ import annotations

from monai_aws_pipeline.cloud.secrets import read_secret
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.maps.git import SETTING, Login, parse_login
from monai_aws_pipeline.settings import Settings


def source_login(settings: Settings) -> Login | None:
    """What git proves itself with, or None where the settings name no secret. Raises SecretError, AccessError or LoginUnusableError."""
    if not settings.app_source_secret:
        return None
    return parse_login(read_secret(Clients(settings.region).secrets, settings.app_source_secret, SETTING))
