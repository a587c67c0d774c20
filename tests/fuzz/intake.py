"""A mutation fuzzer for everything that reads an upload: the unpacker, ``read_studies``, and what the agent reads of a study afterwards.

Each round takes a good upload, damages it in a few places (bits, lengths, pieces moved, lost, doubled, or taken from another upload) and
runs it. Two ends are right: it is taken in, or a RefusedError says why, without an identifier, within the limits. Everything else is a
finding, which the seed and the number of the round reproduce.
"""

from __future__ import annotations

import io
import random
import shutil
import struct
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pydicom

from monai_aws_pipeline.host_agent.errors import RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits, looks_like_dicom, unpack
from monai_aws_pipeline.host_agent.log_redaction.identifiers import IdentifierFilter
from tests.support.raw_dicom import (
    BIG_ENDIAN,
    DEFLATED,
    IMPLICIT,
    JPEG_LS,
    PIXELS,
    RLE,
    SECRETS,
    element,
    fragments,
    instance,
    item,
    nested,
)
from tests.support.raw_zip import DEFLATE, DEFLATE64, STORED, Entry, encrypted, link, raw_zip

LIMITS: Final = IntakeLimits(upload_bytes=1 << 20, unpacked_bytes=4 << 20, files=100, ratio=100, ratio_from=1 << 20, seconds=20.0)
SLOW_SECONDS: Final = 10.0
_LENGTHS: Final = (0, 1, 2, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def seeds() -> list[bytes]:
    """DICOM files of each kind that the reader tells apart."""
    sequence = element(0x00081140, b"SQ", item(element(0x00081150, b"UI", b"1.2\0")) + item(b""))
    return [
        instance(),
        instance(number=2, extra={0x00081140: sequence, 0x00091010: element(0x00091010, b"UN", b"private!")}),
        instance(number=3, extra={0x00081140: nested(5)}),
        instance(number=4, syntax=IMPLICIT),
        instance(number=5, syntax=DEFLATED),
        instance(number=6, syntax=RLE, extra={PIXELS: fragments(bytes(90))}),
        instance(number=7, syntax=JPEG_LS, extra={PIXELS: fragments(b"\xff\xd8" + bytes(60) + b"\xff\xd9")}),
        instance(number=8, syntax=BIG_ENDIAN),
    ]


def packed(random_: random.Random, files: list[bytes]) -> bytes:
    """A zip of some files, sometimes with another zip in it."""
    target = io.BytesIO()
    method = random_.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(target, "w", method) as archive:
        for number, content in enumerate(files):
            archive.writestr(f"study/{number}.dcm", content)
        if random_.random() < 0.3:
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w", method) as nested_archive:
                nested_archive.writestr("inner.dcm", files[0])
            archive.writestr("inner.zip", inner.getvalue())
    return target.getvalue()


def companions(random_: random.Random, content: bytes) -> list[Entry]:
    """What lies beside images on a CD or in a folder of a Mac, and what looks like it and is not."""
    archive = raw_zip(Entry("res.zip", raw_zip(Entry("a.png", b"\x89PNG" + content[132:]))), Entry("help", b"help"))
    found = [
        Entry("viewer.exe", b"MZ" + content),
        Entry("DICOM/Icon\r"),
        Entry("__MACOSX/._1", b"\0\5\26\7" + bytes(90)),
        Entry("VIEWER/app.zip", archive),
        Entry("VIEWER/data.zip", b"Rar!\x1a\7\1\0" + content[:90]),
        Entry("mask.nii.gz", zlib.compress(b"\x5c\1" + content, 1, 31)),
        Entry("a.jpg", content, random_.choice([STORED, DEFLATE, DEFLATE64])),
        Entry("empty"),
        encrypted("setup.exe", content),
        link("latest", "study/0.dcm"),
        link("V.app/Contents/Qt5", "Versions/Qt5"),
    ]
    rare = [
        encrypted("IM1", content),
        link("IM2", "/data/IM2"),
        Entry("s.gz", zlib.compress(content, 1, 31)),
        Entry("s.7z", b"7z\xbc\xaf'\x1c"),
    ]
    return random_.sample(found, random_.randint(1, 5)) + (random_.sample(rare, 1) if random_.random() < 0.1 else [])


def packed_with_companions(random_: random.Random, files: list[bytes]) -> bytes:
    """A zip of some files among what is no image, sometimes with a comment, or with something before or behind it."""
    entries = [Entry(f"study/{number}.dcm", content, random_.choice([STORED, DEFLATE])) for number, content in enumerate(files)]
    entries += companions(random_, files[0])
    random_.shuffle(entries)
    comment = random_.choice([b"", b"", b"a comment with PK\5\6 in it, as long as an end record"])
    return random_.choice([b"", b"", b"MZ" + bytes(60)]) + raw_zip(*entries, comment=comment) + random_.choice([b"", b"", bytes(70_000)])


def damaged(random_: random.Random, data: bytes, other: bytes) -> bytes:
    """The bytes with one to eight changes; ``other`` is where foreign pieces come from."""
    found = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 3, 8))):
        at = random_.randrange(len(found) + 1)
        size = random_.choice((1, 2, 4, 8, 30, 200))
        kind = random_.randrange(8)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            found[at : at + 1] = bytes([random_.randrange(256)])
        elif kind == 2:
            found[at : at + 4] = struct.pack(random_.choice("<>") + "I", random_.choice(_LENGTHS))
        elif kind == 3:
            found[at : at + 2] = struct.pack("<H", random_.choice(_LENGTHS) & 0xFFFF)
        elif kind == 4:
            del found[at : at + size]
        elif kind == 5:
            found[at:at] = found[at : at + size] * random_.choice((1, 2, 50))
        elif kind == 6:
            start = random_.randrange(len(other) + 1)
            found[at : at + size] = other[start : start + size]
        else:
            del found[at:]
    return bytes(found)


