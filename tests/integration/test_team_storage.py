"""A team's PostgreSQL with many at work: four runs in processes of their own, every sensor beside them, and nothing is lost or blocked."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, Definitions, SensorDefinition, build_sensor_context
from dagster_aws.s3 import S3Resource
from moto import mock_aws

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.resources import CloudResource
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT
from tests.support.postgres import Postgres
from tests.unit.studies.records import Bucket, job_of, study_of, succeeded
from tests.unit.studies.test_sensor import Daemon

JOBS, STEPS, STUDIES = 4, 5, 12
A_JOB = """
import sys
from dagster import AssetCheckResult, DagsterInstance, Definitions, MaterializeResult, StaticPartitionsDefinition, asset, asset_check

home, name, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
assets, checks = [], []
for number in range(steps):
    @asset(name=f"{name}_{number}", deps=assets[-1:])
    def made(context):
        context.log.info(f"line of {context.asset_key.to_user_string()}")
        return MaterializeResult(metadata={"text": "x" * 2000})
    @asset_check(asset=made, name="looked_at")
    def looked_at():
        return AssetCheckResult(passed=True)
    assets.append(made)
    checks.append(looked_at)
job = Definitions(assets=assets, asset_checks=checks).get_implicit_global_asset_job_def()
with DagsterInstance.from_config(home) as instance:
    assert job.execute_in_process(instance=instance, tags={"who": name}).success
"""


@pytest.fixture
def home(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A team's DAGSTER_HOME on an empty database. What steps print stays in it: the bucket of the test is this process's alone."""
    text = (PROJECT_ROOT / "infra" / "team" / "dagster.yaml").read_text()
    begin, end = text.index("compute_logs:"), text.index("run_coordinator:")
    (tmp_path / "dagster.yaml").write_text(text[:begin] + text[end:])
    for name, value in postgres.environment(postgres.database()).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with mock_aws():
        made = Bucket(boto3.client("s3", region_name="us-east-1"))
        monkeypatch.setenv("MONAI_AWS_BUCKET", made.name)
        clients = Clients("us-east-1")
        monkeypatch.setattr(S3Resource, "get_client", lambda _: made.s3)  # making clients costs more than ticks
        monkeypatch.setattr(CloudResource, "clients", lambda _: clients)
        yield made


class Ticks(threading.Thread):
    """Evaluates one sensor again and again, as the daemon does, until told to end; ``error`` is what went wrong."""

    def __init__(self, instance: DagsterInstance, sensor: SensorDefinition, definitions: Definitions) -> None:
        super().__init__(name=sensor.name)
        self.instance, self.sensor, self.resources = instance, sensor, dict(definitions.resources or {})
        self.repository = definitions.get_repository_def()
        self.over, self.count, self.cursor = threading.Event(), 0, ""
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.over.is_set() or self.count < 3:
                context = build_sensor_context(
                    instance=self.instance, cursor=self.cursor or None, repository_def=self.repository, resources=self.resources
                )
                data = self.sensor.evaluate_tick(context)
                for event in data.asset_events:
                    self.instance.report_runless_asset_event(event)
                self.cursor = data.cursor or self.cursor
                self.count += 1
                self.over.wait(0.5)  # the jobs want a core too
        except BaseException as error:
            self.error = error


def test_four_jobs_and_all_sensors_at_once_lose_nothing(home: Path, bucket: Bucket):
    from monai_aws_pipeline.definitions import build_defs

    now = datetime.now(UTC)
    for number in range(STUDIES):
        bucket.commit(succeeded(number, now))
    definitions = build_defs()
    others = [sensor for sensor in definitions.get_repository_def().sensor_defs if sensor.name != "study_results"]
    assert len(others) >= 4
    with DagsterInstance.from_config(str(home)) as instance:
        command = [sys.executable, "-c", A_JOB, str(home)]
        jobs = [subprocess.Popen([*command, f"job{number}", str(STEPS)], stderr=subprocess.PIPE, text=True) for number in range(JOBS)]
        beside = [Ticks(instance, sensor, definitions) for sensor in others]
        for ticks in beside:
            ticks.start()
        try:
            daemon = Daemon(instance, bucket)
            daemon.until_quiet()
            said = [job.communicate(timeout=600)[1] for job in jobs]
        finally:
            for ticks in beside:
                ticks.over.set()
            for ticks in beside:
                ticks.join()
            for job in jobs:
                job.kill()
        assert [job.returncode for job in jobs] == [0] * JOBS, said
        assert {ticks.name: ticks.error for ticks in beside if ticks.error} == {}
        assert not [line for text in said for line in text.splitlines() if "deadlock" in line or "locked" in line]
        whole(instance)
        assert daemon.jobs() == sorted(job_of(number) for number in range(STUDIES))
        assert instance.event_log_storage.get_materialized_partitions(INFERENCE_RESULT) == {study_of(number) for number in range(STUDIES)}


def whole(instance: DagsterInstance) -> None:
    """Every run of the test has ended well, with each of its events once."""
    runs: dict[str, Any] = {run.tags["who"]: run for run in instance.get_runs() if "who" in run.tags}
    assert sorted(runs) == [f"job{number}" for number in range(JOBS)]
    for name, run in runs.items():
        assert run.status == DagsterRunStatus.SUCCESS
        lines = [entry.user_message for entry in instance.all_logs(run.run_id)]
        assert [line for line in lines if line.startswith("line of")] == [f"line of {name}_{number}" for number in range(STEPS)]
        for number in range(STEPS):
            key = AssetKey(f"{name}_{number}")
            [made] = instance.fetch_materializations(key, limit=5).records
            assert made.run_id == run.run_id
            [looked] = instance.event_log_storage.get_asset_check_execution_history(next(iter(_checks(key))), limit=5)
            assert looked.status.value == "SUCCEEDED"


def _checks(key: AssetKey) -> list[Any]:
    from dagster import AssetCheckKey

    return [AssetCheckKey(key, "looked_at")]
