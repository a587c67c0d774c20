"""How files become an upload: zips of every make, what else lies in them, folders, and what is no zip at all."""

from __future__ import annotations

import io
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, IncompatibleAxesError, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import Draft, saved, with_meta, zipped

KEY = "input/Zqplant Vaughnzq.zip"
Members = list[tuple[str, bytes]]


def _packed(draft: Draft, made: Callable[[Members], bytes], key: str = KEY) -> None:
    draft.pack = lambda members: [(key, made(members))]


def _among(draft: Draft, *members: tuple[str, bytes]) -> None:
    draft.members += members


# ------------------------------------------------------------------------------------------------------------------------ good zips


@axis("zip_deflated", Phase.PACKAGING, ANSWER)
def _deflated(draft: Draft) -> None:
    _packed(draft, lambda members: zipped(members, zipfile.ZIP_DEFLATED))


@axis("zip_in_a_zip", Phase.PACKAGING, ANSWER)
def _nested(draft: Draft) -> None:
    _packed(draft, lambda members: zipped([("readme.txt", b"hi zqplant"), ("Zqplant/study.zip", zipped(members))]))


@axis("two_zips_in_a_zip", Phase.PACKAGING, ANSWER)
def _two_nested(draft: Draft) -> None:
    _packed(draft, lambda members: zipped([("a.zip", zipped(members[::2])), ("b.zip", zipped(members[1::2]))]))


@axis("zip_streamed", Phase.PACKAGING, ANSWER)
def _streamed(draft: Draft) -> None:
    class Pipe(io.RawIOBase):
        """Written to and never looked back at."""

        def __init__(self) -> None:
            self.found = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.found += data
            return len(data)

    def made(members: Members) -> bytes:
        pipe = Pipe()
        with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return bytes(pipe.found)

    _packed(draft, made)


@axis("zip64", Phase.PACKAGING, ANSWER)
def _zip64(draft: Draft) -> None:
    def made(members: Members) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in members:
                with archive.open(name, "w", force_zip64=True) as target:
                    target.write(content)
        plain = stream.getvalue()
        at = plain.rfind(b"PK\5\6")
        count, size, offset = struct.unpack_from("<HII", plain, at + 10)
        end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
        return plain[:at] + end + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)

    _packed(draft, made)


@variants(
    "zip_{}",
    Phase.PACKAGING,
    ANSWER,
    {
        "self_extracting": lambda draft, plain: b"MZ" + draft.random.randbytes(60000) + plain,
        "with_data_behind": lambda draft, plain: plain + bytes(512),
    },
)
def _around(draft: Draft, made: Callable[[Draft, bytes], bytes]) -> None:
    _packed(draft, lambda members: made(draft, zipped(members)))


@axis("zip_with_much_behind", Phase.PACKAGING, either(Code.ZIP_TRUNCATED, Code.ZIP_DAMAGED, Code.NOT_A_ZIP))
def _much(draft: Draft) -> None:
    _packed(draft, lambda members: zipped(members) + bytes(100_000))


@axis("zip_comment_with_an_end_record", Phase.PACKAGING, either(Code.ZIP_DAMAGED, Code.ZIP_TRUNCATED, Code.ZIP_TOO_MANY_FILES))
def _comment(draft: Draft) -> None:
    _packed(draft, lambda members: zipped(members, comment=b"zqplant" + b"PK\5\6" + b"hello world, this is a comment of a zip"))


@variants(
    "zip_names_{}",
    Phase.PACKAGING,
    ANSWER,
    {
        "with_backslashes": lambda name, number: b"DICOM\\ZQPLANT VAUGHNZQ\\SER1\\IM%05d" % number,
        "in_cp437": lambda name, number: "Müllerzq/Bild%04d.dcm".encode("cp437") % number,
        "in_cp932": lambda name, number: "患者/山田太郎/画像%04d.dcm".encode("cp932") % number,
        "decomposed": lambda name, number: unicodedata.normalize("NFD", f"Müllerzq/{number}.dcm").encode(),
        "with_dots_and_slashes": lambda name, number: b"./a//IM%04d" % number,
        "equal": lambda name, number: b"Zqplant/IMG.dcm",
        "of_600_characters": lambda name, number: b"zqplant" * 80 + b"%d.dcm" % number,
    },
)
def _named(draft: Draft, name: Callable[[str, int], bytes]) -> None:
    _packed(draft, lambda members: raw_zip([Entry(name(old, number), content) for number, (old, content) in enumerate(members)]))


@axis("zip_with_folder_entries", Phase.PACKAGING, ANSWER)
def _folders(draft: Draft) -> None:
    _packed(
        draft, lambda members: raw_zip([Entry(b"./", b""), Entry(b"a/", b""), Entry(b"a/empty/", b""), *(_entry(each) for each in members)])
    )


# ---------------------------------------------------------------------------------------------------------------- what lies beside


@axis("macos_files_beside", Phase.PACKAGING, ANSWER, slot="beside")
def _macos(draft: Draft) -> None:
    _among(draft, ("Zqplant/.DS_Store", b"\0\0\0\1Bud1" + bytes(600)))
    for number in range(5):
        _among(draft, (f"__MACOSX/Zqplant/._IMG{number:04d}.dcm", b"\0\5\26\7\0\2\0\0Mac OS X        " + bytes(140)))


