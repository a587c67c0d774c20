"""What a study is: files grouped by StudyInstanceUID, whole, and each instance once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import EnhancedUSVolumeStorage, generate_uid

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from tests.unit.host_agent.dicom_files import write_series


def refused(files: list[Path]) -> Code:
    with pytest.raises(RefusedError) as error:
        read_studies(files)
    return error.value.code


def test_two_studies_in_one_upload_are_two_studies(tmp_path: Path) -> None:
    first, second = sorted([generate_uid(), generate_uid()])
    files = write_series(tmp_path / "a", second, slices=2) + write_series(tmp_path / "b", first, slices=3)
    studies = read_studies(files)
    assert [(study.uid, len(study.instances), study.series, study.modalities) for study in studies] == [
        (first, 3, 1, ("MR",)),
        (second, 2, 1, ("MR",)),
    ]


def test_the_same_instance_twice_counts_once(tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=2)
    files.append(Path(shutil.copy(files[0], tmp_path / "copy.dcm")))
    assert len(read_studies(files)[0].instances) == 2


def test_one_sop_instance_uid_with_two_contents_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=2)
    other = pydicom.dcmread(files[0])
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "copy.dcm")
    assert refused([*files, tmp_path / "copy.dcm"]) is Code.INSTANCE_CONFLICT


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_file_without_its_identifiers_is_refused(tag: str, tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=1)
    data = pydicom.dcmread(files[0])
    delattr(data, tag)
    data.save_as(files[0])
    assert refused(files) is Code.DICOM_INCOMPLETE


@pytest.mark.parametrize("left", [140, 200, 300, 400, 700, -1])
def test_a_truncated_file_is_refused_instead_of_being_inferred(left: int, tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=1)
    files[0].write_bytes(files[0].read_bytes()[:left])
    assert refused(files) is Code.DICOM_TRUNCATED


def test_a_dicomdir_alone_is_no_study(tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=1)
    data = pydicom.dcmread(files[0])
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    data.save_as(files[0])
    assert refused(files) is Code.NO_DICOM


def test_no_error_quotes_a_value_of_the_patient(tmp_path: Path) -> None:
    files = write_series(tmp_path, generate_uid(), slices=1)
    files[0].write_bytes(files[0].read_bytes()[:300])
    with pytest.raises(RefusedError) as error:
        read_studies(files)
    assert "Invented" not in str(error.value)


def test_an_image_with_the_pixels_of_two_is_damaged(tmp_path: Path) -> None:
    path = write_series(tmp_path, generate_uid(), slices=1)[0]
    data = pydicom.dcmread(path)
    data.PixelData = data.PixelData * 2
    data.save_as(path)
    with pytest.raises(RefusedError, match=r"dicom_damaged: .*more pixels"):
        read_studies([path])


@pytest.mark.parametrize("name", ["MR OF HANS MUELLER", "MUELLER", "MRMUELLER"])
def test_a_free_text_modality_does_not_reach_the_record(tmp_path: Path, name: str) -> None:
    files = write_series(tmp_path, generate_uid(), slices=1)
    data = pydicom.dcmread(files[0])
    data.Modality = name
    data.save_as(files[0])
    assert read_studies(files)[0].modalities == ()


def test_an_ultrasound_volume_is_an_image(tmp_path: Path) -> None:
    """Enhanced US Volume Storage (PS3.3 A.59) is the one class of images without the word in its name."""
    (path,) = write_series(tmp_path, generate_uid(), slices=1)
    data = pydicom.dcmread(path)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedUSVolumeStorage
    data.save_as(path)
    (study,) = read_studies([path])
    assert (len(study.instances), study.companions) == (1, ())
