"""What the lineage says about one result: typed Dagster metadata and tags, made from a commit record.

Here belong names, units and types of metadata, and the tags that Dagster's staleness and our own look-ups read. Pure: no I/O. The
sensor and the asset share it, so an upload and a re-run look the same in the lineage.

An event is stored twice over and there is one for each study for years, so all of its metadata fits into 4 KiB: pictures, tables and what
is long stay in S3 and are linked. Dagster shows Markdown of less than 1,000 characters openly, and anything longer behind a click.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from dagster import AssetKey, MetadataValue

from monai_aws_pipeline.contract import IndexEntry, ResultRecord, SegmentVolume, Status, Timings, parse_utc
from monai_aws_pipeline.contract.outputs import LOG, PREVIEW
from monai_aws_pipeline.deployment.lineage import DATA_VERSION_TAG, version_tags
from monai_aws_pipeline.portal.addresses import LINEAGE_PREVIEW_FILE, LOG_FILE, ORIGINAL_FOLDER, RECORD_FILE, Addresses
from monai_aws_pipeline.studies.compared import Earlier, comparison

JOB_TAG: Final = "monai-aws/job"
STATUS_TAG: Final = "monai-aws/status"
RERUN_TAG: Final = "monai-aws/rerun"
"""Of a re-run that ended without a result, which has no original of its own."""

COST_SHARES: Final = ("boot", "pull", "inference", "idle")

MAX_STORED_BYTES: Final = 4096
"""Of one event's metadata, as Dagster's event log holds it."""
OPEN_CHARACTERS: Final = 999
"""The longest Markdown that Dagster's pages show without a click."""
_ENTRY_BYTES: Final = 146
"""What the event log writes around the name and the value of an entry, at most."""
_FIRST_VOLUMES: Final = 2
"""Taken before anything else that may have to be left out."""
_LEFT_OUT_BYTES: Final = 210
"""Of the entry that says how many volumes are left out."""
_ERROR_CHARACTERS: Final = 600
_LINE_CHARACTERS: Final = 300
_FACT_CHARACTERS: Final = 160


def record_metadata(
    record: ResultRecord,
    measurements: tuple[SegmentVolume, ...],
    where: Addresses,
    before: Earlier | None = None,
    beside: Mapping[str, MetadataValue] | None = None,
) -> dict[str, MetadataValue]:
    """What the lineage shows for a result, each name with its unit. Values that the record does not have are left out.

    ``before``: the answer that the same study had until now. ``beside``: what its event says as well, such as the verdicts of its checks.
    What does not fit is on the study's page, and in the record.
    """
    kept = _Bounded()
    for name, value in (_core(record, where) | dict(beside or {})).items():
        kept.add(name, value)
    this = Earlier.of(record, measurements)
    volumes = {f"volume_{name}_ml": MetadataValue.float(volume) for name, volume in this.volumes.items()}
    for name in list(volumes)[:_FIRST_VOLUMES]:
        kept.add(name, volumes.pop(name))
    if before is not None:
        tables = (MetadataValue.md(comparison(this, before, most)) for most in (3, 1, 0))
        any(kept.add("compared_with_before", table, _LEFT_OUT_BYTES if volumes else 0) for table in tables)
    kept.add_some(volumes, "volumes_left_out", "more segments: on the study's page")
    kept.add_table("details", _details(record))
    return kept.metadata


