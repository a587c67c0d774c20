"""The move from SQLite to PostgreSQL: the lineage reads the same before and after; what goes wrong leaves both sides as they were."""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DataVersion,
    Definitions,
    DynamicPartitionsDefinition,
    MaterializeResult,
    RunsFilter,
    asset,
    asset_check,
)
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.storage_move import StorageMoveError, move
from tests.support.postgres import Postgres

STUDIES = DynamicPartitionsDefinition(name="study")
NAMES = ["0123456789abcdef", "fedcba9876543210", "00000000ffffffff"]


@asset
def image() -> MaterializeResult[None]:
    return MaterializeResult(data_version=DataVersion("sha256:one"), metadata={"bytes": 7})


@asset(deps=[image], partitions_def=STUDIES)
def answer(context: AssetExecutionContext) -> MaterializeResult[None]:
    context.log.info("a line of the run's log")
    return MaterializeResult(metadata={"volume": 1.5})


@asset_check(asset=image)
def is_small() -> AssetCheckResult:
    return AssetCheckResult(passed=True, metadata={"most": 8})


DEFS = Definitions(assets=[image, answer], asset_checks=[is_small])
SENSOR = RemoteInstigatorOrigin(
    RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="x.py"), location_name="here"), "__repository__"),
    "results",
)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAGSTER_HOME with a history: runs with logs, a deleted one, events without a run, a wiped asset, a check, a sensor's state."""
    home = tmp_path_factory.mktemp("history")
    (home / "dagster.yaml").write_text((PROJECT_ROOT / "infra" / "dagster.yaml").read_text())
    with DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("study", NAMES)
        job = DEFS.get_implicit_global_asset_job_def()
        for selection, partition in (([image.key], None), ([answer.key], NAMES[0]), ([answer.key], NAMES[1]), ([image.key], None)):
            job.execute_in_process(instance=instance, asset_selection=selection, partition_key=partition)
        gone = job.execute_in_process(instance=instance, asset_selection=[image.key], tags={"goes": "away"})
        instance.delete_run(gone.run_id)
        for number in range(450):  # more than a page
            instance.report_runless_asset_event(AssetObservation("answer", partition=NAMES[2], metadata={"code": number}))
        instance.report_runless_asset_event(AssetMaterialization("withdrawn"))
        job.execute_in_process(instance=instance, asset_selection=[image.key])
        instance.wipe_assets([AssetKey("withdrawn")])
        instance.add_instigator_state(
            InstigatorState(SENSOR, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData(cursor="hour=7", min_interval=30))
        )
        selector = SENSOR.get_selector().get_id()
        skipped = TickData(
            SENSOR.get_id(), "results", InstigatorType.SENSOR, TickStatus.SKIPPED, 1e9, cursor="hour=7", selector_id=selector
        )
        instance.create_tick(skipped)
    return home


@pytest.fixture
def old(history: Path, tmp_path: Path) -> Iterator[DagsterInstance]:
    """A copy of it for one test."""
    with DagsterInstance.from_config(str(shutil.copytree(history, tmp_path / "old"))) as instance:
        yield instance


