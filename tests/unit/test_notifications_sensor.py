"""The sensor ``notifications`` on a real Dagster instance: what it finds there is really sent, once, and names nobody."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from dagster import DagsterInstance, DagsterRunStatus, SensorResult, build_sensor_context, job, op
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.error import SerializableErrorInfo
from moto import mock_aws

from monai_aws_pipeline.cloud.alarms import Alarms, wanted
from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.notifications import LATE_SECONDS, notifications
from monai_aws_pipeline.operations.notifications import LOOKED_AT, WINDOW_SECONDS, Told
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import Names
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, event_of
from tests.unit.operations.test_notifications import TOKEN, webhook
from tests.unit.studies.records import refused, study_of, succeeded
from tests.unit.studies.test_recorded import in_its_transaction

SWEEP = "scheduled_orphan_sweep"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with mock_aws():
        boto3.setup_default_session(region_name="us-east-1")
        yield
        boto3.DEFAULT_SESSION = None


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path), overrides={"telemetry": {"enabled": False}}) as instance:
        yield instance  # an ephemeral one keeps no ticks of schedules


class Mailbox:
    """A topic with a queue that is subscribed to it, so that what is published is really delivered somewhere."""

    def __init__(self) -> None:
        self.sqs, sns = boto3.client("sqs"), boto3.client("sns")
        self.topic = sns.create_topic(Name="monai-aws-dev-alarms")["TopicArn"]
        self.queue = self.sqs.create_queue(QueueName="mailbox")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)

    def take(self) -> list[dict[str, Any]]:
        found = self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10, VisibilityTimeout=600).get("Messages", [])
        return [json.loads(each["Body"]) for each in found]


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


class Ticks:
    """The sensor as the daemon ticks it, with the cursor it keeps; a tick that dies keeps none."""

    def __init__(self, instance: DagsterInstance, **settings: Any) -> None:
        self.instance, self.settings, self.cursor = instance, settings, None
        self.repository = build_defs().get_repository_def()

    def tick(self, keep: bool = True) -> str:
        context = build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.repository,
            resources={"settings": SettingsResource(overrides=self.settings), "cloud": CloudResource(region="us-east-1")},
        )
        found = notifications(context)
        assert isinstance(found, SensorResult)
        self.cursor = found.cursor if keep else self.cursor
        return str(found.skip_reason.skip_message if found.skip_reason else "")

    def later(self) -> None:
        """As if the window had passed since the last message."""
        told = Told.parse(self.cursor)
        assert told
        self.cursor = Told(**{**told.__dict__, "at": {kind: when - WINDOW_SECONDS for kind, when in told.at.items()}}).to_text()


@op
def map_image() -> None:
    raise RuntimeError("no file for Doe^Jane, 1970-01-01")


@job
def build_map() -> None:
    map_image()


def fail_a_study(instance: DagsterInstance, number: int, code: str = "map_failed", known: bool = True, at: datetime | None = None) -> None:
    record = refused(number, at or datetime.now(UTC), study_of(number) if known else "")
    object.__setattr__(record.error, "code", code)
    object.__setattr__(record.error, "message", "The application said: cannot read Doe^Jane")
    instance.report_runless_asset_event(event_of(StoredResult(record, ()), Addresses("studies"), {}))


def test_without_the_setting_nobody_is_told_and_the_tick_says_so(instance: DagsterInstance):
    ticks = Ticks(instance)
    assert "MONAI_AWS_NOTIFY is empty" in ticks.tick()
    assert ticks.cursor == ""


def test_failures_of_before_are_history_and_those_after_it_are_mailed_without_a_name(instance: DagsterInstance, mailbox: Mailbox):
    fail_a_study(instance, 1)
    ticks = Ticks(instance, notify="sns", alarm_topic_arn=mailbox.topic, ui_address="https://dagster.example.org/")
    assert ticks.tick() == "Nothing to tell."
    assert build_map.execute_in_process(instance=instance, raise_on_error=False).success is False
    for number in range(2, 10):
        fail_a_study(instance, number, "map_failed" if number % 2 else "no_matching_series", known=number != 2)
    instance.report_runless_asset_event(event_of(StoredResult(succeeded(20), ()), Addresses("studies"), {}))
    assert ticks.tick() == "Told: run, studies."
    mails = {mail["Subject"]: mail["Message"] for mail in mailbox.take()}
    assert set(mails) == {"monai-aws dev: build_map failed", "monai-aws dev: 8 studies have no answer"}
    (run,) = instance.get_run_records(limit=1)
    built, studies = mails["monai-aws dev: build_map failed"], mails["monai-aws dev: 8 studies have no answer"]
    assert f"build_map failed in map_image: https://dagster.example.org/runs/{run.dagster_run.run_id}" in built
    assert "no_matching_series 4, map_failed 4" in studies
    assert f"https://dagster.example.org/assets/inference_result?view=events&partition={study_of(3)}" in studies
    assert "an upload whose study is not known, job " in studies
    assert "and 3 more" in studies
    assert not [text for text in mails.values() if "Doe" in text or "1970" in text]
    ticks.later()
    assert ticks.tick() == "Nothing to tell."
    assert mailbox.take() == []


def test_failures_of_months_ago_that_a_new_dagster_records_after_the_first_look_are_told_to_nobody(
    instance: DagsterInstance, mailbox: Mailbox
):
    ticks = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    ticks.tick()
    for number in range(3):
        fail_a_study(instance, number, at=datetime.now(UTC) - timedelta(days=90))
    assert ticks.tick() == "Nothing to tell."
    fail_a_study(instance, 9)
    assert ticks.tick() == "Told: studies."
    (mail,) = mailbox.take()
    assert mail["Subject"] == "monai-aws dev: 1 study has no answer"


def test_a_failure_that_appears_after_a_later_one_is_told_too(instance: DagsterInstance, mailbox: Mailbox):
    fail_a_study(instance, 1)  # so that something is there before the number that is missing
    ticks = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    ticks.tick()
    fail_a_study(instance, 2)
    fail_a_study(instance, 3)
    with in_its_transaction(instance, -2):
        assert ticks.tick() == "Nothing to tell."
    assert ticks.tick() == "Told: studies."
    (mail,) = mailbox.take()
    assert mail["Subject"] == "monai-aws dev: 2 studies have no answer"


def test_a_tick_that_dies_after_sending_says_the_same_again_under_the_same_number(instance: DagsterInstance, mailbox: Mailbox):
    ticks = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    ticks.tick()
    fail_a_study(instance, 1)
    ticks.tick(keep=False)
    ticks.tick()
    first, second = mailbox.take()
    assert first["Message"] == second["Message"]


def test_a_webhook_that_does_not_answer_is_said_and_gets_it_at_the_next_tick(instance: DagsterInstance, capfd: pytest.CaptureFixture[str]):
    secrets = boto3.client("secretsmanager")
    with webhook(status=503) as (url, refused_by):
        secrets.create_secret(Name="monai-aws/dev/notify", SecretString=url)
        ticks = Ticks(instance, notify="monai-aws/dev/notify", alarm_topic_arn="arn:aws:sns:us-east-1:123456789012:x")
        ticks.tick()
        fail_a_study(instance, 1)
        assert ticks.tick() == "Nothing was delivered; see the tick's log."
        assert len(refused_by) == 1
    said = capfd.readouterr().err
    assert "1 messages were not delivered and are tried again at the next tick. The webhook answered 503." in said
    with webhook() as (url, taken):
        secrets.put_secret_value(SecretId="monai-aws/dev/notify", SecretString=url)
        assert ticks.tick() == "Told: studies."
    ((_, body),) = taken
    assert body["text"].startswith("*monai-aws dev: 1 study has no answer*\n")
    assert TOKEN not in said + ticks.cursor


def test_a_secret_that_is_not_there_is_said_and_nothing_is_lost(instance: DagsterInstance, capfd: pytest.CaptureFixture[str]):
    ticks = Ticks(instance, notify="monai-aws/dev/notify", alarm_topic_arn="arn:aws:sns:us-east-1:123456789012:x")
    ticks.tick()
    fail_a_study(instance, 1)
    before = ticks.cursor
    ticks.tick()
    assert "There is no secret monai-aws/dev/notify" in capfd.readouterr().err
    assert Told.parse(ticks.cursor).studies_after == Told.parse(before).studies_after  # type: ignore[union-attr]


def test_a_run_that_answers_studies_alone_is_told_by_its_study(instance: DagsterInstance, mailbox: Mailbox):
    ticks = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    ticks.tick()
    of_a_study = DagsterRun("__ASSET_JOB", status=DagsterRunStatus.STARTED, asset_selection=frozenset({INFERENCE_RESULT}))
    instance.add_run(of_a_study)
    instance.report_run_failed(of_a_study)
    assert ticks.tick() == "Nothing to tell."


def test_more_observations_than_one_look_reads_hide_no_failure(
    instance: DagsterInstance, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("monai_aws_pipeline.notifications.LOOKED_AT", 3)
    ticks = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    ticks.tick()
    for number in range(7):  # of another kind, as those of results that have expired
        instance.report_runless_asset_event(_expired(number))
    fail_a_study(instance, 9)
    assert [ticks.tick() for _ in range(3)] == ["Nothing to tell.", "Nothing to tell.", "Told: studies."]
    assert LOOKED_AT > 3


def _expired(number: int) -> Any:
    from monai_aws_pipeline.contract import IndexEntry
    from monai_aws_pipeline.studies.lineage import expired_event

    return expired_event(IndexEntry.of(refused(number, study=study_of(number))))


# ------------------------------------------------------------------------------------------------------------------------- alarms


def test_alarms_are_told_where_they_have_no_topic_of_their_own_and_only_there(instance: DagsterInstance, mailbox: Mailbox):
    cloudwatch, names = boto3.client("cloudwatch"), Names("dev")
    Alarms(cloudwatch, names).ensure(wanted(names, 60, 5, 24), "", {})
    cloudwatch.set_alarm_state(AlarmName=names.jobs_dead_letters, StateValue="ALARM", StateReason="a test")
    with_topic = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    assert with_topic.tick() == "Nothing to tell.", "CloudWatch tells it"
    ticks = Ticks(instance, notify=mailbox.topic)
    assert ticks.tick() == "Told: alarm."
    (mail,) = mailbox.take()
    assert mail["Subject"] == "monai-aws dev: alarm jobs-dead-letters"
    assert "monai-aws replay --all" in mail["Message"]
    ticks.later()
    assert ticks.tick() == "Nothing to tell."


def test_an_account_that_does_not_let_its_alarms_be_seen_keeps_the_rest_from_nobody(
    instance: DagsterInstance, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    ticks = Ticks(instance, notify=mailbox.topic)
    ticks.tick()
    fail_a_study(instance, 1)
    monkeypatch.setattr(Alarms, "raised", _denied)
    assert ticks.tick() == "Told: studies."
    assert "AWS did not say how the alarms stand" in capfd.readouterr().err


def _denied(_: Alarms) -> Any:
    from botocore.exceptions import ClientError

    raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeAlarms")


# ---------------------------------------------------------------------------------------------------------------------- schedules


def schedule_is_on(instance: DagsterInstance, since: datetime, status: InstigatorStatus = InstigatorStatus.RUNNING) -> InstigatorState:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="definitions.py"), location_name="here")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), SWEEP)
    data = ScheduleInstigatorData("17 * * * *", since.timestamp())
    state = InstigatorState(origin, InstigatorType.SCHEDULE, status, data)
    instance.add_instigator_state(state)
    return state


def ran(instance: DagsterInstance, state: InstigatorState, at: datetime, status: TickStatus = TickStatus.SUCCESS) -> None:
    instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id,
            instigator_name=SWEEP,
            instigator_type=InstigatorType.SCHEDULE,
            status=status,
            timestamp=at.timestamp(),
            selector_id=state.selector_id,
            run_ids=[uuid.uuid4().hex] if status is TickStatus.SUCCESS else None,
            error=SerializableErrorInfo("a test", [], None) if status is TickStatus.FAILURE else None,
            skip_reason="nothing to do" if status is TickStatus.SKIPPED else None,
        )
    )


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """When the sweep was due last, as far as it counts by now; and it stays now, so that none becomes due meanwhile."""
    now = datetime.now(UTC)

    class Still(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return now

    monkeypatch.setattr("monai_aws_pipeline.notifications.datetime", Still)
    counts = now - timedelta(seconds=LATE_SECONDS)
    last = counts.replace(minute=17, second=0, microsecond=0)
    return last if last <= counts else last - timedelta(hours=1)


@pytest.mark.parametrize("status", [InstigatorStatus.RUNNING, InstigatorStatus.DECLARED_IN_CODE])
def test_a_schedule_that_is_on_and_did_not_run_is_told_once(
    instance: DagsterInstance, mailbox: Mailbox, due: datetime, status: InstigatorStatus
):
    state = schedule_is_on(instance, due - timedelta(days=1), status)
    ran(instance, state, due - timedelta(hours=1))
    ran(instance, state, due, TickStatus.FAILURE)
    ticks = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    assert [ticks.tick(), ticks.tick(), ticks.tick()] == ["Nothing to tell.", "Told: schedule.", "Nothing to tell."]
    (mail,) = mailbox.take()
    assert mail["Subject"] == f"monai-aws dev: {SWEEP} did not run"


@pytest.mark.parametrize("status", [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.STARTED])
def test_a_schedule_that_ran_is_not_told(instance: DagsterInstance, mailbox: Mailbox, due: datetime, status: TickStatus):
    ran(instance, schedule_is_on(instance, due - timedelta(days=1)), due, status)
    ticks = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    assert [ticks.tick(), ticks.tick()] == ["Nothing to tell."] * 2


def test_a_schedule_that_is_off_or_was_turned_on_after_its_time_is_not_told(instance: DagsterInstance, mailbox: Mailbox, due: datetime):
    state = schedule_is_on(instance, due - timedelta(days=1), InstigatorStatus.STOPPED)
    ticks = Ticks(instance, notify=mailbox.topic, alarm_topic_arn=mailbox.topic)
    assert [ticks.tick(), ticks.tick()] == ["Nothing to tell."] * 2
    on = state.with_status(InstigatorStatus.RUNNING)
    instance.update_instigator_state(on.with_data(ScheduleInstigatorData("17 * * * *", due.timestamp() + 1)))
    assert [ticks.tick(), ticks.tick()] == ["Nothing to tell."] * 2
