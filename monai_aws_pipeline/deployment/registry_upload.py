"""Uploads an image from a build machine with that machine's role. Sent there and run there, in one of two ways.

``python upload.py assembled FOLDER NAME TAG REGION``: what ``assembly.write_image`` wrote into FOLDER.

``python upload.py saved REGION REFERENCE...``: images of the machine's engine, all of one repository, the first of which has to arrive.
What ``docker push`` does, sooner: that spends nearly all of its time in its own gzip, on one core for one large layer.

A blob that the repository holds already is not sent. Standard library and boto3 only, ISA-L and zstandard where the machine has them, and
nothing of this project, because it runs alone. Protocol: https://distribution.github.io/distribution/spec/api/, images:
https://distribution.github.io/distribution/spec/manifest-v2-2/ and, where layers are zstd, for which Docker's own format has no word,
https://github.com/opencontainers/image-spec; what an engine saves: https://github.com/moby/docker-image-spec
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

try:  # a machine image of before has no ISA-L
    from isal import isal_zlib as compressor
except ImportError:
    import zlib as compressor  # type: ignore[no-redef]
try:  # nor zstandard
    import zstandard
except ImportError:
    zstandard = None  # type: ignore[assignment]

ATTEMPTS = 4
UNKNOWN_FORMAT = 3
"""Exit code: nothing was named in the registry, because this does not know, or has no room for, what the engine saves, or because the
registry does not take zstd."""
UPLOADS = 3
"""Blobs that are sent at once."""

_PIECE = 4 << 20
_UNPACKED_PIECE = 256 << 10
"""Of a compressed layer: what it unpacks to is in memory at once."""
_NOT_TAKEN = (400, 404, 405, 406, 415)
"""With one of these a registry refuses a kind of manifest. Who may not push, or too often, is not helped by another kind."""
_SMALL = 1 << 20
"""Bytes up to which a member may be text: whether it is, the manifest says, which comes behind it."""


class UnknownFormatError(Exception):
    """What the engine saved is not what this module knows, or not what the image says it is."""


@dataclass(frozen=True)
class Packing:
    """How layers are compressed: by which bytes one knows it, what a manifest calls it all, and what packs and unpacks."""

    name: str
    magic: bytes
    manifest: str
    config: str
    layer: str
    packer: Callable[[], Any]
    unpacker: Callable[[], Any]


GZIP = Packing(
    "gzip",
    b"\x1f\x8b",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    lambda: compressor.compressobj(1, compressor.DEFLATED, 31),  # 31: as gzip, whose header bears no time
    lambda: compressor.decompressobj(31),
)
ZSTD = Packing(
    "zstd",
    b"\x28\xb5\x2f\xfd",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    lambda: zstandard.ZstdCompressor(level=1, threads=-1).compressobj(),
    lambda: zstandard.ZstdDecompressor().decompressobj(read_across_frames=True),
)
_DAMAGED: Any = (compressor.error, zstandard.ZstdError) if zstandard else (compressor.error,)
"""What unpacking raises; any, because the stubs of ISA-L take its error for an instance."""


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


def send(path: Path, digest: str, repository: Repository) -> None:
    """Have a blob in the repository; what may pass is tried again."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if repository.has(digest):
                _say(f"{digest[:19]}: already there")
            else:
                repository.put_blob(path, digest)
                _say(f"{digest[:19]}: pushed {path.stat().st_size} bytes")
        except OSError as error:  # also what urllib raises
            if attempt == ATTEMPTS or (isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code != 429):
                raise
            time.sleep(2.0**attempt)
        else:
            return


def upload(folder: Path, repository: Repository, tag: str) -> str:
    """Upload what ``assembly.write_image`` wrote and the registry has not, the manifest last. Returns the image's digest."""
    manifest = (folder / "manifest.json").read_bytes()
    with ThreadPoolExecutor(UPLOADS) as uploads:
        sent = [uploads.submit(send, path, f"sha256:{path.name}", repository) for path in sorted((folder / "layers").iterdir())]
        try:
            for each in sent:
                each.result()
        finally:  # of one that failed the rest need not be tried
            uploads.shutdown(wait=False, cancel_futures=True)
    send(folder / "config.json", _sha256((folder / "config.json").read_bytes()), repository)
    repository.put_manifest(tag, manifest)
    return _sha256(manifest)


# ---------------------------------------------------------------------------------------------------- images of the machine's engine


