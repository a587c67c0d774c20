"""What the embedded HealthImaging takes of a DICOM file, and what it refuses."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from monai_aws_pipeline.archive.conflicts import read_file
from monai_aws_pipeline.archive.errors import ArchiveFileError
from monai_aws_pipeline.local_cloud import imaging_files
from monai_aws_pipeline.local_cloud.imaging_files import RefusedFile, frame_bytes, read_instance
from tests.unit.local_cloud.dicom import write, write_binary_seg


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian])
def test_an_instance_is_read_with_its_frame(tmp_path: Path, syntax: str):
    found = read_instance(write(tmp_path / "a.dcm", syntax, AccessionNumber="", StudyID=None))
    assert found.grouping == ("20200101", "", "INV-1", "1.2.3", "", "1.2.3.1", "1")
    assert (found.transfer_syntax, found.warnings, len(found.frames)) == (syntax, (), 1)
    assert frame_bytes(tmp_path / "a.dcm", found.frames[0]) == np.arange(16, dtype="<u2").tobytes()
    assert found.attributes["PatientName"]["Value"] == [{"Alphabetic": "Invented^Nobody"}]


def test_frames_of_a_binary_segmentation_begin_with_a_byte_each(tmp_path: Path):
    found = read_instance(write_binary_seg(tmp_path / "a.dcm"))
    frames = [np.unpackbits(np.frombuffer(frame_bytes(tmp_path / "a.dcm", each), np.uint8), bitorder="little") for each in found.frames]
    assert [frame[:9].tolist() for frame in frames] == [[1] * 9, [0] * 8 + [1], [1, 0, 1] * 3]
    assert all(not frame[9:].any() for frame in frames)


@pytest.mark.parametrize(("fragments", "frames"), [([b"ab", b"cdef"], [b"ab", b"cdef"]), ([b"ab"], None), ([b"ab", b"cd", b"ef"], None)])
def test_fragments_are_frames_where_their_number_says_so(tmp_path: Path, fragments: list[bytes], frames: list[bytes] | None):
    found = read_instance(write(tmp_path / "a.dcm", JPEG2000Lossless, NumberOfFrames=2, fragments=fragments))
    assert [frame_bytes(tmp_path / "a.dcm", each) for each in found.frames] == (frames or [])
    assert found.warnings == (() if frames else (imaging_files.FRAME_NUMBER,))


@pytest.mark.parametrize("name", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_an_instance_without_what_names_it_is_refused(tmp_path: Path, name: str):
    with pytest.raises(RefusedFile, match=f"DICOM attribute {name} does not exist"):
        read_instance(write(tmp_path / "a.dcm", **{name: None}))


def test_what_is_no_dicom_or_has_lost_its_end_is_refused_and_named_where_it_can_be(tmp_path: Path):
    (tmp_path / "text").write_bytes(b"not DICOM" * 100)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("text", "empty"):
        with pytest.raises(RefusedFile, match="DICOM attributes does not exist"):
            read_instance(tmp_path / name)
    whole = write(tmp_path / "a.dcm", SOPInstanceUID="1.9").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-3])
    with pytest.raises(RefusedFile) as refused:
        read_instance(tmp_path / "cut")
    assert (refused.value.sop_instance, refused.value.reason) == ("1.9", 0xC000)


@pytest.mark.parametrize("length", range(0, 1200, 37))
def test_every_cut_is_refused_or_read_without_its_pixels_and_never_breaks(tmp_path: Path, length: int):
    whole = write(tmp_path / "a.dcm").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:length])
    if length < len(whole):
        try:
            assert not read_instance(tmp_path / "cut").frames
        except RefusedFile as refused:
            assert "INV-1" not in refused.message


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_read_or_refused_and_never_breaks_a_request(tmp_path: Path, seed: int):
    """One broken file would otherwise fail the whole request that it came with."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    fragments = {"NumberOfFrames": 2, "fragments": [b"ab", b"cd"]}
    sound = [
        write(tmp_path / "a"),
        write(tmp_path / "i", ImplicitVRLittleEndian),
        write(tmp_path / "f", JPEG2000Lossless, **fragments),
        write_binary_seg(tmp_path / "s"),
    ]
    for _ in range(250):
        damaged = bytearray(dice.choice(sound).read_bytes())
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(130, len(damaged))] = dice.randrange(256)
        (tmp_path / "x").write_bytes(damaged)
        with contextlib.suppress(RefusedFile):
            for frame in read_instance(tmp_path / "x").frames:
                frame_bytes(tmp_path / "x", frame)
        with contextlib.suppress(ArchiveFileError):
            read_file(tmp_path / "x", is_result=False)


def test_pixels_of_another_length_than_the_header_says_are_kept_with_a_warning(tmp_path: Path):
    found = read_instance(write(tmp_path / "a.dcm", Rows=5))
    assert (found.frames, found.warnings) == ((), (imaging_files.FRAMES_EXTRACTION,))


def test_a_value_that_is_too_long_is_refused_without_being_said(tmp_path: Path):
    with pytest.raises(RefusedFile, match="DICOM attribute StudyTime is longer than 28") as refused:
        read_instance(write(tmp_path / "a.dcm", StudyTime="1" * 29))
    assert "111" not in refused.value.message


def test_a_binary_segmentation_in_another_transfer_syntax_and_a_deflated_file_are_refused(tmp_path: Path):
    with pytest.raises(RefusedFile, match="Explicit VR Little Endian only"):
        read_instance(write_binary_seg(tmp_path / "a.dcm", ImplicitVRLittleEndian))
    with pytest.raises(RefusedFile, match="is not supported"):
        read_instance(write(tmp_path / "b.dcm", DeflatedExplicitVRLittleEndian))
