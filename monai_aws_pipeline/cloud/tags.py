"""The tags on everything billable, and the search by them. Every resource of ours is found again by its tags alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from monai_aws_pipeline.contract import TAG_DEPLOYMENT, TAG_EXPIRES_AT, TAG_OWNER, TAG_ROLE, TAG_RUN_ID, utc_text

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, TagTypeDef

TAG_COPY_OF = "monai-aws:copy-of"
"""On a copied machine image: the image of the home region that it was copied from."""
TAG_COPIES = "monai-aws:copies"
"""On a machine image of the home region: the regions it was copied to, separated by spaces."""
TAG_BASE = "monai-aws:base-image"
"""On a baked machine image: the base image that it was made from."""
TAG_BASE_ADDRESS = "monai-aws:base-address"
"""Beside it: which setting had led to that base image, as a fingerprint (``images.fingerprint``)."""
TAG_REPLACE = "monai-aws:replace"
"""On an inference host: the time at which somebody asked for another in its place (``monai-aws hosts replace``)."""
TAG_LEASE = "monai-aws:lease"
"""On a short-lived machine, its key pair and its security group: one name for the three, by which they are found again."""


@dataclass(frozen=True)
class Tags:
    """The tags of one resource. ``expires_at`` is None for what is meant to stay."""

    deployment: str
    role: str
    owner: str
    run_id: str
    name: str
    expires_at: datetime | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, str]:
        """Tag names and values."""
        return {
            "Name": self.name,
            TAG_DEPLOYMENT: self.deployment,
            TAG_ROLE: self.role,
            TAG_OWNER: self.owner,
            TAG_RUN_ID: self.run_id,
            TAG_EXPIRES_AT: utc_text(self.expires_at) if self.expires_at else "",
            **self.extra,
        }

    def as_list(self) -> list[TagTypeDef]:
        """The form most AWS calls want."""
        return [{"Key": key, "Value": value} for key, value in self.as_dict().items()]


def tag_filters(deployment: str, role: str = "", **others: str) -> list[FilterTypeDef]:
    """EC2 filters for a deployment's resources; ``others`` are raw filter names with underscores for dashes."""
    filters: list[FilterTypeDef] = [{"Name": f"tag:{TAG_DEPLOYMENT}", "Values": [deployment]}]
    if role:
        filters.append({"Name": f"tag:{TAG_ROLE}", "Values": [role]})
    filters.extend({"Name": name.replace("_", "-"), "Values": value.split(",")} for name, value in others.items())
    return filters


def tags_of(listed: Iterable[Any]) -> dict[str, str]:
    """AWS's list of Key/Value pairs as a dict."""
    return {str(tag["Key"]): str(tag["Value"]) for tag in listed}
