"""Somebody's own application, given by settings alone: from the doctor to an answered study, to a second version, and back to the first.

The application lies in a git repository of its own, reads CT, brings a model file and a package that nothing else here needs.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner
from dagster import AssetKey, AssetRecordsFilter, ExecuteInProcessResult
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import EncapsulatedPDFStorage, JPEGLosslessSV1, generate_uid

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.contract import ROLE_INFERENCE, ResultRecord, Status, processed_key, quarantine_key
from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.studies.lineage import INFERENCE_RESULT, STUDIES, current_versions, event_of
from tests.support.platform import Platform, environment, platform
from tests.support.studies import ct_study, ct_study_zip, datasets_zip, tiny_study_zip

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]

APP = PROJECT_ROOT / "tests" / "apps" / "lung_ct"


@dataclass
class Project:
    """The engineer's own repository and model, outside of this project."""

    repository: Path
    model: Path

    def write_model(self, version: str, low_hu: int) -> str:
        """A model file; returns its SHA-256."""
        self.model.write_text(json.dumps({"version": version, "low_hu": low_hu, "high_hu": -500}))
        return hashlib.sha256(self.model.read_bytes()).hexdigest()

    def release(self, version: str) -> str:
        """Commit the application under a version; returns the commit."""
        folder = self.repository / "inference" / "map"
        shutil.copytree(APP, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        manifest = folder / "app.yaml"
        manifest.write_text(manifest.read_text().replace("version: 1.0.0", f"version: {version}"))
        (self.repository / "README.md").write_text("Training code, papers, and one folder with the application.\n")
        self._git("add", "-A")
        self._git("-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-q", "-m", version)
        return self._git("rev-parse", "HEAD")

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self.repository), *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("own")
    made = Project(folder / "lung-air", folder / "air.json")
    subprocess.run(["git", "init", "-q", "-b", "main", str(made.repository)], check=True)
    return made


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A deployment of that application. Its settings are all that is said about it."""
    project.release("1.0.0")
    golden = project.model.with_name("golden.zip")
    golden.write_bytes(ct_study_zip())
    own = {
        "MONAI_AWS_APP_SOURCE": f"file://{project.repository}",
        "MONAI_AWS_APP_REF": "main",
        "MONAI_AWS_APP_DIR": "inference/map",
        "MONAI_AWS_MODEL_URI": str(project.model),
        "MONAI_AWS_MODEL_SHA256": project.write_model("1", low_hu=-950),
        "MONAI_AWS_STUDIES_AT_ONCE": "1",  # so that a backlog lasts
        "MONAI_AWS_GOLDEN_STUDY": str(golden),
        "MONAI_AWS_GOLDEN_STUDY_SHA256": hashlib.sha256(golden.read_bytes()).hexdigest(),
    }
    with platform(local_cloud, "own", tmp_path_factory.mktemp("own-platform"), **own) as made:
        assert "Nothing is known against" in run(made, "doctor", "app")
        made.adopt_image()
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


def run(place: Platform, *arguments: str) -> str:
    with environment(place.variables):
        done = CliRunner().invoke(cli, [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


def job(place: Platform, name: str, config: dict[str, Any] | None = None) -> ExecuteInProcessResult:
    with environment(place.variables):
        definition = build_defs(place.settings).get_repository_def().get_job(name)
        return definition.execute_in_process(instance=place.instance, run_config=config, raise_on_error=True)


def answer(place: Platform, name: str, **study: Any) -> ResultRecord:
    """Upload a study, wait for the answer, record it in the lineage as the sensor does."""
    uploaded = place.upload(f"input/{name}.zip", ct_study_zip(**study))
    return record(place, uploaded)


def record(place: Platform, uploaded: str) -> ResultRecord:
    (found,) = place.answers([uploaded])[uploaded]
    assert found.status is Status.SUCCEEDED, found.error
    store = ResultsStore(place.clients.s3, place.settings.bucket)
    upstream = current_versions(place.instance, [AssetKey("s3_trigger")])
    place.instance.add_dynamic_partitions(str(STUDIES.name), [found.study])
    place.instance.report_runless_asset_event(event_of(store.with_outputs(found), Addresses(store.bucket), upstream))
    return found


def status(place: Platform, key: AssetKey, study: str = "") -> str:
    graph = build_defs(place.settings).resolve_asset_graph()
    return CachingStaleStatusResolver(place.instance, graph, LoadingContextForTest(place.instance)).get_status(key, study or None).value


def live(place: Platform) -> dict[str, Any]:
    """What the lineage says about the live MAP."""
    (latest,) = place.instance.fetch_materializations(AssetRecordsFilter(AssetKey("live_map")), limit=1).records
    assert latest.asset_materialization is not None
    return {name: value.value for name, value in latest.asset_materialization.metadata.items()}


def parameter(place: Platform) -> str:
    value = place.clients.ssm.get_parameter(Name=place.settings.names.live_map_parameter)["Parameter"]["Value"]
    return value.rpartition("@")[2]


def test_ones_own_application_goes_from_the_doctor_to_an_answered_study_by_settings_alone(place: Platform, project: Project):
    found = answer(place, "chest", study_uid="2.25.4711")
    commit = subprocess.run(["git", "-C", str(project.repository), "rev-parse", "main"], capture_output=True, text=True, check=True)
    assert (found.map.app_version, found.map.commit) == ("1.0.0", commit.stdout.strip())
    assert found.map.model_sha256 == place.variables["MONAI_AWS_MODEL_SHA256"]
    assert found.input.modalities == ("CT",)
    segmentation = next(output for output in found.outputs if output.kind == "dicom-seg")
    dataset = pydicom.dcmread(io.BytesIO(place.read(segmentation.key)))
    assert (dataset.StudyInstanceUID, dataset.SegmentSequence[0].SegmentLabel) == ("2.25.4711", "Air")
    assert live(place)["tag"].startswith("1.0.0-")


def test_a_study_that_the_applications_series_rules_do_not_select_is_refused_before_it_runs(place: Platform):
    uploaded = place.upload("input/head.zip", tiny_study_zip())
    (found,) = place.answers([uploaded])[uploaded]
    assert found.status is Status.QUARANTINED
    assert found.error is not None
    assert found.error.code == "no_matching_series"
    assert not [key for key in place.keys("quarantine/") if uploaded in key and key.endswith("map.log")], "the application never ran"


def changed(item: Dataset, **changes: object) -> Dataset:
    """Another instance of the series with some attributes changed."""
    other = copy.deepcopy(item)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def compressed_without_decoder(items: list[Dataset]) -> list[Dataset]:
    """JPEG Lossless, for which the application's requirements bring nothing. The pixels are none: nobody gets to read them."""
    for item in items:
        item.PixelData = encapsulate([b"\xff\xd8" + bytes(30)])
        item["PixelData"].VR, item["PixelData"].is_undefined_length = "OB", True
        item.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    return items


