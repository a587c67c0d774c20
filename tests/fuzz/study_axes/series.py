"""Other series beside the one that is meant, in the same study: some must be passed over, some make the choice ambiguous."""

from __future__ import annotations

from typing import Any

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, IncompatibleAxesError, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import AXIAL, Draft, Geometry, Series

LARGER = Geometry(step=1.5, shape=(36, 40, 48))


def _beside(draft: Draft, geometry: Geometry = AXIAL, *, counts: bool = False, **changes: Any) -> Series:
    """Another series of the study; ``counts``: an answer about it is right too."""
    series = draft.acquire(geometry)
    for image in series.images:
        image.header.FrameOfReferenceUID = draft.images[0].header.get("FrameOfReferenceUID") or draft.uid()
        image.header.SeriesNumber = 4
        for name, value in changes.items():
            setattr(image.header, name, value)
    if not counts:
        series.truth.clear()
    if draft.random.random() < 0.5:
        draft.series.append(series)
    else:
        draft.series.append(series)
        draft.order = draft.order or (lambda files: files.reverse())
    return series


@axis("localizer_beside", Phase.SERIES, ANSWER)
def _localizer(draft: Draft) -> None:
    for geometry in (
        Geometry(spacing=(1.5, 1.5), step=10.0, shape=(3, 40, 48)),
        Geometry((1, 0, 0), (0, 0, -1), (1.5, 1.5), 10.0, (3, 40, 48)),
        Geometry((0, 1, 0), (0, 0, -1), (1.5, 1.5), 10.0, (3, 40, 48)),
    ):
        _beside(draft, geometry, SeriesDescription="localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "ND"])
    for series in draft.series[2:]:
        for image in series.images:
            image.header.SeriesInstanceUID = draft.series[1].images[0].header.SeriesInstanceUID


@axis("localizer_that_matches_beside", Phase.SERIES, either(Code.AMBIGUOUS_SERIES))
def _matching_localizer(draft: Draft) -> None:
    _beside(draft, Geometry((1, 0, 0), (0, 0, -1), (1.5, 1.5), 10.0, (3, 40, 48)), SeriesDescription="T1 localizer")


@axis("second_series_as_large", Phase.SERIES, either(Code.AMBIGUOUS_SERIES))
def _equal(draft: Draft) -> None:
    _beside(draft, counts=True, SeriesDescription="T1 post", AcquisitionTime="121500")


@axis("second_series_as_large_elsewhere", Phase.SERIES, either(Code.AMBIGUOUS_SERIES))
def _equal_elsewhere(draft: Draft) -> None:
    _beside(draft, Geometry((0, 1, 0), (0, 0, -1), (1.2, 0.9), 2.0, (24, 48, 36)), counts=True)


@axis("second_series_larger_other_rules", Phase.SERIES, ANSWER)
def _larger_other(draft: Draft) -> None:
    _beside(draft, LARGER, SeriesDescription="T2 volume")


@axis("second_series_larger", Phase.SERIES, either(Code.AMBIGUOUS_SERIES))
def _larger(draft: Draft) -> None:
    """The largest of those that the rules take is the one that is given: an answer about the smaller one would be wrong."""
    _beside(draft, LARGER, counts=True)
    draft.main.truth.clear()


@axis("second_series_smaller", Phase.SERIES, either(Code.AMBIGUOUS_SERIES))
def _smaller(draft: Draft) -> None:
    _beside(draft, Geometry(step=5.0, shape=(12, 40, 48)))


@axis("second_series_larger_mixed", Phase.SERIES, either(Code.MIXED_SERIES, Code.AMBIGUOUS_SERIES))
def _larger_mixed(draft: Draft) -> None:
    if len(draft.images) < AXIAL.shape[0]:
        raise IncompatibleAxesError  # an application that names its echo would rightly be given the other series
    series = _beside(draft)
    series.images += [draft.another(image, draft.other_values(image), EchoTime="90") for image in series.images]


@axis("second_series_larger_irregular", Phase.SERIES, either(Code.IRREGULAR_VOLUME, Code.AMBIGUOUS_SERIES))
def _larger_irregular(draft: Draft) -> None:
    series = _beside(draft, LARGER)
    del series.images[17]


@axis("second_series_larger_without_geometry", Phase.SERIES, either(Code.NO_GEOMETRY, Code.IRREGULAR_VOLUME, Code.AMBIGUOUS_SERIES))
def _larger_flat(draft: Draft) -> None:
    for image in _beside(draft, LARGER).images:
        del image.header.ImagePositionPatient


@variants(
    "derived_{}_beside", Phase.SERIES, ANSWER, {"mpr": LARGER, "sagittal": Geometry((0, 1, 0), (0, 0, -1), (1.2, 0.9), 1.1, (44, 48, 36))}
)
def _derived(draft: Draft, geometry: Geometry) -> None:
    _beside(draft, geometry, ImageType=["DERIVED", "SECONDARY", "MPR"], SeriesDescription="T1 MPR")


@axis("other_modality_beside", Phase.SERIES, ANSWER)
def _ct(draft: Draft) -> None:
    _beside(draft, LARGER, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")


@axis("series_numbers_equal", Phase.SERIES, ANSWER)
def _same_number(draft: Draft) -> None:
    _beside(draft, LARGER, SeriesDescription="FLAIR", SeriesNumber=3)


@axis("main_series_split_in_two", Phase.SERIES, either(Code.AMBIGUOUS_SERIES, Code.IRREGULAR_VOLUME))
def _split(draft: Draft) -> None:
    """Half of the planes under another SeriesInstanceUID: which part is meant cannot be known; each is a volume of its own."""
    other, half = draft.uid(), len(draft.images) // 2
    moved = draft.images[half:]
    for image in moved:
        image.header.SeriesInstanceUID = other
    truth = [plane for plane in draft.main.truth if plane.image in moved]
    draft.series.append(Series(moved, truth))
    del draft.images[half:]
    draft.main.truth[:] = [plane for plane in draft.main.truth if plane.image not in moved]


@variants(
    "no_series_matches_by_{}",
    Phase.SERIES,
    refuse(Code.NO_MATCHING_SERIES),
    {
        "description": {"SeriesDescription": "FLAIR"},
        "modality": {"Modality": "OT"},
        "empty_image_type": {"ImageType": None},
        "derived": {"ImageType": ["DERIVED", "SECONDARY"]},
        "empty_description": {"SeriesDescription": None},
    },
)
def _no_match(draft: Draft, changes: dict[str, Any]) -> None:
    for image in draft.images:
        for name, value in changes.items():
            setattr(image.header, name, value)
    draft.main.truth.clear()


@axis("description_differs_within", Phase.SERIES, either(Code.MIXED_SERIES, Code.NO_MATCHING_SERIES))
def _descriptions(draft: Draft) -> None:
    for image in draft.images[::3]:
        image.header.SeriesDescription = "T1 corrected"
