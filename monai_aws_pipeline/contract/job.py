"""The message by which an upload becomes a job."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from monai_aws_pipeline.contract.ids import DIGEST_PATTERN, STUDY_PATTERN
from monai_aws_pipeline.contract.keys import job_id, version_of
from monai_aws_pipeline.contract.parsing import ContractError, hex_digits, json_object, parse_utc, text_field, utc_text, whole_field

JOB_SCHEMA: Final = "monai-aws/job/1"
_RERUN: Final = re.compile(rf"({DIGEST_PATTERN})(?:/({STUDY_PATTERN}))?(?:#([1-9][0-9]{{0,5}}))?")


@dataclass(frozen=True)
class Rerun:
    """What a re-run asks for. As a job's ``request`` it is ``DIGEST[/STUDY][#ATTEMPT]``, so that each of the three makes a job of its own.

    ``digest``: of the MAP. ``study``: which one of the original, where the original's key names none, as under ``quarantine/``.
    ``attempt``: how often the same was asked before and has failed.
    """

    digest: str
    study: str = ""
    attempt: int = 0

    @property
    def text(self) -> str:
        """The request of its job."""
        return self.digest + (f"/{self.study}" if self.study else "") + (f"#{self.attempt}" if self.attempt else "")

    @classmethod
    def parse(cls, text: str) -> Rerun:
        """Read a job's request. Raises ContractError."""
        found = _RERUN.fullmatch(text)
        if not found:
            raise ContractError("request must be the digest of a MAP, with a study and the number of an attempt where they are meant")
        return cls(found[1], found[2] or "", int(found[3] or 0))


@dataclass(frozen=True)
class JobMessage:
    """One upload to be answered. The only place outside ``input/`` where the uploader's key appears.

    ``size`` in bytes, ``enqueued_at`` ISO 8601 UTC. ``request`` is what a re-run asks for (``Rerun``), empty for an upload.
    """

    job: str
    bucket: str
    key: str
    version: str
    etag: str
    size: int
    enqueued_at: str
    request: str = ""
    schema: str = JOB_SCHEMA

    @classmethod
    def for_object(
        cls, *, bucket: str, key: str, version: str, etag: str, size: int, request: str = "", now: datetime | None = None
    ) -> JobMessage:
        """The message for one object; its job id follows from the object alone."""
        version = version_of(version)
        job = job_id(bucket, key, version or etag, request)
        return cls(job, bucket, key, version, etag.strip('"'), size, utc_text(now or datetime.now(UTC)), request)

    @property
    def rerun(self) -> Rerun | None:
        """What a re-run asks for, None for an upload. Raises ContractError."""
        return Rerun.parse(self.request) if self.request else None

    @property
    def map_digest(self) -> str:
        """The MAP that is to answer, empty for the one that is live then. Raises ContractError."""
        return self.rerun.digest if self.rerun else ""

    def to_json(self) -> str:
        """Compact JSON, ASCII only, so that any key survives any transport."""
        return json.dumps(asdict(self), ensure_ascii=True, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> JobMessage:
        """Parse and check a message. Raises ContractError naming the field that is wrong."""
        data = json_object(text, "job message")
        if data.get("schema") != JOB_SCHEMA:
            raise ContractError(f"job message has another schema than {JOB_SCHEMA}")
        message = cls(
            job=hex_digits(text_field(data, "job"), 32, "job"),
            bucket=text_field(data, "bucket"),
            key=text_field(data, "key"),
            version=text_field(data, "version", empty=True),
            etag=text_field(data, "etag", empty=True),
            size=whole_field(data, "size"),
            enqueued_at=utc_text(parse_utc(text_field(data, "enqueued_at"))),
            request=text_field(data, "request", empty=True, missing=""),
        )
        if not message.key or not message.bucket:
            raise ContractError("job message names no object")
        if message.job != job_id(message.bucket, message.key, message.version or message.etag, message.request):
            raise ContractError("job message: job does not follow from bucket, key, version and request")
        return message