@axis("dicomdir_beside", Phase.PACKAGING, ANSWER, slot="beside")
def _dicomdir(draft: Draft) -> None:
    found = Dataset()
    found.SOPClassUID, found.SOPInstanceUID = "1.2.840.10008.1.3.10", draft.uid()
    with_meta(found, "1.2.840.10008.1.2.1")
    del found.SOPClassUID, found.SOPInstanceUID
    found.FileSetID, found.FileSetConsistencyFlag, found.DirectoryRecordSequence = "ZQ", 0, []
    found.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    found.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    _among(draft, ("DICOMDIR", saved(found)), ("autorun.inf", b"[autorun]\r\nopen=viewer.exe\r\n"), ("viewer.exe", b"MZ" + bytes(20000)))


@axis("small_files_beside", Phase.PACKAGING, ANSWER, slot="beside")
def _small(draft: Draft) -> None:
    _among(draft, ("a/zero", b""), ("a/one", b"x"), ("a/short", bytes(131)), ("a/Zqplant.txt", b"Zqplant\n"), ("a/zero.dcm", b""))


@axis("many_small_files_beside", Phase.PACKAGING, ANSWER, slot="beside")
def _many(draft: Draft) -> None:
    _among(draft, *((f"html/{number}.txt", b"x") for number in range(400)))


@variants(
    "viewer_with_{}",
    Phase.PACKAGING,
    ANSWER,
    {
        "empty_zip": b"",
        "false_zip": b"Rar!\x1a\7\1\0" + bytes(500),
        "nested_zip": zipped([("res.zip", zipped([("a.txt", b"hi")])), ("b.txt", b"x")]),
    },
    slot="beside",
)
def _viewer(draft: Draft, content: bytes) -> None:
    _among(draft, ("VIEWER/data.zip", content))


@axis("viewer_with_truncated_zip", Phase.PACKAGING, either(Code.ZIP_TRUNCATED), slot="beside")
def _truncated_viewer(draft: Draft) -> None:
    """What the missing part held cannot be known: it may be a part of the study."""
    _among(draft, ("VIEWER/data.zip", zipped([("a.txt", b"hello" * 100)])[:-30]))


@axis("viewer_with_encrypted_zip", Phase.PACKAGING, either(Code.ZIP_ENCRYPTED), slot="beside")
def _encrypted_viewer(draft: Draft) -> None:
    _among(draft, ("VIEWER/data.zip", raw_zip([Entry(b"a.exe", bytes(300), flags=1)])))


@variants(
    "viewer_with_{}",
    Phase.PACKAGING,
    either(Code.ZIP_ENCRYPTED, Code.ZIP_COMPRESSION, Code.ZIP_LINK),
    {"encrypted_member": {"flags": 1}, "lzma_member": {"method": 14}, "symlink": {"external": 0o120777 << 16}},
    slot="pack",
)
def _odd_member(draft: Draft, what: dict[str, int]) -> None:
    _packed(draft, lambda members: raw_zip([*(_entry(each) for each in members), Entry(b"VIEWER/lib.so", bytes(400), **what)]))


@axis("headless_file_beside", Phase.PACKAGING, refuse(Code.DICOM_HEADLESS), slot="beside")
def _headless(draft: Draft) -> None:
    """One slice lost its preamble."""
    draft.bytes_steps.append(lambda file, number: file[132:] if number == 3 else file)
    draft.main.truth.clear()


# ---------------------------------------------------------------------------------------------------------------------- other keys


@axis("folder", Phase.PACKAGING, ANSWER)
def _folder(draft: Draft) -> None:
    draft.pack = lambda members: _as_folder("input/Zqplant Vaughnzq ö'l;d/", members)


@axis("folder_with_junk", Phase.PACKAGING, ANSWER)
def _folder_junk(draft: Draft) -> None:
    junk = [("report.pdf", b"%PDF zqplant"), (".DS_Store", b"x"), ("SE 1/empty", b""), ("SE 1/", b"")]
    draft.pack = lambda members: _as_folder("input/zqplant-junk/", [*members, *junk])


@axis("folder_called_zip", Phase.PACKAGING, ANSWER)
def _folder_zip(draft: Draft) -> None:
    draft.pack = lambda members: _as_folder("input/zqplant.zip/", members)


def _as_folder(prefix: str, members: Members) -> list[tuple[str, bytes]]:
    found: dict[str, bytes] = {}
    for number, (name, content) in enumerate(members):
        if name.lower().endswith(".zip"):
            raise IncompatibleAxesError  # a zip in a folder is an upload of its own
        key = prefix + name
        found[key if key not in found else f"{key}-{number}"] = content
    return [*found.items(), (prefix + "_READY", b"now")]


