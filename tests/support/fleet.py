"""The group of a deployment taken away, and nothing else of it: a teardown that stops where the rest begins."""

from __future__ import annotations

from typing import Final
from unittest.mock import patch

from monai_aws_pipeline.operations import teardown
from monai_aws_pipeline.operations.teardown import Kind, Teardown, Thing, plan
from tests.support.platform import Platform, environment

OF_A_GROUP: Final = (Kind.SCALING_GROUP, Kind.LAUNCH_TEMPLATE, Kind.MACHINE)


def remove_group(place: Platform) -> tuple[Thing, ...]:
    """What was removed, in its order."""
    with environment(place.variables):
        down = Teardown(place.clients, place.settings, place.log.append)
        going = [thing for thing in plan(down.inventory()) if thing.kind in OF_A_GROUP]
        with patch.object(teardown, "VERIFY_SECONDS", 0):  # it would wait until nothing at all is left
            return down.run(going).removed
