"""Which MAP answers studies, which ones did before, and which one may take over: decided from the parameter's history and the registry.

Pure. What a host says of a candidate is in ``golden_check``, what is kept of a change in ``live_map_change``; ``live_maps`` asks AWS, and
writes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.registry import PushedImage
from monai_aws_pipeline.cloud.run_command import ParameterVersion
from monai_aws_pipeline.contract import digest_in
from monai_aws_pipeline.maps.spec.expectation import LABEL_STUDY

SHORTEST_PREFIX: Final = 7


class PromotionError(CloudError):
    """The live MAP was not changed. The message says why and what to do."""


class UnknownMapError(PromotionError):
    """No image, or more than one, has that name."""


class NeverLiveError(PromotionError):
    """There is no MAP to go back to, or the named one never answered studies."""


class Kind(StrEnum):
    """How a MAP became the live one. The first word of the parameter's description."""

    DEPLOY = "deploy"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Deployment:
    """One version of the parameter: the digest that became live, how, when (ISO 8601), the words it was written with, its number."""

    digest: str
    kind: Kind
    at: str
    note: str
    version: int = 0


@dataclass(frozen=True)
class History:
    """What the history says now. ``before``: MAPs to go back to, the nearest first. ``withdrawn``: those that a rollback took back."""

    live: str
    before: tuple[str, ...]
    withdrawn: frozenset[str]


@dataclass(frozen=True)
class ListedMap:
    """One image of the repository and what it is to the deployment: live, previous, withdrawn, was live, or nothing yet."""

    image: PushedImage
    standing: str


def parse_deployment(version: ParameterVersion) -> Deployment | None:
    """One version of the parameter as a switch; None where its value names no digest."""
    digest = digest_in(version.value)
    word = version.description.partition(" ")[0]
    kind = Kind(word) if word in set(Kind) else Kind.DEPLOY
    return Deployment(digest, kind, version.at, version.description, version.number) if digest else None


def history_of(history: Sequence[Deployment]) -> History:
    """Read a history, oldest first. A rollback takes back what came after its target, so that two in a row go two steps back."""
    stack: list[str] = []
    withdrawn: set[str] = set()
    for switch in history:
        if stack and stack[-1] == switch.digest:
            continue
        if switch.kind is Kind.ROLLBACK and switch.digest in stack:
            kept = len(stack) - stack[::-1].index(switch.digest)
            withdrawn |= set(stack[kept:])
            del stack[kept:]
        else:
            stack.append(switch.digest)
        withdrawn.discard(switch.digest)
    live = stack[-1] if stack else ""
    before = dict.fromkeys(digest for digest in reversed(stack[:-1]) if digest != live and digest not in withdrawn)
    return History(live, tuple(before), frozenset(withdrawn))


def choose_map(images: Sequence[PushedImage], wanted: str) -> PushedImage:
    """The image that a user means by a tag, a digest, its first 7 or more digits, or a whole reference; the newest for an empty text.

    ``images``: newest first. Raises UnknownMapError.
    """
    if not images:
        raise UnknownMapError("There is no MAP in the registry.", "Materialise map_image first.")
    if not wanted:
        return images[0]
    tagged = [image for image in images if {wanted, wanted.rpartition(":")[2]} & set(image.tags)]
    digits = wanted.rpartition("@")[2].removeprefix("sha256:")
    named = [image for image in images if image.digest.removeprefix("sha256:").startswith(digits)]
    found = tagged or (named if len(digits) >= SHORTEST_PREFIX and re.fullmatch(r"[0-9a-f]+", digits) else [])
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} MAPs begin with" if found else "The registry has no MAP with the tag or digest"
    raise UnknownMapError(f"{what} {wanted[:120]!r}.", "List them with: monai-aws maps")


def choose_return(images: Sequence[PushedImage], past: Sequence[Deployment], wanted: str) -> PushedImage:
    """The image to roll back to: the named one if it was live before, or the nearest that was and is still in the registry.

    Raises UnknownMapError, NeverLiveError.
    """
    now = history_of(past)
    if wanted:
        image = choose_map(images, wanted)
        if image.digest not in {switch.digest for switch in past}:
            raise NeverLiveError(
                f"{label(image)} has never answered studies here, as far back as the parameter's history goes.",
                f"Promote it, which asks the golden study first: monai-aws promote {label(image)}",
            )
        return image
    there = {image.digest: image for image in images}
    for digest in now.before:
        if digest in there:
            return there[digest]
    raise NeverLiveError("No MAP that was live before is left to go back to.", "Name one that was: monai-aws maps, monai-aws rollback MAP")


def live_after_deploy(now: History, candidate: str, present: Collection[str], promote_on_deploy: bool) -> tuple[str, str]:
    """Which digest is to be live after hosts were deployed, and why it is not the candidate (empty where it is).

    ``present``: digests in the registry. The first MAP becomes live in any case; one that a rollback took back never does.
    """
    if now.live in (candidate, "") or now.live not in present:
        return candidate, ""
    if candidate in now.withdrawn:
        return now.live, "it was taken back by a rollback; promote_map makes it live again"
    if not promote_on_deploy:
        return now.live, "MONAI_AWS_PROMOTE_ON_DEPLOY is false; promote_map makes it live"
    return candidate, ""


def asks_golden(config: Mapping[str, Any], digest: str, past: Sequence[Deployment]) -> bool:
    """Whether an image (its configuration, its digest) has to answer its golden study on a host before a deployment makes it live.

    Not the first MAP, which takes nobody's place; nor one that was live before, as with a rollback; nor one that brings no golden study.
    """
    labels = (config.get("config") or {}).get("Labels") or {}
    return bool(past) and digest not in {switch.digest for switch in past} and bool(labels.get(LABEL_STUDY))


def label(image: PushedImage) -> str:
    """How a user speaks of an image: its tag, or its digest where it has none."""
    return image.tags[0] if image.tags else image.digest
