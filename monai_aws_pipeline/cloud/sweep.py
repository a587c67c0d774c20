"""Removing what lost its owner: short-lived machines, key pairs and security groups, found by their tags alone.

The choice is a pure function (``overdue``). What is meant to stay has an empty ``expires-at`` tag and is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.tags import tag_filters, tags_of
from monai_aws_pipeline.contract import TAG_EXPIRES_AT, TAG_RUN_ID, ContractError, parse_utc

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients


def overdue(tags: Mapping[str, str], now: datetime, run_ids: Collection[str] | None) -> bool:
    """Whether something short-lived should go: its run has ended (``run_ids``), or its time is over.

    A tag that cannot be read counts as not ours to remove.
    """
    expires = tags.get(TAG_EXPIRES_AT, "")
    if not expires:
        return False
    if run_ids is not None:
        return tags.get(TAG_RUN_ID, "") in run_ids
    try:
        return parse_utc(expires) < now
    except ContractError:
        return False


def short_lived_runs(clients: Clients, deployment: str) -> set[str]:
    """The run ids on everything of this deployment that is meant to be short-lived."""
    filters = tag_filters(deployment)
    listed = [machine.tags for machine in Machines(clients.ec2, deployment).find()]
    listed += [tags_of(pair.get("Tags", [])) for pair in clients.ec2.describe_key_pairs(Filters=filters)["KeyPairs"]]
    listed += [tags_of(group.get("Tags", [])) for group in clients.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]]
    return {tags[TAG_RUN_ID] for tags in listed if tags.get(TAG_EXPIRES_AT) and tags.get(TAG_RUN_ID)}


def sweep(
    clients: Clients, deployment: str, *, run_ids: Collection[str] | None, report: Callable[[str], None], now: datetime | None = None
) -> list[str]:
    """Remove what is overdue; returns what was removed. One thing that resists does not keep the rest from going."""
    moment = now or datetime.now(UTC)
    machines = Machines(clients.ec2, deployment)
    removed: list[str] = []

    def attempt(name: str, step: Callable[[], object]) -> None:
        try:
            step()
        except (ClientError, CloudError) as error:
            report(f"could not remove {name}: {error}")
        else:
            removed.append(name)
            report(f"removed {name}")

    ending = [machine for machine in machines.find() if overdue(machine.tags, moment, run_ids)]
    for machine in ending:
        attempt(machine.id, partial(machines.terminate, machine.id))
    for machine in ending:
        try:
            machines.wait(machine.id, "terminated", 120)
        except CloudError as error:
            report(str(error))
    filters = tag_filters(deployment)
    pairs = clients.ec2.describe_key_pairs(Filters=filters)["KeyPairs"]
    for name in [pair.get("KeyName", "") for pair in pairs if overdue(tags_of(pair.get("Tags", [])), moment, run_ids)]:
        attempt(f"key pair {name}", partial(machines.delete_key, name))
    groups = clients.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    for group in [group.get("GroupId", "") for group in groups if overdue(tags_of(group.get("Tags", [])), moment, run_ids)]:
        attempt(f"security group {group}", partial(machines.delete_security_group, group))
    return removed
