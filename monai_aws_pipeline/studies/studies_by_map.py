"""The asset ``studies_by_map``: how many studies each MAP has answered, and how many of them by one that is not live.

Here belongs the count. A study counts for the MAP of its latest recorded answer, as Dagster's own *stale* does. It is a running count:
each recorded result moves its study from one MAP to another, so that nothing is read twice however many studies there are. The newest
studies of the last few MAPs are known by name, so that whoever has promoted or rolled back sees whom it concerns.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dagster import (
    AssetExecutionContext,
    AssetKey,
    DagsterInstance,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
    asset,
)

from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import short_digest
from monai_aws_pipeline.deployment.lineage import latest_version
from monai_aws_pipeline.studies.check_window import RecordedResult
from monai_aws_pipeline.studies.launchpad import rerun_link
from monai_aws_pipeline.studies.recorded import Page, results_after

STUDIES_BY_MAP: Final = AssetKey("studies_by_map")
MAX_MAPS: Final = 50
BATCH: Final = 500
"""Results of each kind that are read at once."""
UNKNOWN_MAP: Final = "unknown"
NAMED_MAPS: Final = 5
NAMED_STUDIES: Final = 20
"""So many of the MAPs that answered last have so many of their studies named: the cursor of the sensor holds them."""
AS_OF: Final = "counted_up_to_event"

_MAPS: Final = TableSchema(columns=[TableColumn("map"), TableColumn("version"), TableColumn("studies", "int"), TableColumn("live", "bool")])
_STALE: Final = TableSchema(columns=[TableColumn("study"), TableColumn("version"), TableColumn("map")])
_LIST: Final = rerun_link("List all", {"stale": {}}, dry_run=True)
_RERUN: Final = rerun_link("have the live MAP answer all again", {"stale": {}})
_WHAT_TO_DO: Final = f"{_LIST}, or {_RERUN}"

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Named:
    """The version of a MAP, and which studies it answered last, the newest first."""

    version: str
    studies: tuple[str, ...]


Newest = Mapping[str, Named]
"""By digest; the MAP that answered last is the last."""


@asset(
    key=STUDIES_BY_MAP,
    group_name="studies",
    kinds={"table"},
    description="How many studies each MAP has answered, and how many were answered by one that is not live: those are stale, the newest "
    "of them by name, with links that list all or have them answered again. The sensor study_checks renews it when a result is recorded "
    "and when another MAP goes live. Materialise it to count all of them anew from Dagster's event log: 10,000 took 4 s and "
    "100,000 took 40 s, on SQLite and two cores. It costs nothing.",
)
def studies_by_map(context: AssetExecutionContext) -> MaterializeResult[None]:
    """Count every recorded result, from the first on."""
    counts: Counts = {}
    newest: Newest = {}
    page = Page((), 0, more=True)
    with repeating(context.log.info) as report:
        report("Counting all recorded results")
        while page.more:
            page = results_after(context.instance, page.as_of, BATCH)
            counts, newest = counted(counts, page.results), named(newest, page.results)
            report(f"{sum(counts.values())} studies counted")
    live = latest_version(context.instance, "live_map")
    return MaterializeResult(metadata=counts_metadata(counts, newest, live, page.as_of, complete=True))


def counted(counts: Counts, results: Iterable[RecordedResult]) -> dict[str, int]:
    """The count after these results: a study that was answered before moves from the MAP of that answer to the one of this."""
    after = dict(counts)
    for result in results:
        if result.answered and result.study:
            after[result.digest or UNKNOWN_MAP] = after.get(result.digest or UNKNOWN_MAP, 0) + 1
            digest, at = result.replaced
            if at:
                after[digest or UNKNOWN_MAP] = after.get(digest or UNKNOWN_MAP, 0) - 1
    return {digest: count for digest, count in after.items() if count > 0}


def named(newest: Newest, results: Iterable[RecordedResult]) -> dict[str, Named]:
    """The names after these results, by the same rule."""
    after = dict(newest)
    for result in results:
        if result.answered and result.study:
            digest = result.digest or UNKNOWN_MAP
            after = {each: Named(of.version, tuple(study for study in of.studies if study != result.study)) for each, of in after.items()}
            before = after.pop(digest, Named("", ()))
            after[digest] = Named(result.version or before.version, (result.study, *before.studies)[:NAMED_STUDIES])
    return dict(list(after.items())[-NAMED_MAPS:])


def counts_metadata(counts: Counts, newest: Newest, live: str, as_of: int, *, complete: bool) -> dict[str, MetadataValue]:
    """The tables, most studies first. ``complete``: every result that is recorded was counted."""
    ordered = sorted(counts.items(), key=lambda item: (item[0] != live, -item[1], item[0]))
    versions = {digest: of.version for digest, of in newest.items()}
    rows = [
        TableRecord({"map": digest, "version": versions.get(digest, ""), "studies": n, "live": digest == live}) for digest, n in ordered
    ]
    stale = sum(count for digest, count in ordered if digest != live)
    others = [(digest, of) for digest, of in list(newest.items())[::-1] if digest != live]
    names = [
        TableRecord({"study": study, "version": of.version, "map": short_digest(digest)}) for digest, of in others for study in of.studies
    ]
    return {
        "not_by_the_live_map": MetadataValue.int(stale),
        **({"what_to_do": MetadataValue.md(_WHAT_TO_DO), "newest_of_them": MetadataValue.table(names, _STALE)} if stale and live else {}),
        "studies": MetadataValue.int(sum(counts.values())),
        "live_map": MetadataValue.text(live or "none"),
        "by_map": MetadataValue.table(rows[:MAX_MAPS], schema=_MAPS),
        "maps_not_shown": MetadataValue.int(max(0, len(rows) - MAX_MAPS)),
        **({} if complete else {"counting": MetadataValue.text("older results are still being counted; the numbers grow until then")}),
        AS_OF: MetadataValue.int(as_of),
    }


def shown(metadata: Mapping[str, MetadataValue]) -> dict[str, object]:
    """What a person reads of it, to tell whether anything has changed."""
    return {
        name: [dict(record.data) for record in value.records] if isinstance(value, TableMetadataValue) else value.value
        for name, value in metadata.items()
        if name != AS_OF
    }


def last_shown(instance: DagsterInstance, key: AssetKey) -> dict[str, object]:
    """What the latest materialization of a table shows; empty where there is none."""
    event = instance.get_latest_materialization_event(key)
    found = event.asset_materialization if event else None
    return shown(found.metadata) if found else {}
