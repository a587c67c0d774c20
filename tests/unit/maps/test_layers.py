"""Layers of an image as somebody hostile would make them: read within bounds, refused by name, and nothing of them believed."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.maps.layers import MAX_TEXT_BYTES, Layer, LayerRefusedError, flatten, read_layer

APP_JSON = "/etc/holoscan/app.json"
Entry = tuple[str, bytes, bytes]


def layer(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with gzip of entries (name, type, content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=form) as archive:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = "target" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def file(name: str, content: bytes = b"x") -> Entry:
    return (name, tarfile.REGTYPE, content)


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def read(blob: bytes, **limits: int) -> Layer:
    return read_layer(blob, {APP_JSON}, **limits)


def test_paths_and_the_wanted_text_are_read():
    blob = layer(("etc/", tarfile.DIRTYPE, b""), file("etc/holoscan/app.json", b"{}"), file("./opt/big", b"y" * 5000), file("last"))
    found = read(blob)
    assert found.paths == {"/etc", APP_JSON, "/opt/big", "/last"}
    assert found.texts == {APP_JSON: "{}"}
    assert read(gzip.decompress(blob)) == found


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_are_read_in_both_ways_of_writing_them(form: int):
    name = "opt/" + "ü" * 90 + "/" + "n" * 150
    assert read(layer(file(name), file("after"), form=form)).paths == {f"/{name}", "/after"}


def test_a_name_that_leads_out_of_the_image_is_not_a_path_of_it():
    assert read(layer(file("../outside"), file("a/../../b"), file("/etc/ok"), file("a/" * 100 + "deep"))).paths == {"/etc/ok"}


def test_a_link_is_a_path_and_never_a_text():
    found = read(layer(("etc/holoscan/app.json", tarfile.SYMTYPE, b""), ("dev/x", tarfile.CHRTYPE, b""), file("after")))
    assert found.paths == {APP_JSON, "/dev/x", "/after"}
    assert found.texts == {}


def test_a_wanted_file_is_kept_up_to_its_bound_and_what_follows_is_still_found():
    found = read(layer(file("etc/holoscan/app.json", b"a" * 200_000), file("after")))
    assert len(found.texts[APP_JSON]) == MAX_TEXT_BYTES
    assert "/after" in found.paths


def test_a_bomb_is_refused_before_it_takes_memory():
    bomb = gzip.compress(header("zeros", tarfile.REGTYPE, 1 << 30) + bytes(8 << 20))
    with pytest.raises(LayerRefusedError, match="more than a layer may hold"):
        read(bomb, max_unpacked=1 << 20)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_huge_extended_header_is_refused_unread(kind: bytes):
    with pytest.raises(LayerRefusedError, match="extended header"):
        read(header("x", kind, 1 << 30))


def test_too_many_entries_are_refused():
    with pytest.raises(LayerRefusedError, match="more than 3 entries"):
        read(layer(*(file(f"f{number}") for number in range(4))), max_members=3)


@pytest.mark.parametrize(
    "record",
    [b"99999999 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"path", b"9 size=-1\n", b"10 size=1e9\n", b"3 =", b"12 size=\xd9\xa1\n"],
)
def test_a_damaged_extended_header_is_refused(record: bytes):
    padded = record + bytes(-len(record) % 512)
    with pytest.raises(LayerRefusedError):
        read(header("x", tarfile.XHDTYPE, len(record)) + padded + header("name", tarfile.REGTYPE, 0))


def test_a_sparse_file_is_refused():
    with pytest.raises(LayerRefusedError, match="sparse"):
        read(header("x", tarfile.GNUTYPE_SPARSE, 0))


def test_a_layer_that_was_cut_off_is_refused():
    whole = gzip.decompress(layer(file("first", b"z" * 3000)))
    for blob in (whole[:300], whole[:2000], gzip.compress(whole)[:60]):
        with pytest.raises(LayerRefusedError):
            read(blob)


def test_a_layer_reads_the_same_whatever_it_is_compressed_with():
    packed = layer(file("etc/holoscan/app.json", b"said"), file("opt/.wh.gone"), file("large", b"z" * 3_000_000))
    plain = gzip.decompress(packed)
    in_frames = b"".join(zstandard.compress(part) for part in (plain[:700], plain[700:2_000_000], plain[2_000_000:]))
    skipped = b"\x5a\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
    indexed = b"".join(skipped + zstandard.compress(part) for part in (plain[:900], plain[900:]))
    for blob in (packed, zstandard.compress(plain), in_frames, indexed):
        assert read(blob) == read(plain)
    assert read(in_frames).texts == {APP_JSON: "said"}


def test_a_zstd_layer_that_was_cut_off_or_changed_is_refused():
    packed = zstandard.compress(gzip.decompress(layer(file("first", bytes(range(256)) * 40))))
    for blob in (packed[:4], packed[:40], packed[:12] + bytes(len(packed) - 12), packed[: len(packed) // 2]):
        with pytest.raises(LayerRefusedError):
            read(blob)


def test_a_zstd_layer_is_bounded_in_what_it_unpacks_to_and_in_what_it_asks_of_its_reader():
    bomb = zstandard.compress(gzip.decompress(layer(file("large", bytes(5_000_000)))))
    assert len(bomb) < 5_000
    with pytest.raises(LayerRefusedError, match="more than a layer may hold"):
        read(bomb, max_unpacked=1_000_000)
    # RFC 8878, 3.1.1.1: a frame of unknown size whose window descriptor asks for 2 GiB, and one raw block.
    greedy, modest = (b"\x28\xb5\x2f\xfd\x00" + bytes([(bits - 10) << 3]) + b"\x01\x20\x00" + bytes(1024) for bits in (31, 23))
    with pytest.raises(LayerRefusedError, match="damaged"):
        read(greedy)
    assert read(modest) == Layer(frozenset())


@given(st.binary(max_size=2000))
def test_whatever_it_is_it_is_read_or_refused(blob: bytes):
    with contextlib.suppress(LayerRefusedError):
        read(blob)


def test_upper_layers_replace_remove_and_empty_what_lies_below():
    lower = read(layer(file("etc/holoscan/app.json", b"old"), file("opt/a/one"), file("opt/ab"), file("var/x")))
    upper = read(layer(file("opt/.wh.a"), file("var/.wh..wh..opq"), file("var/y"), file("etc/holoscan/app.json", b"new")))
    whole = flatten([lower, upper])
    assert whole.paths == {APP_JSON, "/opt/ab", "/var/y"}
    assert whole.texts == {APP_JSON: "new"}
    assert flatten([lower, read(layer(file("etc/.wh.holoscan")))]).texts == {}
