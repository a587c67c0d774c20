"""Objects that are no images of the volume: reports, presentation states, contours, raw data, captures, earlier results."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import IDENTIFIERS, Draft, Series

_KEPT: Final = ("StudyInstanceUID", "StudyDate", "StudyTime", "SpecificCharacterSet", "PatientSex", *IDENTIFIERS)
Made = Callable[[Draft], Dataset]


def _object(draft: Draft, sop_class: str, modality: str, **values: Any) -> Dataset:
    found = Dataset()
    like = draft.images[0].header
    for name in _KEPT:
        if name in like:
            found.add(copy.deepcopy(like[name]))
    found.SOPClassUID, found.SOPInstanceUID, found.SeriesInstanceUID = sop_class, draft.uid(), draft.uid()
    found.SeriesNumber, found.InstanceNumber, found.Modality, found.Manufacturer = 900, 1, modality, "Invented"
    for name, value in values.items():
        setattr(found, name, value)
    return found


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _references(draft: Draft) -> Dataset:
    images = [
        _item(ReferencedSOPClassUID=image.header.get("SOPClassUID") or "1.2.3", ReferencedSOPInstanceUID=image.header.SOPInstanceUID)
        for image in draft.images
    ]
    return _item(SeriesInstanceUID=draft.images[0].header.SeriesInstanceUID, ReferencedImageSequence=Sequence(images))


def _code(value: str, meaning: str) -> Sequence:
    return Sequence([_item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)])


def report(draft: Draft) -> Dataset:
    text = _item(
        RelationshipType="CONTAINS", ValueType="TEXT", ConceptNameCodeSequence=_code("121071", "Finding"), TextValue="Zqplant has none"
    )
    return _object(
        draft, "1.2.840.10008.5.1.4.1.1.88.22", "SR", ValueType="CONTAINER", ContinuityOfContent="SEPARATE", CompletionFlag="COMPLETE",
        VerificationFlag="UNVERIFIED", ConceptNameCodeSequence=_code("126000", "Imaging Report"), ContentSequence=Sequence([text]),
    )  # fmt: skip


def presentation_state(draft: Draft) -> Dataset:
    return _object(
        draft, "1.2.840.10008.5.1.4.1.1.11.1", "PR", ContentLabel="ZQ", ContentCreatorName="Zqplant^Vaughnzq",
        PresentationLUTShape="INVERSE", ReferencedSeriesSequence=Sequence([_references(draft)]),
    )  # fmt: skip


def key_objects(draft: Draft) -> Dataset:
    return _object(
        draft, "1.2.840.10008.5.1.4.1.1.88.59", "KO", ValueType="CONTAINER", ContinuityOfContent="SEPARATE",
        ConceptNameCodeSequence=_code("113000", "Of Interest"),
    )  # fmt: skip


def contours(draft: Draft) -> Dataset:
    found = _object(draft, "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", StructureSetLabel="ZQ")
    found.FrameOfReferenceUID = draft.images[0].header.get("FrameOfReferenceUID") or draft.uid()
    contour = _item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=3, ContourData=[0, 0, 0, 10, 0, 0, 10, 10, 0])
    found.ROIContourSequence = Sequence([_item(ReferencedROINumber=1, ContourSequence=Sequence([contour]))])
    return found


def document(draft: Draft) -> Dataset:
    return _object(
        draft, "1.2.840.10008.5.1.4.1.1.104.1", "DOC", DocumentTitle="Zqplant report",
        MIMETypeOfEncapsulatedDocument="application/pdf", EncapsulatedDocument=b"%PDF-1.4 zqplant" + b" " * 400,
    )  # fmt: skip


def capture(draft: Draft) -> Dataset:
    found = _object(
        draft, "1.2.840.10008.5.1.4.1.1.7", "OT", ConversionType="WSD", ImageType=["DERIVED", "SECONDARY"], SamplesPerPixel=3,
        PhotometricInterpretation="RGB", PlanarConfiguration=0, Rows=32, Columns=32, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelRepresentation=0, PixelData=bytes(draft.random.randbytes(32 * 32 * 3)),
    )  # fmt: skip
    found["PixelData"].VR = "OB"
    return found


def earlier_segmentation(draft: Draft) -> Dataset:
    first = draft.images[0].header
    found = _object(
        draft, "1.2.840.10008.5.1.4.1.1.66.4", "SEG", ImageType=["DERIVED", "PRIMARY"], SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2", Rows=16, Columns=16, BitsAllocated=1, BitsStored=1, HighBit=0, PixelRepresentation=0,
        NumberOfFrames=2, SegmentationType="BINARY", PixelData=bytes(64), SeriesDescription="T1 segmentation",
    )  # fmt: skip
    found.FrameOfReferenceUID = first.get("FrameOfReferenceUID") or draft.uid()
    found["PixelData"].VR = "OB"
    measures = _item(PixelSpacing=[1, 1], SliceThickness=1, SpacingBetweenSlices=1)
    found.SharedFunctionalGroupsSequence = Sequence(
        [
            _item(
                PixelMeasuresSequence=Sequence([measures]),
                PlaneOrientationSequence=Sequence([_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
            )
        ]
    )
    found.PerFrameFunctionalGroupsSequence = Sequence(
        _item(PlanePositionSequence=Sequence([_item(ImagePositionPatient=[0, 0, place])])) for place in (0, 1)
    )
    return found


def spectroscopy(draft: Draft) -> Dataset:
    return _object(
        draft, "1.2.840.10008.5.1.4.1.1.4.2", "MR", ImageType=["ORIGINAL", "PRIMARY", "SPECTROSCOPY", "NONE"], Rows=8, Columns=8,
        NumberOfFrames=1, DataPointRows=1, DataPointColumns=8, DataRepresentation="COMPLEX", SeriesDescription="T1 spectrum",
        SpectroscopyData=np.ones(8 * 8 * 8 * 2, "<f4").tobytes(),
    )  # fmt: skip


def raw_data(draft: Draft) -> Dataset:
    found = _object(
        draft, "1.2.840.10008.5.1.4.1.1.66", "MR", CreatorVersionUID="1.2.3", ImageType=["ORIGINAL", "PRIMARY", "RAWDATA", "NONE"],
        SeriesDescription="T1 raw",
    )  # fmt: skip
    found.private_block(0x7FE1, "SIEMENS CSA", create=True).add_new(0x10, "OB", bytes(5000))
    return found


def waveform(draft: Draft) -> Dataset:
    channel = _item(WaveformBitsStored=16)
    group = _item(
        WaveformOriginality="ORIGINAL", NumberOfWaveformChannels=1, NumberOfWaveformSamples=100, SamplingFrequency="500",
        ChannelDefinitionSequence=Sequence([channel]), WaveformBitsAllocated=16, WaveformSampleInterpretation="SS",
    )  # fmt: skip
    group.add_new(0x54001010, "OW", b"\0\1" * 100)
    return _object(draft, "1.2.840.10008.5.1.4.1.1.9.1.1", "ECG", WaveformSequence=Sequence([group]))


COMPANIONS: Final[dict[str, Made]] = {
    "report": report,
    "presentation_state": presentation_state,
    "key_objects": key_objects,
    "contours": contours,
    "document": document,
    "capture": capture,
    "earlier_segmentation": earlier_segmentation,
    "spectroscopy": spectroscopy,
    "raw_data": raw_data,
    "waveform": waveform,
}


@variants("{}_beside", Phase.COMPANIONS, ANSWER, COMPANIONS)
def _beside(draft: Draft, made: Made) -> None:
    draft.companions.append(made(draft))
    _somewhere(draft)


NO_IMAGES: Final = {name: made for name, made in COMPANIONS.items() if name not in ("capture", "earlier_segmentation")}
IMAGES: Final = {name: COMPANIONS[name] for name in ("capture", "earlier_segmentation")}


@variants("{}_in_the_series", Phase.COMPANIONS, ANSWER, NO_IMAGES)
def _inside(draft: Draft, made: Made) -> None:
    companion = made(draft)
    companion.SeriesInstanceUID = draft.images[0].header.SeriesInstanceUID
    draft.companions.append(companion)
    _somewhere(draft)


@variants("{}_in_the_series", Phase.COMPANIONS, either(Code.MIXED_SERIES, Code.UNSUPPORTED_IMAGE, Code.IRREGULAR_VOLUME), IMAGES)
def _image_inside(draft: Draft, made: Made) -> None:
    _inside(draft, made)


@axis("all_companions_beside", Phase.COMPANIONS, ANSWER)
def _all(draft: Draft) -> None:
    draft.companions += [made(draft) for made in COMPANIONS.values()]
    _somewhere(draft)


@axis("nothing_but_companions", Phase.COMPANIONS, refuse(Code.NO_IMAGES, Code.NO_MATCHING_SERIES))
def _only(draft: Draft) -> None:
    draft.companions += [made(draft) for name, made in COMPANIONS.items() if name not in IMAGES]
    for series in draft.series:
        series.images.clear()
        series.truth.clear()


@axis("truncated_companion_beside", Phase.COMPANIONS, either(Code.DICOM_TRUNCATED, Code.DICOM_DAMAGED))
def _truncated(draft: Draft) -> None:
    from tests.fuzz.study_draft import encode_explicit

    content = encode_explicit(document(draft), 0)
    draft.members.append(("REPORTS/report.dcm", content[: len(content) - 200]))


@axis("companion_of_another_study", Phase.COMPANIONS, ANSWER)
def _other_study(draft: Draft) -> None:
    companion = capture(draft)
    companion.StudyInstanceUID = draft.uid()
    draft.companions.append(companion)


@axis("companion_of_another_patient_and_study", Phase.COMPANIONS, ANSWER)
def _other_patient(draft: Draft) -> None:
    companion = report(draft)
    companion.StudyInstanceUID, companion.PatientID, companion.PatientName = draft.uid(), "PIDZQ88", "Zqother^Personzq"
    draft.companions.append(companion)


@axis("two_studies", Phase.COMPANIONS, ANSWER)
def _two_studies(draft: Draft) -> None:
    _another_study(draft, {})


@axis("two_patients", Phase.COMPANIONS, ANSWER)
def _two_patients(draft: Draft) -> None:
    _another_study(draft, {"PatientName": "Zqother^Personzq", "PatientID": "PIDZQ88"})


def _another_study(draft: Draft, changes: dict[str, str]) -> None:
    series: Series = draft.acquire()
    study = draft.uid()
    for image in series.images:
        image.header.StudyInstanceUID = study
        for name, value in changes.items():
            setattr(image.header, name, value)
    draft.series.append(series)


@axis("two_patients_in_one_study", Phase.COMPANIONS, refuse(Code.STUDY_MIXED))
def _patients(draft: Draft) -> None:
    for image in draft.images[1:]:
        image.header.PatientID = "PIDZQ88"
    draft.main.truth.clear()


@axis("series_of_two_studies", Phase.COMPANIONS, refuse(Code.STUDY_MIXED))
def _shared_series(draft: Draft) -> None:
    study = draft.uid()
    for image in draft.images[1:]:
        image.header.StudyInstanceUID = study
    draft.main.truth.clear()


@axis("instance_twice_with_other_content", Phase.COMPANIONS, refuse(Code.INSTANCE_CONFLICT))
def _conflict(draft: Draft) -> None:
    image = draft.images[0]
    twin = draft.another(image, draft.other_values(image))
    twin.header.SOPInstanceUID = image.header.SOPInstanceUID
    draft.images.append(twin)
    draft.main.truth.clear()


def _somewhere(draft: Draft) -> None:
    """Companions before the images in the archive, as often as behind them."""
    if draft.random.random() < 0.5:
        draft.order = draft.order or (lambda files: files.reverse())