def odd(change: Callable[[list[Dataset]], list[Dataset]]) -> bytes:
    """A zip of the CT study after a change to it."""
    return datasets_zip(change(ct_study()))


def second_phase(items: list[Dataset]) -> list[Dataset]:
    others = [changed(item, AcquisitionNumber=2, PixelData=item.PixelData[::-1]) for item in items]
    return [*(changed(item, AcquisitionNumber=1) for item in items), *others]


WRONG_ANSWERS: dict[str, tuple[Callable[[list[Dataset]], list[Dataset]], str]] = {
    "two phases in one series": (second_phase, "mixed_series"),
    "a slice is missing": (lambda items: [*items[:2], *items[3:]], "irregular_volume"),
    "a third has no position": (
        lambda items: [*items[:4], *(changed(item, ImagePositionPatient=None) for item in items[4:])], "irregular_volume",
    ),
    "two series that fit": (lambda items: [*items, *(changed(item, SeriesInstanceUID="2.25.5") for item in items)], "ambiguous_series"),
    "three slices": (lambda items: items[:3], "irregular_volume"),
    "inverted pixels": (lambda items: [changed(item, PhotometricInterpretation="MONOCHROME1") for item in items], "unsupported_image"),
    "a compression without decoder": (compressed_without_decoder, "transfer_syntax"),
}  # fmt: skip


