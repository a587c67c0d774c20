"""Reading an image's parts: what the registry gives is believed by its digest alone, and the login goes to nobody else."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from monai_aws_pipeline.cloud.errors import RegistryError
from monai_aws_pipeline.cloud.registry import LayerBlob, Registry


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


CONFIG = json.dumps({"config": {"User": "1000"}}).encode()
LAYER = b"layer"
MANIFEST = json.dumps({"config": {"digest": digest(CONFIG), "size": 1}, "layers": [{"digest": digest(LAYER), "size": len(LAYER)}]})
FALSE = digest(b"something else")


class Store(ThreadingHTTPServer):
    """Answers blobs as ECR does: with a redirection to a signed address elsewhere."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.blobs = {digest(CONFIG): CONFIG, digest(LAYER): LAYER, FALSE: b"not that"}
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Store

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/v2/"):
            self.send_response(307)
            self.send_header("Location", f"/signed/{name}")
            self.end_headers()
            return
        body = self.server.blobs.get(name)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Ecr:
    """The three calls that reading makes."""

    def __init__(self, store: Store, manifests: list[str]) -> None:
        self._endpoint = f"http://127.0.0.1:{store.server_port}"
        self._manifests = {digest(text.encode()): text for text in manifests}

    def get_authorization_token(self) -> dict[str, Any]:
        return {"authorizationData": [{"proxyEndpoint": self._endpoint, "authorizationToken": "dG9rZW4="}]}

    def batch_get_image(self, *, imageIds: list[dict[str, str]], **_: object) -> dict[str, Any]:  # noqa: N803
        found = self._manifests.get(imageIds[0]["imageDigest"], "{}")
        return {"images": [{"imageManifest": found}]}


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def registry(store: Store, *manifests: str) -> Registry:
    return Registry(Ecr(store, list(manifests)), "monai-aws/map")  # type: ignore[arg-type]


def test_configuration_and_layers_are_read(store: Store):
    parts = registry(store, MANIFEST).parts(digest(MANIFEST.encode()))
    assert parts.config == {"config": {"User": "1000"}}
    assert parts.layers == (LayerBlob(digest(LAYER), len(LAYER)),)


def test_of_an_index_the_image_for_the_machines_of_this_project_is_read(store: Store):
    other = {"digest": FALSE, "platform": {"os": "unknown", "architecture": "unknown"}}
    ours = {"digest": digest(MANIFEST.encode()), "platform": {"os": "linux", "architecture": "amd64"}}
    index, none = json.dumps({"manifests": [other, ours]}), json.dumps({"manifests": [other, "x"]})
    assert registry(store, MANIFEST, index).parts(digest(index.encode())).layers
    with pytest.raises(RegistryError, match="linux/amd64"):
        registry(store, none).parts(digest(none.encode()))


def test_the_login_is_not_sent_on_to_where_the_registry_redirects(store: Store):
    assert registry(store).blob(digest(LAYER), 100) == LAYER
    assert store.seen == [(f"/v2/monai-aws/map/blobs/{digest(LAYER)}", "Basic dG9rZW4="), (f"/signed/{digest(LAYER)}", None)]


def test_what_is_not_what_its_digest_says_is_refused(store: Store):
    with pytest.raises(RegistryError, match="is not sha256"):
        registry(store).blob(FALSE, 100)
    with pytest.raises(RegistryError, match="is not sha256"):
        registry(store).parts(FALSE)


def test_more_than_was_announced_is_not_read(store: Store):
    with pytest.raises(RegistryError, match="larger than 4 bytes"):
        registry(store).blob(digest(LAYER), 4)


def test_a_missing_blob_and_a_name_that_is_no_digest_are_named_errors(store: Store):
    with pytest.raises(RegistryError, match="404"):
        registry(store).blob(digest(b"absent"), 100)
    with pytest.raises(RegistryError, match="no digest"):
        registry(store).blob("../../etc/passwd", 100)
    assert len(store.seen) == 2


@pytest.mark.parametrize("text", ["[]", "{}", "no json", '{"layers": 5, "config": {}}', '{"layers": [], "config": []}'])
def test_a_manifest_that_is_none_is_a_named_error(store: Store, text: str):
    with pytest.raises(RegistryError, match="is not the manifest of an image"):
        registry(store, text).parts(digest(text.encode()))
