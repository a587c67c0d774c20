"""ECR: the repository of the MAP and what lies in it. Images are pushed by the build host; here we look and verify.

An image's parts are read through the registry's own protocol with a login token, as a pull does; nothing of them is trusted before
its digest was checked. Protocol: https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import RegistryError, code_of, named
from monai_aws_pipeline.contract import TAG_DEPLOYMENT, TAG_OWNER, is_digest
from monai_aws_pipeline.maps.spec.manifests import image_of_index, layers_of

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_ecr.type_defs import DescribeImageScanFindingsResponseTypeDef, ImageDetailTypeDef, ImageIdentifierTypeDef


MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
"""Largest manifest or configuration that is read; registries take no larger ones."""

_MANIFESTS: Final = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")
_INDEXES: Final = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
_TIMEOUT_S: Final = 60
_WORST: Final = 20
_AT_ONCE: Final = 100
_OURS: Final = "monai-aws: what pushes left without a tag"

SEVERITIES: Final = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED")
"""ECR's severities, the gravest first."""


@dataclass(frozen=True)
class LayerBlob:
    """One layer of an image as its manifest names it. ``bytes`` is its compressed size."""

    digest: str
    bytes: int
    media_type: str = ""


@dataclass(frozen=True)
class ImageParts:
    """An image's configuration (the JSON that the registry keeps) and its layers, the lowest first."""

    config: dict[str, Any]
    layers: tuple[LayerBlob, ...]


@dataclass(frozen=True)
class PushedImage:
    """One image in the registry. ``bytes`` is the compressed size that a pull transfers."""

    repository: str
    digest: str
    tags: tuple[str, ...]
    bytes: int
    pushed_at: str

    @property
    def reference(self) -> str:
        """repository@digest, as ``docker pull`` takes it."""
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True)
class ImageScan:
    """What ECR's scan of an image found. ``counts`` by severity; ``worst`` the gravest findings first, a few of them, in words."""

    status: str
    counts: dict[str, int]
    worst: tuple[str, ...] = ()
    completed_at: str = ""

    @property
    def under_way(self) -> bool:
        """Whether it is worth asking again."""
        return self.status in ("PENDING", "IN_PROGRESS")

    @property
    def finished(self) -> bool:
        """Whether the counts say anything. ACTIVE is a continuous scan, whose counts are those of now."""
        return self.status in ("COMPLETE", "ACTIVE")