@dataclass(frozen=True)
class Layer:
    """A layer as it is sent. ``diff``: digest of the tar that it unpacks to; ``sent``: the upload."""

    digest: str
    bytes: int
    diff: str
    sent: Future[None]


@dataclass(frozen=True)
class Image:
    """An image of an archive: its tags, its configuration, and the members that are its layers, the lowest first."""

    tags: tuple[str, ...]
    config: bytes
    layers: tuple[str, ...]


class Archive:
    """Reads what ``docker save`` writes, once from its beginning to its end, while it is written.

    Large members are compressed and sent as they come; which of the small ones are layers is known at the end.
    """

    def __init__(self, folder: Path, packing: Packing, start: Callable[[Path, str], Future[None]]) -> None:
        self._folder, self._packing, self._start = folder, packing, start
        self._large: dict[str, Layer] = {}
        self._small: dict[str, bytes] = {}
        self._links: dict[str, str] = {}
        self._hashing = ThreadPoolExecutor(1)  # beside the compressor

    def read(self, stream: IO[bytes]) -> list[Image]:
        """All of it. Raises UnknownFormatError."""
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as archive:
                for member in archive:
                    name = posixpath.normpath(member.name)
                    if member.issym() or member.islnk():
                        start = posixpath.dirname(name) if member.issym() else ""
                        self._links[name] = posixpath.normpath(posixpath.join(start, member.linkname))
                    elif member.isfile() and (content := archive.extractfile(member)):
                        if member.size <= _SMALL:
                            self._small[name] = content.read()
                        else:
                            self._large[name] = self._layer(content)
            named = json.loads(self._small["manifest.json"])
            return [
                Image(tuple(each["RepoTags"] or ()), self._small[self._member(each["Config"])], tuple(each["Layers"])) for each in named
            ]
        except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, *_DAMAGED) as error:
            raise UnknownFormatError(f"what the engine saved cannot be read: {error!r}") from error

    def manifest(self, image: Image) -> bytes:
        """The manifest of an image of this archive, whose layers it waits for. Raises UnknownFormatError where they are not its own."""
        layers = [self._found(name) for name in image.layers]
        wanted = json.loads(image.config)["rootfs"]["diff_ids"]
        if [layer.diff for layer in layers] != wanted:
            raise UnknownFormatError("what the engine saved are not the layers that the image names")
        for layer in layers:
            layer.sent.result()
        packing = self._packing
        config = {"mediaType": packing.config, "size": len(image.config), "digest": _sha256(image.config)}
        named = [{"mediaType": packing.layer, "size": layer.bytes, "digest": layer.digest} for layer in layers]
        return json.dumps({"schemaVersion": 2, "mediaType": packing.manifest, "config": config, "layers": named}, indent=1).encode()

    def _member(self, name: str) -> str:
        """Where a member's content lies: layers of equal content are links to one of them."""
        for _ in range(len(self._links) + 1):
            if name not in self._links:
                return name
            name = self._links[name]
        raise UnknownFormatError(f"the links of {name} lead nowhere")

    def _found(self, name: str) -> Layer:
        name = self._member(name)
        if name in self._small:
            self._large[name] = self._layer(io.BytesIO(self._small.pop(name)))
        if name not in self._large:
            raise UnknownFormatError(f"the engine names a layer {name} and has not saved it")
        return self._large[name]

    def _layer(self, content: IO[bytes]) -> Layer:
        """Compress and start sending. One that is compressed so already (as an engine on containerd may keep it) is sent as it is."""
        diff, whole, size = hashlib.sha256(), hashlib.sha256(), 0
        hashed: Future[None] | None = None
        piece = content.read(_UNPACKED_PIECE)
        found = next((packing for packing in (GZIP, ZSTD) if piece.startswith(packing.magic)), None)
        if found is ZSTD and self._packing is not ZSTD:
            raise UnknownFormatError("a layer is compressed with zstd")
        unpacking = found.unpacker() if found else None
        packing = None if found is self._packing else self._packing.packer()
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as target:
            while piece:
                plain = unpacking.decompress(piece) if unpacking else piece
                if hashed:
                    hashed.result()
                hashed = self._hashing.submit(diff.update, plain)
                packed = packing.compress(plain) if packing else piece
                whole.update(packed)
                size += target.write(packed)
                piece = content.read(_UNPACKED_PIECE if found else _PIECE)
            if packing:
                packed = packing.flush()
                whole.update(packed)
                size += target.write(packed)
        if hashed:
            hashed.result()
        digest = f"sha256:{whole.hexdigest()}"
        return Layer(digest, size, f"sha256:{diff.hexdigest()}", self._start(Path(target.name), digest))


