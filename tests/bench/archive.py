"""A backlog answered with the archive beside the same without: what archiving costs the studies that wait.

The MAP behaves like one on a GPU: it waits for a second a study and uses little of the CPU; the archive is the embedded HealthImaging,
whose parsing and keeping takes the same cores as everything else here. Four backlogs follow each other, with, without, without, with, so
that a slow minute meets both. Seconds are from the first upload to the last commit record; the start of the machine is in neither, nor are
two studies before each backlog: another setting of the archive is another host, which first proves how it may host the MAP. How many run
at once is given and not looked for. That each study is in the archive afterwards, whole, is counted, not timed.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from monai_aws_pipeline.archive.connection import HEALTHIMAGING, NONE
from monai_aws_pipeline.archive.record import ArchiveRecord
from monai_aws_pipeline.contract import ResultRecord, parse_utc
from monai_aws_pipeline.operations.archive import StudyArchive
from tests.bench._hosts import deployed, hold_host, say, source_state
from tests.bench.load import post, wait_for
from tests.support.platform import Platform
from tests.support.studies import tiny_study_zip

STUDIES = 40
INSTANCES = 40
WISH = "tiny:sleep=1"
ORDER = (HEALTHIMAGING, NONE, NONE, HEALTHIMAGING)
AT_ONCE = 2
PROOFS = 2


def measure() -> dict[str, Any]:
    """The figures of one run."""
    seconds: dict[str, list[float]] = {HEALTHIMAGING: [], NONE: []}
    stored: list[ArchiveRecord] = []
    with deployed("archive", archive=HEALTHIMAGING, MONAI_AWS_IDLE_STOP_MINUTES="1", MONAI_AWS_STUDIES_AT_ONCE=f"{AT_ONCE}") as place:
        for number, archive in enumerate(ORDER):
            now = place.changed(MONAI_AWS_ARCHIVE=archive)
            assert now.materialize("inference_host").success
            prove(now, f"{number}")
            hold_host(now)
            studies = {f"{number}-{each:03d}": tiny_study_zip(INSTANCES, wish=WISH) for each in range(STUDIES)}
            began = datetime.now(UTC)
            records = wait_for(now, post(now, studies))
            seconds[archive].append((max(parse_utc(record.committed_at) for record in records) - began).total_seconds())
            say(f"{STUDIES} studies with archive {archive} took {seconds[archive][-1]:.1f} s")
            if archive != NONE:
                stored += archived(now, records)
    together = {archive: sum(each) for archive, each in seconds.items()}
    return {
        "studies": STUDIES,
        "instances_a_study": INSTANCES,
        "at_once": AT_ONCE,
        "with_seconds": round(together[HEALTHIMAGING], 1),
        "without_seconds": round(together[NONE], 1),
        "ratio": round(together[NONE] / together[HEALTHIMAGING], 3),
        "each": {archive: [round(value, 1) for value in values] for archive, values in seconds.items()},
        "stored": sum(each.stored for record in stored for each in record.series),
        "refused": sum(sum(each.refused.values()) + each.withheld for record in stored for each in record.series),
        "whole": sum(record.is_whole for record in stored),
        "archive_seconds_a_study": round(sum(record.seconds for record in stored) / len(stored), 2),
        **source_state(),
    }


def prove(place: Platform, name: str) -> None:
    """Let the host prove its MAP, and archive those studies too: what was still under way would come back in the middle of the backlog."""
    for which in range(PROOFS):
        job = place.upload(f"input/proof-{name}-{which}.zip", tiny_study_zip(INSTANCES, wish=WISH))
        records = place.answers([job], 300)[job]
        if place.settings.archive != NONE:
            archived(place, records)


def archived(place: Platform, records: list[ResultRecord], seconds: float = 300) -> list[ArchiveRecord]:
    """What the archive answered for each study, once it has."""
    archive, deadline = StudyArchive(place.clients, place.settings), time.monotonic() + seconds
    found: list[ArchiveRecord] = []
    for record in records:
        while (one := archive.record(record.study, record.job)) is None:
            assert time.monotonic() < deadline, f"{len(records) - len(found)} studies are not archived; {place.diagnosis()}"
            time.sleep(0.5)
        found.append(one)
    return found
