"""What the sensor study_checks shows of recorded results: all of it, once, wherever a tick dies, and what is answered turns green."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterEvent,
    DagsterInstance,
    DefaultSensorStatus,
    Definitions,
    MaterializeResult,
    TableMetadataValue,
    asset,
    build_sensor_context,
    materialize,
    validate_run_config,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import DagsterEventType
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster_aws.s3 import S3Resource
from sqlalchemy.exc import IntegrityError

from monai_aws_pipeline.contract import (
    Cost,
    ExpectedVolume,
    IndexEntry,
    MapFacts,
    ResultError,
    ResultRecord,
    SegmentVolume,
    Status,
    short_digest,
)
from monai_aws_pipeline.deployment.live_map import live_tags
from monai_aws_pipeline.host_agent.errors import REMEDIES, Code
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.operations.unanswered import row_of
from monai_aws_pipeline.portal.addresses import Addresses, study_path
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies import checks_sensor
from monai_aws_pipeline.studies.checks import result_checks
from monai_aws_pipeline.studies.checks_sensor import Tally, study_checks_sensor
from monai_aws_pipeline.studies.failures import MAX_BYTES, MAX_ROWS, UNANSWERED_STUDIES, table_metadata, unanswered_studies
from monai_aws_pipeline.studies.launchpad import LOCATION
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, STUDIES, event_of, expired_event
from monai_aws_pipeline.studies.recorded import MAX_CHARACTERS, results_after
from monai_aws_pipeline.studies.rerun_job import rerun_studies
from monai_aws_pipeline.studies.result_checks import StudyLimits, judge
from monai_aws_pipeline.studies.studies_by_map import NAMED_MAPS, NAMED_STUDIES, STUDIES_BY_MAP, studies_by_map
from tests.unit.studies.records import DIGEST, OTHER_DIGEST, Bucket, job_of, refused, study_of, succeeded

SENSOR = study_checks_sensor(30)
ALL_CHECKS = {"answered", "outputs_valid", "geometry_on_source", "mesh_agrees", "plausible_volume", "within_time_and_cost", "by_live_map"}


class TickDiedError(Exception):
    pass


class Desk:
    """An instance with recorded results, and what Dagster's daemon does with the sensor's result, in its order: events, then cursor."""

    def __init__(self, instance: DagsterInstance):
        self.instance, self.cursor = instance, None

    def record(self, *records: ResultRecord) -> None:
        for record in records:
            self.instance.report_runless_asset_event(event_of(StoredResult(record, ()), Addresses("studies"), {}))

    def go_live(self, digest: str) -> None:
        self.instance.report_runless_asset_event(AssetMaterialization("live_map", tags=live_tags(digest)))

    def tick(self, die_after: int | None = None) -> list[Any]:
        settings = SettingsResource(overrides={"bucket": "studies"})
        data = SENSOR.evaluate_tick(build_sensor_context(instance=self.instance, cursor=self.cursor, resources={"settings": settings}))
        for number, event in enumerate(data.asset_events):
            if number == die_after:
                raise TickDiedError
            self.instance.report_runless_asset_event(event)
        if die_after is not None:
            raise TickDiedError
        self.cursor = data.cursor
        return list(data.asset_events)

    def history(self, check: str) -> list[AssetCheckExecutionRecord]:
        key = AssetCheckKey(INFERENCE_RESULT, check)
        return list(self.instance.event_log_storage.get_asset_check_execution_history(key, limit=100))

    def on_the_node(self) -> set[str]:
        """The checks that the graph shows as evaluated, by Dagster's own rule."""
        context = LoadingContextForTest(self.instance)
        return {check for check in ALL_CHECKS if asyncio.run(self.history(check)[0].targets_latest_materialization(context))}

    def run_of(self, study: str) -> None:
        """A run that materialises one study, without its checks."""

        @asset(key=INFERENCE_RESULT, partitions_def=STUDIES)
        def answers() -> MaterializeResult[None]:
            (event,) = [event_of(StoredResult(succeeded(1, ago(0), job=job_of(90)), ()), Addresses("studies"), {})]
            return MaterializeResult(metadata=event.metadata, tags=event.tags)

        self.instance.add_dynamic_partitions("study", [study])
        assert materialize([answers], instance=self.instance, partition_key=study).success

    def shown(self, check: str) -> AssetCheckEvaluation:
        evaluation = self.history(check)[0].evaluation
        assert evaluation
        return evaluation

    def tables(self, key: AssetKey) -> list[dict[str, Any]]:
        """What each materialization of a table shows, the latest first."""
        records = self.instance.fetch_materializations(key, limit=100).records
        return [
            {
                name: [row.data for row in value.records] if hasattr(value, "records") else value.value
                for name, value in record.asset_materialization.metadata.items()
            }
            for record in records
            if record.asset_materialization
        ]

    def unanswered(self) -> list[dict[str, Any]]:
        """Its rows, each with the job and the addresses that its links have."""
        table = self.tables(UNANSWERED_STUDIES)[0]
        links = [re.findall(r"\(([^)]+)\)", line) for line in table.get("jobs", "").splitlines()[2:]]
        jobs = [addresses[-1].rstrip("/").rpartition("/")[2] for addresses in links]
        return [{**row, "job": job, "links": opens} for row, job, opens in zip(table["studies"], jobs, links, strict=True)]


