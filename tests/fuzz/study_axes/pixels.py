"""How pixels hold the patient's values: types, signs, rescaling, colours, multi-frame images. The values themselves stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, IncompatibleAxesError, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import Array, Draft, Image, Series

UNSUPPORTED = refuse(Code.UNSUPPORTED_IMAGE)
MAY_BE_UNSUPPORTED = either(Code.UNSUPPORTED_IMAGE)
NO_PIXELS = refuse(Code.DICOM_TRUNCATED, Code.NO_IMAGES, Code.DICOM_DAMAGED, Code.MIXED_SERIES, Code.IRREGULAR_VOLUME)


def _each(draft: Draft, store: Callable[[Dataset, Array, int], None]) -> None:
    """Have every image of the main series written by ``store``, which is told its number."""
    for number, image in enumerate(draft.images):
        image.store = _numbered(store, number)


def _numbered(store: Callable[[Dataset, Array, int], None], number: int) -> Callable[[Dataset, Array], None]:
    def numbered(header: Dataset, values: Array) -> None:
        header.Rows, header.Columns = values.shape
        store(header, values, number)

    return numbered


def _put(header: Dataset, stored: Array, kind: str, *, signed: bool = False, bits: int = 16, **changes: Any) -> None:
    header.BitsAllocated = np.dtype(kind).itemsize * 8
    header.BitsStored, header.HighBit, header.PixelRepresentation = bits, bits - 1, int(signed)
    header.PixelData = np.ascontiguousarray(np.rint(stored)).astype(kind).tobytes()
    header["PixelData"].VR = "OW" if header.BitsAllocated > 8 else "OB"
    if len(header.PixelData) % 2:
        header.PixelData += b"\0"
    for name, value in changes.items():
        setattr(header, name, value)


@axis("monochrome1", Phase.PIXELS, ANSWER, sdk=UNSUPPORTED)
def _monochrome1(draft: Draft) -> None:
    _each(draft, lambda header, values, _: _put(header, 4095 - values, "<u2", bits=12, PhotometricInterpretation="MONOCHROME1"))


@axis(
    "monochrome1_in_some",
    Phase.PIXELS,
    either(Code.MIXED_SERIES, Code.UNSUPPORTED_IMAGE),
    sdk=refuse(Code.MIXED_SERIES, Code.UNSUPPORTED_IMAGE),
)
def _monochrome1_some(draft: Draft) -> None:
    def store(header: Dataset, values: Array, number: int) -> None:
        if number % 3 == 1:
            _put(header, 4095 - values, "<u2", bits=12, PhotometricInterpretation="MONOCHROME1")
        else:
            _put(header, values, "<u2", bits=12)

    _each(draft, store)


@axis("presentation_identity", Phase.PIXELS, ANSWER)
def _identity(draft: Draft) -> None:
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=12, PresentationLUTShape="IDENTITY"))


@axis("presentation_inverse", Phase.PIXELS, either(Code.UNSUPPORTED_IMAGE), sdk=UNSUPPORTED)
def _inverse(draft: Draft) -> None:
    """MONOCHROME2 that is to be shown inverted: the values are what they are."""
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=12, PresentationLUTShape="INVERSE"))


@axis("monochrome1_shown_inverse", Phase.PIXELS, ANSWER, sdk=UNSUPPORTED)
def _monochrome1_inverse(draft: Draft) -> None:
    def store(header: Dataset, values: Array, _: int) -> None:
        _put(header, 4095 - values, "<u2", bits=12, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")

    _each(draft, store)


@axis("presentation_lut_sequence", Phase.PIXELS, either(Code.UNSUPPORTED_IMAGE))
def _presentation_lut(draft: Draft) -> None:
    """A table for showing the values, which some readers take for the values."""
    table = Dataset()
    table.add_new(0x00283002, "US", [4096, 0, 12])
    table.add_new(0x00283006, "US", list(range(4095, -1, -1)))

    def store(header: Dataset, values: Array, _: int) -> None:
        _put(header, values, "<u2", bits=12)
        header.PresentationLUTSequence = Sequence([copy.deepcopy(table)])

    _each(draft, store)


@axis("signed_with_intercept", Phase.PIXELS, ANSWER, sdk=MAY_BE_UNSUPPORTED)
def _signed(draft: Draft) -> None:
    _each(draft, lambda header, values, _: _put(header, values - 1000, "<i2", signed=True, RescaleIntercept="1000", RescaleSlope="1"))


@axis("signed", Phase.PIXELS, ANSWER)
def _signed_plain(draft: Draft) -> None:
    for image in draft.images:
        image.values = np.where(image.values < 60, image.values - 300, image.values)
    _each(draft, lambda header, values, _: _put(header, values, "<i2", signed=True))


@axis("eight_bits", Phase.PIXELS, ANSWER, sdk=MAY_BE_UNSUPPORTED)
def _eight(draft: Draft) -> None:
    _quantise(draft, 8)
    _each(draft, lambda header, values, _: _put(header, values / 8, "u1", bits=8, RescaleSlope="8", RescaleIntercept="0"))


@axis("eight_bits_odd_length", Phase.PIXELS, ANSWER, sdk=MAY_BE_UNSUPPORTED)
def _odd(draft: Draft) -> None:
    """An odd number of pixels, and no byte that makes it even."""
    _quantise(draft, 8)
    for series in (draft.main,):
        for image in series.images:
            rows, columns = image.values.shape
            image.values = image.values[: rows - 1 + rows % 2, : columns - 1 + columns % 2]

    def store(header: Dataset, values: Array, _: int) -> None:
        _put(header, values / 8, "u1", bits=8, RescaleSlope="8", RescaleIntercept="0")

    _each(draft, store)
    draft.bytes_steps.append(_without_pad)


def _without_pad(content: bytes, _: int) -> bytes:
    at = content.rfind(b"\xe0\x7f\x10\x00OB\0\0")
    length = int.from_bytes(content[at + 8 : at + 12], "little")
    if at < 0 or at + 12 + length != len(content) or content[-1]:
        raise IncompatibleAxesError
    return content[: at + 8] + (length - 1).to_bytes(4, "little") + content[at + 12 : -1]


def _quantise(draft: Draft, step: int) -> None:
    for image in draft.images:
        image.values = np.clip(np.rint(image.values / step), 0, 255) * step


@axis("signed_twelve_bits_without_extension", Phase.PIXELS, MAY_BE_UNSUPPORTED)
def _twelve(draft: Draft) -> None:
    """Negative numbers of 12 bits whose upper four bits are left empty."""
    for image in draft.images:
        image.values = np.where(image.values < 60, image.values - 300, image.values)
    _each(draft, lambda header, values, _: _put(header, np.rint(values).astype(np.int64) & 0xFFF, "<u2", bits=12, PixelRepresentation=1))


@axis("pixels_in_the_high_bits", Phase.PIXELS, either(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED))
def _left_aligned(draft: Draft) -> None:
    """Twelve bits at the upper end of sixteen: readers that do not shift them see sixteen times the value."""
    _each(draft, lambda header, values, _: _put(header, np.rint(values).astype(np.int64) << 4, "<u2", bits=12, HighBit=15))


def _wide(draft: Draft) -> None:
    """Bright voxels beyond what a signed 16-bit number holds."""
    for image in draft.images:
        image.values = np.where(image.values > 1000, image.values + 55000, image.values)


@axis("full_range", Phase.PIXELS, ANSWER)
def _full(draft: Draft) -> None:
    _wide(draft)
    _each(draft, lambda header, values, _: _put(header, values, "<u2"))


def _air_first(draft: Draft) -> None:
    """Nothing but air in the first plane along the normal and in the last."""
    for image in (draft.images[0], draft.images[-1]):
        image.values = np.where(image.values > 60, 0, image.values)
        image.values[0, 0] = 0


@axis("full_range_rescaled_first_plane_air", Phase.PIXELS, ANSWER, sdk=UNSUPPORTED)
def _full_rescaled(draft: Draft) -> None:
    _wide(draft)
    _air_first(draft)
    _each(draft, lambda header, values, _: _put(header, values, "<u2", RescaleSlope="1", RescaleIntercept="0", RescaleType="US"))


@axis("first_plane_air", Phase.PIXELS, ANSWER)
def _air(draft: Draft) -> None:
    _air_first(draft)
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=12, RescaleSlope="1", RescaleIntercept="0"))


@variants(
    "rescale_{}",
    Phase.PIXELS,
    ANSWER,
    {"of_four": (4, 0), "with_intercept": (1, -1024), "of_a_half": (0.5, 0), "of_a_quarter_with_intercept": (0.25, -37.5)},
    sdk=MAY_BE_UNSUPPORTED,
)
def _rescaled(draft: Draft, line: tuple[float, float]) -> None:
    slope, intercept = line
    for image in draft.images:
        image.values = np.rint((image.values - intercept) / slope) * slope + intercept
    _each(
        draft,
        lambda header, values, _: _put(
            header, (values - intercept) / slope, "<u2", bits=16, RescaleSlope=f"{slope:g}", RescaleIntercept=f"{intercept:g}"
        ),
    )


@axis("rescale_per_plane", Phase.PIXELS, ANSWER, sdk=MAY_BE_UNSUPPORTED)
def _per_plane(draft: Draft) -> None:
    slopes = [f"{0.03125 * (1 + number % 7):g}" for number in range(len(draft.images))]
    for image, slope in zip(draft.images, slopes, strict=True):
        image.values = np.rint(image.values / float(slope)) * float(slope)
        image.values = np.minimum(image.values, 65535 * float(slope))

    def store(header: Dataset, values: Array, number: int) -> None:
        _put(header, values / float(slopes[number]), "<u2", RescaleSlope=slopes[number], RescaleIntercept="0", RescaleType="normalized")

    _each(draft, store)


@axis("first_plane_whole_numbers_others_fractions", Phase.PIXELS, ANSWER, sdk=UNSUPPORTED)
def _fractions(draft: Draft) -> None:
    """A quarter of the object lies less than one above the threshold: who cuts fractions off loses it."""
    for number, image in enumerate(draft.images):
        if 0 < number < len(draft.images) - 1:
            image.values = np.where(
                (image.values > 300) & (image.values < 500) & (draft.noise.random(image.values.shape) < 0.8), 500.75, image.values
            )

    def store(header: Dataset, values: Array, number: int) -> None:
        whole = number in (0, len(draft.images) - 1)
        _put(header, values * (1 if whole else 4), "<u2", RescaleSlope="1" if whole else "0.25", RescaleIntercept="0")

    _each(draft, store)


@axis("rescale_in_half_of_the_planes", Phase.PIXELS, ANSWER, sdk=MAY_BE_UNSUPPORTED)
def _half_rescaled(draft: Draft) -> None:
    def store(header: Dataset, values: Array, number: int) -> None:
        _put(header, values, "<u2", bits=12, **({"RescaleSlope": "1", "RescaleIntercept": "0"} if number % 2 else {}))

    _each(draft, store)


@axis("rescale_slope_missing_intercept_there", Phase.PIXELS, either(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED))
def _half_a_rescale(draft: Draft) -> None:
    """An intercept of 0 without a slope; readers differ in what they make of one, none in what they make of this."""
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=12, RescaleIntercept="0"))


@axis("rescale_empty", Phase.PIXELS, either(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED))
def _empty_rescale(draft: Draft) -> None:
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=12, RescaleSlope=None, RescaleIntercept=None))


@variants(
    "rescale_{}",
    Phase.PIXELS,
    refuse(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED, Code.MIXED_SERIES),
    {
        "slope_of_2_without_intercept": {"RescaleSlope": "2"},
        "intercept_without_slope": {"RescaleIntercept": "-1000"},
        "slope_of_2_with_empty_intercept": {"RescaleSlope": "2", "RescaleIntercept": None},
        "slope_of_zero": {"RescaleSlope": "0", "RescaleIntercept": "0"},
    },
)
def _doubtful_rescale(draft: Draft, changes: dict[str, Any]) -> None:
    """A rescale that readers take for different things: some apply it, some pass over it."""
    if any("RescaleSlope" in header for header in draft.headers()):
        raise IncompatibleAxesError
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=12, **changes))
    draft.main.truth.clear()


@axis("rescale_slope_text", Phase.PIXELS, refuse(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED, Code.MIXED_SERIES))
def _rescale_text(draft: Draft) -> None:
    def store(header: Dataset, values: Array, number: int) -> None:
        _put(header, values, "<u2", bits=12, RescaleIntercept="0")
        header.add_new(0x00281053, "LO", "unknown" if number == 4 else "1")

    _each(draft, store)
    draft.main.truth.clear()


@axis("modality_lut", Phase.PIXELS, MAY_BE_UNSUPPORTED)
def _modality_lut(draft: Draft) -> None:
    table = Dataset()
    table.add_new(0x00283002, "US", [4096, 0, 16])
    table.add_new(0x00283006, "US", [min(65535, max(0, 4095 - number)) for number in range(4096)])
    table.ModalityLUTType = "US"

    def store(header: Dataset, values: Array, _: int) -> None:
        _put(header, 4095 - values, "<u2", bits=12)
        header.ModalityLUTSequence = Sequence([copy.deepcopy(table)])

    _each(draft, store)


@axis("overlay_in_high_bits", Phase.PIXELS, MAY_BE_UNSUPPORTED)
def _overlay(draft: Draft) -> None:
    def store(header: Dataset, values: Array, _: int) -> None:
        bits = np.indices(values.shape).sum(0) % 3 << 13
        _put(header, np.rint(values).astype(np.int64) | bits, "<u2", bits=12)

    _each(draft, store)


@axis("thirty_two_bits", Phase.PIXELS, MAY_BE_UNSUPPORTED)
def _thirty_two(draft: Draft) -> None:
    _each(draft, lambda header, values, _: _put(header, values, "<u4", bits=32))


@axis("pixel_padding_value", Phase.PIXELS, ANSWER)
def _padding(draft: Draft) -> None:
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=12, PixelPaddingValue=4095))


@axis("voi_lut_and_window", Phase.PIXELS, ANSWER)
def _window(draft: Draft) -> None:
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=12, WindowCenter=["80", "600"], WindowWidth=["160", "1"]))


@axis("rgb", Phase.PIXELS, refuse(Code.UNSUPPORTED_IMAGE))
def _rgb(draft: Draft) -> None:
    def store(header: Dataset, values: Array, _: int) -> None:
        _put(header, np.repeat(np.clip(values / 8, 0, 255)[..., None], 3, -1), "u1", bits=8)
        header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "RGB", 0

    _each(draft, store)
    draft.main.truth.clear()


@axis("palette_color", Phase.PIXELS, refuse(Code.UNSUPPORTED_IMAGE))
def _palette(draft: Draft) -> None:
    """Indices into a palette that shows them the other way round: as numbers they mean nothing."""

    def store(header: Dataset, values: Array, _: int) -> None:
        _put(header, 255 - np.clip(values / 8, 0, 255), "u1", bits=8, PhotometricInterpretation="PALETTE COLOR")
        for colour in ("Red", "Green", "Blue"):
            setattr(header, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(header, f"{colour}PaletteColorLookupTableData", (np.arange(256, dtype="<u2") * 257).tobytes())

    _each(draft, store)
    draft.main.truth.clear()


@variants(
    "float_pixels_{}",
    Phase.PIXELS,
    MAY_BE_UNSUPPORTED,
    {"32": ("<f4", "FloatPixelData"), "64": ("<f8", "DoubleFloatPixelData")},
    sdk=UNSUPPORTED,
)
def _float(draft: Draft, kind: tuple[str, str]) -> None:
    for image in draft.images:
        image.values = image.values + 0.25

    def store(header: Dataset, values: Array, _: int) -> None:
        header.BitsAllocated = np.dtype(kind[0]).itemsize * 8
        for name in ("BitsStored", "HighBit", "PixelRepresentation"):
            delattr(header, name)
        setattr(header, kind[1], values.astype(kind[0]).tobytes())

    _each(draft, store)


@axis("mosaic", Phase.PIXELS, refuse(Code.UNSUPPORTED_IMAGE, Code.MIXED_SERIES))
def _mosaic(draft: Draft) -> None:
    for image in draft.images:
        image.header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    draft.main.truth.clear()


@variants(
    "{}_absent",
    Phase.PIXELS,
    either(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED, Code.DICOM_TRUNCATED, Code.MIXED_SERIES, Code.IRREGULAR_VOLUME),
    {
        name: name
        for name in (
            "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "Rows",
            "Columns",
        )
    },
)  # fmt: skip
def _undescribed(draft: Draft, name: str) -> None:
    """One attribute that describes the pixels is missing in a few images."""

    def store(header: Dataset, values: Array, number: int) -> None:
        _put(header, values, "<u2", bits=12)
        if number in (0, 5, 6):
            delattr(header, name)

    _each(draft, store)


@axis("more_pixels_than_the_matrix", Phase.PIXELS, either(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED))
def _longer(draft: Draft) -> None:
    def store(header: Dataset, values: Array, _: int) -> None:
        _put(header, values, "<u2", bits=12)
        header.PixelData += bytes(40)

    _each(draft, store)


@axis("twice_the_pixels_of_the_matrix", Phase.PIXELS, either(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED))
def _twice(draft: Draft) -> None:
    """Pixels of two frames, and no word of a second."""

    def store(header: Dataset, values: Array, _: int) -> None:
        _put(header, values, "<u2", bits=12)
        header.PixelData += header.PixelData[::-1]

    _each(draft, store)


@axis("one_image_without_pixels", Phase.PIXELS, NO_PIXELS)
def _none(draft: Draft) -> None:
    draft.images[len(draft.images) // 2].store = lambda *_: None
    draft.main.truth.clear()


@axis("one_image_with_empty_pixels", Phase.PIXELS, NO_PIXELS)
def _empty(draft: Draft) -> None:
    def store(header: Dataset, values: Array) -> None:
        header.Rows, header.Columns = values.shape
        header.PixelData = b""
        header["PixelData"].VR = "OW"

    draft.images[len(draft.images) // 2].store = store
    draft.main.truth.clear()


@axis("one_image_of_other_type", Phase.PIXELS, either(Code.MIXED_SERIES, Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED))
def _other_type(draft: Draft) -> None:
    def store(header: Dataset, values: Array, number: int) -> None:
        if number == 5:
            _put(header, values - 2000, "<i2", signed=True, RescaleIntercept="2000", RescaleSlope="1")
        else:
            _put(header, values, "<u2", bits=12)

    _each(draft, store)


@axis("bits_stored_too_few", Phase.PIXELS, either(Code.UNSUPPORTED_IMAGE, Code.DICOM_DAMAGED))
def _bits(draft: Draft) -> None:
    """Values of 11 bits in pixels that claim 12: right for every reader."""
    _each(draft, lambda header, values, _: _put(header, values, "<u2", bits=11))


# ---------------------------------------------------------------------------------------------------------------------- multi-frame


@variants(
    "{}",
    Phase.MULTIFRAME,
    ANSWER,
    {
        "enhanced": "",
        "enhanced_frames_shuffled": "shuffled",
        "enhanced_legacy": "legacy",
        "enhanced_rescaled_per_frame": "rescaled",
    },
    slot="pixels",
    sdk=UNSUPPORTED,
)
def _enhanced(draft: Draft, how: str) -> None:
    series = draft.main
    image = multiframe(draft, series.images, how)
    series.images[:] = [image]


@axis("enhanced_two_echoes", Phase.MULTIFRAME, refuse(Code.MIXED_SERIES, Code.UNSUPPORTED_IMAGE), slot="pixels")
def _enhanced_echoes(draft: Draft) -> None:
    second = [draft.another(image, draft.other_values(image), EchoTime="90") for image in draft.images]
    draft.images[:] = [multiframe(draft, [*draft.images, *second], "")]
    draft.main.truth.clear()


@variants(
    "enhanced_two_stacks_by_{}",
    Phase.MULTIFRAME,
    refuse(Code.MIXED_SERIES, Code.UNSUPPORTED_IMAGE),
    {
        "nothing": ("", "", ()),
        "time": ("FrameContentSequence", "TemporalPositionIndex", (1, 2)),
        "stack": ("FrameContentSequence", "StackID", ("1", "2")),
        "b_value": ("MRDiffusionSequence", "DiffusionBValue", (0.0, 1000.0)),
        "complex_component": ("MRImageFrameTypeSequence", "ComplexImageComponent", ("MAGNITUDE", "PHASE")),
    },
    slot="pixels",
)
def _enhanced_stacks(draft: Draft, what: tuple[str, str, tuple[Any, ...]]) -> None:
    second = [draft.another(image, draft.other_values(image)) for image in draft.images]
    count = len(draft.images)
    whole = multiframe(draft, [*draft.images, *second], "")
    group, name, values = what
    for number, frame in enumerate(whole.header.PerFrameFunctionalGroupsSequence):
        if group and group not in frame:
            setattr(frame, group, Sequence([Dataset()]))
        if group:
            setattr(frame[group][0], name, values[number // count])
    draft.images[:] = [whole]
    draft.main.truth.clear()


ONE_OF_MANY = either(Code.UNSUPPORTED_IMAGE, Code.NO_GEOMETRY, Code.IRREGULAR_VOLUME, Code.MIXED_SERIES)


@axis("enhanced_of_one_frame_each", Phase.MULTIFRAME, ONE_OF_MANY, slot="pixels")
def _single_frames(draft: Draft) -> None:
    """A file for each plane, as some archives split a multi-frame image: the place of each is in its functional groups."""
    draft.images[:] = [multiframe(draft, [image], "") for image in draft.images]


@axis("enhanced_in_two_parts", Phase.MULTIFRAME, ONE_OF_MANY, slot="pixels")
def _parts(draft: Draft) -> None:
    """A concatenation (PS3.3 C.7.6.16.2.2.4): the frames of one volume in two files."""
    half = len(draft.images) // 2
    if half < 2:
        raise IncompatibleAxesError
    parts = [multiframe(draft, draft.images[:half], ""), multiframe(draft, draft.images[half:], "")]
    identity = draft.uid()
    for number, part in enumerate(parts, start=1):
        part.header.ConcatenationUID, part.header.InConcatenationNumber, part.header.InConcatenationTotalNumber = identity, number, 2
    draft.images[:] = parts


@axis("enhanced_frame_missing", Phase.MULTIFRAME, refuse(Code.IRREGULAR_VOLUME, Code.UNSUPPORTED_IMAGE), slot="pixels")
def _enhanced_missing(draft: Draft) -> None:
    middle = len(draft.images) // 2
    draft.images[:] = [multiframe(draft, [*draft.images[:middle], *draft.images[middle + 1 :]], "")]
    draft.main.truth.clear()


@axis("enhanced_twin_beside", Phase.MULTIFRAME, either(Code.AMBIGUOUS_SERIES, Code.UNSUPPORTED_IMAGE), slot="pixels")
def _twin(draft: Draft) -> None:
    image = multiframe(draft, draft.images, "")
    image.header.SeriesInstanceUID = draft.uid()
    draft.series.append(Series([image], []))


@axis("frames_without_groups", Phase.MULTIFRAME, refuse(Code.UNSUPPORTED_IMAGE, Code.NO_GEOMETRY, Code.IRREGULAR_VOLUME), slot="pixels")
def _frames(draft: Draft) -> None:
    """One classic image with frames, whose places nothing tells."""
    image = multiframe(draft, draft.images, "")
    del image.header.PerFrameFunctionalGroupsSequence, image.header.SharedFunctionalGroupsSequence
    image.header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    draft.images[:] = [image]
    draft.main.truth.clear()


def _plane_groups(header: Dataset, step: float) -> dict[str, Sequence]:
    """The functional groups that say how a plane lies and how large its pixels are."""
    measures = _item(PixelSpacing=header.PixelSpacing, SliceThickness=f"{step:g}", SpacingBetweenSlices=f"{step:g}")
    orientation = _item(ImageOrientationPatient=header.ImageOrientationPatient)
    return {"PixelMeasuresSequence": Sequence([measures]), "PlaneOrientationSequence": Sequence([orientation])}


def multiframe(draft: Draft, images: list[Image], how: str) -> Image:
    """Images as the frames of one Enhanced MR object (PS3.3 A.36)."""
    first = images[0].header
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    if any(image.header.get(name) is None for image in images for name in needed) or len({image.values.shape for image in images}) != 1:
        raise IncompatibleAxesError
    if any(image.values.max() > 4095 or not np.array_equal(image.values, np.rint(image.values)) for image in images):
        raise IncompatibleAxesError
    header = copy.deepcopy(first)
    for name in (*needed, "SliceThickness", "SpacingBetweenSlices", "EchoTime", "EchoNumbers", "RepetitionTime", "SliceLocation"):
        if name in header:
            delattr(header, name)
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.4" if how == "legacy" else "1.2.840.10008.5.1.4.1.1.4.1"
    header.SOPInstanceUID = draft.uid()
    order = list(range(len(images)))
    if how == "shuffled":
        draft.random.shuffle(order)
    organization = _item(DimensionOrganizationUID=draft.uid())
    header.DimensionOrganizationSequence = Sequence([organization])
    pointers = [
        _item(DimensionOrganizationUID=organization.DimensionOrganizationUID, DimensionIndexPointer=tag, FunctionalGroupPointer=0x00209111)
        for tag in (0x00209056, 0x00209057)
    ]
    header.DimensionIndexSequence = Sequence(pointers)
    header.NumberOfFrames = len(images)
    header.VolumetricProperties, header.PixelPresentation = "VOLUME", "MONOCHROME"
    step = draft.main.truth[0].thickness if draft.main.truth else 2.5
    planes = [_plane_groups(image.header, step) for image in images]
    alike = all(plane == planes[0] for plane in planes)  # what differs from frame to frame is not the series' own
    header.SharedFunctionalGroupsSequence = Sequence([_item(**(planes[0] if alike else {}))])
    slopes = [0.5 if how == "rescaled" and number % 2 else 1.0 for number in order]
    header.PerFrameFunctionalGroupsSequence = Sequence(
        _item(
            **({} if alike else planes[number]),
            PlanePositionSequence=Sequence([_item(ImagePositionPatient=images[number].header.ImagePositionPatient)]),
            FrameContentSequence=Sequence([_item(StackID="1", InStackPositionNumber=number + 1, DimensionIndexValues=[1, number + 1])]),
            MREchoSequence=Sequence([_item(EffectiveEchoTime=float(images[number].header.get("EchoTime") or 10))]),
            PixelValueTransformationSequence=Sequence([_item(RescaleIntercept="0", RescaleSlope=f"{slope:g}", RescaleType="US")]),
        )
        for number, slope in zip(order, slopes, strict=True)
    )
    values = np.stack([images[number].values for number in order])
    stored = values / np.array(slopes)[:, None, None]

    def store(target: Dataset, _: Array) -> None:
        target.Rows, target.Columns = values.shape[1:]
        _put(target, stored, "<u2", bits=12 if stored.max() < 4096 else 16)

    return Image(header, values, store)


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item
