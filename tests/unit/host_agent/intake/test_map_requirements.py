"""Which series of a study an application is given, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import (
    EncapsulatedPDFStorage,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRSpectroscopyStorage,
    RawDataStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake.map_requirements import MapRequirements, requirements_of
from monai_aws_pipeline.host_agent.intake.series_words import MODALITIES, wanted
from monai_aws_pipeline.maps.spec.series_rules import LABEL_RULES
from monai_aws_pipeline.maps.spec.study_contract import (
    LABEL_STUDY_CONTRACT,
    LABEL_VOLUME,
    Handles,
    SeriesChoice,
    StudyContract,
    decoded_syntaxes,
)
from tests.unit.host_agent.series import again, each, good, in_series, study_of

MR_RULES = [("MR", {"Modality": "(?i)^MR$"})]


def asking(rules: list[tuple[str, dict[str, Any]]] | None = None, **contract: Any) -> MapRequirements:
    return MapRequirements(MR_RULES if rules is None else rules, StudyContract(volume=True, **contract))


def companion(data: Dataset, sop_class: str, **changes: object) -> Dataset:
    """An object that is no image, of the same series."""
    other = again(data, SOPClassUID=sop_class, **changes)
    other.file_meta.MediaStorageSOPClassUID = sop_class
    for name in ("PixelData", "Rows", "Columns"):
        other.pop(name, None)
    return other


def refusal(requirements: MapRequirements, study: Any) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        requirements.give(study)
    return refused.value


def test_the_largest_series_that_the_rules_take_is_given_and_the_record_says_why(tmp_path: Path) -> None:
    large, small = good(tmp_path / "a", slices=8), in_series(good(tmp_path / "b", slices=4))
    ct = in_series(each(good(tmp_path / "c", slices=9), lambda _, data: setattr(data, "Modality", "CT")))
    given = asking().give(study_of(tmp_path / "files", [*small, *ct, *large]))
    assert {item.series_uid for item in given.instances} == {large[0].SeriesInstanceUID}
    assert sorted(given.selection) == [
        "CT of 9 images: not given (the rules do not take it)",
        "MR of 4 images: not given (the rules take it, and another fits better)",
        "MR of 8 images: given as 8 planes 3 mm apart (the largest of 2 that the rules take)",
    ]


def test_two_series_that_fit_equally_well_are_a_refusal(tmp_path: Path) -> None:
    error = refusal(asking(), study_of(tmp_path / "files", [*good(tmp_path / "a"), *in_series(good(tmp_path / "b"))]))
    assert error.code is Code.AMBIGUOUS_SERIES
    assert "2 series" in error.cause
    assert "8 planes each" in error.cause


def test_the_largest_series_is_refused_rather_than_a_smaller_one_answered_in_its_place(tmp_path: Path) -> None:
    large, small = good(tmp_path / "a", slices=9), in_series(good(tmp_path / "b", slices=4))
    assert refusal(asking(), study_of(tmp_path / "files", [*large[:4], *large[5:], *small])).code is Code.IRREGULAR_VOLUME


def test_a_localizer_beside_the_volume_disturbs_nobody(tmp_path: Path) -> None:
    localizer = in_series(good(tmp_path / "b", slices=9))
    each(localizer[3:6], lambda _, data: setattr(data, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]))
    each(localizer[6:], lambda _, data: setattr(data, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]))
    volume = good(tmp_path / "a", slices=5)
    for rules in (MR_RULES, []):  # nor where the rules are not known
        given = asking(rules).give(study_of(tmp_path / f"files{len(rules)}", [*localizer, *volume]))
        assert {item.series_uid for item in given.instances} == {volume[0].SeriesInstanceUID}


def test_with_rules_that_are_not_known_every_series_must_be_a_clean_stack(tmp_path: Path) -> None:
    one, other = good(tmp_path / "a"), in_series(good(tmp_path / "b", slices=5))
    study = study_of(tmp_path / "files", [*one, *other])
    assert len(asking([]).give(study).instances) == 13
    mixed = [*other, *(again(data, EchoTime="90", PixelData=data.PixelData[::-1]) for data in other)]
    assert refusal(asking([]), study_of(tmp_path / "mixed", [*one, *mixed])).code is Code.MIXED_SERIES


def test_an_application_that_wants_all_series_is_given_each_as_a_stack(tmp_path: Path) -> None:
    study = study_of(tmp_path / "files", [*good(tmp_path / "a"), *in_series(good(tmp_path / "b"))])
    given = asking(series=SeriesChoice.ALL).give(study)
    assert (len(given.instances), len(given.stacks)) == (16, 2)


def test_each_rule_has_its_own_largest_series(tmp_path: Path) -> None:
    each_of = {"T1": good(tmp_path / "a"), "T2": in_series(good(tmp_path / "b")), "PD": in_series(good(tmp_path / "c", slices=4))}
    for name, datasets in each_of.items():
        each(datasets, lambda _, data, name=name: setattr(data, "SeriesDescription", name))
    rules = [(name, {"SeriesDescription": f"^{name}$"}) for name in ("T1", "T2")]
    given = asking(rules).give(study_of(tmp_path / "files", [data for datasets in each_of.values() for data in datasets]))
    assert {item.series_uid for item in given.instances} == {each_of[name][0].SeriesInstanceUID for name in ("T1", "T2")}


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("Jane's", {"Modality": "(?i)^(CT|PT)$", "ImageType": ["ORIGINAL", "!LOCALIZER", "JANE"], "SeriesDescription": "(.*chest.*)"}),
    ("another", {"Modality": "MR", "SliceThickness": [3, 5], "JanesOwn": "x", "ImageOrientationPatient": "Axial"}),
]


def test_a_study_of_no_series_that_the_rules_take_is_told_what_was_found_and_what_was_wanted(tmp_path: Path) -> None:
    t1, scout, ct = good(tmp_path / "a"), in_series(good(tmp_path / "b", slices=3)), in_series(good(tmp_path / "c", slices=2))
    each(scout, lambda _, data: setattr(data, "ImageType", ["DERIVED", "PRIMARY", "LOCALIZER", "SMITH^JANE"]))
    each(ct, lambda _, data: (setattr(data, "Modality", "CT"), setattr(data, "ImageType", ["ORIGINAL", "SMITH^JANE", "MPR"])))
    odd = in_series(each(good(tmp_path / "d", slices=2), lambda _, data: setattr(data, "Modality", "SMITHJANE")))
    other = in_series([again(data) for data in t1])
    each(other, lambda _, data: setattr(data, "SeriesDescription", "Smith, Jane"))
    error = refusal(asking(ASKED), study_of(tmp_path / "files", [*t1, *scout, *ct, *odd, *other]))
    assert error.code is Code.NO_MATCHING_SERIES
    found, _, wanted = error.cause.partition(" Wanted: ")
    assert found.startswith("None of the 5 series of the study is one that the application's rules select. Found: 2 series of MR (")
    assert "(no image type, 16 images; differs in other), " in found, "what is alike is counted together"
    assert "1 series of MR (DERIVED\\PRIMARY\\LOCALIZER, 3 images; differs in other)" in found
    assert "1 series of CT (ORIGINAL\\other\\MPR, 2 images; differs in SeriesDescription)" in found
    assert "1 series of other (no image type, 2 images; differs in Modality and other)" in found
    assert wanted == (
        "Modality CT or PT, ImageType ORIGINAL or not LOCALIZER or other, SeriesDescription; or "
        "Modality MR, SliceThickness, other, ImageOrientationPatient axial."
    )
    assert not [name for name in ("smith", "jane", "chest") if name in error.message.lower()]


def test_what_was_found_and_wanted_is_told_in_bounds(tmp_path: Path) -> None:
    series = [in_series(good(tmp_path / str(number), slices=2)) for number in range(12)]
    for number, images in enumerate(series):
        each(images, lambda _, data, number=number: setattr(data, "Modality", sorted(MODALITIES)[number]))
    rules = [(str(number), {"Modality": "ZZ", "Rows": number + 1}) for number in range(9)]
    error = refusal(asking(rules), study_of(tmp_path / "files", [data for images in series for data in images]))
    assert error.cause.count("series of") == 1 + 8
    assert "and 4 more kinds" in error.cause
    assert len(error.cause) < 1500


def test_a_pattern_that_is_none_or_takes_anything_is_wanted_as_other() -> None:
    for pattern in ("[", ".*"):
        assert wanted([("", {"Modality": pattern})]) == "Modality other"
    assert wanted([("", {"Modality": "ct"})]) == "Modality CT"


def test_the_modalities_are_the_standards() -> None:
    """CID 33 lists those that are in use (PS3.16)."""
    assert {getattr(codes.cid33, name).value for name in codes.cid33.dir()} <= MODALITIES


@pytest.mark.parametrize("sop_class", [EncapsulatedPDFStorage, RawDataStorage, MRSpectroscopyStorage, "1.3.12.2.1107.5.9.1"])
def test_what_is_no_image_is_counted_and_not_given_even_in_the_images_own_series(tmp_path: Path, sop_class: str) -> None:
    images = good(tmp_path / "a")
    study = study_of(tmp_path / "files", [companion(images[0], sop_class), *images])
    for requirements in (asking(), MapRequirements([], StudyContract())):
        given = requirements.give(study)
        assert len(given.instances) == 8
        assert sum(given.passed_over.values()) == 1


def test_an_object_with_rows_and_no_pixels_by_its_definition_does_not_stop_the_study(tmp_path: Path) -> None:
    images = good(tmp_path / "a")
    spectroscopy = companion(images[0], MRSpectroscopyStorage)
    spectroscopy.Rows = spectroscopy.Columns = 8
    given = asking().give(study_of(tmp_path / "files", [spectroscopy, *images]))
    assert given.passed_over == {"MR Spectroscopy Storage": 1}


def test_a_damaged_report_is_passed_over_and_a_damaged_image_is_not(tmp_path: Path) -> None:
    images = good(tmp_path / "a")
    study_of(tmp_path / "files", [*images, companion(images[0], EncapsulatedPDFStorage)])
    report = tmp_path / "files" / "000009.dcm"
    report.write_bytes(report.read_bytes()[:-5])
    from monai_aws_pipeline.host_agent.intake.dicom import read_studies

    paths = sorted((tmp_path / "files").iterdir())
    (study,) = read_studies(paths)
    assert asking().give(study).passed_over == {"Encapsulated PDF Storage": 1}
    paths[0].write_bytes(paths[0].read_bytes()[:-5])
    with pytest.raises(RefusedError, match="dicom_truncated"):
        read_studies(paths)


def test_a_study_without_images_is_refused_unless_the_application_takes_companions(tmp_path: Path) -> None:
    images = good(tmp_path / "a")
    study = study_of(tmp_path / "files", [companion(images[0], SegmentationStorage)])
    assert refusal(MapRequirements([], StudyContract()), study).code is Code.NO_IMAGES
    assert len(MapRequirements([], StudyContract(companions=True)).give(study).instances) == 1


def test_a_syntax_that_the_application_cannot_decode_is_refused_before_it_runs(tmp_path: Path) -> None:
    images = good(tmp_path / "a")
    for data in images:
        data.PixelData = encapsulate([b"\xff\xd8" + bytes(30)])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = JPEGLSLossless
    study = study_of(tmp_path / "files", images)
    error = refusal(asking(syntaxes=decoded_syntaxes(["pydicom"])), study)
    assert error.code is Code.TRANSFER_SYNTAX
    assert "8 of 8 images are written in JPEG-LS Lossless" in error.cause
    assert len(asking(syntaxes=decoded_syntaxes(["pyjpegls"])).give(study).instances) == 8
    assert len(asking().give(study).instances) == 8  # of an image built elsewhere it is not known


def rescaled(folder: Path, *, slope: str, first: int | None = None, stored: int = 900) -> list[Dataset]:
    datasets = good(folder)
    for index, data in enumerate(datasets):
        data.RescaleSlope, data.RescaleIntercept = slope, "0"
        pixels = np.full_like(data.pixel_array, first if index == 0 and first is not None else stored)
        data.PixelData = pixels.tobytes()
    return datasets


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("made", "refused"),
    [
        ({"slope": "1"}, False),
        ({"slope": "0.5", "stored": 901}, False),  # each slice becomes float
        ({"slope": "0.5", "stored": 901, "first": 0}, True),  # the first one is whole: all others lose their fraction
        ({"slope": "1", "stored": 60000, "first": 0}, True),  # the first one is int16: all others overflow
        ({"slope": "1", "stored": 60000, "first": 7}, False),  # uint16 throughout
    ],
)
def test_pixels_that_the_sdks_operator_would_cut_off_are_refused(
    tmp_path: Path, made: dict[str, Any], refused: bool, compressed: bool
) -> None:
    datasets = rescaled(tmp_path / "a", **made)
    for data in datasets if compressed else ():
        data.compress(RLELossless, generate_instance_uid=False)
    study = study_of(tmp_path / "files", datasets)
    if refused:
        error = refusal(asking(sdk_volume=True), study)
        assert error.code is Code.UNSUPPORTED_IMAGE
        assert "7 of 8 images" in error.cause
    else:
        assert asking(sdk_volume=True).give(study).stacks
    assert asking(sdk_volume=True, handles=frozenset({Handles.PIXEL_TYPE})).give(study).stacks
    assert asking().give(study).stacks


@pytest.mark.parametrize(("signed_from", "refused"), [(8, False), (4, True)])
def test_compressed_pixels_of_two_types_that_this_host_cannot_decode_are_refused(tmp_path: Path, signed_from: int, refused: bool) -> None:
    datasets = good(tmp_path / "a")
    for index, data in enumerate(datasets):
        data.PixelRepresentation = int(index >= signed_from)
        data.PixelData = encapsulate([b"\xff\xd8 nothing that anybody decodes"])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    study = study_of(tmp_path / "files", datasets)
    if refused:
        error = refusal(asking(sdk_volume=True), study)
        assert (error.code, "8 compressed images have pixels of 2 types" in error.cause) == (Code.UNSUPPORTED_IMAGE, True)
    else:
        assert asking(sdk_volume=True).give(study).stacks


@pytest.mark.parametrize(("spacing", "refused"), [([2.0, 2.0], False), ([2.0, 2.01], False), ([2.0, 2.5], True)])
def test_pixels_that_are_not_square_are_given_to_those_that_say_they_read_them(tmp_path: Path, spacing: list[float], refused: bool) -> None:
    study = study_of(tmp_path / "files", each(good(tmp_path / "a"), lambda _, data: setattr(data, "PixelSpacing", spacing)))
    if refused:
        error = refusal(asking(sdk_volume=True), study)
        assert error.code is Code.UNSUPPORTED_IMAGE
        assert "8 of 8 images are not square" in error.cause
    else:
        assert asking(sdk_volume=True).give(study).stacks
    assert asking(sdk_volume=True, handles=frozenset({Handles.NON_SQUARE})).give(study).stacks
    assert asking().give(study).stacks


def test_noise_in_direction_cosines_does_not_make_a_series_smaller(tmp_path: Path) -> None:
    """Rounded to a digit, half of its planes would lie in another direction, and the smaller series would be answered."""

    def turned(index: int, data: Dataset) -> None:
        sine = 0.05 + (1e-6 if index % 2 else -1e-6)
        cosine = (1 - sine**2) ** 0.5
        data.ImageOrientationPatient = [f"{value:.8f}" for value in (cosine, sine, 0, -sine, cosine, 0)]

    large, small = each(good(tmp_path / "a"), turned), in_series(good(tmp_path / "b", slices=6))
    given = asking().give(study_of(tmp_path / "files", [*small, *large]))
    assert {item.series_uid for item in given.instances} == {large[0].SeriesInstanceUID}


def test_labels_of_an_image_of_before_ask_what_they_asked_then(tmp_path: Path) -> None:
    older = requirements_of({LABEL_VOLUME: "true", LABEL_RULES: '{"selections": [{"name": "MR", "conditions": {"Modality": "MR"}}]}'})
    assert (older.contract, older.rules) == (StudyContract(volume=True), [("MR", {"Modality": "MR"})])
    for hostile in ("{", "[]", "null", '{"volume": 3}', '{"volume": true, "stack": {"a": []}}', "x" * 10_000):
        assert requirements_of({LABEL_STUDY_CONTRACT: hostile}).contract == StudyContract()
    assert len(requirements_of({}).give(study_of(tmp_path / "files", good(tmp_path / "a")[:1])).instances) == 1


def test_a_capture_among_the_images_does_not_speak_for_their_series(tmp_path: Path) -> None:
    images = good(tmp_path / "a")
    capture = again(images[0], SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")
    capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    del capture.ImagePositionPatient
    error = refusal(asking(), study_of(tmp_path / "files", [capture, *images]))
    assert (error.code, "1 of 9 images" in error.cause) == (Code.IRREGULAR_VOLUME, True)


def test_a_larger_series_whose_planes_cannot_be_read_is_not_passed_over_for_a_smaller_one(tmp_path: Path) -> None:
    large, small = good(tmp_path / "a", slices=9), in_series(good(tmp_path / "b", slices=4))
    each(large, lambda _, data: setattr(data, "ImageOrientationPatient", [2, 0, 0, 0, 1, 0]))
    assert refusal(asking(), study_of(tmp_path / "files", [*large, *small])).code is Code.NO_GEOMETRY


def test_another_studys_report_does_not_become_a_study(tmp_path: Path) -> None:
    images = good(tmp_path / "a")
    report = companion(images[0], EncapsulatedPDFStorage, StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid())
    assert study_of(tmp_path / "files", [report, *images]).uid == images[0].StudyInstanceUID