def uploads(seed: int, first: int = 0) -> Iterator[tuple[int, bytes]]:
    """Numbered uploads without end; the same seed and number give the same upload."""
    good = seeds()
    number = first
    while True:
        random_ = random.Random(f"{seed}/{number}")  # noqa: S311  it must be repeatable
        files = random_.sample(good, random_.randint(1, 4))
        packing = random_.choice([packed, packed_with_companions])
        if random_.random() < 0.6:  # most rounds reach the DICOM reader: an honest zip around damaged files
            files = [damaged(random_, content, random_.choice(good)) for content in files]
            yield number, packing(random_, files)
        else:
            yield number, damaged(random_, packing(random_, files), packing(random_, random_.sample(good, 2)))
        number += 1


@dataclass
class Outcome:
    """What a run has seen: rounds, how uploads ended by code, and what should not have happened."""

    rounds: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def run(seed: int, folder: Path, more: Callable[[Outcome], bool], first: int = 0) -> Outcome:
    """Try uploads as long as ``more`` says so. ``folder`` is used and emptied."""
    outcome = Outcome()
    for number, upload in uploads(seed, first):
        if not more(outcome):
            return outcome
        started = time.monotonic()
        try:
            outcome.ends[_end(upload, folder)] += 1
        except Exception as error:
            last = "".join(traceback.format_exception(error)[-3:])
            outcome.findings.append(f"seed {seed}, round {number}: {error.__class__.__name__}: {error}\n{last}")
        if (seconds := time.monotonic() - started) > SLOW_SECONDS:
            outcome.findings.append(f"seed {seed}, round {number}: took {seconds:.1f} s")
        outcome.rounds += 1
    return outcome


def plain_dicom(upload: bytes | Path) -> int:
    """How many DICOM files anybody finds in a zip, and in the zips in it, who reads what can be read and leaves the rest."""
    found = 0
    try:
        with zipfile.ZipFile(io.BytesIO(upload) if isinstance(upload, bytes) else upload) as archive:
            for entry in archive.infolist():
                try:
                    content = archive.read(entry)
                except Exception:  # noqa: S112  a damaged or encrypted entry is nothing that anybody finds
                    continue
                found += looks_like_dicom(content)
                found += plain_dicom(content) if content.startswith(b"PK") else 0
    except Exception:  # as for entries
        return found
    return found


def _end(upload: bytes, folder: Path) -> str:
    """How one upload ends. Raises AssertionError for an end that is wrong, and lets everything that nobody handles through."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "unpacked").mkdir(parents=True)
    archive = folder / "upload.zip"
    archive.write_bytes(upload)
    code = "taken in"
    try:
        taken = unpack(archive, folder / "unpacked", LIMITS)
        assert taken.files == len([*(folder / "unpacked").iterdir()]), "the count of files is wrong"
        assert taken.files >= plain_dicom(upload), "a DICOM file was lost without a word"
        for study in read_studies(sorted((folder / "unpacked").glob("*.dcm"))):
            IdentifierFilter.of(study)(["a line"])
            for instance_ in study.instances:
                data = pydicom.dcmread(instance_.path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID"])
                seen = (str(data.StudyInstanceUID).strip(" \0"), str(data.SOPInstanceUID).strip(" \0"))
                assert seen == (study.uid, instance_.sop_uid), "an application reads another study than the agent"
    except RefusedError as refused:
        code = str(refused.code)
        said = f"{refused} {refused.message}"
        assert not [secret for secret in SECRETS if secret in said], "an error names a person"
    assert sorted(path.name for path in folder.iterdir()) == ["unpacked", "upload.zip"], "something was written outside"
    assert not list((folder / "unpacked").glob("*.zip")), "a nested zip was left"
    used = sum(path.stat().st_size for path in (folder / "unpacked").iterdir())
    assert used <= LIMITS.unpacked_bytes, f"{used} bytes on disk"
    return code
