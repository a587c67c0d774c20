"""The sensor ``study_checks``: judges what was recorded of studies, and keeps the tables of them.

Here belongs the wiring of one tick and its cursor, which holds how far the event log was read together with what was counted so far. So
whatever a tick that dies has written, the next one reads the same results from the same state and comes to the same, and what is shown
already is not written again. It is apart from ``study_results``: no fault in judging keeps a result out of the lineage, and results that
a run has recorded are judged too. It asks no S3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DefaultSensorStatus,
    MetadataValue,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from monai_aws_pipeline.contract import parse_utc
from monai_aws_pipeline.deployment.lineage import latest_version
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies.check_window import WINDOW, CheckWindow
from monai_aws_pipeline.studies.checks import COUNTS_WAIT, evaluations, not_shown_yet
from monai_aws_pipeline.studies.failures import KEPT_FOR, MAX_FAILURES, UNANSWERED_STUDIES, table_metadata
from monai_aws_pipeline.studies.recorded import Page, last_materialization, results_after, standing_failures
from monai_aws_pipeline.studies.result_checks import CHECKS
from monai_aws_pipeline.studies.studies_by_map import BATCH, STUDIES_BY_MAP, Named, counted, counts_metadata, last_shown, named, shown

LOOK_AGAIN: Final = COUNTS_WAIT
"""Without news too: so that counts are shown, what left the window leaves the node, and what a run has only planned is evaluated."""
_VERSION: Final = 2

Event = AssetCheckEvaluation | AssetMaterialization


@dataclass(frozen=True)
class Tally:
    """What was read of the event log up to the event ``as_of``, and what the last tick showed of it.

    ``windows``: by check; ``by_map``: studies by digest; ``newest``: names of the newest of them; ``live``: the digest that was live;
    ``look_at``: when to look without any news.
    """

    as_of: int = 0
    windows: Mapping[str, CheckWindow] = field(default_factory=dict)
    by_map: Mapping[str, int] = field(default_factory=dict)
    newest: Mapping[str, Named] = field(default_factory=dict)
    live: str = ""
    look_at: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Tally:
        """Read a stored cursor. None, or a text that is none, counts from the beginning."""
        try:
            data = json.loads(text or "null")
            if not isinstance(data, dict) or data.get("version") != _VERSION:
                return cls()
            windows = {str(check): CheckWindow.of_data(window) for check, window in data["windows"].items()}
            by_map = {str(digest): int(count) for digest, count in data["by_map"].items()}
            newest = {str(digest): Named(str(version), tuple(map(str, studies))) for digest, version, studies in data["newest"]}
            return cls(int(data["as_of"]), windows, by_map, newest, str(data["live"]), str(data["look_at"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def to_text(self) -> str:
        """Compact JSON, the same for equal tallies."""
        windows = {check: window.to_data() for check, window in self.windows.items()}
        newest = [[digest, of.version, of.studies] for digest, of in self.newest.items()]  # in their order, which keys would not keep
        data = {"version": _VERSION, "as_of": self.as_of, "windows": windows, "by_map": dict(self.by_map), "newest": newest}
        return json.dumps(data | {"live": self.live, "look_at": self.look_at}, separators=(",", ":"), sort_keys=True)

    def after(self, page: Page, live: str, now: datetime) -> Tally:
        """The tally with further results; what left the window has left it."""
        results = page.results
        windows = {check.name: self.windows.get(check.name, CheckWindow()).fold(check.name, results, now) for check in CHECKS}
        misses = [parse_utc(miss.at) + WINDOW for window in windows.values() for miss in window.misses]
        look_at = min([now + LOOK_AGAIN, *misses]).isoformat()
        return Tally(page.as_of, windows, counted(self.by_map, results), named(self.newest, results), live, look_at)


def study_checks_sensor(interval_s: int) -> SensorDefinition:
    """The sensor, looking every ``interval_s`` seconds."""

    @sensor(
        name="study_checks",
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description="Judges recorded results: evaluates the checks of inference_result for the last day, and renews unanswered_studies and "
        "studies_by_map. It is on from the start and looks every results_interval_s seconds (30). It reads Dagster's event log alone, "
        "starts no run and costs nothing.",
    )
    def study_checks(context: SensorEvaluationContext, settings: SettingsResource) -> SensorResult | SkipReason:
        events, tally = tick(context.instance, Addresses.of(settings.load()), Tally.parse(context.cursor), datetime.now(UTC))
        return SensorResult(
            asset_events=list(events), cursor=tally.to_text(), skip_reason=None if events else SkipReason("Nothing to judge anew.")
        )

    return study_checks


def tick(instance: DagsterInstance, where: Addresses, before: Tally, now: datetime) -> tuple[tuple[Event, ...], Tally]:
    """One look at the event log: what is to be shown, and the tally to store with it."""
    live = latest_version(instance, "live_map")
    page = results_after(instance, before.as_of, BATCH)
    if page.as_of == before.as_of and live == before.live and before.look_at and now < parse_utc(before.look_at):
        return (), before
    tally = before.after(page, live, now)
    about = last_materialization(instance)
    checks = not_shown_yet(instance, evaluations(tally.windows, live, about), about, now)
    standing = standing_failures(instance, now - KEPT_FOR, MAX_FAILURES)
    tables = {
        UNANSWERED_STUDIES: table_metadata(standing.rows, where, now, complete=standing.complete),
        STUDIES_BY_MAP: counts_metadata(tally.by_map, tally.newest, live, tally.as_of, complete=not page.more),
    }
    return (*checks, *(_table(key, metadata) for key, metadata in tables.items() if shown(metadata) != last_shown(instance, key))), tally


def _table(key: AssetKey, metadata: Mapping[str, MetadataValue]) -> AssetMaterialization:
    return AssetMaterialization(key, metadata=metadata)
