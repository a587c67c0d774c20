"""The doctor on applications in the shapes of public ones: exactly these findings, no more and no fewer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import requirements
from monai_aws_pipeline.maps.build_context import write_context
from monai_aws_pipeline.maps.doctor import Plan, examine
from monai_aws_pipeline.maps.findings import Finding
from monai_aws_pipeline.maps.imports import Installed
from monai_aws_pipeline.maps.manifest import parse_app_manifest
from monai_aws_pipeline.maps.models import Model
from monai_aws_pipeline.maps.source import Source
from tests.unit.maps.public_shapes import SHAPES, write_shape

PLAN = Plan("nvidia/cuda:13.0.0-runtime-ubuntu24.04", model_uri="weights", model_sha256="0" * 64)
SDK_IS_ADDED = ("sdk", "info", "requirements.txt")
DECODERS = ("decoders", "info", "requirements.txt")
EXPECTED: dict[str, set[tuple[str, str, str]]] = {
    "spleen": {SDK_IS_ADDED, ("series", "info", "app.py:13")},
    "lung": {
        SDK_IS_ADDED,
        DECODERS,
        ("sdk", "error", "requirements.txt:3"),
        ("series", "warning", "app.py:11"),
        ("series", "info", "app.py:4"),
    },
    "mednist": {SDK_IS_ADDED, DECODERS, ("input", "error", "app.py:22")},
    "triton": {DECODERS, ("network", "warning", "app.py:6")},
    "old": {DECODERS, ("sdk", "error", "app.py:7"), ("input", "error", "app.py:12")},
    "total": set(),  # SimpleITK reads DICOM by itself
    "breast": {SDK_IS_ADDED, DECODERS, ("input", "error", "app.py:19")},
    "opencv": {DECODERS, ("imports", "error", "app.py:5")},
    "floating": {DECODERS},
}


def installed(folder: Path) -> Installed:
    """What pip would say: the requirements, with what well-known packages bring along."""
    names = requirements.parse_pins(requirements.requirements_text(folder), "requirements").names
    return Installed(Installed.guessed(names).packages, complete=True)


def source(folder: Path) -> Source:
    return Source(folder, "0" * 40, dirty=True, content_hash="0" * 64)


def found(name: str, folder: Path, plan: Plan = PLAN, *models: Model) -> list[Finding]:
    write_shape(name, folder)
    return examine(source(folder), plan, models, installed(folder))


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_hears_exactly_what_is_wrong_with_it(name: str, tmp_path: Path):
    findings = found(name, tmp_path / "app")
    assert {(each.point, each.severity.value, each.place) for each in findings} == EXPECTED[name]
    assert len(findings) == len(EXPECTED[name]), "nothing is said twice"


def test_the_sdk_that_is_gone_is_one_finding_that_says_what_took_its_place(tmp_path: Path):
    (old,) = [each for each in found("old", tmp_path / "app") if each.point == "sdk"]
    assert "SDK 0.5 or before" in old.message
    for word in ("setup(self, spec)", "op_input.receive", "op_output.emit", "App().run()"):
        assert word in old.remedy


@pytest.mark.parametrize("name", ["spleen", "lung", "breast"])
def test_an_application_that_names_nothing_of_the_sdk_is_built_with_it(name: str, tmp_path: Path):
    folder = write_shape(name, tmp_path / "app")
    context = write_context(source(folder), tmp_path / "context", base_image=PLAN.base_image)
    lines = (context.path / "dependencies" / "requirements.txt").read_text().splitlines()
    assert {"monai-deploy-app-sdk==4.0.0", "holoscan-cu13==4.2.0", "holoscan-cli==4.2.0", "cuda-toolkit[cudart]==13.0.3"} <= set(lines)
    assert context.sdk_version == "4.0.0"


def test_a_version_that_is_a_number_and_other_spellings_of_the_formats_are_built(tmp_path: Path):
    folder = write_shape("floating", tmp_path / "app")
    context = write_context(source(folder), tmp_path / "context", base_image=PLAN.base_image)
    manifest = parse_app_manifest(context.app_json)
    assert (manifest.version, manifest.input_formats, context.version) == ("1.0", ("DICOM",), "1.0")
    assert (context.application / "app.yaml").read_text() == (folder / "app.yaml").read_text(), "the application's own file stays as it is"


def test_a_folder_of_weights_is_a_model(tmp_path: Path):
    weights = tmp_path / "Dataset291"
    (weights / "fold_0").mkdir(parents=True)
    (weights / "plans.json").write_text("{}")
    (weights / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    model = Model("Dataset291", weights, "1" * 64)
    assert {each.point for each in found("total", tmp_path / "app", PLAN, model)} == set()
    context = write_context(source(tmp_path / "app"), tmp_path / "context", base_image=PLAN.base_image, models=[model])
    placed = context.path / "model/opt/holoscan/models/Dataset291/fold_0/checkpoint_final.pth"
    assert placed.read_bytes() == b"weights"


def test_a_network_that_the_settings_give_is_no_finding(tmp_path: Path):
    assert not [each for each in found("triton", tmp_path / "app", replace(PLAN, network="host")) if each.point == "network"]


@pytest.mark.parametrize("name", SHAPES)
def test_without_an_answer_of_pip_no_import_is_more_than_a_warning(name: str, tmp_path: Path):
    folder = write_shape(name, tmp_path / "app")
    findings = examine(source(folder), PLAN)
    assert [each for each in findings if each.point == "imports" and each.severity.value == "error"] == []