@dataclass
class _Bounded:
    """Metadata that never takes more than its bytes: what does not fit is not taken."""

    metadata: dict[str, MetadataValue] = field(default_factory=dict)
    _left: int = MAX_STORED_BYTES

    def add(self, name: str, value: MetadataValue, reserve: int = 0) -> bool:
        """Take an entry where there is room for it and for so many bytes more; whether it was taken."""
        needed = _stored(name, value.value)
        if needed + reserve > self._left:
            return False
        self._left -= needed
        self.metadata[name] = value
        return True

    def add_some(self, values: Mapping[str, MetadataValue], name: str, what: str) -> None:
        """Take as many as fit, and say how many do not."""
        reserve = _stored(name, f"{len(values)} {what}")
        taken = 0
        for each, value in values.items():
            if not self.add(each, value, reserve):
                break
            taken += 1
        if taken < len(values):
            self.add(name, MetadataValue.text(f"{len(values) - taken} {what}"))

    def add_table(self, name: str, rows: Mapping[str, str]) -> None:
        """Take as many rows as fit, and as Dagster shows openly."""
        head = table = "| | |\n|---|---|"
        for fact, said in rows.items():
            longer = f"{table}\n| {fact} | {plain(said, _FACT_CHARACTERS)} |"
            if len(longer) <= OPEN_CHARACTERS and _stored(name, longer) <= self._left:
                table = longer
        if table != head:
            self.add(name, MetadataValue.md(table))


def _stored(name: str, value: object) -> int:
    """Bytes of an entry in the event log, or a few more."""
    return _ENTRY_BYTES + len(name) + len(json.dumps(value))


def _core(record: ResultRecord, where: Addresses) -> dict[str, MetadataValue]:
    """What is most asked for, the most important first."""
    core: dict[str, MetadataValue] = {"status": MetadataValue.text(record.status.value)}
    if record.error:
        core["error_code"] = MetadataValue.text(record.error.code)
        core["error"] = MetadataValue.text(_clipped(record.error.message, _ERROR_CHARACTERS))
        core |= _texts({"application_said_last": _clipped(record.error.last_line, _LINE_CHARACTERS)})
    core |= _preview(record, where)
    core |= _texts(
        {
            "map_app_version": record.map.app_version,
            "map_digest": record.map.digest,
            "model_sha256": record.map.model_sha256,
            "job": record.job,
        }
    )
    core["committed_at"] = MetadataValue.timestamp(parse_utc(record.committed_at))
    core["total_s"] = MetadataValue.float(float(record.timings.total))
    core["inference_s"] = MetadataValue.float(float(record.timings.inference))
    core["cost_usd"] = MetadataValue.float(float(record.cost.usd))
    core |= _links(record, where)
    return core


def _preview(record: ResultRecord, where: Addresses) -> dict[str, MetadataValue]:
    """The picture as Dagster shows it openly: by its address, leading to the study's page. Its place in S3 where there are no pages."""
    found = next((output.key for output in record.outputs if output.kind == PREVIEW), "")
    page = where.page(record.study, record.job)
    if not found:
        return {}
    shown = MetadataValue.md(f"[![preview]({page}{LINEAGE_PREVIEW_FILE})]({page})") if page else MetadataValue.path(where.s3(found))
    return {"preview": shown}


def _links(record: ResultRecord, where: Addresses) -> dict[str, MetadataValue]:
    """Where page, log, original and record open; the page leads to the console. The places in S3 where there are no pages."""
    page = where.page(record.study, record.job)
    if not page:
        console = where.in_console(record.commit_key.rpartition("/")[0] + "/")
        places: dict[str, MetadataValue] = {"record": MetadataValue.path(where.s3(record.commit_key))}
        return places | ({"s3_console": MetadataValue.url(console)} if console else {})
    log = any(output.kind == LOG for output in record.outputs)
    is_answer = record.status is Status.SUCCEEDED
    links = {
        "page": page,
        "viewer": where.viewer(record.study, record.job) if is_answer else "",
        "3D": where.volume(record.study, record.job) if is_answer else "",
        "all answers": where.page(record.study, "") if record.study else "",
        "log": page + LOG_FILE if log else "",
        "original": f"{page}{ORIGINAL_FOLDER}/",
        "record": page + RECORD_FILE,
    }
    return {"links": MetadataValue.md(", ".join(f"[{name}]({address})" for name, address in links.items() if address))}


