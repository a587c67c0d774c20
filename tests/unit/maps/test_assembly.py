"""An image put together without an engine: the same bytes every time, only what changed is new, and a registry that takes it."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import dockerfile
from monai_aws_pipeline.maps.assembly import TAR, AssemblyError, write_image
from tests.unit.maps.contexts import BASE_CONFIG, BASE_LAYERS, DIGEST, WEIGHTS, context


def put_together(tmp_path: Path, name: str, **options: object) -> tuple[str, dict[str, object], Path]:
    built = context(tmp_path, name, **options)
    target = tmp_path / f"{name}-image"
    digest = write_image(built, BASE_CONFIG, BASE_LAYERS, target)
    text = (target / "manifest.json").read_bytes()
    assert digest == f"sha256:{hashlib.sha256(text).hexdigest()}"
    return digest, json.loads(text), target


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.ts"
    path.write_bytes(WEIGHTS)
    return path


def test_equal_inputs_make_an_equal_image(tmp_path: Path, model: Path):
    one = put_together(tmp_path, "one", model_file=model, model_sha256=DIGEST)
    two = put_together(tmp_path, "two", model_file=model, model_sha256=DIGEST)
    assert one[:2] == two[:2]


def test_another_model_makes_one_other_layer(tmp_path: Path, model: Path):
    _, before, _ = put_together(tmp_path, "one", model_file=model, model_sha256=DIGEST)
    other = tmp_path / "other" / "net.ts"
    other.parent.mkdir()
    other.write_bytes(b"other weights")
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    _, after, _ = put_together(tmp_path, "two", model_file=other, model_sha256=digest)
    old, new = ([layer["digest"] for layer in each["layers"]] for each in (before, after))  # type: ignore[index,attr-defined]
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, False, True]


def test_layers_lie_on_those_of_the_dependency_image_and_say_what_they_are(tmp_path: Path, model: Path):
    _, manifest, target = put_together(tmp_path, "c", model_file=model, model_sha256=DIGEST)
    layers = manifest["layers"]
    assert [layer["mediaType"] for layer in layers] == [f"{TAR}+gzip", TAR, TAR]  # type: ignore[attr-defined,index]
    config = json.loads((target / "config.json").read_text())
    new = [layer["digest"] for layer in layers[1:]]  # type: ignore[index]
    assert config["rootfs"]["diff_ids"] == [*BASE_CONFIG["rootfs"]["diff_ids"], *new]  # type: ignore[index]
    assert {path.name for path in (target / "layers").iterdir()} == {each.partition(":")[2] for each in new}
    assert manifest["config"]["digest"] == f"sha256:{hashlib.sha256((target / 'config.json').read_bytes()).hexdigest()}"  # type: ignore[index]
    for digest in new:
        assert hashlib.sha256((target / "layers" / digest.partition(":")[2]).read_bytes()).hexdigest() == digest.partition(":")[2]


def test_nothing_in_a_layer_belongs_to_the_user_that_runs_it_or_tells_when_it_was_made(tmp_path: Path):
    _, manifest, target = put_together(tmp_path, "c")
    with tarfile.open(target / "layers" / manifest["layers"][-1]["digest"].partition(":")[2]) as archive:  # type: ignore[index]
        members = archive.getmembers()
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert {oct(member.mode) for member in members} <= {"0o755", "0o644"}
    assert all(member.mtime == dockerfile.EPOCH for member in members if member.isdir())
    assert all(dockerfile.EPOCH <= member.mtime < dockerfile.EPOCH + 2**24 for member in members)


@pytest.mark.parametrize("config", [{}, {"rootfs": None}, {"rootfs": {"diff_ids": []}}])
def test_a_dependency_image_that_does_not_fit_its_configuration_is_refused(tmp_path: Path, config: dict[str, object]):
    with pytest.raises(AssemblyError, match="layers"):
        write_image(context(tmp_path, "c"), config, BASE_LAYERS, tmp_path / "image")
