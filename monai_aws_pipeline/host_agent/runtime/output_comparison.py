"""Whether two runs of a MAP on one study gave the same answer, apart from what differs between any two runs.

New UIDs, dates and times, the number of a new series and file names may differ. Everything else must not: pixel data, geometry, coded
content, references to the source, meshes, any other file. Differences are named by DICOM keyword, never by value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from monai_aws_pipeline.host_agent.intake.unpack import looks_like_dicom
from monai_aws_pipeline.host_agent.results.outputs import known_suffix

_OWN_TO_A_RUN: Final = {"SeriesNumber", "InstanceNumber", "ContentDate", "ContentTime", "FileMetaInformationGroupLength"}
_MOMENTS: Final = {"DA", "TM", "DT"}
_MESH_TOLERANCE_MM: Final = 1e-3
_SHOWN: Final = 5


def differences(one: Path, other: Path, source_uids: Iterable[str] = ()) -> tuple[str, ...]:
    """What distinguishes two output folders, at most five things; empty where they hold the same answer. ``source_uids`` must agree."""
    known = set(source_uids)
    left, right = _described(one, known), _described(other, known)
    kinds = {kind: (len(left.get(kind, ())), len(right.get(kind, ()))) for kind in sorted({*left, *right})}
    uneven = [f"{mine} and {theirs} {kind} files" for kind, (mine, theirs) in kinds.items() if mine != theirs]
    if uneven:
        return tuple(uneven[:_SHOWN])
    found: list[str] = []
    for kind in kinds:
        for mine, theirs in zip(sorted(left[kind]), sorted(right[kind]), strict=True):
            found += [f"{kind}: {name}" for name in _compare(mine, theirs)]
    return tuple(dict.fromkeys(found))[:_SHOWN]


def has_files(folder: Path) -> bool:
    """Whether there is anything to compare: two that wrote nothing agree in nothing."""
    return any(not path.is_dir() for path in folder.rglob("*"))


_Facts = tuple[tuple[str, str], ...]
_File = tuple[_Facts, str]


def _described(folder: Path, known: set[str]) -> dict[str, list[_File]]:
    found: dict[str, list[_File]] = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            if not path.is_dir() or path.is_symlink():
                found.setdefault("special", []).append(((), ""))
            continue
        with path.open("rb") as stream:
            is_dicom = looks_like_dicom(stream.read(132))
        if is_dicom:
            data = pydicom.dcmread(path)
            facts = tuple(_elements(data.file_meta, known)) + tuple(_elements(data, known))
            sop_class = UID(str(data.get("SOPClassUID", "")))
            found.setdefault(f"DICOM {sop_class.name if sop_class.name != sop_class else 'of a private class'}", []).append((facts, ""))
        elif path.suffix.lower() == ".stl":
            found.setdefault("STL", []).append(((), str(path)))
        else:
            found.setdefault(known_suffix(path) or "other", []).append(((("content", _sha(path.read_bytes())),), ""))
    return found


def _compare(mine: _File, theirs: _File) -> list[str]:
    if mine[1]:
        return [] if _same_mesh(Path(mine[1]), Path(theirs[1])) else ["surface"]
    left, right = dict(mine[0]), dict(theirs[0])
    return [name.rpartition(".")[2].partition("[")[0] for name in {**left, **right} if left.get(name) != right.get(name)]


def _elements(data: Dataset, known: set[str], place: str = "") -> Iterator[tuple[str, str]]:
    """Name and fingerprint of each element; a new UID only says that there is one."""
    for element in data:
        name = f"{place}{element.keyword or element.tag}"
        if element.keyword in _OWN_TO_A_RUN or element.VR in _MOMENTS:
            continue
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from _elements(item, known, f"{name}[{number}].")
        elif element.VR == "UI":
            values = [element.value] if isinstance(element.value, str) else list(element.value or ())
            yield name, " ".join(str(value) if value in known or UID(value).name != value else "new" for value in values)
        else:
            content = element.value if isinstance(element.value, bytes) else repr(element.value).encode("utf-8", "surrogatepass")
            yield name, _sha(content)


def _same_mesh(one: Path, other: Path) -> bool:
    """Whether two STL files hold the same surface: byte for byte after the header, or each number within a micrometre."""
    left, right = one.read_bytes(), other.read_bytes()
    if left[80:] == right[80:]:
        return True
    mine, theirs = _triangles(left), _triangles(right)
    return mine is not None and theirs is not None and mine.shape == theirs.shape and bool(np.allclose(mine, theirs, 0, _MESH_TOLERANCE_MM))


def _triangles(data: bytes) -> np.ndarray | None:
    """Corners (N, 3, 3) in the file's unit, None where it is no binary STL."""
    count = int.from_bytes(data[80:84], "little")
    if len(data) != 84 + 50 * count:
        return None
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners: np.ndarray = np.frombuffer(data, record, count, 84)["corners"]
    return corners


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
