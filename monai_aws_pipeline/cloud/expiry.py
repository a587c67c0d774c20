"""Rules of the bucket's lifecycle by which results and originals expire, merged into what others have put there.

A rule of ours is known by its ID. Index entries outlive their results for a while, so that a Dagster that looks late can say what has
expired. Source: Amazon S3 User Guide, "Lifecycle configuration elements" (a configuration is replaced as a whole; a rule with ``Days`` also
clears delete markers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import code_of, refused
from monai_aws_pipeline.contract import INDEX_PREFIX, JOBS_PREFIX, OUTPUT_PREFIX, PROCESSED_PREFIX, QUARANTINE_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

INDEX_OUTLIVES_DAYS: Final = 30
_OLD_VERSIONS_DAYS: Final = 7
_SIZES: Final = "TransitionDefaultMinimumObjectSize"
Rule = dict[str, Any]


def expiry_rules(deployment: str, results_days: int, originals_days: int) -> list[Rule]:
    """The rules for these numbers of days, none for 0. What a job has decided goes with its result: it holds it."""
    wanted = {
        OUTPUT_PREFIX: results_days,
        JOBS_PREFIX: results_days,
        INDEX_PREFIX: results_days + INDEX_OUTLIVES_DAYS if results_days else 0,
        PROCESSED_PREFIX: originals_days,
        QUARANTINE_PREFIX: originals_days,
    }
    return [_rule(deployment, prefix, days) for prefix, days in wanted.items() if days]


def _rule(deployment: str, prefix: str, days: int) -> Rule:
    return {
        "ID": f"{_marked(deployment)}{prefix.removesuffix('/')}",
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Expiration": {"Days": days},
        "NoncurrentVersionExpiration": {"NoncurrentDays": _OLD_VERSIONS_DAYS},
    }


def _marked(deployment: str) -> str:
    return f"monai-aws-{deployment}-expire-"


def merge_rules(existing: Sequence[Mapping[str, Any]], ours: Sequence[Rule], deployment: str) -> list[Rule]:
    """The bucket's rules with ours in them, and those of others as they are."""
    return [*(dict(rule) for rule in existing if not str(rule.get("ID", "")).startswith(_marked(deployment))), *ours]


class BucketExpiry:
    """The expiry of one deployment's results and originals in its bucket."""

    def __init__(self, s3: S3Client, bucket: str, deployment: str) -> None:
        self._s3, self._bucket, self._deployment = s3, bucket, deployment

    def ensure(self, rules: Sequence[Rule]) -> bool:
        """Bring our rules on the bucket to these; none takes them away. Returns whether anything had to change."""
        found = self._configuration()
        existing = found.get("Rules", [])
        merged = merge_rules(existing, rules, self._deployment)
        if _by_id(merged) == _by_id(existing):
            return False
        try:
            if merged:
                sizes = {_SIZES: found[_SIZES]} if found.get(_SIZES) else {}
                configuration: Any = {"Rules": merged}
                self._s3.put_bucket_lifecycle_configuration(Bucket=self._bucket, LifecycleConfiguration=configuration, **sizes)
            else:
                self._s3.delete_bucket_lifecycle(Bucket=self._bucket)
        except ClientError as error:
            raise refused(error, f"changing the lifecycle rules of {self._bucket}") or error from error
        return True

    def names(self) -> list[str]:
        """IDs of our rules on the bucket; none for a bucket that is gone."""
        found = self._configuration(missing_ok=True).get("Rules", [])
        return [str(rule["ID"]) for rule in found if str(rule.get("ID", "")).startswith(_marked(self._deployment))]

    def remove(self, name: str) -> None:
        """Take one of our rules off the bucket; the others stay."""
        kept = [dict(rule) for rule in self._configuration().get("Rules", []) if rule.get("ID") != name]
        self.ensure([rule for rule in kept if str(rule.get("ID", "")).startswith(_marked(self._deployment))])

    def _configuration(self, *, missing_ok: bool = False) -> Mapping[str, Any]:
        try:
            return self._s3.get_bucket_lifecycle_configuration(Bucket=self._bucket)
        except ClientError as error:
            if code_of(error) == "NoSuchLifecycleConfiguration" or (missing_ok and code_of(error) == "NoSuchBucket"):
                return {}
            raise refused(error, f"reading the lifecycle rules of {self._bucket}") or error from error


def _by_id(rules: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(((str(rule.get("ID", "")), rule) for rule in rules), key=lambda pair: (pair[0], str(pair[1])))
