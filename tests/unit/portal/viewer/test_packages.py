"""The viewers' own files: only the pinned ones, from where npm's settings say, served by their names and no others."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from monai_aws_pipeline.portal.viewer import packages
from monai_aws_pipeline.portal.viewer.packages import NIIVUE, OHIF, NotYetError, NpmPackage, PackageError, Packages, registry_of, unpacked
from monai_aws_pipeline.portal.viewer.study_view import ViewError
from tests.unit.portal.viewer.conftest import Looking

BUNDLE = b'first();\n__webpack_require__.p = "/";\nlast();\n'


def tarball(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("package/dist/link.js")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return out.getvalue()


def package(content: bytes) -> NpmPackage:
    return NpmPackage(
        "@x/viewer", "1.0.0", "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode(), "package/dist/", ("left/",)
    )


@pytest.fixture
def content() -> bytes:
    return tarball(
        {
            "package/dist/app.bundle.1.js": BUNDLE,
            "package/dist/app.css": b"a { src: url(/f.woff2) }",
            "package/dist/left/out.js": b"x",
            "package/dist/page.html": b"<p>",
            "package/dist/../../up.js": b"x",
            "package/other.js": b"x",
        }
    )


@pytest.fixture
def cache(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "viewers").mkdir()
    (tmp_path / "viewers" / "x-viewer-1.0.0.tgz").write_bytes(content)
    return tmp_path


def test_what_is_used_is_unpacked_below_its_own_path(cache: Path, content: bytes):
    files = unpacked(package(content), cache, print)
    found = files.find("app.bundle.1.js")
    assert found is not None
    assert found[0].read_bytes() == BUNDLE.replace(b'"/"', b'"/viewer-files/x-viewer-1.0.0/"')
    small = files.find("app.bundle.1.js", shrunk=True)
    assert small is not None
    assert (small[2], gzip.decompress(small[0].read_bytes())) == (True, found[0].read_bytes())
    css = files.find("app.css")
    assert css is not None
    assert css[0].read_bytes() == b"a { src: url(/viewer-files/x-viewer-1.0.0/f.woff2) }"
    for name in (
        "left/out.js",
        "page.html",
        "link.js",
        "other.js",
        "../../up.js",
        "up.js",
        "..",
        "",
        "/etc/passwd",
        "app.css/",
        "app.css.gz",
    ):
        assert files.find(name) is None, name
    assert not list(cache.rglob("up.js"))
    assert unpacked(package(content), cache, pytest.fail).folder == files.folder, "fetched once"


def test_a_file_that_is_not_the_pinned_one_is_not_used(cache: Path, content: bytes):
    other = package(content + b"x")
    with pytest.raises(PackageError, match="not the file that is pinned"):
        unpacked(other, cache, print)
    assert [path.name for path in (cache / "viewers").iterdir()] == ["x-viewer-1.0.0.tgz.lock"], "nor is it kept"


def test_registries_are_those_of_npms_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".npmrc").write_text("; comment\nregistry = https://mirror.example/npm/\n@x:registry=https://scoped.example\nfund=false\n")
    assert registry_of("@x", {}, home) == "https://scoped.example"
    assert registry_of("@y", {}, home) == "https://mirror.example/npm/"
    assert registry_of("@y", {"NPM_CONFIG_REGISTRY": "https://set.example"}, home) == "https://set.example"
    assert registry_of("@x", {"NPM_CONFIG_REGISTRY": "https://set.example"}, home) == "https://scoped.example", "as npm has it"
    (home / ".npmrc").write_text("registry=http://mirror.example\n")
    with pytest.raises(PackageError, match="without encryption"):
        registry_of("@x", {}, home)


def test_without_npm_and_without_a_registry_it_is_said_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(packages, "registry_of", lambda _: "")
    served = Packages(tmp_path, lambda _: None, [package(content)])
    with pytest.raises(NotYetError):
        served.files("/viewer-files/x-viewer-1.0.0/")
    served.wait()
    with pytest.raises(ViewError, match=r"set NPM_CONFIG_REGISTRY .* put x-viewer-1\.0\.0\.tgz into"):
        served.files("/viewer-files/x-viewer-1.0.0/")
    (tmp_path / "viewers" / "x-viewer-1.0.0.tgz").write_bytes(content)
    with pytest.raises(NotYetError):
        served.files("/viewer-files/x-viewer-1.0.0/")
    served.wait()
    assert served.files("/viewer-files/x-viewer-1.0.0/").find("app.css")


def test_the_pins_are_whole():
    for each in (OHIF, NIIVUE):
        assert len(base64.b64decode(each.integrity.removeprefix("sha512-"))) == 64


def test_files_are_served_by_the_names_that_there_are(looking: Looking, cache: Path, content: bytes):
    made = package(content)
    looking.packages._named[made.address] = made
    looking.packages._cache = cache
    assert looking.browser.get(f"{made.address}app.css").status_code == 503, "not fetched yet"
    looking.packages.wait()
    answer = looking.browser.get(f"{made.address}app.bundle.1.js")
    assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
    assert answer.text == BUNDLE.decode().replace('"/"', f'"{made.address}"')
    assert "immutable" in answer.headers["cache-control"]
    for name in ("left/out.js", "page.html", "..%2fx", "%2fetc%2fpasswd", "", "app.css%00"):
        assert looking.browser.get(f"{made.address}{name}").status_code == 404
    assert looking.browser.get("/viewer-files/x-viewer-2.0.0/app.css").status_code == 404
