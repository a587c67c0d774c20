"""Where planes lie, and how far they are apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.intake.geometry import common_step, grids_of, places_of
from monai_aws_pipeline.host_agent.intake.image_header import plane_of
from tests.unit.host_agent.dicom_files import write_seg, write_series


def test_the_frames_of_one_multi_frame_file_are_a_stack(tmp_path: Path) -> None:
    source = write_series(tmp_path / "in", generate_uid(), slices=6)
    (grid,) = grids_of([write_seg(tmp_path / "seg.dcm", source, np.ones((6, 16, 16)))])
    assert (len(grid.positions), grid.step, grid.spacing) == (6, 3.0, (2.0, 2.0))


# ------------------------------------------------------------------------------------------------------------------------ distances


@pytest.mark.parametrize(
    ("places", "step"),
    [
        ([5, 8, 11, 14], 3.0),
        ([5, 8, 17, 20], 3.0),
        ([0, 6, 15], 3.0),
        ([0, 9], 9.0),
        ([0, 0.0001, 3.0002, 3, 6, 8.9999], 3.0),
        ([0, 2.97, 6.02, 9.0, 15.01], 3.0),
        ([4, 2, 0, -2], 2.0),
        ([1], None),
        ([1, 1.0004], None),
        ([0, 1, 2.37, 5.11, 6.9], None),
    ],
)
def test_the_step_of_planes_is_what_all_their_distances_are_multiples_of(places: list[float], step: float | None) -> None:
    found = common_step(places_of(np.array(places, dtype=float)))
    assert found == (None if step is None else pytest.approx(step, rel=5e-3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_plane_of_numbers_that_are_none_is_no_plane(value: float) -> None:
    good = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0))
    assert plane_of(*good)
    for part in range(3):
        values = [list(each) for each in good]
        values[part][-1] = value
        assert plane_of(*map(tuple, values)) is None
