"""Images of an engine as they arrive in a registry: what engines of before and of now save, and what is refused of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import urllib.error
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import zstandard

from monai_aws_pipeline.deployment import registry_upload
from monai_aws_pipeline.deployment.registry_upload import GZIP, ZSTD, Packing, UnknownFormatError, engine_reads_zstd, upload_saved

MAP, KEPT = "registry.example.org/map:1.0", "registry.example.org/map:dependencies-1"
LARGE, SMALL = os.urandom(3 << 20), b"a layer of a few bytes"


class Registry:
    """Remembers what it was sent. ``refuses``: tags that it does not take."""

    def __init__(self, refuses: str = "") -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, Any] = {}
        self.refuses, self.sent = refuses, 0

    def has(self, digest: str) -> bool:
        return digest in self.blobs

    def put_blob(self, path: Path, digest: str) -> None:
        assert digest_of(path.read_bytes()) == digest
        self.blobs[digest] = path.read_bytes()
        self.sent += 1

    def put_manifest(self, tag: str, manifest: bytes) -> None:
        document = json.loads(manifest)
        assert all(each["digest"] in self.blobs for each in (document["config"], *document["layers"])), "as a registry sees to"
        if tag == self.refuses:
            raise urllib.error.HTTPError("", 400, "immutable", Message(), None)
        self.manifests[tag] = document

    def unpacked(self, tag: str) -> list[bytes]:
        return [unpacked(self.blobs[layer["digest"]]) for layer in self.manifests[tag]["layers"]]


def unpacked(blob: bytes) -> bytes:
    """What a layer unpacks to, by its first bytes."""
    return (
        gzip.decompress(blob)
        if blob.startswith(GZIP.magic)
        else zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(blob)
    )


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def config_of(*layers: bytes) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}}).encode()


def described(tag: str, config: str, *layers: str) -> dict[str, Any]:
    return {"Config": config, "RepoTags": [tag], "Layers": list(layers)}


def old_layout(**changes: bytes) -> dict[str, bytes | str]:
    """As engines before 25 save: a folder a layer, equal layers as links to one. A text is a link's target."""
    images = [
        described(MAP, "aa.json", "1/layer.tar", "2/layer.tar", "3/layer.tar"),
        described(KEPT, "bb.json", "1/layer.tar"),
    ]
    return {
        "1/layer.tar": LARGE,
        "2/layer.tar": SMALL,
        "3/layer.tar": "../2/layer.tar",
        "aa.json": config_of(LARGE, SMALL, SMALL),
        "bb.json": config_of(LARGE),
        "manifest.json": json.dumps(images).encode(),
        **changes,
    }


def new_layout(large: bytes = LARGE) -> dict[str, bytes | str]:
    """As engines since 25 save, in the layout of OCI; on containerd layers are compressed as they were pulled."""
    config, kept = config_of(LARGE, SMALL), config_of(LARGE)
    blobs = {f"blobs/sha256/{hashlib.sha256(content).hexdigest()}": content for content in (large, SMALL, config, kept)}
    names = list(blobs)
    images = [described(MAP, names[2], names[0], names[1]), described(KEPT, names[3], names[0])]
    return {**blobs, "index.json": b"{}", "manifest.json": json.dumps(images).encode(), "oci-layout": b"{}"}


