"""What the conformance check reads of an image and how it decides, without a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import zstandard
from botocore.client import BaseClient
from click.testing import CliRunner
from dagster import Failure, build_op_context
from moto import mock_aws

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.registry import ImageParts, ImageScan, LayerBlob
from monai_aws_pipeline.deployment.map_checks import MAX_LAYER_BYTES, chosen_layers, examine, judge_scan, wait_for_scan
from monai_aws_pipeline.deployment.map_image import plan_map, require_sound
from monai_aws_pipeline.maps.doctor import Examination
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.manifest import read_app_config
from monai_aws_pipeline.maps.source import Source
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.support.studies import tiny_study_zip
from tests.unit.maps.map_archives import APP, FILES, IMAGE, PACKAGE
from tests.unit.maps.wheels import make_wheel, pip_knows


def blob(*paths: str) -> bytes:
    texts = {"etc/holoscan/app.json": json.dumps(APP), "etc/holoscan/pkg.json": json.dumps(PACKAGE)}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in paths:
            content = texts.get(path.strip("/"), "x").encode()
            info = tarfile.TarInfo(path.strip("/"))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


TINY_APP = PROJECT_ROOT / "tests" / "apps" / "tiny"
MANIFESTS = ("etc/holoscan/app.json", "etc/holoscan/pkg.json")
PACKAGES, APPLICATION = LayerBlob("sha256:packages", 100), LayerBlob("sha256:application", 10)
HUGE = LayerBlob("sha256:packages", MAX_LAYER_BYTES + 1)


def look(layers: tuple[LayerBlob, ...], **blobs: bytes):
    return examine(ImageParts(IMAGE, layers), lambda layer: blobs[layer.digest.partition(":")[2]])


def test_an_image_is_put_together_from_its_layers():
    seen = look((PACKAGES, APPLICATION), packages=blob(*FILES[-2:]), application=blob(*FILES[:-2], *MANIFESTS))
    assert seen.findings == seen.refused == seen.undecided == seen.unread == ()


def test_what_only_an_unread_layer_can_tell_is_no_finding():
    seen = look((HUGE, APPLICATION), application=blob(*FILES[:-2], *MANIFESTS))
    assert seen.findings == ()
    assert {finding.point for finding in seen.undecided} == {"working-directory"}
    assert seen.unread == (HUGE,)


def test_what_is_missing_is_a_finding_where_every_layer_was_read():
    seen = look((APPLICATION,), application=blob(*FILES[:-2], *MANIFESTS))
    assert {finding.point for finding in seen.findings} == {"working-directory"}


def test_an_image_without_manifests_never_passes():
    assert {finding.point for finding in look((HUGE,)).findings} == {"app.json", "pkg.json"}


def test_a_layer_that_cannot_be_read_fails_the_check_and_one_of_another_compression_is_read():
    good = blob(*FILES, *MANIFESTS)
    assert "damaged" in look((PACKAGES, APPLICATION), packages=gzip.compress(good)[:50], application=good).refused[0]
    assert look((PACKAGES, APPLICATION), packages=b"\x28\xb5\x2f\xfd" + bytes(100), application=good).refused
    assert look((PACKAGES, APPLICATION), packages=zstandard.compress(good), application=good).refused == ()


def test_the_uppermost_layers_are_fetched_and_never_more_than_is_bounded():
    layers = tuple(LayerBlob(f"sha256:{number}", 40) for number in range(5))
    assert chosen_layers(layers, max_layer=40, max_total=100) == {layers[4], layers[3]}
    assert chosen_layers((LayerBlob("sha256:x", 41),), max_layer=40, max_total=100) == set()


def test_a_plan_that_the_doctor_objects_to_asks_aws_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("AWS was asked for something")

    monkeypatch.setattr(BaseClient, "_make_api_call", refuse)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.yaml").write_text("application: {}\n")
    settings = SettingsResource(overrides={"app_source": str(tmp_path / "app"), "cache_dir": str(tmp_path / "cache")})
    with pytest.raises(Failure, match=r"(?s)application.title.*entry-point.*requirements.txt"):
        plan_map(build_op_context(), settings=settings, cloud=CloudResource(region="us-east-1"))


def test_the_command_line_shows_the_same_and_ends_with_exit_code_1_for_errors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(TINY_APP, tmp_path / "app")
    (tmp_path / "app" / "hostile.py").write_text("")  # it tries to reach a network, which the doctor warns of
    monkeypatch.setenv("MONAI_AWS_APP_SOURCE", str(tmp_path / "app"))
    (tmp_path / "packages").mkdir()
    for name, version in (("pydicom", "3.0.2"), ("numpy", "2.4.6")):
        make_wheel(tmp_path / "packages", name, version)
    pip_knows(monkeypatch, tmp_path / "packages")
    (tmp_path / "study.zip").write_bytes(tiny_study_zip())
    monkeypatch.setenv("MONAI_AWS_BUCKET", "studies")
    monkeypatch.setenv("MONAI_AWS_GOLDEN_STUDY", str(tmp_path / "study.zip"))
    monkeypatch.setenv("MONAI_AWS_GOLDEN_STUDY_SHA256", hashlib.sha256((tmp_path / "study.zip").read_bytes()).hexdigest())
    sound = CliRunner().invoke(cli, ["doctor", "app"])
    assert (sound.exit_code, sound.output.splitlines()[-1]) == (0, "Nothing is known against building this application.")
    monkeypatch.setenv("MONAI_AWS_APP_DIR", "elsewhere")
    wrong = CliRunner().invoke(cli, ["doctor", "app"])
    assert wrong.exit_code == 1
    assert "MONAI_AWS_APP_DIR" in wrong.output


def test_the_command_line_shows_file_line_and_what_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    app = tmp_path / "app"
    app.mkdir()
    (app / "__main__.py").write_text("import os\nimport cv2\n")
    (app / "requirements.txt").write_text("numpy==2.4.6\n")
    (tmp_path / "packages").mkdir()
    make_wheel(tmp_path / "packages", "numpy", "2.4.6")
    pip_knows(monkeypatch, tmp_path / "packages")
    monkeypatch.setenv("MONAI_AWS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MONAI_AWS_APP_SOURCE", str(app))
    said = CliRunner().invoke(cli, ["doctor", "app"])
    assert said.exit_code == 1
    assert "__main__.py:2" in said.output
    assert "ready to paste into requirements.txt (error in imports):\nopencv-python-headless\n" in said.output
    begun = said.output.partition("ready to paste into app.yaml (error in app.yaml):\n")[2].partition("\n\n")[0]
    (app / "app.yaml").write_text(begun)
    assert read_app_config(app).title == "app"


def test_a_secret_that_cannot_be_read_is_one_of_the_doctors_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_AWS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MONAI_AWS_APP_SOURCE", str(TINY_APP))
    monkeypatch.setenv("MONAI_AWS_APP_SOURCE_SECRET", "my-login")
    monkeypatch.setenv("MONAI_AWS_MODEL_URI", str(tmp_path / "none.pt"))
    monkeypatch.setenv("MONAI_AWS_MODEL_SHA256", "0" * 64)
    with mock_aws():
        seen = CliRunner().invoke(cli, ["doctor", "app"], terminal_width=300)
    assert seen.exit_code == 1
    words = " ".join(seen.output.split())
    assert "source" in words
    assert "MONAI_AWS_MODEL_URI" in words, "the others are said as well"
    assert "my-login" in words


def test_the_doctors_errors_end_the_plan_with_every_finding_and_warnings_do_not():
    said: list[str] = []
    error, warning = Finding("model", "altered", "Set it"), Finding("requirements", "loose", "Pin it", Severity.WARNING)
    source = Source(Path("app"), "0" * 40, dirty=False, content_hash="0" * 64)
    with pytest.raises(Failure) as failed:
        require_sound(Examination((error, warning), source), said.append, said.append)
    assert str(error) in str(failed.value.description)
    assert str(warning) in str(failed.value.description)
    assert require_sound(Examination((warning,), source), said.append, said.append) is source
    assert said == [str(warning)]


@pytest.mark.parametrize(
    ("scan", "passed", "words"),
    [
        (None, False, "not scanned"),
        (ImageScan("FAILED", {}), False, "not scanned: ECR says FAILED"),
        (ImageScan("IN_PROGRESS", {}), False, "not scanned: ECR says IN_PROGRESS"),
        (ImageScan("COMPLETE", {}), True, "nothing found"),
        (ImageScan("COMPLETE", {"LOW": 3, "HIGH": 2}), True, "2 high, 3 low"),
        (ImageScan("ACTIVE", {"CRITICAL": 1, "HIGH": 2}), False, "1 critical, 2 high"),
    ],
)
def test_a_scan_passes_without_critical_findings_and_no_scan_is_no_pass(scan: ImageScan | None, passed: bool, words: str):
    verdict = judge_scan(scan)
    assert (verdict.passed, words in verdict.text) == (passed, True)


def test_a_scan_under_way_is_waited_for_and_not_for_ever():
    states = iter([ImageScan("PENDING", {}), ImageScan("IN_PROGRESS", {}), ImageScan("COMPLETE", {"LOW": 1})])
    assert wait_for_scan(lambda: next(states), 60, pause=0) == ImageScan("COMPLETE", {"LOW": 1})
    assert wait_for_scan(lambda: ImageScan("IN_PROGRESS", {}), 0, pause=0) == ImageScan("IN_PROGRESS", {})
    assert wait_for_scan(lambda: None, 60, pause=0) is None
