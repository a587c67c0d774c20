"""Volumes and pictures of results: measured in millilitres, drawn where the segmentation lies."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent import preview, segmentation
from monai_aws_pipeline.host_agent.dicom import read_studies
from monai_aws_pipeline.host_agent.geometry import planes_under
from monai_aws_pipeline.host_agent.outputs import collect
from monai_aws_pipeline.host_agent.segmentation import read_source

from .dicom_files import write_seg, write_series


@pytest.fixture
def study(tmp_path: Path) -> tuple[str, list[Path]]:
    uid = generate_uid()
    return uid, write_series(tmp_path / "source", uid)


def _mask() -> np.ndarray:
    mask = np.zeros((8, 16, 16), dtype=bool)
    mask[2:5, 4:8, 4:8] = True  # 3 x 4 x 4 voxels of 2 x 2 x 3 mm
    return mask


def test_each_frame_finds_the_source_plane_it_was_drawn_on_even_when_the_files_are_out_of_order(
    study: tuple[str, list[Path]], tmp_path: Path
) -> None:
    (found,) = read_studies(study[1])
    volume = preview.read_volume(read_source(found.instances[::-1]))
    labels = preview.label_map(volume, [segmentation.read_segmentation(write_seg(tmp_path / "seg.dcm", study[1], _mask()))])
    assert np.array_equal(labels > 0, _mask())


def test_a_segmentation_of_another_place_is_not_drawn_over_the_source(study: tuple[str, list[Path]], tmp_path: Path) -> None:
    elsewhere = write_series(tmp_path / "other", study[0], gap=3.7)
    lying = segmentation.read_segmentation(write_seg(tmp_path / "seg.dcm", elsewhere, np.ones((8, 16, 16), bool)))
    (found,) = read_studies(study[1])
    source = preview.read_volume(read_source(found.instances)).grid
    places = planes_under(source, lying.grid)
    apart = np.abs(source.along[None] - lying.grid.along[:, None]).min(axis=1)
    assert [place == -1 for place in places] == [distance > 0.75 for distance in apart], "a quarter of a step of 3 mm is the tolerance"
    assert (places == -1).any()


def test_preview_and_measurements_are_written_for_a_result(study: tuple[str, list[Path]], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_seg(tmp_path / "out" / "seg.dcm", study[1], _mask())
    (found,) = read_studies(study[1])
    written = preview.describe(collect(tmp_path / "out", study[0]), found.instances, tmp_path)
    assert [path.name for path in written] == ["measurements.json", "preview.png"]
    assert json.loads(written[0].read_text())["segments"] == [{"label": "Brain", "number": 1, "volume_ml": 0.576}]
    picture = np.asarray(Image.open(written[1]).convert("RGB")).astype(int)
    assert written[1].stat().st_size <= preview.PREVIEW_BYTES
    assert (picture[..., 0] - picture[..., 2] > 50).any(), "the overlay's red is visible"


def test_a_noisy_large_volume_still_gives_a_small_preview(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    grid = preview.Grid(np.array([[0, 0, z] for z in range(200)], float), np.array([1, 0, 0, 0, 1, 0], float), (1.0, 1.0), 512, 512)
    picture = preview.render(preview.Volume(grid, rng.random((200, 256, 256), dtype=np.float32), 2), [])
    assert len(picture) <= preview.PREVIEW_BYTES
    assert Image.open(io.BytesIO(picture)).width >= 3 * 64


def test_a_result_without_geometry_is_left_without_a_picture_and_without_an_error(tmp_path: Path) -> None:
    assert preview.describe([], [], tmp_path) == []
