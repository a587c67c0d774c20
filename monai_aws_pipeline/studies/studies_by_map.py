"""The asset ``studies_by_map``: how many studies each MAP has answered, and how many of them by one that is not live.

Here belongs the count. A study counts for the MAP of its latest recorded answer, as Dagster's own *stale* does. It is a running count:
each recorded result moves its study from one MAP to another, so that nothing is read twice however many studies there are.
"""

from collections.abc import Iterable, Mapping
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
from monai_aws_pipeline.deployment.lineage import latest_version
from monai_aws_pipeline.studies.check_window import RERUN_STALE, RecordedResult
from monai_aws_pipeline.studies.recorded import Page, results_after

STUDIES_BY_MAP: Final = AssetKey("studies_by_map")
MAX_MAPS: Final = 50
BATCH: Final = 500
"""Results of each kind that are read at once."""
UNKNOWN_MAP: Final = "unknown"
AS_OF: Final = "counted_up_to_event"

_MAPS: Final = TableSchema(columns=[TableColumn("map"), TableColumn("studies", "int"), TableColumn("live", "bool")])
_RERUN: Final = (
    "Start the job rerun_studies, by which the live MAP answers them again, each once, or leave them. "
    f"Its config for the launchpad: {RERUN_STALE}"
)

Counts = Mapping[str, int]


@asset(
    key=STUDIES_BY_MAP,
    group_name="studies",
    kinds={"table"},
    description="How many studies each MAP has answered, and how many were answered by one that is not live: those are stale. The sensor "
    "study_checks renews it when a result is recorded and when another MAP goes live. Materialise it to count all of them anew from "
    "Dagster's event log; 10,000 studies take a few minutes, and it costs nothing.",
)
def studies_by_map(context: AssetExecutionContext) -> MaterializeResult[None]:
    """Count every recorded result, from the first on."""
    counts: Counts = {}
    page = Page((), 0, more=True)
    with repeating(context.log.info) as report:
        report("Counting all recorded results")
        while page.more:
            page = results_after(context.instance, page.as_of, BATCH)
            counts = counted(counts, page.results)
            report(f"{sum(counts.values())} studies counted")
    return MaterializeResult(metadata=counts_metadata(counts, latest_version(context.instance, "live_map"), page.as_of, complete=True))


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


def counts_metadata(counts: Counts, live: str, as_of: int, *, complete: bool) -> dict[str, MetadataValue]:
    """The table, most studies first. ``complete``: every result that is recorded was counted."""
    ordered = sorted(counts.items(), key=lambda item: (item[0] != live, -item[1], item[0]))
    rows = [TableRecord({"map": digest, "studies": count, "live": digest == live}) for digest, count in ordered]
    stale = sum(count for digest, count in ordered if digest != live)
    return {
        "not_by_the_live_map": MetadataValue.int(stale),
        "studies": MetadataValue.int(sum(counts.values())),
        "live_map": MetadataValue.text(live or "none"),
        "by_map": MetadataValue.table(rows[:MAX_MAPS], schema=_MAPS),
        "maps_not_shown": MetadataValue.int(max(0, len(rows) - MAX_MAPS)),
        **({"what_to_do": MetadataValue.text(_RERUN)} if stale and live else {}),
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
