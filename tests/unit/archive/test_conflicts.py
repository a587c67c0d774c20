"""A result that its archive would hide is found before it is stored, and agrees with its study where a copy may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from monai_aws_pipeline.archive.conflicts import ArchiveFile, archive_conflicts, corrected, read_file
from monai_aws_pipeline.archive.errors import ArchiveFileError
from tests.unit.local_cloud.dicom import write, write_binary_seg


def study_of(tmp_path: Path, *results: dict[str, Any], **source: Any) -> list[ArchiveFile]:
    images = [read_file(write(tmp_path / f"{n}.dcm", SOPInstanceUID=f"1.{n}", **source), is_result=False) for n in (1, 2)]
    given = [write_binary_seg(tmp_path / f"seg{n}.dcm", SOPInstanceUID=f"2.{n}", **result) for n, result in enumerate(results)]
    return [*images, *(read_file(path, is_result=True) for path in given)]


@pytest.mark.parametrize(
    ("change", "attributes"),
    [
        ({}, None),
        ({"AccessionNumber": "A2"}, ("AccessionNumber",)),
        ({"AccessionNumber": ""}, ("AccessionNumber",)),
        ({"AccessionNumber": None}, ("AccessionNumber",)),
        ({"StudyID": " S1"}, ("StudyID",)),
        ({"StudyDate": "20200102", "PatientID": "inv-1"}, ("StudyDate", "PatientID")),
        ({"StudyInstanceUID": "1.2.4"}, ("StudyInstanceUID",)),
        ({"SeriesNumber": 1}, ("SeriesNumber",)),
        ({"SeriesInstanceUID": "1.2.3.1"}, ("SeriesInstanceUID",)),
    ],
)
def test_a_result_is_held_against_its_study_to_the_letter(tmp_path: Path, change: dict[str, Any], attributes: tuple[str, ...] | None):
    found = archive_conflicts(study_of(tmp_path, change))
    assert [each.attributes for each in found] == ([attributes] if attributes else [])
    assert not any(value in repr(found) for value in ("A2", "inv-1", "20200102"))


@pytest.mark.parametrize("empty", ["", None])
def test_an_attribute_that_the_study_lacks_is_to_be_empty_in_the_result(tmp_path: Path, empty: str | None):
    assert (
        archive_conflicts(
            study_of(tmp_path, {"StudyID": None}, {"StudyID": "", "SeriesInstanceUID": "9.9", "SeriesNumber": 7}, StudyID=empty)
        )
        == []
    )
    (found,) = archive_conflicts(study_of(tmp_path, {"StudyID": "1"}, StudyID=empty))
    assert found.attributes == ("StudyID",)


def test_originals_that_contradict_each_other_are_named(tmp_path: Path):
    files = study_of(tmp_path)
    other = read_file(write(tmp_path / "o.dcm", SOPInstanceUID="1.9", AccessionNumber="", SeriesNumber=2), is_result=False)
    (found,) = archive_conflicts([*files, other])
    assert (found.file, found.attributes) == (other, ("AccessionNumber", "SeriesNumber"))


def test_two_results_share_no_number(tmp_path: Path):
    found = archive_conflicts(study_of(tmp_path, {}, {"SeriesInstanceUID": "1.2.3.8"}, {}))
    assert [(each.file.series, each.attributes) for each in found] == [("1.2.3.8", ("SeriesNumber",))]


def test_a_copy_agrees_and_says_what_was_changed_and_the_file_stays_as_it_was(tmp_path: Path):
    files = study_of(tmp_path, {"AccessionNumber": "", "StudyID": "x", "SeriesNumber": 1}, {"SeriesInstanceUID": "1.2.3.8"}, StudyID=None)
    before = files[2].path.read_bytes()
    (tmp_path / "copies").mkdir()
    agreed = corrected(archive_conflicts(files), files, tmp_path / "copies")
    assert archive_conflicts(agreed) == []
    assert [each.corrected for each in agreed] == [(), (), ("AccessionNumber", "StudyID", "SeriesNumber"), ("StudyID",)]
    copy, original = dcmread(agreed[2].path), dcmread(files[2].path)
    assert (copy.AccessionNumber, "StudyID" in copy, copy.SeriesNumber) == ("A1", False, 901)
    assert (copy.SOPInstanceUID, copy.PixelData, files[2].path.read_bytes()) == (original.SOPInstanceUID, original.PixelData, before)


@pytest.mark.parametrize("change", [{"StudyInstanceUID": "1.2.4"}, {"PatientID": "INV-2"}])
def test_another_study_or_another_patient_is_never_corrected(tmp_path: Path, change: dict[str, Any]):
    files = study_of(tmp_path, change)
    conflicts = archive_conflicts(files)
    assert (conflicts[0].can_be_corrected, corrected(conflicts, files, tmp_path)) == (False, files)


def test_a_patient_id_that_the_application_left_out_is_filled_in(tmp_path: Path):
    files = study_of(tmp_path, {"PatientID": ""})
    (tmp_path / "copies").mkdir()
    assert archive_conflicts(corrected(archive_conflicts(files), files, tmp_path / "copies")) == []


@pytest.mark.parametrize("change", [{"SOPInstanceUID": None}, {"SeriesInstanceUID": ""}, {"StudyInstanceUID": None}])
def test_a_file_that_nobody_could_look_for_is_named(tmp_path: Path, change: dict[str, Any]):
    with pytest.raises(ArchiveFileError, match="UIDs"):
        read_file(write(tmp_path / "a.dcm", **change), is_result=False)
    (tmp_path / "text").write_bytes(b"hello")
    with pytest.raises(ArchiveFileError, match="cannot be read"):
        read_file(tmp_path / "text", is_result=False)
