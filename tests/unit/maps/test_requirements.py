"""The SDK's pins are added where an application leaves them open, and nowhere else; what it names itself is kept."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import dockerfile, requirements, wheelhouse
from monai_aws_pipeline.maps.build_context import write_context
from monai_aws_pipeline.maps.requirements import SDK_PINS, with_sdk_pins
from monai_aws_pipeline.maps.source import Source

ALL = "\n".join(SDK_PINS)


def added(text: str, constraints: str = "") -> list[str]:
    found = with_sdk_pins(text, constraints)
    assert found.startswith(text.rstrip("\n"))
    return found.removeprefix(text.rstrip("\n")).split()


def test_an_application_that_names_nothing_gets_all_of_them():
    assert added("torch==2.13.0\n") == list(SDK_PINS)
    assert added("") == list(SDK_PINS)


@pytest.mark.parametrize("pin", SDK_PINS)
def test_each_one_that_is_missing_is_added_alone(pin: str):
    assert added("\n".join(each for each in SDK_PINS if each != pin) + "\n") == [pin]


def test_an_application_that_pins_all_keeps_its_text_to_the_letter():
    text = "# comment\n" + ALL.replace("pydicom>=3", "pydicom==3.0.2  # ours") + "\n\n"
    assert with_sdk_pins(text, "") == text


@pytest.mark.parametrize(
    ("text", "constraints", "lines"),
    [
        ("monai-deploy-app-sdk==3.0.0", "", []),
        ("monai-deploy-app-sdk<4", "", []),
        ("monai-deploy-app-sdk @ https://example.org/x.whl", "", []),
        ("torch", "monai-deploy-app-sdk==3.0.0", []),
        (ALL.replace("holoscan-cu13==4.2.0", "holoscan_cu13==4.1.0"), "", []),
        (ALL.replace("holoscan-cli==4.2.0", "Holoscan.CLI<4.2"), "", []),
        (ALL.replace("holoscan-cu13==4.2.0", "holoscan==4.2.0"), "", []),
        (ALL.replace("cuda-toolkit[cudart]==13.0.3", "nvidia-cuda-runtime"), "", []),
        (ALL.replace("cuda-toolkit[cudart]==13.0.3", "cuda-toolkit==13.0.2"), "", ["cuda-toolkit[cudart]"]),
        (ALL.replace("pydicom>=3", "pydicom==2.4.4"), "", []),
        (ALL.replace("holoscan-cli==4.2.0\n", ""), "holoscan-cli==4.1.0", ["holoscan-cli"]),
        ("\n".join(SDK_PINS[:4]), "pydicom==3.0.2", ["pydicom"]),
        (ALL.replace("app-sdk==4.0.0", "app-sdk>=1"), "", ["monai-deploy-app-sdk==4.0.0"]),
    ],
)
def test_what_the_application_decides_is_kept(text: str, constraints: str, lines: list[str]):
    assert added(text, constraints) == lines


def application(folder: Path, code: str, text: str = "torch==2.13.0\n") -> Path:
    folder.mkdir(parents=True)
    (folder / "__main__.py").write_text(code)
    (folder / "app.yaml").write_text("application: {title: t, version: 1.0.0}\nresources: {cpu: 1}\n")
    (folder / "requirements.txt").write_text(text)
    return folder


USES = "from monai.deploy.core import Application\n"


def test_everything_that_builds_gathers_or_names_uses_the_same_requirements(tmp_path: Path):
    folder = application(tmp_path / "app", USES)
    gathered = requirements.requirements_file(folder, tmp_path / "place")
    assert gathered.read_text().split() == ["torch==2.13.0", *SDK_PINS]
    assert wheelhouse.name_of(gathered, "3.12") != wheelhouse.name_of(folder / "requirements.txt", "3.12")
    built = write_context(Source(folder, "0" * 40, False, ""), tmp_path / "context", base_image="b:1")
    assert (built.path / "dependencies" / "requirements.txt").read_text().split() == gathered.read_text().split()
    named = application(tmp_path / "named", USES, "\n".join(["torch==2.13.0", *SDK_PINS]) + "\n")
    same = write_context(Source(named, "0" * 40, False, ""), tmp_path / "same", base_image="b:1")
    assert same.dependency_key == built.dependency_key, "as if the application had written them itself"


def test_constraints_go_along_with_a_file_that_gets_pins(tmp_path: Path):
    folder = application(tmp_path / "app", USES)
    (folder / "constraints.txt").write_text("numpy==2.4.6\n")
    gathered = requirements.requirements_file(folder, tmp_path / "place")
    assert gathered.with_name("constraints.txt").read_text() == "numpy==2.4.6\n"


@pytest.mark.parametrize(
    "code", ["import monai\n", "import holoscan\n", "# from monai.deploy.core import x\n", "text = 'import monai.deploy'\n"]
)
def test_an_application_without_the_sdk_stays_as_it_is(tmp_path: Path, code: str):
    folder = application(tmp_path / "app", code)
    assert requirements.requirements_file(folder, tmp_path / "place") == folder / "requirements.txt"
    assert requirements.requirements_text(folder) == "torch==2.13.0\n"
    assert not (tmp_path / "place").exists()


def test_stages_of_applications_that_change_nothing_keep_their_names(tmp_path: Path):
    """The names that earlier versions gave them: a registry's stages are found again after an update of this project."""
    plain = application(tmp_path / "plain", "import numpy\n", "numpy==2.4.6\n")
    full = application(tmp_path / "full", USES, ALL.replace("pydicom>=3", "pydicom==3.0.2") + "\n")
    tags = [
        write_context(Source(folder, "0" * 40, False, ""), tmp_path / f"c-{folder.name}", base_image="base:1").stages[0].tag
        for folder in (plain, full)
    ]
    assert tags == ["dependencies-624b3b1e11be26ee4db9d2e65e97b658", "dependencies-bb0452e0ce3b81dc0ed965fffee2d69a"]


