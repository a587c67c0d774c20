"""What the wake function, the host agent and the Dagster sensor agree on: bucket keys, the job message, the result record.

Here belong names and shapes that cross a process boundary. Here belongs no I/O, no AWS call and no policy. Standard library only:
this file is shipped as it is to Lambda and to the inference host. The layout is explained in docs/architecture.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar

from monai_aws_pipeline.errors import NamedError

JOB_SCHEMA: Final = "monai-aws/job/1"
RESULT_SCHEMA: Final = "monai-aws/result/1"
INDEX_SCHEMA: Final = "monai-aws/index/1"

INPUT_PREFIX: Final = "input/"
OUTPUT_PREFIX: Final = "output/"
INDEX_PREFIX: Final = "results-index/"
JOBS_PREFIX: Final = "jobs/"
PROCESSED_PREFIX: Final = "processed/"
QUARANTINE_PREFIX: Final = "quarantine/"
GOLDEN_PREFIX: Final = "golden/"
MAPS_PREFIX: Final = "maps/"
READY_MARKER: Final = "_READY"

TAG_DEPLOYMENT: Final = "monai-aws:deployment"
TAG_ROLE: Final = "monai-aws:role"
TAG_OWNER: Final = "monai-aws:owner"
TAG_RUN_ID: Final = "monai-aws:run-id"
TAG_EXPIRES_AT: Final = "monai-aws:expires-at"
TAG_CONTENT: Final = "monai-aws:content"
TAG_FAILED_STARTS: Final = "monai-aws:failed-starts"

ROLE_AMI_BAKE: Final = "ami-bake"
ROLE_MAP_BUILD: Final = "map-build"
ROLE_INFERENCE: Final = "inference"

AGENT_UNIT: Final = "monai-aws-agent.service"
METRICS_NAMESPACE: Final = "monai-aws"
HOST_MISSING_METRIC: Final = "HostMissing"
HOST_HOURS_METRIC: Final = "LongestRunningHostHours"

_HEX: Final = re.compile(r"[0-9a-f]+")
_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,80}")
_T = TypeVar("_T")


class ContractError(NamedError, ValueError):
    """A message or record that does not have the agreed shape. Names the field, never a value that could identify a person."""


# ---------------------------------------------------------------------------------------------------------------- identities


def study_id(secret: bytes, study_instance_uid: str) -> str:
    """The pseudonym of a study: 16 hex digits of HMAC-SHA256(secret, StudyInstanceUID)."""
    if not secret:
        raise ContractError("the study key secret is empty; a pseudonym without a secret could be reversed")
    return hmac.new(secret, study_instance_uid.strip(" \0").encode(), hashlib.sha256).hexdigest()[:16]


def job_id(bucket: str, key: str, version: str, request: str = "") -> str:
    """The identity of one piece of work: 32 hex digits, the same for every duplicate of the same upload.

    ``version`` is the object's version id, or its ETag where the bucket has no versions. ``request`` is empty for an upload and
    the MAP digest for a re-run. The parts are hashed as a JSON array, so that no two different tuples share a serialisation.
    """
    parts = json.dumps([bucket, key, version.strip('"'), request], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def version_of(version_id: str | None) -> str:
    """The version id of an object, empty where its bucket keeps no versions: there S3 says ``null`` or nothing."""
    return "" if version_id in (None, "null") else str(version_id)


def sha256_text(text: str) -> str:
    """SHA-256 of a text in hex, for keys that may hold a person's name and must not be written down.

    A key with an unpaired surrogate is hashed as its escaped form instead of failing.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _hex(value: str, digits: int, what: str) -> str:
    if len(value) != digits or not _HEX.fullmatch(value):
        raise ContractError(f"{what} must be {digits} lower-case hex digits")
    return value


# ---------------------------------------------------------------------------------------------------------------------- keys


def output_key(study: str, job: str, name: str) -> str:
    """Key of one output of a study, for example ``output/STUDY/JOB/dicom/seg.dcm``."""
    return f"{OUTPUT_PREFIX}{_hex(study, 16, 'study')}/{_hex(job, 32, 'job')}/{_safe_name(name)}"


