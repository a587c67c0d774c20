"""Which MAP answers now: read from the deployment's SSM parameter before each job, pulled when it changed.

Here belongs the way from the parameter (``registry/repository@sha256:…``) to an image that is ready to run, with what its labels say.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.contract import DIGEST_PATTERN, MapFacts, is_digest, short_digest
from monai_aws_pipeline.host_agent.errors import Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.map_requirements import NO_REQUIREMENTS, MapRequirements, requirements_of
from monai_aws_pipeline.host_agent.runtime.docker_api import EngineError
from monai_aws_pipeline.host_agent.runtime.engine import Engine, ImageFacts
from monai_aws_pipeline.host_agent.runtime.image_layers import bytes_to_pull
from monai_aws_pipeline.maps.spec.disk_space import STUDY_BYTES, in_gib, space_of
from monai_aws_pipeline.maps.spec.run import AppManifestError, RunSpec, parse_app_json, with_image_variables

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_ssm import SSMClient

log = logging.getLogger(__name__)

_IMAGE: Final = re.compile(rf"[A-Za-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+@{DIGEST_PATTERN}")

LABEL_COMMIT: Final = "org.opencontainers.image.revision"
LABEL_VERSION: Final = "org.opencontainers.image.version"
LABEL_MODEL: Final = "monai-aws.model-sha256"


LOW_BYTES: Final = STUDY_BYTES
"""Free bytes below which images that are not live go before the next study."""
PULL_BYTES: Final = 20 << 30
"""The same before a pull of which the registry does not say how much it brings. Others stay: a new MAP shares most of its layers."""
FRESH_S: Final = 1.0
"""For so long a job that waits for its turn may go by what it read before that."""


@dataclass(frozen=True)
class ReadyMap:
    """A MAP in the local store. ``seconds`` went into the pull, ``bytes`` is the unpacked size."""

    image: str
    spec: RunSpec
    facts: MapFacts
    bytes: int
    seconds: float
    requirements: MapRequirements = NO_REQUIREMENTS


class LiveMap:
    """The deployment's live MAP, read anew for each job; the last one that was made ready is remembered."""

    def __init__(self, ssm: SSMClient, ecr: ECRClient, engine: Engine, parameter: str, free: Callable[[], int] | None = None):
        self._ssm, self._ecr, self._engine, self._parameter = ssm, ecr, engine, parameter
        self._free = free or free_bytes
        self._known: dict[str, ReadyMap] = {}
        self._looked = (-FRESH_S, "")

    def look(self) -> None:
        """Read the parameter for a job whose turn comes within a moment, so that ``ready`` need not. Never fails."""
        with contextlib.suppress(FailedError):  # ``ready`` asks again, and says so
            self._looked = (time.monotonic(), self._read_parameter())

    def ready(self, request: str, stop: threading.Event) -> ReadyMap:
        """The live MAP, or for a re-run that digest of the same repository, pulled if it is not here. Raises JobError."""
        at, live = self._looked
        if time.monotonic() - at > FRESH_S:
            live = self._read_parameter()
        image = image_for(live, request)
        if self._free() < LOW_BYTES:
            self._evict({live, image})
        return self.make_ready(image, stop)

    def last(self, request: str) -> ReadyMap | None:
        """What ``ready`` would answer if nothing changed since it was asked last; None where that is not known."""
        known = next(iter(self._known.values()), None)
        return known if known and request in ("", known.facts.digest) else None

    def make_ready(self, image: str, stop: threading.Event) -> ReadyMap:
        """That image by digest, pulled if it is not here. Raises JobError."""
        present = self._engine.has(image)
        if present and image in self._known:
            return self._known[image]
        started = time.monotonic()
        if not present:
            self._pull(image, stop)
        seconds = time.monotonic() - started if not present else 0.0
        found = describe(self._engine.facts(image), seconds)
        self._known = {image: replace(found, seconds=0.0)}
        return found

    def _pull(self, image: str, stop: threading.Event) -> None:
        self._make_room(image)
        log.info("pulling the MAP %s", short_digest(image.rpartition("@")[2]))
        username, password = self._credentials()
        try:
            self._engine.pull(image, username, password, stop)
        except FailedError as error:
            if error.code is not Code.DISK_FULL or not self._evict_for(image):
                raise
            self._engine.pull(image, username, password, stop)

    def _make_room(self, image: str) -> None:
        """Have room for a pull, or say before it how much is missing: half a pull fills the disk under the study that is at work."""
        needed = self._needed(image)
        if self._free() < (PULL_BYTES if needed is None else needed) and self._evict_for(image):
            needed = self._needed(image)  # layers that were shared with what has gone are pulled too
        if needed is not None and (free := self._free()) < needed:
            raise FailedError(
                Code.DISK_FULL,
                f"The MAP needs about {in_gib(needed)} GiB of disk beside the live one, and {in_gib(free)} GiB are free: "
                f"the root volume is {math.ceil(in_gib(needed - free))} GiB too small.",
            )

    def _needed(self, image: str) -> int | None:
        """Bytes that a pull takes of the disk; None where the registry does not say."""
        packed = bytes_to_pull(self._ecr, image, self._engine.references())
        return None if packed is None else space_of(packed)

    def _evict_for(self, image: str) -> int:
        try:
            return self._evict({image, self._read_parameter()})
        except FailedError:
            return 0  # which MAP is live is not known, so none is safe to remove

    def _evict(self, keep: set[str]) -> int:
        try:
            evicted = self._engine.evict(keep)
        except EngineError as error:
            log.warning("images could not be removed (%s)", error)
            return 0
        if evicted:
            log.info("the disk is short; removed %d image(s) that are not live", evicted)
        return evicted

    def _read_parameter(self) -> str:
        try:
            return self._ssm.get_parameter(Name=self._parameter)["Parameter"]["Value"].strip()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            raise FailedError(Code.NO_LIVE_MAP, f"The parameter that names the live MAP cannot be read ({code}).") from error
        except BotoCoreError as error:
            raise FailedError(Code.NO_LIVE_MAP, f"SSM could not be reached ({error.__class__.__name__}).") from error

    def _credentials(self) -> tuple[str, str]:
        try:
            data = self._ecr.get_authorization_token()["authorizationData"][0]
            username, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
        except (ClientError, BotoCoreError, LookupError, ValueError) as error:
            raise FailedError(Code.PULL_FAILED, f"The registry gave no authorization ({error.__class__.__name__}).") from error
        return username, password


