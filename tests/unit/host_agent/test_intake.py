"""What an upload may and may not be: hostile zips are refused with a code, honest ones unpacked, whatever their names."""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake import IntakeLimits, check_size, keep_dicom, unpack, with_free_space

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


def encrypted() -> bytes:
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
    "a password": (encrypted, Code.ZIP_ENCRYPTED),
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
    "a nested zip that is none": (lambda: zipped({"a.dcm": DICOM, "in.zip": b"nothing"}), Code.NOT_A_ZIP),
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
    count = unpack(tmp_path / "upload.zip", tmp_path / "u", SMALL)
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
    assert unpack(tmp_path / "upload.zip", tmp_path / "u") == 1


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
        assert unpack(tmp_path / "upload.zip", target, SMALL) >= 1
    except RefusedError as refused:
        assert refused.code in Code


def test_a_folder_keeps_its_dicom_files_and_drops_the_rest(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(DICOM)
    (tmp_path / "2").write_bytes(b"notes")
    assert keep_dicom(sorted(tmp_path.iterdir())) == 1
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
