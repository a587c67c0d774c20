"""The dagster.yaml of one machine, of a team and of ECS: taken by Dagster as they are, alike but where they say so, without a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.instance.config import dagster_instance_config
from dagster._core.op_concurrency_limits_counter import GlobalOpConcurrencyLimitsCounter
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from monai_aws_pipeline.contract import keys
from monai_aws_pipeline.deployment.build_machine import BUILD_POOL
from monai_aws_pipeline.settings import PROJECT_ROOT

INFRA = PROJECT_ROOT / "infra"
ONE_MACHINE, TEAM, ECS = INFRA / "dagster.yaml", INFRA / "team" / "dagster.yaml", INFRA / "team" / "dagster-ecs.yaml"
ALL = pytest.mark.parametrize("path", [ONE_MACHINE, TEAM, ECS], ids=lambda path: path.name if path.parent == INFRA else f"team/{path.name}")
HERE = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="x.py"), location_name="here"), "__repository__")


def content(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def one_machine(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text(ONE_MACHINE.read_text())
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


@ALL
def test_dagster_takes_it_as_it_is(path: Path):
    chosen, own_class = dagster_instance_config(str(path.parent), config_filename=path.name)
    assert own_class is None
    assert chosen["telemetry"] == {"enabled": False}
    assert chosen["run_monitoring"]["enabled"]
    assert chosen["run_monitoring"]["max_resume_run_attempts"] == 0
    assert {"schedule", "sensor"} <= chosen["retention"].keys()


@ALL
def test_two_builds_never_run_at_once(path: Path):
    assert content(path)["concurrency"]["pools"] == {"granularity": "run", "default_limit": 1}
    assert content(path)["run_coordinator"]["class"] == "QueuedRunCoordinator"


def test_what_builds_is_in_one_pool():
    from monai_aws_pipeline.definitions import build_defs

    graph = build_defs().get_repository_def().asset_graph
    pools = {key.to_user_string(): graph.get(key).pools for key in graph.get_all_asset_keys() if graph.get(key).pools}
    assert pools == {"gpu_ami": {BUILD_POOL}, "map_image": {BUILD_POOL}}


def test_what_starts_a_daemon_names_that_pool_before():
    """Beside the demo, which takes the name from the code: what an installation runs before its daemon, and what a reader is told."""
    named = {
        path.name: set(re.findall(r"concurrency set (\S+) 1", path.read_text()))
        for path in INFRA.rglob("*")
        if path.is_file() and "dagster-daemon run" in path.read_text()
    }
    assert named == {"entrypoint.sh": {BUILD_POOL}, "dagster-daemon.service": {BUILD_POOL}}
    assert f"Dagster's pool `{BUILD_POOL}`" in (PROJECT_ROOT / "docs" / "team.md").read_text()


def queued(instance: DagsterInstance, job: str, status: DagsterRunStatus = DagsterRunStatus.QUEUED) -> DagsterRun:
    from monai_aws_pipeline.definitions import build_defs

    definition = build_defs().get_repository_def().get_job(job)
    return instance.create_run_for_job(definition, status=status, remote_job_origin=RemoteJobOrigin(HERE, job))


@pytest.mark.parametrize(
    ("at_work", "asked", "waits"),
    [
        ("build_map", "build_map", True),
        ("release_map", "build_map", True),
        ("build_map", "deploy_all", True),
        ("build_map", "deploy_inference", False),
        ("deploy_inference", "build_map", False),
    ],
)
def test_a_build_waits_in_the_queue_for_the_one_at_work(one_machine: DagsterInstance, at_work: str, asked: str, waits: bool):
    first = queued(one_machine, at_work, DagsterRunStatus.STARTED)
    queue_counter(one_machine, [first])  # the pass in which it left the queue
    run = queued(one_machine, asked)
    assert queue_counter(one_machine, [run]).is_blocked(run) is waits


def test_the_first_two_builds_of_an_installation_do_not_leave_the_queue_together(one_machine: DagsterInstance):
    """Dagster learns of a pool when a run of it is queued, one pass too late for that run: whoever starts the daemon names it before."""
    one_machine.event_log_storage.set_concurrency_slots(BUILD_POOL, 1)
    both = [queued(one_machine, "build_map"), queued(one_machine, "build_map")]
    counter = queue_counter(one_machine, both)
    assert not counter.is_blocked(both[0])
    counter.update_counters_with_launched_item(both[0])
    assert counter.is_blocked(both[1])


def test_a_build_that_was_killed_leaves_no_place_taken(one_machine: DagsterInstance):
    one_machine.event_log_storage.set_concurrency_slots(BUILD_POOL, 1)
    killed = queued(one_machine, "build_map", DagsterRunStatus.STARTED)
    one_machine.report_run_failed(killed)
    run = queued(one_machine, "build_map")
    assert not queue_counter(one_machine, [run]).is_blocked(run)


def queue_counter(instance: DagsterInstance, runs: list[DagsterRun]) -> GlobalOpConcurrencyLimitsCounter:
    """What the daemon's queue asks before it launches, made as the daemon makes it."""
    from dagster import RunsFilter
    from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

    at_work = instance.get_run_records(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES))
    log = instance.event_log_storage
    pools = instance.get_concurrency_config().pool_config
    return GlobalOpConcurrencyLimitsCounter(
        instance, runs, at_work, log.get_concurrency_keys(), log.get_pool_limits(), 0, pools.pool_granularity
    )


def test_a_team_s_two_differ_in_who_starts_a_run_and_how_long_that_may_take():
    team, ecs = content(TEAM), content(ECS)
    launchers = team.pop("run_launcher")["class"], ecs.pop("run_launcher")["class"]
    assert launchers == ("DefaultRunLauncher", "EcsRunLauncher")
    assert team["run_monitoring"].pop("start_timeout_seconds") < ecs["run_monitoring"].pop("start_timeout_seconds")
    assert team == ecs


@pytest.mark.parametrize("path", [TEAM, ECS], ids=lambda path: path.name)
def test_what_tells_deployments_apart_and_every_secret_comes_from_the_environment(path: Path):
    postgres = content(path)["storage"]["postgres"]["postgres_db"]
    assert all(list(value) == ["env"] for value in postgres.values())
    assert content(path)["compute_logs"]["config"]["bucket"] == {"env": "MONAI_AWS_BUCKET"}


def test_logs_lie_in_the_bucket_beside_studies_and_under_none_of_their_prefixes():
    prefixes = {value.split("/")[0] for name, value in vars(keys).items() if name.endswith("_PREFIX") and isinstance(value, str)}
    assert {"input", "output", "jobs"} <= prefixes
    for path in (TEAM, ECS):
        assert content(path)["compute_logs"]["config"]["prefix"] not in prefixes


def test_a_team_s_code_location_has_the_name_that_sensors_state_hangs_on():
    [one] = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())["load_from"]
    [team] = yaml.safe_load((INFRA / "team" / "workspace.yaml").read_text())["load_from"]
    assert team["grpc_server"]["location_name"] == one["python_module"]["location_name"]
