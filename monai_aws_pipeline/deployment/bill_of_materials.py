"""The bill of materials of a pushed MAP: taken from the image on the build machine, kept in the bucket under its digest.

Here belong asking the agent for the image's content and putting the document where ``contract.sbom_key`` says. What the document looks like
is in ``maps.sbom``. A MAP that is in the registry without one (a bucket that was emptied) keeps its digest and loses its list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import RegistryError, code_of, named
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.contract import AgentExit, sbom_key
from monai_aws_pipeline.deployment.machine_agent import ask
from monai_aws_pipeline.host_agent.runtime.image_inventory import MODELS
from monai_aws_pipeline.maps import sbom
from monai_aws_pipeline.remote import Remote

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SECONDS = 900


@dataclass(frozen=True)
class KeptSbom:
    """Where the document lies and how much it lists, by kind."""

    key: str
    counts: dict[str, int]


def inventory(remote: Remote, image: str, report: Report) -> dict[str, Any]:
    """What is in an image of the machine. Raises RegistryError when the agent says nothing of use."""
    asked = ["inventory", "--image", image]
    answer = ask(
        remote, asked, report, what="Listing what is in the image", seconds=_SECONDS, accepted=(AgentExit.DONE, AgentExit.WRONG_CALL)
    )
    try:
        return sbom.parse_inventory(answer.text)
    except sbom.InventoryError as error:
        raise RegistryError(f"The image's content could not be listed: {error}.", "Materialise gpu_ami, then map_image.") from error


def of_dependencies(s3: S3Client, bucket: str, digest: str, take: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in a dependency image. It is taken once and kept in the bucket, because the builds after that do not pull the image."""
    key = sbom_key(digest).replace("sbom.cdx.json", "inventory.json")
    try:
        return sbom.parse_inventory(s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode())
    except ClientError as error:
        if code_of(error) not in ("NoSuchKey", "404"):
            raise named(error, "reading the inventory of the dependencies") from error
    except (sbom.InventoryError, UnicodeDecodeError):
        pass  # damaged: taken again
    content = take()
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(content).encode(), ContentType="application/json")
    return content


def with_models(content: dict[str, Any], layer: Path) -> dict[str, Any]:
    """The content with the model files of a layer that lies here as a folder."""
    models = layer / MODELS
    files = sorted(path for path in models.rglob("*") if path.is_file())
    return {
        **content,
        "models": [{"path": str(path.relative_to(models)), "sha256": _sha256(path), "bytes": path.stat().st_size} for path in files],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def keep(s3: S3Client, bucket: str, image: sbom.MapImage, content: dict[str, Any], report: Report) -> None:
    """Write the document of a pushed image. The counts lie with it, so that a later run can say them without reading the list."""
    made = sbom.make(image, content)
    counts = {f"count-{kind}": str(count) for kind, count in made.counts.items()}
    kind = "application/vnd.cyclonedx+json"
    try:
        s3.put_object(Bucket=bucket, Key=sbom_key(image.digest), Body=made.text.encode(), ContentType=kind, Metadata=counts)
    except ClientError as error:
        raise named(error, "putting the bill of materials into the bucket") from error
    report(f"bill of materials: {', '.join(f'{count} {name}' for name, count in made.counts.items())}")


def find(s3: S3Client, bucket: str, digest: str) -> KeptSbom | None:
    """The document of an image, None where there is none."""
    if not bucket:
        return None
    try:
        head = s3.head_object(Bucket=bucket, Key=sbom_key(digest))
    except ClientError as error:
        if code_of(error) in ("404", "NoSuchKey", "NotFound"):
            return None
        raise named(error, "looking for the bill of materials") from error
    said = ((name.removeprefix("count-"), count) for name, count in head["Metadata"].items() if name.startswith("count-"))
    counts = {name: int(count) for name, count in said if count.isdigit()}
    return KeptSbom(sbom_key(digest), counts)
