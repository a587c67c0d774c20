"""What a call of Auto Scaling works on: the groups of a region and who calls, with the refusals that many calls share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .autoscaling_protocol import QueryError, invalid
from .autoscaling_records import Group, Json, Member

May = Callable[[str, str, str, str, dict[str, Any]], bool]
"""Whether a caller (access key) may do something (action) in a region on a resource (ARN) in a context."""


@dataclass(frozen=True)
class Caller:
    """Who calls."""

    access_key: str
    may_: May

    def may(self, action: str, region: str, arn: str, **context: Any) -> bool:
        """Whether this caller may do something else that the call comes with."""
        return self.may_(self.access_key, action, region, arn, {name.replace("__", ":"): value for name, value in context.items()})


@dataclass(frozen=True)
class Scope:
    """The groups that one call sees."""

    groups: dict[tuple[str, str], Group]
    region: str
    caller: Caller

    def group(self, data: Mapping[str, Any]) -> Group:
        """The group that is named. Raises QueryError."""
        name = str(data["AutoScalingGroupName"])
        group = self.groups.get((self.region, name))
        if group is None:
            raise invalid("AutoScalingGroup name not found - AutoScalingGroup " + name + " not found")
        if group.deleting:
            raise QueryError("ScalingActivityInProgress", f"AutoScalingGroup {name} is pending delete.")
        return group

    def all(self, names: list[str] | None = None) -> list[Group]:
        """The groups of the region by name."""
        found = [each for (region, _), each in sorted(self.groups.items()) if region == self.region]
        return [each for each in found if not names or each.name in names]

    def member(self, instance_id: str) -> tuple[Group, Member]:
        """The instance of this id and its group. Raises QueryError."""
        for group in self.all():
            if member := group.member(instance_id):
                return group, member
        raise invalid(f"Instance Id not found - No managed instance found for instance ID: {instance_id}")


Call = Callable[[Scope, Json], Json]


def paged(key: str, items: list[Any], data: Mapping[str, Any], most: int = 100) -> Json:
    """One page of a list."""
    start, size = int(data.get("NextToken") or 0), int(data.get("MaxRecords") or most)
    page: Json = {key: items[start : start + size]}
    return {**page, "NextToken": str(start + size)} if start + size < len(items) else page
