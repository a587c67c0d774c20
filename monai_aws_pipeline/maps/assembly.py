"""An image put together without an engine: the layers of an image that a registry holds, and layers of ours on top.

Here belong the bytes: a layer as a tar that follows from the files alone, the configuration and the manifest that name what the image is
made of. Nothing is pulled for it, so that a change of some megabytes does not move gigabytes. Who uploads it is the caller's business.
Formats: the OCI image specification (https://github.com/opencontainers/image-spec, ``layer.md``, ``config.md`` and ``manifest.md``).

Layers are not compressed. Weights hardly shrink, and a compressor's output changes with its version, a tar's does not: equal files
make equal layers on every machine.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.maps import dockerfile
from monai_aws_pipeline.maps.build_context import BuildContext

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
TAR: Final = "application/vnd.oci.image.layer.v1.tar"
_REMEDY: Final = "delete the image dependencies-KEY in ECR, and build again"
_MADE: Final = "1980-01-01T00:00:00Z"  # recipe.EPOCH: the image bears no time of its making, so equal inputs make an equal image


class AssemblyError(NamedError, ValueError):
    """The lower image is not one that layers can be put on."""


@dataclass(frozen=True)
class Blob:
    """One layer. ``media_type`` as in a manifest; ``bytes`` as the registry holds it."""

    digest: str
    bytes: int
    media_type: str = TAR


def write_image(context: BuildContext, base_config: Mapping[str, Any], base_layers: Sequence[Blob], target: Path) -> str:
    """Write the MAP of a build context on top of its dependency image. Returns the digest that the image will have.

    Writes ``manifest.json``, ``config.json`` and ``layers/SHA256`` for each new layer into ``target``, which must not exist or be empty.
    Raises AssemblyError when the configuration of the dependency image does not fit its layers.
    """
    known = _diff_ids(base_config)
    if len(known) != len(base_layers):
        raise AssemblyError(f"the dependency image has {len(base_layers)} layers, but its configuration names {len(known)}; {_REMEDY}")
    folders = [context.path / name for name in ("model", "app") if (context.path / name).is_dir()]
    (target / "layers").mkdir(parents=True)
    added = [_write_layer(folder, target / "layers") for folder in folders]
    config = _config(context, base_config, [*known, *(blob.digest for blob in added)])
    blobs = [*(Blob(each.digest, each.bytes, _oci(each.media_type)) for each in base_layers), *added]
    manifest = _text(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": blob.media_type, "digest": blob.digest, "size": blob.bytes} for blob in blobs],
        }
    )
    (target / "config.json").write_bytes(config)
    (target / "manifest.json").write_bytes(manifest)
    return _digest(manifest)


def _write_layer(folder: Path, target: Path) -> Blob:
    """The files of a folder as a layer that lays them onto ``/``: sorted by name, owned by root, times and modes as they are there."""
    partial = target / "partial"
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            found = path.stat()
            member.mtime, member.mode = int(found.st_mtime), found.st_mode & 0o7777
            if path.is_dir():
                member.type, member.mtime = tarfile.DIRTYPE, dockerfile.EPOCH
                archive.addfile(member)
                continue
            member.size = found.st_size
            with path.open("rb") as content:
                archive.addfile(member, content)
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    size = partial.stat().st_size
    partial.rename(target / digest)
    return Blob(f"sha256:{digest}", size)


def _config(context: BuildContext, base: Mapping[str, Any], diff_ids: Sequence[str]) -> bytes:
    given = base.get("config") or {}
    variables = {name: value for name, _, value in (str(each).partition("=") for each in given.get("Env") or ())}
    return _text(
        {
            "architecture": base.get("architecture", "amd64"),
            "os": base.get("os", "linux"),
            "created": _MADE,
            "config": {
                "User": f"{dockerfile.UID}:{dockerfile.UID}",
                "WorkingDir": dockerfile.WORK_DIR,
                "Entrypoint": [dockerfile.ENTRY_POINT],
                "Env": [f"{name}={value}" for name, value in {**variables, **dict(context.environment)}.items()],
                "Labels": {**(given.get("Labels") or {}), **dict(context.labels)},
            },
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        }
    )


def _diff_ids(config: Mapping[str, Any]) -> list[str]:
    try:
        return [str(each) for each in config["rootfs"]["diff_ids"]]
    except (KeyError, TypeError) as error:
        raise AssemblyError(f"the configuration of the dependency image names no layers; {_REMEDY}") from error


def _oci(media_type: str) -> str:
    """The same kind of layer in the words of an OCI manifest; docker's own are of one meaning with them."""
    if "gzip" in media_type:
        return f"{TAR}+gzip"
    return f"{TAR}+zstd" if "zstd" in media_type else TAR


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