@pytest.fixture
def target(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a team's dagster.yaml, whose variables name an empty database."""
    home = tmp_path / "new"
    home.mkdir()
    (home / "dagster.yaml").write_text((PROJECT_ROOT / "infra" / "team" / "dagster.yaml").read_text())
    for name, value in (postgres.environment(postgres.database()) | {"MONAI_AWS_BUCKET": "studies"}).items():
        monkeypatch.setenv(name, value)
    return home


def at(instance: DagsterInstance) -> Path:
    return Path(instance.root_directory)


def opened(home: Path) -> DagsterInstance:
    """The instance with the storage of a folder's dagster.yaml."""
    return DagsterInstance.from_config(str(home))


def lineage(instance: DagsterInstance) -> dict[str, Any]:
    """What pages and sensors read through Dagster's own interfaces."""
    graph = DEFS.get_repository_def().asset_graph
    log = instance.event_log_storage
    stale = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    seen: dict[str, Any] = {
        "assets": sorted(key.to_user_string() for key in instance.all_asset_keys()),
        "partitions": instance.get_dynamic_partitions("study"),
        "materialized": {name: sorted(log.get_materialized_partitions(AssetKey(name))) for name in ("image", "answer", "withdrawn")},
        "runs": [
            (r.dagster_run, r.storage_id, r.start_time, r.end_time, r.create_timestamp.replace(tzinfo=None))
            for r in instance.get_run_records()
        ],
        "stale": {
            (key.to_user_string(), name): (stale.get_status(key, name), [c.reason for c in stale.get_stale_causes(key, name)])
            for key, name in ((image.key, None), *((answer.key, name) for name in NAMES))
        },
        "state": [(s.instigator_name, s.status, s.instigator_data) for s in instance.all_instigator_state()],
        "ticks": [(t.status, t.timestamp, t.cursor) for t in instance.get_ticks(SENSOR.get_id(), SENSOR.get_selector().get_id())],
        "checks": [
            (r.run_id, r.status, r.event, r.create_timestamp) for r in log.get_asset_check_execution_history(is_small.check_key, limit=50)
        ],
        "versions": sorted(map(str, log.get_event_tags_for_asset(AssetKey("answer")))),
        "status changes": [
            (r.storage_id, r.event_log_entry) for r in instance.fetch_run_status_changes(DagsterEventType.RUN_SUCCESS, limit=50).records
        ],
    }
    for name in ("image", "answer", "withdrawn"):
        seen[f"events of {name}"] = [
            (r.storage_id, r.event_log_entry)
            for fetch in (instance.fetch_materializations, instance.fetch_observations)
            for r in fetch(AssetKey(name), limit=1000).records
        ]
        latest = instance.get_latest_materialization_event(AssetKey(name))
        seen[f"latest {name}"] = latest
    return seen


def run_logs(instance: DagsterInstance) -> dict[str, list[str]]:
    """Each run's log, in no order: PostgreSQL shows first what keeps its id."""
    return {run.run_id: sorted(str(entry) for entry in instance.all_logs(run.run_id)) for run in instance.get_runs()}


def nothing(_: object) -> None:
    return None


def test_the_lineage_reads_the_same_before_and_after(old: DagsterInstance, target: Path):
    before, logs = lineage(old), run_logs(old)
    assert len(before["events of answer"]) == 452
    assert {reasons[0] for reasons in before["stale"].values()} != {None}
    assert before["checks"]
    assert any("a line of the run's log" in line for lines in logs.values() for line in lines)
    told: list[str] = []

    moved = move(at(old), target, told.append)

    with opened(target) as new:
        after = lineage(new)
        for subject, value in before.items():
            assert after[subject] == value, subject
        assert run_logs(new) == logs
        runless = len(old.all_logs("")) - 1  # the one of the wiped asset, which no page shows
        assert moved.rows["event_logs"] == sum(map(len, logs.values())) + runless
    assert told[-1] == "every count was compared: nothing is missing"
    with opened(at(old)) as again:
        assert lineage(again) == before, "the source was only to be read"


def test_what_is_recorded_afterwards_comes_after_what_was_moved(old: DagsterInstance, target: Path):
    newest = max(storage_id for storage_id, _ in lineage(old)["events of answer"])
    move(at(old), target, nothing)
    with opened(target) as new:
        new.report_runless_asset_event(AssetMaterialization("answer", partition=NAMES[2]))
        latest = new.fetch_materializations(AssetKey("answer"), limit=1).records[0]
        assert latest.partition_key == NAMES[2]
        assert latest.storage_id > newest
        assert sorted(new.event_log_storage.get_materialized_partitions(AssetKey("answer"), after_cursor=newest)) == [NAMES[2]]
        new.add_dynamic_partitions("study", ["f" * 16])
        assert new.get_dynamic_partitions("study") == [*NAMES, "f" * 16]
        ended = DEFS.get_implicit_global_asset_job_def().execute_in_process(instance=new, asset_selection=[image.key])
        assert new.get_run_records(limit=1)[0].dagster_run.run_id == ended.run_id
        tick = new.get_ticks(SENSOR.get_id(), SENSOR.get_selector().get_id())[0]
        assert new.create_tick(tick.tick_data).tick_id > tick.tick_id


def test_wiped_events_stay_in_their_runs_log_and_out_of_the_lineage(old: DagsterInstance, target: Path):
    old.wipe_assets([image.key])
    logs = run_logs(old)
    move(at(old), target, nothing)
    with opened(target) as new:
        assert run_logs(new) == logs
        assert any("materialized" in line.lower() for lines in logs.values() for line in lines)
        assert not new.fetch_materializations(image.key, limit=10).records
        assert new.get_latest_materialization_event(image.key) is None


def test_an_event_that_never_reached_the_lineage_does_not_come_into_it_by_the_move(old: DagsterInstance, target: Path):
    """SQLite writes an event into its run's file first: Dagster may have been killed in between."""
    with sqlite3.connect(at(old) / "history" / "runs" / "index.db") as index:
        [newest] = index.execute(
            "select max(id) from event_logs where dagster_event_type = 'ASSET_MATERIALIZATION' and run_id != ''"
        ).fetchone()
        index.execute("delete from event_logs where id = ?", [newest])
    made, logs = [record.storage_id for record in old.fetch_materializations(image.key, limit=10).records], run_logs(old)
    move(at(old), target, nothing)
    with opened(target) as new:
        assert [record.storage_id for record in new.fetch_materializations(image.key, limit=10).records] == made
        assert run_logs(new) == logs


# ------------------------------------------------------------------------------------------------------------------ what is refused


def is_untouched(target: Path) -> bool:
    with opened(target) as new:
        return not any((new.get_runs(), new.all_asset_keys(), new.get_dynamic_partitions("study"), new.all_instigator_state()))


def test_a_daemon_that_runs_is_noticed(old: DagsterInstance, target: Path):
    beats = 0

    def a_heartbeat_meanwhile(_: float = 0) -> None:
        nonlocal beats
        beats += 1
        old.add_daemon_heartbeat(DaemonHeartbeat(time.time() + beats, "SENSOR", "one", []))

    a_heartbeat_meanwhile()
    with pytest.raises(StorageMoveError, match="daemon is at work"):
        move(at(old), target, nothing, a_heartbeat_meanwhile)
    assert is_untouched(target)


def test_a_daemon_that_has_just_ended_is_waited_for_and_not_longer(old: DagsterInstance, target: Path, monkeypatch: pytest.MonkeyPatch):
    now = time.time()
    monkeypatch.setattr("monai_aws_pipeline.storage_move.time.time", lambda: now)
    old.add_daemon_heartbeat(DaemonHeartbeat(now - 5, "SENSOR", "one", []))
    waited: list[float] = []

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds
        waited.append(seconds)

    told: list[str] = []
    move(at(old), target, told.append, pause)
    assert 60 <= sum(waited) <= 75
    assert told[0].startswith("a daemon was at work here a moment ago; looking for 70 s")


def test_a_run_at_work_is_not_moved(old: DagsterInstance, target: Path):
    run = old.create_run_for_job(DEFS.get_implicit_global_asset_job_def(), status=DagsterRunStatus.STARTED)
    with pytest.raises(StorageMoveError, match="1 runs are at work"):
        move(at(old), target, nothing)
    assert is_untouched(target)
    assert old.get_run_by_id(run.run_id)


def test_a_queued_run_is_moved_and_waits_there(old: DagsterInstance, target: Path):
    origin = RemoteJobOrigin(SENSOR.repository_origin, "__ASSET_JOB")
    run = old.create_run_for_job(DEFS.get_implicit_global_asset_job_def(), status=DagsterRunStatus.QUEUED, remote_job_origin=origin)
    move(at(old), target, nothing)
    with opened(target) as new:
        assert new.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED])) == [run]