@pytest.fixture
def push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Push what an engine would save."""

    def run(saved: dict[str, bytes | str] | bytes, registry: Registry, packing: Packing = GZIP) -> dict[str, str]:
        content = io.BytesIO()
        if isinstance(saved, dict):
            with tarfile.open(fileobj=content, mode="w") as archive:
                for name, member in saved.items():
                    info = tarfile.TarInfo(name)
                    if isinstance(member, str):
                        info.type, info.linkname = tarfile.SYMTYPE, member
                        archive.addfile(info)
                    else:
                        info.size = len(member)
                        archive.addfile(info, io.BytesIO(member))
        (tmp_path / "saved").write_bytes(content.getvalue() if isinstance(saved, dict) else saved)
        programs, work = tmp_path / "bin", tmp_path / "work"
        programs.mkdir()
        work.mkdir()
        (programs / "docker").write_text(f'#!/bin/sh\n[ "$*" = "save {MAP} {KEPT}" ] && cat {tmp_path}/saved\n')
        (programs / "docker").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setattr(registry_upload.time, "sleep", lambda _: None)
        found = upload_saved([MAP, KEPT], registry, work, packing)  # type: ignore[arg-type]
        assert [path.name for path in work.iterdir()] == ["config"], "no layer is left on the disk"
        return found

    return run


def in_frames(content: bytes) -> bytes:
    """As an engine may keep a layer: several frames, as compressors with threads or an index make them."""
    return b"".join(zstandard.compress(content[at : at + (1 << 20)]) for at in range(0, len(content), 1 << 20))


@pytest.mark.parametrize(
    ("saved", "layers", "packing"),
    [
        (old_layout(), [LARGE, SMALL, SMALL], GZIP),
        (new_layout(), [LARGE, SMALL], GZIP),
        (new_layout(gzip.compress(LARGE)), [LARGE, SMALL], GZIP),
        (old_layout(), [LARGE, SMALL, SMALL], ZSTD),
        (new_layout(), [LARGE, SMALL], ZSTD),
        (new_layout(gzip.compress(LARGE)), [LARGE, SMALL], ZSTD),
        (new_layout(in_frames(LARGE)), [LARGE, SMALL], ZSTD),
    ],
    ids=["before 25", "since 25", "on containerd", "before 25 zstd", "since 25 zstd", "on containerd to zstd", "on containerd zstd"],
)
def test_images_arrive_whole_with_the_layers_that_they_share_sent_once(
    push, saved: dict[str, bytes | str], layers: list[bytes], packing: Packing
):
    registry = Registry()
    digests = push(saved, registry, packing)
    for found in registry.manifests.values():
        assert (found["mediaType"], found["config"]["mediaType"]) == (packing.manifest, packing.config)
        assert {layer["mediaType"] for layer in found["layers"]} == {packing.layer}
        assert all(registry.blobs[layer["digest"]].startswith(packing.magic) for layer in found["layers"])
    assert registry.unpacked("1.0") == layers
    assert registry.unpacked("dependencies-1") == [LARGE]
    assert json.loads(registry.blobs[registry.manifests["1.0"]["config"]["digest"]]) == json.loads(config_of(*layers))
    assert digests == {tag: digest_of(json.dumps(found, indent=1).encode()) for tag, found in registry.manifests.items()}
    assert registry.sent == 4, "two layers and two configurations"


@pytest.mark.parametrize("packing", [GZIP, ZSTD], ids=["gzip", "zstd"])
def test_equal_images_get_equal_digests(push, tmp_path: Path, packing: Packing):
    first = push(old_layout(), Registry(), packing)
    for name in ("bin/docker", "work/config"):
        (tmp_path / name).unlink()
    for name in ("bin", "work"):
        (tmp_path / name).rmdir()
    assert push(old_layout(), Registry(), packing) == first


def test_what_the_registry_has_is_not_sent_again(push):
    registry = Registry()
    registry.blobs[digest_of(config_of(LARGE))] = config_of(LARGE)
    push(old_layout(), registry)
    assert registry.sent == 3


def test_a_stage_that_is_refused_takes_nothing_from_the_map(push, capsys: pytest.CaptureFixture[str]):
    assert set(push(old_layout(), Registry(refuses="dependencies-1"))) == {"1.0"}
    assert "dependencies-1 is not kept: " in capsys.readouterr().out


def test_a_map_that_is_refused_is_an_error(push):
    with pytest.raises(urllib.error.HTTPError):
        push(old_layout(), Registry(refuses="1.0"))


def test_a_registry_that_refuses_it_with_zstd_layers_gets_it_from_the_engine(push):
    registry = Registry(refuses="1.0")
    with pytest.raises(UnknownFormatError, match="does not take the image with zstd layers: the registry answered 400"):
        push(old_layout(), registry, ZSTD)
    assert not registry.manifests


@pytest.mark.parametrize(
    ("script", "reads"),
    [
        (
            '[ "$*" = "import -" ] && cat > FOLDER/asked && echo sha256:abc || { [ "$*" = "image rm sha256:abc" ] && touch FOLDER/gone; }',
            True,
        ),
        ("cat > /dev/null; echo 'Error response from daemon: archive/tar: invalid tar header' >&2; exit 1", False),
        ("exit 125", False),
    ],
    ids=["from 23 on", "before", "no engine"],
)
def test_the_engine_is_asked_whether_it_reads_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reads: bool):
    (tmp_path / "docker").write_text("#!/bin/sh\n" + script.replace("FOLDER", str(tmp_path)) + "\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert engine_reads_zstd() is reads
    assert (tmp_path / "gone").exists() is reads
    if reads:
        with tarfile.open(fileobj=io.BytesIO(unpacked((tmp_path / "asked").read_bytes()))) as archive:
            assert archive.getnames() == ["asked"]


@pytest.mark.parametrize(
    "damaged", [ZSTD.magic + LARGE, zstandard.compress(LARGE)[:-9], GZIP.magic + LARGE], ids=["zstd", "cut off", "gzip"]
)
def test_a_damaged_layer_of_the_engine_is_named_where_zstd_is_pushed_too(push, damaged: bytes):
    registry = Registry()
    with pytest.raises(UnknownFormatError):
        push(new_layout(damaged), registry, ZSTD)
    assert not registry.manifests


def test_a_machine_without_zstandard_asks_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry_upload, "zstandard", None)
    monkeypatch.setattr(registry_upload.subprocess, "run", lambda *_, **__: pytest.fail("nothing is asked"))
    assert not engine_reads_zstd()


@pytest.mark.parametrize(
    "saved",
    [
        old_layout(**{"1/layer.tar": os.urandom(2 << 20)}),  # another layer than the image names
        old_layout(**{"manifest.json": b"[]"}),
        old_layout(**{"manifest.json": json.dumps([described(MAP, "aa.json", "9/layer.tar")]).encode()}),
        old_layout(**{"manifest.json": b"{"}),
        old_layout(**{"1/layer.tar": b"\x28\xb5\x2f\xfd" + LARGE}),
        new_layout(b"\x1f\x8b" + LARGE),
        {name: member for name, member in old_layout().items() if name != "aa.json"},
        {**old_layout(), "3/layer.tar": "../4/layer.tar", "4/layer.tar": "../3/layer.tar"},
        b"no archive",
        b"",
    ],
    ids=[
        "altered",
        "no image",
        "no layer",
        "no json",
        "zstd",
        "damaged gzip",
        "no configuration",
        "links in a circle",
        "no archive",
        "empty",
    ],
)
def test_what_is_not_known_is_named_and_nothing_is_in_the_registry_by_name(push, saved: dict[str, bytes | str] | bytes):
    registry = Registry()
    with pytest.raises(UnknownFormatError):
        push(saved, registry)
    assert not registry.manifests
