"""The example: its study lies where the volume lies, and its judge notices what is shifted or mirrored. Without torch."""

from __future__ import annotations

import fcntl
import zipfile
from itertools import pairwise

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import trimesh
from pydicom.sr.codedict import codes

from examples.brain_mri import evaluate as judge
from examples.brain_mri import fetch as fetching
from examples.brain_mri.reference import write_reference
from examples.brain_mri.study import StudyError, study_datasets, write_study_zip
from tests.unit.maps.example_app import APP, module

RAS_POINT = np.array([7.0, -3.0, 11.0])


@pytest.fixture
def volume(tmp_path):
    """A volume with one bright voxel at a known place, stored in an unusual order of axes."""
    affine = np.array([[-1.0, 0, 0, 20], [0, 1.5, 0, -30], [0, 0, 2.0, -9], [0, 0, 0, 1]])
    data = np.zeros((30, 24, 16), np.uint8)
    index = np.linalg.inv(affine) @ [*RAS_POINT, 1]
    data[tuple(int(value) for value in np.rint(index[:3]))] = 200
    path = tmp_path / "volume.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def seg_of(datasets, mask, path):
    description = highdicom.seg.SegmentDescription(
        1, "Brain", codes.SCT.AnatomicalStructure, codes.SCT.Brain, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    seg = highdicom.seg.Segmentation(
        datasets,
        mask,
        highdicom.seg.SegmentationTypeValues.BINARY,
        [description],
        highdicom.UID(),
        1,
        highdicom.UID(),
        1,
        "t",
        "t",
        "1",
        "0",
    )
    seg.save_as(path)
    return path


def test_the_study_is_in_lps_where_the_volume_is_in_ras(volume):
    datasets = study_datasets(volume, seed="a")
    found = [(item, np.argwhere(item.pixel_array == 200)) for item in datasets]
    item, where = next((item, where) for item, where in found if len(where))
    ((row, column),) = where
    spacing = [float(value) for value in item.PixelSpacing]
    position = np.array(item.ImagePositionPatient, float) + np.array([column * spacing[1], row * spacing[0], 0])
    assert np.allclose(position, RAS_POINT * [-1, -1, 1], atol=0.76)
    assert len(datasets) == 16
    assert [float(b.ImagePositionPatient[2]) - float(a.ImagePositionPatient[2]) for a, b in pairwise(datasets)] == [2.0] * 15


def test_a_seed_makes_the_same_study_and_no_seed_a_new_one(volume, tmp_path):
    same = [write_study_zip(volume, tmp_path / f"{name}.zip", seed="s") for name in "ab"]
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert same[0].instances == 16
    new = [write_study_zip(volume, tmp_path / "c.zip").study_instance_uid for _ in range(2)]
    assert len({*new, same[0].study_instance_uid}) == 3


def test_the_reference_is_the_mask_on_the_studys_own_instances_with_the_same_bytes_each_time(volume, tmp_path):
    image = nibabel.load(volume)
    inside = np.asarray(image.dataobj) == 200
    nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), image.affine), tmp_path / "mask.nii.gz")
    paths = [write_reference(volume, tmp_path / "mask.nii.gz", tmp_path / f"{name}.dcm", seed="s") for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert judge.evaluate(paths[0], tmp_path / "mask.nii.gz").dice == 1.0
    found = pydicom.dcmread(paths[0])
    assert found.StudyInstanceUID == study_datasets(volume, seed="s")[0].StudyInstanceUID
    nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8)[1:], image.affine), tmp_path / "mask.nii.gz")
    with pytest.raises(StudyError, match="not on the grid"):
        write_reference(volume, tmp_path / "mask.nii.gz", tmp_path / "c.dcm", seed="s")


def test_the_header_says_that_it_is_invented(volume, tmp_path):
    write_study_zip(volume, tmp_path / "a.zip")
    zipfile.ZipFile(tmp_path / "a.zip").extractall(tmp_path / "a")
    item = pydicom.dcmread(next((tmp_path / "a").rglob("*.dcm")))
    assert "nvented" in item.ImageComments and "nvented" in item.StudyDescription and item.PatientIdentityRemoved == "YES"


def test_a_volume_that_cannot_be_axial_slices_is_refused(tmp_path):
    turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for data, affine, part in (
        (np.zeros((4, 4, 4, 2), np.uint8), np.eye(4), "3D"),
        (np.zeros((4, 4, 4), np.uint8), turned, "oblique"),
        (np.full((4, 4, 4), 0.5, np.float32), np.eye(4), "whole"),
    ):
        nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "x.nii")
        with pytest.raises(StudyError, match=part):
            study_datasets(tmp_path / "x.nii")


