"""EventBridge schedules that call a function every few minutes."""

from __future__ import annotations

import json
from typing import Any

from monai_aws_pipeline.cloud.service_calls import ServiceCalls


class Schedules(ServiceCalls):
    """The schedules of one deployment."""

    def ensure_schedule(self, name: str, function_arn: str, role_arn: str, minutes: int) -> None:
        """Wake the function every few minutes, so that a lost wake delays a study and never loses it."""
        unit = "minute" if minutes == 1 else "minutes"
        request: dict[str, Any] = {
            "Name": name,
            "ScheduleExpression": f"rate({minutes} {unit})",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {"Arn": function_arn, "RoleArn": role_arn, "Input": json.dumps({"source": "monai-aws.schedule"})},
        }
        scheduler = self._clients.scheduler
        change = scheduler.update_schedule if self.has_schedule(name) else scheduler.create_schedule
        self._ask("setting the wake schedule", lambda: change(**request))

    def has_schedule(self, name: str) -> bool:
        """Whether the schedule exists."""
        return self._find("looking at the wake schedule", lambda: self._clients.scheduler.get_schedule(Name=name)) is not None

    def remove_schedule(self, name: str) -> None:
        """Delete the schedule; one that is gone already is fine."""
        self._find("deleting the wake schedule", lambda: self._clients.scheduler.delete_schedule(Name=name))
