"""The doctor: each trap is planted once and must be found, with a remedy; sound applications hear nothing."""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from moto import mock_aws

from monai_aws_pipeline.cloud.objects import looking_into
from monai_aws_pipeline.deployment.doctor import consult
from monai_aws_pipeline.maps import resolution, wheelhouse
from monai_aws_pipeline.maps.doctor import THIS_PYTHON, Plan, examine, resolve
from monai_aws_pipeline.maps.download import ModelMissingError, ModelUnreachableError, S3Look, folder_hash
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.git import (
    CredentialsMissingError,
    CredentialsRefusedError,
    HostUnknownError,
    Login,
    LoginUnusableError,
    SourceError,
)
from monai_aws_pipeline.maps.imports import Installed
from monai_aws_pipeline.maps.manifest import read_app_config
from monai_aws_pipeline.maps.models import Model
from monai_aws_pipeline.maps.requirements import requirements_text
from monai_aws_pipeline.maps.source import Source
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings
from tests.unit.maps.wheels import local_wheelhouse, make_wheel, pip_knows

APP_YAML = """
application: {title: Liver, version: 1.2.0, input-formats: [DICOM], output-formats: [DICOM]}
resources: {cpu: 1}
"""
SDK_CODE = "from monai.deploy.core import Application\n"
SDK_REQUIREMENTS = """
monai-deploy-app-sdk==4.0.0
holoscan-cu13==4.2.0   # not pinned by the SDK
holoscan-cli==4.2.0
cuda-toolkit[cudart]==13.0.3
monai==1.6.1
numpy==2.4.6
pydicom==3.0.2
"""
PLAIN = Plan(base_image="debian:12", collect_wheels=True, python="3.11")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A sound application that uses the SDK."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "__main__.py").write_text(SDK_CODE)
    (folder / "app.yaml").write_text(APP_YAML)
    (folder / "requirements.txt").write_text(SDK_REQUIREMENTS)
    return folder


def everything(folder: Path, plan: Plan = PLAIN, *models: Model, installed: Installed | None = None) -> list[Finding]:
    found = examine(Source(folder, "0" * 40, dirty=True, content_hash="0" * 64), plan, models, installed)
    assert all(finding.message and finding.remedy for finding in found)
    return found


def findings(folder: Path, plan: Plan = PLAIN, *models: Model, installed: Installed | None = None) -> list[Finding]:
    """What is wrong, without what is only worth knowing."""
    return [finding for finding in everything(folder, plan, *models, installed=installed) if finding.severity is not Severity.INFO]


def only(folder: Path, plan: Plan = PLAIN, *models: Model, installed: Installed | None = None) -> Finding:
    found = findings(folder, plan, *models, installed=installed)
    assert len(found) == 1, [str(finding) for finding in found]
    return found[0]


def without(name: str) -> str:
    return "".join(line + "\n" for line in SDK_REQUIREMENTS.splitlines() if not line.startswith(name))


def test_a_sound_application_hears_nothing(app: Path):
    assert findings(app) == []


@pytest.mark.parametrize("folder", ["tests/apps/tiny", "examples/brain_mri/app"])
def test_the_applications_of_this_project_are_sound(folder: str):
    plan = replace(PLAIN, model_uri="model.pt", model_sha256="0" * 64)
    model = Model("README", PROJECT_ROOT / "README.md", "0" * 64)
    found = findings(PROJECT_ROOT / folder, plan, model)
    assert {finding.severity for finding in found} <= {Severity.WARNING}
    assert {finding.point for finding in found} <= {"network"}, "the tiny one tries on purpose to reach a network"


def test_an_application_without_the_sdk_hears_nothing_of_its_traps(app: Path):
    (app / "__main__.py").write_text("import pydicom\n")
    (app / "requirements.txt").write_text("pydicom==3.0.2\n")
    assert findings(app) == []


