"""Where a job is, as browsers are told it: from one look for all of them, until the job has ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import JobDone, ResultRecord, job_done_key, utc_text
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.status import Depth, HostWork, JobAtWork, MachineState
from monai_aws_pipeline.operations.whereabouts import Surroundings
from monai_aws_pipeline.portal import events, live
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import Portal, build_app
from monai_aws_pipeline.portal.live import Seen, Watcher, end_of, seen_of
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.texts import TEXTS
from monai_aws_pipeline.portal.uploads import MIB, Uploads
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

LINKS = "http://127.0.0.1:3070"
J = job_of(1)
NOTHING = Surroundings(Depth(0, 0), Depth(0, 0))


pytestmark = pytest.mark.usefixtures("aws")


def watcher_of(bucket: Bucket, look: Callable[[], Surroundings] = lambda: NOTHING) -> Watcher:
    return Watcher(ResultsStore(bucket.s3, bucket.name), look)


def done(bucket: Bucket, *records: ResultRecord) -> None:
    """As a host ends a job: records, entries, marker."""
    for record in records:
        bucket.commit(record)
    job = records[0].job
    marker = JobDone(job, tuple(record.commit_key for record in records), records[0].committed_at)
    bucket.put(job_done_key(job), marker.to_json())


def at_work(phase: str) -> Surroundings:
    return Surroundings(Depth(0, 0), Depth(0, 1), (host("i-1", "running", HostWork("running", (JobAtWork(J, phase, 3, 1),))),))


def host(name: str, state: str, work: HostWork | None = None) -> MachineState:
    return MachineState(name, "inference", state, "g4dn.xlarge", work=work)


@pytest.mark.parametrize(
    ("surroundings", "state"),
    [
        (None, "unknown"),
        (NOTHING, "queued"),
        (Surroundings(Depth(0, 0), Depth(3, 0), (host("i-1", "stopped"),)), "queued"),
        (Surroundings(Depth(0, 0), Depth(1, 0), (host("i-1", "pending"),)), "starting"),
        (Surroundings(Depth(0, 0), Depth(1, 0), (host("i-1", "running", HostWork("stopped")),)), "starting"),
        (Surroundings(Depth(0, 0), Depth(1, 0), (host("i-1", "running", HostWork("running")), host("i-2", "pending"))), "queued"),
        (at_work("fetching"), "fetching"),
        (at_work("waiting"), "fetching"),
        (at_work("pulling"), "running"),
        (at_work("inferring"), "running"),
        (at_work("publishing"), "publishing"),
        (at_work("somethingnew"), "running"),
    ],
)
def test_a_job_is_where_queues_and_hosts_say(surroundings: Surroundings | None, state: str):
    seen = seen_of(J, surroundings)
    assert seen.state == state
    assert f"state_{state}" in TEXTS
    assert not seen.over


@pytest.mark.parametrize(
    ("after", "state"),
    [
        (host("i-1", "running"), "running"),
        (host("i-1", "running", HostWork("unknown", reason="no answer within 20 s")), "running"),
        (host("i-1", "running", HostWork("running")), "queued"),
        (host("i-1", "stopping"), "queued"),
    ],
)
def test_a_job_stays_where_it_was_while_its_host_does_not_answer(after: MachineState, state: str):
    before = seen_of(J, at_work("inferring"))
    assert seen_of(J, Surroundings(Depth(0, 0), Depth(0, 1), (after,)), before).state == state


def test_a_job_whose_studies_are_not_all_answered_is_refused_with_cause_and_remedy():
    assert end_of((succeeded(1),)).state == "done"
    seen = end_of((succeeded(1), refused(1, study=study_of(2))))
    assert seen.state == "refused"
    assert [(each.status, each.code) for each in seen.ended] == [("succeeded", ""), ("quarantined", "NOT_A_ZIP")]
    assert "Upload one study as a .zip." in seen.ended[1].why
    assert seen.ended[0].page == f"/studies/{study_of(1)}/{J}/"


def test_an_answer_is_seen_at_the_next_look(bucket: Bucket):
    watcher = watcher_of(bucket)
    watcher._jobs[J] = live._Followed(1)  # no thread looks beside this test
    watcher.look_around()
    watcher.look_at_results()
    assert watcher.seen(J).state == "queued"
    done(bucket, succeeded(1, at=datetime.now(UTC)))
    watcher.look_at_results()
    assert watcher.seen(J) == end_of((succeeded(1, at=datetime.now(UTC)),))
    watcher.look_around()
    assert watcher.seen(J).over, "it stays ended"


def test_many_jobs_are_looked_for_with_one_list(bucket: Bucket):
    watcher = watcher_of(bucket)
    for number in range(50):
        watcher._jobs[job_of(number)] = live._Followed(1, asked_at=watcher._clock())
    asked: list[str] = []
    bucket.s3.meta.events.register("before-call.s3.*", lambda model, **_: asked.append(model.name))
    watcher.look_at_results()
    assert asked == ["ListObjectsV2"]


def test_what_cannot_be_looked_at_keeps_what_was_known_and_is_looked_at_again(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "SURROUNDINGS_SECONDS", 0.01)
    monkeypatch.setattr(live, "IDLE_SECONDS", 0.01)
    looked, again = [0], threading.Event()

    def look() -> Surroundings:
        looked[0] += 1
        if looked[0] == 1:
            raise live.NamedError("EC2 is away")
        again.set()
        return NOTHING

    watcher = watcher_of(bucket, look)
    assert watcher.follow(J)
    assert again.wait(60), "the thread lives on"
    watcher.leave(J)


def test_nobody_looks_when_nobody_follows_and_somebody_does_again_when_one_comes_back(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(live, "RESULTS_SECONDS", 0.01)
    monkeypatch.setattr(live, "SURROUNDINGS_SECONDS", 0.01)
    watcher = watcher_of(bucket)
    for _ in range(2):
        assert watcher.follow(J)
        assert watcher._looking == {"look_at_results", "look_around"}
        watcher.leave(J)
        for thread in threading.enumerate():
            if thread.name in ("look_at_results", "look_around"):
                thread.join(60)
        assert not watcher._looking


def test_so_many_jobs_are_followed_and_no_more(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "MOST_JOBS", 1)
    watcher = watcher_of(bucket)
    watcher._jobs[J] = live._Followed(1)
    assert not watcher.follow(job_of(2))
    assert watcher.follow(J), "one more of the same costs nothing"


# ------------------------------------------------------------------------------------------------------------------- the stream


@pytest.fixture
def watcher(bucket: Bucket) -> Watcher:
    return watcher_of(bucket)


@pytest.fixture
def browser(bucket: Bucket, watcher: Watcher) -> TestClient:
    clients = Clients("us-east-1")
    files = StudyFiles(clients, bucket.name)
    portal = Portal(Uploads(clients, bucket.name, 64 * MIB), watcher, lambda study, failed: "")
    return TestClient(build_app(files, Addresses(bucket.name, links=LINKS), portal), base_url=LINKS)


def told(browser: TestClient) -> list[dict[str, Any]]:
    answer = browser.get(f"/api/jobs/{J}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_the_stream_ends_with_the_job(browser: TestClient, bucket: Bucket, watcher: Watcher):
    done(bucket, succeeded(1, at=datetime.now(UTC)))
    last = told(browser)[-1]
    assert last["state"] == "done"
    assert last["ended"][0]["page"] == f"/studies/{study_of(1)}/{J}/"
    assert not watcher._jobs, "nobody follows it any more"


def test_the_stream_of_a_job_without_an_end_ends_too(browser: TestClient, monkeypatch: pytest.MonkeyPatch, watcher: Watcher):
    monkeypatch.setattr(events, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(events, "_ALIVE_SECONDS", 0.01)
    for route in browser.app.routes:  # type: ignore[attr-defined]
        if route.path == "/api/jobs/{job}/events":
            monkeypatch.setattr(route.endpoint.__self__, "_seconds", 0.1)
    text = browser.get(f"/api/jobs/{J}/events").text
    assert ": alive" in text
    assert not watcher._jobs


@pytest.mark.parametrize("job", ["x", J.upper(), J[:-1], "..", "%2e%2e"])
def test_what_is_no_job_has_no_stream(browser: TestClient, job: str):
    assert browser.get(f"/api/jobs/{job}/events").status_code == 404


def test_so_many_streams_are_held_and_no_more(browser: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events, "MOST_STREAMS", 0)
    answer = browser.get(f"/api/jobs/{J}/events")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_the_page_of_a_job_says_where_it_is_looked_for(browser: TestClient):
    page = browser.get(f"/follow/{J}", headers={"accept-language": "es"}).text
    assert f'data-job="{J}"' in page
    assert "En cola" in page
    assert browser.get("/follow/x").status_code == 404


def test_every_state_and_phase_has_words():
    assert {f"about_{phase}" for phase in live._STATES} <= set(TEXTS)
    assert Seen("unknown").state not in live._STATES


def test_a_record_that_is_damaged_does_not_end_the_looking(bucket: Bucket, watcher: Watcher):
    record = bucket.commit(succeeded(1, at=datetime.now(UTC)))
    bucket.put(job_done_key(J), JobDone(J, (record.commit_key,), utc_text(datetime.now(UTC))).to_json())
    bucket.put(record.commit_key, "{")
    watcher._jobs[J] = live._Followed(1)
    watcher.look_at_results()
    assert not watcher.seen(J).over
