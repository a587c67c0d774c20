"""What an upload may and may not be: hostile zips are refused with a code, honest ones unpacked, whatever their names."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monai_aws_pipeline.contract import JobMessage
from monai_aws_pipeline.host_agent.aws.bucket import Store, StoredObject
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.originals import Kind, fetch
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits, Unpacked, check_size, keep_dicom, unpack, with_free_space
from tests.support import raw_dicom
from tests.support.raw_zip import DEFLATE64, LZMA, STORED, ZSTANDARD, Entry, encrypted, link, raw_zip

DICOM = b"\0" * 128 + b"DICM" + b"pixels" * 50
NOISE = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(2000))  # keeps the ratio of what holds it within limits
SMALL = IntakeLimits(upload_bytes=1 << 20, unpacked_bytes=4 << 20, files=50, ratio=100, ratio_from=1 << 20)


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def with_entry(change: Callable[[zipfile.ZipInfo], None], content: bytes = DICOM, name: str = "a.dcm") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        entry = zipfile.ZipInfo(name)
        change(entry)
        archive.writestr(entry, content)
    return target.getvalue()


def linked(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16


def device(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = (stat.S_IFCHR | 0o666) << 16


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    at = data.index(signature) + offset
    return data[:at] + value + data[at + len(value) :]


def with_password() -> bytes:
    data = zipped({"a.dcm": DICOM}, zipfile.ZIP_STORED)
    return patched(patched(data, b"PK\x01\x02", 8, b"\x01\x00"), b"PK\x03\x04", 6, b"\x01\x00")


def wrong_crc() -> bytes:
    return zipped({"a.dcm": DICOM}, zipfile.ZIP_STORED).replace(b"pixels", b"pixelz", 1)


def damaged_deflate() -> bytes:
    data = bytearray(zipped({"a.dcm": DICOM * 50}))
    data[60:90] = b"\xff" * 30
    return bytes(data)


def endless_directory() -> bytes:
    data = bytearray(zipped({"a.dcm": DICOM}))
    at = data.rindex(b"PK\x05\x06")
    struct.pack_into("<HH", data, at + 8, 60000, 60000)
    return bytes(data)


def zip64_locator_into_nowhere() -> bytes:
    data = zipped({"a.dcm": DICOM})
    at = data.rindex(b"PK\x05\x06")
    return data[:at] + struct.pack("<IIQI", 0x07064B50, 0, 1 << 60, 1) + data[at:]


HOSTILE: dict[str, tuple[Callable[[], bytes], Code]] = {
    "zero bytes": (lambda: b"", Code.EMPTY_UPLOAD),
    "a text": (lambda: b"hello, this is no zip", Code.NOT_A_ZIP),
    "random bytes": (lambda: bytes(range(256)) * 40, Code.NOT_A_ZIP),
    "a tar": (lambda: b"a.dcm" + b"\0" * 1019, Code.NOT_A_ZIP),
    "a zip without its end": (lambda: zipped({"a.dcm": DICOM})[:-30], Code.ZIP_TRUNCATED),
    "the first half of a zip": (lambda: zipped({"a.dcm": DICOM * 9}, 0)[:1500], Code.ZIP_TRUNCATED),
    "only the zip's first bytes": (lambda: b"PK\x03\x04", Code.ZIP_TRUNCATED),
    "a zip without entries": (lambda: zipped({}), Code.NO_DICOM),
    "a zip of texts": (lambda: zipped({"a.txt": b"x", "b/report.pdf": b"%PDF"}), Code.NO_DICOM),
    "a .dcm that is a text": (lambda: zipped({"a.dcm": b"not dicom" * 50}), Code.NO_DICOM),
    "only folders": (lambda: zipped({"a/": b"", "a/b/": b""}), Code.NO_DICOM),
    "a name that climbs out": (lambda: zipped({"../../etc/cron.d/x": DICOM}), Code.ZIP_UNSAFE_NAME),
    "a name that climbs inside": (lambda: zipped({"a/../../b.dcm": DICOM}), Code.ZIP_UNSAFE_NAME),
    "a Windows name that climbs out": (lambda: zipped({"..\\..\\x.dcm": DICOM}), Code.ZIP_UNSAFE_NAME),
    "an absolute name": (lambda: zipped({"/etc/passwd": DICOM}), Code.ZIP_UNSAFE_NAME),
    "a drive letter": (lambda: zipped({"C:\\x.dcm": DICOM}), Code.ZIP_UNSAFE_NAME),
    "a network share": (lambda: zipped({"\\\\host\\x.dcm": DICOM}), Code.ZIP_UNSAFE_NAME),
    "a climbing name beside a good file": (lambda: zipped({"a.dcm": DICOM, "../b.txt": b"x"}), Code.ZIP_UNSAFE_NAME),
    "a NUL in a name": (lambda: zipped({"aQ.dcm": DICOM}).replace(b"aQ.dcm", b"a\0.dcm"), Code.ZIP_UNSAFE_NAME),
    "a symbolic link": (lambda: with_entry(linked, b"/etc/shadow"), Code.ZIP_LINK),
    "a device": (lambda: with_entry(device), Code.ZIP_LINK),
    "a password": (with_password, Code.ZIP_ENCRYPTED),
    "LZMA with its dictionary of any size": (lambda: zipped({"a.dcm": DICOM}, zipfile.ZIP_LZMA), Code.ZIP_COMPRESSION),
    "an unknown method": (lambda: patched(zipped({"a.dcm": DICOM}), b"PK\x01\x02", 10, b"\x63\x00"), Code.ZIP_COMPRESSION),
    "a wrong checksum": (wrong_crc, Code.ZIP_DAMAGED),
    "damaged compressed data": (damaged_deflate, Code.ZIP_DAMAGED),
    "a damaged table of contents": (lambda: zipped({"a.dcm": DICOM}).replace(b"PK\x01\x02", b"PK\x09\x09"), Code.ZIP_DAMAGED),
    "a zip64 locator into nowhere": (zip64_locator_into_nowhere, Code.ZIP_DAMAGED),
    "too many files": (lambda: zipped({f"{n}.dcm": DICOM for n in range(51)}), Code.ZIP_TOO_MANY_FILES),
    "a table of contents that claims too many": (endless_directory, Code.ZIP_TOO_MANY_FILES),
    "too many files in a nested zip": (
        lambda: zipped({f"{n}.dcm": DICOM for n in range(30)} | {"in.zip": zipped({f"{n}.dcm": DICOM for n in range(30)})}),
        Code.ZIP_TOO_MANY_FILES,
    ),
    "a bomb of zeros": (lambda: zipped({"a.dcm": DICOM + b"\0" * (3 << 20)}), Code.ZIP_RATIO),
    "more than fits": (lambda: zipped({f"{n}.dcm": DICOM + NOISE + b"\0" * (1 << 20) for n in range(5)}), Code.ZIP_TOO_LARGE),
    "a bomb in a nested zip": (lambda: zipped({"in.zip": zipped({"a.dcm": DICOM + b"\0" * (3 << 20)})}), Code.ZIP_RATIO),
    "a zip in a zip in a zip": (lambda: zipped({"a.zip": zipped({"b.zip": zipped({"c.dcm": DICOM})})}), Code.ZIP_NESTED),
    "a nested zip that climbs out": (lambda: zipped({"in.zip": zipped({"../x.dcm": DICOM})}), Code.ZIP_UNSAFE_NAME),
    "larger than allowed": (lambda: zipped({"a.dcm": DICOM + bytes(range(256)) * 8192}, zipfile.ZIP_STORED), Code.UPLOAD_TOO_LARGE),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_upload_is_refused_with_its_code_and_writes_nothing_outside(case: str, tmp_path: Path) -> None:
    make, code = HOSTILE[case]
    archive, target = tmp_path / "upload.zip", tmp_path / "deep" / "unpacked"
    target.mkdir(parents=True)
    archive.write_bytes(make())
    with pytest.raises(RefusedError) as refused:
        unpack(archive, target, SMALL)
    assert refused.value.code is code
    assert refused.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "upload.zip"]
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"unpacked"}
    assert not list(target.glob("*.zip"))


@pytest.mark.parametrize(
    "entries",
    [
        {"study/1.dcm": DICOM, "study/2": DICOM},
        {"Müller^Hans/ü é '\";$(reboot).dcm": DICOM, "__MACOSX/._x": b"x"},
        {"win\\dows\\1.dcm": DICOM, "README.txt": b"hello", "thumbs.db": b"\0" * 300},
        {"in.zip": zipped({"1.dcm": DICOM}), "2.dcm": DICOM},
        {"report.docx": zipped({"word.xml": b"x"}), "1.dcm": DICOM},
        {"a" * 300 + ".dcm": DICOM},
        {"..hidden/..x.dcm": DICOM},
    ],
    ids=["plain", "names from hell", "Windows separators", "nested once", "an office file beside", "a long name", "dots that do not climb"],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_honest_zip_gives_its_dicom_files_under_numbers(entries: dict[str, bytes], method: int, tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    (tmp_path / "upload.zip").write_bytes(zipped(entries, method))
    count = unpack(tmp_path / "upload.zip", tmp_path / "u", SMALL).files
    expected = sum(content == DICOM for content in entries.values()) + sum("in.zip" in name for name in entries)
    assert count == expected
    assert [path.name for path in sorted((tmp_path / "u").iterdir())] == [f"{n:06d}.dcm" for n in range(1, count + 1)]
    assert all(path.read_bytes() == DICOM for path in (tmp_path / "u").iterdir())


def test_a_streamed_zip_with_data_descriptors_and_zip64_fields_is_read(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    target = Pipe()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.dcm", "w", force_zip64=True) as entry:
        entry.write(DICOM)
    (tmp_path / "u").mkdir()
    (tmp_path / "upload.zip").write_bytes(target.getvalue())
    assert unpack(tmp_path / "upload.zip", tmp_path / "u").files == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_zip_damaged_anywhere_is_either_read_or_refused_and_never_crashes(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(zipped({"a.dcm": DICOM, "b/c.dcm": DICOM * 3, "in.zip": zipped({"d.dcm": DICOM})}))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    target = tmp_path / f"u{data.draw(st.integers(0, 1 << 40))}"
    target.mkdir(exist_ok=True)
    for left in target.iterdir():
        left.unlink()
    (tmp_path / "upload.zip").write_bytes(bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    try:
        assert unpack(tmp_path / "upload.zip", target, SMALL).files >= 1
    except RefusedError as refused:
        assert refused.code in Code


# ----------------------------------------------------------------------------------------- what is no image does not stop a study

GOOD = Entry("DICOM/IM1", DICOM)
LONG = DICOM * 3
"""Not so short that it could be no DICOM file for its length alone."""


def tar(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


SEVEN_Z, RAR, DISC = b"7z\xbc\xaf\x27\x1c" + NOISE[:500], b"Rar!\x1a\x07\x01\x00" + NOISE[:500], bytes(32769) + b"CD001" + bytes(2048)
LOCKED = raw_zip(encrypted("help.pdf", LONG), encrypted("viewer.exe", LONG))
LOCKED_IMAGES = raw_zip(encrypted("IM0001", LONG))
BROKEN_ZIP = b"PK\x03\x04" + NOISE[:400]
TWO_DEEP = raw_zip(Entry("res.zip", raw_zip(Entry("LICENSE", b"MIT"), Entry("a.png", b"\x89PNG"), Entry("b.js", b"0"))))

PASSED_OVER: dict[str, tuple[list[Entry], dict[str, int]]] = {
    "files of a CD": (
        [Entry("autorun.inf", b"[x]"), Entry("VIEWER\\viewer.exe", b"MZ" * 300), Entry("Thumbs.db", NOISE[:300])],
        {"no DICOM": 3},
    ),
    "files too short for anything": ([Entry("a", b"x"), Entry("b", bytes(131)), Entry("c")], {"no DICOM": 2, "empty file": 1}),
    "folders": ([Entry("a/"), Entry("a\\b\\")], {}),
    "what macOS adds": (
        [Entry("__MACOSX/DICOM/._IM1", NOISE[:140]), Entry("._IM2", NOISE[:140]), Entry(".DS_Store", NOISE[:140]), Entry("DICOM/Icon\r")],
        {"macOS file": 4},
    ),
    "the icon of a folder and its other half": ([Entry("Icon\r"), Entry("__MACOSX/._Icon\r", b"x")], {"macOS file": 2}),
    "an encrypted viewer": (
        [encrypted("viewer.exe", LONG), encrypted("X.app/Contents/MacOS/X", LONG), encrypted("note", b"too short to be DICOM")],
        {"encrypted file that is no image": 3},
    ),
    "members of other methods": (
        [Entry("a.dll", LONG, LZMA), Entry("b.jpg", LONG, DEFLATE64), Entry("__MACOSX/c", LONG, ZSTANDARD)],
        {"file of another compression that is no image": 3},
    ),
    "a damaged picture": ([Entry("a.jpg", LONG, STORED, crc=1)], {"damaged file that is no image": 1}),
    "a device that is named as a text": ([Entry("a.txt", mode=stat.S_IFCHR | 0o666)], {"device or pipe that is no image": 1}),
    "links of a viewer": (
        [
            link("V.app/Contents/Frameworks/X.framework/Versions/Current", "A"),
            link("V.app/Contents/Frameworks/Qt5.framework/Qt5", "Versions/Current/Qt5"),
            link("libz.so", "libz.so.1"),
            link("home", "/etc/passwd"),
        ],
        {"link": 4},
    ),
    "links to images that are in the zip": (
        [link("IM2", "DICOM/IM1"), link("DICOM/series2", "../DICOM"), link("a/IM3", "../DICOM/./IM1")],
        {"link": 3},
    ),
    "an encrypted link": ([link("latest", "secret", flags=1)], {"link": 1}),
    "zips that are none": (
        [Entry("VIEWER/help.zip"), Entry("VIEWER/data.zip", NOISE[:500]), Entry("__MACOSX/._a.zip", NOISE[:100])],
        {"zip inside that is none": 2, "macOS file": 1},
    ),
    "an encrypted zip of a viewer": ([Entry("VIEWER/app.zip", LOCKED)], {"encrypted file that is no image": 2}),
    "a zip of a viewer with a zip in it": ([Entry("VIEWER/app.zip", TWO_DEEP)], {"no DICOM": 3}),
    "documents and programs that are built as zips": (
        [Entry("report.docx", BROKEN_ZIP), Entry("viewer.jar", LOCKED_IMAGES)],
        {"no DICOM": 2},
    ),
    "archives in the folder of a program": (
        [Entry("VIEWER/data.rar", RAR), Entry("VIEWER/data.zip", RAR), Entry("X/jre/lib/rt.7z", SEVEN_Z), Entry("plugins/b", DISC)],
        {"archive of a program": 4},
    ),
    "a gzip of something else": (
        [Entry("mask.nii.gz", gzip.compress(NOISE)), Entry("log.gz", gzip.compress(b"a line")), Entry("icons.svgz", gzip.compress(LONG))],
        {"no DICOM": 3},
    ),
}


def unpacked(upload: bytes, folder: Path, limits: IntakeLimits = SMALL) -> Unpacked:
    (folder / "u").mkdir()
    (folder / "upload.zip").write_bytes(upload)
    found = unpack(folder / "upload.zip", folder / "u", limits)
    assert [path.read_bytes() for path in sorted((folder / "u").iterdir())] == [DICOM] * found.files
    return found


@pytest.mark.parametrize("case", PASSED_OVER)
@pytest.mark.parametrize("first", [True, False], ids=["before the study", "behind the study"])
def test_what_is_no_image_is_passed_over_and_counted(case: str, first: bool, tmp_path: Path) -> None:
    entries, counts = PASSED_OVER[case]
    found = unpacked(raw_zip(*entries, GOOD) if first else raw_zip(GOOD, *entries), tmp_path)
    assert found == Unpacked(1, counts)


def test_content_decides_whatever_a_file_is_called(tmp_path: Path) -> None:
    names = ["a.jpg", "b.zip", "V.app/c.dll", "__MACOSX/._d", "Icon\r", "Thumbs.db"]
    assert unpacked(raw_zip(*(Entry(name, DICOM) for name in names)), tmp_path).files == len(names)


def test_entries_of_the_same_name_are_all_taken(tmp_path: Path) -> None:
    assert unpacked(raw_zip(GOOD, GOOD, GOOD), tmp_path).files == 3


def test_a_zip_without_extension_is_opened_as_one_with(tmp_path: Path) -> None:
    assert unpacked(raw_zip(Entry("STUDY2", raw_zip(GOOD, GOOD)), GOOD), tmp_path).files == 3


MAYBE_A_PART: dict[str, tuple[Entry, Code]] = {
    "an encrypted file without extension": (encrypted("IM2", LONG), Code.ZIP_ENCRYPTED),
    "an encrypted file with a number": (encrypted("1.2.840.5", LONG), Code.ZIP_ENCRYPTED),
    "an encrypted zip": (encrypted("study.zip", LONG), Code.ZIP_ENCRYPTED),
    "an encrypted image in a folder of a viewer": (encrypted("VIEWER/IM2", LONG), Code.ZIP_ENCRYPTED),
    "an image of another method": (Entry("IM2.dcm", LONG, ZSTANDARD), Code.ZIP_COMPRESSION),
    "a damaged image": (Entry("IM2.dcm", LONG, STORED, crc=1), Code.ZIP_DAMAGED),
    "an image that is said to be empty": (Entry("IM2.dcm", b"", STORED, crc=1), Code.ZIP_DAMAGED),
    "a pipe without extension": (Entry("IM2", mode=stat.S_IFIFO | 0o644), Code.ZIP_LINK),
    "a file that claims to be a device": (Entry("a.jpg", DICOM, mode=stat.S_IFCHR | 0o666), Code.ZIP_LINK),
    "a file that claims to be a link": (Entry("a.jpg", DICOM, mode=stat.S_IFLNK | 0o777), Code.ZIP_LINK),
    "a long encrypted file that claims to be a link": (Entry("a", b"x" * 5000, STORED, 1, stat.S_IFLNK | 0o777), Code.ZIP_LINK),
    "a link to an image elsewhere": (link("IM2", "/data/IM2"), Code.ZIP_LINK),
    "a link to a store of images": (link("second", ".git/annex/objects/a7/s512.dcm"), Code.ZIP_LINK),
    "a link to a series elsewhere": (link("SER2", "../study2"), Code.ZIP_LINK),
    "an encrypted link to an image": (link("IM2", "DICOM/IM1", flags=1), Code.ZIP_LINK),
    "images in an encrypted zip": (Entry("VIEWER/study.zip", LOCKED_IMAGES), Code.ZIP_ENCRYPTED),
    "a zip that is broken": (Entry("study.zip", BROKEN_ZIP), Code.ZIP_TRUNCATED),
    "a zip whose table of contents is broken": (Entry("s.zip", raw_zip(GOOD).replace(b"PK\x01\x02", b"PK\x09\x09")), Code.ZIP_DAMAGED),
    "a part of a split zip": (Entry("study.z01", b"PK\x07\x08" + raw_zip(GOOD)[:100]), Code.ZIP_SPLIT),
    "images in a zip too deep": (Entry("a.zip", raw_zip(Entry("b.zip", raw_zip(GOOD)))), Code.ZIP_NESTED),
    "a zip three deep": (Entry("a.zip", raw_zip(Entry("b.zip", raw_zip(Entry("c.zip", raw_zip(Entry("d.txt"))))))), Code.ZIP_NESTED),
    "an encrypted file in a zip too deep": (Entry("a.zip", raw_zip(Entry("b.zip", LOCKED_IMAGES))), Code.ZIP_ENCRYPTED),
    "an image compressed once more": (Entry("IM2.dcm.gz", gzip.compress(DICOM)), Code.ZIP_NESTED),
    "a data set compressed once more": (Entry("IM2.gz", gzip.compress(raw_dicom.dataset())), Code.ZIP_NESTED),
    "a tar": (Entry("series2.tar", tar("IM2", DICOM)), Code.ZIP_NESTED),
    "a tar.gz": (Entry("series2.tgz", gzip.compress(tar("IM2", DICOM))), Code.ZIP_NESTED),
    "a gzip that cannot be read": (Entry("IM2.gz", gzip.compress(DICOM)[:12] + b"\xff" * 60), Code.ZIP_NESTED),
    "a 7z": (Entry("series2.7z", SEVEN_Z), Code.ZIP_NESTED),
    "an image packed by compress": (Entry("IM2.Z", b"\x1f\x9d\x90" + NOISE[:500]), Code.ZIP_NESTED),
    "an image packed by LZ4": (Entry("IM2.dcm.lz4", b"\x04\x22\x4d\x18" + NOISE[:500]), Code.ZIP_NESTED),
    "a tar packed by lzip": (Entry("series2.tar.lz", b"LZIP\x01" + NOISE[:500]), Code.ZIP_NESTED),
    "an ALZ": (Entry("series2.alz", b"ALZ\x01" + NOISE[:500]), Code.ZIP_NESTED),
    "an EGG": (Entry("series2.egg", b"EGGA" + NOISE[:500]), Code.ZIP_NESTED),
    "a RAR named zip": (Entry("series2.zip", RAR), Code.ZIP_NESTED),
    "a disc image": (Entry("cd.iso", DISC), Code.ZIP_NESTED),
    "DICOM without preamble": (Entry("readme.txt", raw_dicom.dataset()), Code.DICOM_HEADLESS),
}


@pytest.mark.parametrize("case", MAYBE_A_PART)
def test_what_may_be_a_part_of_the_study_stops_the_upload(case: str, tmp_path: Path) -> None:
    entry, code = MAYBE_A_PART[case]
    with pytest.raises(RefusedError) as refused:
        unpacked(raw_zip(GOOD, entry), tmp_path)
    assert refused.value.code is code
    assert "inside" in refused.value.cause or not entry.name.endswith((".zip", "z01")) or entry.flags


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([encrypted("a.exe", LONG), Entry("readme.txt", b"hi")], Code.ZIP_ENCRYPTED),
        ([Entry("a.exe", LONG, LZMA)], Code.ZIP_COMPRESSION),
        ([Entry("a.jpg", LONG, STORED, crc=1)], Code.ZIP_DAMAGED),
        ([link("a", "b"), link("c", "d")], Code.ZIP_LINK),
        ([link("a", "b"), Entry("readme.txt", b"hi")], Code.NO_DICOM),
        ([Entry("VIEWER/a.7z", SEVEN_Z)], Code.ZIP_NESTED),
        ([Entry("a.zip", NOISE[:500])], Code.NO_DICOM),
    ],
    ids=["encrypted", "another method", "damaged", "links alone", "links and a text", "an archive", "a zip that is none"],
)
def test_an_upload_of_which_nothing_is_left_is_refused_by_the_most_telling_reason(entries: list[Entry], code: Code, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        unpacked(raw_zip(*entries), tmp_path)
    assert refused.value.code is code


def test_an_upload_without_dicom_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"None of the 3 files in the upload is DICOM \(1 empty file, 2 no DICOM\)"):
        unpacked(raw_zip(Entry("a.txt", b"x"), Entry("b.pdf", b"%PDF"), Entry("c")), tmp_path)


# --------------------------------------------------------------------------------------------------------------- where a zip ends

READ_WELL: dict[str, Callable[[bytes], bytes]] = {
    "NULs behind its end": lambda good: good + bytes(100_000),
    "other bytes behind its end": lambda good: good + NOISE,
    "a program before it": lambda good: b"MZ" + NOISE + good,
    "a comment that holds the mark of an end": lambda good: raw_zip(
        GOOD, comment=b"x" * 10 + b"PK\x05\x06 and so on, for more than 22 bytes"
    ),
    "a comment that holds an empty zip": lambda good: raw_zip(GOOD, comment=raw_zip()),
    "a comment that was cut off": lambda good: raw_zip(GOOD, comment=b"a comment")[:-4],
    "the mark of a zip that was meant to be split": lambda good: b"PK00" + good,
}


@pytest.mark.parametrize("case", READ_WELL)
def test_the_one_true_end_of_a_zip_is_found(case: str, tmp_path: Path) -> None:
    assert unpacked(READ_WELL[case](raw_zip(GOOD)), tmp_path) == Unpacked(1, {})


def cut_behind_its_zip() -> bytes:
    whole = raw_zip(GOOD, Entry("in.zip", raw_zip(GOOD), STORED), GOOD)
    return whole[: whole.index(b"PK\x05\x06") + 25]


SAID: dict[str, tuple[Callable[[], bytes], Code, str]] = {
    "a split zip's first part": (lambda: b"PK\x07\x08" + raw_zip(GOOD)[:-30], Code.ZIP_SPLIT, "one part of a zip that was split"),
    "a split zip's last part": (lambda: raw_zip(GOOD, disk=2), Code.ZIP_SPLIT, "one part of a zip that was split"),
    "far too much behind its end": (lambda: raw_zip(GOOD) + bytes(2 << 20), Code.ZIP_TRUNCATED, "more than 1 MiB behind it"),
    "another zip behind it, cut off": (lambda: raw_zip(GOOD) + raw_zip(GOOD)[:-40], Code.ZIP_DAMAGED, "another zip"),
    "another zip before it": (lambda: raw_zip(GOOD) + raw_zip(GOOD), Code.ZIP_DAMAGED, "does not list"),
    "cut off behind a stored zip inside": (cut_behind_its_zip, Code.ZIP_DAMAGED, "does not list"),
    "Deflate64": (lambda: raw_zip(Entry("IM1", LONG, DEFLATE64)), Code.ZIP_COMPRESSION, "Deflate64 .* Windows Explorer"),
    "a DICOM file": (lambda: DICOM, Code.NOT_A_ZIP, "is a single DICOM file"),
    "a 7z": (lambda: SEVEN_Z, Code.NOT_A_ZIP, "is a 7z archive"),
    "a RAR": (lambda: RAR, Code.NOT_A_ZIP, "is a RAR archive"),
    "a tar": (lambda: tar("IM1", DICOM), Code.NOT_A_ZIP, "is a tar archive"),
    "a tar.gz": (lambda: gzip.compress(tar("IM1", DICOM)), Code.NOT_A_ZIP, r"is a gzip file \(.gz, .tar.gz\)"),
    "a disc image": (lambda: DISC, Code.NOT_A_ZIP, "is a disc image"),
    "a text": (lambda: b"hello", Code.NOT_A_ZIP, "is no zip"),
    "no files": (raw_zip, Code.NO_DICOM, "holds no files"),
}


@pytest.mark.parametrize("case", SAID)
def test_a_refusal_says_what_the_upload_is(case: str, tmp_path: Path) -> None:
    make, code, words = SAID[case]
    with pytest.raises(RefusedError, match=words) as refused:
        unpacked(make(), tmp_path, IntakeLimits())
    assert refused.value.code is code


def test_a_comment_full_of_ends_costs_little(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="zip_damaged"):
        unpacked(raw_zip(GOOD, comment=b"PK\x05\x06" * 16_000), tmp_path)


# ------------------------------------------------------------------------------------------------------------------------- a folder


def test_a_folder_keeps_its_dicom_files_and_drops_the_rest(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(DICOM)
    (tmp_path / "2").write_bytes(b"notes")
    assert keep_dicom(sorted(tmp_path.iterdir())) == Unpacked(1, {"no DICOM": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


FOLDER: dict[str, tuple[bytes, Code | dict[str, int]]] = {
    "a report": (b"%PDF", {"no DICOM": 1}),
    "an empty file": (b"", {"empty file": 1}),
    "a document that is built as a zip": (raw_zip(Entry("word.xml", b"<x/>"), Entry("LICENSE", b"MIT")), {"no DICOM": 2}),
    "a mask": (gzip.compress(NOISE), {"no DICOM": 1}),
    "a zip of images": (raw_zip(GOOD), Code.ZIP_NESTED),
    "a 7z": (SEVEN_Z, Code.ZIP_NESTED),
    "an image compressed once more": (gzip.compress(DICOM), Code.ZIP_NESTED),
    "a data set without preamble": (raw_dicom.dataset(), Code.DICOM_HEADLESS),
}


@pytest.mark.parametrize("case", FOLDER)
def test_a_folder_is_judged_by_what_its_files_hold(case: str, tmp_path: Path) -> None:
    content, end = FOLDER[case]
    (tmp_path / "1").write_bytes(DICOM)
    (tmp_path / "2").write_bytes(content)
    files = sorted(tmp_path.iterdir())
    if isinstance(end, Code):
        with pytest.raises(RefusedError) as refused:
            keep_dicom(files)
        assert refused.value.code is end
    else:
        assert keep_dicom(files) == Unpacked(1, end)
        assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "2").write_bytes(b"notes")
    with pytest.raises(RefusedError, match="no_dicom"):
        keep_dicom([tmp_path / "2"])


def test_the_size_alone_refuses_before_anything_is_downloaded() -> None:
    with pytest.raises(RefusedError, match="upload_too_large"):
        check_size((1 << 20) + 1, SMALL)
    with pytest.raises(RefusedError, match="empty_upload"):
        check_size(0, SMALL)


def test_a_nearly_full_disk_is_met_before_it_fills_and_is_not_the_uploads_fault(tmp_path: Path) -> None:
    archive = tmp_path / "upload.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("1.dcm", bytes(128) + b"DICM" + bytes(100_000))
    with pytest.raises(FailedError, match="disk_full"):
        unpack(archive, tmp_path, with_free_space(SMALL, 100_000))
    assert with_free_space(SMALL, 1 << 20).disk_bytes == (1 << 20) * 9 // 10


# --------------------------------------------------------------------------------------------------------- from the bucket to the host


class Bucket:
    """What ``originals.fetch`` asks of a bucket: one marker, and what else lies there."""

    now = datetime(2026, 1, 2, tzinfo=UTC)

    def __init__(self, contents: dict[str, bytes]):
        self.contents = contents

    def list(self, prefix: str) -> list[StoredObject]:
        return [StoredObject(key, "e", len(body), self.now) for key, body in self.contents.items() if key.startswith(prefix)]

    def download(self, key: str, version: str, etag: str, target: Path) -> int:
        return target.write_bytes(self.contents[key])

    def read(self, key: str) -> str | None:
        return self.contents[key].decode() if key in self.contents else None

    def put_once(self, key: str, text: str) -> bool:
        return self.contents.setdefault(key, text.encode()) == text.encode()


@pytest.mark.parametrize("kind", [Kind.ZIP, Kind.FOLDER])
def test_what_was_passed_over_is_told_with_the_files(kind: Kind, tmp_path: Path) -> None:
    files = {"input/f/1": DICOM, "input/f/2": b"%PDF", "input/f/_READY": b""}
    contents = files if kind is Kind.FOLDER else {"input/a.zip": raw_zip(GOOD, Entry("a.pdf", b"%PDF"))}
    key = "input/f/_READY" if kind is Kind.FOLDER else "input/a.zip"
    message = JobMessage.for_object(bucket="b", key=key, version="", etag="e", size=len(contents[key]))
    uploaded = sum(map(len, contents.values()))
    found = fetch(cast(Store, Bucket(contents)), message, kind, tmp_path, SMALL)
    assert [path.read_bytes() for path in found.files] == [DICOM]
    assert found.passed_over == {"no DICOM": 1}
    assert found.bytes == uploaded