# ------------------------------------------------------------------------------------------------------------- the system's packages


def run_system_part(tmp_path: Path, installed: list[str], apt: int = 0) -> tuple[int, str, list[str]]:
    """The part of the script that installs them, with stand-ins for dpkg and apt: exit code, output, calls of apt."""
    programs = tmp_path / "bin"
    programs.mkdir()
    known = "|".join(installed) or "none"
    dpkg = f"#!/bin/sh\nshift 3\ncode=0\nfor each; do case $each in {known}) echo installed;; *) code=1;; esac; done\nexit $code\n"
    (programs / "dpkg-query").write_text(dpkg)
    (programs / "apt-get").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/apt\nexit {apt}\n')
    (programs / "rm").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    script = dockerfile.install_script(["libgl1", "libglib2.0-0"])
    part = script[: script.index("has_python()")].replace("/tmp/.", f"{tmp_path}/.")  # noqa: S108
    done = subprocess.run(
        ["/bin/sh", "-c", part], env={"PATH": f"{programs}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )  # fmt: skip
    calls = (tmp_path / "apt").read_text().splitlines() if (tmp_path / "apt").exists() else []
    return done.returncode, done.stderr, calls


def test_packages_of_the_system_are_installed_by_apt(tmp_path: Path):
    code, _, calls = run_system_part(tmp_path, ["libgl1"])
    assert (code, len(calls)) == (0, 2)
    assert calls[1].endswith("--no-install-recommends libgl1 libglib2.0-0")


def test_a_base_image_that_holds_them_needs_no_network(tmp_path: Path):
    assert run_system_part(tmp_path, ["libgl1", "libglib2.0-0"])[::2] == (0, [])


def test_without_a_network_the_script_says_what_to_do(tmp_path: Path):
    code, said, _ = run_system_part(tmp_path, [], apt=100)
    assert (code, dockerfile.NO_SYSTEM_PACKAGES in said, "the base image has to hold them" in said) == (65, True, True)


def test_packages_of_the_system_are_part_of_the_dependency_stage_and_of_nothing_else(tmp_path: Path):
    folder = application(tmp_path / "app", "import numpy\n")
    plain = write_context(Source(folder, "0" * 40, False, ""), tmp_path / "a", base_image="b:1", gathered="w1")
    with (folder / "app.yaml").open("a") as file:
        file.write("monai-aws: {system-packages: [libgl1]}\n")
    asking = write_context(Source(folder, "0" * 40, False, ""), tmp_path / "b", base_image="b:1", gathered="w1")
    assert asking.dependency_key != plain.dependency_key
    assert (plain.network, asking.network) == ("none", "default"), "apt has to reach its servers"
    assert "libgl1" in (asking.path / "dependencies" / "install.sh").read_text()
    assert (plain.path / "dependencies" / "install.sh").read_text() == dockerfile.INSTALL_SH
    kept = write_context(Source(folder, "0" * 40, False, ""), tmp_path / "c", base_image="b:1", gathered="w1", kept=["dependencies"])
    assert kept.network == "none"
    assert not re.search("libgl1", (asking.path / "Dockerfile").read_text())
