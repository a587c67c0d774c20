"""Which segmentation is an answer to its source: what it refers to, and where its frames lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from monai_aws_pipeline.host_agent.dicom import Instance, read_studies
from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.outputs import collect
from monai_aws_pipeline.host_agent.segmentation import read_source
from monai_aws_pipeline.host_agent.segmentation_check import check_segmentation

from .dicom_files import write_seg, write_series

Change = Callable[[Dataset], None]


def edited(path: Path, change: Change) -> None:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)


def without(name: str) -> Change:
    return lambda data: delattr(data, name)


@pytest.fixture
def study(tmp_path: Path) -> tuple[tuple[Instance, ...], Path]:
    """A series and a segmentation that lies on it."""
    files = write_series(tmp_path / "in", generate_uid())
    (tmp_path / "out").mkdir()
    mask = np.zeros((8, 16, 16))
    mask[2:5, 4:8, 4:8] = 1
    seg = write_seg(tmp_path / "out" / "seg.dcm", files, mask)
    return read_studies(files)[0].instances, seg


def shared(data: Dataset) -> Dataset:
    return data.SharedFunctionalGroupsSequence[0]  # type: ignore[no-any-return]


def other_frame(data: Dataset) -> None:
    data.FrameOfReferenceUID = generate_uid()


def other_series(data: Dataset) -> None:
    data.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()


def turned(data: Dataset) -> None:
    shared(data).PlaneOrientationSequence[0].ImageOrientationPatient = [0.8, 0.6, 0, -0.6, 0.8, 0]


def stretched(data: Dataset) -> None:
    shared(data).PixelMeasuresSequence[0].PixelSpacing = [1.0, 1.0]


def moved(data: Dataset) -> None:
    for frame in data.PerFrameFunctionalGroupsSequence:
        at = frame.PlanePositionSequence[0].ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [at[0], at[1], at[2] + 40]


def mirrored(data: Dataset) -> None:
    shared(data).PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def placeless(data: Dataset) -> None:
    for frame in data.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence


def endless(data: Dataset) -> None:
    shared(data).PixelMeasuresSequence[0].PixelSpacing = ["1e400", "1e400"]


@pytest.mark.parametrize("change", [other_frame, other_series, turned, stretched, moved, mirrored, placeless, endless])
def test_a_segmentation_that_does_not_lie_on_its_source_is_no_answer(
    change: Change, study: tuple[tuple[Instance, ...], Path], tmp_path: Path
) -> None:
    source, seg = study
    assert collect(tmp_path / "out", source[0].study_uid, source)
    edited(seg, change)
    with pytest.raises(FailedError) as error:
        collect(tmp_path / "out", source[0].study_uid, source)
    assert error.value.code is Code.OUTPUT_GEOMETRY


def half_the_matrix(data: Dataset) -> None:
    data.Rows = data.Columns = 8
    shared(data).PixelMeasuresSequence[0].PixelSpacing = [4.0, 4.0]


def cut_along_another_axis(data: Dataset) -> None:
    shared(data).PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    data.Rows, data.Columns = 8, 16
    shared(data).PixelMeasuresSequence[0].PixelSpacing = [3.0, 2.0]
    for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [-10.0 + 2 * number, -20.0, 5.0]


def flipped_and_told_so(data: Dataset) -> None:
    shared(data).PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    for frame in data.PerFrameFunctionalGroupsSequence:
        at = frame.PlanePositionSequence[0].ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [at[0] + 30, at[1], at[2]]


@pytest.mark.parametrize("change", [half_the_matrix, cut_along_another_axis, flipped_and_told_so])
def test_an_honest_segmentation_on_another_grid_of_the_same_place_is_taken(
    change: Change, study: tuple[tuple[Instance, ...], Path]
) -> None:
    source, seg = study
    edited(seg, change)
    check_segmentation(seg, read_source(source))


def test_a_source_without_geometry_asks_for_none(study: tuple[tuple[Instance, ...], Path]) -> None:
    source, seg = study
    for item in source:
        edited(item.path, without("ImagePositionPatient"))
    edited(seg, moved)
    check_segmentation(seg, read_source(source))
