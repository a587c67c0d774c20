"""What counts as an answer of the MAP: files that parse and belong to the study."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.results.outputs import collect
from monai_aws_pipeline.host_agent.results.segmentation import read_source
from tests.unit.host_agent.dicom_files import write_series

UID = generate_uid()


def failed(folder: Path) -> Code:
    with pytest.raises(FailedError) as error:
        collect(folder, UID)
    return error.value.code


def test_no_output_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty folder").mkdir()
    assert failed(tmp_path) is Code.NO_OUTPUT


def test_a_dcm_that_is_no_dicom_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("no")
    assert failed(tmp_path) is Code.OUTPUT_NOT_DICOM


def test_a_dicom_that_does_not_parse_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    assert failed(tmp_path) is Code.OUTPUT_NOT_DICOM


def test_a_dicom_of_another_study_is_a_failure(tmp_path: Path) -> None:
    write_series(tmp_path, generate_uid(), slices=1)
    assert failed(tmp_path) is Code.OUTPUT_OTHER_STUDY


@pytest.mark.parametrize(
    ("wrote", "its", "wrong"),
    [("INV-1", "OTHER-2", True), ("INV-1", "", False), ("INV-1", "INV-1 ", False), ("", "OTHER-2", False), ("Ä-1", "OTHER-2", False)],
)
def test_a_dicom_that_names_another_patient_is_a_failure(tmp_path: Path, wrote: str, its: str, wrong: bool) -> None:
    """A study has one patient; where its id is written in another character set than the result's, nothing is compared."""
    source = []
    for folder, patient in (("in", wrote), ("out", its)):
        source.append(write_series(tmp_path / folder, UID, slices=1)[0])
        data = pydicom.dcmread(source[-1])
        data.PatientID, data.SpecificCharacterSet = patient, "ISO_IR 192"
        data.save_as(source[-1])
    given = read_studies(source[:1])[0].instances
    if not wrong:
        assert collect(tmp_path / "out", UID, read_source(given))
        return
    with pytest.raises(FailedError, match="names another patient than its input") as error:
        collect(tmp_path / "out", UID, read_source(given))
    assert error.value.code is Code.OUTPUT_OTHER_STUDY
    assert not any(patient in str(error.value) for patient in (wrote, its))


def test_a_link_out_of_the_folder_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").symlink_to("/etc/hostname")
    assert failed(tmp_path) is Code.OUTPUT_UNSAFE


def test_outputs_keep_nothing_of_the_names_the_application_chose(tmp_path: Path) -> None:
    write_series(tmp_path / "Hans Mueller", UID, slices=2)
    (tmp_path / "Hans.STL").write_text("solid")
    (tmp_path / "notes.weird ending").write_text("x")
    found = collect(tmp_path, UID)
    assert [(item.name.rpartition("-")[0], item.kind) for item in found] == [
        ("dicom/instance-1", "dicom"),
        ("dicom/instance-2", "dicom"),
        ("mesh/mesh-1", "mesh"),
        ("other/file-1", "other"),
    ]
    assert all(item.sha256[:8] in item.name for item in found)
    assert [item.content_type for item in found][:2] == ["application/dicom", "application/dicom"]


def test_other_contents_get_other_names_so_that_two_hosts_never_overwrite_each_other(tmp_path: Path) -> None:
    names = []
    for content in ("one", "two"):
        (tmp_path / content).mkdir()
        (tmp_path / content / "mesh.stl").write_text(content)
        names.append(collect(tmp_path / content, UID)[0].name)
    assert names[0] != names[1]


def test_an_ending_that_may_be_a_part_of_a_name_is_not_kept(tmp_path: Path) -> None:
    for name in ("Erika.Muster", "report.json", "volume.nii.GZ", "x.Zqplant"):
        (tmp_path / name).write_text(name)
    assert {Path(item.name).suffix for item in collect(tmp_path, UID)} == {"", ".json", ".gz"}
