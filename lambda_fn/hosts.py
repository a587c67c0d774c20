"""Waking inference hosts: which of them to start or kick is a pure decision, doing it is a few calls that never wait.

Here belongs EC2 and SSM. Whatever cannot be done now (no capacity, throttled, agent not online) is logged by its code and cause and left to
the schedule: the job lies in its queue meanwhile, and nothing is lost. How often a host could not start is counted in a tag of it, which
Dagster replaces hosts by. An Auto Scaling group that is at zero the function lifts to one, because CloudWatch hears of an upload into a
quiet queue minutes later; one that launches in vain with nothing to do it brings back to zero, and an instance that was forgotten it has
leave with its place; it decides no other number of a group. Named hosts that were forgotten the schedule stops. That there is no host at
all, and for how long the longest has been running, are metrics, which alarms watch; they are written as log lines (CloudWatch's embedded
metric format), so that the function needs no permission for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import boto3
from aws_lambda_powertools.metrics import MetricUnit, single_metric
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as UnreachableError

from monai_aws_pipeline.contract import (
    AGENT_UNIT,
    HOST_HOURS_METRIC,
    HOST_MISSING_METRIC,
    METRICS_NAMESPACE,
    ROLE_INFERENCE,
    TAG_DEPLOYMENT,
    TAG_FAILED_STARTS,
    TAG_GROUP,
    TAG_ROLE,
    FailedStarts,
)
from monai_aws_pipeline.contract.ec2_refusals import Way, ending_of, refusal_of
from monai_aws_pipeline.contract.launches import why_in_vain

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeDef
    from mypy_boto3_ssm import SSMClient

JOBS_PER_HOST: Final = 20
"""One more host is woken for each so many waiting jobs."""
FORGOTTEN: Final = timedelta(hours=3)
"""Longer than a pull or a proof keeps a host awake that has no job, as a rule; the settings may allow them more."""
_ASIDE: Final = ("Standby", "EnteringStandby", "Detaching", "Terminating")
"""Lifecycle states, by their beginning, of instances that somebody has set aside, or that end as it is."""
LAUNCHES_IN_VAIN: Final = 3
"""So many in a row, begun within ``IN_VAIN``: a group goes on launching, and each instance that does not get ready costs its minutes."""
IN_VAIN: Final = timedelta(minutes=90)
"""Longer than three times the hook's timeout, with the launches; what was in vain before that may have had another reason."""
_IDENTIFIER: Final = re.compile(r"arn:\S+|[0-9a-f]{8}[\w-]*")


class Cause(StrEnum):
    """Why a call did not do what it should, in the words of a remedy: an operator who is woken by it must know where to look."""

    PERMISSION = "the wake role may not do this: run monai-aws bootstrap again"
    AGENT = "the SSM agent of the host is not online: it boots, or its agent is down"
    CAPACITY = "AWS has no such machine free at the moment"
    THROTTLED = "too many calls at once"
    NETWORK = "the service could not be reached"
    STATE = "the host is in another state by now"
    OTHER = "see the code"


_EVERYBODY: Final = (Cause.PERMISSION, Cause.THROTTLED, Cause.NETWORK)
"""Causes that another host does not help against."""
_THE_HOSTS: Final = (Cause.CAPACITY, Cause.OTHER)
"""Causes that lie with one host, its zone, type or disk: counted, so that another can take its place (MONAI_AWS_REPLACE_HOST_AFTER)."""
_CAUSES: Final = {
    Cause.PERMISSION: ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure", "UnrecognizedClientException"),
    Cause.AGENT: ("InvalidInstanceId",),
    Cause.THROTTLED: ("RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequestsException"),
    Cause.STATE: ("IncorrectInstanceState", "InvalidInstanceID.NotFound", "IncorrectState"),
}


def cause_of(error: ClientError | BotoCoreError) -> Cause:
    """The cause of a refused call by its code; a call that got no answer at all is the network's."""
    if isinstance(error, (UnreachableError, HTTPClientError)):
        return Cause.NETWORK
    code = code_of(error)
    by_table = Cause.CAPACITY if refusal_of(code).way in (Way.NEXT_ZONE, Way.NEXT_TYPE) else Cause.OTHER
    return next((cause for cause, codes in _CAUSES.items() if code in codes), by_table)