@pytest.fixture
def desk(instance: DagsterInstance) -> Iterator[Desk]:
    desk = Desk(instance)
    desk.go_live(DIGEST)
    yield desk


def counted_row(digest: str, studies: int, *, live: bool) -> dict[str, Any]:
    return {"map": digest, "version": "1.0.0", "studies": studies, "live": live}


def named(table: dict[str, Any]) -> list[tuple[str, str]]:
    """The stale studies that a table names, with the MAP that answered each."""
    return [(row["study"], row["map"]) for row in table["newest_of_them"]]


def config_behind(words: str, markdown: str) -> dict[str, Any]:
    """The config that a link opens the job rerun_studies with, read as Dagster reads it."""
    (address,) = (found[2] for found in re.finditer(r"\[([^]]+)\]\(([^)]+)\)", markdown) if found[1] == words)
    assert urlsplit(address).path == f"/locations/{LOCATION}/jobs/rerun_studies/playground/setup"
    (text,) = parse_qs(urlsplit(address).query)["config"]
    config = yaml.safe_load(text)
    assert validate_run_config(rerun_studies, config)
    given: dict[str, Any] = config["ops"]["answer_studies_again"]["config"]
    return given


def ago(minutes: float = 1) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def later(**by: float) -> type[datetime]:
    """A clock that is ahead."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(**by)

    return Later


def failed(number: int, minutes: float = 1, code: Code = Code.MAP_FAILED, study: int | None = None) -> ResultRecord:
    error = ResultError(code.value, f"The application ended with exit code 1. {REMEDIES[code]}", "RuntimeError: no volume")
    record = refused(number, ago(minutes), study_of(number if study is None else study), Status.FAILED)
    return replace(record, error=error, map=MapFacts(f"repository@{DIGEST}", DIGEST, "1.0.0"))


def test_the_sensor_runs_without_anyone_switching_it_on():
    assert SENSOR.default_status is DefaultSensorStatus.RUNNING


def test_a_failed_study_is_red_with_its_reason_and_stands_in_the_table(desk: Desk):
    desk.record(succeeded(1, ago(3)), failed(2), succeeded(3, ago(1)))
    desk.tick()
    shown = desk.shown("answered")
    assert (shown.passed, shown.severity) == (False, AssetCheckSeverity.ERROR)
    assert shown.description == "1 of 3 results of the last 24 hours: failed: map_failed"
    assert [row.data["study"] for row in shown.metadata["studies"].records] == [study_of(2)]
    (row,) = desk.unanswered()
    assert (row["study"], row["job"], row["code"]) == (study_of(2), job_of(2), "map_failed")
    assert row["why"] == "The application ended with exit code 1. It said last: RuntimeError: no volume"
    assert row["what_to_do"] == REMEDIES[Code.MAP_FAILED]
    assert row["map"] == "1.0.0 dddddddddddd"
    assert row["links"] == [study_path(study_of(2)), f"http://127.0.0.1:3070/studies/{study_of(2)}/{job_of(2)}/"]
    table = desk.tables(UNANSWERED_STUDIES)[0]
    assert table["last_24_hours"] == 1
    assert f"[{study_of(2)}](/assets/inference_result?view=events&partition={study_of(2)})" in table["newest"]
    config = config_behind("all with map_failed", table["once_mended"])
    assert config == {"which": {"failed": {"since": f"{ago():%Y-%m-%d}", "code": "map_failed"}}, "dry_run": False}


def test_of_uploads_without_a_study_none_can_be_asked_again_and_of_many_codes_the_links_stay_open(desk: Desk):
    desk.record(refused(1, ago(1)))
    desk.tick()
    assert {"once_mended", "newest"}.isdisjoint(desk.tables(UNANSWERED_STUDIES)[0])
    desk.record(*(failed(number, 1, code) for number, code in enumerate(Code, 10)))
    desk.tick()
    assert all(len(desk.tables(UNANSWERED_STUDIES)[0][key]) <= MAX_CHARACTERS for key in ("once_mended", "newest"))


def test_the_graphs_node_shows_every_check_after_whatever_was_recorded_last(desk: Desk):
    desk.record(succeeded(1, ago(3)), succeeded(2, ago(2)), failed(3))
    desk.tick()
    assert desk.on_the_node() == ALL_CHECKS
    desk.record(succeeded(4, ago(1)))
    assert desk.on_the_node() == ALL_CHECKS, "what a sensor records hides none"
    desk.run_of(study_of(1))
    assert desk.on_the_node() == set(), "Dagster hides them behind what a run has made"
    desk.tick()
    assert desk.on_the_node() == ALL_CHECKS
    assert not desk.shown("answered").passed


def test_counts_alone_wait_so_that_a_study_a_minute_does_not_fill_the_log_with_evaluations(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    desk.record(failed(1), succeeded(2, ago(2)))
    desk.tick()
    desk.record(succeeded(3, ago(1)))
    assert [each for each in desk.tick() if isinstance(each, AssetCheckEvaluation)] == []
    monkeypatch.setattr(checks_sensor, "datetime", later(minutes=11))
    desk.tick()
    assert desk.shown("answered").description == "1 of 3 results of the last 24 hours: failed: map_failed"
    assert {len(desk.history(check)) for check in ALL_CHECKS} == {2}
    monkeypatch.setattr(checks_sensor, "datetime", later(minutes=12))
    assert desk.tick() == []


def test_a_failure_that_any_job_answers_later_turns_green_and_leaves_the_table(desk: Desk):
    desk.record(failed(1, 5), succeeded(7, ago(4)))
    desk.tick()
    desk.record(succeeded(1, ago(2), job=job_of(50)))
    desk.tick()
    assert desk.shown("answered").passed
    assert desk.unanswered() == []
    assert [table["last_24_hours"] for table in desk.tables(UNANSWERED_STUDIES)] == [0, 1]


def test_an_upload_whose_study_is_unknown_has_its_place(desk: Desk):
    desk.record(refused(1, ago(5)), failed(2, 3))
    desk.tick()
    assert [(row["study"], row["job"]) for row in desk.unanswered()] == [(study_of(2), job_of(2)), ("unknown", job_of(1))]
    assert desk.unanswered()[1]["map"] == "none yet"
    assert desk.unanswered()[1]["links"] == [f"http://127.0.0.1:3070/jobs/{job_of(1)}/"]


@pytest.mark.parametrize("console", ["https://console.example.org", ""])
def test_where_no_pages_are_served_each_row_says_where_record_and_original_lie(console: str):
    where = Addresses("studies", "us-east-1", "", console)
    folder = f"quarantine/{job_of(1)}/{study_of(1)}/"
    place = f"s3://studies/{folder}result.json"
    said = str(table_metadata([row_of(failed(1))], where, ago(0))["jobs"].value)
    assert said.endswith(f"| [{place}]({where.in_console(folder)}) |" if console else f"| {place} |")


def test_the_table_is_bounded_in_rows_and_bytes_and_its_counts_are_not(desk: Desk):
    long = replace(failed(0).error or ResultError("", ""), last_line="ö" * 5000)
    desk.record(*(replace(failed(number, number), error=long) for number in range(1, 70)), failed(80, 90, Code.NO_OUTPUT))
    desk.tick()
    (table,) = desk.tables(UNANSWERED_STUDIES)
    rows = table["studies"]
    assert 10 < len(rows) <= MAX_ROWS
    assert sum(len(str(value).encode()) for row in rows for value in row.values()) + len(table["jobs"]) <= MAX_BYTES
    assert [row["study"] for row in rows] == re.findall(r"\[(\w+)\]\(/assets", table["jobs"])
    assert [row["study"] for row in rows[:2]] == [study_of(1), study_of(2)], "the newest"
    assert table["not_shown"] == 70 - len(rows)
    assert table["by_code"] == [{"code": "map_failed", "studies": 69}, {"code": "no_output", "studies": 1}]


def test_an_expired_result_and_an_observation_by_hand_are_no_results_and_stop_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks_sensor, "BATCH", 2)
    for number in range(4):
        desk.instance.report_runless_asset_event(expired_event(IndexEntry.of(failed(number))))
        desk.instance.report_runless_asset_event(AssetObservation(INFERENCE_RESULT, metadata={"note": "looked at"}))
    desk.record(failed(9))
    for _ in range(6):
        desk.tick()
    assert [row["study"] for row in desk.unanswered()] == [study_of(9)]
    assert desk.shown("answered").description == "1 of 1 results of the last 24 hours: failed: map_failed"


def test_a_verdict_is_read_back_as_it_was_judged_and_no_label_of_an_application_is_markup(desk: Desk):
    hostile = "Brain | passed |\n| answered | failed | ![x](http://x) <b>`*_ 12.5 ml" + "x" * 500
    record = replace(succeeded(1, ago(1)), outputs=())
    found = StoredResult(record, (SegmentVolume(hostile, 5.0),), (ExpectedVolume(hostile, 600),))
    event = event_of(found, Addresses("studies"), {}, StudyLimits(1))
    desk.instance.report_runless_asset_event(event)
    shown = event.metadata["checks"].value
    assert isinstance(shown, str)
    assert len(shown) <= MAX_CHARACTERS
    assert not set("![]<>`*") & set(shown)
    ((result,), _, _) = vars(results_after(desk.instance, 0, 10)).values()
    judged = judge(record, found.measurements, found.expected, StudyLimits(1))
    assert [(verdict.check, verdict.outcome) for verdict in result.verdicts] == [(verdict.check, verdict.outcome) for verdict in judged]


# --------------------------------------------------------------------------------------------------------------------------- once only


def fingerprint(desk: Desk) -> tuple[Any, ...]:
    """All that anybody sees of checks and tables, in order."""
    said = [
        (check, [(each.evaluation.passed, each.evaluation.description) for each in desk.history(check) if each.evaluation])
        for check in sorted(ALL_CHECKS)
    ]
    return (said, desk.tables(UNANSWERED_STUDIES), desk.tables(STUDIES_BY_MAP))


def days_work(desk: Desk) -> None:
    desk.record(succeeded(1, ago(9)), failed(2, 8), refused(3, ago(7)), succeeded(4, ago(6), OTHER_DIGEST))


@pytest.mark.parametrize("moment", range(10))
def test_a_tick_that_dies_at_any_point_shows_everything_once(desk: Desk, moment: int):
    days_work(desk)
    with pytest.raises(TickDiedError):
        desk.tick(die_after=moment)
    desk.tick()
    assert desk.tick() == []
    for check in ALL_CHECKS:
        assert len(desk.history(check)) == 1, check
    assert len(desk.tables(UNANSWERED_STUDIES)) == len(desk.tables(STUDIES_BY_MAP)) == 1
    whole = fingerprint(desk)
    with DagsterInstance.ephemeral() as other:
        undisturbed = Desk(other)
        undisturbed.go_live(DIGEST)
        days_work(undisturbed)
        undisturbed.tick()
        assert _without_times(fingerprint(undisturbed)) == _without_times(whole)


def _without_times(value: Any) -> Any:
    """Times of two runs of a test differ by the seconds between them."""
    if isinstance(value, dict):
        return {name: _without_times(each) for name, each in value.items() if name != "time"}
    return [_without_times(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("moment", range(10))
def test_a_tick_that_dies_before_further_results_come_counts_each_of_them_once(desk: Desk, moment: int):
    days_work(desk)
    with pytest.raises(TickDiedError):
        desk.tick(die_after=moment)
    desk.record(succeeded(2, ago(1), job=job_of(60)), failed(5, 1))
    desk.tick()
    assert desk.shown("answered").description == "2 of 6 results of the last 24 hours: failed: map_failed, and 1 more"
    assert desk.tables(STUDIES_BY_MAP)[0]["studies"] == 3
    assert {row["study"] for row in desk.unanswered()} == {"unknown", study_of(5)}


@pytest.mark.parametrize("cursor", [None, "{", '{"version": 99}', '{"version": 1, "windows": 7}'])
def test_a_lost_or_damaged_cursor_counts_from_the_beginning_and_shows_nothing_twice(desk: Desk, cursor: str | None):
    days_work(desk)
    desk.tick()
    desk.cursor = cursor
    assert desk.tick() == []


def test_a_quiet_tick_reads_two_pages_and_shows_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    days_work(desk)
    desk.tick()
    for name in ("standing_failures", "last_materialization", "not_shown_yet"):
        monkeypatch.setattr(checks_sensor, name, _must_not_be_asked)
    assert desk.tick() == []


def _must_not_be_asked(*_: Any) -> Any:
    raise AssertionError("nothing is new")


def test_many_results_are_judged_over_several_ticks_each_once(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks_sensor, "BATCH", 7)
    desk.record(*(failed(number) if number % 3 == 0 else succeeded(number, ago(2)) for number in range(40)))
    for _ in range(12):
        desk.tick()
    assert desk.shown("answered").description == "14 of 40 results of the last 24 hours: failed: map_failed, and 13 more"
    assert desk.tables(STUDIES_BY_MAP)[0]["studies"] == 26
    assert "counting" not in desk.tables(STUDIES_BY_MAP)[0]
    assert "counting" in desk.tables(STUDIES_BY_MAP)[-1]


def test_what_left_the_last_day_leaves_the_node_without_any_news(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    desk.record(failed(1), succeeded(2, ago(1)))
    desk.tick()

    monkeypatch.setattr(checks_sensor, "datetime", later(hours=25))
    desk.tick()
    assert desk.shown("answered").passed
    assert desk.tables(UNANSWERED_STUDIES)[0]["last_24_hours"] == 0
    assert len(desk.unanswered()) == 1, "it still has no answer"


def test_the_cursor_stays_small_when_everything_fails(desk: Desk):
    desk.record(*(failed(number, number / 100) for number in range(400)))
    desk.tick()
    assert desk.cursor
    assert len(desk.cursor) < 20_000
    assert Tally.parse(desk.cursor).to_text() == desk.cursor


# ------------------------------------------------------------------------------------------------------------------------ stale in bulk


def test_studies_are_counted_by_map_and_follow_a_promotion_and_a_rollback(desk: Desk):
    desk.record(succeeded(1, ago(9)), succeeded(2, ago(8)), succeeded(3, ago(7), OTHER_DIGEST), failed(4))
    desk.tick()
    (table,) = desk.tables(STUDIES_BY_MAP)
    assert table["by_map"] == [counted_row(DIGEST, 2, live=True), counted_row(OTHER_DIGEST, 1, live=False)]
    assert table["not_by_the_live_map"] == 1
    assert named(table) == [(study_of(3), short_digest(OTHER_DIGEST))]
    desk.go_live(OTHER_DIGEST)
    desk.tick()
    table = desk.tables(STUDIES_BY_MAP)[0]
    assert table["not_by_the_live_map"] == 2
    assert named(table) == [(study_of(2), short_digest(DIGEST)), (study_of(1), short_digest(DIGEST))]
    assert not desk.shown("by_live_map").passed
    assert desk.shown("by_live_map").severity is AssetCheckSeverity.WARN
    desk.go_live(DIGEST)
    desk.tick()
    assert desk.tables(STUDIES_BY_MAP)[0]["not_by_the_live_map"] == 1


def test_a_study_that_is_answered_again_moves_to_the_map_that_answered_it(desk: Desk):
    desk.record(succeeded(1, ago(9)), succeeded(2, ago(8)))
    desk.tick()
    desk.go_live(OTHER_DIGEST)
    desk.record(succeeded(1, ago(1), OTHER_DIGEST, job=job_of(70)), succeeded(1, ago(0), OTHER_DIGEST, job=job_of(71)))
    desk.tick()
    table = desk.tables(STUDIES_BY_MAP)[0]
    assert table["by_map"] == [counted_row(OTHER_DIGEST, 1, live=True), counted_row(DIGEST, 1, live=False)]
    assert named(table) == [(study_of(2), short_digest(DIGEST))]
    assert desk.shown("by_live_map").description == ("1 of 2 answers of the last 24 hours are by a MAP that is not live: 1 by dddddddddddd")


def test_of_many_maps_those_that_answered_last_are_named_and_the_cursor_stays_small(desk: Desk):
    digests = [f"sha256:{number:x}{63 * '0'}" for number in range(NAMED_MAPS + 3)]
    for place, digest in enumerate(digests):
        desk.record(*(succeeded(place * 100 + number, ago(9), digest) for number in range(NAMED_STUDIES + 5)))
    desk.tick()
    table = desk.tables(STUDIES_BY_MAP)[0]
    assert table["not_by_the_live_map"] == len(digests) * (NAMED_STUDIES + 5)
    newest = [
        (study_of(place * 100 + number), short_digest(digest))
        for place, digest in enumerate(digests)
        for number in range(5, NAMED_STUDIES + 5)
    ]
    assert named(table) == newest[::-1][: NAMED_MAPS * NAMED_STUDIES]
    assert desk.cursor
    assert len(json.dumps(json.loads(desk.cursor)["newest"])) < 4096
    desk.go_live(digests[-1])  # the next tick has its names from the cursor, in their order
    desk.tick()
    assert named(desk.tables(STUDIES_BY_MAP)[0]) == newest[::-1][NAMED_STUDIES : NAMED_MAPS * NAMED_STUDIES]


@pytest.mark.parametrize(("words", "dry_run"), [("List all", True), ("have the live MAP answer all again", False)])
def test_the_next_click_is_the_job_with_its_config_written(desk: Desk, words: str, dry_run: bool):
    desk.record(succeeded(1, ago(9), OTHER_DIGEST))
    desk.tick()
    config = config_behind(words, desk.tables(STUDIES_BY_MAP)[0]["what_to_do"])
    assert config == {"which": {"stale": {}}, "dry_run": dry_run}


def test_counted_by_hand_it_is_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monai_aws_pipeline.studies.studies_by_map.BATCH", 2)
    desk.record(*(succeeded(number, ago(9), DIGEST if number % 2 else OTHER_DIGEST) for number in range(7)))
    desk.record(succeeded(0, ago(1), job=job_of(70)))
    desk.tick()
    assert materialize([studies_by_map], instance=desk.instance).success
    by_hand, by_sensor = desk.tables(STUDIES_BY_MAP)
    assert by_hand == by_sensor
    assert desk.tick() == []


# ------------------------------------------------------------------------------------------------------------------------ what it cost


def test_what_a_night_cost_is_summed_and_said_by_the_hour_failures_too(desk: Desk):
    costing = [
        replace(succeeded(1, ago(200)), cost=Cost(0.25)),
        replace(failed(2, 60), cost=Cost(0.5)),
        replace(succeeded(3, ago(1)), cost=Cost(0.125)),
        replace(succeeded(4, ago(60 * 30)), cost=Cost(4)),  # of the night before
    ]
    desk.record(*costing)
    desk.tick()
    shown = desk.shown("within_time_and_cost")
    assert "Together they cost 0.8750 USD." in str(shown.description)
    assert shown.metadata["cost_together_usd"].value == 0.875
    table = shown.metadata["cost_by_hour"]
    assert isinstance(table, TableMetadataValue)
    hours = [(row.data["results"], row.data["USD"]) for row in table.records]
    assert sum(float(str(usd)) for _, usd in hours) == 0.875
    assert sum(int(str(results)) for results, _ in hours) == 3
    assert [row.data["hour (UTC)"] for row in table.records] == sorted((row.data["hour (UTC)"] for row in table.records), key=str)[::-1]
    assert {"cost_together_usd", "cost_by_hour"}.isdisjoint(desk.shown("answered").metadata)


def test_an_answer_that_a_run_records_again_costs_nothing_more(desk: Desk):
    answer = replace(succeeded(1, ago(5)), cost=Cost(0.25))
    desk.record(answer)
    desk.tick()
    desk.record(answer, replace(succeeded(1, ago(1), job=job_of(70)), cost=Cost(0.5)))
    desk.tick()
    assert (
        Definitions(asset_checks=[result_checks]).resolve_implicit_global_asset_job_def().execute_in_process(instance=desk.instance).success
    )
    assert desk.shown("within_time_and_cost").metadata["cost_together_usd"].value == 0.75


# ------------------------------------------------------------------------------------------------------------------------------ by hand


def test_materialised_by_hand_the_table_is_read_from_the_bucket(desk: Desk, bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(S3Resource, "get_client", lambda _: bucket.s3)
    answered_later = bucket.commit(failed(1, 50))
    bucket.commit(succeeded(1, ago(40), job=job_of(41)))
    failed_again = bucket.commit(failed(2, 30))
    bucket.commit(succeeded(2, ago(35), job=job_of(42)))
    unknown = bucket.commit(refused(3, ago(20)))
    torn = bucket.commit(failed(4, 10))
    bucket.put(torn.commit_key, "{")
    bucket.put(f"quarantine/{unknown.job}/error.json", "{}")
    resources = {"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource(overrides={"bucket": bucket.name})}
    assert materialize([unanswered_studies], instance=desk.instance, resources=resources).success
    assert [row["job"] for row in desk.unanswered()] == [unknown.job, failed_again.job]
    desk.record(answered_later, succeeded(1, ago(40), job=job_of(41)), succeeded(2, ago(35), job=job_of(42)), failed_again, unknown)
    assert [each for each in desk.tick() if isinstance(each, AssetMaterialization) and each.asset_key == UNANSWERED_STUDIES] == [], (
        "the event log says the same as the bucket"
    )


def test_by_hand_the_newest_are_read_and_nothing_of_other_days_however_much_quarantine_holds(
    desk: Desk, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(S3Resource, "get_client", lambda _: bucket.s3)
    for number in range(5):
        bucket.commit(failed(number, 60 * number + 5))
    listed: list[str] = []
    bucket.s3.meta.events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_: listed.append(params["Prefix"]))
    monkeypatch.setattr("monai_aws_pipeline.studies.failures.MAX_RESULTS", 3)
    resources = {"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource(overrides={"bucket": bucket.name})}
    assert materialize([unanswered_studies], instance=desk.instance, resources=resources).success
    assert [row["study"] for row in desk.unanswered()] == [study_of(number) for number in range(3)]
    assert desk.tables(UNANSWERED_STUDIES)[0]["last_7_days"] == "at least 3"
    assert {prefix.split("/")[0] for prefix in listed} == {"results-index"}


def test_dagster_keeps_no_second_evaluation_of_a_partition_without_a_run(desk: Desk):
    """Why evaluations are about the last day and not about one study. When this fails, Dagster can do it, and studies can be red alone."""
    evaluation = AssetCheckEvaluation(asset_key=INFERENCE_RESULT, check_name="answered", passed=False, partition=study_of(1))
    desk.instance.report_runless_asset_event(evaluation)
    with pytest.raises(IntegrityError):
        desk.instance.report_runless_asset_event(evaluation)


def test_a_run_of_one_study_leaves_an_evaluation_of_the_whole_day(desk: Desk):
    @asset(key=INFERENCE_RESULT, partitions_def=STUDIES)
    def answers() -> None: ...

    desk.record(failed(1), succeeded(2, ago(1)))
    desk.instance.add_dynamic_partitions("study", [study_of(2)])
    job = Definitions(assets=[answers], asset_checks=[result_checks]).resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=desk.instance, partition_key=study_of(2)).success
    assert not desk.shown("answered").passed
    assert desk.history("answered")[0].partition is None


def test_executed_by_hand_a_check_says_what_the_sensor_says(desk: Desk):
    days_work(desk)
    desk.tick()
    by_sensor = {check: desk.shown(check) for check in ALL_CHECKS}
    definitions = Definitions(asset_checks=[result_checks])
    job = definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=desk.instance).success
    for check, before in by_sensor.items():
        by_hand = desk.shown(check)
        assert len(desk.history(check)) == 2, check
        assert (by_hand.passed, by_hand.description, by_hand.severity) == (before.passed, before.description, before.severity)
        assert by_hand.metadata == before.metadata
    assert desk.tick() == []


def test_one_check_alone_can_be_executed(desk: Desk):
    days_work(desk)
    job = Definitions(asset_checks=[result_checks]).resolve_implicit_global_asset_job_def()
    only = AssetCheckKey(INFERENCE_RESULT, "by_live_map")
    assert job.get_subset(asset_selection=set(), asset_check_selection={only}).execute_in_process(instance=desk.instance).success
    assert [check for check in sorted(ALL_CHECKS) if desk.history(check)] == ["by_live_map"]


def test_a_check_that_a_run_has_planned_and_never_evaluated_is_evaluated_again(desk: Desk):
    days_work(desk)
    desk.tick()
    planned = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        job_name="__ASSET_JOB",
        event_specific_data=AssetCheckEvaluationPlanned(asset_key=INFERENCE_RESULT, check_name="answered"),
    )
    desk.instance.report_dagster_event(planned, run_id="a-run-that-failed-before-its-checks")
    desk.record(failed(9))
    desk.tick()
    assert desk.history("answered")[0].evaluation


def test_the_cursor_of_a_tick_is_json_of_our_version(desk: Desk):
    days_work(desk)
    desk.tick()
    assert desk.cursor
    assert json.loads(desk.cursor)["version"] == 2
