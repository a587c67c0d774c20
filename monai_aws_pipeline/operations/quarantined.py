"""Jobs that ended without an answer, as the bucket keeps them, with later answers of the same studies. Reads alone, within bounds.

Here belongs finding them in S3; which of them stand is decided in ``unanswered``. No Dagster.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import Final

from monai_aws_pipeline.contract import QUARANTINE_PREFIX, ResultRecord
from monai_aws_pipeline.operations.results_store import ResultsStore, UnreadableResultError

MAX_KEYS: Final = 200_000
"""Keys under ``quarantine/`` that are looked at: 200 LIST calls. They are named by job, so that none can be left out by its time."""
_RECORD: Final = "/result.json"
_READERS: Final = 8


def ended_studies(store: ResultsStore, since: datetime, limit: int) -> list[ResultRecord]:
    """The ``limit`` jobs that were refused or failed last since a moment, and the latest answer of each of their studies.

    A record that cannot be read is left out: it says nothing. Trouble of S3 itself is raised as it is.
    """
    found = [
        (item.modified, item.key)
        for item in islice(store.objects(QUARANTINE_PREFIX), MAX_KEYS)
        if item.key.endswith(_RECORD) and item.modified >= since
    ]
    newest = [key for _, key in sorted(found, reverse=True)[:limit]]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="quarantine") as readers:
        failures = [record for record in readers.map(lambda key: _record(store, key), newest) if record]
        studies = sorted({record.study for record in failures if record.study})
        answers = [record for record in readers.map(lambda study: _latest_answer(store, study), studies) if record]
    return [*failures, *answers]


def _latest_answer(store: ResultsStore, study: str) -> ResultRecord | None:
    try:
        return store.latest_answer(study)
    except UnreadableResultError:
        return None


def _record(store: ResultsStore, key: str) -> ResultRecord | None:
    try:
        return store.record(key)
    except UnreadableResultError:
        return None
