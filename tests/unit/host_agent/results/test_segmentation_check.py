"""Which segmentation is an answer to its source: what it refers to, and where its frames lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentationTypeValues
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.intake.dicom import Instance, read_studies
from monai_aws_pipeline.host_agent.results import preview
from monai_aws_pipeline.host_agent.results.outputs import collect
from monai_aws_pipeline.host_agent.results.segmentation import read_source
from monai_aws_pipeline.host_agent.results.segmentation_check import check_segmentation
from tests.unit.host_agent.dicom_files import box_stl, write_seg, write_segments, write_series
from tests.unit.host_agent.multi_frame import multi_frame

_FRAMES = "PerFrameFunctionalGroupsSequence"

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
    assert collect(tmp_path / "out", source[0].study_uid, read_source(source))
    edited(seg, change)
    with pytest.raises(FailedError) as error:
        collect(tmp_path / "out", source[0].study_uid, read_source(source))
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
    (again,) = read_studies([item.path for item in source])
    check_segmentation(seg, read_source(again.instances))


# ------------------------------------------------------------------------------------------------------------- what it refers to


def head(slices: int = 24, *, low: int = 3, high: int = 21) -> np.ndarray:
    """A mask that begins and ends within a stack, wide in the middle."""
    mask = np.zeros((slices, 16, 16), dtype=bool)
    for index in range(low, high):
        half = 2 + round(4 * np.sin(np.pi * (index - low + 1) / (high - low + 1)))
        mask[index, 8 - half : 8 + half, 8 - half : 8 + half] = True
    return mask


@pytest.fixture
def stack(tmp_path: Path) -> list[Path]:
    """A series of 24 slices."""
    return write_series(tmp_path / "stack", generate_uid(), slices=24)


def judged(seg: Path, files: list[Path]) -> tuple[Code, str] | None:
    (found,) = read_studies(files)
    try:
        check_segmentation(seg, read_source(found.instances))
    except FailedError as error:
        return error.code, error.cause
    return None


def of_frames_only(data: Dataset) -> None:
    """Refer only to the images on which a frame lies, as some writers do."""
    named = {
        source.ReferencedSOPInstanceUID
        for frame in data.PerFrameFunctionalGroupsSequence
        for source in frame.DerivationImageSequence[0].SourceImageSequence
    }
    series = data.ReferencedSeriesSequence[0]
    series.ReferencedInstanceSequence = [item for item in series.ReferencedInstanceSequence if item.ReferencedSOPInstanceUID in named]
    del data.SourceImageSequence


KEPT = {
    "two of three": [index for index in range(24) if index % 3],
    "every other": list(range(0, 24, 2)),
    "the lower part": list(range(16)),
    "all but a piece of the middle": [*range(8), *range(16, 24)],
    "all but one": [*range(9), *range(10, 24)],
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_a_segmentation_of_a_part_of_the_stack_is_no_answer_and_the_counts_say_so(
    kept: list[int], stack: list[Path], tmp_path: Path
) -> None:
    seg = write_seg(tmp_path / "seg.dcm", [stack[index] for index in kept], head()[kept])
    assert judged(seg, stack) == (
        Code.OUTPUT_GEOMETRY,
        f"A segmentation refers to {len(kept)} of 24 images of the series that it segmented.",
    )


@pytest.mark.parametrize("name", ["two of three", "every other"])
def test_a_thinned_stack_is_noticed_even_when_every_slice_that_is_left_has_a_frame(name: str, stack: list[Path], tmp_path: Path) -> None:
    kept, mask = KEPT[name], head(low=0, high=24)
    seg = write_seg(tmp_path / "seg.dcm", [stack[index] for index in kept], mask[kept])
    assert judged(seg, stack) == (
        Code.OUTPUT_GEOMETRY,
        f"A segmentation refers to {len(kept)} of 24 images of the series that it segmented.",
    )


def test_who_writes_empty_frames_leaves_no_image_out(stack: list[Path], tmp_path: Path) -> None:
    kept = KEPT["the lower part"]
    seg = write_segments(tmp_path / "seg.dcm", [stack[index] for index in kept], {"Brain": head(low=3, high=12)[kept]}, empty_frames=True)
    assert judged(seg, stack) == (Code.OUTPUT_GEOMETRY, "A segmentation refers to 16 of 24 images of the series that it segmented.")


def lesions() -> np.ndarray:
    """Three findings one above the other, and one plane that a slice-wise model missed."""
    mask = head(low=1, high=5) | head(low=10, high=14) | head(low=19, high=23)
    mask[12] = False
    return mask


@pytest.mark.parametrize("mask", [head(), head(low=0, high=9), lesions(), head(low=11, high=12)])
def test_references_to_nothing_but_the_images_with_frames_are_taken(mask: np.ndarray, stack: list[Path], tmp_path: Path) -> None:
    seg = write_segments(tmp_path / "seg.dcm", stack, {"Brain": mask, "Other": mask & head(low=11, high=14)})
    edited(seg, of_frames_only)
    assert judged(seg, stack) is None


def test_an_application_that_looks_at_one_image_of_a_stack_refers_to_that(stack: list[Path], tmp_path: Path) -> None:
    assert judged(write_seg(tmp_path / "seg.dcm", stack[11:12], head()[11:12]), stack) is None


def test_the_slices_that_a_loader_cannot_place_or_stack_belong_to_the_stack(stack: list[Path], tmp_path: Path) -> None:
    seg = write_seg(tmp_path / "seg.dcm", stack[:20], head(low=0, high=20)[:20])
    assert judged(seg, stack) is None, "every image that it refers to has a frame: nothing says that the rest was not looked at"
    for file in stack[20:]:
        edited(file, without("ImagePositionPatient"))
    assert judged(seg, stack) == (Code.OUTPUT_GEOMETRY, "A segmentation refers to 20 of 24 images of the series that it segmented.")
    for index, file in enumerate(stack[20:], start=20):

        def smaller(data: Dataset, index: int = index) -> None:
            data.ImagePositionPatient, data.Rows, data.Columns = [-10.0, -20.0, 5.0 + 3 * index], 8, 8
            data.PixelSpacing, data.PixelData = [4.0, 4.0], data.PixelData[:128]

        edited(file, smaller)
    edited(seg, lambda data: None)
    with_empty = write_seg(tmp_path / "seg2.dcm", stack[:20], head(low=2, high=18)[:20])
    assert judged(with_empty, stack) == (Code.OUTPUT_GEOMETRY, "A segmentation refers to 20 of 24 images of the series that it segmented.")


def test_another_direction_another_class_and_a_second_image_of_a_place_need_no_reference(stack: list[Path], tmp_path: Path) -> None:
    first = pydicom.dcmread(stack[0])
    beside = write_series(tmp_path / "beside", first.StudyInstanceUID, slices=6)
    seg = write_seg(tmp_path / "seg.dcm", stack, head())

    def of_the_series(data: Dataset) -> None:
        data.SeriesInstanceUID, data.FrameOfReferenceUID = first.SeriesInstanceUID, first.FrameOfReferenceUID

    def to_class(data: Dataset) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        del data.ImagePositionPatient

    for file in beside:
        edited(file, of_the_series)
    for file in beside[:2]:
        edited(file, lambda data: setattr(data, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]))
    for file in beside[2:4]:
        edited(file, to_class)
    assert judged(seg, [*stack, *beside]) is None


def foreign_instance(data: Dataset) -> None:
    data.ReferencedSeriesSequence[0].ReferencedInstanceSequence[3].ReferencedSOPInstanceUID = generate_uid()


def foreign_frame(data: Dataset) -> None:
    frame = data.PerFrameFunctionalGroupsSequence[1]
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = generate_uid()


def another_class(data: Dataset) -> None:
    data.ReferencedSeriesSequence[0].ReferencedInstanceSequence[3].ReferencedSOPClassUID = CTImageStorage


def between_the_planes(data: Dataset) -> None:
    for frame in data.PerFrameFunctionalGroupsSequence:
        at = frame.PlanePositionSequence[0].ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [at[0], at[1], float(at[2]) + 1.5]


def beside_the_pixels(data: Dataset) -> None:
    for frame in data.PerFrameFunctionalGroupsSequence:
        at = frame.PlanePositionSequence[0].ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [float(at[0]) + 1.5, at[1], at[2]]


def a_third_of_the_step(data: Dataset) -> None:
    """What a writer does that takes the declared millimetre for the distance of planes."""
    for index, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [-10.0, -20.0, 14.0 + index]


def upside_down(data: Dataset) -> None:
    frames = list(data.PerFrameFunctionalGroupsSequence)
    places = [frame.PlanePositionSequence for frame in frames]
    for frame, place in zip(frames, reversed(places), strict=True):
        frame.PlanePositionSequence = place


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (foreign_instance, "1 of 25 images that a segmentation refers to were not given"),
        (foreign_frame, "1 of 25 images that a segmentation refers to were not given"),
        (another_class, "under another SOP class"),
        (between_the_planes, "18 of 18 frames of a segmentation lie beside the planes"),
        (beside_the_pixels, "18 of 18 frames of a segmentation lie beside the planes"),
        (a_third_of_the_step, "12 of 18 frames of a segmentation lie beside the planes"),
        (upside_down, "18 of 18 frames of a segmentation name an image of their source that lies elsewhere"),
    ],
)
def test_a_reference_or_a_place_that_contradicts_the_source_is_no_answer(
    change: Change, cause: str, stack: list[Path], tmp_path: Path
) -> None:
    seg = write_seg(tmp_path / "seg.dcm", stack, head())
    assert judged(seg, stack) is None
    edited(seg, change)
    found = judged(seg, stack)
    assert found is not None
    assert found[0] is Code.OUTPUT_GEOMETRY
    assert cause in found[1]


def test_a_frame_that_names_another_frame_of_a_multi_frame_image_is_no_answer(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", generate_uid())
    enhanced = multi_frame(files, tmp_path / "enhanced.dcm")  # its frames lie in another order
    image = pydicom.dcmread(enhanced)
    number_of = {float(frame.PlanePositionSequence[0].ImagePositionPatient[2]): n for n, frame in enumerate(image[_FRAMES].value, start=1)}

    def refer(data: Dataset) -> None:
        data.ReferencedSeriesSequence[0].ReferencedInstanceSequence = data.ReferencedSeriesSequence[0].ReferencedInstanceSequence[:1]
        data.pop("SourceImageSequence", None)
        named = [data.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]]
        for frame in data[_FRAMES].value:
            named.append(frame.DerivationImageSequence[0].SourceImageSequence[0])
            named[-1].ReferencedFrameNumber = number_of[float(frame.PlanePositionSequence[0].ImagePositionPatient[2])]
        for item in named:
            item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID = image.SOPInstanceUID, image.SOPClassUID

    mask = np.zeros((8, 16, 16), dtype=bool)
    mask[1:5, 4:8, 4:8] = True
    seg = write_seg(tmp_path / "seg.dcm", files, mask)
    edited(seg, refer)
    assert judged(seg, [enhanced]) is None
    edited(seg, upside_down)
    found = judged(seg, [enhanced])
    assert found is not None
    assert "4 of 4 frames of a segmentation name an image of their source that lies elsewhere" in found[1]


def test_an_image_under_a_series_that_is_not_its_own_is_no_answer(stack: list[Path], tmp_path: Path) -> None:
    other = write_series(tmp_path / "other", str(pydicom.dcmread(stack[0]).StudyInstanceUID), slices=2)
    uid = pydicom.dcmread(other[0]).SeriesInstanceUID
    seg = write_seg(tmp_path / "seg.dcm", stack, head())
    edited(seg, lambda data: setattr(data.ReferencedSeriesSequence[0], "SeriesInstanceUID", uid))
    assert judged(seg, [*stack, *other]) == (
        Code.OUTPUT_GEOMETRY,
        "A segmentation refers to an image of its source under another series.",
    )


# --------------------------------------------------------------------------------------------------------------------- damaged ones


def elements_of(data: Dataset, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where each element is that says something of frames, segments or references, those of a sequence's first item included."""
    found = []
    for element in data:
        if element.keyword and (path or element.VR == "SQ" or element.tag.group >= 0x20):
            found.append((*path, element.keyword))
        if element.VR == "SQ" and element.value:
            found += elements_of(element.value[0], (*path, element.keyword, 0))
    return found