def result_key(study: str, job: str) -> str:
    """Key of the commit record of a study that was answered."""
    return output_key(study, job, "result.json")


def quarantine_key(job: str, name: str, study: str = "") -> str:
    """Key of one file kept aside for a job, or for one study of it, that was refused or failed for good."""
    folder = f"{_hex(study, 16, 'study')}/" if study else ""
    return f"{QUARANTINE_PREFIX}{_hex(job, 32, 'job')}/{folder}{_safe_name(name)}"


def processed_key(study: str, job: str, name: str) -> str:
    """Key that an answered original is moved to. ``name`` is ours (``upload.zip``): the uploader's name is not carried along."""
    return f"{PROCESSED_PREFIX}{_hex(study, 16, 'study')}/{_hex(job, 32, 'job')}/{_safe_name(name)}"


def job_done_key(job: str) -> str:
    """Key of the marker written when every study of a job has committed."""
    return f"{JOBS_PREFIX}{_hex(job, 32, 'job')}.json"


def decisions_key(job: str) -> str:
    """Key of the object that says how a job ended, or each study of it: the one place where rival ends of a job meet."""
    return f"{JOBS_PREFIX}{_hex(job, 32, 'job')}/decisions.json"


def folder_key(job: str) -> str:
    """Key of the list of what a folder held when its job first looked: what the job may read, keep and remove."""
    return f"{JOBS_PREFIX}{_hex(job, 32, 'job')}/folder.json"


def golden_key(sha256: str) -> str:
    """Key of a golden study, its reference or its expectation: named by its content, so that it can be checked and never changes."""
    return f"{GOLDEN_PREFIX}{_hex(sha256, 64, 'sha256')}"


def sbom_key(digest: str) -> str:
    """Key of the bill of materials of the MAP with a digest (``sha256:…``)."""
    return f"{MAPS_PREFIX}{_hex(digest.removeprefix('sha256:'), 64, 'digest')}/sbom.cdx.json"


def index_key(committed_at: datetime, job: str, study: str = "") -> str:
    """Key of the sensor's entry, derived from the commit record alone, so that whoever repairs it writes the same key.

    ``results-index/YYYY/MM/DD/HH/JOB.json``; a job with several studies has ``JOB-STUDY.json`` for each.
    """
    name = _hex(job, 32, "job") + (f"-{_hex(study, 16, 'study')}" if study else "")
    return f"{index_hour_prefix(committed_at)}{name}.json"


def index_hour_prefix(moment: datetime) -> str:
    """Prefix under which all entries of one UTC hour lie."""
    return f"{INDEX_PREFIX}{moment.astimezone(UTC):%Y/%m/%d/%H}/"


def is_marker(key: str) -> bool:
    """Whether an object completes the folder that it lies in. Directly under ``input/`` there is no folder to complete."""
    return key.startswith(INPUT_PREFIX) and key.endswith(f"/{READY_MARKER}") and key != INPUT_PREFIX + READY_MARKER


def is_folder_part(key: str) -> bool:
    """Whether an object below ``input/FOLDER/`` belongs to the folder: no marker, and no .zip, which is an upload of its own.

    What has no bytes belongs to it too, as S3 consoles create for a folder (``input/FOLDER/``), and is no file of the study.
    """
    return not key.endswith(f"/{READY_MARKER}") and not key.lower().endswith(".zip")


def is_upload(key: str, size: int) -> bool:
    """Whether an object of so many bytes is a job when it arrives: a .zip, a folder's marker, or anything directly under ``input/``.

    What lies in a folder belongs to the folder's job. ``input/`` and ``input/FOLDER/`` without bytes are what consoles create for folders.
    """
    if not key.startswith(INPUT_PREFIX):
        return False
    name = key.removeprefix(INPUT_PREFIX)
    return is_marker(key) or name.lower().endswith(".zip") or ("/" not in name and (name != "" or size > 0))