class Registry:
    """One ECR repository."""

    def __init__(self, ecr: ECRClient, name: str) -> None:
        self._ecr = ecr
        self.name = name

    def ensure(self, deployment: str, owner: str) -> str:
        """Make the repository where it is missing. Returns its URI. Tags are immutable, images scanned on push, encrypted."""
        try:
            return self._ecr.describe_repositories(repositoryNames=[self.name])["repositories"][0].get("repositoryUri", "")
        except ClientError as error:
            if code_of(error) != "RepositoryNotFoundException":
                raise named(error, "describing the ECR repository") from error
        try:
            made = self._ecr.create_repository(
                repositoryName=self.name,
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
                encryptionConfiguration={"encryptionType": "AES256"},
                tags=[{"Key": TAG_DEPLOYMENT, "Value": deployment}, {"Key": TAG_OWNER, "Value": owner}],
            )
        except ClientError as error:
            if code_of(error) == "RepositoryAlreadyExistsException":  # another run was faster
                return self.ensure(deployment, owner)
            raise named(error, "creating the ECR repository") from error
        return made["repository"].get("repositoryUri", "")

    def owner(self) -> str | None:
        """The deployment that the repository's tag names, empty without such a tag; None where there is no repository."""
        try:
            found = self._ecr.describe_repositories(repositoryNames=[self.name])["repositories"][0]
            tags = self._ecr.list_tags_for_resource(resourceArn=found.get("repositoryArn", ""))["tags"]
        except ClientError as error:
            if code_of(error) == "RepositoryNotFoundException":
                return None
            raise named(error, "describing the ECR repository") from error
        return next((tag["Value"] for tag in tags if tag["Key"] == TAG_DEPLOYMENT), "")

    def remove(self) -> None:
        """Delete the repository with all its images; one that is gone already is fine."""
        try:
            self._ecr.delete_repository(repositoryName=self.name, force=True)
        except ClientError as error:
            if code_of(error) != "RepositoryNotFoundException":
                raise named(error, "deleting the ECR repository") from error

    def find(self, *, tag: str = "", digest: str = "") -> PushedImage | None:
        """The image with a tag or digest, or None."""
        wanted = {"imageTag": tag} if tag else {"imageDigest": digest}
        try:
            details = self._ecr.describe_images(repositoryName=self.name, imageIds=[wanted])["imageDetails"]  # type: ignore[list-item]
            uri = self._ecr.describe_repositories(repositoryNames=[self.name])["repositories"][0].get("repositoryUri", "")
        except ClientError as error:
            if code_of(error) in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return None
            raise named(error, "describing images in ECR") from error
        return _image(uri, details[0]) if details else None

    def images(self) -> list[PushedImage]:
        """All images that have a tag, the one pushed last first; none where there is no repository."""
        try:
            uri = self._ecr.describe_repositories(repositoryNames=[self.name])["repositories"][0].get("repositoryUri", "")
            pages = self._ecr.get_paginator("describe_images").paginate(repositoryName=self.name, filter={"tagStatus": "TAGGED"})
            found = [_image(uri, detail) for page in pages for detail in page["imageDetails"]]
        except ClientError as error:
            if code_of(error) == "RepositoryNotFoundException":
                return []
            raise named(error, "listing the images in ECR") from error
        return sorted(found, key=lambda image: image.pushed_at, reverse=True)

    def require(self, *, tag: str = "", digest: str = "") -> PushedImage:
        """Like ``find``. Raises RegistryError when the image is not there."""
        found = self.find(tag=tag, digest=digest)
        if found is None:
            raise RegistryError(f"ECR repository {self.name} has no image {tag or digest}.", "Materialise map_image again.")
        return found

    def scan(self, digest: str, architecture: str = "amd64") -> ImageScan | None:
        """The scan of the image with a digest, None where it was never scanned. Of an index, which ECR does not scan, that of its image."""
        answer = self._findings(digest)
        if answer is None and (image := image_of_index(self._manifest(digest), architecture)):
            answer = self._findings(image)
        if answer is None:
            return None
        found = answer.get("imageScanFindings", {})
        completed = found.get("imageScanCompletedAt")
        listed = [(each.get("severity", ""), each.get("name", "")) for each in found.get("findings", [])]
        listed += [(each.get("severity", ""), each.get("title", "")) for each in found.get("enhancedFindings", [])]
        gravest = sorted((each for each in listed if each[0] in SEVERITIES), key=lambda each: SEVERITIES.index(each[0]))
        return ImageScan(
            status=str(answer.get("imageScanStatus", {}).get("status", "")),
            counts={str(severity): int(count) for severity, count in found.get("findingSeverityCounts", {}).items()},
            worst=tuple(f"{severity}: {name[:200]}" for severity, name in gravest[:_WORST]),
            completed_at=completed.isoformat() if completed else "",
        )

    def _findings(self, digest: str) -> DescribeImageScanFindingsResponseTypeDef | None:
        try:
            return self._ecr.describe_image_scan_findings(repositoryName=self.name, imageId={"imageDigest": digest}, maxResults=1000)
        except ClientError as error:
            if code_of(error) == "ScanNotFoundException":
                return None
            raise named(error, "reading scan findings from ECR") from error

    def parts(self, digest: str, architecture: str = "amd64") -> ImageParts:
        """Configuration and layers of the image with a digest; of an index, the image for Linux on an architecture.

        Raises RegistryError where the registry does not hold it, or holds something that is no image.
        """
        manifest = self._manifest(digest)
        if isinstance(manifest.get("manifests"), list):
            inner = image_of_index(manifest, architecture)
            if not inner:
                raise RegistryError(f"{digest} holds no image for linux/{architecture}.", "Build the MAP for that platform.")
            manifest = self._manifest(inner)
        try:
            layers = tuple(LayerBlob(str(each["digest"]), int(each["size"]), str(each.get("mediaType", ""))) for each in manifest["layers"])
            config = json.loads(self.blob(str(manifest["config"]["digest"]), MAX_DOCUMENT_BYTES))
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(f"{digest} is not the manifest of an image.", "Build and push the MAP again.") from error
        if not isinstance(config, dict):
            raise RegistryError(f"{digest} has a configuration that is no object.", "Build and push the MAP again.")
        return ImageParts(config, layers)

    def layers(self, digest: str) -> frozenset[str]:
        """Digests of the layers of an image; of an index, those of its image for this project's machines. Raises RegistryError."""
        manifest = self._manifest(digest)
        if inner := image_of_index(manifest):
            manifest = self._manifest(inner)
        try:
            return frozenset(layers_of(manifest))
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(f"{digest} is not the manifest of an image.", "Build and push the MAP again.") from error

    def delete(self, digests: Sequence[str]) -> dict[str, str]:
        """Delete images with all their tags. Returns ECR's reason for each that stays; one that is gone already is fine."""
        stayed: dict[str, str] = {}
        for start in range(0, len(digests), _AT_ONCE):
            ids: list[ImageIdentifierTypeDef] = [{"imageDigest": digest} for digest in digests[start : start + _AT_ONCE]]
            try:
                failures = self._ecr.batch_delete_image(repositoryName=self.name, imageIds=ids).get("failures", [])
            except ClientError as error:
                raise named(error, "deleting images in ECR") from error
            for failure in failures:
                if failure.get("failureCode") != "ImageNotFound":
                    stayed[failure.get("imageId", {}).get("imageDigest", "")] = str(failure.get("failureReason", ""))
        return stayed

    def untagged(self) -> list[str]:
        """Digests of what has no tag: what a broken push left, and the images of indexes."""
        try:
            pages = self._ecr.get_paginator("describe_images").paginate(repositoryName=self.name, filter={"tagStatus": "UNTAGGED"})
            details = [detail for page in pages for detail in page["imageDetails"]]
        except ClientError as error:
            raise named(error, "listing the images in ECR") from error
        return [detail.get("imageDigest", "") for detail in details if not detail.get("imageTags")]

    def expire_untagged(self, days: int) -> bool:
        """Let ECR expire what has no tag after so many days. Returns False where the repository has a lifecycle policy of somebody else's.

        What a tagged index refers to does not expire before the index. Source: Amazon ECR User Guide, "Automate the cleanup of images".
        """
        ours, known = _untagged_policy(days), self._lifecycle_policy()
        if known and not _is_ours(known):
            return False
        if not known or json.loads(known) != json.loads(ours):
            try:
                self._ecr.put_lifecycle_policy(repositoryName=self.name, lifecyclePolicyText=ours)
            except ClientError as error:
                raise named(error, "putting a lifecycle policy on the ECR repository") from error
        return True

    def keep_untagged(self) -> None:
        """Take the policy of ``expire_untagged`` away; one of somebody else's stays."""
        known = self._lifecycle_policy()
        if known and _is_ours(known):
            try:
                self._ecr.delete_lifecycle_policy(repositoryName=self.name)
            except ClientError as error:
                raise named(error, "deleting the lifecycle policy of the ECR repository") from error

    def _lifecycle_policy(self) -> str:
        try:
            return self._ecr.get_lifecycle_policy(repositoryName=self.name).get("lifecyclePolicyText", "")
        except ClientError as error:
            if code_of(error) != "LifecyclePolicyNotFoundException":
                raise named(error, "reading the lifecycle policy of the ECR repository") from error
            return ""

    def _manifest(self, digest: str) -> dict[str, Any]:
        try:
            answer = self._ecr.batch_get_image(
                repositoryName=self.name, imageIds=[{"imageDigest": digest}], acceptedMediaTypes=[*_MANIFESTS, *_INDEXES]
            )
        except ClientError as error:
            raise named(error, "reading an image from ECR") from error
        text = answer["images"][0].get("imageManifest", "") if answer.get("images") else ""
        _check_digest(text.encode(), digest)
        try:
            manifest = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RegistryError(f"{digest} is not the manifest of an image.", "Build and push the MAP again.") from error
        if not isinstance(manifest, dict):
            raise RegistryError(f"{digest} is not the manifest of an image.", "Build and push the MAP again.")
        return manifest

    def blob(self, digest: str, max_bytes: int) -> bytes:
        """One blob of the repository, its digest checked. Raises RegistryError, also for one of more than ``max_bytes``."""
        if not is_digest(digest):
            raise RegistryError("The manifest names a blob by something that is no digest.", "Build and push the MAP again.")
        try:
            login = self._ecr.get_authorization_token()["authorizationData"][0]
        except ClientError as error:
            raise named(error, "logging in to ECR") from error
        request = urllib.request.Request(f"{login.get('proxyEndpoint', '')}/v2/{self.name}/blobs/{digest}")  # noqa: S310  ECR names it
        # Not for the address that the registry redirects to: that one is signed already, and the login is not its business.
        request.add_unredirected_header("Authorization", f"Basic {login.get('authorizationToken', '')}")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                body = _read(answer, max_bytes)
        except urllib.error.HTTPError as error:
            raise RegistryError(f"The registry answered {error.code} for {digest}.", "Look at the operator's permissions.") from error
        except OSError as error:
            raise RegistryError(
                f"The registry could not be reached ({type(error).__name__}).", "Check the network, then try again."
            ) from error
        if body is None:
            raise RegistryError(f"{digest} is larger than {max_bytes} bytes.", "Build and push the MAP again.")
        _check_digest(body, digest)
        return body


def _image(uri: str, detail: ImageDetailTypeDef) -> PushedImage:
    pushed = detail.get("imagePushedAt")
    return PushedImage(
        repository=uri,
        digest=detail.get("imageDigest", ""),
        tags=tuple(detail.get("imageTags", [])),
        bytes=detail.get("imageSizeInBytes", 0),
        pushed_at=pushed.isoformat() if pushed else "",
    )


def _untagged_policy(days: int) -> str:
    selection = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": days}
    rule = {"rulePriority": 1, "description": _OURS, "selection": selection, "action": {"type": "expire"}}
    return json.dumps({"rules": [rule]})


def _is_ours(policy: str) -> bool:
    return [rule.get("description") for rule in json.loads(policy).get("rules", [])] == [_OURS]


def _read(answer: IO[bytes], max_bytes: int) -> bytes | None:
    body = answer.read(max_bytes + 1)
    return body if len(body) <= max_bytes else None


def _check_digest(body: bytes, digest: str) -> None:
    if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
        raise RegistryError(f"What the registry gave is not {digest}.", "Try again; if it stays so, build and push the MAP again.")
