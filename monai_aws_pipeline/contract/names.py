"""Names that several processes must spell alike: tags, roles, metrics, and where a host has its agent and how that ends."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

TAG_DEPLOYMENT: Final = "monai-aws:deployment"
TAG_ROLE: Final = "monai-aws:role"
TAG_OWNER: Final = "monai-aws:owner"
TAG_RUN_ID: Final = "monai-aws:run-id"
TAG_EXPIRES_AT: Final = "monai-aws:expires-at"
TAG_CONTENT: Final = "monai-aws:content"
TAG_FAILED_STARTS: Final = "monai-aws:failed-starts"
TAG_GROUP: Final = "aws:autoscaling:groupName"
"""AWS's own tag of an instance: the Auto Scaling group that it is of. Nobody else can set it."""
ROLE_AMI_BAKE: Final = "ami-bake"
ROLE_MAP_BUILD: Final = "map-build"
ROLE_INFERENCE: Final = "inference"
HOOK_READY: Final = "monai-aws-ready"
"""Lifecycle hook of the fleet's Auto Scaling group: an instance comes; its agent completes it when the live MAP lies on the disk."""
HOOK_FINISH: Final = "monai-aws-finish"
"""Lifecycle hook of the group: an instance goes; its agent completes it when nothing is in hand any more."""
READY_TIMEOUT_S: Final = 900
"""``HeartbeatTimeout`` of the first. It runs from the launch: a new machine with a GPU, its disk read from a snapshot for the first time,
may need minutes before its agent says anything."""
FINISH_TIMEOUT_S: Final = 300
"""``HeartbeatTimeout`` of the second: so long an instance whose agent died holds its group up. One at work says each minute that it goes
on, which AWS lets it do for 100 times this, at most 48 hours."""
AGENT_UNIT: Final = "monai-aws-agent.service"
AGENT_PROGRAM: Final = "/opt/monai-aws/bin/monai-aws-agent"
AGENT_SETTINGS: Final = "/etc/monai-aws/agent.json"
METRICS_NAMESPACE: Final = "monai-aws"
HOST_MISSING_METRIC: Final = "HostMissing"
HOST_HOURS_METRIC: Final = "LongestRunningHostHours"


class AgentExit(IntEnum):
    """Exit codes of the agent's program."""

    DONE = 0
    FAILED = 1
    WRONG_CALL = 2
    """Its settings are wrong, or it has no such command."""
    NOT_READY = 3
    """The MAP could not be made ready."""
    MISSED = 4
    """The golden study was not answered as expected."""
    AGAIN = 5
    """The group of this instance wants it at work once more, which is a new process's life: its unit starts the agent again."""
