"""Materialising a study asks the live MAP once, waits with bounds, and says what happened. And an older MAP's study is stale."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance, DataVersion, Definitions, MaterializeResult, asset, materialize
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.cloud import waiting
from monai_aws_pipeline.cloud.registry import PushedImage
from monai_aws_pipeline.cloud.waiting import wait_until
from monai_aws_pipeline.contract import Rerun, ResultRecord, Status, processed_key, quarantine_key
from monai_aws_pipeline.deployment.live_map import LIVE_MAP, change_events, live_map
from monai_aws_pipeline.operations.errors import NotAnsweredError
from monai_aws_pipeline.operations.failures import failures
from monai_aws_pipeline.operations.live_map_change import Change
from monai_aws_pipeline.operations.promotion import Kind
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.studies import rerun
from monai_aws_pipeline.studies.inference_result import inference_result
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, current_versions, event_of
from monai_aws_pipeline.studies.recorded import standing_failures
from monai_aws_pipeline.studies.rerun import NoLiveMapError, NoOriginalError, Reruns, TooManyAttemptsError
from tests.unit.studies.records import DIGEST, NOON, OTHER_DIGEST, Bucket, job_of, picture, study_of, succeeded
from tests.unit.studies.rerun_bench import STUDY, Deployment, fail, failed_upload

HOUR = timedelta(hours=1)


def test_the_live_map_is_asked_about_the_latest_original(deployment: Deployment, bucket: Bucket):
    deployment.make_live(OTHER_DIGEST)
    asked = deployment.reruns.ask(STUDY)
    (message,) = deployment.queued()
    assert message.key == processed_key(STUDY, job_of(1), "upload.zip")
    assert (message.request, message.job) == (OTHER_DIGEST, asked.job)
    assert message.size == 8


def test_the_same_map_and_original_are_one_job_and_an_answered_one_is_not_queued_again(deployment: Deployment):
    deployment.make_live(OTHER_DIGEST)
    first = deployment.reruns.ask(STUDY)
    answered = deployment.answer()
    again = deployment.reruns.ask(STUDY)
    assert (again.job, again.answer) == (first.job, answered)
    deployment.bucket.delete(answered.commit_key)
    hours = count(0, 3600)
    assert deployment.reruns.wait(again, lambda _: None, lambda: next(hours)) == answered, "it was read when it was asked for"
    assert deployment.queued() == []


def test_without_a_live_map_or_an_original_the_remedy_is_named(deployment: Deployment):
    with pytest.raises(NoLiveMapError, match="Materialise inference_host first"):
        deployment.reruns.ask(STUDY)
    deployment.make_live(OTHER_DIGEST)
    with pytest.raises(NoOriginalError, match="Upload it again"):
        deployment.reruns.ask(study_of(2))


def test_the_wait_reports_progress_and_ends(deployment: Deployment):
    deployment.make_live(OTHER_DIGEST)
    asked = deployment.reruns.ask(STUDY)
    now = [0.0]

    def sleep(_: float) -> None:
        now[0] += 600

    with pytest.raises(NotAnsweredError, match="stays queued"):
        deployment.reruns.wait(asked, sleep, lambda: now[0])
    assert now[0] < 3 * 3600 + 600
    assert any("about 1 waiting in the queue of jobs, so none before it" in line for line in deployment.log)


def test_the_wait_says_every_ten_seconds_what_is_waited_for(deployment: Deployment):
    deployment.make_live(OTHER_DIGEST)
    asked = deployment.reruns.ask(STUDY)
    deployment.log.clear()
    now, heard, silences = 0.0, 0, [0.0]

    def sleep(seconds: float) -> None:
        nonlocal now, heard
        now += seconds
        silences[-1] = max(silences[-1], seconds) if len(deployment.log) > heard else silences[-1] + seconds
        if len(deployment.log) > heard:
            heard = len(deployment.log)
            silences.append(seconds)
        if now > 60:
            deployment.answer()

    deployment.reruns.wait(asked, sleep, lambda: now)
    assert max(silences) <= 14
    assert deployment.log[0] == f"Waiting for job {asked.job}", "it is said before anybody is asked where that is"
    assert "about 1 waiting in the queue of jobs, so none before it; there is no inference host: materialise" in deployment.log[1]


def test_the_wait_is_told_also_while_a_host_does_not_say_what_it_has_in_hand(deployment: Deployment, monkeypatch: pytest.MonkeyPatch):
    deployment.make_live(OTHER_DIGEST)
    asked = deployment.reruns.ask(STUDY)

    def asks_a_host(*_: object) -> str:
        wait_until(lambda: "(for" in deployment.log[-1], bool, 10, what="")
        deployment.answer()
        return "in hand"

    monkeypatch.setattr(waiting, "EVERY_S", 0.1)
    monkeypatch.setattr(rerun, "where", asks_a_host)
    deployment.reruns.wait(asked)
    said = deployment.log.index(f"Waiting for job {asked.job}: in hand")
    assert deployment.log[said - 1].startswith(f"Waiting for job {asked.job} (for ")


def test_a_failed_study_is_asked_from_quarantine_and_the_request_says_which_study_of_the_upload_is_meant(deployment: Deployment):
    deployment.make_live(DIGEST)
    study, other = study_of(7), study_of(8)
    upload = failed_upload(deployment, 7, study=study)
    asked = {name: deployment.reruns.ask(name, [upload.job]) for name in (study, other)}
    found = {message.job: message for message in deployment.queued()}
    for name in (study, other):
        message = found[asked[name].job]
        assert message.key == quarantine_key(upload.job, "upload.zip")
        assert message.rerun == Rerun(DIGEST, name)


def test_the_newest_original_is_asked_about_wherever_it_is_kept(deployment: Deployment):
    deployment.make_live(DIGEST)
    upload = failed_upload(deployment, 7)
    assert deployment.reruns.original(STUDY, [upload.job]).key == quarantine_key(upload.job, "upload.zip")
    deployment.bucket.s3.delete_object(Bucket=deployment.bucket.name, Key=quarantine_key(upload.job, "upload.zip"))
    assert deployment.reruns.original(STUDY, [upload.job]).key == processed_key(STUDY, job_of(1), "upload.zip")


def test_a_failed_study_whose_original_is_not_kept_is_a_named_refusal(deployment: Deployment):
    deployment.make_live(DIGEST)
    study = study_of(7)
    upload = failed_upload(deployment, 7, None, study)
    with pytest.raises(NoOriginalError, match="expired") as refusal:
        deployment.reruns.ask(study, [upload.job])
    assert refusal.value.remedy == "Upload it again."
    assert deployment.queued() == []


def test_after_a_failure_the_same_map_is_really_asked_again_and_a_second_click_is_the_same_job(deployment: Deployment):
    deployment.make_live(DIGEST)
    jobs = []
    for attempt in range(3):
        asked, twice = deployment.reruns.ask(STUDY), deployment.reruns.ask(STUDY)
        assert asked == twice
        assert (asked.attempt, asked.answer) == (attempt, None)
        jobs.append(fail(deployment).job)  # of both messages, which are one job
    assert len(set(jobs)) == 3


def test_an_attempt_that_is_answered_is_not_asked_again(deployment: Deployment):
    deployment.make_live(OTHER_DIGEST)
    deployment.reruns.ask(STUDY)
    fail(deployment)
    second = deployment.reruns.ask(STUDY)
    answered = deployment.answer()
    again = deployment.reruns.ask(STUDY)
    assert (again.job, again.answer, deployment.queued()) == (second.job, answered, [])


def test_an_answer_that_is_older_than_the_last_failure_is_not_handed_out_again_but_the_map_asked_anew(deployment: Deployment):
    deployment.make_live(DIGEST)
    deployment.reruns.ask(STUDY)
    first = deployment.answer(DIGEST)
    deployment.make_live(OTHER_DIGEST)
    deployment.reruns.ask(STUDY)
    failure = fail(deployment, at=NOON + HOUR)
    deployment.make_live(DIGEST)
    assert deployment.reruns.ask(STUDY, failed_at=NOON).answer == first, "it was answered since"
    again = deployment.reruns.ask(STUDY, failed_at=NOON + HOUR)
    assert (again.attempt, again.answer) == (1, None)
    assert deployment.reruns.ask(STUDY, [failure.job]) == again, "who reads S3 alone has the failure's record, and gets the same job"
    store = ResultsStore(deployment.bucket.s3, deployment.bucket.name)
    assert [row.job for row in failures(store, NOON - HOUR, NOON + 3 * HOUR).rows] == [failure.job]
    second = deployment.answer(DIGEST, NOON + 2 * HOUR)
    assert deployment.reruns.ask(STUDY, [failure.job], NOON + HOUR).answer == second
    assert failures(store, NOON - HOUR, NOON + 3 * HOUR).rows == ()


def test_what_fails_for_ever_is_not_asked_for_ever(deployment: Deployment, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rerun, "MAX_ATTEMPTS", 2)
    deployment.make_live(OTHER_DIGEST)
    for _ in range(2):
        deployment.reruns.ask(STUDY)
        fail(deployment)
    with pytest.raises(TooManyAttemptsError, match="2 times"):
        deployment.reruns.ask(STUDY)
    deployment.make_live(DIGEST)
    assert deployment.reruns.ask(STUDY).attempt == 0, "another MAP is asked anew"


def test_a_host_that_cannot_be_woken_at_once_only_delays_the_job(deployment: Deployment):
    deployment.make_live(OTHER_DIGEST)
    deployment.reruns.ask(STUDY)  # there is no wake function in this account
    assert any("the schedule does within 5 minutes" in line for line in deployment.log)
    assert len(deployment.queued()) == 1


# ------------------------------------------------------------------------------------------------------- in Dagster's own hands


@asset(key="map_image")
def a_map_image() -> MaterializeResult:  # type: ignore[type-arg]
    return MaterializeResult(data_version=DataVersion(BUILT[0]))


@asset(key="s3_trigger")
def a_trigger() -> MaterializeResult:  # type: ignore[type-arg]
    return MaterializeResult(data_version=DataVersion("s3://studies/input/"))


BUILT = [DIGEST]


class Lineage:
    """The graph around ``inference_result``, with Dagster's own judgement of what is stale."""

    def __init__(self, instance: DagsterInstance, deployment: Deployment):
        self.instance, self.deployment = instance, deployment
        self.graph = Definitions(
            assets=[a_map_image, live_map, a_trigger, inference_result], resources=self.resources()
        ).resolve_asset_graph()

    def resources(self) -> dict[str, Any]:
        return {
            "s3": S3Resource(region_name="us-east-1"),
            "cloud": CloudResource(region="us-east-1"),
            "settings": SettingsResource(overrides={"bucket": self.deployment.bucket.name}),
        }

    def build_map(self, digest: str) -> None:
        BUILT[0] = digest
        assert materialize([a_map_image, a_trigger], instance=self.instance).success

    def make_live(self, digest: str) -> None:
        self.deployment.make_live(digest)
        image = PushedImage("registry/map", digest, ("1.0.0-0123456-01234567",), 1, "")
        for event in change_events(Change(Kind.PROMOTE, image, "", "test", "", changed=True)):
            self.instance.report_runless_asset_event(event)

    def release(self, digest: str) -> None:
        self.build_map(digest)
        self.make_live(digest)

    def record(self, record: ResultRecord) -> None:
        self.instance.add_dynamic_partitions("study", [record.study])
        store = ResultsStore(self.deployment.bucket.s3, self.deployment.bucket.name)
        upstream = current_versions(self.instance, [AssetKey("s3_trigger")])
        self.instance.report_runless_asset_event(event_of(store.with_outputs(record), Addresses(store.bucket), upstream))

    def rerun(self, study: str) -> Any:
        return materialize(
            [inference_result, a_map_image, live_map, a_trigger],
            selection=[inference_result],
            instance=self.instance,
            partition_key=study,
            resources=self.resources(),
            raise_on_error=False,
        )

    def judged(self, study: str, key: AssetKey = INFERENCE_RESULT) -> tuple[str, list[str]]:
        resolver = CachingStaleStatusResolver(self.instance, self.graph, LoadingContextForTest(self.instance))
        causes = resolver.get_stale_causes(key, study or None)
        return resolver.get_status(key, study or None).value, [f"{cause.reason}: {cause.dependency_asset_key}" for cause in causes]


