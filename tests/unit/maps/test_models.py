"""Models of a MAP: a file, a folder, a zip, several; each found by its hash, laid out by its name, refused where it is hostile."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import download, models
from monai_aws_pipeline.maps.build_context import write_context
from monai_aws_pipeline.maps.download import ModelAlteredError, ModelError, ModelMissingError
from monai_aws_pipeline.maps.manifest import parse_package_manifest
from monai_aws_pipeline.maps.models import Model, asked, combined_hash, fetch, layout_key
from monai_aws_pipeline.maps.source import Source


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with a file and a folder in it."""
    folder = tmp_path / "Dataset291.v2"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text("{}")
    (folder / "fold_0" / "final checkpoint.pth").write_bytes(b"weights")
    return folder


def zipped(path: Path, members: dict[str, bytes]) -> tuple[Path, str]:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path, sha256(path.read_bytes())


# -------------------------------------------------------------------------------------------------------------------- settings


def test_one_address_leaves_the_name_to_the_file():
    (only,) = asked("s3://bucket/a=b/net.ts?versionId=1,2", "1" * 64)
    assert (only.name, only.uri) == ("", "s3://bucket/a=b/net.ts?versionId=1,2")
    assert asked("", "") == ()


def test_several_are_named_and_their_hashes_stand_in_the_same_order():
    found = asked("spleen=s3://b/spleen.ts, liver=/x/liver.zip,vessels.v2=https://h/v.pt?a=1", ",".join(digit * 64 for digit in "123"))
    assert [(each.name, each.uri, each.sha256[0]) for each in found] == [
        ("spleen", "s3://b/spleen.ts", "1"), ("liver", "/x/liver.zip", "2"), ("vessels.v2", "https://h/v.pt?a=1", "3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "hashes", "said"),
    [
        ("a=x.ts,b=y.ts", "1" * 64, "1 hashes for 2 models"),
        ("a=x.ts,a=y.ts", ",".join(["1" * 64] * 2), "twice"),
        ("x.ts,b=y.ts", ",".join(["1" * 64] * 2), "NAME=ADDRESS"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(uri: str, hashes: str, said: str):
    with pytest.raises(ModelError, match=said):
        asked(uri, hashes)


# ---------------------------------------------------------------------------------------------------------------------- folders


def test_a_folders_hash_is_what_the_documented_command_prints(weights: Path):
    command = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", command], cwd=weights, capture_output=True, text=True, check=True).stdout.split()[0]
    assert download.folder_hash(weights) == printed


def test_a_folder_comes_into_the_cache_as_a_copy_of_its_own(weights: Path, tmp_path: Path):
    digest = download.folder_hash(weights)
    (found,) = fetch(str(weights), digest, tmp_path / "cache")
    assert (found.name, found.files()) == ("Dataset291.v2", ["fold_0/final checkpoint.pth", "plans.json"])
    found.lay_out(tmp_path / "out", unpack=True)
    laid = tmp_path / "out" / "Dataset291.v2" / "plans.json"
    os.utime(laid, (1, 1))
    assert (weights / "plans.json").stat().st_mtime > 1, "the user's own file is not touched when the build context is dated"
    (again,) = fetch(f"file://{weights}", digest, tmp_path / "cache")
    assert again.path == found.path


def test_a_renamed_file_or_another_byte_makes_another_folder(weights: Path):
    before = download.folder_hash(weights)
    (weights / "plans.json").rename(weights / "plan.json")
    renamed = download.folder_hash(weights)
    (weights / "plan.json").write_text("[]")
    assert len({before, renamed, download.folder_hash(weights)}) == 3


def test_a_wrong_or_missing_hash_is_answered_with_the_right_one(weights: Path, tmp_path: Path):
    for given in ("0" * 64, ""):
        with pytest.raises(ModelAlteredError) as caught:
            fetch(str(weights), given, tmp_path / "cache")
        assert caught.value.found == download.folder_hash(weights)
    (tmp_path / "net.ts").write_bytes(b"net")
    with pytest.raises(ModelAlteredError) as file:
        fetch(str(tmp_path / "net.ts"), "", tmp_path / "cache")
    assert file.value.found == sha256(b"net")
    assert not (tmp_path / "cache" / "models" / ("0" * 64) / weights.name).exists()


def test_a_damaged_copy_in_the_cache_is_made_anew(weights: Path, tmp_path: Path):
    digest = download.folder_hash(weights)
    (found,) = fetch(str(weights), digest, tmp_path / "cache")
    (found.path / "plans.json").write_text("damaged")
    (found.path / "more").write_text("x")
    (again,) = fetch(str(weights), digest, tmp_path / "cache")
    assert download.folder_hash(again.path) == digest


def test_a_folder_with_a_link_or_without_a_file_is_refused(weights: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no file"):
        fetch(str(tmp_path / "empty"), "0" * 64, tmp_path / "cache")
    (weights / "link").symlink_to("/etc/hostname")
    with pytest.raises(ModelError, match="link"):
        fetch(str(weights), "0" * 64, tmp_path / "cache")


# ------------------------------------------------------------------------------------------------------------------------- zips


@pytest.mark.parametrize(
    ("members", "laid"),
    [
        ({"configs/inference.json": b"{}", "models/model.ts": b"net"}, ["configs/inference.json", "models/model.ts"]),
        ({"spleen/configs/a.json": b"{}", "spleen/b": b"net"}, ["b", "configs/a.json"]),
        ({"other/a": b"1"}, ["other/a"]),
        ({"a": b"1", "__MACOSX/._a": b"2", ".DS_Store": b"3"}, ["a"]),
    ],
)
def test_a_zip_is_laid_out_unpacked(tmp_path: Path, members: dict[str, bytes], laid: list[str]):
    path, digest = zipped(tmp_path / "spleen.zip", members)
    (found,) = fetch(str(path), digest, tmp_path / "cache")
    found.lay_out(tmp_path / "out", unpack=True)
    root = tmp_path / "out" / "spleen"
    assert sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()) == laid == found.files()


def test_an_application_that_reads_the_zip_itself_gets_it_as_it_is(tmp_path: Path):
    path, digest = zipped(tmp_path / "spleen.zip", {"a": b"1"})
    found = Model("spleen", path, digest)
    found.lay_out(tmp_path / "out", unpack=False)
    assert (tmp_path / "out" / "spleen" / "spleen.zip").read_bytes() == path.read_bytes()


def hostile(name: str = "x", **attributes: object) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(entry, key, value)
    return entry


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([hostile("../outside")], "outside"),
        ([hostile("/etc/passwd")], "outside"),
        ([hostile("a/../../b")], "outside"),
        ([hostile("a\\..\\..\\b")], "outside"),
        ([hostile("C:evil")], "outside"),
        ([hostile("a\nb")], "outside"),
        ([hostile("link", external_attr=(stat.S_IFLNK | 0o777) << 16)], "link"),
        ([hostile("pipe", external_attr=(stat.S_IFIFO | 0o644) << 16)], "link"),
        ([hostile("a"), hostile("a")], "twice"),
        ([hostile("a"), hostile("a/b")], "twice"),
        ([hostile("folder/")], "no file"),
    ],
)
def test_a_zip_that_no_honest_tool_makes_is_refused_and_nothing_is_written(tmp_path: Path, entries: list[zipfile.ZipInfo], said: str):
    path = tmp_path / "net.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for entry in entries:
            archive.writestr(entry, b"x" if not entry.filename.endswith("/") else b"")
    found = Model("net", path, "0" * 64)
    with pytest.raises(ModelError, match=said):
        found.lay_out(tmp_path / "out" / "deep", unpack=True)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]


def test_a_zip_that_unpacks_to_more_than_any_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, _ = zipped(tmp_path / "net.zip", {"a": b"x" * 1000})
    monkeypatch.setattr(models, "_MAX_UNPACKED", 999)
    with pytest.raises(ModelError, match="unpacks to more"):
        Model("net", path, "0" * 64).files()


def test_a_damaged_zip_is_refused(tmp_path: Path):
    path, _ = zipped(tmp_path / "net.zip", {"a": b"weights"})
    path.write_bytes(path.read_bytes().replace(b"weights", b"weightz"))
    with pytest.raises(ModelError, match="cannot be unpacked"):
        Model("net", path, "0" * 64).lay_out(tmp_path / "out", unpack=True)
    path.write_bytes(b"PK no zip")
    with pytest.raises(ModelError, match="no zip"):
        Model("net", path, "0" * 64).files()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_compressed_bytes_are_damaged_is_refused(tmp_path: Path, method: int):
    path = tmp_path / "net.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a", bytes(range(256)) * 64)
        entry = archive.getinfo("a")
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + len("a")
    content[start : start + entry.compress_size] = b"\xff" * entry.compress_size
    path.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be unpacked"):
        Model("net", path, "0" * 64).lay_out(tmp_path / "out", unpack=True)


