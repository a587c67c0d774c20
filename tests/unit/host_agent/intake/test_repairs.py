"""What is evened out in the copies that an application is given, and that nothing else of them changes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from monai_aws_pipeline.host_agent.errors import RefusedError
from monai_aws_pipeline.host_agent.intake import repairs
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.intake.map_requirements import MapRequirements
from monai_aws_pipeline.maps.spec.study_contract import StudyContract
from tests.unit.host_agent.series import each, good, study_of, written
from tests.unit.host_agent.stacks import jittered, with_value, without

VOLUME = MapRequirements([], StudyContract(volume=True))
NAME = "Yamada^Tarou=山田^太郎=やまだ^たろう"


def rounded_directions(data: Dataset) -> list[float]:
    return [round(float(value), 4) for value in data.ImageOrientationPatient]


def japanese(datasets: list[Dataset]) -> list[Dataset]:
    return each(
        datasets, lambda _, data: (setattr(data, "SpecificCharacterSet", ["", "ISO 2022 IR 87"]), setattr(data, "PatientName", NAME))
    )  # type: ignore[func-returns-value,arg-type,return-value]


CASES: dict[str, tuple[Callable[[list[Dataset]], list[Dataset]], str, Callable[[Dataset], object], object]] = {
    "an empty SeriesNumber": (lambda d: with_value(d, "SeriesNumber", None), repairs.SERIES_NUMBER, lambda data: data.SeriesNumber, 1),
    "several character sets": (japanese, repairs.CHARACTER_SET, lambda data: str(data.PatientName), NAME),
    "uneven cosines": (
        lambda d: each(d, jittered), repairs.ORIENTATION, rounded_directions, [1, 0, 0, 0, 1, 0]
    ),
    "a SeriesNumber that is a word": (
        lambda d: each(d, lambda _, data: data.add_new(0x00200011, "LO", "T1")), repairs.SERIES_NUMBER, lambda data: data.SeriesNumber, 1,
    ),
    "a character set that is none": (
        lambda d: with_value(d, "SpecificCharacterSet", "ISO-IR 100"), repairs.CHARACTER_SET,
        lambda data: data.SpecificCharacterSet, "ISO_IR 192",
    ),
    "a time of the older form": (
        lambda d: each(d, lambda _, data: data.add_new(0x00080030, "LO", "12:00:00")), repairs.MOMENTS,
        lambda data: data.StudyTime, "120000",
    ),
    "a date that is none": (
        lambda d: each(d, lambda _, data: data.add_new(0x00080020, "LO", "yesterday")), repairs.MOMENTS, lambda data: data.StudyDate, "",
    ),
    "an empty rescale": (
        lambda d: with_value(with_value(d, "RescaleSlope", None), "RescaleIntercept", None), repairs.RESCALE,
        lambda data: "RescaleSlope" in data or "RescaleIntercept" in data, False,
    ),
    "no thickness": (
        lambda d: with_value(d, "SliceThickness", None), repairs.THICKNESS, lambda data: float(data.SliceThickness), 3.0,
    ),
    "attributes that are not there": (
        lambda d: without(d, "PatientID", slice(0, 8)), repairs.EMPTY, lambda data: data["PatientID"].is_empty, True,
    ),
    "a contradicting spacing": (
        lambda d: with_value(d, "SpacingBetweenSlices", "1"), repairs.SPACING, lambda data: float(data.SpacingBetweenSlices), 3.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_evened_out_in_every_file_and_said(tmp_path: Path, case: str) -> None:
    change, said, value, wanted = CASES[case]
    study = study_of(tmp_path / "files", change(good(tmp_path / "good")))
    before = [pydicom.dcmread(item.path).PixelData for item in study.instances]
    given = VOLUME.give(study)
    assert repairs.even_out(given.instances, given.stacks) == (said,)
    after = [pydicom.dcmread(item.path) for item in study.instances]
    assert all(value(data) == wanted for data in after)
    assert [data.PixelData for data in after] == before
    assert {(data.StudyInstanceUID, data.file_meta.TransferSyntaxUID) for data in after} == {(study.uid, "1.2.840.10008.1.2.1")}
    assert len({tuple(data.ImageOrientationPatient) for data in after}) == 1
    (again,) = {path.suffix for path in (tmp_path / "files").iterdir()}
    assert again == ".dcm"


def test_a_name_with_a_character_that_ends_in_a_backslash_is_one_name_and_two_names_are_a_refusal(tmp_path: Path) -> None:
    name = "Wang^\u4e57"  # its second byte in GB18030 is a backslash
    assert b"\\" in name.encode("gb18030")
    datasets = good(tmp_path / "good", slices=3)
    for data in datasets:
        data.SpecificCharacterSet, data.PatientName = "GB18030", name
    study = study_of(tmp_path / "files", datasets)
    given = VOLUME.give(study)
    assert repairs.even_out(given.instances, given.stacks) == (repairs.CHARACTER_SET, repairs.NAME)
    assert {str(pydicom.dcmread(item.path).PatientName) for item in given.instances} == {name}
    with_value(datasets, "PatientName", "One^Name\\Other^Name")
    given = VOLUME.give(study_of(tmp_path / "two", datasets))
    with pytest.raises(RefusedError, match=r"dicom_damaged: .*several values"):
        repairs.even_out(given.instances, given.stacks)


def test_an_image_that_names_its_class_in_its_meta_information_alone_is_given_with_it(tmp_path: Path) -> None:
    for path in written(tmp_path / "files", good(tmp_path / "good")):
        data = pydicom.dcmread(path)
        del data.SOPClassUID
        data.save_as(path)
    (study,) = read_studies(sorted((tmp_path / "files").iterdir()))
    given = VOLUME.give(study)
    assert repairs.even_out(given.instances, given.stacks) == (repairs.CLASS,)
    assert {pydicom.dcmread(item.path).SOPClassUID for item in given.instances} == {MRImageStorage}


ODD_VALUES = {
    b"1230": b"FD\4\x001230",
    b"1231": b"IS\4\x001.5 ",
    b"1232": b"DS\4\x001,5 ",
    b"1233": b"AT\4\x00ab  ",
    b"1234": b"UI\4\x00a.b\0",
}


def test_odd_values_do_not_keep_texts_from_being_decoded(tmp_path: Path) -> None:
    """Numbers that are none, and lengths that do not fit their value representation, are common in elements that nobody needs."""
    datasets = japanese(good(tmp_path / "good"))
    for data in datasets:
        item = Dataset()
        item.CodeMeaning = "\u982d\u90e8"
        data.ProcedureCodeSequence = [item]
        for holder in (data, item):
            for number, text in enumerate(ODD_VALUES):
                holder.private_block(0x0019, "INVENTED", create=True).add_new(number, "LO", text.decode())
    for path in written(tmp_path / "files", datasets):
        content = path.read_bytes()
        for text, odd in ODD_VALUES.items():
            assert content.count(b"LO\4\0" + text) == 2
            content = content.replace(b"LO\4\0" + text, odd)
        path.write_bytes(content)
    (study,) = read_studies(sorted((tmp_path / "files").iterdir()))
    given = VOLUME.give(study)
    assert repairs.even_out(given.instances, given.stacks) == (repairs.CHARACTER_SET,)
    for instance in given.instances:
        data = pydicom.dcmread(instance.path)
        assert (data.SpecificCharacterSet, str(data.PatientName)) == ("ISO_IR 192", NAME)
        assert data.ProcedureCodeSequence[0].CodeMeaning == "\u982d\u90e8"
        assert all(odd[4:] in instance.path.read_bytes() for odd in ODD_VALUES.values())


def test_a_date_of_the_older_form_is_read_beside_several_character_sets(tmp_path: Path) -> None:
    datasets = each(japanese(good(tmp_path / "good")), lambda _, data: data.add_new(0x00100030, "LO", "1961.02.03"))
    given = VOLUME.give(study_of(tmp_path / "files", datasets))
    assert repairs.even_out(given.instances, given.stacks) == tuple(sorted((repairs.CHARACTER_SET, repairs.MOMENTS)))
    assert {pydicom.dcmread(item.path).PatientBirthDate for item in given.instances} == {"19610203"}


def test_a_full_disk_is_not_told_as_a_damaged_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = VOLUME.give(study_of(tmp_path / "files", japanese(good(tmp_path / "good"))))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Dataset, "save_as", full)
    with pytest.raises(OSError, match="No space left"):
        repairs.even_out(given.instances, given.stacks)


def test_a_good_stack_is_given_byte_for_byte(tmp_path: Path) -> None:
    study = study_of(tmp_path / "files", good(tmp_path / "good"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    given = VOLUME.give(study)
    assert repairs.even_out(given.instances, given.stacks) == ()
    assert {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()} == before
