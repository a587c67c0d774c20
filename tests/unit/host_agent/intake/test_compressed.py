"""Compressed studies as real encoders write them: taken in whole, refused when cut anywhere, drawn where a decoder is at hand."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from monai_aws_pipeline.host_agent.errors import Code, RefusedError
from monai_aws_pipeline.host_agent.intake.dicom import read_studies
from monai_aws_pipeline.host_agent.results import preview
from monai_aws_pipeline.host_agent.results.segmentation import read_source
from tests.unit.host_agent.dicom_files import write_series

Write = Callable[[pydicom.FileDataset, Path], None]


def rle(data: pydicom.FileDataset, path: Path) -> None:
    data.compress(RLELossless)
    data.save_as(path)


def jpeg_2000(data: pydicom.FileDataset, path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(data.pixel_array).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
    data.PixelData = encapsulate([stream.getvalue()])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.save_as(path)


def jpeg_ls(data: pydicom.FileDataset, path: Path) -> None:
    data.compress(JPEGLSLossless)
    data.save_as(path)


def deflated(data: pydicom.FileDataset, path: Path) -> None:
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(path)


def implicit(data: pydicom.FileDataset, path: Path) -> None:
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.save_as(path, implicit_vr=True, little_endian=True)


def plain(data: pydicom.FileDataset, path: Path) -> None:
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(path)


ENCODINGS: dict[str, Write] = {
    "plain": plain,
    "implicit": implicit,
    "deflated": deflated,
    "RLE": rle,
    "JPEG 2000": jpeg_2000,
    "JPEG-LS": jpeg_ls,
}


def encoded(folder: Path, encoding: str, slices: int = 4) -> list[Path]:
    files = write_series(folder, generate_uid(), slices=slices)
    for path in files:
        ENCODINGS[encoding](pydicom.dcmread(path), path)
    return files


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_a_study(encoding: str, tmp_path: Path) -> None:
    (study,) = read_studies(encoded(tmp_path, encoding))
    assert (len(study.instances), study.series, study.modalities) == (4, 1, ("MR",))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("lost", [2, 9, 40, 120])
def test_every_encoding_is_refused_when_its_end_is_lost(encoding: str, lost: int, tmp_path: Path) -> None:
    (path,) = encoded(tmp_path, encoding, slices=1)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(RefusedError) as refused:
        read_studies([path])
    assert refused.value.code is Code.DICOM_TRUNCATED


@pytest.mark.parametrize("encoding", ["deflated", "RLE", "JPEG 2000"])
def test_what_the_host_can_decode_is_drawn(encoding: str, tmp_path: Path) -> None:
    (study,) = read_studies(encoded(tmp_path / "in", encoding))
    assert [path.name for path in preview.describe((), read_source(study.instances), tmp_path)] == ["preview.png"]


@pytest.mark.parametrize("encoding", ["RLE", "JPEG 2000", "JPEG-LS"])
def test_what_the_host_cannot_decode_goes_without_a_picture_and_one_line_says_so(
    encoding: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (study,) = read_studies(encoded(tmp_path / "in", encoding))
    for item in study.instances:
        data = pydicom.dcmread(item.path)
        data.PixelData = encapsulate([b"\xff\x4f\xff\x51 Invented^Nobody " * 9])
        data["PixelData"].is_undefined_length = True
        data.save_as(item.path)
    with caplog.at_level(logging.WARNING):
        assert preview.describe((), read_source(study.instances), tmp_path) == []
    assert [record.getMessage() for record in caplog.records if "no preview was drawn" in record.getMessage()]
    assert "Invented" not in caplog.text
