"""The asset checks of ``inference_result``: what is shown of them, and what happens when one is executed by hand.

Here belong Dagster's definitions and evaluations; verdicts are decided in ``result_checks``, the last day's state in ``check_window``.

An evaluation is about all results of the last day and has no partition. Dagster 1.13 keeps one evaluation without a run for each check and
partition, and refuses the next one (a unique index over check, run and partition, where "no run" is a value like any other): a study that
is answered again could never turn green. What was found of one study is therefore part of its own event, as the table ``checks``.
See https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    DagsterInstance,
    EventLogRecord,
    MetadataValue,
    TableColumn,
    TableRecord,
    TableSchema,
    multi_asset_check,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES, AssetCheckExecutionRecord

from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.deployment.lineage import latest_version
from monai_aws_pipeline.studies.check_window import WINDOW, CheckWindow, Finding, finding
from monai_aws_pipeline.studies.recorded import INFERENCE_RESULT, results_since
from monai_aws_pipeline.studies.result_checks import CHECKS, Check, Outcome

MAX_ROWS: Final = 20
"""Studies that an evaluation lists; ``unanswered_studies`` has more of those that have no answer."""
MAX_RESULTS: Final = 2000
"""Results of each kind that are read to judge the last day by hand."""

COUNTS_WAIT: Final = timedelta(minutes=10)
"""How long an evaluation stands whose counts alone have changed."""

SPECS: Final = [AssetCheckSpec(check.name, asset=INFERENCE_RESULT, description=check.description) for check in CHECKS]
KEYS: Final = [spec.key for spec in SPECS]
_MISSES: Final = TableSchema(columns=[TableColumn("time"), TableColumn("study"), TableColumn("job"), TableColumn("found")])
_HOURS: Final = TableSchema(columns=[TableColumn("hour (UTC)"), TableColumn("results", "int"), TableColumn("USD", "float")])


@multi_asset_check(
    name="result_checks",
    specs=SPECS,
    can_subset=True,
    description="Judges the recorded results of the last day again. The sensor study_checks does so whenever a result was recorded.",
)
def result_checks(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
    """Read the results of the last day from the event log and say of each selected check what it finds."""
    now = datetime.now(UTC)
    with repeating(context.log.info) as report:
        report("Reading the results of the last 24 hours from the event log")
        results = results_since(context.instance, now - WINDOW, MAX_RESULTS)
        live = latest_version(context.instance, "live_map")
        report(f"{len(results)} results were recorded in the last 24 hours.")
    for check in CHECKS:
        if AssetCheckKey(INFERENCE_RESULT, check.name) in context.selected_asset_check_keys:
            window = CheckWindow().fold(check.name, results, now)
            found = finding(check.name, window, live)
            yield AssetCheckResult(
                check_name=check.name,
                asset_key=INFERENCE_RESULT,
                passed=found.passed,
                severity=_severity(check, window),
                description=found.text,
                metadata=_metadata(found, window),
            )


def evaluations(windows: Mapping[str, CheckWindow], live: str, about: EventLogRecord | None) -> Iterator[AssetCheckEvaluation]:
    """One evaluation of each check. ``about``: the result that was recorded last; the node shows no evaluation of an earlier one."""
    target = about and AssetCheckEvaluationTargetMaterializationData(
        storage_id=about.storage_id, run_id=about.run_id, timestamp=about.timestamp
    )
    for check in CHECKS:
        window = windows.get(check.name, CheckWindow())
        found = finding(check.name, window, live)
        yield AssetCheckEvaluation(
            asset_key=INFERENCE_RESULT,
            check_name=check.name,
            passed=found.passed,
            severity=_severity(check, window),
            description=found.text,
            metadata=_metadata(found, window),
            target_materialization_data=target,
        )


def not_shown_yet(
    instance: DagsterInstance, made: Iterable[AssetCheckEvaluation], about: EventLogRecord | None, now: datetime
) -> list[AssetCheckEvaluation]:
    """Those that say something else than the latest evaluation of their check, or that the node would not show any more.

    Counts alone wait for ``COUNTS_WAIT``: with a study a minute they would be most of what the event log holds.
    """
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(KEYS)
    return [each for each in made if not _is_shown(latest.get(each.asset_check_key), each, about, now)]


def _is_shown(record: AssetCheckExecutionRecord | None, made: AssetCheckEvaluation, about: EventLogRecord | None, now: datetime) -> bool:
    shown = record.evaluation if record and record.status in COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES else None
    if record is None or shown is None or not record.event:
        return False
    target = shown.target_materialization_data
    # Dagster shows an evaluation while it is about the latest materialization, or of its run; all that sensors record are of one "run".
    if about and about.run_id != record.run_id and (target is None or target.storage_id != about.storage_id):
        return False
    if (shown.description, shown.metadata) == (made.description, made.metadata):
        return True
    waited = now.timestamp() - record.event.timestamp
    return _state(shown) == _state(made) and waited < COUNTS_WAIT.total_seconds()


def _state(evaluation: AssetCheckEvaluation) -> tuple[object, ...]:
    return evaluation.passed, evaluation.severity, evaluation.metadata.get("what_to_do"), evaluation.metadata.get("studies")


def _severity(check: Check, window: CheckWindow) -> AssetCheckSeverity:
    """A failure for want of evidence is none of the studies'."""
    return AssetCheckSeverity.ERROR if check.error and window.misses else AssetCheckSeverity.WARN


def _metadata(found: Finding, window: CheckWindow) -> dict[str, MetadataValue]:
    rows = [TableRecord({"time": miss.at, "study": miss.study, "job": miss.job, "found": miss.found}) for miss in found.misses[:MAX_ROWS]]
    return {
        "window": MetadataValue.text("the last 24 hours, by the time of the commit"),
        "results": MetadataValue.int(window.count()),
        "not_judged": MetadataValue.int(window.count(Outcome.NOT_JUDGED)),
        **(_cost_metadata(window) if window.usd else {}),
        **({"what_to_do": MetadataValue.text(found.next)} if found.next else {}),
        **({"failing": MetadataValue.int(len(found.misses)), "studies": MetadataValue.table(rows, schema=_MISSES)} if rows else {}),
    }


def _cost_metadata(window: CheckWindow) -> dict[str, MetadataValue]:
    """What the results cost, and in which hours: a night is some of them."""
    rows = [
        TableRecord({"hour (UTC)": f"{hour.replace('T', ' ')}:00", "results": sum(counts.values()), "USD": window.usd.get(hour, 0.0)})
        for hour, counts in sorted(window.hours.items(), reverse=True)
    ]
    return {
        "cost_together_usd": MetadataValue.float(round(sum(window.usd.values()), 6)),
        "cost_by_hour": MetadataValue.table(rows, schema=_HOURS),
    }
