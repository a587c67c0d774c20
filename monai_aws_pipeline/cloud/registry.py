"""ECR: the repository of the MAP and what lies in it. Images are pushed by the build host; here we look and verify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import RegistryError, code_of, refused
from monai_aws_pipeline.contract import TAG_DEPLOYMENT, TAG_OWNER

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


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
                raise refused(error, "describing the ECR repository") or error from error
        try:
            made = self._ecr.create_repository(
                repositoryName=self.name,
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
                encryptionConfiguration={"encryptionType": "AES256"},
                tags=[{"Key": TAG_DEPLOYMENT, "Value": deployment}, {"Key": TAG_OWNER, "Value": owner}],
            )
        except ClientError as error:
            raise refused(error, "creating the ECR repository") or error from error
        return made["repository"].get("repositoryUri", "")

    def owner(self) -> str | None:
        """The deployment that the repository's tag names, empty without such a tag; None where there is no repository."""
        try:
            found = self._ecr.describe_repositories(repositoryNames=[self.name])["repositories"][0]
            tags = self._ecr.list_tags_for_resource(resourceArn=found.get("repositoryArn", ""))["tags"]
        except ClientError as error:
            if code_of(error) == "RepositoryNotFoundException":
                return None
            raise refused(error, "describing the ECR repository") or error from error
        return next((tag["Value"] for tag in tags if tag["Key"] == TAG_DEPLOYMENT), "")

    def remove(self) -> None:
        """Delete the repository with all its images; one that is gone already is fine."""
        try:
            self._ecr.delete_repository(repositoryName=self.name, force=True)
        except ClientError as error:
            if code_of(error) != "RepositoryNotFoundException":
                raise refused(error, "deleting the ECR repository") or error from error

    def find(self, *, tag: str = "", digest: str = "") -> PushedImage | None:
        """The image with a tag or digest, or None."""
        wanted = {"imageTag": tag} if tag else {"imageDigest": digest}
        try:
            details = self._ecr.describe_images(repositoryName=self.name, imageIds=[wanted])["imageDetails"]  # type: ignore[list-item]
            uri = self._ecr.describe_repositories(repositoryNames=[self.name])["repositories"][0].get("repositoryUri", "")
        except ClientError as error:
            if code_of(error) in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return None
            raise refused(error, "describing images in ECR") or error from error
        if not details:
            return None
        found = details[0]
        pushed = found.get("imagePushedAt")
        return PushedImage(
            repository=uri,
            digest=found.get("imageDigest", ""),
            tags=tuple(found.get("imageTags", [])),
            bytes=found.get("imageSizeInBytes", 0),
            pushed_at=pushed.isoformat() if pushed else "",
        )

    def require(self, *, tag: str = "", digest: str = "") -> PushedImage:
        """Like ``find``. Raises RegistryError when the image is not there."""
        found = self.find(tag=tag, digest=digest)
        if found is None:
            raise RegistryError(f"ECR repository {self.name} has no image {tag or digest}.", "Materialise map_image again.")
        return found