@dataclass(frozen=True)
class Host:
    """An inference host: instance id and state as EC2 names it; ``since`` its last start.

    ``failed``: the state reason for which that start failed, or empty. ``starts``: what was counted of failed ones.
    """

    id: str
    state: str
    since: datetime | None = None
    failed: str = ""
    starts: FailedStarts = field(default_factory=FailedStarts)


@dataclass(frozen=True)
class Plan:
    """What to do now: hosts to start and hosts whose agent to kick. ``later``: the hosts there are can only be woken by the schedule."""

    start: tuple[str, ...] = ()
    kick: tuple[str, ...] = ()
    later: bool = False


def plan(hosts: Iterable[Host], waiting: int) -> Plan:
    """Kick every running host, and start stopped ones until there is one for each 20 waiting jobs, at least one."""
    by_state: dict[str, list[str]] = {}
    for host in in_order(hosts):
        by_state.setdefault(host.state, []).append(host.id)
    running, pending, stopped = (by_state.get(state, []) for state in ("running", "pending", "stopped"))
    wanted = max(1, -(-waiting // JOBS_PER_HOST))
    start = stopped[: max(0, wanted - len(running) - len(pending))]
    return Plan(tuple(start), tuple(running), later=not (start or running or pending))


def in_order(hosts: Iterable[Host]) -> list[Host]:
    """Hosts in the order to wake them: those whose last start failed come last."""
    return sorted(hosts, key=lambda host: (bool(host.failed or host.starts.count), host.id))


def forgotten(hosts: Iterable[Host], at_work: int, now: datetime, after: timedelta) -> tuple[str, ...]:
    """Running hosts to stop: nothing waits, nothing is at work, and they should have stopped themselves long ago."""
    if at_work:
        return ()
    return tuple(host.id for host in hosts if host.state == "running" and host.since is not None and now - host.since >= after)


class Hosts:
    """The inference hosts of one deployment."""

    def __init__(self, deployment: str, logger: Logger):
        self._deployment, self._log = deployment, logger

    def wake(self, waiting: int) -> Plan:
        """Start and kick what the plan says. Raises nothing that a retry of the event could mend: the schedule comes again anyway."""
        try:
            hosts = self._find()
        except (ClientError, BotoCoreError) as error:
            self._log.warning("hosts cannot be listed; left to the schedule", extra=_about(error))
            return Plan(later=True)
        decided = plan(hosts, waiting)
        if not hosts:
            self._missing("there is no inference host; materialise inference_host")
        elif decided.later:
            self._log.info("the host is stopping; left to the schedule", extra={"waiting": waiting})
        self._count_anew(hosts)
        self._start_some(hosts, len(decided.start))
        for host in self._online(decided.kick):
            self._kick(host)
        return decided

    def lift(self, group: str) -> None:
        """Ask for the first instance of a group that has none, whatever its cooldown. More of them is its policies' to decide."""
        try:
            found = autoscaling().describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
            if not found:
                self._missing("there is no group of hosts; materialise inference_host")
            elif found[0]["DesiredCapacity"] == 0 and not found[0].get("Status"):
                autoscaling().set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=1, HonorCooldown=False)
                self._log.info("the group had no host: one is asked for", extra={"group": group})
        except (ClientError, BotoCoreError) as error:
            self._log.warning("the group cannot be asked for a host now; left to its policies", extra={"group": group, **_about(error)})

    def _missing(self, words: str) -> None:
        self._log.error(words, extra={"code": "HostMissing"})
        with single_metric(HOST_MISSING_METRIC, MetricUnit.Count, 1, namespace=METRICS_NAMESPACE) as metric:
            metric.add_dimension("deployment", self._deployment)

    def look_after(self, at_work: int, group: str = "", allowed: timedelta = timedelta()) -> None:
        """Stop hosts that were forgotten (those of a group leave it), and tell for how long the longest of that kind has been running.

        With nothing to do, a group that launches one instance after the other in vain is brought back to zero.
        ``at_work``: jobs waiting or in hand. ``allowed``: for so long the settings let a host be on without any.
        """
        now = datetime.now(UTC)
        if group and not at_work:
            self._end_launches_in_vain(group, now)
        try:
            hosts = self._find(group)
        except (ClientError, BotoCoreError) as error:
            self._log.warning("hosts cannot be listed; left to the schedule", extra=_about(error))
            return
        if not group:
            self._count_anew(hosts)
        running = [(now - host.since).total_seconds() / 3600 for host in hosts if host.state == "running" and host.since is not None]
        if running:
            with single_metric(HOST_HOURS_METRIC, MetricUnit.NoUnit, round(max(running), 2), namespace=METRICS_NAMESPACE) as metric:
                metric.add_dimension("deployment", self._deployment)
        for host in self._not_aside(forgotten(hosts, at_work, now, max(FORGOTTEN, allowed)), group):
            try:
                if group:
                    autoscaling().terminate_instance_in_auto_scaling_group(InstanceId=host, ShouldDecrementDesiredCapacity=True)
                else:
                    ec2().stop_instances(InstanceIds=[host])
                self._log.error("a host ran on with nothing to do and is stopped; its agent hangs or is gone", extra={"host": host})
            except (ClientError, BotoCoreError) as error:
                self._log.error("a host runs on with nothing to do and cannot be stopped", extra={"host": host, **_about(error)})

    def _not_aside(self, hosts: Sequence[str], group: str) -> Sequence[str]:
        """Of a group's instances those that nobody has set aside."""
        if not group or not hosts:
            return hosts
        try:
            found = autoscaling().describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
        except (ClientError, BotoCoreError) as error:
            self._log.warning("it is not known which instances were set aside", extra={"group": group, **_about(error)})
            return hosts  # one that was forgotten costs money every hour
        aside = {each["InstanceId"] for one in found for each in one["Instances"] if each["LifecycleState"].startswith(_ASIDE)}
        return [host for host in hosts if host not in aside]

    def _end_launches_in_vain(self, group: str, now: datetime) -> None:
        api = autoscaling()
        try:
            for found in api.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]:
                if not found["DesiredCapacity"] or any(each["LifecycleState"] == "InService" for each in found["Instances"]):
                    return
                activities = api.describe_scaling_activities(AutoScalingGroupName=group)["Activities"]
                if why := why_in_vain((each for each in activities if now - each["StartTime"] <= IN_VAIN), LAUNCHES_IN_VAIN):
                    api.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=0, HonorCooldown=False)
                    about = {"group": group, "code": "LaunchedInVain", "cause": _IDENTIFIER.sub("...", why)[:200]}
                    self._log.error("no instance gets ready and nothing waits; correct it, then materialise inference_host", extra=about)
        except (ClientError, BotoCoreError) as error:
            self._log.warning("it is not known whether the group launches in vain", extra={"group": group, **_about(error)})

    def _find(self, group: str = "") -> list[Host]:
        """Named hosts, or instances of a group: one that waits stopped in its pool is not ours to start, and would take no job."""
        pages = (
            ec2()
            .get_paginator("describe_instances")
            .paginate(
                Filters=[
                    {"Name": f"tag:{TAG_DEPLOYMENT}", "Values": [self._deployment]},
                    {"Name": f"tag:{TAG_ROLE}", "Values": [ROLE_INFERENCE]},
                    {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
                ]
            )
        )
        return [
            Host(instance["InstanceId"], instance["State"]["Name"], instance.get("LaunchTime"), _failed(instance), _counted(instance))
            for page in pages
            for reservation in page["Reservations"]
            for instance in reservation.get("Instances", [])
            if _tags(instance).get(TAG_GROUP, "") == group
        ]

    def _start_some(self, hosts: Iterable[Host], wanted: int) -> None:
        """Start so many of the stopped hosts; one that cannot be started is passed over, as long as another may help."""
        for host in in_order(host for host in hosts if host.state == "stopped"):
            if wanted <= 0:
                return
            failed = host.failed
            if failed:
                about = ending_of(failed)
                cause = {"code": failed, "cause": f"{about.what} {about.remedy}"}
                self._log.warning("host could not start the last time; trying again", extra={"host": host.id, **cause})
            try:
                ec2().start_instances(InstanceIds=[host.id])  # its agent starts with the machine
            except (ClientError, BotoCoreError) as error:
                self._log.warning("host cannot be started now; left to the schedule", extra={"host": host.id, **_about(error)})
                if cause_of(error) in _EVERYBODY:
                    return
                failed = code_of(error) if cause_of(error) in _THE_HOSTS else failed
            else:
                self._log.info("host started", extra={"host": host.id})
                wanted -= 1
            if failed:
                self._write_down(host, host.starts.failed(failed, datetime.now(UTC)))

    def _count_anew(self, hosts: Iterable[Host]) -> None:
        """A host that runs could start after all."""
        for host in hosts:
            if host.state == "running" and host.starts.count:
                self._write_down(host, host.starts.started())

    def _write_down(self, host: Host, starts: FailedStarts) -> None:
        if starts == host.starts:
            return
        try:
            ec2().create_tags(Resources=[host.id], Tags=[{"Key": TAG_FAILED_STARTS, "Value": starts.to_text()}])
        except (ClientError, BotoCoreError) as error:
            self._log.warning("failed starts of the host cannot be counted", extra={"host": host.id, **_about(error)})

    def _online(self, hosts: Sequence[str]) -> list[str]:
        """Those of the running hosts that take commands now. The others boot, and need no kick, or are left to the schedule."""
        if not hosts:
            return []
        try:
            pages = ssm().get_paginator("describe_instance_information").paginate(Filters=[{"Key": "InstanceIds", "Values": list(hosts)}])
            seen = {str(node.get("InstanceId")): str(node.get("PingStatus")) for page in pages for node in page["InstanceInformationList"]}
        except (ClientError, BotoCoreError) as error:
            self._log.warning("it cannot be asked which hosts take commands; left to the schedule", extra=_about(error))
            return []
        for host in hosts:
            if seen.get(host) != "Online":
                about = {"code": seen.get(host, "NotRegistered"), "cause": str(Cause.AGENT)}
                self._log.warning("host takes no commands now; left to the schedule", extra={"host": host, **about})
        return [host for host in hosts if seen.get(host) == "Online"]

    def _kick(self, host: str) -> None:
        command = f"systemctl start --no-block {AGENT_UNIT}"  # a running agent is left alone
        try:
            ssm().send_command(InstanceIds=[host], DocumentName="AWS-RunShellScript", Parameters={"commands": [command]})
            self._log.info("host kicked", extra={"host": host})
        except (ClientError, BotoCoreError) as error:
            self._log.warning("host cannot be kicked now; left to the schedule", extra={"host": host, **_about(error)})


def _about(error: ClientError | BotoCoreError) -> dict[str, str]:
    code, cause = code_of(error), cause_of(error)
    refusal = refusal_of(code)
    return {"code": code, "cause": f"{refusal.what} {refusal.remedy}" if cause is Cause.OTHER and refusal.known else str(cause)}


def _failed(instance: InstanceTypeDef) -> str:
    code = instance.get("StateReason", {}).get("Code", "")
    return code if ending_of(code).known else ""


def _counted(instance: InstanceTypeDef) -> FailedStarts:
    return FailedStarts.parse(_tags(instance).get(TAG_FAILED_STARTS, ""))


def _tags(instance: InstanceTypeDef) -> dict[str, str]:
    return {tag.get("Key", ""): tag.get("Value", "") for tag in instance.get("Tags", [])}


def code_of(error: ClientError | BotoCoreError) -> str:
    """The service's error code, or the kind of connection failure."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else error.__class__.__name__


@cache
def ec2() -> EC2Client:
    """The EC2 client, made once for each execution environment."""
    return boto3.client("ec2")


@cache
def autoscaling() -> Any:
    """The Auto Scaling client, made once for each execution environment."""
    return boto3.client("autoscaling")


@cache
def ssm() -> SSMClient:
    """The SSM client, made once for each execution environment."""
    return boto3.client("ssm")
