"""When two runs of a MAP count as the same answer, and what may not differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.runtime.output_comparison import differences
from tests.support.studies import tiny_study

SOURCE = tiny_study(2)
UIDS = [str(item.SOPInstanceUID) for item in SOURCE] + [str(SOURCE[0].StudyInstanceUID)]


def answer(folder: Path, change: Callable[[Dataset], None] = lambda _: None) -> Path:
    """What a run writes: one object with a reference to its source, new identities, the time of its writing, and a surface."""
    made = tiny_study(1, study_uid=SOURCE[0].StudyInstanceUID, series_uid=generate_uid())[0]
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = SOURCE[0].SOPInstanceUID
    made.ReferencedImageSequence = [reference]
    made.SeriesNumber, made.ContentDate, made.ContentTime = np.random.randint(9999), "20260101", f"1200{np.random.randint(10, 60)}"
    change(made)
    folder.mkdir()
    made.save_as(folder / f"{made.SOPInstanceUID}.dcm", enforce_file_format=True)
    (folder / "surface.stl").write_bytes(stl(np.zeros((4, 3, 3))))
    return folder


def stl(corners: np.ndarray, header: bytes = b"made today") -> bytes:
    record = np.zeros(len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    record["corners"] = corners
    return header.ljust(80) + np.uint32(len(corners)).tobytes() + record.tobytes()


def pixels(made: Dataset) -> None:
    made.PixelData = b"\1" + made.PixelData[1:]


def referring(made: Dataset) -> None:
    made.ReferencedImageSequence[0].ReferencedSOPInstanceUID = SOURCE[1].SOPInstanceUID


def test_new_identities_times_and_names_are_no_difference(tmp_path: Path) -> None:
    one, other = answer(tmp_path / "a"), answer(tmp_path / "b")
    assert sorted(path.name for path in one.iterdir()) != sorted(path.name for path in other.iterdir())
    assert differences(one, other, UIDS) == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (pixels, "PixelData"),
        (referring, "ReferencedSOPInstanceUID"),
        (lambda made: setattr(made, "PixelSpacing", [2, 3]), "PixelSpacing"),
        (lambda made: setattr(made, "ImagePositionPatient", [0, 0, 1]), "ImagePositionPatient"),
        (lambda made: setattr(made, "SeriesDescription", "else"), "SeriesDescription"),
        (lambda made: setattr(made, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "DICOM"),
        (lambda made: delattr(made, "FrameOfReferenceUID"), "FrameOfReferenceUID"),
        (lambda made: setattr(made, "StudyInstanceUID", generate_uid()), "StudyInstanceUID"),
    ],
)
def test_anything_else_is_one_and_is_named_without_its_value(tmp_path: Path, change: Callable[[Dataset], None], named: str) -> None:
    found = differences(answer(tmp_path / "a"), answer(tmp_path / "b", change), UIDS)
    assert named in " ".join(found)
    assert "SYNTHETIC" not in " ".join(found)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    one, other = answer(tmp_path / "a"), answer(tmp_path / "b")
    (other / "surface.stl").unlink()
    assert differences(one, other, UIDS) == ("1 and 0 STL files",)


def test_surfaces_agree_within_a_micrometre(tmp_path: Path) -> None:
    one, other = answer(tmp_path / "a"), answer(tmp_path / "b")
    (other / "surface.stl").write_bytes(stl(np.full((4, 3, 3), 1e-4), b"another header"))
    assert differences(one, other, UIDS) == ()
    (other / "surface.stl").write_bytes(stl(np.full((4, 3, 3), 1e-2)))
    assert differences(one, other, UIDS) == ("STL: surface",)
    (other / "surface.stl").write_bytes(stl(np.zeros((5, 3, 3))))
    assert differences(one, other, UIDS) == ("STL: surface",)
    (other / "surface.stl").write_bytes(b"solid text")
    assert differences(one, other, UIDS) == ("STL: surface",)


def test_other_files_must_be_equal_to_the_byte_and_links_count(tmp_path: Path) -> None:
    one, other = answer(tmp_path / "a"), answer(tmp_path / "b")
    for folder in (one, other):
        (folder / "report.json").write_text("{}")
    assert differences(one, other, UIDS) == ()
    (other / "report.json").write_text("{ }")
    (other / "link").symlink_to("/etc")
    assert differences(one, other, UIDS) == ("0 and 1 special files",)
    (other / "link").unlink()
    assert differences(one, other, UIDS) == (".json: content",)


def test_several_files_of_a_kind_are_compared_whatever_their_names_say(tmp_path: Path) -> None:
    one, other = answer(tmp_path / "a"), answer(tmp_path / "b")
    for folder, names in ((one, "12"), (other, "21")):
        for name, number in zip(names, (1, 2), strict=True):
            made = pydicom.dcmread(next(folder.glob("*.dcm")))
            made.InstanceNumber, made.SliceThickness = number, number
            made.save_as(folder / f"{name}.dcm")
    assert differences(one, other, UIDS) == ()


def test_no_difference_names_a_file_by_what_the_application_called_it(tmp_path: Path) -> None:
    one, other = answer(tmp_path / "one"), answer(tmp_path / "other")
    (one / "Erika.Mustermann").write_text("a")
    assert differences(one, other, UIDS) == ("1 and 0 other files",)


def test_no_difference_names_an_object_by_a_uid(tmp_path: Path) -> None:
    def private(data: Dataset) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.826.0.1.3680043.8.498.4711"

    one, other = answer(tmp_path / "one", private), answer(tmp_path / "other")
    found = differences(one, other, UIDS)
    assert "1 and 0 DICOM of a private class files" in found
    assert "4711" not in str(found)
