"""Two hosts that end the same job, differently too: one end stands, whichever call of either comes first and wherever one of them dies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from monai_aws_pipeline.contract import (
    ContractError,
    HostFacts,
    IndexEntry,
    InputFacts,
    ResultError,
    ResultRecord,
    Status,
    output_key,
    quarantine_key,
)
from monai_aws_pipeline.contract.outputs import LOG, MESH, PREVIEW
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.results.commit import (
    Decisions,
    StudiesDecidedError,
    commit_end,
    complete_commit,
    decide,
    read_progress,
)
from monai_aws_pipeline.host_agent.results.outputs import Produced, made_here
from tests.support.interleaving import Act, Bucket, Died, Stage, every_death, every_order

JOB, STUDY, OTHER = "a" * 32, "1" * 16, "2" * 16
AT = "2026-01-01T10:00:00.000Z"
Ends = Callable[[Store], ResultRecord]


def record(host: str, study: str, status: Status) -> ResultRecord:
    wrong = FailedError(Code.MAP_FAILED, f"It failed on {host}.")
    error = None if status is Status.SUCCEEDED else ResultError(str(wrong.code), wrong.message)
    return ResultRecord(JOB, study, status, AT, InputFacts("f" * 64, "e", 1), host=HostFacts(host), error=error)


def ends(host: str, study: str, status: Status, folder: Path) -> Ends:
    """A host that ends a study (or, without one, the job), with files that no other host has."""
    place = folder / host
    place.mkdir(exist_ok=True)
    produced: list[Produced] = []
    if status is Status.SUCCEEDED:
        mesh = place / "mesh.stl"
        mesh.write_text(host)
        digest = hashlib.sha256(host.encode()).hexdigest()
        produced.append(Produced(mesh, f"mesh/mesh-1-{digest[:8]}.stl", MESH, digest, len(host)))
    if study:
        name, kind = ("preview.png", PREVIEW) if status is Status.SUCCEEDED else ("map.log", LOG)
        (place / name).write_text(f"of {host}")
        produced.append(made_here(place / name, kind))
    key = partial(output_key, study, JOB) if status is Status.SUCCEEDED else partial(quarantine_key, JOB, study=study)
    return lambda store: commit_end(store, produced, key, lambda: record(host, study, status))


def act(*steps: Ends) -> Act:
    """A host that takes these steps one after another; the records that count, in its eyes."""
    return lambda client: [step(Store(client, "studies")) for step in steps]


def looks(client: Any) -> list[ResultRecord]:
    """A host that is given the job again and finds it decided."""
    store = Store(client, "studies")
    return [complete_commit(store, end) for end in read_progress(store, JOB).decisions.ends]


def answers(bucket: Bucket) -> dict[str, ResultRecord]:
    """The commit records of a bucket by key, after checking that each is whole, in the index once, and the only end of its study."""
    found = {
        key: ResultRecord.from_json(body.decode())
        for key, body in bucket.objects.items()
        if key.endswith("/result.json") and key.startswith(("output/", "quarantine/"))
    }
    studies = [end.study for end in found.values()]
    assert len(studies) == len(set(studies)), f"double: {sorted(found)}"
    assert "" not in studies or len(studies) == 1, f"as a whole and study by study: {sorted(found)}"
    entries = [IndexEntry.from_json(body.decode()) for key, body in bucket.objects.items() if key.startswith("results-index/")]
    assert sorted(entry.key for entry in entries) == sorted(found)
    assert all(entry == IndexEntry.of(found[entry.key]) for entry in entries)
    for key, end in found.items():
        assert end.commit_key == key
        for output in end.outputs:
            assert hashlib.sha256(bucket.objects[output.key]).hexdigest() == output.sha256, "a file of another host"
        if end.error:
            assert json.loads(bucket.objects[key.replace("result.json", "error.json")])["cause"] == f"It failed on {end.host.instance_id}."
    return found


def strays(bucket: Bucket, found: dict[str, ResultRecord]) -> set[str]:
    """Files of studies that no commit record names."""
    named = {*found, *(output.key for end in found.values() for output in end.outputs)}
    named |= {key.replace("result.json", "error.json") for key, end in found.items() if end.error}
    return {key for key in bucket.objects if key.startswith(("output/", "quarantine/"))} - named


RIVALS = {
    "answered and answered": (Status.SUCCEEDED, Status.SUCCEEDED),
    "answered and failed": (Status.SUCCEEDED, Status.FAILED),
    "failed and refused": (Status.FAILED, Status.QUARANTINED),
}


@pytest.mark.parametrize("statuses", RIVALS.values(), ids=RIVALS)
def test_a_study_that_two_hosts_end_has_one_answer_in_every_order_of_their_calls(statuses: tuple[Status, Status], tmp_path: Path) -> None:
    steps = [ends(host, STUDY, status, tmp_path) for host, status in zip(("i-1", "i-2"), statuses, strict=True)]
    winners, plays = set(), 0
    for stage in every_order(lambda: [act(step) for step in steps]):
        found = answers(stage.bucket)
        assert stage.results == [list(found.values())] * 2, "both hosts know which answer counts"
        assert strays(stage.bucket, found) == set()
        winners |= {end.host.instance_id for end in found.values()}
        plays += 1
    assert winners == {"i-1", "i-2"}
    assert plays > 80


def test_a_job_ends_as_a_whole_or_study_by_study_in_every_order_of_two_hosts_calls(tmp_path: Path) -> None:
    whole = ends("i-1", "", Status.FAILED, tmp_path)
    one, other = ends("i-2", STUDY, Status.SUCCEEDED, tmp_path), ends("i-3", OTHER, Status.FAILED, tmp_path)
    seen = set()
    for stage in every_order(lambda: [act(whole), act(one, other)]):
        found = answers(stage.bucket)
        assert strays(stage.bucket, found) == set()
        if "" in (end.study for end in found.values()):
            assert stage.results == [list(found.values()), list(found.values()) * 2]
        else:
            assert isinstance(stage.results[0], StudiesDecidedError), "the job comes again, and finds what is decided"
            assert stage.results[1] == [end for host in ("i-2", "i-3") for end in found.values() if end.host.instance_id == host]
        seen.add(len(found))
    assert seen == {1, 2}


def test_studies_of_one_job_that_end_at_the_same_time_keep_each_others_decisions(tmp_path: Path) -> None:
    for stage in every_order(lambda: [act(ends(host, study, Status.FAILED, tmp_path)) for host, study in (("i-1", STUDY), ("i-2", OTHER))]):
        assert {end.study for end in answers(stage.bucket).values()} == {STUDY, OTHER}


@pytest.mark.parametrize("statuses", RIVALS.values(), ids=RIVALS)
def test_whoever_comes_next_ends_what_two_hosts_began_before_they_died(statuses: tuple[Status, Status], tmp_path: Path) -> None:
    steps = [ends(host, STUDY, status, tmp_path) for host, status in zip(("i-1", "i-2"), statuses, strict=True)]
    last = ends("i-3", STUDY, Status.SUCCEEDED, tmp_path)
    winners = set()
    for stage in every_death([act(steps[0]), act(steps[1]), act(last)]):
        found = answers(stage.bucket)
        assert stage.results == [list(found.values())]
        assert len(found) == 1
        (winner,) = found.values()
        if winner.status is Status.SUCCEEDED:
            assert "mesh" in {item.kind for item in winner.outputs}
            assert not [key for key in strays(stage.bucket, found) if key.startswith("output/")]
        winners.add(winner.host.instance_id)
    assert winners == {"i-1", "i-2", "i-3"}


def test_a_file_that_the_death_of_its_host_kept_from_the_bucket_is_not_named_by_the_record(tmp_path: Path) -> None:
    bucket = Bucket()
    left = output_key(STUDY, JOB, "preview.png")
    bucket.objects[left] = b"of a try that died before"
    calls = ["mesh", "preview, refused", "decide"]
    died = Stage(bucket, [act(ends("i-1", STUDY, Status.SUCCEEDED, tmp_path))], {0: len(calls)}).play()
    assert isinstance(died.results[0], Died)
    assert [end.host.instance_id for end in read_progress(Store(bucket, "studies"), JOB).decisions.ends] == ["i-1"]  # type: ignore[arg-type]
    Stage(bucket, [looks]).play()
    (end,) = answers(bucket).values()
    assert [item.kind for item in end.outputs] == ["mesh"]
    assert left not in bucket.objects


def test_an_answer_to_a_write_that_was_lost_on_the_way_changes_nothing() -> None:
    class Repeating(Bucket):
        """The SDK repeats a call whose answer it did not get: the first was carried out."""

        def put_object(self, **options: Any) -> dict[str, Any]:
            super().put_object(**options)
            return super().put_object(**options)

    ours = record("i-1", STUDY, Status.FAILED)
    assert decide(Store(Repeating(), "studies"), ours) == ours  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", '{"job": "x"}', '{"job": "x", "ends": [1]}', '{"job": "x", "ends": [{"schema": "?"}]}']
)
def test_damaged_decisions_are_named_as_such(text: str) -> None:
    with pytest.raises(ContractError):
        Decisions.from_json(text)


def test_the_bucket_of_these_plays_refuses_what_s3_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")

    def story(client: Any) -> list[str]:
        told = []
        for body, condition in (
            (b"1", {"IfMatch": '"none"'}),
            (b"1", {"IfNoneMatch": "*"}),
            (b"2", {"IfNoneMatch": "*"}),
            (b"2", {"IfMatch": '"other"'}),
            (b"2", {"IfMatch": f'"{hashlib.md5(b"1", usedforsecurity=False).hexdigest()}"'}),
        ):
            try:
                told.append(client.put_object(Bucket="studies", Key="k", Body=body, **condition)["ETag"])
            except ClientError as refused:
                told.append(refused.response["Error"]["Code"])
        answer = client.get_object(Bucket="studies", Key="k")
        (page,) = client.get_paginator("list_objects_v2").paginate(Bucket="studies", Prefix="k")
        told += [answer["ETag"], answer["Body"].read().decode(), page["Contents"][0]["ETag"]]
        client.delete_object(Bucket="studies", Key="k")
        try:
            client.get_object(Bucket="studies", Key="k")
        except ClientError as refused:
            told.append(refused.response["Error"]["Code"])
        return told

    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="studies")
        assert story(Bucket()) == story(s3)
