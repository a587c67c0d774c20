"""Where a build starts, and what is run on the build machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from monai_aws_pipeline.deployment.packaging import BuildFailedError, BuildHost, Start, build_officially, named_failure, starting_point
from monai_aws_pipeline.maps.build_context import Stage, write_context
from monai_aws_pipeline.maps.dockerfile import INSTALL_SH, NO_SYSTEM_PACKAGES
from monai_aws_pipeline.maps.monai_deploy import marking
from monai_aws_pipeline.maps.source import checkout
from monai_aws_pipeline.remote import RemoteCommandError
from monai_aws_pipeline.settings import load_settings

STAGES = (Stage("dependencies", "d" * 64), Stage("model", "e" * 64))
KEPT = {stage.tag: f"registry.example.org/map@sha256:{stage.key}" for stage in STAGES}


def found(*stages: Stage):
    return lambda tag: KEPT[tag] if tag in {stage.tag for stage in stages} else ""


def test_a_build_starts_from_the_highest_stage_that_the_registry_keeps():
    assert starting_point(STAGES, found()) == Start()
    assert starting_point(STAGES, found(STAGES[0])) == Start(("dependencies",), KEPT[STAGES[0].tag])
    assert starting_point(STAGES, found(*STAGES)) == Start(("dependencies", "model"), KEPT[STAGES[1].tag])
    assert starting_point(STAGES, found(STAGES[1])).kept == ("dependencies", "model")


def test_only_the_highest_kept_stage_is_handed_to_the_build():
    assert starting_point(STAGES, found(*STAGES)).arguments == f"--build-arg MODEL={KEPT[STAGES[1].tag]} "
    assert Start().arguments == ""


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("ERROR: No matching distribution found for numpy==99.0", "requirements.txt"),
        ("ERROR: ResolutionImpossible: for help visit …", "requirements.txt"),
        ("write /opt/venv/lib/x.so: no space left on device", "MONAI_AWS_ROOT_VOLUME_GIB"),
        ("Temporary failure resolving 'packages.example.org'", "MONAI_AWS_WHEELHOUSE=collect"),
        ("pull access denied for own/base, repository does not exist", "MONAI_AWS_BASE_IMAGE"),
        ("error: the base image has Python 3.11, but the wheels were gathered for 3.12: gather them for 3.11", "MONAI_AWS_MAP_PYTHON"),
        ("error: python3 and pip are not in the base image; choose a base image that has them", "MONAI_AWS_BASE_IMAGE"),
        ("something nobody has seen before", "run's log"),
    ],
)
def test_a_build_that_fails_says_what_to_do_about_the_cause_it_names(line: str, setting: str):
    with pytest.raises(BuildFailedError) as failed, named_failure():
        raise RemoteCommandError("Building the MAP", 1, ["#8 RUN …", line])
    assert (failed.value.exit_code, failed.value.tail[-1]) == (1, line)
    assert setting in failed.value.remedy
    assert str(failed.value).endswith(failed.value.remedy)
    assert line in str(failed.value)


def test_a_full_disk_is_named_whatever_failed_of_it():
    with pytest.raises(BuildFailedError) as failed, named_failure():
        raise RemoteCommandError("Building the MAP", 1, ["cannot copy: No space left on device", NO_SYSTEM_PACKAGES])
    assert "MONAI_AWS_ROOT_VOLUME_GIB" in failed.value.remedy


def test_the_scripts_own_words_are_those_that_the_remedies_know():
    for words in ("gather them for $found", "choose a base image that has them"):
        assert words in INSTALL_SH


class ThisMachine:
    """In the place of a build machine: the packager's own steps are said to have worked, the last one runs here."""

    def __init__(self, programs: Path) -> None:
        self._environment = {"PATH": f"{programs}:/usr/bin:/bin"}

    def run(self, command: str, _: object, *, what: str, seconds: float) -> list[str]:
        if what != "Naming the MAP":
            return ["    Docker Tag: map-x64-workstation-dgpu-linux-amd64:1"] if what == "monai-deploy package" else []
        done = subprocess.run(["bash", "-c", command], env=self._environment, capture_output=True, text=True, check=True, timeout=seconds)
        return done.stdout.splitlines()


def test_the_official_image_gets_our_name_and_labels_from_one_command(tmp_path: Path):
    source = checkout("tests/apps/tiny", "HEAD", ".", tmp_path / "source")
    context = write_context(source, tmp_path / "context", base_image="ubuntu:24.04", packager="monai-deploy")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "docker").write_text(f'#!/bin/sh\necho "$BUILDX_BUILDER $*" > {tmp_path}/called; cat > {tmp_path}/said\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    build_host = BuildHost(ThisMachine(programs), "registry.example.org/map", "eu-central-1", 60, lambda _: None)  # type: ignore[arg-type]
    reference = build_officially(build_host, load_settings(), context)
    assert reference == f"registry.example.org/map:{context.tag}"
    assert (tmp_path / "called").read_text() == f"default build --tag {reference} -\n"
    assert (tmp_path / "said").read_text() == marking("map-x64-workstation-dgpu-linux-amd64:1", context)