def _details(record: ResultRecord) -> dict[str, str]:
    """The rest of it, a line each, the most asked for first."""
    given, costs = record.input, record.cost
    shares = ", ".join(f"{share} {costs.shares[share]:g}" for share in COST_SHARES if share in costs.shares)
    made = record.map
    images = f"{given.instances} images in {given.series} series, {given.given} given, {given.bytes / 1e6:.1f} MB"
    commit, sdk = made.commit and f"commit {made.commit}", made.sdk_version and f"SDK {made.sdk_version}"
    details = {
        "seconds": ", ".join(f"{phase.name} {getattr(record.timings, phase.name):g}" for phase in fields(Timings)),
        "host": " ".join(filter(None, (record.host.type, record.host.instance_id, record.host.ami))),
        "input": ", ".join([*given.modalities, images]),
        "cost, USD": "; ".join(filter(None, (shares, costs.basis))),
        "source": ", ".join(filter(None, (commit, sdk))),
        "asked by a re-run with": record.request,
        "series": "; ".join(given.selection),
        "passed over": ", ".join(f"{count} {kind}" for kind, count in given.passed_over.items()),
        "evened out": "; ".join(given.repairs),
        "peak memory": ", ".join(filter(None, (_mib(record.resources.peak_rss), _mib(record.resources.peak_gpu_memory, " of the GPU")))),
        "hosting": _hosting(record),
        "CPU seconds": f"{record.resources.cpu_seconds:g}" if record.resources.cpu_seconds else "",
    }
    return {name: said for name, said in details.items() if said}


def _hosting(record: ResultRecord) -> str:
    beside = record.resources.beside
    return (
        f"{record.resources.hosting}, beside {beside} other {'study' if beside == 1 else 'studies'}" if beside else record.resources.hosting
    )


def provenance_tags(record: ResultRecord, other_inputs: Mapping[AssetKey, tuple[str, int]], live_map: AssetKey) -> dict[str, str]:
    """Tags of a materialization that Dagster reads as its provenance: which data versions of its upstream assets it was made from.

    The version of ``live_map`` is the digest that answered the study, so a study is stale when another MAP is live, newer or older.
    ``other_inputs``: data version and storage id of the remaining upstream assets at the time of recording, where they are known.
    """
    version = version_tags(result_id(record.job, record.study), record.map.commit, {live_map: (record.map.digest, 0), **other_inputs})
    return {JOB_TAG: record.job, STATUS_TAG: record.status.value, **version}


def observation_tags(record: ResultRecord | IndexEntry) -> dict[str, str]:
    """Tags of a job that ended without a result, or whose result has expired before it was recorded."""
    return {
        JOB_TAG: record.job,
        STATUS_TAG: record.status.value,
        DATA_VERSION_TAG: result_id(record.job, record.study),
        **({RERUN_TAG: "true"} if record.request else {}),
    }


def result_id(job: str, study: str) -> str:
    """``JOB-STUDY``, or ``JOB`` for a job that ended before its study was known: the data version of a recorded result.

    Not a hash of the outputs: DICOM instances get new UIDs each time they are made, so it would never be the same twice. And it is the
    one tag that Dagster indexes, so whether a result is recorded already is one cheap look-up.
    """
    return f"{job}-{study}" if study else job


def failed(record: ResultRecord) -> bool:
    """Whether the job ended without a result."""
    return record.status is not Status.SUCCEEDED


def s3_path(bucket: str, key: str) -> str:
    """``s3://bucket/key``."""
    return f"s3://{bucket}/{key}"


def plain(text: str, most: int) -> str:
    """A text in a Markdown table as it is, cut to so many characters: one line, nothing of it read as Markdown."""
    return re.sub(r"([\\`*_\[\]<>|~#!])", r"\\\1", _clipped(" ".join(text.split()), most))


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 2]} …"


def _mib(count: int | None, of: str = "") -> str:
    return f"{count / 2**20:.0f} MiB{of}" if count else ""


def _texts(values: Mapping[str, str]) -> dict[str, MetadataValue]:
    return {name: MetadataValue.text(value) for name, value in values.items() if value}
