"""Uploads an assembled image: ``python upload.py FOLDER NAME TAG REGION``, sent to a build machine and run there with that machine's role.

FOLDER is what ``assembly.write_image`` wrote. A blob that the repository holds already is not sent. Standard library and boto3 only, and
nothing of this project, because it runs alone. Protocol: https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ATTEMPTS = 4


class Repository:
    """One repository of a registry. ``token``: what Basic authentication takes."""

    def __init__(self, address: str, token: str) -> None:
        self._address, self._token = address, token

    def has(self, digest: str) -> bool:
        """Whether it holds a blob."""
        try:
            self._ask("HEAD", f"{self._address}/blobs/{digest}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return False
        return True

    def put_blob(self, path: Path, digest: str) -> None:
        """Upload one blob in one piece."""
        place = self._ask("POST", f"{self._address}/blobs/uploads/", b"")["Location"]
        place = urllib.parse.urljoin(self._address, place)
        place += ("&" if "?" in place else "?") + urllib.parse.urlencode({"digest": digest})
        with path.open("rb") as content:
            self._ask("PUT", place, content, {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)})

    def put_manifest(self, tag: str, manifest: bytes) -> None:
        """Name the image; from now on it is there."""
        self._ask("PUT", f"{self._address}/manifests/{tag}", manifest, {"Content-Type": json.loads(manifest)["mediaType"]})

    def _ask(self, method: str, address: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(address, body, headers or {}, method=method)  # noqa: S310  # ECR names it
        request.add_unredirected_header("Authorization", f"Basic {self._token}")
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
            answer.read()
            return answer.headers


def upload(folder: Path, repository: Repository, tag: str) -> str:
    """Upload what is missing, the manifest last. Returns the image's digest."""
    manifest = (folder / "manifest.json").read_bytes()
    config = folder / "config.json"
    blobs = [*sorted((folder / "layers").iterdir()), config]
    for path in blobs:
        digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" if path == config else f"sha256:{path.name}"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if repository.has(digest):
                    print(f"{digest[:19]}: already there", flush=True)  # noqa: T201
                else:
                    repository.put_blob(path, digest)
                    print(f"{digest[:19]}: pushed {path.stat().st_size} bytes", flush=True)  # noqa: T201
                break
            except OSError as error:  # also what urllib raises
                if attempt == ATTEMPTS or (isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code != 429):
                    raise
                time.sleep(2.0**attempt)
    repository.put_manifest(tag, manifest)
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def main(folder: str, name: str, tag: str, region: str) -> int:
    """Log in with the role of the machine and upload; prints the digest as ``docker push`` does."""
    import boto3

    login = boto3.client("ecr", region_name=region).get_authorization_token()["authorizationData"][0]
    repository = Repository(f"{login['proxyEndpoint']}/v2/{name}", login["authorizationToken"])
    try:
        digest = upload(Path(folder), repository, tag)
    except urllib.error.HTTPError as error:
        print(f"the registry answered {error.code}: {error.read(2000).decode(errors='replace')}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{tag}: digest: {digest}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