@pytest.mark.parametrize("version", ["5.0.0", "4.3.0"])
def test_a_command_line_without_the_packager_is_found_with_the_pin_that_mends_it(app: Path, version: str):
    (app / "requirements.txt").write_text(SDK_REQUIREMENTS.replace("holoscan-cli==4.2.0", f"holoscan-cli=={version}"))
    found = only(app)
    assert (found.point, found.severity, found.paste) == ("sdk", Severity.ERROR, "holoscan-cli==4.2.0")
    assert "no monai-deploy command" in found.message


@pytest.mark.parametrize(
    ("requirements", "added"),
    [
        (without("holoscan-cli"), "holoscan-cli==4.2.0"),
        (SDK_REQUIREMENTS.replace("holoscan-cli==4.2.0", "holoscan-cli"), "holoscan-cli==4.2.0"),
        (without("holoscan-cu13"), "holoscan-cu13==4.2.0"),
        (SDK_REQUIREMENTS.replace("holoscan-cu13==4.2.0", "holoscan-cu13>=4"), "holoscan-cu13==4.2.0"),
        (without("cuda-toolkit"), "cuda-toolkit[cudart]==13.0.3"),
        (SDK_REQUIREMENTS.replace("[cudart]==13.0.3", "==13.0.3"), "cuda-toolkit[cudart]"),
        (without("monai-deploy-app-sdk"), "monai-deploy-app-sdk==4.0.0"),
        (SDK_REQUIREMENTS.replace("app-sdk==4.0.0", "app-sdk>=1"), "monai-deploy-app-sdk==4.0.0"),
    ],
)
def test_what_the_requirements_leave_open_of_the_sdk_is_added_and_no_error(app: Path, requirements: str, added: str):
    (app / "requirements.txt").write_text(requirements)
    assert [finding for finding in findings(app) if finding.severity is Severity.ERROR] == []
    (told,) = [finding for finding in everything(app) if finding.point == "sdk"]
    assert added in told.paste.splitlines()
    official = replace(PLAIN, packager="monai-deploy", collect_wheels=False, python="3.12", base_image="ubuntu:24.04")
    errors = [finding for finding in findings(app, official) if finding.severity is Severity.ERROR]
    assert len(errors) == (not added.startswith("monai-deploy")), "which installs the SDK, and pins nothing else"


def test_pins_in_the_constraints_count(app: Path):
    (app / "requirements.txt").write_text("monai-deploy-app-sdk\nmonai\ncuda-toolkit[cudart]\n")
    (app / "constraints.txt").write_text(
        "monai-deploy-app-sdk==4.0.0\nholoscan_cu13==4.2.0\nHoloscan-CLI==4.2.0\nmonai==1.6.1\ncuda-toolkit==13.0.3.0\n"
    )
    assert findings(app) == []


def test_a_cuda_base_image_makes_a_missing_runtime_a_warning(app: Path):
    (app / "requirements.txt").write_text(without("cuda-toolkit"))
    official = Plan("nvidia/cuda:13.0.0-runtime-ubuntu24.04", packager="monai-deploy")
    assert only(app, official).severity is Severity.WARNING


def test_another_sdk_is_a_warning_and_its_traps_are_not_guessed(app: Path):
    (app / "requirements.txt").write_text("monai-deploy-app-sdk==3.0.0\nholoscan==3.2.0\n")
    assert only(app).severity is Severity.WARNING


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("application: [", "not valid YAML"),
        (APP_YAML.replace("1.2.0", "true"), "application.version"),
        (APP_YAML.replace("output-formats: [DICOM]", "pip-packages: [numpy==2.4.6]"), "pip-packages"),
    ],
)
def test_a_wrong_app_yaml_is_found(app: Path, text: str, said: str):
    (app / "app.yaml").write_text(text)
    found = only(app)
    assert found.point == "app.yaml"
    assert said in found.message


