"""The studies without an answer as a person at a shell sees them: newest first, within bounds, and none that was answered since."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.contract import MapFacts, ResultError, ResultRecord, Status, utc_text
from monai_aws_pipeline.operations.failures import failures
from monai_aws_pipeline.operations.results_store import ResultsStore
from tests.unit.studies.conftest import aws, bucket
from tests.unit.studies.records import DIGEST, Bucket, job_of, refused, study_of, succeeded

__all__ = ["aws", "bucket"]

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture
def store(bucket: Bucket) -> ResultsStore:
    return ResultsStore(bucket.s3, bucket.name)


def failed(number: int, at: datetime, said: str = "ValueError: no volume") -> ResultRecord:
    error = ResultError("map_failed", "The application ended with exit code 1.", said)
    record = refused(number, at, study=study_of(number), status=Status.FAILED)
    return replace(record, error=error, map=MapFacts(f"maps@{DIGEST}", DIGEST, "1.0.0"))


def test_they_come_newest_first_over_hours_and_days_and_none_that_is_older(bucket: Bucket, store: ResultsStore):
    times = [NOW - HOUR * hours for hours in (0, 1, 5, 30, 47)]
    for number, at in enumerate(times):
        bucket.commit(failed(number, at))
    bucket.commit(failed(9, NOW - HOUR * 49))
    found = failures(store, NOW - HOUR * 48, NOW)
    assert [row.at for row in found.rows] == [utc_text(at) for at in times]
    assert (found.complete, found.unreadable) == (True, 0)
    assert [row.at for row in failures(store, NOW - HOUR * 6, NOW).rows] == [utc_text(at) for at in times[:3]]


def test_one_that_was_answered_since_is_none_and_its_answer_is_not_read(bucket: Bucket, store: ResultsStore):
    bucket.commit(failed(1, NOW - HOUR * 3))
    bucket.commit(failed(2, NOW - HOUR * 2))
    answer = bucket.commit(succeeded(1, NOW - HOUR))
    bucket.put(answer.commit_key, "damaged")
    found = failures(store, NOW - HOUR * 48, NOW)
    assert [row.study for row in found.rows] == [study_of(2)]
    assert found.unreadable == 0


def test_no_more_is_read_than_the_bound_and_that_is_said(bucket: Bucket, store: ResultsStore):
    for number in range(6):
        bucket.commit(failed(number, NOW - HOUR * number))
    found = failures(store, NOW - HOUR * 48, NOW, most=4)
    assert ([row.study for row in found.rows], found.looked, found.complete) == ([study_of(number) for number in range(4)], 4, False)
    assert failures(store, NOW - HOUR * 48, NOW, most=6).complete


def test_a_long_time_without_results_is_not_listed_day_by_day(bucket: Bucket, store: ResultsStore):
    bucket.commit(failed(1, NOW - HOUR * 30))
    bucket.put("results-index/README", "somebody's")
    listed: list[str] = []
    bucket.s3.meta.events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_: listed.append(params["Prefix"]))
    assert [row.study for row in failures(store, NOW - timedelta(days=9000), NOW).rows] == [study_of(1)]
    assert len(listed) <= 5
    assert failures(store, NOW, NOW).rows == ()


def test_what_cannot_be_read_is_counted(bucket: Bucket, store: ResultsStore):
    bucket.put(failed(1, NOW).index_key, "no entry")
    bucket.delete(bucket.commit(failed(2, NOW)).commit_key)
    bucket.commit(failed(3, NOW))
    found = failures(store, NOW - HOUR, NOW)
    assert ([row.study for row in found.rows], found.unreadable) == ([study_of(3)], 2)


def run(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("MONAI_AWS_BUCKET", bucket.name)
    return CliRunner().invoke(cli, ["failures", *arguments])


def test_the_command_shows_all_of_each_and_counts_them_by_code(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    for number in (1, 2):
        bucket.commit(failed(number, NOW - HOUR * number))
    bucket.commit(refused(3, NOW))
    done = run(bucket, monkeypatch)
    assert done.exit_code == 0, done.output
    line = next(line for line in done.stdout.splitlines() if study_of(1) in line)
    for word in (utc_text(NOW - HOUR), f"1.0.0 {DIGEST}", "map_failed", "exit code 1.", "ValueError: no volume", job_of(1)):
        assert word in line
    assert "without an answer since" in done.stdout
    assert ": 2 map_failed, 1 NOT_A_ZIP" in done.stdout
    assert "unknown" in next(line for line in done.stdout.splitlines() if job_of(3) in line)


def test_the_command_takes_one_code_and_speaks_json(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    bucket.commit(failed(1, NOW))
    bucket.commit(refused(2, NOW))
    said = json.loads(run(bucket, monkeypatch, "--json", "--code", "map_failed").stdout)
    assert said["counts"] == {"map_failed": 1}
    assert [(row["study"], row["last_line"]) for row in said["rows"]] == [(study_of(1), "ValueError: no volume")]
    mistyped = run(bucket, monkeypatch, "--code", "map_faild").stdout
    assert "0 without an answer" in mistyped
    assert "with another code: 1 NOT_A_ZIP, 1 map_failed" in mistyped
    assert "another code" not in run(bucket, monkeypatch).stdout


def test_a_time_that_is_none_is_explained(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    done = run(bucket, monkeypatch, "--since", "yesterday")
    assert done.exit_code == 2
    assert "30m, 12h or 2d" in done.output
