"""Reading segmentations: how far their planes are apart, and how many millilitres their segments have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentationTypeValues
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.results.segmentation import SegmentationError, Source, masks, measure, read_segmentation, read_source
from tests.unit.host_agent.dicom_files import write_seg, write_segments, write_series

ML = 2 * 2 * 3 / 1000
"""A voxel of ``write_series``."""


def block(low: int = 2, high: int = 5) -> np.ndarray:
    """A block of 4 x 4 voxels in some slices of eight."""
    mask = np.zeros((8, 16, 16), dtype=bool)
    mask[low:high, 4:8, 4:8] = True
    return mask


def edited(path: Path, change: Callable[[Dataset], None]) -> Path:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)
    return path


def moved(path: Path, *position: float) -> None:
    """Put an image's plane elsewhere."""
    edited(path, lambda data: setattr(data, "ImagePositionPatient", list(position)))


def measures(data: Dataset) -> Dataset:
    return data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def declared(**values: float) -> Callable[[Dataset], None]:
    """Declare these distances, and no others."""

    def change(data: Dataset) -> None:
        for name in ("SpacingBetweenSlices", "SliceThickness"):
            if name in measures(data):
                delattr(measures(data), name)
        for name, value in values.items():
            setattr(measures(data), name, value)

    return change


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Eight slices of 2 x 2 mm pixels, 3 mm apart."""
    return write_series(tmp_path / "source", generate_uid())


def source_of(files: list[Path]) -> Source:
    return read_source(read_studies(files)[0].instances)


def test_planes_are_those_of_the_headers_that_the_intake_has_read_and_of_the_files_where_these_were_rewritten(files: list[Path]) -> None:
    (study,) = read_studies(files)
    of_headers, of_files = (
        [image.placed[0] for image in read_source(study.instances, rewritten=rewritten).images] for rewritten in (False, True)
    )
    for mine, theirs in zip(of_headers, of_files, strict=True):
        assert (mine.frame, mine.rows, mine.columns, mine.spacing) == (theirs.frame, theirs.rows, theirs.columns, theirs.spacing)
        assert np.array_equal(mine.positions, theirs.positions) and np.array_equal(mine.orientation, theirs.orientation)
    data = pydicom.dcmread(files[0])
    data.ImagePositionPatient = [7, 8, 9]
    data.save_as(files[0])
    for rewritten in (False, True):
        places = [image.placed[0].positions[0].tolist() for image in read_source(study.instances, rewritten=rewritten).images]
        assert ([7, 8, 9] in places) == rewritten


def volumes(path: Path, source: Source | None = None) -> list[float]:
    return [segment.volume_ml for segment in measure(read_segmentation(path, source))]


WRONG = [
    {"SpacingBetweenSlices": 1.0, "SliceThickness": 1.0},
    {"SpacingBetweenSlices": 1.5},
    {"SpacingBetweenSlices": 6.0, "SliceThickness": 5.0},
    {"SliceThickness": 5.0},
    {"SpacingBetweenSlices": -3.0},
    {"SliceThickness": 0.0},
    {},
]


@pytest.mark.parametrize("values", WRONG)
def test_the_positions_decide_whatever_the_header_declares(values: dict[str, float], files: list[Path], tmp_path: Path) -> None:
    seg = edited(write_seg(tmp_path / "seg.dcm", files, block()), declared(**values))
    assert volumes(seg) == pytest.approx([48 * ML])
    assert volumes(seg, source_of(files)) == pytest.approx([48 * ML])


@pytest.mark.parametrize("values", WRONG)
def test_a_single_frame_stands_for_the_step_of_its_source(values: dict[str, float], files: list[Path], tmp_path: Path) -> None:
    for place in (0, 3, 7):
        seg = edited(write_seg(tmp_path / "seg.dcm", files, block(place, place + 1)), declared(**values))
        assert volumes(seg, source_of(files)) == pytest.approx([16 * ML])


def test_frames_without_voxels_are_left_out_and_do_not_count_for_those_that_are_there(files: list[Path], tmp_path: Path) -> None:
    seg = write_seg(tmp_path / "seg.dcm", files, block(0, 1) | block(3, 4) | block(6, 7))
    assert volumes(edited(seg, declared()), source_of(files)) == pytest.approx([48 * ML]), "three planes, 9 mm apart, of a 3 mm source"
    alone = write_seg(tmp_path / "alone.dcm", files, block(0, 1) | block(2, 3) | block(5, 6))
    assert read_segmentation(alone).slice_distance == pytest.approx(3.0), "6 and 9 mm are multiples of 3"


def test_only_a_single_plane_without_a_source_is_measured_as_declared_its_distance_before_its_thickness(
    files: list[Path], tmp_path: Path
) -> None:
    seg = write_seg(tmp_path / "seg.dcm", files, block(2, 3))
    assert volumes(edited(seg, declared(SpacingBetweenSlices=2.5, SliceThickness=4.0))) == pytest.approx([16 * 4 * 2.5 / 1000])
    assert volumes(edited(seg, declared(SliceThickness=4.0))) == pytest.approx([16 * 4 * 4.0 / 1000])
    with pytest.raises(SegmentationError, match="no distance"):
        volumes(edited(seg, declared()))


def test_segments_share_planes_and_positions_carry_noise(files: list[Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(7).uniform(-1e-4, 1e-4, (8, 3))
    for file, shift in zip(files, noise, strict=True):
        at = [float(value) for value in pydicom.dcmread(file).ImagePositionPatient]
        moved(file, *(round(value + noise, 6) for value, noise in zip(at, shift, strict=True)))
    seg = edited(write_segments(tmp_path / "seg.dcm", files, {"a": block(), "b": block(4, 8)}), declared(SpacingBetweenSlices=1.0))
    assert volumes(seg) == pytest.approx([48 * ML, 64 * ML], rel=1e-3)

    def rounded_otherwise(data: Dataset) -> None:
        for index, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            at = frame.PlanePositionSequence[0].ImagePositionPatient
            frame.PlanePositionSequence[0].ImagePositionPatient = [at[0], at[1], f"{float(at[2]) + 0.0004 * (index % 2):.4f}"]

    edited(seg, rounded_otherwise)
    assert volumes(seg) == pytest.approx([48 * ML, 64 * ML], rel=1e-3)
    assert volumes(seg, source_of(files)) == pytest.approx([48 * ML, 64 * ML], rel=1e-3)


def test_planes_of_a_source_that_lie_in_two_distances_stand_for_what_is_between_them(files: list[Path], tmp_path: Path) -> None:
    for index, file in enumerate(files):  # 5 mm at the base and 10 above it, as heads were cut for long
        moved(file, -10.0, -20.0, 5.0 * index + 5.0 * max(0, index - 4))
    assert volumes(write_seg(tmp_path / "thin.dcm", files, block(0, 3)), source_of(files)) == pytest.approx([16 * 4 * 15 / 1000])
    assert volumes(write_seg(tmp_path / "thick.dcm", files, block(5, 8)), source_of(files)) == pytest.approx([16 * 4 * 30 / 1000])
    assert volumes(write_seg(tmp_path / "both.dcm", files, block(4, 5)), source_of(files)) == pytest.approx([16 * 4 * 7.5 / 1000])


def test_uneven_planes_without_a_source_are_not_measured_rather_than_wrongly(files: list[Path], tmp_path: Path) -> None:
    for file, z in zip(files, (0.0, 3.0, 7.1, 8.3, 13.0, 14.9, 20.3, 27.7), strict=True):
        moved(file, -10.0, -20.0, z)
    with pytest.raises(SegmentationError, match="unevenly"):
        volumes(write_seg(tmp_path / "seg.dcm", files, np.ones((8, 16, 16), bool)))


def test_a_resampled_segmentation_is_measured_by_its_own_grid(files: list[Path], tmp_path: Path) -> None:
    coarse = write_series(tmp_path / "coarse", generate_uid(), slices=4, size=8, spacing=4.0, gap=6.0)
    mask = np.zeros((4, 8, 8), dtype=bool)
    mask[1:3, 2:4, 2:4] = True
    seg = edited(write_seg(tmp_path / "seg.dcm", coarse, mask), declared(SpacingBetweenSlices=3.0))
    assert volumes(seg, source_of(files)) == pytest.approx([8 * 4 * 4 * 6 / 1000])


@pytest.mark.parametrize("kind", [SegmentationTypeValues.BINARY, SegmentationTypeValues.FRACTIONAL, SegmentationTypeValues.LABELMAP])
def test_each_kind_of_segmentation_is_read_frame_by_frame(kind: SegmentationTypeValues, files: list[Path], tmp_path: Path) -> None:
    wanted = {"a": block(0, 3), "b": block(4, 8)}
    segmentation = read_segmentation(write_segments(tmp_path / "seg.dcm", files, wanted, kind), source_of(files))
    assert [(segment.label, round(segment.volume_ml, 4)) for segment in measure(segmentation)] == [("a", 0.576), ("b", 0.768)]
    found = {"a": np.zeros((8, 16, 16), bool), "b": np.zeros((8, 16, 16), bool)}
    for index, number, values in masks(segmentation):
        found[segmentation.labels[number]][round((segmentation.grid.positions[index][2] - 5) / 3)] = values >= 0.5
    assert all(np.array_equal(found[label], wanted[label]) for label in wanted)


@pytest.mark.parametrize("columns", [5, 7, 9, 11, 13])
def test_frames_that_do_not_end_at_a_byte_are_read_in_any_order(tmp_path: Path, columns: int) -> None:
    files = write_series(tmp_path / "odd", generate_uid(), slices=9, size=13)
    for path in files:
        data = pydicom.dcmread(path)
        data.PixelData = data.pixel_array[:, :columns].tobytes() + b"\0" * (13 * columns % 2)
        data.Columns = columns
        data.save_as(path)
    mask = np.random.default_rng(1).random((9, 13, columns)) > 0.4
    segmentation = read_segmentation(write_seg(tmp_path / "seg.dcm", files, mask))
    for index in (4, 1, 3, *range(9)):
        ((_, _, values),) = masks(segmentation, [index])
        assert np.array_equal(values > 0, mask[round((segmentation.grid.positions[index][2] - 5) / 3)])


def test_a_segment_that_is_twice_in_one_place_is_not_added_up(files: list[Path], tmp_path: Path) -> None:
    def again(data: Dataset) -> None:
        first, second = (frame.PlanePositionSequence[0] for frame in data.PerFrameFunctionalGroupsSequence[:2])
        second.ImagePositionPatient = first.ImagePositionPatient

    with pytest.raises(SegmentationError, match="one place"):
        volumes(edited(write_seg(tmp_path / "seg.dcm", files, block()), again))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: setattr(data, "NumberOfFrames", 10**9),
        lambda data: setattr(data, "Rows", 0),
        lambda data: setattr(data, "SegmentationType", "OTHER"),
        lambda data: delattr(data.PerFrameFunctionalGroupsSequence[1], "PlanePositionSequence"),
        lambda data: setattr(measures(data), "PixelSpacing", ["1e200", "1e200"]),
        lambda data: delattr(data.SharedFunctionalGroupsSequence[0], "SegmentIdentificationSequence"),
    ],
)
def test_what_cannot_be_measured_is_named(change: Callable[[Dataset], None], files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SegmentationError):
        volumes(edited(write_seg(tmp_path / "seg.dcm", files, block()), change))
