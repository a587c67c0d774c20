"""Where a build starts, and what is run on the build machine."""

from __future__ import annotations

from monai_aws_pipeline.deployment.packaging import Start, starting_point
from monai_aws_pipeline.maps.build_context import Stage

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
