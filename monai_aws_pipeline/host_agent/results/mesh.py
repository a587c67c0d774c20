"""A surface that an application wrote: does it lie on the segmentation beside it.

Here belongs reading vertices (STL, OBJ, PLY) and holding them against the voxels of the segments. No mesh format has a coordinate system
that its writers agree on: millimetres in DICOM's patient coordinates (LPS) and in those of NIfTI (RAS) are taken. Files are somebody
else's and may hold anything; they are read in pieces of a few MiB.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.intake.geometry import Array
from monai_aws_pipeline.host_agent.results.segmentation import Segmentation, masks

log = logging.getLogger(__name__)

_PIECE: Final = 4 << 20
_SAMPLE: Final = 2000
_ORIENTATIONS: Final = (np.array([1.0, 1.0, 1.0]), np.array([-1.0, -1.0, 1.0]))
"""LPS and RAS, as what one multiplies the vertices with to have LPS."""
_SMOOTHED: Final = 0.05
"""How far, as a part of its size, smoothing and decimation may move the end of a surface."""
_NEAR_MM: Final = 3.0
_PLANES_AROUND: Final = 4
"""Planes within two steps of a place between planes; where a segment has fewer frames, it ends there."""
_ENOUGH: Final = 0.9
"""Part of the vertices that lies at the edge of a segment where a surface shows a part of it, such as its largest piece."""

_CLEARLY: Final = 0.2
"""How much better a mirrored surface has to lie on its segment to say that it is mirrored: smoothed ones lie on none."""
_MIRRORS: Final = np.array([turn for turn in product((1.0, -1.0), repeat=3) if min(turn) < 0])

_NUMBER: Final = rb"[ \t]+(\S{1,40})" * 3 + rb"(?=\s)"
_STL_VERTEX: Final = re.compile(rb"^[ \t]*vertex" + _NUMBER, re.MULTILINE | re.IGNORECASE)
_STL_WORD: Final = re.compile(rb"^[ \t]*vertex[ \t]", re.MULTILINE | re.IGNORECASE)
_OBJ_VERTEX: Final = re.compile(rb"^[ \t]*v" + _NUMBER, re.MULTILINE)
_OBJ_WORD: Final = re.compile(rb"^[ \t]*v[ \t]", re.MULTILINE)
_STL_RECORD: Final = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_PLY_TYPES: Final = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip


class MeshError(Exception):
    """A mesh file that is not what its ending says. The text says why, without anything that the file holds."""


@dataclass(frozen=True)
class Surface:
    """Bounds of a mesh and some of its vertices (k, 3), in the file's own coordinates; no vertices: an empty mesh."""

    low: Array
    high: Array
    vertices: Array


@dataclass(frozen=True)
class Box:
    """Bounds of voxels in mm LPS, to their outer edges, and how far the end of a surface of them may be from each."""

    low: Array
    high: Array
    spare: Array

    @property
    def size(self) -> Array:
        """Extent along x, y and z in mm."""
        return np.asarray(self.high - self.low)

    def agrees(self, low: Array, high: Array) -> bool:
        """Whether bounds are these, as nearly as a surface follows its voxels."""
        return bool((np.abs(low - self.low) <= self.spare).all() and (np.abs(high - self.high) <= self.spare).all())

    def holds(self, low: Array, high: Array) -> bool:
        """Whether bounds lie in these."""
        return bool((low >= self.low - self.spare).all() and (high <= self.high + self.spare).all())


@dataclass(frozen=True)
class Part:
    """What a surface may show: bounds, and the segments (by their numbers) that have them."""

    box: Box
    segments: tuple[tuple[Segmentation, frozenset[int]], ...]

    @property
    def shown(self) -> tuple[tuple[Path, frozenset[int]], ...]:
        """The same for parts of the same segments: of a single one it and all are the same."""
        return tuple((segmentation.path, numbers) for segmentation, numbers in self.segments)


