"""The sensor ``notifications``: what Dagster and AWS know of trouble, looked at every two minutes and told to people.

Here belongs looking, in Dagster and through ``cloud``, and the wiring of one tick. What is new and how it is worded is decided in
``operations.notifications``, sending belongs to ``operations.channels``. docs/operations.md, "Notifications", says who tells what.

A channel that does not answer, or an account that does not let itself be looked at, is said in the tick and tried at the next one.
Results are recorded by a sensor of its own, so none waits for a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from dagster import (
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, ScheduleInstigatorData, TickStatus
from dagster._utils.schedules import get_latest_completed_cron_tick

from monai_aws_pipeline.cloud.alarms import Alarms
from monai_aws_pipeline.cloud.budget import spent_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import stack_name
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.channels import channel_of
from monai_aws_pipeline.operations.notifications import (
    LOOKED_AT,
    OVERLAP_SECONDS,
    REMEMBERED_RUNS,
    FailedRun,
    FailedStudy,
    Kind,
    Message,
    MissedSchedule,
    Place,
    RaisedAlarm,
    SpentBudget,
    Standing,
    Told,
    after,
    messages,
)
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import Settings
from monai_aws_pipeline.studies.record_metadata import JOB_TAG
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT, settled

INTERVAL_SECONDS: Final = 120
LATE_SECONDS: Final = 600
"""A schedule that has not run so long after its time is late: the daemon looks every minute, and may be at another one."""

_CODE: Final = re.compile(r"[A-Za-z0-9_]{1,40}")
_RAN: Final = [TickStatus.STARTED, TickStatus.SUCCESS, TickStatus.SKIPPED]
_ON: Final = {InstigatorStatus.RUNNING, InstigatorStatus.DECLARED_IN_CODE}

Warn = Callable[[str], object]
T = TypeVar("T")


@sensor(
    name="notifications",
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
    description="Tells people of failed runs and studies, of alarms that nobody else tells, of a budget that is spent and of schedules "
    "that did not run, where MONAI_AWS_NOTIFY says how. It is on from the start and looks every 120 s; without MONAI_AWS_NOTIFY it tells "
    "nobody. It starts no run and costs below a dollar a month on AWS.",
)
def notifications(context: SensorEvaluationContext, settings: SettingsResource, cloud: CloudResource) -> SensorResult:
    """One look at what stands, and the messages that are due."""
    chosen = settings.load()
    if not chosen.notify:  # the cursor is emptied: whoever is told again some day is told from then on
        reason = "MONAI_AWS_NOTIFY is empty: nobody is told. Set it to sns, a topic's ARN, or the name of a webhook's secret."
        return SensorResult(skip_reason=SkipReason(reason), cursor="")
    clients, now = cloud.clients(), datetime.now(UTC).timestamp()
    told = Told.parse(context.cursor) or Told.beginning(now, settled(context.instance))
    standing, told = look(context, chosen, clients, told, now)
    due = messages(told, standing, now, Place(chosen.deployment, chosen.ui_address))
    delivered = deliver(due, chosen, clients, context.log.warning)
    said = f"Told: {', '.join(delivered)}." if delivered else "Nothing was delivered; see the tick's log." if due else "Nothing to tell."
    return SensorResult(skip_reason=SkipReason(said), cursor=after(told, standing, delivered, now).to_text())


def deliver(due: Sequence[Message], settings: Settings, clients: Clients, warn: Warn) -> list[Kind]:
    """Send them; returns the kinds that were taken. After the first that was not, the others wait too: the channel is the same."""
    delivered: list[Kind] = []
    try:
        channel = channel_of(settings, clients) if due else None
        for message in due:
            if channel:
                channel.send(message)
                delivered.append(message.kind)
    except NamedError as error:
        warn(f"{len(due) - len(delivered)} messages were not delivered and are tried again at the next tick. {error}")
    return delivered


# -------------------------------------------------------------------------------------------------------------------------- looking


def look(context: SensorEvaluationContext, settings: Settings, clients: Clients, told: Told, now: float) -> tuple[Standing, Told]:
    """What stands, and the cursor with what was asked. What AWS does not tell is left out, with a warning."""
    instance, warn = context.instance, context.log.warning
    studies, read_to = failed_studies(instance, told.studies_after)
    hour = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H")
    budget = None
    if told.budget_asked != hour:  # AWS reckons it some times a day
        budget = _asked(lambda: _budget(settings, clients, hour[:7]), "the budget", warn)
        told = told.asked(hour)
    standing = Standing(
        runs=failed_runs(instance, told.runs_after),
        studies=studies,
        read_to=read_to,
        # One teller for each event: where the alarms have a topic, CloudWatch tells that.
        alarms=None if settings.alarm_topic_arn else _asked(lambda: _alarms(settings, clients), "the alarms", warn),
        budget=budget,
        schedules=late_schedules(context, now),
    )
    return standing, told


def failed_runs(instance: DagsterInstance, since: float) -> tuple[FailedRun, ...]:
    """Runs that failed since then, the first ones first; not those that answer studies alone, for studies without an answer are told."""
    moment = datetime.fromtimestamp(max(0.0, since - OVERLAP_SECONDS), UTC)
    wanted = RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=moment)
    records = instance.get_run_records(wanted, limit=REMEMBERED_RUNS, order_by="update_timestamp", ascending=True)
    return tuple(
        FailedRun(
            record.dagster_run.run_id,
            _work_of(record.dagster_run),
            _steps(instance, record.dagster_run),
            record.update_timestamp.timestamp(),
        )
        for record in records
        if record.dagster_run.asset_selection != {INFERENCE_RESULT}
    )


def _work_of(run: DagsterRun) -> str:
    """The job's name; of a run that was started by a click on assets, these."""
    if run.job_name.startswith("__") and run.asset_selection:
        return ", ".join(sorted(key.to_user_string() for key in run.asset_selection))
    return run.job_name


