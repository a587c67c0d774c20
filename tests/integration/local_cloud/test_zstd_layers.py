"""A MAP whose layers are zstd: pushed as a build machine pushes it, read by a real engine that knows zstd and refused by one that does not.

containerd, on which Docker keeps its images from 29 on, has read such layers since 1.5; Docker's own store does from 23 on. What this
machine's Docker does is asked, as a build machine asks its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.deployment.registry_upload import ZSTD, Repository, engine_reads_zstd, upload_saved
from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.runtime.engine import Engine
from monai_aws_pipeline.local_cloud.engine import docker_program
from monai_aws_pipeline.maps.layers import read_layer
from tests.integration.local_cloud.conftest import Account, eventually, unique
from tests.integration.local_cloud.docker_client import Docker, password

pytestmark = pytest.mark.cloud

NOISE = os.urandom(3 << 20)


def layer_tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in (("noise", NOISE), ("words", b"the same again " * 100_000)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def engine_host(account: Account, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of the embedded AWS's engine, which commands of this process then speak to."""
    host = str(json.loads((account.cloud.config.state_dir / "engine.json").read_text())["host"])
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setenv("PATH", f"{Path(docker_program()).parent}:{os.environ['PATH']}")
    return host


@pytest.fixture
def pushed(account: Account, engine_host: str, tmp_path: Path) -> tuple[str, str, str]:
    """An image with zstd layers in the registry, and no longer in the engine: repository, digest and the repository's login."""
    del engine_host
    ecr, name = account.client("ecr"), unique("zstd")
    ecr.create_repository(repositoryName=name, imageTagMutability="IMMUTABLE")
    login = str(ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"])
    docker, reference = Docker(account.cloud, tmp_path / "docker"), f"{account.cloud.config.registry_host}/{name}:1"
    ok, said = docker("import", "-", reference, stdin=layer_tar())
    assert ok, said
    work = tmp_path / "work"
    work.mkdir()
    digest = upload_saved([reference], Repository(f"{account.cloud.endpoint}/v2/{name}", login), work, ZSTD)["1"]
    assert docker("rmi", "--force", reference)[0]
    return name, digest, login


def test_the_registry_keeps_what_was_pushed_and_our_reader_reads_it(account: Account, pushed: tuple[str, str, str]):
    name, digest, login = pushed
    parts = Registry(account.client("ecr"), name).parts(digest)
    [layer] = parts.layers
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar+zstd"
    request = urllib.request.Request(f"{account.cloud.endpoint}/v2/{name}/blobs/{layer.digest}")  # noqa: S310
    request.add_unredirected_header("Authorization", f"Basic {login}")
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        blob = answer.read()
    assert blob.startswith(ZSTD.magic)
    assert len(NOISE) < len(blob) == layer.bytes < len(layer_tar()) - 1_000_000
    assert read_layer(blob, {"/words"}).paths == {"/noise", "/words"}


def test_containerd_pulls_and_unpacks_it(account: Account, pushed: tuple[str, str, str], tmp_path: Path):
    name, digest, login = pushed
    with tarfile.open(fileobj=io.BytesIO(layer_tar())) as archive:
        wanted = {each.name: hashlib.sha256(archive.extractfile(each).read()).hexdigest() for each in archive}  # type: ignore[union-attr]
    with Containerd(tmp_path) as containerd:
        containerd.pull(f"{account.cloud.config.registry_host}/{name}@{digest}", account.cloud.config.registry_host, login)
        assert containerd.content() == wanted


def test_an_engine_says_whether_it_reads_zstd_and_a_host_of_one_that_does_not_refuses_the_map_by_name(
    account: Account, engine_host: str, pushed: tuple[str, str, str], tmp_path: Path
):
    name, digest, _ = pushed
    docker = Docker(account.cloud, tmp_path / "docker")
    before = docker("image", "ls", "--quiet")[1]
    reads = engine_reads_zstd()
    assert docker("image", "ls", "--quiet")[1] == before, "what it was asked with is gone"
    version = docker("version", "--format", "{{.Server.Version}}")[1]
    assert reads == (int(version.partition(".")[0]) >= 23), version

    host, image = Engine(tmp_path / "login", docker_program()), f"{account.cloud.config.registry_host}/{name}@{digest}"
    if reads:
        host.pull(image, "AWS", password(account).decode(), threading.Event())
        assert docker("rmi", "--force", image)[0]
        return
    with pytest.raises(FailedError, match="does not read layers of zstd") as refused:
        host.pull(image, "AWS", password(account).decode(), threading.Event())
    assert refused.value.code is Code.PULL_FAILED


class Containerd:
    """A containerd of its own, without network, that ends with the test. Its login lies in a file, as no command may name it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "containerd"
        self._folder.mkdir()
        self._socket = f"{folder}/c.sock"
        self._settings = self._folder / "config.toml"
        self._settings.write_text(
            f'version = 2\nroot = "{self._folder}/root"\nstate = "{self._folder}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self._socket}"\n'
        )
        self._running = ExitStack()

    def __enter__(self) -> Containerd:
        with ExitStack() as running:  # also where it does not come up
            log = running.enter_context((self._folder / "log").open("wb"))
            process = subprocess.Popen(["containerd", "--config", str(self._settings)], stdout=log, stderr=log)
            running.callback(process.wait, 30)
            running.callback(process.terminate)
            eventually(lambda: self._ask("version", check=False).returncode == 0)
            self._running = running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def pull(self, image: str, host: str, login: str) -> None:
        hosts = self._folder / "hosts" / host
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").touch(mode=0o600)
        (hosts / "hosts.toml").write_text(f'[host."http://{host}"]\n[host."http://{host}".header]\nAuthorization = ["Basic {login}"]\n')
        self._ask("image", "pull", "--snapshotter", "native", "--hosts-dir", str(hosts.parent), image)

    def content(self) -> dict[str, str]:
        """Digest of each file of the one image that was unpacked, by name."""
        [unpacked] = (self._folder / "root/io.containerd.snapshotter.v1.native/snapshots").iterdir()
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in unpacked.iterdir()}

    def _ask(self, *arguments: str, check: bool = True) -> Any:
        done = subprocess.run(["ctr", "--address", self._socket, *arguments], capture_output=True, check=False, timeout=120)
        assert done.returncode == 0 or not check, done.stderr.decode()
        return done
