"""The 3D page's volumes and surfaces lie where the patient's tissue lies: found by coordinates, read with a reader that is not ours."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import trimesh
from pydicom.dataset import Dataset

from tests.support.studies import datasets_zip
from tests.support.viewed_study import BRIGHT, COLUMNS, DARK, PLANES, ROWS, ViewedStudy, answered
from tests.unit.portal.viewer.conftest import Looking
from tests.unit.studies.records import Bucket, job_of, study_of

S, J = study_of(1), job_of(1)
PAGE = f"/3d/{S}/{J}/"
TO_RAS = np.array([-1, -1, 1])


@pytest.fixture
def study(bucket: Bucket) -> ViewedStudy:
    return answered(bucket)


def nifti(looking: Looking, name: str) -> Any:
    status, _, body = looking.get(f"{PAGE}{name}")
    assert status == 200, body
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(body))


def value_at(image: Any, place: np.ndarray) -> float:
    """The value of the voxel at a place in the patient, millimetres LPS."""
    index = np.linalg.inv(image.affine) @ np.append(place * TO_RAS, 1)
    rounded = np.rint(index[:3]).astype(int)
    assert np.allclose(index[:3], rounded, atol=1e-2), "the place is the middle of a voxel"
    inside = all(0 <= at < size for at, size in zip(rounded, image.shape, strict=True))
    return float(np.asarray(image.dataobj)[tuple(rounded)]) if inside else 0.0


def test_each_place_in_the_patient_has_its_own_value_and_mask(looking: Looking, study: ViewedStudy):
    volume, mask = nifti(looking, "volume.nii.gz"), nifti(looking, "mask-0.nii.gz")
    assert volume.header.get_xyzt_units()[0] == "mm"
    for plane in range(PLANES):
        for row in range(ROWS):
            for column in range(COLUMNS):
                place, is_thing = study.place(plane, row, column), bool(study.mask[plane, row, column])
                assert value_at(volume, place) == (BRIGHT if is_thing else DARK)
                assert value_at(mask, place) == is_thing


def test_values_are_those_of_the_rescale_of_each_image(looking: Looking, study: ViewedStudy, bucket: Bucket):
    for number, image in enumerate(study.images):
        image.RescaleSlope, image.RescaleIntercept = 2 + number, -1000.5
    bucket.put(f"processed/{S}/{J}/upload.zip", datasets_zip(study.images))
    volume = nifti(looking, "volume.nii.gz")
    for plane in range(PLANES):
        assert value_at(volume, study.place(plane, 0, 0)) == DARK * (2 + plane) - 1000.5


def test_a_large_volume_is_thinned_and_stays_where_it_is(looking: Looking, study: ViewedStudy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("monai_aws_pipeline.portal.viewer.volume.MOST_VOXELS", 1000)
    volume, mask = nifti(looking, "volume.nii.gz"), nifti(looking, "mask-0.nii.gz")
    assert volume.shape == (10, 11, PLANES)
    for plane in range(PLANES):
        for row in range(0, ROWS, 2):
            for column in range(0, COLUMNS, 2):
                place, is_thing = study.place(plane, row, column), bool(study.mask[plane, row, column])
                assert (value_at(volume, place), value_at(mask, place)) == (BRIGHT if is_thing else DARK, is_thing)


@pytest.mark.parametrize("sign", [(1, 1, 1), (-1, -1, 1)], ids=["LPS", "RAS"])
def test_a_surface_lies_on_the_mask_whichever_way_it_was_written(looking: Looking, bucket: Bucket, sign: tuple[float, float, float]):
    study = answered(bucket, 1, sign)
    status, _, body = looking.get(f"{PAGE}surface-0.stl")
    assert status == 200
    mesh = trimesh.load(io.BytesIO(body), file_type="stl")
    filled = np.argwhere(study.mask)
    corners = [study.place(*at) * TO_RAS for at in np.array(np.meshgrid(*zip(filled.min(0), filled.max(0), strict=True))).reshape(3, -1).T]
    assert np.allclose(mesh.bounds, [np.min(corners, axis=0), np.max(corners, axis=0)], atol=0.02)


def test_a_surface_as_text_is_read_too(looking: Looking, study: ViewedStudy, tmp_path: Path):
    from monai_aws_pipeline.portal.viewer.surface import surface_in_ras

    text = b"solid x\nfacet normal 0 0 1\nouter loop\n vertex 1 2 3\n vertex 4 2 3\n vertex 1 5 3e0\nendloop\nendfacet\nendsolid\n"
    (tmp_path / "a.stl").write_bytes(text)
    mesh = trimesh.load(io.BytesIO(surface_in_ras(tmp_path / "a.stl", None)), file_type="stl")
    assert mesh.bounds.tolist() == [[-4, -5, 3], [-1, -2, 3]], "without a segmentation it is DICOM's own"


def _gap(images: list[Dataset]) -> list[Dataset]:
    return images[:2] + images[3:]


def _nowhere(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        del image.ImagePositionPatient
    return images


def _colour(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit, image.PixelData = 7, bytes(ROWS * COLUMNS * 3 + 1)
    return images


@pytest.mark.parametrize(("change", "why"), [(_gap, "unevenly"), (_nowhere, "where they lie"), (_colour, "colour")])
def test_what_makes_no_volume_is_said(
    looking: Looking, study: ViewedStudy, bucket: Bucket, change: Callable[[list[Dataset]], list[Dataset]], why: str
):
    bucket.put(f"processed/{S}/{J}/upload.zip", datasets_zip(change(study.images)))
    answer = looking.browser.get(f"{PAGE}volume.nii.gz")
    assert (answer.status_code, why in answer.json()["error"]) == (404, True)


def test_the_page_is_told_what_there_is_and_nothing_else_is_there(looking: Looking, study: ViewedStudy):
    told = looking.browser.get(f"{PAGE}parts.json").json()
    assert told == {"volume": "volume.nii.gz", "masks": ["mask-0.nii.gz"], "meshes": ["surface-0.stl"]}
    for other in ("mask-1.nii.gz", "surface-1.stl", "mask--1.nii.gz", "surface-x.stl", "volume.nii", "..%2fparts.json"):
        assert looking.browser.get(f"{PAGE}{other}").status_code == 404
