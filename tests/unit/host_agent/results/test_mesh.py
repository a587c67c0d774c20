"""Surfaces: one that does not lie on the segmentation beside it is no answer, whatever its format, and whatever its file holds."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.results.outputs import collect
from monai_aws_pipeline.host_agent.results.segmentation import read_source
from tests.unit.host_agent.dicom_files import box_stl, write_segments, write_series

Write = Callable[[np.ndarray], bytes]


_XYZ = b"property float x\nproperty float y\nproperty float z\n"


def ball(shape: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """An ellipsoid that fills a box of a mask (slices, rows, columns)."""
    centre, half = (np.array(high) - 1 + np.array(low)) / 2, (np.array(high) - np.array(low)) / 2
    return np.asarray((((np.indices(shape) - centre[:, None, None, None]) / half[:, None, None, None]) ** 2).sum(axis=0) <= 1)


def surface(mask: np.ndarray) -> np.ndarray:
    """Corners (n, 3) of the faces between a mask and the rest, as indices (slice, row, column); three make a triangle."""
    padded = np.pad(mask, 1)
    found = []
    for axis in range(3):
        other = [index for index in range(3) if index != axis]
        low = np.argwhere(np.diff(padded.astype(np.int8), axis=axis)) - 1.0
        corners = np.repeat(low[:, None], 4, axis=1)
        corners[:, :, axis] += 0.5
        corners[:, :, other] += np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
        found.append(corners[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3))
    return np.concatenate(found)


def stl(points: np.ndarray) -> bytes:
    record = np.zeros(len(points) // 3, dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    record["corners"] = points.reshape(-1, 3, 3)
    return b"solid of the binary kind".ljust(80) + struct.pack("<I", len(record)) + record.tobytes()


def stl_text(points: np.ndarray) -> bytes:
    lines = ["solid invented"]
    for a, b, c in points.reshape(-1, 3, 3).tolist():
        lines += [
            "facet normal 0 0 0",
            " outer loop",
            *("  vertex {:.4f} {:.4f} {:e}".format(*corner) for corner in (a, b, c)),
            " endloop",
            "endfacet",
        ]
    return "\r\n".join([*lines, "endsolid invented", ""]).encode()


def obj(points: np.ndarray) -> bytes:
    lines = ["# invented", "o thing", *(f"v {x} {y} {z}" for x, y, z in points.tolist()), "vn 0 0 1"]
    return "\n".join([*lines, *(f"f {index} {index + 1} {index + 2}" for index in range(1, len(points), 3))]).encode()


def ply(form: str) -> Write:
    def write(points: np.ndarray) -> bytes:
        head = f"ply\nformat {form} 1.0\ncomment invented\nelement vertex {len(points)}\n{_XYZ.decode()}"
        head += f"property uchar red\nelement face {len(points) // 3}\nproperty list uchar int vertex_indices\nend_header\n"
        if form == "ascii":
            return (head + "".join(f"{x} {y} {z} 255\n" for x, y, z in points.tolist())).encode()
        record = np.zeros(len(points), dtype=[(axis, ("<f4" if "little" in form else ">f4")) for axis in "xyz"] + [("red", "u1")])
        for index, axis in enumerate("xyz"):
            record[axis] = points[:, index]
        return head.encode() + record.tobytes()

    return write


FORMATS: dict[str, tuple[str, Write]] = {
    "binary STL": (".stl", stl),
    "text STL": (".STL", stl_text),
    "OBJ": (".obj", obj),
    "text PLY": (".ply", ply("ascii")),
    "little-endian PLY": (".ply", ply("binary_little_endian")),
    "big-endian PLY": (".ply", ply("binary_big_endian")),
}

ORIGIN, VOXEL = np.array([-10.0, -20.0, 5.0]), np.array([2.0, 2.0, 4.0])


def millimetres(points: np.ndarray) -> np.ndarray:
    """Indices (slice, row, column) in mm LPS."""
    return ORIGIN + points[:, ::-1] * VOXEL


@dataclass
class Place:
    """A study of 2 x 2 x 4 mm, with a segmentation in a folder of its own."""

    folder: Path
    files: list[Path]

    def segment(self, **masks: np.ndarray) -> None:
        write_segments(self.folder / "seg.dcm", self.files, masks)

    def judged(self, *meshes: bytes, suffix: str = ".stl", name: str = "mesh") -> str | None:
        """The cause where the answer is refused for its geometry."""
        for index, mesh in enumerate(meshes):
            (self.folder / f"{name}{index}{suffix}").write_bytes(mesh)
        (study,) = read_studies(self.files)
        try:
            collect(self.folder, study.uid, read_source(study.instances))
        except FailedError as error:
            assert error.code is Code.OUTPUT_GEOMETRY
            return error.cause
        finally:
            for index in range(len(meshes)):
                (self.folder / f"{name}{index}{suffix}").unlink()
        return None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "out").mkdir()
    return Place(tmp_path / "out", write_series(tmp_path / "in", generate_uid(), slices=16, size=32, gap=4.0))


MASK = ball((16, 32, 32), (2, 4, 8), (14, 28, 22))
"""28 x 48 x 48 mm."""


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("turn", [(1, 1, 1), (-1, -1, 1)], ids=["LPS", "RAS"])
def test_a_surface_in_patient_millimetres_lies_on_its_segmentation(form: str, turn: tuple[int, int, int], place: Place) -> None:
    place.segment(Brain=MASK)
    suffix, write = FORMATS[form]
    assert place.judged(write(millimetres(surface(MASK)) * turn), suffix=suffix) is None


def held(place: Place, **meshes: bytes) -> dict[str, str]:
    """What the host says of each output: what it was held against and lies on."""
    for name, mesh in meshes.items():
        (place.folder / name.replace("_", ".")).write_bytes(mesh)
    (study,) = read_studies(place.files)
    return {item.path.name: item.held_against for item in collect(place.folder, study.uid, read_source(study.instances))}


def test_the_record_says_what_an_output_was_held_against_and_nothing_of_what_was_not_judged(place: Place) -> None:
    place.segment(Brain=MASK)
    found = held(place, a_stl=stl(millimetres(surface(MASK))), b_vtk=b"a format that is not read here")
    assert found == {"seg.dcm": "source", "a.stl": "segmentation", "b.vtk": ""}


def test_a_surface_alone_was_held_against_nothing(place: Place) -> None:
    assert held(place, a_stl=stl(millimetres(surface(MASK)))) == {"a.stl": ""}


def of_swapped_axes(points: np.ndarray) -> np.ndarray:
    """What one has who takes slice, row and column for x, y and z."""
    return points * VOXEL


WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "axes swapped": of_swapped_axes,
    "axes swapped, on the right centre": lambda points: millimetres(points)[:, [2, 1, 0]] + (-6, 0, 6),
    "in voxels": lambda points: points[:, ::-1],
    "in metres": lambda points: millimetres(points) / 1000,
    "centred": lambda points: millimetres(points) - millimetres(points).mean(axis=0),
    "without the origin": lambda points: millimetres(points) - ORIGIN,
    "thirty millimetres off": lambda points: millimetres(points) + np.array([0, 0, 30]),
    "slices a millimetre apart": lambda points: ORIGIN + points[:, ::-1] * (2, 2, 1),
    "half": lambda points: (millimetres(points) - (20, 12, 36)) / 2 + (20, 12, 36),
    "upside down": lambda points: millimetres(points) * (1, 1, -1),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_surface_that_lies_elsewhere_is_no_answer(wrong: str, form: str, place: Place) -> None:
    place.segment(Brain=MASK)
    suffix, write = FORMATS[form]
    assert place.judged(write(WRONG[wrong](surface(MASK))), suffix=suffix) is not None


def test_the_sizes_are_told_and_a_surface_of_the_right_size_is_told_from_one_of_another(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    place = Place(tmp_path / "out", write_series(tmp_path / "in", generate_uid(), slices=44, size=110, gap=4.0))
    mask = ball((44, 110, 110), (2, 5, 20), (42, 104, 91))
    place.segment(Brain=mask)
    low, high = (ORIGIN + np.array(index) * VOXEL for index in ((19.5, 4.5, 1.5), (90.5, 103.5, 41.5)))
    assert place.judged(box_stl(low, high)) is None, "142 x 198 x 160 mm"
    assert place.judged(box_stl(low, low + np.array([99, 206, 235]))) == (
        "A surface measures 99 x 206 x 235 mm along x, y and z, and its segmentation 142 x 198 x 160 mm."
    )
    assert place.judged(box_stl(low + 30, high + 30)) == (
        "A surface has the size of its segmentation (142 x 198 x 160 mm) and lies beside it."
    )


def test_a_surface_may_show_one_segment_all_segments_or_the_largest_piece(place: Place) -> None:
    small, large = ball((16, 32, 32), (1, 2, 2), (6, 10, 10)), ball((16, 32, 32), (7, 12, 12), (15, 30, 30))
    place.segment(Left=small, Right=large)
    one, other, both = (stl(millimetres(surface(mask))) for mask in (small, large, small | large))
    assert place.judged(one, other, both) is None
    assert place.judged(one, stl(of_swapped_axes(surface(large)))) is not None, "each of them is judged"
    place.segment(Lesions=small | large)
    assert place.judged(other) is None, "one piece of a segment of two"
    assert place.judged(stl(millimetres(surface(large)) + np.array([0, -12, -8]))) is not None, "within the bounds of both, and at no edge"


def test_a_smoothed_and_coarsened_surface_is_taken(place: Place) -> None:
    place.segment(Brain=MASK)
    points = millimetres(surface(MASK))
    centre = points.mean(axis=0)
    assert place.judged(stl((points - centre) * 0.93 + centre)) is None
    assert place.judged(stl(np.round(points / 3) * 3)) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turn", [(1, 1, 1), (-1, -1, 1)], ids=["LPS", "RAS"])
def test_a_surface_that_is_mirrored_within_its_bounds_is_no_answer(axis: int, turn: tuple[int, int, int], place: Place) -> None:
    """Left and right are swapped, and of a head near the middle of the scanner the bounds are hardly others."""
    wedge = np.indices((16, 32, 32)) - np.array([3, 6, 7])[:, None, None, None]
    mask = (wedge >= 0).all(axis=0) & (wedge[0] / 10 + wedge[1] / 20 + wedge[2] / 18 < 1)
    place.segment(Brain=mask)
    points = millimetres(surface(mask))
    low, high = points.min(axis=0), points.max(axis=0)
    mirrored = points.copy()
    mirrored[:, axis] = (low + high - points)[:, axis] + 1.5
    smoothed = (points - points.mean(axis=0)) * 0.95 + points.mean(axis=0)
    assert place.judged(stl(points * turn), stl(smoothed * turn)) is None
    assert place.judged(stl(mirrored * turn)) == "A surface has the bounds of its segmentation and is mirrored within them."


def test_oblique_planes_have_the_bounds_of_their_voxels(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", generate_uid(), slices=16, size=32, gap=4.0)
    turn = np.array([[0.8, 0.6, 0.0], [-0.48, 0.64, 0.6], [0.36, -0.48, 0.8]])  # rows: direction of a row, of a column, of the normal
    for index, file in enumerate(files):
        data = pydicom.dcmread(file)
        data.ImageOrientationPatient = turn[:2].ravel().tolist()
        data.ImagePositionPatient = (ORIGIN + turn[2] * 4 * index).tolist()
        data.save_as(file)
    (tmp_path / "out").mkdir()
    place = Place(tmp_path / "out", files)
    place.segment(Brain=MASK)
    points = ORIGIN + surface(MASK)[:, ::-1] * VOXEL @ turn
    assert place.judged(stl(points)) is None
    assert place.judged(stl(millimetres(surface(MASK)))) is not None, "as if the planes were axial"


def test_an_empty_surface_goes_with_an_empty_segment(place: Place) -> None:
    nothing = stl(np.zeros((0, 3)))
    place.segment(Brain=MASK)
    assert place.judged(nothing) == "A surface is empty, and no segment of the segmentation is."
    place.segment(Brain=MASK, Tumour=np.zeros_like(MASK))
    assert place.judged(nothing, stl(millimetres(surface(MASK)))) is None
    assert place.judged(b"solid empty\nendsolid empty\n") is None


def with_value(value: float) -> bytes:
    points = millimetres(surface(MASK))
    points[17, 1] = value
    return stl(points)


DAMAGED: dict[str, tuple[str, bytes]] = {
    "nothing": (".stl", b""),
    "a word": (".stl", b"solid"),
    "not a number": (".stl", with_value(np.nan)),
    "infinite": (".stl", with_value(np.inf)),
    "cut off": (".stl", stl(millimetres(surface(MASK)))[:-7]),
    "four billion triangles": (".stl", b"x" * 80 + b"\xff" * 4 + bytes(500)),
    "text cut off": (".stl", stl_text(millimetres(surface(MASK)))[:-200]),
    "text without numbers": (".stl", b"solid x\n vertex a b c\nendsolid x\n"),
    "text with two numbers": (".stl", b"solid x\n vertex 1 2\nendsolid x\n"),
    "text that is not a number": (".stl", b"solid x\n vertex nan 1 2\n vertex 1 2 3\nendsolid x\n"),
    "numbers as long as a book": (".stl", b"solid x\n vertex " + b"1" * 9000 + b" 1 2\nendsolid x\n"),
    "a line without end": (".obj", b"v 1 2 3 " + b"0" * (20 << 20)),
    "decimal commas": (".obj", b"v 1,5 2,5 3,5\n"),
    "no vertices": (".obj", b"# nothing\n"),
    "zeros": (".obj", bytes(1000)),
    "no PLY": (".ply", b"something else"),
    "a PLY header without end": (".ply", b"ply\nformat ascii 1.0\n" + b"comment\n" * 5000),
    "a PLY of a billion vertices": (
        ".ply",
        b"ply\nformat binary_little_endian 1.0\nelement vertex 999999999999\n" + _XYZ + b"end_header\n",
    ),
    "a text PLY of a billion vertices": (
        ".ply",
        b"ply\nformat ascii 1.0\nelement vertex 999999999999\n" + _XYZ + b"end_header\n1 2 3\n",
    ),
    "a PLY cut off": (".ply", ply("binary_big_endian")(millimetres(surface(MASK)))[:-40]),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_or_hostile_surface_is_named_and_takes_no_memory(damaged: str, place: Place) -> None:
    place.segment(Brain=MASK)
    suffix, content = DAMAGED[damaged]
    tracemalloc.start()
    try:
        assert place.judged(content, suffix=suffix) is not None
        assert tracemalloc.get_traced_memory()[1] < 96 << 20
    finally:
        tracemalloc.stop()


def test_a_surface_is_read_in_pieces(place: Place) -> None:
    place.segment(Brain=MASK)
    points = np.tile(millimetres(surface(MASK)), (500, 1))
    mesh = stl(points)
    assert len(mesh) > 50 << 20
    (place.folder / "large.stl").write_bytes(mesh)
    (study,) = read_studies(place.files)
    tracemalloc.start()
    try:
        collect(place.folder, study.uid, read_source(study.instances))
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


def test_formats_that_are_not_read_are_left_and_one_line_says_so(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.segment(Brain=MASK)
    listed = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar float all\nend_header\n3 1 2 3\n"
    (place.folder / "Hans.vtp").write_bytes(b"<VTKFile/>")
    (place.folder / "Hans.glb").write_bytes(b"glTF")
    assert place.judged(listed, suffix=".ply") is None
    assert [record.getMessage() for record in caplog.records] == [
        "meshes are not held against the segmentation in this format: .glb, .ply, .vtp"
    ]


def test_without_a_segmentation_there_is_nothing_to_hold_a_surface_against(place: Place) -> None:
    assert place.judged(stl(of_swapped_axes(surface(MASK))), b"anything") is None


def test_a_segmentation_whose_pixels_cannot_be_read_judges_no_surface(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.segment(Brain=MASK)

    def undecodable(*_: object) -> None:
        raise RuntimeError("Invented^Nobody")

    monkeypatch.setattr("monai_aws_pipeline.host_agent.results.mesh.masks", undecodable)
    assert place.judged(stl(of_swapped_axes(surface(MASK)))) is None
    assert [record.getMessage() for record in caplog.records] == [
        "meshes are not held against a segmentation that cannot be read (RuntimeError)"
    ]
