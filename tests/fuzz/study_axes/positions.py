"""What headers say about places: rounding, wrong or missing attributes, planes that do not belong to the stack."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, IncompatibleAxesError, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import Draft, Geometry, Image

PARTIAL = refuse(Code.IRREGULAR_VOLUME, Code.MIXED_SERIES, Code.NO_GEOMETRY, Code.DICOM_DAMAGED)


@variants("position_jitter_{}", Phase.POSITION, ANSWER, {"1e-4": 1e-4, "1e-3": 1e-3})
def _jitter(draft: Draft, size: float) -> None:
    for image in draft.images:
        position = [float(value) + draft.random.uniform(-size, size) for value in _position(image)]
        image.header.ImagePositionPatient = [f"{value:.6f}" for value in position]


@axis("cosine_noise_1e-5", Phase.POSITION, ANSWER)
def _cosines(draft: Draft) -> None:
    for image in draft.images:
        directions = [float(value) + draft.random.uniform(-1e-5, 1e-5) for value in image.header.ImageOrientationPatient]
        image.header.ImageOrientationPatient = [f"{value:.7f}" for value in directions]


@axis("cosines_of_three_decimals", Phase.POSITION, either(Code.IRREGULAR_VOLUME, Code.NO_GEOMETRY))
def _rounded_cosines(draft: Draft) -> None:
    """As some viewers export oblique planes: not quite unit vectors, not quite at a right angle."""
    for image in draft.images:
        image.header.ImageOrientationPatient = [f"{float(value):.3f}" for value in image.header.ImageOrientationPatient]


@axis("positions_of_one_decimal", Phase.POSITION, either(Code.IRREGULAR_VOLUME))
def _rounded(draft: Draft) -> None:
    for image in draft.images:
        image.header.ImagePositionPatient = [f"{float(value):.1f}" for value in _position(image)]


@axis("positions_with_exponents", Phase.POSITION, ANSWER)
def _exponents(draft: Draft) -> None:
    for image in draft.images:
        image.header.ImagePositionPatient = [f"{float(value):.8e}" for value in _position(image)]


@variants(
    "spacing_between_{}",
    Phase.POSITION,
    ANSWER,
    {"wrong": "1", "huge": "250", "negative": "-2.5", "zero": "0", "empty": None, "absent": ""},
    slot="step",
)
def _between(draft: Draft, value: str | None) -> None:
    _set(draft, "SpacingBetweenSlices", value)


@variants("thickness_{}", Phase.POSITION, ANSWER, {"wrong": "1", "zero": "0", "negative": "-2", "empty": None, "absent": ""}, slot="step")
def _thickness(draft: Draft, value: str | None) -> None:
    _set(draft, "SliceThickness", value)


@axis("thickness_and_spacing_wrong", Phase.POSITION, ANSWER, slot="step")
def _both(draft: Draft) -> None:
    _set(draft, "SliceThickness", "1")
    _set(draft, "SpacingBetweenSlices", "1")


@axis("thickness_and_spacing_absent", Phase.POSITION, ANSWER, slot="step")
def _neither(draft: Draft) -> None:
    _set(draft, "SliceThickness", "")
    _set(draft, "SpacingBetweenSlices", "")


@axis("thickness_of_first_plane_differs", Phase.POSITION, either(Code.MIXED_SERIES), slot="step")
def _first_thickness(draft: Draft) -> None:
    draft.images[0].header.SliceThickness = "9"
    draft.images[0].header.SpacingBetweenSlices = "9"


PLACES: dict[str, Any] = {
    f"{how}_{where}": (how, where) for how in ("empty", "absent", "garbage", "short") for where in ("upper", "lower", "middle", "some")
}


@variants("position_{}", Phase.POSITION, PARTIAL, PLACES)
def _no_position(draft: Draft, what: tuple[str, str]) -> None:
    for image in _part(draft, what[1]):
        _spoil(image, "ImagePositionPatient", what[0])
    draft.main.truth.clear()


@variants("orientation_{}", Phase.POSITION, PARTIAL, {key: PLACES[key] for key in ("empty_upper", "absent_lower", "garbage_middle")})
def _no_orientation(draft: Draft, what: tuple[str, str]) -> None:
    for image in _part(draft, what[1]):
        _spoil(image, "ImageOrientationPatient", what[0])
    draft.main.truth.clear()


@variants("pixel_spacing_{}", Phase.POSITION, PARTIAL, {key: PLACES[key] for key in ("empty_upper", "absent_lower", "garbage_middle")})
def _no_spacing(draft: Draft, what: tuple[str, str]) -> None:
    for image in _part(draft, what[1]):
        _spoil(image, "PixelSpacing", what[0])
    draft.main.truth.clear()


@variants(
    "all_{}_absent",
    Phase.POSITION,
    refuse(Code.NO_GEOMETRY),
    {
        "positions": ["ImagePositionPatient"],
        "orientations": ["ImageOrientationPatient"],
        "pixel_spacings": ["PixelSpacing"],
        "geometry": ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"],
    },
)
def _all_absent(draft: Draft, names: list[str]) -> None:
    for image in draft.images:
        for name in names:
            _spoil(image, name, "absent")
    draft.main.truth.clear()


@variants(
    "orientation_not_{}",
    Phase.POSITION,
    refuse(Code.NO_GEOMETRY, Code.IRREGULAR_VOLUME, Code.DICOM_DAMAGED),
    {"unit": [0.5, 0, 0, 0, 0.5, 0], "square": [1, 0, 0, 0.7, 0.714, 0], "zero": [0, 0, 0, 0, 0, 0]},
)
def _not_directions(draft: Draft, directions: list[float]) -> None:
    for image in draft.images:
        image.header.ImageOrientationPatient = directions
    draft.main.truth.clear()


@axis("pixel_spacing_zero", Phase.POSITION, refuse(Code.NO_GEOMETRY, Code.DICOM_DAMAGED))
def _zero_spacing(draft: Draft) -> None:
    for image in draft.images:
        image.header.PixelSpacing = [0, 0]
    draft.main.truth.clear()


@axis("all_positions_equal", Phase.POSITION, refuse(Code.IRREGULAR_VOLUME, Code.MIXED_SERIES))
def _equal(draft: Draft) -> None:
    for image in draft.images:
        image.header.ImagePositionPatient = list(_position(draft.images[0]))
    draft.main.truth.clear()


@variants("other_matrix_{}", Phase.POSITION, PARTIAL, {"at_the_end": "upper", "in_the_middle": "middle", "of_the_first": "first"})
def _other_matrix(draft: Draft, where: str) -> None:
    for image in _part(draft, where):
        image.values = image.values[:-8, :-6]
    draft.main.truth.clear()


@axis("other_matrix_transposed", Phase.POSITION, PARTIAL)
def _transposed(draft: Draft) -> None:
    for image in _part(draft, "upper"):
        image.values = np.ascontiguousarray(image.values.T)
    draft.main.truth.clear()


@axis("other_spacing_in_some", Phase.POSITION, PARTIAL)
def _other_spacing(draft: Draft) -> None:
    for image in _part(draft, "upper"):
        image.header.PixelSpacing = ["1.4", "1.4"]
    draft.main.truth.clear()


@axis("some_planes_turned", Phase.POSITION, PARTIAL)
def _turned(draft: Draft) -> None:
    for image in _part(draft, "upper"):
        directions = list(image.header.ImageOrientationPatient)
        image.header.ImageOrientationPatient = [*directions[3:], *directions[:3]]
    draft.main.truth.clear()


@axis("some_planes_flipped", Phase.POSITION, PARTIAL)
def _flipped(draft: Draft) -> None:
    """Rows run the other way in some images, as after a turn of the picture on a workstation: the normal points the other way."""
    for image in _part(draft, "upper"):
        directions = [float(value) for value in image.header.ImageOrientationPatient]
        image.header.ImageOrientationPatient = [*(-value for value in directions[:3]), *directions[3:]]
    draft.main.truth.clear()


@variants(
    "localizer_inside_{}",
    Phase.POSITION,
    PARTIAL,
    {"coronal": Geometry((1, 0, 0), (0, 0, -1), (1.3, 1.1), 10.0, (3, 40, 48)), "axial": Geometry(step=20.0, shape=(1, 40, 48))},
)
def _localizer_inside(draft: Draft, geometry: Geometry) -> None:
    more = draft.acquire(geometry, like=draft.images[0]).images
    for image in more:
        image.header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "ND"]
        image.header.PixelSpacing = ["1.3", "1.1"]
    draft.images[:] = [*more, *draft.images]
    draft.main.truth.clear()


@axis("frame_of_reference_absent", Phase.POSITION, either(Code.NO_GEOMETRY), slot="frame")
def _no_frame(draft: Draft) -> None:
    for image in draft.images:
        del image.header.FrameOfReferenceUID


@axis("frame_of_reference_empty", Phase.POSITION, either(Code.NO_GEOMETRY), slot="frame")
def _empty_frame(draft: Draft) -> None:
    for image in draft.images:
        image.header.FrameOfReferenceUID = ""


@axis("frame_of_reference_differs", Phase.POSITION, either(Code.MIXED_SERIES, Code.IRREGULAR_VOLUME), slot="frame")
def _two_frames(draft: Draft) -> None:
    frame = draft.uid()
    for image in _part(draft, "upper"):
        image.header.FrameOfReferenceUID = frame


@axis("imager_pixel_spacing_only", Phase.POSITION, refuse(Code.NO_GEOMETRY))
def _imager(draft: Draft) -> None:
    for image in draft.images:
        if "PixelSpacing" not in image.header:
            raise IncompatibleAxesError
        image.header.ImagerPixelSpacing = copy.copy(image.header.PixelSpacing)
        del image.header.PixelSpacing
    draft.main.truth.clear()


@axis("patient_position_absent", Phase.POSITION, ANSWER, slot="patient position")
def _patient_position(draft: Draft) -> None:
    for image in draft.images:
        del image.header.PatientPosition


def _position(image: Image) -> Any:
    return image.header.ImagePositionPatient


def _set(draft: Draft, name: str, value: str | None) -> None:
    """Give all images a value; None empties the attribute and an empty text removes it."""
    for image in draft.images:
        if value == "":
            if name in image.header:
                delattr(image.header, name)
        else:
            setattr(image.header, name, value)


def _part(draft: Draft, where: str) -> list[Image]:
    count = len(draft.images)
    ordered = list(draft.images)
    if where == "some":
        return draft.random.sample(ordered, max(1, count // 4))
    parts = {"upper": slice(-max(1, count // 4), None), "lower": slice(0, max(1, count // 4)), "first": slice(0, 1)}
    return ordered[parts.get(where, slice(count // 3, max(count // 3 + 1, count // 2)))]


def _spoil(image: Image, name: str, how: str) -> None:
    value = list(image.header.get(name) or [])
    if how == "absent":
        if name in image.header:
            delattr(image.header, name)
    elif how == "empty":
        setattr(image.header, name, None)
    elif how == "short":
        setattr(image.header, name, value[:2])
    else:
        tag = image.header.data_element(name)
        if tag is None:
            raise IncompatibleAxesError
        # a text where numbers belong, as a careless anonymiser leaves it
        image.header.add_new(tag.tag, "LO", ["unknownzq"] * max(1, len(value)))