@pytest.fixture
def lineage(instance: DagsterInstance, deployment: Deployment) -> Lineage:
    lineage = Lineage(instance, deployment)
    lineage.release(DIGEST)
    return lineage


def test_a_study_answered_by_the_present_map_is_fresh_and_by_an_older_one_stale(lineage: Lineage):
    lineage.record(succeeded(1, digest=DIGEST, outputs=()))
    assert lineage.judged(STUDY) == ("FRESH", [])
    lineage.release(OTHER_DIGEST)
    status, causes = lineage.judged(STUDY)
    assert status == "STALE"
    assert causes == ["has a new dependency data version: " + str(LIVE_MAP)]


def test_a_study_that_an_older_map_answers_after_the_new_one_was_built_is_stale_at_once(lineage: Lineage):
    lineage.release(OTHER_DIGEST)
    lineage.record(succeeded(1, digest=DIGEST, outputs=()))
    assert lineage.judged(STUDY)[0] == "STALE"


def test_building_the_same_map_again_makes_nothing_stale(lineage: Lineage):
    lineage.record(succeeded(1, digest=DIGEST, outputs=()))
    lineage.release(DIGEST)
    assert lineage.judged(STUDY) == ("FRESH", [])


def test_a_map_that_is_built_and_not_live_makes_no_study_stale_and_live_map_behind(lineage: Lineage):
    lineage.record(succeeded(1, digest=DIGEST, outputs=()))
    assert lineage.judged("", LIVE_MAP) == ("FRESH", [])
    lineage.build_map(OTHER_DIGEST)
    assert lineage.judged(STUDY) == ("FRESH", [])
    assert lineage.judged("", LIVE_MAP)[0] == "STALE"


