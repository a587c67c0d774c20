"""The tiny application that other tests package: it answers, and it misbehaves when a study asks for it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import trimesh

from tests.support import studies

APP = Path(__file__).parents[2] / "apps" / "tiny"


def run(tmp_path: Path, **options: object) -> tuple[subprocess.CompletedProcess[str], Path]:
    source, output = tmp_path / "in", tmp_path / "out"
    output.mkdir()
    zipfile.ZipFile(io.BytesIO(studies.tiny_study_zip(**options))).extractall(source)  # type: ignore[arg-type]
    environment = {**os.environ, "HOLOSCAN_INPUT_PATH": str(source), "HOLOSCAN_OUTPUT_PATH": str(output)}
    return subprocess.run([sys.executable, str(APP)], check=False, capture_output=True, text=True, env=environment), output


def test_a_study_is_answered_by_a_segmentation_on_its_geometry_and_a_closed_surface(tmp_path):
    done, output = run(tmp_path, study_uid="1.2.3.4")
    assert done.returncode == 0, done.stderr
    seg = highdicom.seg.segread(output / "segmentation.dcm")
    assert seg.StudyInstanceUID == "1.2.3.4"
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "in").iterdir()}
    assert {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence} == sources
    volume = seg.get_volume()
    bright = sum(int((pydicom.dcmread(path).pixel_array == 800).sum()) for path in (tmp_path / "in").iterdir())
    assert int(np.asarray(volume.array).sum()) == bright
    mesh = trimesh.load(output / "surface.stl")
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert np.allclose(mesh.bounds.mean(axis=0), [-1, -1, 10])


@pytest.mark.parametrize(
    ("wish", "code", "files"), [("tiny:fail", 3, 0), ("tiny:nothing", 0, 0), ("tiny:garbage", 0, 1), ("tiny:foreign", 0, 2)]
)
def test_it_misbehaves_as_the_study_asks(wish, code, files, tmp_path):
    done, output = run(tmp_path, wish=wish, study_uid="1.2.3.4")
    assert (done.returncode, len(list(output.iterdir()))) == (code, files)
    if wish == "tiny:foreign":
        assert pydicom.dcmread(output / "segmentation.dcm").StudyInstanceUID != "1.2.3.4"


def test_a_study_of_another_modality_has_no_result(tmp_path):
    done, output = run(tmp_path, modality="CT")
    assert done.returncode == 2
    assert not list(output.iterdir())


def test_bad_uploads_are_bad_in_the_way_they_say():
    for bad in (studies.corrupt_zip(), b""):
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(io.BytesIO(bad))
    assert zipfile.ZipFile(io.BytesIO(studies.empty_zip())).namelist() == []
    assert all(name.endswith(".txt") for name in zipfile.ZipFile(io.BytesIO(studies.text_zip())).namelist())
    assert len(studies.bomb_zip(16)) < 100_000
