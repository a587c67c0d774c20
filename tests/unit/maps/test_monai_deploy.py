"""The official packager runs for real; only ``docker`` is replaced, by a program that writes down how it was called."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.maps import monai_deploy
from monai_aws_pipeline.maps.manifest import parse_app_manifest, parse_package_manifest
from monai_aws_pipeline.maps.monai_deploy import OfficialPackagerError, tag_in
from tests.support.official_packager import Packaged, package

BASE = "nvidia/cuda:13.0.0-runtime-ubuntu24.04"


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    place = tmp_path_factory.mktemp("official")
    model = place / "net.ts"
    model.write_bytes(b"weights")
    return package(place, "examples/brain_mri/app", BASE, model)


def test_docker_is_called_exactly_so(packaged: Packaged):
    (build,) = [call for call in packaged.calls if call[:2] == ["buildx", "build"]]
    scratch = build[-1]
    tag = f"monai-aws-map-x64-workstation-dgpu-linux-amd64:{packaged.plan.tag}"
    assert build[2:-1] == [
        *("--build-arg", "UID=1000", "--build-arg", "GID=1000", "--build-arg", "UNAME=holoscan", "--build-arg", "GPU_TYPE=dgpu"),
        *("--builder", "holoscan_app_builder", "--pull", "--load", "--file", f"{scratch}/Dockerfile"),
        *("--cache-from", f"type=local,src={packaged.folder}/cache", "--cache-from", f"type=registry,ref={BASE}"),
        *("--cache-to", f"type=local,dest={packaged.folder}/cache", "--platform", "linux/amd64", "--tag", tag),
    ]
    assert {call[0] for call in packaged.calls} == {"image", "buildx"}


def test_the_tag_is_read_from_the_packagers_answer(packaged: Packaged):
    assert tag_in(packaged.output.splitlines()) == f"monai-aws-map-x64-workstation-dgpu-linux-amd64:{packaged.plan.tag}"


def test_the_context_is_a_map_of_the_application(packaged: Packaged):
    rendered = packaged.rendered
    manifest = parse_app_manifest((rendered / "map" / "app.json").read_text())
    ours = parse_app_manifest(packaged.plan.app_json)
    assert (manifest.run.command, manifest.run.timeout_s, manifest.sdk) == (ours.run.command, 600, "monai-deploy")
    assert parse_package_manifest((rendered / "map" / "pkg.json").read_text()).models == {"net": "/opt/holoscan/models/net"}
    assert (rendered / "models" / "net" / "net.ts").read_bytes() == b"weights"
    dockerfile = (rendered / "Dockerfile").read_text()
    assert f"FROM {BASE}" in dockerfile


def test_the_image_gets_the_labels_that_the_packager_has_no_option_for(packaged: Packaged):
    first, *labels = monai_deploy.marking("map-x64-workstation-dgpu-linux-amd64:1", packaged.plan).splitlines()
    assert first == "FROM map-x64-workstation-dgpu-linux-amd64:1"
    assert f'LABEL "monai-aws.model-sha256"="{"0" * 64}"' in labels
    assert f'LABEL "org.opencontainers.image.revision"="{packaged.plan.commit}"' in labels
    assert not [line for line in labels if '"tag"' in line or '"base"' in line], "these are the packager's own"


@pytest.mark.parametrize(
    "lines", [[], ["Status: Failure"], ["    Docker Tag: N/A"], ["    Docker Tag: a:1", "    Docker Tag: b:1"], ["Docker Tag: $(id):1"]]
)
def test_an_answer_without_one_image_is_an_error(lines: list[str]):
    with pytest.raises(OfficialPackagerError, match="holoscan-cli"):
        tag_in(lines)