def test_after_a_rollback_the_results_of_the_withdrawn_map_are_stale_and_those_of_the_other_are_not(lineage: Lineage):
    lineage.record(succeeded(1, digest=DIGEST, outputs=()))
    lineage.release(OTHER_DIGEST)
    lineage.record(succeeded(2, digest=OTHER_DIGEST, outputs=()))
    assert (lineage.judged(STUDY)[0], lineage.judged(study_of(2))[0]) == ("STALE", "FRESH")
    lineage.make_live(DIGEST)
    assert (lineage.judged(STUDY)[0], lineage.judged(study_of(2))[0]) == ("FRESH", "STALE")
    assert lineage.judged("", LIVE_MAP)[0] == "STALE", "the newest image is not the live one"


def test_a_refused_job_is_no_result_and_changes_no_freshness(lineage: Lineage):
    lineage.record(succeeded(1, digest=DIGEST, outputs=()))
    lineage.record(replace(succeeded(2), study=STUDY, status=Status.FAILED, outputs=()))
    assert lineage.judged(STUDY) == ("FRESH", [])


def test_materialising_a_stale_study_has_the_live_map_answer_and_makes_it_fresh(lineage: Lineage, monkeypatch: pytest.MonkeyPatch):
    lineage.record(succeeded(1, digest=DIGEST, outputs=()))
    lineage.release(OTHER_DIGEST)
    deployment = lineage.deployment
    monkeypatch.setattr(Reruns, "wake", lambda self: deployment.answer())  # the agent, prompt
    result = lineage.rerun(STUDY)
    assert result.success
    (event,) = result.asset_materializations_for_node("inference_result")
    assert event.metadata["map_digest"].value == OTHER_DIGEST
    assert event.tags["dagster/input_data_version/live_map"] == OTHER_DIGEST
    assert lineage.judged(STUDY) == ("FRESH", [])