def check_meshes(meshes: Sequence[Path], segmentations: Sequence[Segmentation]) -> tuple[Path, ...]:
    """Which meshes lie on the segmentations that an application wrote beside them. Raises FailedError(OUTPUT_GEOMETRY) where one does not.

    A mesh may show all segments, those of one segmentation, one segment, or a part of one: its bounds agree with those of the voxels, and
    mirrored it would lie no better, or they lie within and nearly all vertices lie at the edge of a segment. An empty mesh goes with an
    empty segment. Formats that are not read here are left unjudged, and so is everything beside a segmentation whose pixels this host
    cannot decode; one log line says so, and they are not among those that are returned.
    """
    found = [(path, _surface(path)) for path in meshes]
    if unread := sorted({path.suffix.lower() for path, surface in found if surface is None}):
        log.warning("meshes are not held against the segmentation in this format: %s", ", ".join(unread))
    surfaces = [surface for _, surface in found if surface is not None]
    if not surfaces or not segmentations:
        return ()
    try:
        boxes = [_boxes(segmentation) for segmentation in segmentations]
    except Exception as error:  # what this host cannot decode says nothing against the application
        log.warning("meshes are not held against a segmentation that cannot be read (%s)", type(error).__name__)
        return ()
    full = [
        Part(box, ((segmentation, frozenset({number})),))
        for segmentation, group in zip(segmentations, boxes, strict=True)
        for number, box in group.items()
    ]
    each = [(segmentation, group) for segmentation, group in zip(segmentations, boxes, strict=True) if group]
    is_any_empty = any(set(group) != set(segmentation.labels) for group, segmentation in zip(boxes, segmentations, strict=True))
    for surface in surfaces:
        if not len(surface.vertices):
            if not is_any_empty:
                raise FailedError(Code.OUTPUT_GEOMETRY, "A surface is empty, and no segment of the segmentation is.")
        elif not full:
            raise FailedError(Code.OUTPUT_GEOMETRY, "A surface was written for a segmentation without a voxel.")
        else:
            groups = [Part(_union(list(group.values())), ((segmentation, frozenset(group)),)) for segmentation, group in each]
            whole = Part(_union([part.box for part in full]), tuple((segmentation, frozenset(group)) for segmentation, group in each))
            _check(surface, [*full, *groups, whole])
    return tuple(path for path, surface in found if surface is not None)


def _check(surface: Surface, parts: Sequence[Part]) -> None:
    whole = parts[-1]
    agreeing: dict[tuple[int, tuple[tuple[Path, frozenset[int]], ...]], tuple[Array, Part]] = {}
    for number, turn in enumerate(_ORIENTATIONS):
        low, high = np.sort([surface.low * turn, surface.high * turn], axis=0)
        agreeing |= {(number, part.shown): (surface.vertices * turn, part) for part in parts if part.box.agrees(low, high)}
        if not agreeing and whole.box.holds(low, high) and _at_edges(surface.vertices * turn, whole.segments).mean() >= _ENOUGH:
            return
    if agreeing:
        _check_mirrored([*agreeing.values()])
        return
    size = surface.high - surface.low
    its, wanted = (" x ".join(f"{value:.4g}" for value in values) for values in (size, whole.box.size))
    if any((np.abs(size - part.box.size) <= part.box.spare).all() for part in parts):
        raise FailedError(Code.OUTPUT_GEOMETRY, f"A surface has the size of its segmentation ({its} mm) and lies beside it.")
    raise FailedError(Code.OUTPUT_GEOMETRY, f"A surface measures {its} mm along x, y and z, and its segmentation {wanted} mm.")


def _check_mirrored(agreeing: Sequence[tuple[Array, Part]]) -> None:
    """Refuse a surface of the right bounds that, mirrored within them, would lie on the edges of its segment, and as it is does not."""
    best = 0.0
    for vertices, part in agreeing:
        best = max(best, _fit(vertices[None], part))
        if best >= _ENOUGH:
            return
    for vertices, part in agreeing:
        if _fit(vertices * _MIRRORS[:, None], part) > best + _CLEARLY:
            raise FailedError(Code.OUTPUT_GEOMETRY, "A surface has the bounds of its segmentation and is mirrored within them.")


def _fit(turned: Array, part: Part) -> float:
    """Of a surface turned in some ways (ways, vertices, 3), the most that lies at the edges of the segments, once both have one middle.

    All ways at once, because the frames of a segmentation are read for each time that one asks.
    """
    middle = (turned.min(axis=1, keepdims=True) + turned.max(axis=1, keepdims=True)) / 2
    moved = turned - middle + (part.box.low + part.box.high) / 2
    return float(_at_edges(moved.reshape(-1, 3), part.segments).reshape(len(turned), -1).mean(axis=1).max())


# ------------------------------------------------------------------------------------------------------------- voxels of the segments


def _boxes(segmentation: Segmentation) -> dict[int, Box]:
    """Bounds of each segment that has voxels. The ends of the rows decide, so that they are right for oblique planes too."""
    grid = segmentation.grid
    sides = np.stack([grid.axes[0] * grid.spacing[1], grid.axes[1] * grid.spacing[0], grid.normal * segmentation.slice_distance])
    half = np.abs(sides).sum(axis=0) / 2
    voxel = float(np.linalg.norm(sides))
    ends: dict[int, tuple[Array, Array]] = {}
    for index, number, values in masks(segmentation):
        mask = values >= 0.5
        rows = np.flatnonzero(mask.any(axis=1))
        if not rows.size:
            continue
        first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
        points = (
            np.concatenate([np.outer(columns, sides[0]) + np.outer(rows, sides[1]) for columns in (first, last)]) + grid.positions[index]
        )
        low, high = ends.get(number, (np.full(3, np.inf), np.full(3, -np.inf)))
        ends[number] = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
    return {
        number: Box(low - half, high + half, np.maximum(2 * voxel, _SMOOTHED * (high - low)))
        for number, (low, high) in ends.items()
        if number in segmentation.labels
    }


