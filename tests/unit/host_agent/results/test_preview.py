"""Volumes and pictures of results: measured in millilitres, drawn where the segmentation lies."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import ExpectedVolume, Measurements, SegmentVolume
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.intake.geometry import planes_under
from monai_aws_pipeline.host_agent.results import preview, segmentation
from monai_aws_pipeline.host_agent.results.outputs import collect
from monai_aws_pipeline.host_agent.results.segmentation import Source, read_source
from tests.unit.host_agent.dicom_files import write_seg, write_series
from tests.unit.host_agent.multi_frame import multi_frame


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
    for file in elsewhere:
        data = pydicom.dcmread(file)
        data.FrameOfReferenceUID = pydicom.dcmread(study[1][0]).FrameOfReferenceUID
        data.save_as(file)
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
    written = preview.describe(collect(tmp_path / "out", study[0]), read_source(found.instances), tmp_path)
    assert [path.name for path in written] == ["measurements.json", "preview.png"]
    assert json.loads(written[0].read_text())["segments"] == [{"label": "Brain", "number": 1, "volume_ml": 0.576}]
    picture = np.asarray(Image.open(written[1]).convert("RGB")).astype(int)
    assert written[1].stat().st_size <= preview.PREVIEW_BYTES
    assert (picture[..., 0] - picture[..., 2] > 50).any(), "the overlay's red is visible"


def test_the_volumes_that_the_map_declares_stand_beside_the_measured_ones(study: tuple[str, list[Path]], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_seg(tmp_path / "out" / "seg.dcm", study[1], _mask())
    (found,) = read_studies(study[1])
    declared = (ExpectedVolume("Brain", 0.5, 0.6), ExpectedVolume("Liver", high=2000))
    preview.describe(collect(tmp_path / "out", study[0]), read_source(found.instances), tmp_path, expected=declared)
    text = (tmp_path / "measurements.json").read_text()
    assert Measurements.from_json(text) == Measurements((SegmentVolume("Brain", 0.576),), tuple(declared))
    assert Measurements.from_json('{"segments": []}').expected == (), "as an older host wrote it"


def test_a_noisy_large_volume_still_gives_a_small_preview(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    grid = preview.Grid(np.array([[0, 0, z] for z in range(200)], float), np.array([1, 0, 0, 0, 1, 0], float), (1.0, 1.0), 512, 512)
    picture = preview.render(preview.Volume(grid, rng.random((200, 256, 256), dtype=np.float32), 2), [])
    assert len(picture) <= preview.PREVIEW_BYTES
    assert Image.open(io.BytesIO(picture)).width >= 3 * 64


def test_a_result_without_geometry_is_left_without_a_picture_and_without_an_error(tmp_path: Path) -> None:
    assert preview.describe([], Source(), tmp_path) == []


def colours_of(path: Path) -> np.ndarray:
    """Which pixels of a picture are coloured."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.asarray(np.ptp(picture, axis=-1) > 20)


def described(files: list[Path], folder: Path) -> Path:
    (study,) = read_studies(files)
    source = read_source(study.instances)
    written = preview.describe(collect(folder, study.uid, source), source, folder.parent)
    assert [path.name for path in written] == ["measurements.json", "preview.png"]
    return written[1]


def test_the_series_that_was_segmented_is_drawn_and_not_the_largest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uid = generate_uid()
    segmented = write_series(tmp_path / "segmented", uid)
    larger = write_series(tmp_path / "larger", uid, slices=20)
    for file in larger:  # the same matrix, thirty millimetres beside
        data = pydicom.dcmread(file)
        data.ImagePositionPatient = [20.0, -20.0, data.ImagePositionPatient[2]]
        data.save_as(file)
    (tmp_path / "out").mkdir()
    lying = segmentation.read_segmentation(write_seg(tmp_path / "out" / "seg.dcm", segmented, _mask()))
    (study,) = read_studies([*segmented, *larger])
    volume = preview.read_volume(read_source(study.instances), [lying])
    assert volume.pixels.shape == (8, 16, 16)
    assert np.array_equal(preview.label_map(volume, [lying]) > 0, _mask())
    assert colours_of(described([*segmented, *larger], tmp_path / "out")).any()
    assert not caplog.records
    assert preview.read_volume(read_source(study.instances)).pixels.shape == (20, 16, 16), "without a segmentation the largest"


def test_of_segmentations_on_two_series_the_larger_one_is_drawn_on_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uid = generate_uid()
    one, other = write_series(tmp_path / "one", uid, slices=12), write_series(tmp_path / "other", uid, gap=4.0)
    (tmp_path / "out").mkdir()
    small, large = np.zeros((12, 16, 16), bool), np.zeros((8, 16, 16), bool)
    small[2:4, 4:6, 4:6], large[2:6, 2:12, 2:12] = True, True
    write_seg(tmp_path / "out" / "a.dcm", one, small)
    write_seg(tmp_path / "out" / "b.dcm", other, large)
    assert colours_of(described([*one, *other], tmp_path / "out")).any()
    assert [record.getMessage() for record in caplog.records] == ["2 of 2 segmentation frames do not lie on the planes that are drawn"]


