"""Where planes lie: how far they are apart, and which series is a volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.dicom import read_studies
from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.geometry import common_step, grids_of, is_volume, places_of, require_volumes

from .dicom_files import write_seg, write_series

Change = Callable[[Dataset], None]


def edited(path: Path, change: Change) -> None:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)


def refused(files: list[Path]) -> Code:
    with pytest.raises(RefusedError) as error:
        require_volumes(read_studies(files))
    return error.value.code


def without(name: str) -> Change:
    return lambda data: delattr(data, name)


def test_an_even_stack_is_a_volume_also_beside_a_localizer_and_with_rounded_positions(tmp_path: Path) -> None:
    uid = generate_uid()
    files = write_series(tmp_path / "stack", uid, slices=5) + write_series(tmp_path / "localizer", uid, slices=1)
    edited(files[2], lambda data: setattr(data, "ImagePositionPatient", [-10.0, -20.0, 11.004]))
    require_volumes(read_studies(files))


@pytest.mark.parametrize("name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_study_without_geometry_is_refused_where_a_volume_is_needed(name: str, tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=4)
    for file in files:
        edited(file, without(name))
    assert refused(files) is Code.NO_GEOMETRY


def test_a_missing_plane_is_noticed(tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=7)
    del files[3]
    assert refused(files) is Code.IRREGULAR_VOLUME


def test_a_plane_that_is_there_twice_is_noticed(tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=5)
    edited(files[3], lambda data: setattr(data, "ImagePositionPatient", [-10.0, -20.0, 11.0]))
    assert refused(files) is Code.IRREGULAR_VOLUME


def test_two_planes_are_no_volume(tmp_path: Path) -> None:
    assert refused(write_series(tmp_path, generate_uid(), slices=2)) is Code.IRREGULAR_VOLUME


def test_a_geometry_that_is_none_does_not_count(tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=3)
    for file in files:
        edited(file, lambda data: setattr(data, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]))
    assert refused(files) is Code.NO_GEOMETRY


def test_the_frames_of_one_multi_frame_file_are_a_stack(tmp_path: Path) -> None:
    source = write_series(tmp_path / "in", generate_uid(), slices=6)
    (grid,) = grids_of([write_seg(tmp_path / "seg.dcm", source, np.ones((6, 16, 16)))])
    assert is_volume(grid)
    assert (len(grid.positions), grid.step, grid.spacing) == (6, 3.0, (2.0, 2.0))
