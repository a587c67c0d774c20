"""Names that several processes must spell alike: tags, roles, the agent's unit, metrics."""

from __future__ import annotations

from typing import Final

TAG_DEPLOYMENT: Final = "monai-aws:deployment"
TAG_ROLE: Final = "monai-aws:role"
TAG_OWNER: Final = "monai-aws:owner"
TAG_RUN_ID: Final = "monai-aws:run-id"
TAG_EXPIRES_AT: Final = "monai-aws:expires-at"
TAG_CONTENT: Final = "monai-aws:content"
ROLE_AMI_BAKE: Final = "ami-bake"
ROLE_MAP_BUILD: Final = "map-build"
ROLE_INFERENCE: Final = "inference"
AGENT_UNIT: Final = "monai-aws-agent.service"
METRICS_NAMESPACE: Final = "monai-aws"
HOST_MISSING_METRIC: Final = "HostMissing"
HOST_HOURS_METRIC: Final = "LongestRunningHostHours"
