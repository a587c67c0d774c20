"""The embedded registry's lifecycle: what a policy removes, what an index holds on to, and which policies are not taken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from monai_aws_pipeline.local_cloud.ecr_lifecycle import expired, index_of, refusal

DAY = 24 * 3600.0
NOW = 100 * DAY


def policy(**selection: Any) -> str:
    chosen = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 14} | selection
    return json.dumps({"rules": [{"rulePriority": 1, "selection": chosen, "action": {"type": "expire"}}]})


def image(name: str, days: float, *tags: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
    manifest = {"manifests": [{"digest": child} for child in children]} if children else {"layers": []}
    return {"imageDigest": name, "imageTags": list(tags), "imagePushedAt": NOW - days * DAY, "imageManifest": json.dumps(manifest)}


def test_only_what_is_old_and_has_no_tag_expires():
    images = [image("old", 15), image("young", 13), image("tagged", 99, "1.0.0")]
    assert [each["imageDigest"] for each in expired(policy(), images, NOW)] == ["old"]


def test_the_images_of_an_index_stay_as_long_as_it_does():
    child, index = image("child", 99), image("index", 99, "1.0.0", children=("child", "attestation"))
    assert expired(policy(), [child, index], NOW) == []
    assert index_of(child, [child, index]) == "index"
    assert expired(policy(), [child], NOW) == [child]


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"rules": []}', policy(tagStatus="any"), policy(countNumber=0), policy(countType="imageCountMoreThan"), '{"rules": [1]}'],
)
def test_what_would_not_be_carried_out_is_not_taken(text: str):
    assert refusal(text)


def test_what_is_used_here_is_taken():
    assert refusal(policy()) == ""
