"""The window of studies under Dagster's own daemon and code servers: older studies leave by the tables of their days, and come back."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from moto.server import ThreadedMotoServer

from monai_aws_pipeline.contract import DAYS_PREFIX, day_key
from monai_aws_pipeline.operations.results_store import StoredResult
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, event_of
from monai_aws_pipeline.studies.studies_by_day import DAYS
from monai_aws_pipeline.studies.study_window import PARTITIONS
from tests.support.faults import eventually
from tests.support.recorded_studies import add_partitions, record_many
from tests.support.runs import Installation, installation
from tests.unit.studies.records import Bucket, job_of, study_of, succeeded

WINDOW: Final = 100
RECORDED: Final = 130
NEW: Final = RECORDED
"""The number of the study that is answered while the daemon runs."""
FIRST_DAY: Final = datetime.now(UTC).replace(hour=8, minute=0, second=0, microsecond=0) - timedelta(days=3)
ACCOUNT: Final = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


def at_of(number: int) -> datetime:
    """Half of them on the first day, half on the next; both are over."""
    return FIRST_DAY + timedelta(minutes=number) if number < RECORDED // 2 else FIRST_DAY + timedelta(days=1, minutes=number)


def event(number: int) -> Any:
    return event_of(StoredResult(succeeded(number, at_of(number)), ()), Addresses("studies"), {})


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """A bucket that other processes reach."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    try:
        yield Bucket(session.client("s3", endpoint_url=f"http://{host}:{port}"))
    finally:
        server.stop()


@pytest.fixture
def home(tmp_path: Path, bucket: Bucket) -> Path:
    """A DAGSTER_HOME in which every result of the bucket is recorded, and every study a partition in the order in which they came."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text((PROJECT_ROOT / "infra" / "dagster.yaml").read_text())
    for number in range(RECORDED):
        bucket.commit(succeeded(number, at_of(number)))
    with DagsterInstance.from_config(str(folder)) as instance:
        record_many(instance, event, range(RECORDED), at_of)
        add_partitions(instance, range(RECORDED))
    return folder


@pytest.fixture
def dagster(home: Path, bucket: Bucket) -> Iterator[Installation]:
    settings = {
        "MONAI_AWS_BUCKET": bucket.name,
        "MONAI_AWS_STUDY_WINDOW": str(WINDOW),
        "MONAI_AWS_RESULTS_INTERVAL_S": "5",
        "MONAI_AWS_LINKS_URL": "",
    }
    with installation(home, {**ACCOUNT, **settings, "AWS_ENDPOINT_URL": bucket.s3.meta.endpoint_url}) as running:
        yield running


def objects(bucket: Bucket) -> dict[str, str]:
    """Every object with the hash of its content."""
    pages = bucket.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
    return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}


def table(bucket: Bucket, day: datetime) -> list[str]:
    """The studies that the table of a day names."""
    text = bucket.s3.get_object(Bucket=bucket.name, Key=day_key(day.date()))["Body"].read().decode()
    return [row["study"] for row in csv.DictReader(io.StringIO(text))]


def recorded(instance: DagsterInstance) -> Counter[str | None]:
    """How often each study's answer is recorded."""
    records = instance.fetch_materializations(INFERENCE_RESULT, limit=10 * RECORDED).records
    return Counter(record.partition_key for record in records)


def test_older_studies_leave_by_the_tables_of_their_days_and_come_back(home: Path, bucket: Bucket, dagster: Installation):
    before = objects(bucket)
    oldest, newest = ([study_of(number) for number in some] for some in (range(31), range(31, RECORDED + 1)))
    with DagsterInstance.from_config(str(home)) as instance:
        bucket.commit(succeeded(NEW, datetime.now(UTC)))
        eventually(lambda: instance.get_dynamic_partitions(PARTITIONS) == newest, 600)

        for day, numbers in ((FIRST_DAY, range(65)), (FIRST_DAY + timedelta(days=1), range(65, RECORDED))):
            assert table(bucket, day) == [study_of(number) for number in numbers]
        days = instance.get_dynamic_partitions(DAYS.name or "")
        assert min(days) == FIRST_DAY.date().isoformat(), "no day before the first result is there to be missing"

        which = {"which": {"these": {"studies": [oldest[7]]}}}
        run = dagster.start("call_back_studies", config={"ops": {"add_partitions_again": {"config": which}}})
        assert run.until_ended(600) is DagsterRunStatus.SUCCESS, run.said()[-6:]
        assert instance.get_dynamic_partitions(PARTITIONS)[-1] == oldest[7], "as the newest"

        assert recorded(instance) == Counter([*oldest, *newest])
        after = objects(bucket)
        assert before.items() <= after.items()
        made = {key for key in after.keys() - before.keys() if not key.startswith(DAYS_PREFIX)}
        assert all(job_of(NEW) in key for key in made), "the test's own new study"
        assert not [run for run in instance.get_runs() if run.status is DagsterRunStatus.FAILURE]
