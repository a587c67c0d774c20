"""Many re-runs at once: what is waited for is said, each study has its end as soon as it is there, and none is waited for without bound."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.contract import processed_key
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.studies import rerun
from monai_aws_pipeline.studies.rerun_batch import Meant, RerunBatch, RerunEnd
from tests.unit.studies.records import OTHER_DIGEST, job_of, study_of
from tests.unit.studies.rerun_bench import STUDY, Deployment, work_off
from tests.unit.studies.test_rerun_job import answer_well


class Waiting:
    """A batch of one deployment on a clock of its own, at which nothing is heard for ``silence`` seconds at most."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.now, self.heard_at, self.silence, self.leap = deployment, 0.0, 0.0, 0.0, 0.0
        self.said: list[str] = []
        store = ResultsStore(deployment.bucket.s3, deployment.bucket.name)
        self.batch = RerunBatch(deployment.reruns, store, 2, self.hear, self.sleep, lambda: self.now)

    def hear(self, line: str) -> None:
        self.silence = max(self.silence, self.now - self.heard_at)
        self.heard_at = self.now
        self.said.append(line)

    def sleep(self, seconds: float) -> None:
        self.now += self.leap or seconds
        if 60 <= self.now < 70:
            work_off(self.deployment, answer_well)


@pytest.fixture
def waiting(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    monkeypatch.setattr(rerun, "where", lambda *_: "about 1 waiting in the queue of jobs")
    deployment.make_live(OTHER_DIGEST)
    for number in (2, 3):
        deployment.bucket.put(processed_key(study_of(number), job_of(number), "upload.zip"), b"PK")
    return Waiting(deployment)


def test_it_is_said_every_ten_seconds_how_many_have_ended_and_where_the_others_are(waiting: Waiting):
    ends = [*waiting.batch.run([Meant(STUDY), Meant(study_of(2))])]
    assert [end.record is not None for end in ends] == [True, True]
    assert 60 <= waiting.now < 70
    assert waiting.said[0] == "0 of 2 studies have ended. Waiting for 2 jobs: about 1 waiting in the queue of jobs"
    assert len(waiting.said) >= 5
    assert waiting.silence <= 14


def test_a_study_that_cannot_be_asked_for_has_its_end_before_anything_is_waited_for(waiting: Waiting):
    lost = study_of(9)
    ends = waiting.batch.run([Meant(lost), Meant(STUDY)])
    assert next(ends).study == lost
    assert waiting.now == 0
    assert next(ends).record


def test_each_is_waited_for_with_a_bound_of_its_own(waiting: Waiting):
    ends: list[RerunEnd] = []
    for end in waiting.batch.run([Meant(study_of(number)) for number in (1, 2, 3)]):
        ends.append(end)
        if len(ends) == 2:  # both were answered at once, and the third is queued; its host never comes
            waiting.leap, queued_at = 600.0, waiting.now
    assert [end.record is not None for end in ends] == [True, True, False]
    assert "stays queued" in ends[-1].refused
    assert 0 < waiting.now - queued_at - waiting.deployment.reruns.bound <= 1200
