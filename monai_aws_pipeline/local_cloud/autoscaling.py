"""EC2 Auto Scaling's door: which call goes where, who may, what is kept, and what groups do between calls.

The calls themselves are in autoscaling_groups.py and autoscaling_instances.py.
Source: Amazon EC2 Auto Scaling API Reference; Service Authorization Reference, Amazon EC2 Auto Scaling.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

from ministack.core import router
from ministack.services.cloudformation import provisioners

from . import autoscaling_groups, autoscaling_instances, autoscaling_scaling, identity
from .autoscaling_launch import Machines, restore_templates, templates_state
from .autoscaling_loop import Reconciler
from .autoscaling_plan import REFRESH_S
from .autoscaling_protocol import SERVICE, Answer, Json, QueryError, answer, parse, refusal, service_model
from .autoscaling_records import Group, as_json, from_json
from .autoscaling_scope import Call, Caller, May, Scope
from .config import ACCOUNT

Handler = Callable[[str, str, dict[str, str], bytes, dict[str, list[str]]], Awaitable[Answer]]
_CALLS: Final[Mapping[str, Call]] = {**autoscaling_groups.CALLS, **autoscaling_instances.CALLS, **autoscaling_scaling.CALLS}
_log: Final = logging.getLogger("local-cloud.autoscaling")


class AutoScaling:
    """All groups of one cloud. Thread-safe: calls and ticks take turns."""

    def __init__(
        self, machines: Machines, may: May, on_change: Callable[[], None], refresh_patience: Callable[[], float] = lambda: REFRESH_S
    ) -> None:
        self._groups: dict[tuple[str, str], Group] = {}
        self._reconciler, self._may, self._on_change = Reconciler(machines, patience=refresh_patience), may, on_change
        self._turn = threading.RLock()

    def install(self, handlers: dict[str, Handler]) -> None:
        """Take ministack's place, which keeps records without instances; CloudFormation makes no groups."""
        handlers[SERVICE] = self.handle
        for kind in [kind for kind in provisioners._RESOURCE_HANDLERS if kind.startswith("AWS::AutoScaling::")]:
            del provisioners._RESOURCE_HANDLERS[kind]

    async def handle(self, _method: str, _path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]) -> Answer:
        """Answer one call."""
        fields = {**query, **parse_qs(body.decode(errors="replace"), keep_blank_values=True)}
        flat = {name: values[0] for name, values in fields.items()}
        caller = Caller(router.extract_access_key_id(headers, query), self._may)
        return await asyncio.to_thread(self._answer, flat, router.extract_region(headers, query), caller)

    def _answer(self, fields: Mapping[str, str], region: str, caller: Caller) -> Answer:
        action, model = fields.get("Action", ""), service_model(SERVICE)
        known = action in model.operation_names
        operation = model.operation_model(action if known else "DescribeAccountLimits")
        identity.as_account()
        if action not in _CALLS:
            words = f"{action} is not emulated." if known else f"Could not find operation {action} for version 2011-01-01"
            return refusal(operation, QueryError("InvalidAction", words))
        try:
            with self._turn:
                done = answer(operation, _CALLS[action](Scope(self._groups, region, caller), parse(operation, fields)))
        except QueryError as error:
            return refusal(operation, error)
        return done

    def tick(self) -> None:
        """Let every group act."""
        for key, group in list(self._groups.items()):
            with self._turn:
                try:
                    changed = self._reconciler.tick(group)
                except Exception:
                    _log.exception("the group %s could not be looked at", group.name)
                    continue
                if group.deleting and not group.members:
                    self._groups.pop(key, None)
                    autoscaling_scaling.drop_alarms(group)
                    changed = True
            if changed:
                self._on_change()

    def tags_of(self, arn: str) -> dict[str, str]:
        """Tags of a group by its ARN, or by one with any id in it."""
        name = arn.rpartition("autoScalingGroupName/")[2]
        found = re.match(r"arn:aws:autoscaling:([^:]+):", arn)
        group = self._groups.get((found[1], name)) if found else None
        return {tag["Key"]: tag.get("Value", "") for tag in group.tags} if group else {}

    def arn(self, region: str, name: str) -> str:
        """ARN of a group; one for any id where there is none."""
        group = self._groups.get((region, name))
        return group.arn if group else f"arn:aws:autoscaling:{region}:{ACCOUNT}:autoScalingGroup:*:autoScalingGroupName/{name}"

    def group_of(self, region: str, instance_id: str) -> str:
        """Name of the group that an instance is in; empty for none."""
        return next((each.name for each in list(self._groups.values()) if each.region == region and each.member(instance_id)), "")

    def target_state(self, region: str, instance_id: str) -> str:
        """Target lifecycle state of an instance, as its metadata has it; empty where no group has it."""
        for group in list(self._groups.values()):
            if group.region == region and (member := group.member(instance_id)):
                return member.target(str((group.warm_pool or {}).get("PoolState", "Stopped")))
        return ""

    def resource(self, parameters: Mapping[str, list[str]], region: str) -> str:
        """ARN that a call is authorised on; ``*`` for calls without resource-level permissions."""
        if parameters.get("Action", [""])[0].startswith("Describe"):
            return "*"
        name = next((parameters[field][0] for field in ("AutoScalingGroupName", "Tags.member.1.ResourceId") if field in parameters), "")
        name = name or self.group_of(region, parameters.get("InstanceId", [""])[0])
        return self.arn(region, name) if name else "*"

    def state(self) -> Json:
        """For persistence."""
        with self._turn:
            return {"groups": [as_json(each) for each in self._groups.values()], "templates": templates_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring groups and launch templates back. Their machines are gone with the server: each group makes its own anew.

        The time that the server was away is not held against a refresh.
        """
        restore_templates(state.get("templates", []))
        for group in map(from_json, state.get("groups", [])):
            if refresh := group.refresh():
                refresh["Progressed"] = time.time()
            self._groups[group.region, group.name] = group