def test_a_study_that_would_be_answered_wrongly_is_refused_by_name_before_the_application_runs(place: Platform):
    jobs = {name: place.upload(f"input/odd {number}.zip", odd(change)) for number, (name, (change, _)) in enumerate(WRONG_ANSWERS.items())}
    ends = place.answers(list(jobs.values()), 300)
    for name, (_, code) in WRONG_ANSWERS.items():
        (found,) = ends[jobs[name]]
        assert (found.status, found.error.code if found.error else "") == (Status.QUARANTINED, code), name
        assert found.resources.hosting == "", "the application never ran"
        assert quarantine_key(found.job, "upload.zip") in place.keys("quarantine/")


def test_reports_and_a_doubled_slice_beside_the_images_change_nothing_of_the_answer(place: Platform):
    plain = answer(place, "plain")
    items = ct_study(study_uid="2.25.4713")
    report = changed(items[0], SOPClassUID=EncapsulatedPDFStorage)
    report.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    del report.PixelData, report.Rows, report.Columns
    found = record(place, place.upload("input/with report.zip", datasets_zip([report, *items[::-1], changed(items[2])])))
    assert (found.input.given, found.input.passed_over) == (6, {"Encapsulated PDF Storage": 1})
    assert "1 equal images left out" in found.input.selection[0]
    assert measured(place, found) == measured(place, plain)


def test_an_upload_under_the_name_of_one_that_is_being_answered_does_not_take_its_place(place: Platform):
    first, second = ct_study_zip(wish="slow", study_uid="2.25.4714"), ct_study_zip(study_uid="2.25.4715")
    one = place.upload("input/same name.zip", first)
    wait_inferring(place, one)
    other = place.upload("input/same name.zip", second)
    answers = {job: found for job, (found,) in place.answers([one, other], 240).items()}
    for job, content in ((one, first), (other, second)):
        assert answers[job].status is Status.SUCCEEDED, answers[job].error
        assert place.read(processed_key(answers[job].study, job, "upload.zip")) == content
    place.wait_stopped()
    assert place.keys("input/") == []


def measured(place: Platform, found: ResultRecord) -> bytes:
    """The volumes of a result."""
    return place.read(next(output.key for output in found.outputs if output.kind == "measurements"))


