"""What the lineage says about a result has names with units, the right types, and no byte of a picture that was not decoded."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import pytest
from dagster import (
    FloatMetadataValue,
    IntMetadataValue,
    MarkdownMetadataValue,
    PathMetadataValue,
    TableMetadataValue,
    TextMetadataValue,
    TimestampMetadataValue,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from monai_aws_pipeline.contract import ContractError, SegmentVolume, parse_measurements
from monai_aws_pipeline.studies.preview import MAX_URI_BYTES, PreviewError, thumbnail_uri
from monai_aws_pipeline.studies.record_metadata import record_metadata
from tests.unit.studies.records import DIGEST, picture, refused, succeeded


def test_a_result_is_shown_with_units_and_types():
    record = succeeded(1)
    metadata = record_metadata(record, (SegmentVolume("Brain", 1437.2512), SegmentVolume("Left Kidney!", 0.5)), picture(), bucket="studies")
    assert metadata["inference_s"] == FloatMetadataValue(9.25)
    assert metadata["total_s"] == FloatMetadataValue(44.4)
    assert metadata["cost_usd"] == FloatMetadataValue(0.0065)
    assert metadata["cost_idle_usd"] == FloatMetadataValue(0.0005)
    assert metadata["cost_basis"] == TextMetadataValue("0.526 USD/h g4dn.xlarge for 44.4 s")
    assert metadata["volume_brain_ml"] == FloatMetadataValue(1437.251)
    assert metadata["volume_left_kidney_ml"] == FloatMetadataValue(0.5)
    assert metadata["peak_memory_mib"] == FloatMetadataValue(1536.0)
    assert metadata["cpu_s"] == FloatMetadataValue(11.5)
    assert metadata["map_hosting"] == TextMetadataValue("warm")
    assert metadata["input_instances"] == IntMetadataValue(181)
    assert metadata["map_digest"] == TextMetadataValue(DIGEST)
    assert metadata["record"] == PathMetadataValue(f"s3://studies/output/{record.study}/{record.job}/result.json")
    assert metadata["s3_dicom_seg"] == PathMetadataValue(f"s3://studies/output/{record.study}/{record.job}/dicom/seg.dcm")
    assert isinstance(metadata["committed_at"], TimestampMetadataValue)
    assert isinstance(metadata["preview"], MarkdownMetadataValue)
    table = metadata["outputs"]
    assert isinstance(table, TableMetadataValue)
    assert [row.data["kind"] for row in table.records] == ["dicom-seg", "mesh", "measurements", "preview"]
    assert "peak_gpu_memory_mib" not in metadata, "no GPU, no figure"


def test_a_refused_upload_is_shown_with_its_reason():
    metadata = record_metadata(refused(1), (), None, bucket="studies")
    assert metadata["status"] == TextMetadataValue("quarantined")
    assert metadata["error_code"] == TextMetadataValue("NOT_A_ZIP")
    assert "preview" not in metadata
    assert "study" not in metadata


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"segments": 1}',
        '{"segments": [{}]}',
        '{"segments": [{"label": 1, "volume_ml": 1}]}',
        '{"segments": [{"label": "a", "volume_ml": NaN}]}',
    ],
)
def test_measurements_of_another_shape_are_refused(text: str):
    with pytest.raises(ContractError, match="measurements"):
        parse_measurements(text)


@pytest.mark.parametrize("size", [(1, 1), (40, 1200), (600, 200), (900, 700)])
def test_a_thumbnail_is_a_png_within_the_limit(size: tuple[int, int]):
    uri = thumbnail_uri(picture(*size))
    assert len(uri) <= MAX_URI_BYTES
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as small:
        assert small.format == "PNG"
        assert small.width <= 640


def test_a_thumbnail_carries_no_text_of_the_original():
    info = PngInfo()
    info.add_text("Comment", "DOE^JANE")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "navy").save(buffer, "PNG", pnginfo=info)
    assert b"DOE^JANE" in buffer.getvalue()
    assert b"DOE^JANE" not in base64.b64decode(thumbnail_uri(buffer.getvalue()).partition(",")[2])


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


HOSTILE = {
    "empty": b"",
    "text": b"<svg onload=alert(1)>",
    "a JPEG by another name": b"\xff\xd8\xff\xe0" + b"\0" * 100,
    "cut short": picture()[:500],
    "a bomb of 100000 x 100000 pixels": _png(100_000, 100_000, zlib.compress(b"\0" * 100)),
    "a bomb below Pillow's own limit": _png(8000, 8000, zlib.compress(b"\0" * (8000 * 24001))),
    "no such size": _png(0, 0, zlib.compress(b"")),
    "larger than any of ours": b"\x89PNG\r\n\x1a\n" + b"\0" * 3_000_000,
}


@pytest.mark.parametrize("png", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_preview_is_refused(png: bytes):
    with pytest.raises(PreviewError):
        thumbnail_uri(png)
    metadata = record_metadata(succeeded(1), (), png, bucket="studies")
    assert isinstance(metadata["preview"], TextMetadataValue)
