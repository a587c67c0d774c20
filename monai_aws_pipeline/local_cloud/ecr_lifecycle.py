"""What a repository's lifecycle policy removes, and what an index holds on to. Pure; ``ecr.py`` carries it out.

Only rules for untagged images by age are carried out; others are refused, because a policy that is stored and does nothing would be
believed. Source: Amazon ECR User Guide, "Lifecycle policy properties in Amazon ECR", "Automate the cleanup of images".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]
_DAY_S = 24 * 3600


def refusal(policy: str) -> str:
    """Why a policy is not taken, empty where it is."""
    invalid = "Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: 'Lifecycle policy validation failure'"
    try:
        rules = json.loads(policy)["rules"]
        others = [rule for rule in rules if not _is_carried_out(rule)]
        priorities = {rule["rulePriority"] for rule in rules}
    except (ValueError, KeyError, TypeError, AttributeError):
        return invalid
    if not rules or len(priorities) < len(rules):
        return invalid
    return f"the embedded AWS carries out rules for untagged images by age alone, not {json.dumps(others[0])}" if others else ""


def _is_carried_out(rule: Json) -> bool:
    selection, count = rule["selection"], rule["selection"].get("countNumber")
    kind = (selection.get("tagStatus"), selection.get("countType"), selection.get("countUnit"), rule["action"].get("type"))
    return kind == ("untagged", "sinceImagePushed", "days", "expire") and isinstance(count, int) and count >= 1


def expired(policy: str, images: Sequence[Json], now: float) -> list[Json]:
    """The images that go by a policy that was taken: untagged, old enough, and part of no index that is there."""
    days = min(int(rule["selection"]["countNumber"]) for rule in json.loads(policy)["rules"])
    old = [image for image in images if not image["imageTags"] and now - image["imagePushedAt"] > days * _DAY_S]
    return [image for image in old if not index_of(image, images)]


def index_of(image: Json, images: Sequence[Json]) -> str:
    """Digest of an index that refers to an image, empty where there is none: before it, the image can be neither deleted nor expired."""
    return next((str(each["imageDigest"]) for each in images if image["imageDigest"] in _children(each)), "")


def _children(image: Json) -> list[str]:
    listed = json.loads(image["imageManifest"]).get("manifests") or []
    return [str(child.get("digest")) for child in listed if isinstance(child, dict)]
