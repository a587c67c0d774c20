"""Every kind of bad upload, through the real intake: each ends with its own code, within limits, and names nobody."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from monai_aws_pipeline.host_agent.errors import REMEDIES, Code, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import Study, read_instance, read_studies
from monai_aws_pipeline.host_agent.intake.dicom_structure import StructureLimits, structure_of
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits, looks_like_dicom, unpack
from tests.fuzz.intake import run as run_fuzzer
from tests.support.raw_dicom import (
    BIG_ENDIAN,
    DEFLATED,
    DIRECTORY,
    EXPLICIT,
    FRAMES,
    IMPLICIT,
    ITEM,
    JPEG,
    JPEG_2000,
    JPEG_LS,
    PATIENT_ID,
    PIXELS,
    RLE,
    ROWS,
    SECRETS,
    SERIES_UID,
    SOP_UID,
    STUDY_UID,
    UNDEFINED,
    dataset,
    deflated,
    element,
    fragments,
    instance,
    item,
    meta,
    nested,
    text,
    us,
)  # fmt: skip

END = element(0xFFFEE0DD, b"", b"")
LIMITS = IntakeLimits(upload_bytes=4 << 20, unpacked_bytes=8 << 20, files=200, ratio=100, ratio_from=2 << 20)
GOOD = instance()
DATA_SET = dataset()
"""Neither preamble nor file meta information, as it goes over the wire."""
SYMLINK, DEVICE, FIFO = stat.S_IFLNK | 0o777, stat.S_IFBLK | 0o660, stat.S_IFIFO | 0o644


def zipped(*members: bytes, **named: bytes) -> bytes:
    return archive({f"{number}.dcm": member for number, member in enumerate(members)} | named)


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return target.getvalue()


def special(mode: int, content: bytes = b"/etc/shadow") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as opened:
        entry = zipfile.ZipInfo("a.dcm")
        entry.external_attr = mode << 16
        opened.writestr(entry, content)
        opened.writestr("b.dcm", GOOD)
    return target.getvalue()


def renamed(raw: bytes, *, utf8: bool = False) -> bytes:
    """A zip whose one entry has exactly these bytes for a name."""
    whole = bytearray(archive({"N" * len(raw): GOOD}).replace(b"N" * len(raw), raw))
    if utf8:
        for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = whole.index(signature) + at
            whole[start : start + 2] = struct.pack("<H", 0x800)
    return bytes(whole)


def encrypted() -> bytes:
    whole = bytearray(zipped(GOOD))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + at] |= 1
    return bytes(whole)


def overlapping(times: int) -> bytes:
    """One entry's bytes, listed many times in the table of contents: a bomb without a suspicious ratio in any entry."""
    whole = zipped(GOOD + zlib.compress(os.urandom(1 << 16)))
    at = whole.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", whole, at + 12)
    directory = whole[start : start + size] * times
    return whole[:start] + directory + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, times, times, len(directory), start, 0)


def hidden_zip64() -> bytes:
    """Two zip64 records that disagree: the one the locator names is harmless, the one before the locator asks for millions of entries."""
    whole = zipped(GOOD)
    at = whole.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", whole, at + 12)
    harmless, greedy = (struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, n, n, size, start) for n in (1, 10**8))
    end = whole[at : at + 8] + b"\xff" * 12 + whole[at + 20 :]
    return whole[:at] + harmless + greedy + struct.pack("<IIQI", 0x07064B50, 0, at, 1) + end


def honest_zip64() -> bytes:
    """A zip whose counts stand in its zip64 record alone, as in one of more than 65535 files."""
    whole = zipped(GOOD)
    at = whole.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", whole, at + 12)
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 1, 1, size, start)
    return whole[:at] + record + struct.pack("<IIQI", 0x07064B50, 0, at, 1) + whole[at : at + 8] + b"\xff" * 12 + whole[at + 20 :]


def cut(content: bytes, left: int) -> bytes:
    return zipped(content[:left])


def with_element(encoded: bytes, tag: int = 0x00091001) -> bytes:
    return zipped(instance(extra={tag: encoded}))