def free_bytes(places: tuple[Path, ...] = (Path("/var/lib/docker"), Path("/"))) -> int:
    """Free bytes where the engine keeps its images."""
    return shutil.disk_usage(next(place for place in places if place.exists())).free


def is_image(text: str) -> bool:
    """Whether a text is ``registry/repository@sha256:digest``."""
    return _IMAGE.fullmatch(text) is not None


def image_for(live: str, request: str) -> str:
    """The image to run: the live one, or for a re-run the requested digest of the same repository. Raises JobError."""
    if not is_image(live):
        raise FailedError(Code.NO_LIVE_MAP, "The parameter of the live MAP does not hold registry/repository@sha256:digest.")
    if not request:
        return live
    if not is_digest(request):
        raise RefusedError(Code.BAD_REQUEST, "The re-run names no MAP digest.")
    return f"{live.partition('@')[0]}@{request}"


def describe(found: ImageFacts, seconds: float) -> ReadyMap:
    """Manifest and labels of an image as a record has them. Raises FailedError(MAP_MANIFEST)."""
    try:
        spec = with_image_variables(parse_app_json(found.app_json), found.environment)
    except AppManifestError as error:
        raise FailedError(Code.MAP_MANIFEST, f"The MAP's manifest cannot be used: {error}.") from error
    facts = MapFacts(
        image=found.digest_reference,
        digest=found.digest_reference.partition("@")[2],
        app_version=spec.version or found.labels.get(LABEL_VERSION, ""),
        sdk_version=spec.sdk_version,
        model_sha256=found.labels.get(LABEL_MODEL, ""),
        commit=found.labels.get(LABEL_COMMIT, ""),
    )
    return ReadyMap(found.digest_reference, spec, facts, found.bytes, seconds, requirements_of(found.labels))
