"""A Docker of one's own at the registry of the embedded AWS."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from pathlib import Path

from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.local_cloud.engine import docker_program
from tests.integration.local_cloud.conftest import Account


class Docker:
    """A docker client of its own, with logins of its own, on the cloud's engine."""

    def __init__(self, cloud: LocalCloud, folder: Path) -> None:
        host = json.loads((cloud.config.state_dir / "engine.json").read_text())["host"]
        self._command = [docker_program(), "--config", str(folder), "--host", host]

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> tuple[bool, str]:
        done = subprocess.run([*self._command, *arguments], input=stdin, capture_output=True, check=False)
        return done.returncode == 0, (done.stdout + done.stderr).decode()


def password(account: Account, keys: tuple[str, str, str] | None = None) -> bytes:
    given = account.client("ecr", keys).get_authorization_token()["authorizationData"][0]
    assert given["proxyEndpoint"] == account.cloud.endpoint
    return base64.b64decode(given["authorizationToken"]).partition(b":")[2]


def tiny_image(docker: Docker, reference: str, content: str) -> None:
    ok, said = docker("import", "--message", content, "--change", f"LABEL content={content}", "-", reference, stdin=_tar(content))
    assert ok, said


def _tar(content: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("content")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content.encode()))
    return packed.getvalue()
