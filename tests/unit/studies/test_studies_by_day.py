"""``studies_by_day``: a day's table names everything that ended on it, keeps it, and shows of it what has room."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from dagster import AssetRecordsFilter, DagsterInstance, Failure, materialize
from dagster._serdes import serialize_value
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.contract import IndexEntry, Status, day_key, short_digest
from monai_aws_pipeline.operations.day_table import DayRow, DayTable, NoDayTableError, read
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.settings import Settings
from monai_aws_pipeline.studies.record_metadata import MAX_STORED_BYTES, OPEN_CHARACTERS
from monai_aws_pipeline.studies.studies_by_day import DAYS, STUDIES_BY_DAY, studies_by_day, table_metadata
from tests.unit.studies.records import DIGEST, NOON, OTHER_DIGEST, Bucket, job_of, refused, study_of, succeeded

DAY = NOON.date()


class Days:
    """The asset on a bucket."""

    def __init__(self, instance: DagsterInstance, bucket: Bucket):
        self.instance, self.bucket = instance, bucket

    def made(self, day: date = DAY) -> Mapping[str, Any]:
        """Materialise a day; its metadata."""
        self.instance.add_dynamic_partitions(DAYS.name or "", [day.isoformat()])
        resources = {"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource(overrides={"bucket": self.bucket.name})}
        assert materialize([studies_by_day], partition_key=day.isoformat(), instance=self.instance, resources=resources).success
        wanted = AssetRecordsFilter(STUDIES_BY_DAY, asset_partitions=[day.isoformat()])
        event = self.instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
        assert event
        return {name: value.value for name, value in event.metadata.items()}

    def table(self, day: date = DAY) -> list[dict[str, str]]:
        body = self.bucket.s3.get_object(Bucket=self.bucket.name, Key=day_key(day))["Body"].read().decode()
        return list(csv.DictReader(io.StringIO(body)))


@pytest.fixture
def days(instance: DagsterInstance, bucket: Bucket) -> Days:
    return Days(instance, bucket)


def test_the_table_has_a_line_for_each_end_of_the_day_in_their_order(days: Days):
    midnight = datetime(2026, 3, 14, tzinfo=UTC)
    days.bucket.commit(succeeded(2, midnight + timedelta(hours=23, minutes=59), OTHER_DIGEST))
    days.bucket.commit(succeeded(1, midnight))
    days.bucket.commit(refused(3, NOON, study_of(3)))
    days.bucket.commit(refused(4, NOON + timedelta(seconds=1)))
    days.bucket.commit(succeeded(5, midnight - timedelta(seconds=1)))
    days.bucket.commit(succeeded(6, midnight + timedelta(days=1)))
    said = days.made()
    rows = days.table()
    assert [(row["study"], row["status"], row["code"], row["map_digest"]) for row in rows] == [
        (study_of(1), "succeeded", "", DIGEST),
        (study_of(3), "quarantined", "NOT_A_ZIP", ""),
        ("", "quarantined", "NOT_A_ZIP", ""),
        (study_of(2), "succeeded", "", OTHER_DIGEST),
    ]
    assert rows[0]["record"] == f"output/{study_of(1)}/{job_of(1)}/result.json"
    assert rows[0]["opens"] == f"http://127.0.0.1:3070/studies/{study_of(1)}/{job_of(1)}/"
    assert rows[2]["opens"] == f"http://127.0.0.1:3070/jobs/{job_of(4)}/"
    assert (said["results"], said["failing"], said["not_shown"], said["unreadable"]) == (4, 2, 0, 0)
    assert (said["codes"], said["maps"]) == ("2 NOT_A_ZIP", f"1 {short_digest(DIGEST)}, 1 {short_digest(OTHER_DIGEST)}")
    where = Addresses.of(Settings(_env_file=None, bucket="studies"))  # type: ignore[call-arg]
    folder = where.in_console(day_key(DAY).rpartition("/")[0] + "/")
    assert said["table"] == f"[s3://studies/{day_key(DAY)}]({folder})"
    assert said["page"] == "http://127.0.0.1:3070/days/2026-03-14/"
    assert said["rows"].splitlines()[2].startswith(f"| 12:30:01 | [unknown, job {job_of(4)}]("), "failures first, the newest first"


def test_a_partition_that_is_no_day_is_refused_by_that_name(days: Days):
    days.instance.add_dynamic_partitions(DAYS.name or "", ["14 March"])
    resources = {"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource(overrides={"bucket": days.bucket.name})}
    with pytest.raises(Failure, match="is no day"):
        materialize([studies_by_day], partition_key="14 March", instance=days.instance, resources=resources)


def test_a_day_without_results_has_an_empty_table(days: Days):
    said = days.made()
    assert (said["results"], said["not_shown"], said["codes"], said["maps"]) == (0, 0, "none", "none")
    assert days.table() == []


def test_made_again_the_table_keeps_what_has_expired_since(days: Days):
    first, second = days.bucket.commit(succeeded(1)), days.bucket.commit(refused(2, study=study_of(2)))
    days.made()
    before = days.table()
    days.bucket.delete(first.commit_key)  # the record; its entry is there still
    for key in (second.commit_key, second.index_key):
        days.bucket.delete(key)
    days.bucket.commit(succeeded(3))
    assert days.made()["results"] == 3
    assert [row for row in days.table() if row["study"] != study_of(3)] == before


def test_a_result_that_had_expired_before_is_named_by_what_its_entry_says(days: Days):
    record = days.bucket.commit(succeeded(1))
    days.bucket.delete(record.commit_key)
    days.made()
    assert [(row["study"], row["status"], row["code"]) for row in days.table()] == [(study_of(1), "succeeded", "expired")]


def test_what_is_damaged_is_counted_and_keeps_nothing_else_out(days: Days):
    days.bucket.commit(succeeded(1))
    days.bucket.put(succeeded(2).index_key, "no entry")
    days.bucket.put(succeeded(3).index_key, IndexEntry.of(succeeded(3)).to_json())
    days.bucket.put(succeeded(3).commit_key, "no record")
    assert (days.made()["results"], days.made()["unreadable"]) == (1, 2)


def test_a_table_is_read_as_it_was_written_and_another_is_refused(days: Days):
    store = ResultsStore(days.bucket.s3, days.bucket.name)
    with pytest.raises(NoDayTableError, match="Materialise that day"):
        read(store, DAY)
    days.bucket.commit(succeeded(1))
    days.made()
    assert read(store, DAY).studies == (study_of(1),)
    for damaged in ("", "other,columns\n", b"\xff", "at,study,status,code,map_digest,job,record,opens\nshort\n"):
        days.bucket.put(day_key(DAY), damaged)
        with pytest.raises(NoDayTableError):
            read(store, DAY)
    assert days.made()["results"] == 1, "what cannot be read is written anew"


@pytest.mark.parametrize("links", ["", "http://a-long-name-of-a-host.example.org:31070"])
def test_a_day_of_many_fits_into_an_event_with_the_longest_words(links: str):
    rows = [
        DayRow(
            "2026-03-14T12:30:00Z",
            study_of(n),
            Status.FAILED if n % 2 else Status.SUCCEEDED,
            f"code_{'x' * 30}_{n}" if n % 2 else "",
            f"sha256:{n:064x}",
            job_of(n),
            "output/x/result.json",
            f"{links}/studies/{study_of(n)}/{job_of(n)}/" if links else "",
        )
        for n in range(3000)
    ]
    made = table_metadata(
        DayTable(DAY, tuple(rows)),
        day_key(DAY),
        Addresses("a-bucket-of-a-long-name" * 2, "us-east-1", links, "https://us-east-1.console.aws.amazon.com"),
    )
    assert len(serialize_value(dict(made))) <= MAX_STORED_BYTES
    assert len(str(made["rows"].value)) <= OPEN_CHARACTERS
    shown = str(made["rows"].value).count("\n") - 1
    assert shown >= 4
    assert made["not_shown"].value == 3000 - shown


def test_of_results_by_several_maps_each_has_its_row():
    one = DayRow("2026-03-14T12:30:00Z", study_of(1), "succeeded", "", DIGEST, job_of(1), "k")
    other = replace(one, job=job_of(2), map_digest=OTHER_DIGEST)
    assert DayTable(DAY, (one,)).with_rows_of(DayTable(DAY, (other,))).rows == tuple(sorted((one, other), key=lambda row: row.job))