def _union(boxes: Sequence[Box]) -> Box:
    low, high = np.min([box.low for box in boxes], axis=0), np.max([box.high for box in boxes], axis=0)
    return Box(low, high, np.maximum(np.max([box.spare for box in boxes], axis=0), _SMOOTHED * (high - low)))


def _at_edges(vertices: Array, segments: Sequence[tuple[Segmentation, frozenset[int]]]) -> Array:
    """Which of the vertices (mm LPS) have voxels of a segment near them, and others that are none of it."""
    at_edge = np.zeros(len(vertices), dtype=bool)
    for segmentation, numbers in segments:
        grid = segmentation.grid
        reach = np.clip(np.ceil(_NEAR_MM / np.array(grid.spacing)), 2, 6).astype(int)
        window = np.stack(np.meshgrid(*(np.arange(-size, size + 1) for size in reach), indexing="ij")).reshape(2, -1)
        rest = vertices - grid.positions[0]
        row = np.rint(rest @ grid.axes[1] / grid.spacing[0]).astype(int)
        column = np.rint(rest @ grid.axes[0] / grid.spacing[1]).astype(int)
        along = vertices @ grid.normal
        inside, outside = ({number: np.zeros(len(vertices), dtype=bool) for number in numbers} for _ in range(2))
        planes = {number: np.zeros(len(vertices), dtype=int) for number in numbers}
        frames = np.flatnonzero(np.isin(segmentation.segment_of_frame, [*numbers, 0]))  # 0: a frame of a label map
        for index, number, values in masks(segmentation, frames.tolist()):
            all_near = np.flatnonzero(np.abs(along - grid.along[index]) <= 2 * segmentation.slice_distance)
            for near in np.split(all_near, range(_SAMPLE, len(all_near), _SAMPLE)) if number in inside else ():
                rows, columns = row[near, None] + window[0], column[near, None] + window[1]
                in_image = (rows >= 0) & (rows < grid.rows) & (columns >= 0) & (columns < grid.columns)
                mask = in_image & (values[np.clip(rows, 0, grid.rows - 1), np.clip(columns, 0, grid.columns - 1)] >= 0.5)
                inside[number][near] |= mask.any(axis=1)
                outside[number][near] |= ~mask.all(axis=1)
                planes[number][near] += 1
        for number in numbers:
            at_edge |= inside[number] & (outside[number] | (planes[number] < _PLANES_AROUND))
    return at_edge


# ------------------------------------------------------------------------------------------------------------------------- reading


def _surface(path: Path) -> Surface | None:
    """Read a mesh; None where its format is not read here. Raises FailedError."""
    read = _READERS.get(path.suffix.lower())
    if read is None:
        return None
    try:
        with path.open("rb") as stream, np.errstate(all="ignore"):
            return read(stream, path.stat().st_size)
    except MeshError as error:
        raise FailedError(Code.OUTPUT_GEOMETRY, f"A surface cannot be read: {error}.") from error


class _Vertices:
    """Bounds and a sample of vertices that come in pieces."""

    def __init__(self) -> None:
        self._low, self._high = np.full(3, np.inf), np.full(3, -np.inf)
        self._sample: list[Array] = []
        self._every = 1

    def add(self, points: Array) -> None:
        """Take a piece (n, 3). Raises MeshError for what is no number."""
        if not len(points):
            return
        if not np.isfinite(points).all():
            raise MeshError("it has coordinates that are no numbers")
        self._low, self._high = np.minimum(self._low, points.min(axis=0)), np.maximum(self._high, points.max(axis=0))
        self._sample.append(points[:: self._every].astype(float))
        while sum(map(len, self._sample)) > 2 * _SAMPLE:
            self._every *= 2
            self._sample = [np.concatenate(self._sample)[::2]]

    def surface(self) -> Surface:
        """What was taken."""
        sample = np.concatenate(self._sample) if self._sample else np.zeros((0, 3))
        return Surface(self._low, self._high, sample)