def compressed(syntax: str, *parts: bytes, end: bool = True, **changes: bytes) -> bytes:
    return zipped(
        instance({int(tag, 16): value for tag, value in changes.items()}, syntax=syntax, extra={PIXELS: fragments(*parts, end=end)})
    )


def changed(tag: int, value: bytes | None) -> bytes:
    return zipped(instance({tag: value}))


def private_bomb() -> bytes:
    return zipped(meta(EXPLICIT) + b"".join(element(0x00091000 + n % 256, b"LO", b"%4d" % n) * 8 for n in range(65_000)))


MANY = 300
BAD: dict[str, tuple[Callable[[], bytes], Code]] = {
    # the upload
    "zero bytes": (lambda: b"", Code.EMPTY_UPLOAD),
    "a single DICOM file named .zip": (lambda: GOOD, Code.NOT_A_ZIP),
    "a gzip": (lambda: b"\x1f\x8b\x08" + GOOD, Code.NOT_A_ZIP),
    "larger than allowed": (lambda: b"PK" + bytes(5 << 20), Code.UPLOAD_TOO_LARGE),
    "the first half of a zip": (lambda: zipped(GOOD, GOOD)[:300], Code.ZIP_TRUNCATED),
    "a zip that lost its first half": (lambda: zipped(GOOD, GOOD)[300:], Code.ZIP_DAMAGED),
    "a zip whose middle was overwritten": (lambda: archive({"a.dcm": GOOD}, 0).replace(b"MONOCHROME2", b"MONOCHROME3"), Code.ZIP_DAMAGED),
    "no entries": (lambda: archive({}), Code.NO_DICOM),
    "pictures and texts only": (lambda: archive({"a.png": b"\x89PNG", "b.txt": b"b"}), Code.NO_DICOM),
    "a DICOMDIR alone": (lambda: archive({"DICOMDIR": meta(EXPLICIT, DIRECTORY)}), Code.NO_DICOM),
    "DICOM without its preamble": (lambda: zipped(GOOD[132:]), Code.DICOM_HEADLESS),
    "DICOM without its preamble beside whole ones": (lambda: zipped(GOOD, b"a report", GOOD[132:]), Code.DICOM_HEADLESS),
    "a data set alone beside whole ones": (lambda: zipped(GOOD, DATA_SET), Code.DICOM_HEADLESS),
    # names
    "a name that climbs out": (lambda: archive({"../a.dcm": GOOD}), Code.ZIP_UNSAFE_NAME),
    "a name that climbs out in the Windows way": (lambda: archive({"..\\a.dcm": GOOD}), Code.ZIP_UNSAFE_NAME),
    "a name that climbs out behind a folder": (lambda: archive({"a/b/../../../c.dcm": GOOD}), Code.ZIP_UNSAFE_NAME),
    "an absolute name": (lambda: archive({"/etc/cron.d/a.dcm": GOOD}), Code.ZIP_UNSAFE_NAME),
    "a drive": (lambda: archive({"C:\\a.dcm": GOOD}), Code.ZIP_UNSAFE_NAME),
    "a network share": (lambda: archive({"\\\\server\\a.dcm": GOOD}), Code.ZIP_UNSAFE_NAME),
    "an empty name": (lambda: renamed(b"/"), Code.ZIP_UNSAFE_NAME),
    "a name with a line break": (lambda: archive({"a\nMustermann.dcm": GOOD}), Code.ZIP_UNSAFE_NAME),
    "a name with an escape sequence": (lambda: archive({"\x1b[2Ja.dcm": GOOD}), Code.ZIP_UNSAFE_NAME),
    "a name with a NUL": (lambda: renamed(b"a\0b.dcm"), Code.ZIP_UNSAFE_NAME),
    "a name of 60000 characters": (lambda: archive({"a" * 60000: GOOD}), Code.ZIP_UNSAFE_NAME),
    "a name that says UTF-8 and is not": (lambda: renamed(b"M\xfcller.dcm", utf8=True), Code.ZIP_DAMAGED),
    # entries that are no files
    "a symbolic link": (lambda: special(SYMLINK), Code.ZIP_LINK),
    "a symbolic link out of the folder": (lambda: special(SYMLINK, b"../../etc"), Code.ZIP_LINK),
    "a device": (lambda: special(DEVICE), Code.ZIP_LINK),
    "a pipe": (lambda: special(FIFO), Code.ZIP_LINK),
    "a password": (encrypted, Code.ZIP_ENCRYPTED),
    "LZMA": (lambda: archive({"a.dcm": GOOD}, zipfile.ZIP_LZMA), Code.ZIP_COMPRESSION),
    "bzip2, a bomb in 4 KiB": (lambda: archive({"a.dcm": GOOD + bytes(1 << 20)}, zipfile.ZIP_BZIP2), Code.ZIP_COMPRESSION),
    # bombs
    "a bomb of zeros": (lambda: zipped(GOOD + bytes(5 << 20)), Code.ZIP_RATIO),
    "a bomb in a zip in a zip": (lambda: archive({"in.zip": zipped(GOOD + bytes(5 << 20))}), Code.ZIP_RATIO),
    "more than may be unpacked": (lambda: zipped(*[GOOD + os.urandom(30 << 10) + bytes(1 << 20)] * 9), Code.ZIP_TOO_LARGE),
    "entries that share their bytes": (lambda: overlapping(150), Code.ZIP_OVERLAP),
    "a zip in a zip in a zip": (lambda: archive({"a.zip": archive({"b.zip": zipped(GOOD)})}), Code.ZIP_NESTED),
    "too many files": (lambda: archive({str(n): b"" for n in range(MANY)}), Code.ZIP_TOO_MANY_FILES),
    "too many files over two zips": (
        lambda: archive({f"{n}.zip": archive({str(m): b"" for m in range(150)}) for n in range(2)}),
        Code.ZIP_TOO_MANY_FILES,
    ),
    "two tables of contents that disagree": (hidden_zip64, Code.ZIP_TOO_MANY_FILES),
    "a deflated dataset that inflates without end": (lambda: zipped(meta(DEFLATED) + deflated(bytes(257 << 20))), Code.DICOM_TOO_LARGE),
    "half a million private elements": (private_bomb, Code.DICOM_TOO_COMPLEX),
    "sequences nested 5000 deep": (lambda: with_element(nested(5000), 0x00081140), Code.DICOM_TOO_COMPLEX),
    "an image of 65535 by 65535 in ten bytes": (
        lambda: compressed(RLE, b"0123456789", **{hex(ROWS): us(65535), hex(ROWS + 1): us(65535)}),
        Code.DICOM_TOO_LARGE,
    ),
    # a DICOM file that is cut off
    "cut within the preamble's end": (lambda: cut(GOOD, 132), Code.DICOM_INCOMPLETE),
    "cut within the meta information": (lambda: cut(GOOD, 150), Code.DICOM_TRUNCATED),
    "cut within the header": (lambda: cut(GOOD, 300), Code.DICOM_TRUNCATED),
    "cut before the pixels": (lambda: zipped(instance({PIXELS: None})), Code.DICOM_TRUNCATED),
    "cut within the pixels": (lambda: cut(GOOD, len(GOOD) - 20), Code.DICOM_TRUNCATED),
    "pixels fewer than rows and columns say": (lambda: changed(PIXELS, bytes(60)), Code.DICOM_TRUNCATED),
    "pixels fewer than the frames say": (lambda: changed(FRAMES, b"20"), Code.DICOM_TRUNCATED),
    "deflated and cut": (lambda: cut(instance(syntax=DEFLATED), 300), Code.DICOM_TRUNCATED),
    "JPEG-LS cut within a fragment": (
        lambda: cut(instance(syntax=JPEG_LS, extra={PIXELS: fragments(b"x" * 90)}), -40),
        Code.DICOM_TRUNCATED,
    ),
    "JPEG 2000 without its last delimiter": (lambda: compressed(JPEG_2000, b"x" * 90, end=False), Code.DICOM_TRUNCATED),
    "RLE with fewer frames than it says": (lambda: compressed(RLE, b"x" * 90, **{hex(FRAMES): b"3 "}), Code.DICOM_TRUNCATED),
    "JPEG without any fragment": (lambda: compressed(JPEG), Code.DICOM_TRUNCATED),
    "a sequence without its end": (
        lambda: zipped(meta(EXPLICIT) + dataset({PIXELS: None}) + element(0x30060010, b"SQ", item(b""), UNDEFINED)),
        Code.DICOM_TRUNCATED,
    ),
    "an element of 4 GB": (lambda: with_element(element(0x00091001, b"OB", b"", 0xFFFFFFF0)), Code.DICOM_TRUNCATED),
    # a DICOM file that is built wrongly
    "an item longer than its sequence": (
        lambda: with_element(element(0x00081140, b"SQ", item(b"12345678", 900)), 0x00081140),
        Code.DICOM_DAMAGED,
    ),
    "an element longer than its item": (
        lambda: with_element(element(0x00081140, b"SQ", item(element(0x00080060, b"CS", b"MR", 900))), 0x00081140),
        Code.DICOM_DAMAGED,
    ),
    "an item outside of any sequence": (lambda: with_element(item(b""), 0x00091001), Code.DICOM_DAMAGED),
    "a value representation that does not exist": (lambda: with_element(element(0x00091001, b"ZZ", b"12")), Code.DICOM_DAMAGED),
    "fragments that are none": (
        lambda: zipped(instance(syntax=RLE, extra={PIXELS: element(PIXELS, b"OB", b"not a fragment", UNDEFINED)})),
        Code.DICOM_DAMAGED,
    ),
    "a fragment without a length": (
        lambda: zipped(instance(syntax=RLE, extra={PIXELS: element(PIXELS, b"OB", element(ITEM, b"", b"1234", UNDEFINED), UNDEFINED)})),
        Code.DICOM_DAMAGED,
    ),
    "a deflated dataset that is not": (lambda: zipped(meta(DEFLATED) + b"\xff" * 300), Code.DICOM_DAMAGED),
    "a study UID twice": (
        lambda: with_element(element(STUDY_UID, b"UI", b"2.25.9\0\0") + element(STUDY_UID, b"UI", b"2.25.8\0\0"), STUDY_UID),
        Code.DICOM_DAMAGED,
    ),
    "a second study UID behind the pixels": (lambda: zipped(GOOD + element(STUDY_UID, b"UI", b"2.25.9\0\0")), Code.DICOM_DAMAGED),
    "other pixels behind the pixels": (lambda: zipped(GOOD + element(PIXELS, b"OW", bytes(128))), Code.DICOM_DAMAGED),
    "other rows behind padding behind the pixels": (
        lambda: zipped(GOOD + element(0xFFFCFFFC, b"OB", bytes(100)) + element(ROWS, b"US", us(4))),
        Code.DICOM_DAMAGED,
    ),
    "another file behind the pixels": (lambda: zipped(GOOD + instance(number=2)), Code.DICOM_DAMAGED),
    "another data set behind compressed pixels": (
        lambda: zipped(instance(syntax=RLE, extra={PIXELS: fragments(bytes(90))}) + dataset(number=2)),
        Code.DICOM_DAMAGED,
    ),
    "rows in words": (lambda: with_element(element(ROWS, b"LO", b"many"), ROWS), Code.DICOM_DAMAGED),
    "frames in words": (lambda: changed(FRAMES, b"Erika "), Code.DICOM_DAMAGED),
    "a study UID of 60 kB": (lambda: changed(STUDY_UID, b"1." * 30000), Code.DICOM_DAMAGED),
    # identity
    "no transfer syntax": (lambda: zipped(GOOD[:132] + GOOD[GOOD.index(b"\x08\0\x16\0") :]), Code.DICOM_INCOMPLETE),
    "no StudyInstanceUID": (lambda: changed(STUDY_UID, None), Code.DICOM_INCOMPLETE),
    "an empty StudyInstanceUID": (lambda: changed(STUDY_UID, b""), Code.DICOM_INCOMPLETE),
    "no SeriesInstanceUID": (lambda: changed(SERIES_UID, None), Code.DICOM_INCOMPLETE),
    "no SOPInstanceUID": (lambda: changed(SOP_UID, None), Code.DICOM_INCOMPLETE),
    "nothing but meta information": (lambda: zipped(meta(EXPLICIT)), Code.DICOM_INCOMPLETE),
    "a name for a study UID": (lambda: changed(STUDY_UID, text("Mustermann^Erika")), Code.DICOM_BAD_UID),
    "a path for a SOP UID": (lambda: changed(SOP_UID, text("../../etc/passwd")), Code.DICOM_BAD_UID),
    "a UID of 70 digits": (lambda: changed(SERIES_UID, text("1." + "2" * 68)), Code.DICOM_BAD_UID),
    "two study UIDs in one value": (lambda: changed(STUDY_UID, text("2.25.1\\2.25.2")), Code.DICOM_BAD_UID),
    "a study UID of the wrong value representation": (
        lambda: with_element(element(STUDY_UID, b"US", b"1.2.3.", 6), STUDY_UID),
        Code.DICOM_BAD_UID,
    ),
    "one SOPInstanceUID with two contents": (lambda: zipped(GOOD, instance({PIXELS: bytes(128)})), Code.INSTANCE_CONFLICT),
    "two patients in one study": (lambda: zipped(GOOD, instance({PATIENT_ID: b"OTHER1"}, number=2)), Code.STUDY_MIXED),
    "one series in two studies": (lambda: zipped(GOOD, instance({STUDY_UID: b"2.25.4712\0"}, number=2)), Code.STUDY_MIXED),
}


