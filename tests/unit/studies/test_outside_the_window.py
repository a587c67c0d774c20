"""What works on studies that are no partitions any more: every mode of ``rerun_studies``, whose answers bring them back.

``studies_by_map``, ``unanswered_studies`` and the checks are tested in ``test_checks_sensor``, where no study ever is a partition.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from dagster import DagsterInstance

from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.studies.rerun import Reruns
from monai_aws_pipeline.studies.results_index import Cursor
from monai_aws_pipeline.studies.sensor import tick
from tests.unit.studies.records import DIGEST, OTHER_DIGEST
from tests.unit.studies.rerun_bench import Deployment, work_off
from tests.unit.studies.test_rerun_job import Job, answer_well, shown


class Site(Job):
    """A deployment with one study that was answered and one that failed; neither is a partition any more."""

    def __init__(self, instance: DagsterInstance, deployment: Deployment) -> None:
        super().__init__(instance, deployment)
        self.old, self.broken = self.answered(1), self.failed(2)
        for study in (self.old, self.broken):
            instance.delete_dynamic_partition("study", study)

    @property
    def partitions(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions("study"))


@pytest.fixture
def site(instance: DagsterInstance, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Site:
    deployment.make_live(OTHER_DIGEST)
    monkeypatch.setattr(Reruns, "wake", lambda _: work_off(deployment, answer_well))
    return Site(instance, deployment)


def test_every_mode_of_a_re_run_means_them_too(site: Site):
    assert site.listed({"these": {"studies": [site.broken, site.old]}}) == [site.broken, site.old]
    assert site.listed({"failed": {"since": "2026-03-14"}}) == [site.broken]
    assert site.listed({"answered_by": {"map": DIGEST}}) == [site.old]
    assert site.listed({"stale": {}}) == [site.old]
    assert site.partitions == []


def test_their_new_answers_bring_them_back(site: Site):
    assert shown(site.run({"these": {"studies": [site.old, site.broken]}}))["ends"].value == "2 answered"
    bucket = site.deployment.bucket
    recording, _ = tick(site.instance, ResultsStore(bucket.s3, bucket.name), Cursor(), datetime.now(UTC))
    assert set(recording.studies) >= {site.old, site.broken}