def engine_reads_zstd() -> bool:
    """Ask the machine's engine, by having it import a file that is compressed so: Docker does from 23 on, and hosts have the same one."""
    if zstandard is None:
        return False
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("asked"))
    try:
        asked = ["docker", "import", "-"]
        found = subprocess.run(asked, input=zstandard.compress(content.getvalue()), capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["docker", "image", "rm", found.stdout.decode().strip()], capture_output=True, timeout=60, check=False)
    return True


def upload_saved(references: Sequence[str], repository: Repository, folder: Path, packing: Packing = GZIP) -> dict[str, str]:
    """Upload images of the machine's engine, of which the first has to arrive. Returns the digest of each that did, by tag.

    ``folder``: an empty one for the compressed layers. Raises UnknownFormatError before anything is named in the registry.
    """

    def sent(path: Path, digest: str) -> None:
        send(path, digest, repository)
        path.unlink()

    with ThreadPoolExecutor(UPLOADS) as uploads:
        archive = Archive(folder, packing, lambda path, digest: uploads.submit(sent, path, digest))
        _say("asking the engine for the image, which it writes down whole before the first byte comes")
        with subprocess.Popen(["docker", "save", *references], stdout=subprocess.PIPE) as saving:
            try:
                images = {tag: image for image in archive.read(saving.stdout) for tag in image.tags}  # type: ignore[arg-type]
            except BaseException:
                saving.kill()
                raise
        if saving.returncode:
            raise UnknownFormatError(f"docker save ended with {saving.returncode}")
        if missing := [each for each in references if each not in images]:
            raise UnknownFormatError(f"the engine has not saved {missing[0]}")
        digests: dict[str, str] = {}
        for reference in references:
            image, tag = images[reference], reference.rpartition(":")[2]
            manifest = archive.manifest(image)
            config = folder / "config"
            config.write_bytes(image.config)
            send(config, _sha256(image.config), repository)
            try:
                repository.put_manifest(tag, manifest)
            except OSError as error:
                if not digests and packing is ZSTD and isinstance(error, urllib.error.HTTPError) and error.code in _NOT_TAKEN:
                    raise UnknownFormatError(f"the registry does not take the image with zstd layers: {_said(error)}") from error
                if not digests:
                    raise
                _say(f"{tag} is not kept: {error}")
            else:
                digests[tag] = _sha256(manifest)
        return digests


def room_for(references: Sequence[str]) -> bool:
    """Whether the disk has room for what the engine writes while it saves, the whole image, and for the compressed layers."""
    sizes = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Size}}", *references], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    return shutil.disk_usage("/").free > 2 * max(map(int, sizes))  # they share their layers, and the first has all of them


def _said(error: urllib.error.HTTPError) -> str:
    return f"the registry answered {error.code}: {error.read(2000).decode(errors='replace')}"


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # what this prints is read on the other end of the connection


def _log_in(region: str, name: str) -> Repository:
    import boto3

    login = boto3.client("ecr", region_name=region).get_authorization_token()["authorizationData"][0]
    return Repository(f"{login['proxyEndpoint']}/v2/{name}", login["authorizationToken"])


def main(way: str, *arguments: str) -> int:
    """Log in with the role of the machine and upload; prints the digest of each image as ``docker push`` does."""
    try:
        if way == "assembled":
            folder, name, tag, region = arguments
            digests = {tag: upload(Path(folder), _log_in(region, name), tag)}
        else:
            region, *references = arguments
            if not room_for(references):
                raise UnknownFormatError("the disk has no room to save the image")  # noqa: TRY301
            name = references[0].partition("/")[2].rpartition(":")[0]
            packing = ZSTD if engine_reads_zstd() else GZIP
            _say(f"layers are compressed with {packing.name}" + ("" if packing is ZSTD else ", because the engine does not read zstd"))
            with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as work:
                digests = upload_saved(references, _log_in(region, name), Path(work), packing)
    except urllib.error.HTTPError as error:
        print(_said(error), file=sys.stderr)  # noqa: T201
        return 1
    except UnknownFormatError as error:
        _say(str(error))
        return UNKNOWN_FORMAT
    for tag, digest in digests.items():
        _say(f"{tag}: digest: {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