def _steps(instance: DagsterInstance, run: DagsterRun) -> tuple[str, ...]:
    logs = instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE)
    return tuple(entry.step_key for entry in logs if entry.step_key)


def failed_studies(instance: DagsterInstance, after_event: int) -> tuple[tuple[FailedStudy, ...], int]:
    """Studies that were recorded as refused or failed after an event, and up to which event was looked."""
    wanted = AssetRecordsFilter(INFERENCE_RESULT, after_storage_id=after_event, before_storage_id=settled(instance, after_event) + 1)
    found: list[FailedStudy] = []
    read_to = after_event
    for record in instance.fetch_observations(wanted, limit=LOOKED_AT, ascending=True).records:
        read_to = max(read_to, record.storage_id)
        seen = record.asset_observation
        code = seen.metadata.get("error_code") if seen else None
        if seen and code:
            plain = str(code.value) if _CODE.fullmatch(str(code.value)) else "unknown"
            committed = seen.metadata["committed_at"].value if "committed_at" in seen.metadata else None
            at = committed if isinstance(committed, float) else record.timestamp
            found.append(FailedStudy(record.storage_id, seen.partition or "", (seen.tags or {}).get(JOB_TAG, ""), plain, at))
    return tuple(found), read_to


def late_schedules(context: SensorEvaluationContext, now: float) -> tuple[MissedSchedule, ...]:
    """Schedules of this project that are on, were due ``LATE_SECONDS`` ago or longer, and have not run since."""
    repository = context.repository_def
    zones = {each.name: each.execution_timezone for each in repository.schedule_defs} if repository else {}
    states = context.instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE, instigator_statuses=_ON)
    found = []
    for state in states:
        if state.instigator_name in zones:
            due = _last_due(state, zones[state.instigator_name], now)
            if due and not _ran_since(context.instance, state, due):
                found.append(MissedSchedule(state.instigator_name, due))
    return tuple(sorted(found, key=lambda each: each.name))


def _last_due(state: InstigatorState, zone: str | None, now: float) -> float:
    """When it should have run last, 0 where that was before it was turned on."""
    data = state.instigator_data
    if not isinstance(data, ScheduleInstigatorData):
        return 0.0
    crons = [data.cron_schedule] if isinstance(data.cron_schedule, str) else data.cron_schedule
    until = datetime.fromtimestamp(now - LATE_SECONDS, UTC)
    due = max((get_latest_completed_cron_tick(cron, until, zone or "UTC").timestamp() for cron in crons), default=0.0)
    return due if due > (data.start_timestamp or now) else 0.0


def _ran_since(instance: DagsterInstance, state: InstigatorState, due: float) -> bool:
    return bool(instance.get_ticks(state.instigator_origin_id, state.selector_id, after=due - 1, limit=1, statuses=_RAN))


def _alarms(settings: Settings, clients: Clients) -> tuple[RaisedAlarm, ...]:
    raised = Alarms(clients.cloudwatch, settings.names).raised()
    return tuple(RaisedAlarm(each.name.removeprefix(settings.names.alarms), each.says, each.since) for each in raised)


def _budget(settings: Settings, clients: Clients, month: str) -> SpentBudget | None:
    found = spent_of(clients.budgets, clients.account(), stack_name(settings.deployment))
    return SpentBudget(month, *found) if found else None


def _asked(ask: Callable[[], T], what: str, warn: Warn) -> T | None:
    """AWS's answer; None with a warning where there is none: the rest is told all the same."""
    try:
        return ask()
    except (NamedError, ClientError, BotoCoreError) as error:
        warn(f"AWS did not say how {what} stand: {error}")
        return None