def at(data: Dataset, path: tuple[str | int, ...]) -> Dataset:
    for step in path:
        data = getattr(data, step) if isinstance(step, str) else data[step]
    return data


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("value", [None, b"", "NaN"])
def test_whatever_is_missing_or_absurd_in_a_segmentation_it_is_taken_or_refused_by_name(
    value: object, study: tuple[tuple[Instance, ...], Path], tmp_path: Path
) -> None:
    source, seg = study
    whole = seg.read_bytes()
    (tmp_path / "out" / "mesh.stl").write_bytes(box_stl((-3, -13, 9.5), (5, -5, 18.5)))
    codes = set()
    for path in elements_of(pydicom.dcmread(seg)):
        seg.write_bytes(whole)
        data = pydicom.dcmread(seg)
        holder, name = at(data, path[:-1]), str(path[-1])
        try:
            delattr(holder, name) if value is None else setattr(holder, name, value)
            data.save_as(seg)
        except (TypeError, ValueError, AttributeError, OSError):  # what pydicom does not write
            continue
        try:
            produced = collect(tmp_path / "out", source[0].study_uid, read_source(source))
        except FailedError as error:
            codes.add(error.code)
        else:
            preview.describe(produced, read_source(source), tmp_path)
    assert Code.OUTPUT_GEOMETRY in codes
    assert codes <= {Code.OUTPUT_GEOMETRY, Code.OUTPUT_NOT_DICOM, Code.OUTPUT_OTHER_STUDY}