def test_a_segmentation_that_names_no_series_is_drawn_where_it_lies(tmp_path: Path) -> None:
    uid = generate_uid()
    segmented, larger = write_series(tmp_path / "segmented", uid), write_series(tmp_path / "larger", uid, slices=20, gap=3.7)
    path = write_seg(tmp_path / "seg.dcm", segmented, _mask())
    data = pydicom.dcmread(path)
    del data.ReferencedSeriesSequence
    data.save_as(path)
    (study,) = read_studies([*segmented, *larger])
    volume = preview.read_volume(read_source(study.instances), [segmentation.read_segmentation(path)])
    assert volume.pixels.shape == (8, 16, 16)


def test_the_frames_of_an_enhanced_image_are_drawn_where_each_lies(study: tuple[str, list[Path]], tmp_path: Path) -> None:
    path = multi_frame(study[1], tmp_path / "enhanced.dcm")
    (classic,), (enhanced,) = read_studies(study[1]), read_studies([path])
    wanted, found = (preview.read_volume(read_source(one.instances)) for one in (classic, enhanced))
    assert np.array_equal(found.grid.positions, wanted.grid.positions)
    assert np.abs(found.pixels - wanted.pixels).max() <= 8, "whole numbers were divided"
    (tmp_path / "out").mkdir()
    seg = write_seg(tmp_path / "out" / "seg.dcm", study[1], _mask())
    data = pydicom.dcmread(seg)
    series = pydicom.dcmread(path)
    data.ReferencedSeriesSequence[0].SeriesInstanceUID = series.SeriesInstanceUID
    reference = data.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = series.SOPClassUID, series.SOPInstanceUID
    data.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [reference]
    del data.SourceImageSequence
    for frame in data.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence[0].SourceImageSequence = [reference]
    data.save_as(seg)
    assert colours_of(described([path], tmp_path / "out")).any()
    assert json.loads((tmp_path / "measurements.json").read_text())["segments"][0]["volume_ml"] == 0.576


def test_an_inverted_image_is_drawn_as_it_is_read(study: tuple[str, list[Path]]) -> None:
    (found,) = read_studies(study[1])
    plain = preview.read_volume(read_source(found.instances)).pixels
    for path in study[1]:
        data = pydicom.dcmread(path)
        data.PhotometricInterpretation, data.PixelData = "MONOCHROME1", (1000 - data.pixel_array).astype("<u2").tobytes()
        data.save_as(path)
    inverted = preview.read_volume(read_source(found.instances)).pixels
    assert np.array_equal(inverted + 1000, plain)


def test_images_without_places_and_pictures_in_time_give_one_plane(study: tuple[str, list[Path]], tmp_path: Path) -> None:
    for path in study[1]:
        data = pydicom.dcmread(path)
        del data.ImagePositionPatient
        data.save_as(path)
    (found,) = read_studies(study[1])
    assert preview.read_volume(read_source(found.instances)).pixels.shape == (1, 16, 16)
    data = pydicom.dcmread(study[1][0])
    data.NumberOfFrames, data.PixelData = 3, b"".join(np.full((16, 16), value, "<u2").tobytes() for value in (1, 2, 3))
    data.save_as(study[1][0])
    (found,) = read_studies(study[1][:1])
    assert preview.read_volume(read_source(found.instances)).pixels.max() == 2


def test_a_direction_or_a_second_image_of_a_place_is_not_mixed_into_the_volume(study: tuple[str, list[Path]], tmp_path: Path) -> None:
    first = pydicom.dcmread(study[1][0])
    other = write_series(tmp_path / "localizer", study[0], slices=5)
    echo = write_series(tmp_path / "echo", study[0])
    for index, file in enumerate([*other, *echo]):
        data = pydicom.dcmread(file)
        data.SeriesInstanceUID, data.FrameOfReferenceUID = first.SeriesInstanceUID, first.FrameOfReferenceUID
        if index < len(other):
            data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        else:
            data.ImagePositionPatient = [*data.ImagePositionPatient[:2], float(data.ImagePositionPatient[2]) + 0.0004]
        data.save_as(file)
    (found,) = read_studies([*other, *study[1], *echo])
    volume = preview.read_volume(read_source(found.instances))
    assert volume.pixels.shape == (8, 16, 16)
    assert volume.grid.step == pytest.approx(3.0, abs=1e-3)