@variants(
    "key_{}",
    Phase.PACKAGING,
    ANSWER,
    {
        "in_capitals": "input/ZQPLANT.ZIP",
        "in_a_folder": "input/zqplant/1961-02-03/study.zip",
        "with_odd_characters": "input/zqplant $(id)'\"#?&+%20;.zip",
        "in_another_script": "input/山田太郎zq.zip",
        "with_a_line_break": "input/zqplant\nvaughnzq.zip",
        "long": "input/" + "zqplant" * 120 + ".zip",
    },
)
def _key(draft: Draft, key: str) -> None:
    _packed(draft, zipped, key)


@variants(
    "object_that_is_{}",
    Phase.PACKAGING,
    refuse(Code.UPLOAD_TYPE),
    {
        "one_dicom_file": "input/zqplant.dcm",
        "a_7z": "input/zqplant.7z",
        "a_tar_gz": "input/zqplant.tar.gz",
        "without_extension": "input/Zqplant",
    },
)
def _no_upload(draft: Draft, key: str) -> None:
    draft.pack = lambda members: [(key, members[0][1])]
    draft.main.truth.clear()


# ------------------------------------------------------------------------------------------------------------------------ bad zips


@variants(
    "zip_{}",
    Phase.PACKAGING,
    refuse(Code.ZIP_TRUNCATED, Code.ZIP_DAMAGED),
    {"cut_in_half": lambda plain: plain[: len(plain) // 2], "cut_at_its_end": lambda plain: plain[:-40]},
)
def _cut(draft: Draft, cut: Callable[[bytes], bytes]) -> None:
    _packed(draft, lambda members: cut(zipped(members)))
    draft.main.truth.clear()


@axis("zip_damaged_inside", Phase.PACKAGING, refuse(Code.ZIP_DAMAGED, Code.DICOM_HEADLESS))
def _damaged(draft: Draft) -> None:
    def made(members: Members) -> bytes:
        plain = bytearray(zipped(members))
        at = len(plain) // 2
        plain[at : at + 20] = bytes(value ^ 0x5A for value in plain[at : at + 20])
        return bytes(plain)

    _packed(draft, made)
    draft.main.truth.clear()


@axis("zip_encrypted", Phase.PACKAGING, refuse(Code.ZIP_ENCRYPTED))
def _encrypted(draft: Draft) -> None:
    _packed(draft, lambda members: raw_zip([Entry(name.encode(), content, flags=1) for name, content in members]))
    draft.main.truth.clear()


@variants("zip_of_{}", Phase.PACKAGING, refuse(Code.ZIP_COMPRESSION), {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2})
def _method(draft: Draft, method: int) -> None:
    _packed(draft, lambda members: zipped(members, method))
    draft.main.truth.clear()


@axis("zip_three_deep", Phase.PACKAGING, refuse(Code.ZIP_NESTED))
def _deep(draft: Draft) -> None:
    _packed(draft, lambda members: zipped([("a.zip", zipped([("b.zip", zipped([("c.zip", zipped(members))]))]))]))
    draft.main.truth.clear()


@variants(
    "zip_name_{}",
    Phase.PACKAGING,
    refuse(Code.ZIP_UNSAFE_NAME),
    {"leads_out": b"../../zqplant", "is_absolute": b"/etc/zqplant", "has_a_drive": b"C:\\zqplant", "has_a_nul": b"a\0zqplant.dcm"},
)
def _unsafe(draft: Draft, name: bytes) -> None:
    _packed(draft, lambda members: raw_zip([Entry(name, b"hi"), *(_entry(each) for each in members)]))
    draft.main.truth.clear()


@variants(
    "upload_{}",
    Phase.PACKAGING,
    refuse(Code.EMPTY_UPLOAD, Code.NO_DICOM, Code.NOT_A_ZIP),
    {"of_no_bytes": lambda members: b"", "of_no_members": lambda members: zipped([]), "is_one_dicom_file": lambda members: members[0][1]},
)
def _empty(draft: Draft, made: Callable[[Members], bytes]) -> None:
    _packed(draft, made)
    draft.main.truth.clear()


# ------------------------------------------------------------------------------------------------------------------------- raw zips


class Entry:
    """One entry of a zip that is written byte by byte: its name's bytes, content, and the fields that a library would not write."""

    def __init__(self, name: bytes, content: bytes, *, flags: int = 0, method: int = 0, external: int = 0):
        self.name, self.content, self.flags, self.method, self.external = name, content, flags, method, external


def _entry(member: tuple[str, bytes]) -> Entry:
    return Entry(member[0].encode(), member[1], flags=0 if member[0].isascii() else 0x800)


def raw_zip(entries: list[Entry]) -> bytes:
    """A zip of these entries, stored. Source: APPNOTE.TXT."""
    found, directory = bytearray(), bytearray()
    for entry in entries:
        size = len(entry.content)
        common = struct.pack("<HHHHIIIHH", entry.flags, entry.method, 0, 0x21, zlib.crc32(entry.content), size, size, len(entry.name), 0)
        directory += (
            struct.pack("<4sBBH", b"PK\1\2", 20, 3, 20) + common + struct.pack("<HHHII", 0, 0, 0, entry.external, len(found)) + entry.name
        )
        found += struct.pack("<4sH", b"PK\3\4", 20) + common + entry.name + entry.content
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), len(found), 0)
    return bytes(found + directory + end)