def taken_in(upload: bytes, folder: Path, limits: IntakeLimits = LIMITS) -> tuple[Study, ...]:
    """What the agent does with an upload before any MAP sees it."""
    (folder / "upload.zip").write_bytes(upload)
    (folder / "unpacked").mkdir()
    unpack(folder / "upload.zip", folder / "unpacked", limits)
    return read_studies(sorted((folder / "unpacked").glob("*.dcm")))


@pytest.mark.parametrize("case", BAD)
def test_a_bad_upload_ends_with_its_code_and_names_nobody(case: str, tmp_path: Path) -> None:
    make, code = BAD[case]
    upload = make()
    with pytest.raises(RefusedError) as refused:
        taken_in(upload, tmp_path, LIMITS)
    assert refused.value.code is code, refused.value.cause
    assert refused.value.remedy == REMEDIES[code]
    said = f"{refused.value} {refused.value.message}"
    assert not [secret for secret in SECRETS if secret in said]
    used = sum(path.stat().st_size for path in (tmp_path / "unpacked").rglob("*") if path.is_file())
    assert used <= LIMITS.unpacked_bytes
    assert {path.name for path in tmp_path.iterdir()} == {"upload.zip", "unpacked"}


BOMBS = [
    "a bomb of zeros",
    "more than may be unpacked",
    "entries that share their bytes",
    "two tables of contents that disagree",
    "bzip2, a bomb in 4 KiB",
    "LZMA",
    "half a million private elements",
    "sequences nested 5000 deep",
    "an element of 4 GB",
    "an image of 65535 by 65535 in ten bytes",
]
JUDGE = """
import resource, sys, tempfile
from pathlib import Path
from tests.unit.host_agent.intake.test_bad_inputs import RefusedError, taken_in
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (held + (96 << 20),) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    with tempfile.TemporaryDirectory() as folder:
        try:
            taken_in(path.read_bytes(), Path(folder))
        except RefusedError as refused:
            print(refused.code)
"""