def test_whoever_writes_meanwhile_is_noticed(old: DagsterInstance, target: Path):
    writer = sqlite3.connect(at(old) / "history" / "runs" / "index.db", isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageMoveError, match=r"index\.db is in use"):
            move(at(old), target, nothing)
    finally:
        writer.close()
    assert is_untouched(target)


def test_what_is_in_the_target_already_is_not_mixed_with_what_comes(old: DagsterInstance, target: Path):
    with opened(target) as new:
        new.add_dynamic_partitions("study", ["another"])
    with pytest.raises(StorageMoveError, match="not empty: there are rows in dynamic_partitions"):
        move(at(old), target, nothing)
    with opened(target) as new:
        assert new.get_dynamic_partitions("study") == ["another"]
        assert not new.get_runs()


def test_a_second_move_is_refused(old: DagsterInstance, target: Path):
    move(at(old), target, nothing)
    with pytest.raises(StorageMoveError, match="not empty"):
        move(at(old), target, nothing)


def dies_at(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_aws_pipeline import storage_move

    write: Callable[..., None] = storage_move._Copy._write

    def until(self: Any, written: Any, *more: Any) -> None:
        write(self, written, *more)
        if written.name == table:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage_move._Copy, "_write", until)


@pytest.mark.parametrize("table", ["runs", "asset_keys", "job_ticks", "event_logs"])
def test_a_move_that_is_interrupted_leaves_nothing_and_is_made_again(
    old: DagsterInstance, target: Path, monkeypatch: pytest.MonkeyPatch, table: str
):
    with monkeypatch.context() as interrupted:
        dies_at(table, interrupted)
        with pytest.raises(KeyboardInterrupt):
            move(at(old), target, nothing)
    assert is_untouched(target)
    before = lineage(old)
    move(at(old), target, nothing)
    with opened(target) as new:
        assert lineage(new) == before


