"""The golden gate on a real build machine: a good image is pushed with its list of contents, a bad one is not pushed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import AssetCheckEvaluation, AssetCheckKey, AssetCheckSeverity, AssetKey, Failure

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.contract import ROLE_MAP_BUILD, golden_key, sbom_key
from monai_aws_pipeline.deployment import golden_gate
from monai_aws_pipeline.deployment.golden_gate import GateReport
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.maps.build_context import is_stage_tag
from monai_aws_pipeline.maps.golden import Golden
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.remote import Remote
from monai_aws_pipeline.settings import Settings
from tests.support.platform import TINY_APP, Platform, platform
from tests.support.studies import tiny_study_zip

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(TINY_APP, folder / "app")
    variables = {"MONAI_AWS_APP_SOURCE": str(folder / "app"), **golden_study(folder, "tiny")}
    with platform(local_cloud, "golden", folder, **variables) as made:
        assert made.materialize("gpu_ami").success
        yield made


def golden_study(folder: Path, wish: str) -> dict[str, str]:
    """A study that makes the application behave, and the settings that name it."""
    path = folder / f"{wish.replace(':', '-')}.zip"
    path.write_bytes(tiny_study_zip(wish=wish))
    return {"MONAI_AWS_GOLDEN_STUDY": str(path), "MONAI_AWS_GOLDEN_STUDY_SHA256": hashlib.sha256(path.read_bytes()).hexdigest()}


def pushed(place: Platform) -> list[str]:
    """Tags in the repository, those of kept build stages left out."""
    found = place.clients.ecr.describe_images(repositoryName=place.settings.ecr_repository)["imageDetails"]
    return sorted(tag for image in found for tag in image.get("imageTags", []) if tag.startswith("0.1.0-"))


def kept_stages(place: Platform) -> list[str]:
    """Tags of kept build stages."""
    found = place.clients.ecr.describe_images(repositoryName=place.settings.ecr_repository)["imageDetails"]
    return sorted(tag for image in found for tag in image.get("imageTags", []) if is_stage_tag(tag))


def test_what_misses_is_not_pushed_and_what_answers_well_is(place: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expectation = Path(place.settings.app_source) / "golden" / "expect.yaml"
    right = expectation.read_text()
    expectation.write_text(right.replace("max: 18", "max: 17.6"))
    with pytest.raises(Failure, match=r"volume of Bright: expected from 17\.5 to 17\.6 ml, found 17\.8 ml"):
        place.materialize("map_image")
    assert pushed(place) == []
    assert len(kept_stages(place)) == 1, "the dependencies, which a corrected expectation needs not to build again"
    assert place.machines(ROLE_MAP_BUILD) == []

    genuine = golden_gate.hold

    def bad_studies_first(remote: Remote, image: str, golden: Golden, settings: Settings, work: Path, report: Report) -> GateReport | None:
        """What an application does that fails or writes nothing, on the machine that is there anyway."""
        for wish, words in (("tiny:fail", "map_failed: .*exit code 3"), ("tiny:nothing", "no_output")):
            bad = replace(golden, study=Path(golden_study(tmp_path, wish)["MONAI_AWS_GOLDEN_STUDY"]))
            with pytest.raises(Failure, match=f"the MAP was not pushed(.|\n)*application: expected answers the study, found {words}"):
                genuine(remote, image, bad, settings, work / wish[5:], report)
        return genuine(remote, image, golden, settings, work / "good", report)

    monkeypatch.setattr(golden_gate, "hold", bad_studies_first)
    expectation.write_text(right)
    metadata = place.materialize("map_image").asset_materializations_for_node("map_image")[0].metadata
    study = place.settings.golden_study_sha256
    assert metadata["stages_reused"].value == "dependencies"
    assert str(metadata["imports"].value).startswith("passed (")
    assert metadata["golden"].value == f"passed ({study})"
    points = {record.data["point"]: record.data for record in metadata["golden_points"].value.records}  # type: ignore[union-attr]
    assert points["volume of Bright"]["found"] == "17.8 ml"
    assert all(point["met"] for point in points.values())
    assert len(pushed(place)) == 1
    assert place.read(golden_key(study)) == Path(place.settings.golden_study).read_bytes()

    document = json.loads(place.read(sbom_key(metadata["digest"].value)))  # type: ignore[arg-type]
    names = {component["name"]: component.get("version") for component in document["components"]}
    assert names["pydicom"] == "3.0.2"
    assert metadata["sbom_debian"].value > 10  # type: ignore[operator]
    assert metadata["sbom"].value == Addresses.of(place.settings).s3_link(sbom_key(metadata["digest"].value))  # type: ignore[arg-type]


def test_what_ecr_found_is_a_warning_by_severity_and_no_scan_is_no_pass(place: Platform, local_cloud: LocalCloud):
    def checked() -> AssetCheckEvaluation:
        (record,) = place.instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(AssetKey("map_image"), "map_vulnerabilities"), limit=1
        )
        assert record.evaluation is not None
        return record.evaluation

    first = checked()
    digest = str(first.metadata["digest"].value)
    assert (first.passed, first.severity, first.metadata["scan_status"].value) == (False, AssetCheckSeverity.WARN, "NOT_SCANNED")
    findings = [{"name": "CVE-2026-0001", "severity": "CRITICAL"}, {"name": "CVE-2026-0002", "severity": "LOW"}]
    local_cloud.plant_scan(repository=place.settings.ecr_repository, digest=digest, findings=findings)
    assert place.materialize("map_image").asset_materializations_for_node("map_image")[0].metadata["reused"].value is True
    second = checked()
    assert (second.passed, second.metadata["critical"].value, second.metadata["low"].value) == (False, 1, 1)
    assert second.metadata["worst"].value == ["CRITICAL: CVE-2026-0001", "LOW: CVE-2026-0002"]
    local_cloud.plant_scan(repository=place.settings.ecr_repository, digest=digest, findings=findings[1:])
    place.materialize("map_image")
    assert checked().passed
