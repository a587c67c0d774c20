"""How a job ended: the commit record ``result.json``, its parts, and the entry of the results index that is derived from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from monai_aws_pipeline.contract.keys import index_key, quarantine_key, result_key
from monai_aws_pipeline.contract.measurements import Measurements
from monai_aws_pipeline.contract.parsing import (
    ContractError,
    hex_digits,
    json_object,
    list_field,
    parse_utc,
    part_of,
    text_field,
    utc_text,
    without_none,
)

RESULT_SCHEMA: Final = "monai-aws/result/1"
INDEX_SCHEMA: Final = "monai-aws/index/1"
DONE_SCHEMA: Final = "monai-aws/job-done/1"


class Status(StrEnum):
    """How a job ended. ``failed``: tried and did not work. ``quarantined``: refused before any inference."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    QUARANTINED = "quarantined"


@dataclass(frozen=True)
class ResultError:
    """Why a job was not answered. ``code`` from the agent's list of codes; ``message`` has cause and remedy and no identifier.

    ``last_line``: what the application said last, where it was what failed; identifiers and secrets are taken out.
    """

    code: str
    message: str
    last_line: str = ""

    @property
    def brief(self) -> str:
        """The code, with what the application said last where it is known: for lists, where there is no room for more."""
        return f"{self.code}: {self.last_line}" if self.last_line else self.code

    @property
    def text(self) -> str:
        """All of it in one line."""
        said = f" The application said last: {self.last_line}" if self.last_line else ""
        return f"{self.code}: {self.message}{said}"


@dataclass(frozen=True)
class InputFacts:
    """What was uploaded: hash of the key, never the key; ``bytes`` as stored; DICOM counts where it could be read.

    ``given``: images that the application was given. ``selection``: for each series of images what it is, and why it was given or not.
    ``passed_over``: how many files of which kind are no image and were not given. ``repairs``: what was evened out in the copies given.
    """

    key_sha256: str
    etag: str
    bytes: int
    instances: int = 0
    modalities: tuple[str, ...] = ()
    series: int = 0
    given: int = 0
    selection: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class MapFacts:
    """Which MAP answered. ``image`` is repository@digest; ``commit`` the git commit of the application source."""

    image: str = ""
    digest: str = ""
    app_version: str = ""
    sdk_version: str = ""
    model_sha256: str = ""
    commit: str = ""


@dataclass(frozen=True)
class HostFacts:
    """Which machine answered: EC2 instance id, instance type and image id."""

    instance_id: str = ""
    type: str = ""
    ami: str = ""


@dataclass(frozen=True)
class Timings:
    """Seconds of each phase. ``queued``: enqueued to taken; ``boot``: machine start to agent ready, for the first job after a boot.

    ``waiting``: fetched, and the machine at work on another study. ``upload``: end of the inference to the commit. ``total``: enqueued to
    committed; a boot lies within ``queued``.
    """

    queued: float = 0.0
    boot: float = 0.0
    download: float = 0.0
    waiting: float = 0.0
    pull: float = 0.0
    inference: float = 0.0
    upload: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Resources:
    """What the MAP used for the study: peak memory in bytes, ``peak_gpu_memory`` only where there is a GPU, and CPU seconds.

    ``hosting``: ``per_study`` (a container of its own) or ``warm`` (a process forked in a container that had the imports); empty: it
    never ran. ``beside``: so many other studies ran on the same machine at the same time, at most.
    """

    peak_rss: int = 0
    peak_gpu_memory: int | None = None
    cpu_seconds: float = 0.0
    hosting: str = ""
    beside: int = 0


@dataclass(frozen=True)
class Cost:
    """What the study cost in US dollars and on which basis (price, instance type, seconds).

    ``shares`` in US dollars, adding up to ``usd``: ``boot``, ``pull``, ``inference`` (with everything else that was done for studies) and
    ``idle``, the time without work before the study, which is the tail before the machine's last stop as well.
    """

    usd: float = 0.0
    basis: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputFile:
    """One output: its key, SHA-256, size in bytes and kind.

    Kinds: ``dicom-seg``, ``dicom``, ``mesh``, ``preview``, ``measurements``, ``log``, ``other``. ``held_against``: what the host
    has found it to lie on (``contract.outputs``: SOURCE, SEGMENTATION); empty where it was not judged, or by an older host.
    """

    key: str
    sha256: str
    bytes: int
    kind: str
    held_against: str = ""


@dataclass(frozen=True)
class Archive:
    """Where the study was archived in HealthImaging."""

    datastore: str
    job: str
    image_sets: tuple[str, ...] = ()
    failures: int = 0