def test_a_missing_or_broken_entry_point_is_found(app: Path):
    (app / "__main__.py").write_text(SDK_CODE + "def main(:\n")
    assert "line 2" in only(app).message
    (app / "__main__.py").rename(app / "main.py")
    assert sorted((finding.file, finding.line, finding.severity) for finding in findings(app)) == [
        ("__main__.py", 0, "error"),
        ("main.py", 2, "error"),
    ]


def test_syntax_that_only_the_maps_newer_python_may_know_is_a_warning(app: Path):
    (app / "newer.py").write_text("match x:\n    case 1 -> 2\n")
    newer = f"3.{sys.version_info.minor + 1}"
    found = only(app, Plan("somebody/base:1", python=newer))
    assert (found.severity, found.place) == (Severity.WARNING, "newer.py:2")
    assert only(app, Plan("somebody/base:1", python=THIS_PYTHON)).severity is Severity.ERROR


def test_syntax_that_is_too_new_for_the_maps_python_is_an_error(app: Path):
    (app / "newer.py").write_text("try:\n    pass\nexcept* ValueError:\n    pass\n")
    found = only(app, Plan("somebody/base:1", python="3.10"))
    assert (found.severity, found.file) == (Severity.ERROR, "newer.py")


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("-r more.txt", Severity.ERROR),
        ("--index-url https://user:pw-planted@index.example.org/simple", Severity.ERROR),
        ("--no-binary :all:", Severity.WARNING),
        ("./wheels/own.whl", Severity.ERROR),
        ("own @ https://user:pw-planted@example.org/own.whl", Severity.ERROR),
        ("git+https://example.org/own.git", Severity.ERROR),
        ("numpy==2.4.5", Severity.ERROR),
        ("scipy>=1", Severity.WARNING),
        ("-e .", Severity.ERROR),
    ],
)
def test_a_requirement_that_another_machine_cannot_keep_is_found(app: Path, line: str, severity: Severity):
    with (app / "requirements.txt").open("a") as file:
        file.write(line + "\n")
    found = only(app)
    assert (found.point, found.severity) == ("requirements", severity)
    assert "pw-planted" not in str(found)


def test_hashes_markers_and_continued_lines_are_read_as_pip_reads_them(app: Path):
    with (app / "requirements.txt").open("a") as file:
        file.write("scipy==1.17.1 \\\n    --hash=sha256:" + "0" * 64 + "\ncolorama==0.4.6 ; sys_platform == 'win32'\n")
    assert findings(app) == []


@pytest.mark.parametrize(
    ("constraints", "severity", "said"),
    [
        ("numpy==2.4.5\n", Severity.ERROR, "requirements.txt wants ==2.4.6"),
        ("attrs==1.0\nattrs==2.0\n", Severity.ERROR, "1.0 and to 2.0"),
        ("uvicorn[standard]==1.0\n", Severity.ERROR, "extras"),
        ("torch==2.13.0+cpu\n", Severity.WARNING, "+cpu"),
    ],
)
def test_constraints_that_contradict_the_requirements_are_found(app: Path, constraints: str, severity: Severity, said: str):
    (app / "constraints.txt").write_text(constraints)
    found = only(app)
    assert (found.point, found.severity) == ("constraints", severity)
    assert said in found.message


def test_missing_requirements_are_an_error_where_wheels_are_collected(app: Path):
    (app / "__main__.py").write_text("")
    (app / "requirements.txt").unlink()
    assert only(app).severity is Severity.ERROR
    assert only(app, replace(PLAIN, collect_wheels=False)).severity is Severity.WARNING


def test_a_base_image_that_is_none_is_found(app: Path):
    assert only(app, replace(PLAIN, base_image="--network=host x")).point == "base-image"


def test_code_that_reads_a_model_which_the_settings_do_not_name_is_a_warning(app: Path):
    (app / "__main__.py").write_text(SDK_CODE + "import os; os.environ['HOLOSCAN_MODEL_PATH']\n")
    found = only(app)
    assert (found.point, found.severity) == ("model", Severity.WARNING)


