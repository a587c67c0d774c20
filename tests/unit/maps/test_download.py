"""The model file: found, checked, cached, or refused by name."""

from __future__ import annotations

import hashlib

import pytest

from monai_aws_pipeline.maps.download import MODEL, ModelAlteredError, ModelError, ModelMissingError, ModelUnreachableError, fetch_file

BYTES = b"weights"
DIGEST = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.ts"
    path.write_bytes(BYTES)
    return path


def test_a_path_and_a_file_address_come_into_the_cache_under_their_hash(file, tmp_path):
    expected = tmp_path / "cache" / "models" / DIGEST / "net.ts"
    assert fetch_file(MODEL, str(file), DIGEST, tmp_path / "cache") == expected
    assert fetch_file(MODEL, f"file://{file}", DIGEST, tmp_path / "cache") == expected
    assert expected.read_bytes() == BYTES


def test_a_cached_model_is_not_fetched_again(tmp_path):
    calls = []

    def download(bucket, key, target):
        calls.append((bucket, key))
        target.write_bytes(BYTES)

    for _ in range(2):
        fetch_file(MODEL, "s3://models/liver/net.ts", DIGEST, tmp_path, download_s3=download)
    assert calls == [("models", "liver/net.ts")]


def test_an_altered_model_is_refused_and_not_kept(file, tmp_path):
    file.write_bytes(b"other")
    with pytest.raises(ModelAlteredError, match="MONAI_AWS_MODEL_SHA256"):
        fetch_file(MODEL, str(file), DIGEST, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("net.ts"))


def test_a_cached_model_that_was_damaged_is_fetched_again(file, tmp_path):
    cached = fetch_file(MODEL, str(file), DIGEST, tmp_path / "cache")
    cached.write_bytes(b"damaged")
    assert fetch_file(MODEL, str(file), DIGEST, tmp_path / "cache").read_bytes() == BYTES


def test_each_other_failure_has_its_name(tmp_path):
    def refuse(*_):
        raise PermissionError("no")

    with pytest.raises(ModelMissingError):
        fetch_file(MODEL, str(tmp_path / "nowhere.ts"), DIGEST, tmp_path)
    with pytest.raises(ModelUnreachableError):
        fetch_file(MODEL, "s3://models/net.ts", DIGEST, tmp_path)
    with pytest.raises(ModelUnreachableError, match="PermissionError"):
        fetch_file(MODEL, "s3://models/net.ts", DIGEST, tmp_path, download_s3=refuse)
    with pytest.raises(ModelUnreachableError):
        fetch_file(MODEL, "https://127.0.0.1:9/net.ts", DIGEST, tmp_path)
    with pytest.raises(ModelError, match="not supported"):
        fetch_file(MODEL, "http://127.0.0.1/net.ts", DIGEST, tmp_path)
    with pytest.raises(ModelError, match="file name"):
        fetch_file(MODEL, "s3://models/$(id).ts", DIGEST, tmp_path)
    with pytest.raises(ModelError, match="64 hex"):
        fetch_file(MODEL, "net.ts", "abc", tmp_path)