@dataclass(frozen=True)
class ResultRecord:
    """The commit record of one study of one job: decided once (``decisions_key``), written last and once with ``If-None-Match: *``.

    ``study`` is empty for a job that was refused before its study was known. ``committed_at`` (ISO 8601 UTC) names the index entry.
    ``measured``: what ``measurements.json`` says, so that who records many results reads one object of each; None where nothing was
    measured, or by an older host.
    """

    job: str
    study: str
    status: Status
    committed_at: str
    input: InputFacts
    map: MapFacts = field(default_factory=MapFacts)
    host: HostFacts = field(default_factory=HostFacts)
    timings: Timings = field(default_factory=Timings)
    resources: Resources = field(default_factory=Resources)
    cost: Cost = field(default_factory=Cost)
    outputs: tuple[OutputFile, ...] = ()
    error: ResultError | None = None
    archive: Archive | None = None
    measured: Measurements | None = None
    request: str = ""
    schema: str = RESULT_SCHEMA

    @property
    def commit_key(self) -> str:
        """The key this record is committed at, known before the inference starts."""
        return commit_key(self.status, self.study, self.job)

    @property
    def index_key(self) -> str:
        """The key of the sensor's entry for this record."""
        return index_key(parse_utc(self.committed_at), self.job, self.study)

    def to_json(self) -> str:
        """Indented JSON with sorted keys; absent optional parts are left out."""
        return json.dumps(self.to_data(), ensure_ascii=True, indent=2, sort_keys=True) + "\n"

    def to_data(self) -> dict[str, Any]:
        """The record as a part of a larger JSON document."""
        data: dict[str, Any] = without_none(asdict(self))
        return {**data, "measured": self.measured.to_data()} if self.measured else data

    @classmethod
    def from_json(cls, text: str) -> ResultRecord:
        """Parse and check a record. Raises ContractError naming the field that is wrong."""
        return cls.from_data(json_object(text, "result record"))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ResultRecord:
        """Check a record that was parsed with a larger document. Raises ContractError naming the field that is wrong."""
        if data.get("schema") != RESULT_SCHEMA:
            raise ContractError(f"result record has another schema than {RESULT_SCHEMA}")
        try:
            status = Status(text_field(data, "status"))
        except ValueError as error:
            raise ContractError("result record: status is not one of succeeded, failed, quarantined") from error
        study = text_field(data, "study", empty=True)
        return cls(
            job=hex_digits(text_field(data, "job"), 32, "job"),
            study=hex_digits(study, 16, "study") if study else "",
            status=status,
            committed_at=utc_text(parse_utc(text_field(data, "committed_at"))),
            input=part_of(InputFacts, data, "input", sequences=("modalities", "selection", "repairs")),
            map=part_of(MapFacts, data, "map"),
            host=part_of(HostFacts, data, "host"),
            timings=part_of(Timings, data, "timings"),
            resources=part_of(Resources, data, "resources"),
            cost=part_of(Cost, data, "cost"),
            outputs=tuple(part_of(OutputFile, {"outputs": item}, "outputs") for item in list_field(data, "outputs")),
            error=part_of(ResultError, data, "error") if data.get("error") is not None else None,
            archive=part_of(Archive, data, "archive", sequences=("image_sets",)) if data.get("archive") is not None else None,
            measured=Measurements.from_data(data["measured"]) if data.get("measured") is not None else None,
            request=text_field(data, "request", empty=True, missing=""),
        )


def commit_key(status: Status, study: str, job: str) -> str:
    """Key of the commit record: beside the outputs for an answered study, in quarantine for any other end.

    One for each study, so that two failed studies of one upload do not take each other's place.
    """
    return result_key(study, job) if status is Status.SUCCEEDED else quarantine_key(job, "result.json", study)


def commit_keys(study: str, job: str) -> tuple[str, ...]:
    """Every key at which the end of a study's job may be committed: answered, not answered, ended before the study was known."""
    whole = quarantine_key(job, "result.json")
    return (result_key(study, job), quarantine_key(job, "result.json", study), whole) if study else (whole,)


@dataclass(frozen=True)
class IndexEntry:
    """The sensor's small pointer to a commit record."""

    job: str
    study: str
    status: Status
    committed_at: str
    key: str
    request: str = ""
    schema: str = INDEX_SCHEMA

    @classmethod
    def of(cls, record: ResultRecord) -> IndexEntry:
        """The entry that belongs to a record; the same for everyone who derives it."""
        return cls(record.job, record.study, record.status, record.committed_at, record.commit_key, record.request)

    def to_json(self) -> str:
        """Compact JSON with sorted keys."""
        return json.dumps(asdict(self), ensure_ascii=True, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> IndexEntry:
        """Parse and check an entry. Raises ContractError naming the field that is wrong."""
        data = json_object(text, "index entry")
        if data.get("schema") != INDEX_SCHEMA:
            raise ContractError(f"index entry has another schema than {INDEX_SCHEMA}")
        study = text_field(data, "study", empty=True)
        try:
            status = Status(text_field(data, "status"))
        except ValueError as error:
            raise ContractError("index entry: status is not one of succeeded, failed, quarantined") from error
        entry = cls(
            job=hex_digits(text_field(data, "job"), 32, "job"),
            study=hex_digits(study, 16, "study") if study else "",
            status=status,
            committed_at=utc_text(parse_utc(text_field(data, "committed_at"))),
            key=text_field(data, "key"),
            request=text_field(data, "request", empty=True, missing=""),
        )
        older = () if status is Status.SUCCEEDED else (quarantine_key(entry.job, "result.json"),)  # where failed studies once lay
        if entry.key not in (commit_key(entry.status, entry.study, entry.job), *older):
            raise ContractError("index entry: key is not the commit key of its job")
        return entry


def belongs_together(entry: IndexEntry, record: ResultRecord) -> bool:
    """Whether an index entry and the record it points to speak of the same result."""
    return replace(IndexEntry.of(record), key=entry.key) == entry  # its key was checked when it was parsed


@dataclass(frozen=True)
class JobDone:
    """``jobs/JOB.json``: every study of the job has committed, under these keys."""

    job: str
    commits: tuple[str, ...]
    completed_at: str

    def to_json(self) -> str:
        """JSON with sorted keys."""
        data = {"schema": DONE_SCHEMA, "job": self.job, "commits": list(self.commits), "completed_at": self.completed_at}
        return json.dumps(data, ensure_ascii=True, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> JobDone:
        """Parse a marker. Raises ContractError."""
        try:
            data = json.loads(text)
            return cls(str(data["job"]), tuple(str(key) for key in data["commits"]), str(data["completed_at"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ContractError("job marker has another shape than expected") from error