def _safe_name(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or not all(re.fullmatch(r"[A-Za-z0-9._-]+", part) for part in parts):
        raise ContractError("a file name of ours holds only letters, digits, '.', '_' and '-'")
    return name


# ----------------------------------------------------------------------------------------------------------------------- job


@dataclass(frozen=True)
class JobMessage:
    """One upload to be answered. The only place outside ``input/`` where the uploader's key appears.

    ``size`` in bytes, ``enqueued_at`` ISO 8601 UTC. ``request`` is the MAP digest of a re-run, empty for an upload.
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

    def to_json(self) -> str:
        """Compact JSON, ASCII only, so that any key survives any transport."""
        return json.dumps(asdict(self), ensure_ascii=True, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> JobMessage:
        """Parse and check a message. Raises ContractError naming the field that is wrong."""
        data = _json_object(text, "job message")
        if data.get("schema") != JOB_SCHEMA:
            raise ContractError(f"job message has another schema than {JOB_SCHEMA}")
        message = cls(
            job=_hex(_text(data, "job"), 32, "job"),
            bucket=_text(data, "bucket"),
            key=_text(data, "key"),
            version=_text(data, "version", empty=True),
            etag=_text(data, "etag", empty=True),
            size=_whole(data, "size"),
            enqueued_at=utc_text(parse_utc(_text(data, "enqueued_at"))),
            request=_text(data, "request", empty=True, missing=""),
        )
        if not message.key or not message.bucket:
            raise ContractError("job message names no object")
        if message.job != job_id(message.bucket, message.key, message.version or message.etag, message.request):
            raise ContractError("job message: job does not follow from bucket, key, version and request")
        return message


# -------------------------------------------------------------------------------------------------------------------- result


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
    never ran.
    """

    peak_rss: int = 0
    peak_gpu_memory: int | None = None
    cpu_seconds: float = 0.0
    hosting: str = ""


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

    Kinds: ``dicom-seg``, ``dicom``, ``mesh``, ``preview``, ``measurements``, ``log``, ``other``.
    """

    key: str
    sha256: str
    bytes: int
    kind: str


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
        data: dict[str, Any] = _without_none(asdict(self))
        return data

    @classmethod
    def from_json(cls, text: str) -> ResultRecord:
        """Parse and check a record. Raises ContractError naming the field that is wrong."""
        return cls.from_data(_json_object(text, "result record"))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ResultRecord:
        """Check a record that was parsed with a larger document. Raises ContractError naming the field that is wrong."""
        if data.get("schema") != RESULT_SCHEMA:
            raise ContractError(f"result record has another schema than {RESULT_SCHEMA}")
        try:
            status = Status(_text(data, "status"))
        except ValueError as wrong:
            raise ContractError("result record: status is not one of succeeded, failed, quarantined") from wrong
        study = _text(data, "study", empty=True)
        return cls(
            job=_hex(_text(data, "job"), 32, "job"),
            study=_hex(study, 16, "study") if study else "",
            status=status,
            committed_at=utc_text(parse_utc(_text(data, "committed_at"))),
            input=_part(InputFacts, data, "input", sequences=("modalities", "selection", "repairs")),
            map=_part(MapFacts, data, "map"),
            host=_part(HostFacts, data, "host"),
            timings=_part(Timings, data, "timings"),
            resources=_part(Resources, data, "resources"),
            cost=_part(Cost, data, "cost"),
            outputs=tuple(_part(OutputFile, {"outputs": item}, "outputs") for item in _list(data, "outputs")),
            error=_part(ResultError, data, "error") if data.get("error") is not None else None,
            archive=_part(Archive, data, "archive", sequences=("image_sets",)) if data.get("archive") is not None else None,
            request=_text(data, "request", empty=True, missing=""),
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
        data = _json_object(text, "index entry")
        if data.get("schema") != INDEX_SCHEMA:
            raise ContractError(f"index entry has another schema than {INDEX_SCHEMA}")
        study = _text(data, "study", empty=True)
        try:
            status = Status(_text(data, "status"))
        except ValueError as wrong:
            raise ContractError("index entry: status is not one of succeeded, failed, quarantined") from wrong
        entry = cls(
            job=_hex(_text(data, "job"), 32, "job"),
            study=_hex(study, 16, "study") if study else "",
            status=status,
            committed_at=utc_text(parse_utc(_text(data, "committed_at"))),
            key=_text(data, "key"),
            request=_text(data, "request", empty=True, missing=""),
        )
        older = () if status is Status.SUCCEEDED else (quarantine_key(entry.job, "result.json"),)  # where failed studies once lay
        if entry.key not in (commit_key(entry.status, entry.study, entry.job), *older):
            raise ContractError("index entry: key is not the commit key of its job")
        return entry


# --------------------------------------------------------------------------------------------------------------------- parts


def utc_text(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and a Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_utc(text: str) -> datetime:
    """Read ISO 8601 with an offset. Raises ContractError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as wrong:
        raise ContractError("a time is not ISO 8601") from wrong
    if moment.tzinfo is None:
        raise ContractError("a time has no offset; write it in UTC with a Z")
    return moment.astimezone(UTC)


@dataclass(frozen=True)
class FailedStarts:
    """How often in a row a host could not start, and why the last time: what its tag says (``TAG_FAILED_STARTS``).

    The wake function counts, with the only tag that it may set; ``at`` and ``code`` stay after a start that went well.
    """

    APART = timedelta(minutes=4)
    """Failures closer together count once: many uploads at a time meet one moment without capacity."""

    count: int = 0
    at: datetime | None = None
    code: str = ""

    @classmethod
    def parse(cls, text: str) -> FailedStarts:
        """Read a tag. What is not ours to read, which anyone may have written, counts as no failure."""
        try:
            count, at, code = text.split(" ")
            return cls(int(count), parse_utc(at), code) if 0 <= int(count) < 1000 and _CODE.fullmatch(code) else cls()
        except ValueError:  # ContractError is one
            return cls()

    def to_text(self) -> str:
        """The tag's value."""
        return f"{self.count} {utc_text(self.at)} {self.code}" if self.at else ""

    def failed(self, code: str, now: datetime) -> FailedStarts:
        """After another failure, with EC2's code for it."""
        if self.count and self.at and now - self.at < self.APART:
            return self
        return FailedStarts(self.count + 1, now, code if _CODE.fullmatch(code) else "Unknown")

    def started(self) -> FailedStarts:
        """After a start that went well."""
        return FailedStarts(0, self.at, self.code)


def _json_object(text: str, what: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise ContractError(f"{what} is not JSON") from wrong
    if not isinstance(data, dict):
        raise ContractError(f"{what} is not a JSON object")
    return data


def _text(data: Mapping[str, Any], name: str, *, empty: bool = False, missing: str | None = None) -> str:
    value = data.get(name, missing)
    if not isinstance(value, str) or not (value or empty):
        raise ContractError(f"{name} must be a {'' if empty else 'non-empty '}string")
    return value


def _whole(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ContractError(f"{name} must be a whole number of at least 0")
    return value


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name, [])
    if not isinstance(value, list):
        raise ContractError(f"{name} must be a list")
    return value


_ACCEPTS: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
}


def _part(kind: type[_T], data: Mapping[str, Any], name: str, sequences: tuple[str, ...] = ()) -> _T:
    """Build one part of a record, checking each field's type; unknown fields of a later version are ignored."""
    given = data.get(name, {})
    if not isinstance(given, dict):
        raise ContractError(f"{name} must be an object")
    values: dict[str, Any] = {}
    for spec in fields(kind):  # type: ignore[arg-type]
        if spec.name not in given:
            continue
        value = given[spec.name]
        if spec.name in sequences:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ContractError(f"{name}.{spec.name} must be a list of strings")
            values[spec.name] = tuple(value)
        elif spec.type in ("Mapping[str, float]", "Mapping[str, int]"):
            numbers = (int, float) if spec.type == "Mapping[str, float]" else (int,)
            if not isinstance(value, dict) or not all(type(number) in numbers for number in value.values()):
                raise ContractError(f"{name}.{spec.name} must map names to numbers")
            values[spec.name] = dict(value)
        elif isinstance(value, bool) or not isinstance(value, _ACCEPTS[str(spec.type)]):
            raise ContractError(f"{name}.{spec.name} must be {spec.type}")
        else:
            values[spec.name] = value
    try:
        return kind(**values)
    except TypeError as wrong:
        raise ContractError(f"{name} lacks a field") from wrong


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