def test_the_bundle_operator_wants_a_torchscript_with_its_bundle_inside(app: Path, tmp_path: Path):
    (app / "__main__.py").write_text(SDK_CODE + "from monai.deploy.operators import MonaiBundleInferenceOperator\n")
    plan, path = replace(PLAIN, model_uri="model.ts", model_sha256="0" * 64), tmp_path / "model.ts"
    path.write_bytes(b"weights only")
    model = Model("model", path, "0" * 64)
    (app / "requirements.txt").write_text(SDK_REQUIREMENTS + "torch==2.13.0\n")
    assert "extra/metadata.json and extra/inference.json" in only(app, plan, model).message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/extra/metadata.json", "{}")
        archive.writestr("model/extra/inference.json", "{}")
    assert findings(app, plan, model) == []


# ------------------------------------------------------------------------------------------------------- from the settings on


@pytest.fixture(autouse=True)
def known_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip knows: the packages of the sound application."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for line in SDK_REQUIREMENTS.split():
        if "==" in line:
            name, _, version = re.sub(r"\[.*\]", "", line).partition("==")
            make_wheel(packages, name.replace("-", "_"), version)
    pip_knows(monkeypatch, packages)
    return packages


def test_everything_is_said_at_once(app: Path, tmp_path: Path):
    (app / "app.yaml").write_text(APP_YAML.replace("1.2.0", "true").replace("Liver", "''"))
    (app / "requirements.txt").write_text(without("holoscan-cli") + "-r more.txt\nnumpy==99.0\n")
    settings = load_settings(
        app_source=str(app), model_uri=str(tmp_path / "none.pt"), model_sha256="0" * 64, cache_dir=tmp_path / "cache",
        packager="monai-deploy", base_image="debian:12", golden_study=str(tmp_path / "none.zip"), golden_study_sha256="0" * 64,
    )  # fmt: skip
    seen = consult(settings, target=tmp_path / "copy")
    assert {finding.point for finding in seen.errors} == {"app.yaml", "requirements", "sdk", "model", "packager", "golden"}
    assert len([finding for finding in seen.errors if finding.point == "app.yaml"]) == 2


def test_a_sound_application_hears_of_its_golden_study_alone(app: Path, tmp_path: Path):
    said: list[str] = []
    settings = load_settings(app_source=str(app), cache_dir=tmp_path / "cache")
    seen = consult(settings, target=tmp_path / "copy", report=said.append)
    assert [finding.point for finding in seen.findings if finding.severity is not Severity.INFO] == ["golden"]
    asked = ["model and golden study", "fetching the model", "fetching the application", "asking pip", "code, imports", "the golden study"]
    at = [next(number for number, line in enumerate(said) if words in line) for words in asked]
    assert at == sorted(at), "each is told when it begins"


def test_pip_is_told_names_and_versions_and_none_of_the_options_and_addresses(app: Path, tmp_path: Path, known_packages: Path):
    (known_packages / "evil").mkdir()
    make_wheel(known_packages / "evil", "planted", "1.0")
    with (app / "requirements.txt").open("a") as file:
        file.write(f"--find-links {known_packages / 'evil'}\nplanted==1.0\n")
    settings = load_settings(app_source=str(app), cache_dir=tmp_path / "cache", wheelhouse="collect")
    assert any("there is no planted==1.0" in each.message for each in consult(settings, target=tmp_path / "copy").errors)


def test_requirements_in_another_encoding_are_a_finding_and_no_traceback(app: Path, tmp_path: Path):
    (app / "requirements.txt").write_bytes(SDK_REQUIREMENTS.encode("utf-16"))
    settings = load_settings(app_source=str(app), cache_dir=tmp_path / "cache", wheelhouse="collect")
    found = consult(settings, target=tmp_path / "copy").errors
    assert ("requirements", "requirements.txt is not UTF-8 text") in [(each.point, each.message) for each in found]