def test_a_second_version_is_built_promoted_and_rolled_back_and_the_lineage_tells_the_studies_apart(place: Platform, project: Project):
    first = parameter(place)
    before = answer(place, "by-first", instances=5)
    assert before.map.digest == first

    commit = project.release("1.1.0")
    place.variables["MONAI_AWS_MODEL_SHA256"] = project.write_model("2", low_hu=-900)  # type: ignore[index]
    assert job(place, "build_map").success
    assert parameter(place) == first, "what is built is not live"
    assert (status(place, AssetKey("live_map")), status(place, INFERENCE_RESULT, before.study)) == ("STALE", "FRESH")

    place.wait_stopped()
    promoted = job(place, "promote_map", {"ops": {"live_map": {"config": {"why": "finds less noise"}}}})
    (said,) = promoted.asset_materializations_for_node("live_map")
    second = parameter(place)
    assert second != first
    assert said.metadata["golden_study"].value == "passed", "by the host, with what the image's labels name"
    assert (live(place)["digest"], live(place)["previous"], live(place)["why"]) == (second, first, "finds less noise")
    assert [host.state for host in place.machines(ROLE_INFERENCE)] == ["stopped"], "the host is left as it was found"

    during = place.upload("input/during.zip", ct_study_zip(instances=4, wish="slow"))
    wait_inferring(place, during)  # until then the MAP is not chosen
    began = time.monotonic()
    job(place, "rollback_map", {"ops": {"take_back": {"config": {"why": "finds too little"}}}})
    assert parameter(place) == first
    took = time.monotonic() - began
    after = answer(place, "after", instances=7)
    within = record(place, during)

    assert (within.map.digest, after.map.digest) == (second, first), "the host changes its MAP between studies and never within one"
    assert (within.map.app_version, within.map.commit) == ("1.1.0", commit)
    assert (before.map.app_version, after.map.app_version) == ("1.0.0", "1.0.0")
    assert within.map.model_sha256 != after.map.model_sha256 == before.map.model_sha256
    assert [status(place, INFERENCE_RESULT, study.study) for study in (before, within, after)] == ["FRESH", "STALE", "FRESH"]
    assert (live(place)["kind"], live(place)["digest"], live(place)["why"]) == ("rollback", first, "finds too little")
    assert took < 60

    listed = {each["tags"][0].partition("-")[0]: each["standing"] for each in json.loads(run(place, "maps", "--json"))}
    assert listed == {"1.0.0": "live", "1.1.0": "withdrawn"}
    place.wait_stopped()


def test_a_deployment_does_not_bring_a_withdrawn_map_back(place: Platform):
    first = parameter(place)
    (made,) = place.materialize("inference_host").asset_materializations_for_node("inference_host")
    assert parameter(place) == first
    assert made.metadata["map_digest"].value == first
    assert "taken back by a rollback" in str(made.metadata["not_made_live"].value)


@pytest.mark.long
def test_a_deployment_asks_a_host_before_a_new_map_takes_the_place_of_another(place: Platform, project: Project):
    first = parameter(place)
    project.release("1.2.0")
    assert place.materialize("map_image", "inference_host").success
    assert parameter(place) != first
    said = live(place)
    assert (said["kind"], said["previous"], said["golden_study"]) == ("deploy", first, "passed")
    assert said["tag"].startswith("1.2.0-")
    place.wait_stopped()


@pytest.mark.long
def test_a_map_is_promoted_while_the_only_host_answers_a_backlog(place: Platform, project: Project):
    first = parameter(place)
    project.release("1.3.0")
    assert job(place, "build_map").success
    uploads = [place.upload(f"input/backlog-{number}.zip", ct_study_zip(instances=4, wish="slow")) for number in range(12)]
    wait_at_work(place)
    assert job(place, "promote_map").success

    second = parameter(place)
    said = live(place)
    assert second != first
    assert (said["kind"], said["previous"], said["golden_study"]) == ("promote", first, "passed")
    digests = [record(place, each).map.digest for each in uploads]
    assert set(digests) == {first, second}, "the golden study came between two studies, and none waited for the backlog's end"
    place.wait_stopped()


def wait_inferring(place: Platform, job: str) -> None:
    """Until a host infers a job. Its board is read as it lies there: asking the agent takes a process as long as a small study."""
    wait_at_work(place)
    (host,) = [machine.id for machine in place.machines(ROLE_INFERENCE) if machine.state == "running"]
    shown = f'"{job}": {{"phase": "inferring"'
    place.on_host(host, f"until grep -qF '{shown}' /run/monai-aws/at-work.json; do sleep 0.1; done", seconds=60)


def wait_at_work(place: Platform, seconds: float = 120) -> None:
    """Until a host has taken a job."""
    trigger = Trigger(place.clients, {})
    queue = trigger.find_queue(place.settings.names.jobs_queue)
    assert queue is not None
    deadline = time.monotonic() + seconds
    while not trigger.depth(queue)[1]:
        assert time.monotonic() < deadline, f"no host took the job: {place.diagnosis()}"
        time.sleep(0.2)
