"""Where a build starts, and what is run on the build machine."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.deployment.packaging import BuildFailedError, Start, named_failure, starting_point
from monai_aws_pipeline.maps.build_context import Stage
from monai_aws_pipeline.maps.recipe import INSTALL_SH
from monai_aws_pipeline.remote import RemoteCommandError

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
        ("Temporary failure resolving 'deb.debian.org'", "MONAI_AWS_WHEELHOUSE=collect"),
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


def test_the_scripts_own_words_are_those_that_the_remedies_know():
    for words in ("gather them for $found", "choose a base image that has them"):
        assert words in INSTALL_SH
