"""More or less than one clean stack in a series: echoes, time points, repeats, planes lost or doubled. Where two stacks answer otherwise,
no answer is right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import Draft, Image, Series

MIXED = refuse(Code.MIXED_SERIES)


def _second(draft: Draft, **changes: Any) -> list[Image]:
    """The main stack once more with other pixels."""
    return [draft.another(image, draft.other_values(image), **changes) for image in draft.images]


def _shifted(images: list[Image], millimetres: float) -> None:
    """Move images along their normal."""
    for image in images:
        directions = np.array(image.header.ImageOrientationPatient, float)
        position = np.array(image.header.ImagePositionPatient, float) + millimetres * np.cross(directions[:3], directions[3:])
        image.header.ImagePositionPatient = [f"{value:.6f}" for value in position]


def _add(draft: Draft, images: list[Image], *, truth: bool = False) -> None:
    """Put images into the main series: behind, before, or among its own. Of another echo, they leave the first one whole."""
    if all(image.header.get("EchoTime") != draft.images[0].header.get("EchoTime") for image in images):
        draft.main.chosen[:] = draft.main.truth
    how = draft.random.choice(["behind", "before", "among"])
    own = draft.main.images
    own[:] = [*own, *images] if how == "behind" else [*images, *own] if how == "before" else [*own, *images]
    if how == "among":
        draft.random.shuffle(own)
    if not truth:
        draft.main.truth.clear()


@variants(
    "second_stack_by_{}",
    Phase.STACK,
    MIXED,
    {
        "echo_number_alone": {"EchoNumbers": 2},
        "acquisition_number": {"AcquisitionNumber": 2},
        "earlier_acquisition_number": {"AcquisitionNumber": 0},
        "temporal_position": {"TemporalPositionIdentifier": 2, "NumberOfTemporalPositions": 2},
        "trigger_time": {"TriggerTime": "400"},
        "b_value": {"DiffusionBValue": 1000.0},
        "phase_image": {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
        "image_type_third": {"ImageType": ["ORIGINAL", "PRIMARY", "FIELD_MAP", "ND"]},
        "inversion_time": {"InversionTime": "900"},
        "flip_angle": {"FlipAngle": "70"},
        "repetition_time": {"RepetitionTime": "2500"},
        "acquisition_time": {"AcquisitionTime": "121500", "ContentTime": "121500"},
        "contrast_agent": {"ContrastBolusAgent": "Gadolinium"},
        "sequence_name": {"SequenceName": "fl3d2"},
        "convolution_kernel": {"ConvolutionKernel": "B70f"},
        "coil": {"ReceiveCoilName": "HEA1"},
        "nothing": {},
    },
)
def _second_stack(draft: Draft, changes: dict[str, Any]) -> None:
    for image in draft.images:
        if "DiffusionBValue" in changes:
            image.header.DiffusionBValue = 0.0
        if "TemporalPositionIdentifier" in changes:
            image.header.TemporalPositionIdentifier, image.header.NumberOfTemporalPositions = 1, 2
    _add(draft, _second(draft, **changes))


@axis("second_stack_by_echo_time", Phase.STACK, MIXED, chosen=ANSWER)
def _echo(draft: Draft) -> None:
    _add(draft, _second(draft, EchoTime="90", EchoNumbers=2))


@axis("second_stack_private_difference", Phase.STACK, MIXED)
def _private(draft: Draft) -> None:
    images = _second(draft)
    for value, group in (("b0", draft.images), ("b1000", images)):
        for image in group:
            image.header.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "LO", value)
    _add(draft, images)


@axis("second_stack_identical", Phase.STACK, either(Code.MIXED_SERIES))
def _identical(draft: Draft) -> None:
    _add(draft, [draft.another(image) for image in draft.images], truth=True)


@axis("second_stack_identical_next_numbers", Phase.STACK, either(Code.MIXED_SERIES))
def _identical_numbers(draft: Draft) -> None:
    more = [draft.another(image, InstanceNumber=number + 1001) for number, image in enumerate(draft.images)]
    _add(draft, more, truth=True)


@variants(
    "second_stack_shifted_{}",
    Phase.STACK,
    refuse(Code.MIXED_SERIES, Code.IRREGULAR_VOLUME),
    {"0.0004_mm": 0.0004, "0.004_mm": 0.004, "0.04_mm": 0.04, "0.4_mm": 0.4},
)
def _jittered(draft: Draft, millimetres: float) -> None:
    images = _second(draft)
    _shifted(images, millimetres)
    _add(draft, images)


@axis("second_stack_half_a_step_aside", Phase.STACK, MIXED, chosen=ANSWER)
def _half(draft: Draft) -> None:
    images = _second(draft, EchoTime="90")
    _shifted(images, draft.main.truth[0].thickness / 2)
    _add(draft, images)


@axis("second_stack_end_to_end", Phase.STACK, MIXED, chosen=ANSWER)
def _end_to_end(draft: Draft) -> None:
    images = _second(draft, EchoTime="90")
    _shifted(images, draft.main.truth[0].thickness * len(draft.main.truth))
    _add(draft, images)


@axis("three_echoes", Phase.STACK, MIXED, chosen=ANSWER)
def _three(draft: Draft) -> None:
    _add(draft, [*_second(draft, EchoTime="30", EchoNumbers=2), *_second(draft, EchoTime="90", EchoNumbers=3)])


@axis("echoes_of_half_the_planes", Phase.STACK, refuse(Code.MIXED_SERIES, Code.IRREGULAR_VOLUME), chosen=ANSWER)
def _half_echoes(draft: Draft) -> None:
    images = _second(draft, EchoTime="90")
    _add(draft, images[: len(images) // 2])


@axis("alternating_echoes", Phase.STACK, MIXED, chosen=ANSWER)
def _alternating(draft: Draft) -> None:
    """One image a position, but every second one of another echo: no stack is whole, and each is even."""
    draft.main.chosen[:] = [replace(plane, thickness=plane.thickness * 2) for plane in draft.main.truth[::2]]
    for image in draft.images[1::2]:
        image.values = draft.other_values(image)
        image.header.EchoTime, image.header.EchoNumbers = "90", 2
    draft.main.truth.clear()


@axis("one_plane_missing_and_another_doubled", Phase.STACK, refuse(Code.IRREGULAR_VOLUME, Code.MIXED_SERIES))
def _exchanged(draft: Draft) -> None:
    """As many images as planes, but one is there twice and another not at all."""
    images = draft.images
    del images[len(images) // 2]
    _add(draft, [draft.another(images[1])])


@axis("second_stack_of_the_same_pixels_rescaled_otherwise", Phase.STACK, MIXED)
def _rescaled(draft: Draft) -> None:
    for image in draft.images:
        image.header.RescaleSlope, image.header.RescaleIntercept = "1", "0"
    _add(draft, [draft.another(image, RescaleSlope="0.5") for image in draft.images])


@axis("one_plane_doubled", Phase.STACK, either(Code.MIXED_SERIES))
def _doubled(draft: Draft) -> None:
    _add(draft, [draft.another(draft.random.choice(draft.images))], truth=True)


@axis("one_plane_doubled_otherwise", Phase.STACK, MIXED)
def _doubled_otherwise(draft: Draft) -> None:
    image = draft.random.choice(draft.images)
    _add(draft, [draft.another(image, draft.other_values(image))])


@axis("repeated_with_new_acquisition", Phase.STACK, either(Code.MIXED_SERIES))
def _repeated_some(draft: Draft) -> None:
    """Some planes were acquired again, with the same pixels and the next AcquisitionNumber."""
    _add(draft, [draft.another(image, AcquisitionNumber=2) for image in draft.images[::5]], truth=True)


def _keep(series: Series, wanted: list[Image]) -> None:
    series.images[:] = [image for image in series.images if image in wanted]
    series.truth[:] = [plane for plane in series.truth if plane.image in wanted]


@variants(
    "{}_missing",
    Phase.STACK,
    refuse(Code.IRREGULAR_VOLUME),
    {"middle": [12], "second": [1], "last_but_one": [-2], "two": [5, 16], "neighbours": [10, 11], "every_third": list(range(1, 24, 3))},
)
def _missing(draft: Draft, which: list[int]) -> None:
    gone = [draft.images[number] for number in which if -len(draft.images) <= number < len(draft.images) - 1 or number == -2]
    if len(draft.images) < 8 or not gone:
        which_one = len(draft.images) // 2
        gone = [draft.images[which_one]]
    _keep(draft.main, [image for image in draft.images if image not in gone])
    draft.main.truth.clear()


@variants("{}_end_missing", Phase.STACK, ANSWER, {"upper": slice(0, -4), "lower": slice(4, None), "upper_half": slice(0, 12)})
def _end_missing(draft: Draft, kept: slice) -> None:
    if len(draft.images) > 8:
        _keep(draft.main, draft.images[kept])


@axis("every_second_kept", Phase.STACK, ANSWER)
def _sparse(draft: Draft) -> None:
    """Even steps, twice as wide: a volume, whatever its attributes say."""
    if len(draft.images) > 8:
        _keep(draft.main, draft.images[::2])
        _widen(draft.main, 2.0)


@axis("steps_drifting", Phase.STACK, either(Code.IRREGULAR_VOLUME))
def _drifting(draft: Draft) -> None:
    """Steps that grow by a little less than what is called uneven; each plane is right where it says."""
    thickness, count = draft.main.truth[0].thickness, len(draft.images)
    moved = {}
    for number, image in enumerate(draft.images):
        _shifted([image], 0.03 * thickness * (number / count - 1) * number / 2)
        moved[id(image)] = np.array(image.header.ImagePositionPatient, float)
    draft.main.truth[:] = [replace(plane, position=moved[id(plane.image)]) for plane in draft.main.truth]


def _widen(series: Series, factor: float) -> None:
    series.truth[:] = [replace(plane, thickness=plane.thickness * factor) for plane in series.truth]


@variants("steps_{}", Phase.STACK, refuse(Code.IRREGULAR_VOLUME), {"growing": 0.12, "wider_in_the_upper_half": 0.0})
def _uneven(draft: Draft, growth: float) -> None:
    thickness = draft.main.truth[0].thickness
    for number, image in enumerate(draft.images):
        more = growth * number * number / 2 if growth else max(0, number - len(draft.images) // 2) * 0.5
        _shifted([image], thickness * more)
    draft.main.truth.clear()