def test_a_study_that_failed_with_another_map_since_is_answered_anew_and_its_failure_stands_no_more(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch
):
    deployment, now = lineage.deployment, datetime.now(UTC)
    lineage.instance.add_dynamic_partitions("study", [STUDY])
    monkeypatch.setattr(Reruns, "wake", lambda _: deployment.answer(DIGEST, now - 3 * HOUR))
    assert lineage.rerun(STUDY).success
    lineage.release(OTHER_DIGEST)
    monkeypatch.setattr(Reruns, "wake", lambda _: lineage.record(fail(deployment, at=now - 2 * HOUR)))
    assert not lineage.rerun(STUDY).success
    lineage.make_live(DIGEST)
    monkeypatch.setattr(Reruns, "wake", lambda _: deployment.answer(DIGEST, now - HOUR))
    assert len(standing_failures(lineage.instance, now - 4 * HOUR, 10).rows) == 1
    assert lineage.rerun(STUDY).success
    assert standing_failures(lineage.instance, now - 4 * HOUR, 10).rows == ()


def test_a_rerun_that_fails_for_good_fails_the_run_with_its_reason(lineage: Lineage, monkeypatch: pytest.MonkeyPatch):
    lineage.instance.add_dynamic_partitions("study", [STUDY])
    deployment = lineage.deployment

    monkeypatch.setattr(Reruns, "wake", lambda _: fail(deployment))
    result = lineage.rerun(STUDY)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    shown = failure.step_failure_data.user_failure_data
    assert "The job failed: map_failed: The application ended with exit code 3." in shown.description
    assert "tiny: failing" in shown.description
    assert (shown.metadata["error_code"].value, shown.metadata["application_said_last"].value) == ("map_failed", "tiny: failing")


def test_materialising_a_failed_study_asks_again_from_quarantine_until_it_is_answered(lineage: Lineage, monkeypatch: pytest.MonkeyPatch):
    deployment, study = lineage.deployment, study_of(7)
    lineage.record(failed_upload(deployment, 7, study=study))
    monkeypatch.setattr(Reruns, "wake", lambda _: fail(deployment, study))
    assert not lineage.rerun(study).success

    def answers(_: Reruns) -> None:
        (message,) = deployment.take()
        deployment.bucket.commit(replace(succeeded(7, digest=DIGEST, request=message.request, outputs=()), job=message.job), picture())

    monkeypatch.setattr(Reruns, "wake", answers)
    result = lineage.rerun(study)
    assert result.success
    (event,) = result.asset_materializations_for_node("inference_result")
    assert f"asked by a re-run with | {DIGEST}" in str(event.metadata["details"].value)
    assert lineage.judged(study) == ("FRESH", [])