def test_wheels_that_are_gathered_already_are_answer_enough(app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    house = wheelhouse.name_of(app / "requirements.txt", "3.12")
    names = ("monai_deploy_app_sdk", "holoscan_cu13")
    local_wheelhouse(tmp_path / "cache" / "wheelhouses" / house, names)
    monkeypatch.setattr(resolution, "_pip", lambda *_: pytest.fail("pip was asked"))
    settings = load_settings(app_source=str(app), cache_dir=tmp_path / "cache", wheelhouse="collect")
    assert consult(settings, target=tmp_path / "copy").errors == ()


def no_app_yaml(app: Path) -> dict[str, str]:
    (app / "app.yaml").unlink()
    return {}


def wrong_keys(app: Path) -> dict[str, str]:
    (app / "app.yaml").write_text(APP_YAML.replace("input-formats: [DICOM]", "input-formats: DICOM"))
    return {}


def missing_model(_: Path) -> dict[str, str]:
    return {"model_uri": "/nowhere/net.ts", "model_sha256": "0" * 64}


def altered_model(app: Path) -> dict[str, str]:
    return {"model_uri": str(app / "__main__.py"), "model_sha256": "0" * 64}


def impossible_requirement(app: Path) -> dict[str, str]:
    (app / "requirements.txt").write_text(SDK_REQUIREMENTS.replace("numpy==2.4.6", "numpy==99.0"))
    return {"wheelhouse": "collect"}


def missing_ref(_: Path) -> dict[str, str]:
    return {"app_source": str(PROJECT_ROOT), "app_ref": "no-such-branch"}


@pytest.mark.parametrize(
    ("spoil", "point", "names"),
    [
        (no_app_yaml, "app.yaml", "MONAI_AWS_APP_DIR"),
        (wrong_keys, "app.yaml", "docs/your-own-model.md"),
        (missing_model, "model", "MONAI_AWS_MODEL_URI"),
        (altered_model, "model", "MONAI_AWS_MODEL_SHA256"),
        (impossible_requirement, "requirements", "Correct the name or the version"),
        (missing_ref, "source", "MONAI_AWS_APP_REF"),
    ],
)
def test_each_bad_input_is_one_finding_that_says_what_to_do(
    app: Path, tmp_path: Path, spoil: Callable[[Path], dict[str, str]], point: str, names: str
):
    settings = load_settings(**{"app_source": str(app), "cache_dir": tmp_path / "cache", **spoil(app)})
    (found,) = consult(settings, target=tmp_path / "copy").errors
    assert (found.point, names in found.remedy) == (point, True), found


@pytest.mark.parametrize(
    "trouble",
    [
        LoginUnusableError("the secret holds a space"),
        CredentialsMissingError("the repository needs a login that git has not"),
        CredentialsRefusedError("the repository does not accept the login"),
        HostUnknownError("the server has a host key that is not known here"),
    ],
)
def test_trouble_with_the_login_is_a_finding_beside_the_others(app: Path, tmp_path: Path, trouble: SourceError):
    def login() -> Login | None:
        raise trouble

    settings = load_settings(app_source=str(app), cache_dir=tmp_path / "cache", base_image="--network=host x")
    seen = consult(settings, target=tmp_path / "copy", login=login)
    assert seen.errors[0].remedy == trouble.remedy
    assert [finding.point for finding in seen.errors] == ["source", "base-image"]


@pytest.mark.parametrize(
    "override", [{"app_source": "/nowhere"}, {"app_ref": "no-such-ref"}, {"app_dir": "elsewhere"}, {"app_source": "http://example.org/x"}]
)
def test_a_source_that_is_not_there_is_a_finding_and_no_traceback(app: Path, tmp_path: Path, override: dict[str, str]):
    settings = load_settings(**{"app_source": str(app), "cache_dir": tmp_path / "cache", **override})
    seen = consult(settings, target=tmp_path / "copy")
    assert [finding.point for finding in seen.errors] == ["source"]
    assert seen.source is None


def test_no_app_yaml_stops_nothing_else_and_one_to_begin_with_is_shown(app: Path, tmp_path: Path):
    (app / "app.yaml").unlink()
    (app / "__main__.py").write_text(SDK_CODE + "import cv2\nfrom somewhere import selector\nselector(all_matched=True)\n")
    with (app / "requirements.txt").open("a") as file:
        file.write("-r more.txt\nnumpy==99.0\n")
    settings = load_settings(
        app_source=str(app), model_uri=str(tmp_path / "none.pt"), model_sha256="0" * 64, cache_dir=tmp_path / "cache",
        packager="monai-deploy", base_image="debian:12", golden_study=str(tmp_path / "none.zip"), golden_study_sha256="0" * 64,
    )  # fmt: skip
    seen = consult(settings, target=tmp_path / "copy")
    points = {finding.point for finding in seen.findings if finding.severity is not Severity.INFO}
    assert points == {"app.yaml", "imports", "series", "requirements", "model", "packager", "golden"}
    (missing,) = [finding for finding in seen.errors if finding.point == "app.yaml"]
    (app / "app.yaml").write_text(missing.paste)
    config = read_app_config(app)
    assert (config.title, config.version, config.input_formats) == ("app", "1.0.0", ("DICOM",))


def test_an_app_yaml_that_lies_elsewhere_in_the_repository_ends_the_visit(app: Path, tmp_path: Path):
    (app / "inner").mkdir()
    (app / "app.yaml").rename(app / "inner" / "app.yaml")
    seen = consult(load_settings(app_source=str(app), cache_dir=tmp_path / "cache"), target=tmp_path / "copy")
    assert [(finding.point, "inner" in finding.message) for finding in seen.errors] == [("source", True)]


def test_a_wrong_line_of_app_yaml_is_told_with_its_number(app: Path):
    (app / "app.yaml").write_text("application:\n  title: t\n  version: 1 2\nresources: {cpu: 1}\nmonai-aws:\n  series: some\n")
    assert [(finding.file, finding.line) for finding in findings(app)] == [("app.yaml", 3), ("app.yaml", 6)]


@pytest.mark.parametrize("line", ["pydicom==2.4.4", "pydicom<3", "pydicom~=2.4", "pydicom>=2,<2.5"])
def test_an_older_pydicom_than_the_sdk_needs_is_an_error(app: Path, line: str):
    (app / "requirements.txt").write_text(without("pydicom") + line + "\n")
    (found,) = [finding for finding in findings(app) if finding.severity is Severity.ERROR]
    assert (found.point, found.paste, found.line) == ("sdk", "pydicom==3.0.2", len(without("pydicom").splitlines()) + 1)
    (app / "__main__.py").write_text("import pydicom\n")
    (app / "requirements.txt").write_text(line + "\n")
    assert not [finding for finding in findings(app) if finding.point == "sdk"], "without the SDK any pydicom will do"


def test_a_requirement_for_another_python_or_platform_decides_nothing(app: Path):
    lines = "pydicom==2.4.4 ; python_version < '3.10'\npydicom==3.0.2 ; python_version >= '3.10'\n"
    lines += "holoscan==3.0.0 ; platform_machine == 'aarch64'\n"
    (app / "requirements.txt").write_text(without("pydicom") + lines)
    assert findings(app) == []
    (app / "requirements.txt").write_text(without("pydicom") + lines.replace("3.10", "3.12"))
    (found,) = [finding for finding in findings(app) if finding.severity is Severity.ERROR]
    assert (found.point, found.line) == ("sdk", len(without("pydicom").splitlines()) + 1)


def test_pip_is_asked_for_what_the_image_installs_and_not_for_what_this_machine_would(app: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[resolution.Question] = []
    monkeypatch.setattr(resolution, "ask", lambda question, _, **__: (asked.append(question), resolution.Answer(packages={}))[1])
    (app / "requirements.txt").write_text("one==1 ; python_version == '3.13'\ntwo==2 ; python_version != '3.13'\n")
    resolve(app, replace(PLAIN, collect_wheels=False, python="3.13"), app, lambda _: None)
    assert [line for line in asked[0].requirements if line.startswith(("one", "two"))] == ["one==1"]


def test_requirements_as_windows_saves_them_are_read(app: Path):
    for name in ("requirements.txt", "app.yaml", "__main__.py"):
        (app / name).write_text((app / name).read_text().replace("\n\n", "\n").lstrip("\n"), "utf-8-sig")
    assert findings(app) == []
    assert requirements_text(app).startswith("monai-deploy-app-sdk==4.0.0")


def test_an_older_pydicom_that_another_package_brings_is_found_in_pips_answer(app: Path):
    installed = Installed(frozenset({"pydicom"}), complete=True, versions={"pydicom": "2.4.4"})
    (app / "requirements.txt").write_text(without("pydicom"))
    assert any("pydicom 3" in finding.message for finding in findings(app, installed=installed))


@pytest.mark.parametrize("name", ["holoscan", "holoscan-cu12", "Holoscan_CU12"])
def test_two_builds_of_holoscan_beside_each_other_are_an_error(app: Path, name: str):
    (app / "requirements.txt").write_text(f"{name}==4.2.0\n" + SDK_REQUIREMENTS)
    found = only(app)
    assert (found.point, found.severity, found.place, "beside" in found.message) == ("sdk", Severity.ERROR, "requirements.txt:1", True)
    (app / "requirements.txt").write_text(f"{name}==4.2.0\n" + without("holoscan-cu13"))
    assert "SDK 4.0.0 requires it" in only(app).message


def test_a_model_that_is_gone_is_told_although_the_cache_holds_it(app: Path, tmp_path: Path):
    digest = hashlib.sha256(b"net").hexdigest()
    uri = "s3://models/net.ts"
    settings = load_settings(app_source=str(app), cache_dir=tmp_path / "cache", model_uri=uri, model_sha256=digest)
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="models")
        s3.put_object(Bucket="models", Key="net.ts", Body=b"net")

        def about_the_model(number: int, look: S3Look | None) -> list[Finding]:
            download = lambda bucket, key, path: s3.download_file(bucket, key, str(path))  # noqa: E731
            seen = consult(settings, target=tmp_path / f"copy{number}", download_s3=download, look_s3=look)
            return [finding for finding in seen.findings if finding.point == "model"]

        assert about_the_model(0, looking_into(s3)) == []
        assert about_the_model(1, looking_into(s3)) == [], "in the cache, and there"
        s3.delete_object(Bucket="models", Key="net.ts")
        (gone,) = about_the_model(2, looking_into(s3))
        assert (gone.severity, "MONAI_AWS_MODEL_URI" in gone.remedy) == (Severity.WARNING, True)
        (unknown,) = about_the_model(3, None)
        assert (unknown.severity, "not checked" in unknown.message) == (Severity.INFO, True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ClientError({"Error": {"Code": "403"}}, "HeadObject"), ModelUnreachableError),
        (ClientError({"Error": {"Code": "404"}}, "HeadObject"), ModelMissingError),
        (NoCredentialsError(), ModelUnreachableError),
    ],
)
def test_what_s3_answers_is_missing_or_not_known(error: Exception, kind: type[Exception]):
    class S3:
        def head_object(self, **_: str) -> None:
            raise error

    with pytest.raises(kind):
        looking_into(S3())("models", "net.ts")  # type: ignore[arg-type]