def test_the_judge_places_a_segmentation_by_its_own_attributes(volume, tmp_path):
    image = nibabel.load(volume)
    reference = np.zeros(image.shape, np.uint8)
    reference[5:12, 4:9, 3:8] = 1
    nibabel.save(nibabel.Nifti1Image(reference, image.affine), tmp_path / "reference.nii")
    datasets = study_datasets(volume)
    canonical = nibabel.as_closest_canonical(nibabel.load(tmp_path / "reference.nii")).get_fdata()
    mask = np.stack([canonical[::-1, ::-1, k].T for k in range(canonical.shape[2])]).astype(np.uint8)
    good = judge.evaluate(seg_of(datasets, mask, tmp_path / "good.dcm"), tmp_path / "reference.nii")
    assert good.dice == 1.0
    assert good.volume_ml == pytest.approx(good.reference_ml) == pytest.approx(7 * 5 * 5 * 3.0 / 1000)
    mirrored = judge.evaluate(seg_of(datasets, mask[:, :, ::-1], tmp_path / "mirrored.dcm"), tmp_path / "reference.nii")
    assert mirrored.dice < 0.5
    for item in datasets:
        item.ImagePositionPatient = [float(item.ImagePositionPatient[0]) + 0.5, *item.ImagePositionPatient[1:]]
    with pytest.raises(judge.EvaluationError, match="between"):
        judge.evaluate(seg_of(datasets, mask, tmp_path / "shifted.dcm"), tmp_path / "reference.nii")


def test_turning_to_ras_and_back_is_exact_for_every_orientation(volume):
    geometry = module("geometry")
    rng = np.random.default_rng(1)
    data = rng.random((3, 4, 5))
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
        for signs in ((1, 1, 1), (-1, 1, -1), (-1, -1, -1)):
            affine = np.eye(4)
            affine[:3, :3] = np.diag(signs) @ np.eye(3)[:, order]
            turned = geometry.to_ras(data, affine)
            assert np.array_equal(geometry.from_ras(turned, affine), data)
            # in RAS order, one step along an axis is one step towards right, anterior, superior
            origin = np.argwhere(data == turned[0, 0, 0])[0]
            for world in range(3):
                step = [0, 0, 0]
                step[world] = 1
                moved = np.argwhere(data == turned[tuple(step)])[0]
                assert (np.diag([-1, -1, 1]) @ affine[:3, :3] @ (moved - origin))[world] == 1


def test_the_applications_affine_agrees_with_highdicom(volume):
    geometry = module("geometry")
    datasets = study_datasets(volume)
    expected = highdicom.get_volume_from_series(datasets)
    positions = np.array([item.ImagePositionPatient for item in datasets], float)
    ours = geometry.affine_lps(positions, np.array([1, 0, 0, 0, 1, 0.0]), (1.5, 1.0))
    assert np.allclose(sorted(np.abs(np.linalg.det(a[:3, :3])) for a in (ours, expected.affine)), 3.0)
    corner = ours @ [2, 5, 7, 1]
    item = datasets[2]
    assert np.allclose(corner[:3], np.array(item.ImagePositionPatient, float) + np.array([7 * 1.0, 5 * 1.5, 0]))


def test_only_a_whole_surface_of_one_orientation_counts_as_closed(tmp_path):
    mesh = module("mesh")
    ball = trimesh.creation.icosphere(subdivisions=2, radius=10.0)
    faces = ball.faces.astype(np.int32)
    assert mesh.is_closed(faces)
    turned = faces.copy()
    turned[7] = turned[7, ::-1]
    doubled = np.concatenate([faces, faces[:1]])
    inside_out_beside = np.concatenate([faces, faces[:1], faces[:1, ::-1]])  # each edge has its reverse, but one is there twice
    for broken in (faces[1:], turned, doubled, inside_out_beside, faces[:0]):
        assert not mesh.is_closed(broken)
    assert mesh.signed_volume(ball.vertices, faces) == pytest.approx(ball.volume)
    assert mesh.signed_volume(ball.vertices, faces[:, ::-1]) == pytest.approx(-ball.volume)
    mesh.write_stl(tmp_path / "stl" / "ball.stl", ball.vertices.astype(np.float32), faces)
    read = trimesh.load_mesh(tmp_path / "stl" / "ball.stl")
    assert (read.is_watertight, read.volume) == (True, pytest.approx(ball.volume, rel=1e-5))
    assert [path.name for path in (tmp_path / "stl").iterdir()] == ["ball.stl"]


def test_a_fetched_file_that_was_altered_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"altered")
    with pytest.raises(fetching.FetchError, match="do not use it"):
        fetching._keep(tmp_path / "file", tmp_path / "target", "0" * 64)
    assert not (tmp_path / "target").exists()


def test_nothing_is_fetched_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_is", lambda *_: True)
    monkeypatch.setattr(fetching, "_run", lambda *_, **__: pytest.fail("something was fetched"))
    lines: list[str] = []
    fetching.fetch(tmp_path, lines.append)
    assert all("already here" in line for line in lines)


def test_the_expected_volume_was_measured_with_this_model():
    import json

    stored = json.loads((APP.parent / "expected.json").read_text())
    assert stored["model_sha256"] == fetching.MODEL_SHA256
    assert judge.expected_volume_ml() == stored["volume_ml"]


def test_who_waits_for_the_packages_of_another_command_says_so(tmp_path):
    told: list[str] = []
    with (tmp_path / "lock").open("w") as theirs, (tmp_path / "lock").open("w") as ours:
        fcntl.flock(theirs, fcntl.LOCK_EX)

        def on_line(line: str) -> None:
            told.append(line)
            theirs.close()

        fetching._wait_for(ours, on_line)
    assert told == ["head volume: waiting for another command that installs packages"]
