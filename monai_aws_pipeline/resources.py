"""Dagster resources: thin, typed doors to plain classes that know nothing of Dagster.

Here belongs configuration that Dagster hands out. Here belongs no behaviour: that is tested in the classes behind.
S3 for the study lineage comes from dagster-aws. See https://docs.dagster.io/guides/build/external-resources
"""

from __future__ import annotations

from typing import Any

from dagster import ConfigurableResource
from pydantic import PrivateAttr

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.settings import Settings, load_settings


class SettingsResource(ConfigurableResource):  # type: ignore[type-arg]
    """The project's settings, read once for each run. ``overrides`` replace single settings by name, as tests do."""

    overrides: dict[str, Any] = {}  # noqa: RUF012  # a pydantic field
    _loaded: Settings | None = PrivateAttr(default=None)

    def load(self) -> Settings:
        """All settings. Raises SettingsError listing every wrong one."""
        if self._loaded is None:
            self._loaded = load_settings(**self.overrides)
        return self._loaded


class CloudResource(ConfigurableResource):  # type: ignore[type-arg]
    """boto3 clients of the settings' region; credentials and endpoint come from the SDK's default chain."""

    region: str
    _clients: Clients | None = PrivateAttr(default=None)

    def clients(self) -> Clients:
        """The clients, made once for each run."""
        if self._clients is None:
            self._clients = Clients(self.region)
        return self._clients