def more_frames_than_groups(data: Dataset) -> None:
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:2]


def of_no_segment(data: Dataset) -> None:
    shared(data).SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7


def without_segments(data: Dataset) -> None:
    del data.SegmentSequence


@pytest.mark.parametrize("change", [more_frames_than_groups, of_no_segment, without_segments, without("PerFrameFunctionalGroupsSequence")])
def test_frames_groups_and_segments_that_do_not_belong_together_are_no_segmentation(
    change: Change, study: tuple[tuple[Instance, ...], Path]
) -> None:
    source, seg = study
    edited(seg, change)
    with pytest.raises(FailedError) as error:
        check_segmentation(seg, read_source(source))
    assert error.value.code is Code.OUTPUT_NOT_DICOM


def with_value(value: int) -> Change:
    """One pixel of this value, in a segmentation of eight bits."""

    def change(data: Dataset) -> None:
        data.PixelData = bytes([value]) + data.PixelData[1:]

    return change


def in_eight_bits(data: Dataset) -> None:
    """What was written as single bits, as some writers do: 255 where there is a segment."""
    pixels = data.pixel_array
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelData = 7, (pixels.astype(np.uint8) * 255).tobytes()


@pytest.mark.parametrize(
    ("kind", "change", "refused"),
    [
        (SegmentationTypeValues.LABELMAP, with_value(1), False),
        (SegmentationTypeValues.LABELMAP, with_value(7), True),
        (SegmentationTypeValues.FRACTIONAL, with_value(255), False),
        (SegmentationTypeValues.FRACTIONAL, lambda data: setattr(data, "MaximumFractionalValue", 100), True),
        (SegmentationTypeValues.BINARY, lambda _: None, False),
        (SegmentationTypeValues.BINARY, in_eight_bits, True),
    ],
)
def test_values_without_a_meaning_are_no_segmentation(
    kind: SegmentationTypeValues, change: Change, refused: bool, stack: list[Path], tmp_path: Path
) -> None:
    """Of a volume in millilitres they would make a multiple, or leave a part of it out."""
    mask = np.zeros((len(stack), 16, 16), dtype=bool)
    mask[2:5, 4:8, 4:8] = True
    seg = write_segments(tmp_path / "seg.dcm", stack, {"Brain": mask}, kind)
    edited(seg, change)
    source = read_source(read_studies(stack)[0].instances)
    if not refused:
        check_segmentation(seg, source)
        return
    with pytest.raises(FailedError, match=r"[1-3] of [0-9]+ frames of a segmentation hold values that it does not describe") as error:
        check_segmentation(seg, source)
    assert error.value.code is Code.OUTPUT_NOT_DICOM