def _read_stl(stream: BinaryIO, size: int) -> Surface:
    """Binary where the size is that of the number of triangles it names: many binary files begin with the word of the text form, too."""
    head = stream.read(84)
    triangles = int.from_bytes(head[80:84], "little")
    if size != 84 + triangles * _STL_RECORD.itemsize and head.lstrip().lower().startswith(b"solid"):
        stream.seek(max(0, size - 512))
        if b"endsolid" not in stream.read().lower():
            raise MeshError("it ends before its triangles do")
        stream.seek(0)
        return _read_text(stream, _STL_VERTEX, _STL_WORD)
    if len(head) < 84 or size < 84 + triangles * _STL_RECORD.itemsize:
        raise MeshError("it ends before its triangles do")
    found = _Vertices()
    for records in _records(stream, _STL_RECORD, triangles):
        found.add(records["corners"].reshape(-1, 3))
    return found.surface()


def _read_obj(stream: BinaryIO, _: int) -> Surface:
    return _read_text(stream, _OBJ_VERTEX, _OBJ_WORD)


def _read_text(stream: BinaryIO, vertex: re.Pattern[bytes], word: re.Pattern[bytes]) -> Surface:
    found, rest = _Vertices(), b""
    while piece := stream.read(_PIECE):
        text = (rest + piece).replace(b"\r", b"\n")
        whole, newline, rest = text.rpartition(b"\n")
        if not newline and len(rest) > _PIECE:
            raise MeshError("it has a line without end")
        found.add(_numbers(whole + newline, vertex, word))
    found.add(_numbers(rest + b"\n", vertex, word))
    return found.surface()


def _numbers(text: bytes, vertex: re.Pattern[bytes], word: re.Pattern[bytes]) -> Array:
    values = vertex.findall(text)
    if len(values) != len(word.findall(text)):
        raise MeshError("it has vertices without three coordinates")
    try:
        return np.array(values, dtype="S40").reshape(-1, 3).astype(np.float64)
    except ValueError as error:
        raise MeshError("it has coordinates that are no numbers") from error


def _read_ply(stream: BinaryIO, _: int) -> Surface | None:
    """Plain files only: the vertices first, each of single numbers. Others are not read."""
    form, elements = _ply_header(stream)
    name, count, properties = elements[0] if elements else ("", 0, [])
    if form is None or name != "vertex":
        return None
    names = [name for name, _ in properties]
    if not {"x", "y", "z"} <= set(names) or len(set(names)) < len(names) or any(kind not in _PLY_TYPES for _, kind in properties):
        return None
    found = _Vertices()
    if form == "ascii":
        at = [names.index(axis) for axis in "xyz"]
        for start in range(0, count, _PIECE >> 6):
            lines = [stream.readline(4096).split() for _ in range(min(_PIECE >> 6, count - start))]
            if any(len(line) < len(names) for line in lines):
                raise MeshError("it ends before its vertices do")
            try:
                found.add(np.array([[float(line[index]) for index in at] for line in lines]))
            except ValueError as error:
                raise MeshError("it has coordinates that are no numbers") from error
        return found.surface()
    order = "<" if form == "binary_little_endian" else ">"
    record = np.dtype([(name, order + _PLY_TYPES[kind]) for name, kind in properties])
    for records in _records(stream, record, count):
        found.add(np.column_stack([records[axis].astype(float) for axis in "xyz"]))
    return found.surface()


def _ply_header(stream: BinaryIO) -> tuple[str | None, list[tuple[str, int, list[tuple[str, str]]]]]:
    """Form of the file, and its elements with count and properties (name, type); no form where it is not read."""
    if stream.readline(16).strip() != b"ply":
        raise MeshError("it is no PLY file")
    form: str | None = None
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for _ in range(1000):
        words = stream.readline(4096).decode("ascii", "replace").split()
        if words == ["end_header"]:
            return form, elements
        if words[:1] == ["format"] and len(words) == 3 and words[1] in ("ascii", "binary_little_endian", "binary_big_endian"):
            form = words[1]
        elif words[:1] == ["element"] and len(words) == 3 and words[2].isdigit() and len(words[2]) < 16:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements:
            elements[-1][2].append((words[-1], words[1] if len(words) == 3 else "list"))
    raise MeshError("its header has no end")


def _records(stream: BinaryIO, kind: np.dtype[np.void], count: int) -> Iterator[Array]:
    """``count`` records of a fixed size, some MiB at a time. Raises MeshError where the file ends before them."""
    at_once = max(1, _PIECE // kind.itemsize)
    for start in range(0, count, at_once):
        size = min(at_once, count - start) * kind.itemsize
        data = stream.read(size)
        if len(data) < size:
            raise MeshError("it ends before its vertices do")
        yield np.frombuffer(data, dtype=kind)


_READERS: Final[dict[str, Callable[[BinaryIO, int], Surface | None]]] = {".stl": _read_stl, ".obj": _read_obj, ".ply": _read_ply}