def test_a_row_that_got_lost_on_the_way_is_noticed(old: DagsterInstance, target: Path, monkeypatch: pytest.MonkeyPatch):
    from monai_aws_pipeline import storage_move

    verify = storage_move._Copy.verify

    def without_one(self: Any) -> None:
        self.target.exec_driver_sql("delete from event_logs where id = (select max(id) from event_logs)")
        verify(self)

    monkeypatch.setattr(storage_move._Copy, "verify", without_one)
    with pytest.raises(StorageMoveError, match=r"event_logs: \d+ in place of \d+; the log of run"):
        move(at(old), target, nothing)
    assert is_untouched(target)


def test_storages_of_two_versions_are_not_mixed(old: DagsterInstance, target: Path):
    with sqlite3.connect(at(old) / "history" / "runs.db") as runs:
        runs.execute("update secondary_indexes set migration_completed = null where name = (select min(name) from secondary_indexes)")
        [(name,)] = runs.execute("select min(name) from secondary_indexes")
    with pytest.raises(StorageMoveError, match=rf"differ in {name}.*dagster instance migrate"):
        move(at(old), target, nothing)
    assert is_untouched(target)


def test_a_folder_without_a_storage_is_named_and_gets_none(target: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageMoveError, match="holds no storage of Dagster"):
        move(tmp_path / "empty", target, nothing)
    assert not list((tmp_path / "empty").iterdir())


def test_the_direction_is_not_taken_for_the_other(old: DagsterInstance, target: Path):
    with pytest.raises(StorageMoveError, match="does not keep its storage in SQLite"):
        move(target, at(old), nothing)
    with pytest.raises(StorageMoveError, match="does not name a PostgreSQL"):
        move(at(old), at(old), nothing)


def test_no_error_shows_the_password(old: DagsterInstance, target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", "not-the-right-one")
    with pytest.raises(StorageMoveError, match=r"cannot be opened: .*password authentication failed") as refused:
        move(at(old), target, nothing)
    assert "not-the-right-one" not in str(refused.value)


def test_the_command_moves_and_says_what_is_next(old: DagsterInstance, target: Path):
    done = CliRunner().invoke(cli, ["move-storage", "--from", str(at(old)), "--to", str(target)])
    assert done.exit_code == 0, done.output
    assert "event logs" in done.output
    assert "stays as it was" in done.output
