"""Which images of a series are one clean stack, and what is said of those that are not. Each kind was once answered wrongly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake.stack import _overlap, stack_of
from monai_aws_pipeline.maps.spec.study_contract import Handles, StudyContract
from tests.unit.host_agent.series import again, each, good, images_of
from tests.unit.host_agent.stacks import jittered, with_value, without

PLAIN = StudyContract(volume=True)
MIXED, IRREGULAR, UNSUPPORTED = Code.MIXED_SERIES, Code.IRREGULAR_VOLUME, Code.UNSUPPORTED_IMAGE
Change = Callable[[list[Dataset]], Sequence[Dataset]]


def other_pixels(data: Dataset) -> bytes:
    return (65535 - data.pixel_array).astype("<u2").tobytes()


def second(datasets: list[Dataset], **changes: object) -> list[Dataset]:
    """The stack, and behind it the same one with other pixels."""
    return [*datasets, *(again(data, PixelData=other_pixels(data), **changes) for data in datasets)]


def shifted(datasets: list[Dataset], millimetres: float, **changes: object) -> list[Dataset]:
    def move(_: int, data: Dataset) -> None:
        data.ImagePositionPatient[2] += millimetres

    return [*datasets, *each((again(data, PixelData=other_pixels(data), **changes) for data in datasets), move)]


def tilted(datasets: list[Dataset], *, evenly: bool = True) -> list[Dataset]:
    def move(index: int, data: Dataset) -> None:
        data.ImagePositionPatient[1] += 1.5 * index if evenly or index % 2 else 0

    return each(datasets, move)


def empty(datasets: list[Dataset], name: str, which: slice) -> list[Dataset]:
    return [*each(datasets[which], lambda _, data: setattr(data, name, None)), *(item for item in datasets if item not in datasets[which])]


def smaller(datasets: list[Dataset], which: slice) -> list[Dataset]:
    def cut(_: int, data: Dataset) -> None:
        data.PixelData = data.pixel_array[:8, :8].astype("<u2").tobytes()
        data.Rows = data.Columns = 8

    each(datasets[which], cut)
    return datasets


def turned(datasets: list[Dataset], which: slice) -> list[Dataset]:
    each(datasets[which], lambda _, data: setattr(data, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]))
    return datasets


REFUSED: dict[str, tuple[Change, Code, str]] = {
    "two echoes": (lambda d: second(d, EchoTime="90"), MIXED, "EchoTime is nothing in 8 images, 90 in 8 images"),
    "two echo numbers": (lambda d: second(with_value(d, "EchoNumbers", 1), EchoNumbers=2), MIXED, "EchoNumbers is 1 in 8 images, 2"),
    "two acquisitions": (
        lambda d: second(with_value(d, "AcquisitionNumber", 1), AcquisitionNumber=2), MIXED, "AcquisitionNumber is 1 in 8",
    ),
    "two b-values": (lambda d: second(with_value(d, "DiffusionBValue", 0.0), DiffusionBValue=1000.0), MIXED, "DiffusionBValue is 0 in"),
    "magnitude and phase": (
        lambda d: second(with_value(d, "ImageType", ["ORIGINAL", "PRIMARY", "M"]), ImageType=["ORIGINAL", "PRIMARY", "P"]),
        MIXED, "ImageType is ORIGINAL\\PRIMARY\\M in 8 images",
    ),
    "two time points": (
        lambda d: second(with_value(d, "AcquisitionTime", "120000"), AcquisitionTime="121000"), MIXED, "AcquisitionTime takes 2 values",
    ),
    "a second stack that nothing tells apart": (second, MIXED, "16 images lie at 8 of 8 places, and no attribute"),
    "a second stack a hair aside": (lambda d: shifted(d, 0.0004), MIXED, "16 images lie at 8 of 8 places"),
    "one slice that is there twice with other pixels": (
        lambda d: [*d, again(d[3], PixelData=other_pixels(d[3]))], MIXED, "2 images lie at 1 of 8 places",
    ),
    "a second echo between the slices of the first": (
        lambda d: shifted(with_value(d, "EchoTime", "10"), 1.5, EchoTime="90"), MIXED, "EchoTime is 10 in 8 images, 90 in 8",
    ),
    "a second acquisition between the slices of the first": (
        lambda d: shifted(with_value(d, "AcquisitionNumber", 1), 1.5, AcquisitionNumber=2), MIXED, "AcquisitionNumber",
    ),
    "two echoes one behind the other": (lambda d: with_value(d, "EchoTime", "10", "90"), MIXED, "EchoTime is 10 in 4 images, 90"),
    "two frames of reference": (
        lambda d: with_value(d, "FrameOfReferenceUID", generate_uid(), generate_uid()), MIXED, "FrameOfReferenceUID has 2 values",
    ),
    "a missing slice": (lambda d: [*d[:3], *d[4:]], IRREGULAR, "1 of 6 steps"),
    "some without position": (lambda d: without(d, "ImagePositionPatient", slice(5, 8)), IRREGULAR, "3 of 8 images"),
    "some with an empty position": (lambda d: empty(d, "ImagePositionPatient", slice(5, 8)), IRREGULAR, "3 of 8 images"),
    "some with another matrix": (lambda d: smaller(d, slice(0, 2)), IRREGULAR, "2 of 8 images"),
    "some in another direction": (lambda d: turned(d, slice(0, 2)), IRREGULAR, "2 directions"),
    "some with other pixels' size": (
        lambda d: with_value(d, "PixelSpacing", [2, 2], [2, 3]), IRREGULAR, "another pixel spacing",
    ),
    "two slices": (lambda d: d[:2], IRREGULAR, "2 planes; the application needs at least 3"),
    "one pixel": (
        lambda d: each(d, lambda _, data: (setattr(data, "Rows", 1), setattr(data, "Columns", 1), setattr(data, "PixelData", b"\1\0"))),  # type: ignore[func-returns-value,arg-type,return-value]
        IRREGULAR, "less than two pixels",
    ),
    "no positions at all": (lambda d: without(d, "ImagePositionPatient", slice(0, 8)), Code.NO_GEOMETRY, "None of the 8"),
    "no frame of reference": (lambda d: without(d, "FrameOfReferenceUID", slice(0, 8)), Code.NO_GEOMETRY, "frame of reference"),
    "no pixel spacing": (lambda d: without(d, "PixelSpacing", slice(0, 8)), Code.NO_GEOMETRY, "None of the 8"),
    "a tilted gantry": (tilted, Code.GANTRY_TILT, "26.6 degrees"),
    "planes shifted at random": (lambda d: tilted(d, evenly=False), IRREGULAR, "shifted unevenly"),
    "inverted pixels": (lambda d: with_value(d, "PhotometricInterpretation", "MONOCHROME1"), UNSUPPORTED, "8 of 8 images are inverted"),
    "an inverse presentation": (lambda d: with_value(d, "PresentationLUTShape", "INVERSE"), UNSUPPORTED, "inverted"),
    "a presentation table": (
        lambda d: with_value(d, "PresentationLUTSequence", [Dataset()]), UNSUPPORTED, "8 of 8 images are inverted",
    ),
    "pixels in the high bits": (
        lambda d: with_value(with_value(d, "BitsStored", 12), "HighBit", 15), UNSUPPORTED, "8 of 8 images do not store pixels",
    ),
    "a maker's own class of objects": (lambda d: with_value(d, "SOPClassUID", "1.2.840.113619.4.2"), UNSUPPORTED, "not DICOM's own"),
    "a slope without an intercept": (lambda d: with_value(d, "RescaleSlope", "2"), Code.DICOM_DAMAGED, "RescaleIntercept of 8 of 8 images"),
    "a rescale in most images": (
        lambda d: each(d, lambda index, data: data.update({"RescaleSlope": "1", "RescaleIntercept": "-1024"} if index > 1 else {})),
        Code.DICOM_DAMAGED, "2 of 8 images have no RescaleSlope",
    ),
    "an intercept without a slope": (lambda d: with_value(d, "RescaleIntercept", "5"), Code.DICOM_DAMAGED, "RescaleIntercept of 8 of 8"),
    "a slope of zero": (
        lambda d: with_value(with_value(d, "RescaleIntercept", "0"), "RescaleSlope", "0"), Code.DICOM_DAMAGED, "RescaleIntercept of 8 of 8",
    ),
    "mosaics": (lambda d: with_value(d, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), UNSUPPORTED, "mosaics"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_series_that_is_no_clean_stack_is_refused_by_name(tmp_path: Path, case: str) -> None:
    change, code, said = REFUSED[case]
    images = images_of(tmp_path / "files", change(good(tmp_path / "good")))
    with pytest.raises(RefusedError) as refused:
        stack_of(images, PLAIN)
    assert refused.value.code is code
    assert said in refused.value.cause
    assert refused.value.remedy


GIVEN: dict[str, tuple[Change, int]] = {
    "as they came": (list, 8),
    "in another order": (lambda d: d[::-1], 8),
    "without numbers": (lambda d: with_value(d, "InstanceNumber", None), 8),
    "with rounding noise": (lambda d: each(d, jittered), 8),
    "the whole stack twice, equal to the pixel": (lambda d: [*d, *map(again, d)], 8),
    "one slice twice, equal to the pixel": (lambda d: [*d, again(d[2])], 8),
    "with a spacing that contradicts the positions": (lambda d: with_value(d, "SpacingBetweenSlices", "1"), 8),
    "with a time of its own for each slice": (
        lambda d: each(d, lambda index, data: setattr(data, "AcquisitionTime", f"1200{index:02d}")), 8,
    ),
    "of two acquisitions one behind the other": (lambda d: with_value(d, "AcquisitionNumber", 1, 2), 8),
    "with a rescale in some that does nothing": (
        lambda d: each(d, lambda index, data: data.update({"RescaleSlope": "1", "RescaleIntercept": "0"} if index > 1 else {})), 8,
    ),
    "with a rescale of one and no intercept": (lambda d: with_value(d, "RescaleSlope", "1"), 8),
    "with one slice of another image type": (
        lambda d: each(d, lambda index, data: setattr(data, "ImageType", ["ORIGINAL", "PRIMARY", *(["FIRST"] if not index else [])])), 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GIVEN)
def test_a_clean_stack_is_given_in_the_order_of_its_planes(tmp_path: Path, case: str) -> None:
    change, planes = GIVEN[case]
    stack = stack_of(images_of(tmp_path / "files", change(good(tmp_path / "good"))), PLAIN)
    along = [image.header.plane.position[2] for image in stack.instances if image.header.plane]
    assert (len(stack.instances), stack.planes) == (planes, planes)
    assert along == sorted(along)
    assert stack.step == pytest.approx(3.0, abs=1e-3)


def test_the_application_may_say_which_stack_of_a_series_it_wants(tmp_path: Path) -> None:
    images = images_of(tmp_path / "files", second(with_value(good(tmp_path / "good"), "EchoTime", "10.0"), EchoTime="90"))
    stack = stack_of(images, StudyContract(volume=True, stack=(("EchoTime", "90"),)))
    assert {dict(image.header.telling)["EchoTime"] for image in stack.instances} == {"90"}
    with pytest.raises(RefusedError, match=r"None of the 16 images .* \(EchoTime 80\)"):
        stack_of(images, StudyContract(volume=True, stack=(("EchoTime", "80"),)))


@pytest.mark.parametrize(
    ("change", "handles"),
    [
        (tilted, Handles.GANTRY_TILT),
        (lambda d: with_value(d, "PhotometricInterpretation", "MONOCHROME1"), Handles.MONOCHROME1),
    ],
)
def test_what_the_application_says_it_handles_is_given_to_it(tmp_path: Path, change: Change, handles: Handles) -> None:
    images = images_of(tmp_path / "files", change(good(tmp_path / "good")))
    assert stack_of(images, StudyContract(volume=True, handles=frozenset({handles}))).planes == 8


def test_a_minimum_of_slices_is_the_applications_own(tmp_path: Path) -> None:
    images = images_of(tmp_path / "files", good(tmp_path / "good"))
    with pytest.raises(RefusedError, match="8 planes; the application needs at least 9"):
        stack_of(images, StudyContract(volume=True, min_slices=9))


def test_nothing_that_could_name_a_person_is_said_of_what_differs(tmp_path: Path) -> None:
    names = ["Zqplant^Vaughn", "19610203"]
    for value in names:
        images = images_of(
            tmp_path / value / "f", second(with_value(good(tmp_path / value / "g"), "ContrastBolusAgent", "x"), ContrastBolusAgent=value)
        )
        with pytest.raises(RefusedError) as refused:
            stack_of(images, PLAIN)
        assert value not in str(refused.value)


def test_whether_acquisitions_overlap_is_asked_of_neighbours_alone() -> None:
    """Each slice may have an AcquisitionNumber of its own, and there are thousands: of all pairs there would be millions."""

    class Place(np.ndarray):
        asked = 0

        def min(self, *_: object, **__: object) -> float:  # type: ignore[override]
            Place.asked += 1
            return float(self[0])

    groups = [np.array([3.0 * number]).view(Place) for number in range(300)]
    assert not _overlap(groups)
    assert Place.asked == len(groups)
    assert _overlap([*groups, np.array([30.0, 60.0]), np.array([33.0, 63.0])])
    assert not _overlap([np.array([0.0, 30.0]), np.array([25.0, 60.0]), np.array([58.0, 90.0])])