def test_the_golden_study_that_is_gone_is_told_too(app: Path, tmp_path: Path):
    (tmp_path / "cache" / "golden" / ("1" * 64)).mkdir(parents=True)
    (tmp_path / "cache" / "golden" / ("1" * 64) / "study.zip").write_bytes(b"study")
    settings = load_settings(
        app_source=str(app), cache_dir=tmp_path / "cache", golden_study=str(tmp_path / "study.zip"), golden_study_sha256="1" * 64
    )
    found = [str(finding) for finding in consult(settings, target=tmp_path / "copy").findings if finding.severity is Severity.WARNING]
    assert any("MONAI_AWS_GOLDEN_STUDY" in text and "another one would not" in text for text in found)


def test_a_missing_or_wrong_hash_of_a_model_is_shown_ready_to_paste(app: Path, tmp_path: Path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.pth").write_bytes(b"net")
    right = folder_hash(tmp_path / "weights")
    for given in ("", "0" * 64):
        settings = load_settings(app_source=str(app), cache_dir=tmp_path / "cache", model_uri=str(tmp_path / "weights"), model_sha256=given)
        (found,) = [each for each in consult(settings, target=tmp_path / f"copy{given[:1]}").errors if each.point == "model"]
        assert (found.file, found.paste) == (".env", f"MONAI_AWS_MODEL_SHA256={right}")


def test_a_bundle_may_be_a_folder_and_a_hostile_zip_is_found_before_a_machine_starts(app: Path, tmp_path: Path):
    (app / "__main__.py").write_text(SDK_CODE + "from monai.deploy.operators import MonaiBundleInferenceOperator\n")
    (app / "requirements.txt").write_text(SDK_REQUIREMENTS + "torch==2.13.0\n")
    plan = replace(PLAIN, model_uri="bundle", model_sha256="0" * 64)
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "metadata.json").write_text("{}")
    assert "configs/inference.json and models/model.ts" in only(app, plan, Model("bundle", bundle, "0" * 64)).message
    (bundle / "configs" / "inference.json").write_text("{}")
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"net")
    assert findings(app, plan, Model("bundle", bundle, "0" * 64)) == []
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        archive.writestr("../outside", "x")
    assert "outside" in only(app, plan, Model("bundle", tmp_path / "bundle.zip", "0" * 64)).message