def test_a_disk_that_fills_up_is_not_told_as_a_damaged_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path, _ = zipped(tmp_path / "net.zip", {"a": b"weights"})
    monkeypatch.setattr("monai_aws_pipeline.maps.models.shutil.copyfileobj", full)
    with pytest.raises(ModelError, match=r"on this machine \(No space left on device\); make room"):
        Model("net", path, "0" * 64).lay_out(tmp_path / "out", unpack=True)


# ------------------------------------------------------------------------------------------------------------ in the image, addresses


def test_several_models_lie_beside_each_other_and_have_one_name_together(tmp_path: Path, weights: Path):
    (tmp_path / "net.ts").write_bytes(b"net")
    archive, digest = zipped(tmp_path / "liver.zip", {"a": b"1"})
    uri = f"spleen={tmp_path}/net.ts,liver={archive},total={weights}"
    found = fetch(uri, f"{sha256(b'net')},{digest},{download.folder_hash(weights)}", tmp_path / "cache")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("")
    (tmp_path / "app" / "app.yaml").write_text("application: {title: t, version: 1.0.0}\nresources: {cpu: 1}\n")
    built = write_context(Source(tmp_path / "app", "0" * 40, False, ""), tmp_path / "context", base_image="b:1", models=found)
    root = built.path / "model" / "opt" / "holoscan" / "models"
    files = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    assert files == ["liver/a", "spleen/net.ts", "total/fold_0/final checkpoint.pth", "total/plans.json"]
    packaged = parse_package_manifest(built.pkg_json).models
    assert packaged == {name: f"/opt/holoscan/models/{name}" for name in ("spleen", "liver", "total")}
    assert built.model_sha256 == combined_hash(found) == combined_hash(tuple(reversed(found)))
    assert dict(built.labels)["monai-aws.model-sha256"] == built.model_sha256


