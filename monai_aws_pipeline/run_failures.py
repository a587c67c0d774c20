"""Why a run of Dagster failed: which step, and what its error says to the user about cause and remedy.

Here belongs finding that in what a run left behind. Dagster wraps an error in errors of its own, and under it often lies that of a library;
neither tells a user what to do. What is shown may quote other programs, so it is freed of secrets, and cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.events import JobFailureData

from monai_aws_pipeline.redaction import Redactor

if TYPE_CHECKING:
    from dagster_shared.error import SerializableErrorInfo

_OURS: Final = ("monai_aws_pipeline.", "lambda_fn.", "examples.")
_STEPS: Final = 5
_CHARACTERS: Final = 4000
_LOG_BYTES: Final = 64 * 1024
_LOG_LINES: Final = 15


def why(instance: DagsterInstance, run: DagsterRun) -> str:
    """Of a run that did not succeed: its steps that failed, each with what its error says, at most five."""
    if run.status is DagsterRunStatus.CANCELED:
        return f"{run.job_name} was cancelled."
    logs = instance.all_logs(run.run_id, of_type={DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE})
    events = [entry.dagster_event for entry in logs if entry.dagster_event]
    steps = [event for event in events if event.event_type is DagsterEventType.STEP_FAILURE]
    said = [f"{run.job_name} failed in {event.step_key}: {_of_step(event)}" for event in steps[:_STEPS]]
    said += [f"{run.job_name} failed outside of its steps: {_of_run(event)}" for event in events if not steps]
    if len(steps) > _STEPS:
        said.append(f"{len(steps) - _STEPS} more steps failed.")
    return "\n".join(said) or f"{run.job_name} ended as {run.status.value}, and nothing of it says why."


def last_lines(log: Path) -> str:
    """The end of a program's log, without secrets; says so where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"({log.name} cannot be read: {type(error).__name__})"
    return _cut("\n".join(_without_secrets(lines)[-_LOG_LINES:])) or f"({log.name} is empty)"


def _of_step(event: DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:  # a Failure, which was raised to be read
        return _shown(data.user_failure_data.description)
    return _of_error(data.error) if data.error else _shown(event.message or "")


def _of_run(event: DagsterEvent) -> str:
    data = event.event_specific_data  # none, where it was somebody else who saw the run's process end
    error = data.error if isinstance(data, JobFailureData) else None
    return _of_error(error) if error else _shown(event.message or "")


def _of_error(error: SerializableErrorInfo) -> str:
    """What our own code says where it said something, else what is left when Dagster's wrapping is taken off."""
    chain = list(_chain(error))
    ours = [each for each in chain if each.message.startswith(_OURS)]
    if ours:
        name, colon, text = ours[0].message.partition(":")
        return _shown(f"{name.rpartition('.')[2]}{colon}{text}")
    others = [each for each in chain if not each.message.startswith("dagster.")]
    return _shown((others or chain)[0].message)


def _chain(error: SerializableErrorInfo | None) -> Iterator[SerializableErrorInfo]:
    while error is not None:
        yield error
        error = error.cause


def _shown(text: str) -> str:
    return _cut("\n".join(_without_secrets(text.strip().splitlines())))


def _without_secrets(lines: Iterable[str]) -> list[str]:
    return list(map(Redactor().stream(), lines))


def _cut(text: str) -> str:
    """Beginning and end of a long text: the cause comes first, a remedy last."""
    half = _CHARACTERS // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n… ({left_out} characters left out)\n{text[-half:]}" if left_out > 0 else text