def test_a_model_that_the_code_asks_for_by_another_name_is_a_warning(app: Path, tmp_path: Path):
    (app / "__main__.py").write_text(
        SDK_CODE + "from monai.deploy.operators import MonaiSegInferenceOperator\nMonaiSegInferenceOperator(1, model_name='spleen')\n"
    )
    (app / "requirements.txt").write_text(SDK_REQUIREMENTS + "torch==2.13.0\n")
    plan = replace(PLAIN, model_uri="net.ts", model_sha256="0" * 64)
    found = only(app, plan, Model("net", tmp_path / "net.ts", "0" * 64))
    assert (found.severity, found.place, found.paste) == (Severity.WARNING, "__main__.py:3", "MONAI_AWS_MODEL_URI=spleen=ADDRESS")
    assert findings(app, plan, Model("spleen", tmp_path / "net.ts", "0" * 64)) == []


def test_packages_of_the_system_that_a_build_cannot_install_are_told(app: Path):
    (app / "app.yaml").write_text(APP_YAML + "monai-aws: {system-packages: [libgl1]}\n")
    assert (only(app).point, only(app).severity) == ("system-packages", Severity.WARNING)
    assert findings(app, replace(PLAIN, collect_wheels=False)) == []
    official = Plan("ubuntu:24.04", packager="monai-deploy")
    assert [each.point for each in findings(app, official)] == ["system-packages"]


def test_a_finding_says_where_and_shows_what_to_write():
    finding = Finding("imports", "something is missing", "Write it", Severity.ERROR, "app.py", 3, "one\ntwo", "requirements.txt")
    assert str(finding) == "error in imports (app.py:3): something is missing. Write it.\n  into requirements.txt:\n    one\n    two"
    assert str(Finding("model", "m", "r", file=".env")) == "error in model (.env): m. r."
