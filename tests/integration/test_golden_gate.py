"""The golden gate on a real build machine: a good image is pushed and can be proved on any machine later, a bad one is not pushed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetCheckEvaluation, AssetCheckKey, AssetCheckSeverity, AssetKey, Failure

from monai_aws_pipeline.cloud.commands import Commands
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.contract import ROLE_INFERENCE, ROLE_MAP_BUILD, golden_key, sbom_key
from monai_aws_pipeline.deployment.lineage import materialized_version
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.settings import load_settings
from tests.support.platform import TINY_APP, Platform, environment, platform
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


def choose(place: Platform, **variables: str) -> None:
    """Go on with other settings."""
    place.variables = {**place.variables, **variables}
    with environment(place.variables):
        place.settings = load_settings()


def pushed(place: Platform) -> list[str]:
    """Tags in the repository, those of kept build stages left out."""
    found = place.clients.ecr.list_images(repositoryName=place.settings.ecr_repository)["imageIds"]
    return sorted(image["imageTag"] for image in found if image.get("imageTag", "").startswith("0.1.0-"))


def test_the_gate_stops_what_fails_writes_nothing_or_misses_and_lets_a_good_image_pass(place: Platform, tmp_path: Path):
    good = dict(place.variables)
    for wish, words in (("tiny:fail", "map_failed: .*exit code 3"), ("tiny:nothing", "no_output")):
        choose(place, **golden_study(tmp_path, wish))
        with pytest.raises(Failure, match=f"nothing was pushed(.|\n)*{words}"):
            place.materialize("map_image")

    choose(place, **good)
    expectation = Path(good["MONAI_AWS_APP_SOURCE"]) / "golden" / "expect.yaml"
    right = expectation.read_text()
    expectation.write_text(right.replace("max: 18", "max: 17.6"))
    with pytest.raises(Failure, match=r"volume of Bright: expected from 17\.5 to 17\.6 ml, found 17\.8 ml"):
        place.materialize("map_image")
    assert pushed(place) == []
    assert place.machines(ROLE_MAP_BUILD) == []

    expectation.write_text(right)
    metadata = place.materialize("map_image").asset_materializations_for_node("record_map")[0].metadata
    assert metadata["golden"].value == f"passed ({good['MONAI_AWS_GOLDEN_STUDY_SHA256']})"
    points = {record.data["point"]: record.data for record in metadata["golden_points"].value.records}  # type: ignore[union-attr]
    assert points["volume of Bright"]["found"] == "17.8 ml"
    assert all(point["met"] for point in points.values())
    assert len(pushed(place)) == 1
    assert place.read(golden_key(good["MONAI_AWS_GOLDEN_STUDY_SHA256"])) == Path(good["MONAI_AWS_GOLDEN_STUDY"]).read_bytes()

    document = json.loads(place.read(sbom_key(metadata["digest"].value)))  # type: ignore[arg-type]
    names = {component["name"]: component.get("version") for component in document["components"]}
    assert names["pydicom"] == "3.0.2"
    assert metadata["sbom_debian"].value > 10  # type: ignore[operator]
    assert metadata["sbom"].value == f"s3://{place.settings.bucket}/{sbom_key(metadata['digest'].value)}"  # type: ignore[arg-type]


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


def test_a_host_proves_the_pushed_image_by_its_labels(place: Platform):
    assert place.materialize("inference_host").success
    (host,) = place.machines(ROLE_INFERENCE)
    digest = materialized_version(place.instance, "map_image")
    image = Registry(place.clients.ecr, place.settings.ecr_repository).require(digest=digest).reference
    prove = f"systemctl start docker\n/opt/monai-aws/bin/monai-aws-agent prove --image {image}"
    machines = Machines(place.clients.ec2, place.settings.deployment)
    machines.start(host.id)
    commands = Commands(place.clients.ssm)
    commands.wait_online(host.id)
    ended = commands.run(host.id, prove, seconds=120)
    line = json.loads(ended.stdout)
    assert (ended.exit_code, line["golden"], line["digest"]) == (0, "passed", digest), ended.stderr
    assert {"application", "volume of Bright", "peak memory"} <= {point["name"] for point in line["points"]}

    study = golden_key(place.variables["MONAI_AWS_GOLDEN_STUDY_SHA256"])
    place.clients.s3.put_object(Bucket=place.settings.bucket, Key=study, Body=b"another study")
    ended = commands.run(host.id, prove, seconds=120)
    assert ended.exit_code == 3
    assert "was altered" in ended.stderr
