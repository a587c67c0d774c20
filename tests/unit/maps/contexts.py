"""A build context, and the image it is built on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from monai_aws_pipeline.maps import assembly
from monai_aws_pipeline.maps.build_context import BuildContext, write_context
from monai_aws_pipeline.maps.models import Model
from monai_aws_pipeline.maps.source import checkout

TINY = "tests/apps/tiny"
BASE = "registry.example.org/base:1"
BASE_CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["PATH=/opt/venv/bin:/usr/bin", "HOME=/tmp"], "Labels": {"vendor": "someone"}},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]},
}
BASE_LAYERS = [assembly.Blob("sha256:" + "2" * 64, 1000, "application/vnd.docker.image.rootfs.diff.tar.gzip")]
WEIGHTS = b"not really weights"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


def context(tmp_path: Path, name: str, app: str = TINY, **options: object) -> BuildContext:
    source = checkout(app, "HEAD", ".", tmp_path / f"{name}-source")
    if "wheels" in options:
        options.setdefault("gathered", "w1")
    file, sha256 = options.pop("model_file", None), str(options.pop("model_sha256", ""))
    if isinstance(file, Path):
        options["models"] = (Model(file.stem, file, sha256),)
    return write_context(source, tmp_path / name, base_image=str(options.pop("base_image", BASE)), **options)  # type: ignore[arg-type]
