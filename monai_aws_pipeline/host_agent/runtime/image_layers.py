"""How much a pull would bring: the layers of an image, in the registry's words, that no image on this host has.

Here belongs asking ECR for manifests. What an image takes of a disk is reckoned in ``maps/spec/disk_space.py``.
Source: Amazon ECR API Reference, BatchGetImage (an index comes back as it is, and its image is asked for by digest).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.maps.spec.manifests import image_of_index, layers_of

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

log = logging.getLogger(__name__)

_MOST: Final = 100
"""Images that one call may ask for."""
_TYPES: Final = tuple(
    f"application/vnd.{kind}+json"
    for kind in (
        *("docker.distribution.manifest.v2", "docker.distribution.manifest.list.v2"),
        *("oci.image.manifest.v1", "oci.image.index.v1"),
    )
)


def bytes_to_pull(ecr: ECRClient, image: str, present: Collection[str]) -> int | None:
    """Compressed bytes of the layers of an image (``registry/repository@sha256:…``) that none of ``present`` has.

    None where the registry does not say: then the pull itself will tell.
    """
    repository = image.partition("@")[0]
    digest = image.rpartition("@")[2]
    here = sorted({name.rpartition("@")[2] for name in present if name.partition("@")[0] == repository and name != image})
    try:
        found = _layers(ecr, repository.partition("/")[2], [digest, *here][:_MOST])
    except (ClientError, BotoCoreError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("the registry does not say how large the MAP is (%s)", error.__class__.__name__)
        return None
    if digest not in found:
        return None
    known = {layer for name, layers in found.items() if name != digest for layer in layers}
    return sum(size for layer, size in found[digest].items() if layer not in known)


def _layers(ecr: ECRClient, repository: str, digests: list[str]) -> dict[str, dict[str, int]]:
    """The layers of each image that the registry has, by the digest that was asked for."""
    manifests = _manifests(ecr, repository, digests)
    inner = {digest: child for digest, manifest in manifests.items() if (child := image_of_index(manifest))}
    children = _manifests(ecr, repository, sorted(set(inner.values()))) if inner else {}
    whole = {digest: children.get(inner[digest], {}) if digest in inner else manifest for digest, manifest in manifests.items()}
    return {digest: layers_of(manifest) for digest, manifest in whole.items() if manifest.get("layers")}


def _manifests(ecr: ECRClient, repository: str, digests: list[str]) -> dict[str, Mapping[str, Any]]:
    answer = ecr.batch_get_image(
        repositoryName=repository, imageIds=[{"imageDigest": digest} for digest in digests], acceptedMediaTypes=list(_TYPES)
    )
    found = {str(each["imageId"]["imageDigest"]): json.loads(each["imageManifest"]) for each in answer["images"]}
    return {digest: manifest for digest, manifest in found.items() if isinstance(manifest, dict)}