def test_the_layer_of_models_changes_with_names_and_with_how_a_zip_is_laid(tmp_path: Path):
    path, digest = zipped(tmp_path / "net.zip", {"a": b"1"})
    one, other = Model("net", path, digest), Model("other", path, digest)
    keys = [
        layout_key([one], unpack=True),
        layout_key([one], unpack=False),
        layout_key([other], unpack=True),
        layout_key([one, other], unpack=True),
    ]
    assert len({tuple(key) for key in keys}) == 4
    assert layout_key([one], unpack=False) == ["net.zip", digest], "as a single file always was"


def test_an_address_that_leads_nowhere_is_missing_whatever_the_cache_holds(tmp_path: Path):
    (tmp_path / "net.ts").write_bytes(b"net")
    fetch(str(tmp_path / "net.ts"), sha256(b"net"), tmp_path / "cache")
    assert download.is_cached(download.MODEL, str(tmp_path / "net.ts"), sha256(b"net"), tmp_path / "cache")
    download.look(download.MODEL, str(tmp_path / "net.ts"))
    (tmp_path / "net.ts").unlink()
    with pytest.raises(ModelMissingError):
        download.look(download.MODEL, str(tmp_path / "net.ts"))
    with pytest.raises(download.ModelUnreachableError):
        download.look(download.MODEL, "s3://bucket/net.ts")
    with pytest.raises(download.ModelUnreachableError):
        download.look(download.MODEL, "https://127.0.0.1:9/net.ts")