def test_bombs_are_refused_within_96_mib_of_memory(tmp_path: Path) -> None:
    for number, name in enumerate(BOMBS):
        (tmp_path / f"{number:02d}").write_bytes(BAD[name][0]())
    judged = subprocess.run([sys.executable, "-c", JUDGE, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False)
    assert judged.returncode == 0, judged.stderr[-2000:]
    assert judged.stdout.split() == [BAD[name][1].value for name in BOMBS]


def test_a_deflated_bomb_is_refused_before_it_is_held_in_memory() -> None:
    bomb = meta(DEFLATED) + deflated(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(RefusedError, match="dicom_too_large"):
        structure_of(bomb, limits=StructureLimits(inflated_bytes=4 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("tag", [0x7FE00008, 0x7FE00009, PIXELS])
def test_the_walk_tells_which_element_holds_the_pixels(tag: int) -> None:
    pixels = element(tag, b"OW", bytes(64))
    assert structure_of(instance({PIXELS: None}, extra={tag: pixels})).pixel_tag == tag
    assert structure_of(instance({PIXELS: None})).pixel_tag == 0


def test_a_fragment_that_holds_the_end_of_fragments_is_counted_whole() -> None:
    found = structure_of(instance(syntax=JPEG_LS, extra={PIXELS: fragments(END * 3, b"x" * 90)}))
    assert (found.fragments, found.pixel_bytes) == (2, 3 * len(END) + 90)


def test_the_intake_takes_longer_than_it_may_and_ends(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="unpack_time"):
        taken_in(zipped(*[GOOD] * 50), tmp_path, replace(LIMITS, seconds=-1.0))


# --------------------------------------------------------------------------------------------------------------- what must be taken


GOOD_INPUTS: dict[str, tuple[Callable[[], bytes], int, int]] = {
    "implicit VR": (lambda: zipped(instance(syntax=IMPLICIT)), 1, 1),
    "big endian": (lambda: zipped(big_endian()), 1, 1),
    "deflated": (lambda: zipped(instance(syntax=DEFLATED)), 1, 1),
    "RLE": (lambda: compressed(RLE, b"x" * 90), 1, 1),
    "JPEG-LS": (lambda: compressed(JPEG_LS, b"x" * 90), 1, 1),
    "JPEG 2000 in several fragments": (lambda: compressed(JPEG_2000, b"x" * 90, b"y" * 20), 1, 1),
    "an identical instance twice": (lambda: zipped(GOOD, GOOD), 1, 1),
    "two studies": (lambda: zipped(GOOD, instance({STUDY_UID: b"2.25.4712\0", SERIES_UID: b"2.25.9\0\0"}, number=2)), 2, 2),
    "two patients in two studies": (
        lambda: zipped(GOOD, instance({STUDY_UID: b"2.25.4712\0", SERIES_UID: b"2.25.9\0\0", PATIENT_ID: b"OTHER1"}, number=2)),
        2,
        2,
    ),
    "an instance without a patient beside one with": (lambda: zipped(GOOD, instance({PATIENT_ID: b""}, number=2)), 1, 2),
    "a study UID twice, the same": (
        lambda: with_element(element(STUDY_UID, b"UI", b"2.25.9\0\0") * 2, STUDY_UID),
        1,
        1,
    ),
    "a broken DICOMDIR and everything a CD has": (
        lambda: archive(
            {
                "DICOMDIR": meta(EXPLICIT, DIRECTORY) + b"\x04\0\x20\x12SQ broken",
                "IMAGES/A1": GOOD,
                "autorun.inf": b"[x]",
                "viewer.exe": b"MZ" * 300,
            }
        ),
        1,
        1,
    ),
    "zip64": (honest_zip64, 1, 1),
    "a zip in a zip": (lambda: archive({"study.zip": zipped(GOOD), "b.dcm": instance(number=2)}), 1, 2),
    "a DOS name": (lambda: renamed(b"M\x81ller.dcm"), 1, 1),
    "NULs behind the last element": (lambda: zipped(report() + bytes(512)), 1, 1),
    "sequences nested as a report nests them": (lambda: zipped(instance(extra={0x00081140: nested(20)})), 1, 1),
    "an unknown sequence written as implicit VR": (
        lambda: with_element(element(0x00091001, b"UN", item(element(0x00080060, b"", b"MR", implicit=True)) + END, UNDEFINED)),
        1,
        1,
    ),
    "trailing padding behind the pixels": (lambda: zipped(GOOD + element(0xFFFCFFFC, b"OB", bytes(100))), 1, 1),
    "a signature behind the pixels": (lambda: zipped(GOOD + element(0xFFFAFFFA, b"SQ", item(b"") + END, UNDEFINED)), 1, 1),
    "bytes behind the pixels that are no elements": (lambda: zipped(GOOD + hashlib.sha512(b"any").digest() * 8), 1, 1),
    "a few bytes behind the pixels": (lambda: zipped(GOOD + b"\r\n"), 1, 1),
    "a fragment that holds the end of fragments": (lambda: compressed(JPEG_LS, b"\xff\xd8" + END + b"hello!" + bytes(60)), 1, 1),
    "a number of frames that is empty": (lambda: changed(FRAMES, b""), 1, 1),
}


def big_endian() -> bytes:
    values = {
        0x00080016: (b"UI", text("1.2.840.10008.5.1.4.1.1.4", "\0")),
        SOP_UID: (b"UI", b"2.25.1\0\0"),
        STUDY_UID: (b"UI", b"2.25.2\0\0"),
        SERIES_UID: (b"UI", b"2.25.3\0\0"),
        ROWS: (b"US", b"\0\2"),
        ROWS + 1: (b"US", b"\0\2"),
        0x00280100: (b"US", b"\0\x10"),
        PIXELS: (b"OW", bytes(8)),
    }
    return meta(BIG_ENDIAN) + b"".join(element(tag, vr, value, big=True) for tag, (vr, value) in values.items())


def report() -> bytes:
    """An object without pixels, as a structured report is."""
    left_out = {0x00280002, 0x00280004, ROWS, ROWS + 1, 0x00280030, 0x00280100, 0x00280101, 0x00280102, 0x00280103, PIXELS}
    return meta(EXPLICIT) + dataset({0x00080016: text("1.2.840.10008.5.1.4.1.1.88.11", "\0")} | dict.fromkeys(left_out))


def test_the_files_that_the_reference_reader_is_tested_with_are_judged_as_they_are() -> None:
    """pydicom ships files of many writers, among them broken ones. Everything with an identity and its pixels must be taken in."""
    refused: dict[str, Code] = {}
    taken = 0
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*.dcm")):
        with path.open("rb") as stream:
            if not looks_like_dicom(stream.read(132)):
                continue
        try:
            taken += read_instance(path) is not None
        except RefusedError as error:
            refused[path.name] = error.code
    assert taken > 60
    assert {name for name, code in refused.items() if code is Code.DICOM_TRUNCATED} == {
        "MR_truncated.dcm",
        "rtplan_truncated.dcm",
        *(f"chr{name}.dcm" for name in ("JapMulti", "JapMultiExplicitIR6", "KoreanMulti")),  # images whose pixels were taken out
    }
    assert {name: code for name, code in refused.items() if code not in (Code.DICOM_TRUNCATED, Code.DICOM_INCOMPLETE)} == {
        "badVR.dcm": Code.DICOM_DAMAGED  # its number of frames is "1A"
    }


@pytest.mark.parametrize("case", GOOD_INPUTS)
def test_a_good_upload_is_taken_in(case: str, tmp_path: Path) -> None:
    make, studies, instances = GOOD_INPUTS[case]
    found = taken_in(make(), tmp_path)
    assert (len(found), sum(len(study.instances) + len(study.companions) for study in found)) == (studies, instances)
    for item_ in (item_ for study in found for item_ in study.instances):
        data = pydicom.dcmread(item_.path)  # what an application would see
        assert (data.StudyInstanceUID, data.SOPInstanceUID) == (item_.study_uid, item_.sop_uid)


def test_a_short_run_of_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    outcome = run_fuzzer(20261, tmp_path / "job", lambda so_far: so_far.rounds < 700)
    assert outcome.findings == []
    assert outcome.ends["taken in"] > 20
    assert len(outcome.ends) > 8, "the mutations do not reach far enough"
