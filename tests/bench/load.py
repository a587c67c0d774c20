"""300 studies at once for a light MAP, a container each, beside a plain loop on the same machine in the same run; three times.

Every upload event comes twice, and the events come out of order in groups of 20. Ours is measured from the first upload to the last commit
record, so with the uploads, the trigger, the start of the agent, and everything that makes an answer safe; the start of the machine is in
neither way's seconds. Half of the loop's sample runs before and half after that, because other work on the machine comes and goes;
``loop_seconds`` is what it would have taken for as many studies. The ratio is the median of the three. Takes about half an hour.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from statistics import median
from typing import Any

from monai_aws_pipeline.contract import INDEX_PREFIX, OUTPUT_PREFIX, QUARANTINE_PREFIX, ResultRecord, Status, parse_utc
from tests.bench._hosts import deployed, hold_host, plain_loop, put_originals, say, source_state
from tests.support.platform import Platform
from tests.support.studies import tiny_study_zip

ROUNDS = 3
STUDIES = 300
LOOP_SAMPLE = 100
SHUFFLED = 20
RESULT = "/result.json"


def measure() -> dict[str, Any]:
    """The figures of all rounds."""
    with deployed("load", MONAI_AWS_MAP_HOSTING="per_study", MONAI_AWS_IDLE_STOP_MINUTES="1") as place:
        hold_host(place)
        sample = put_originals(place, {f"{number:03d}": tiny_study_zip() for number in range(LOOP_SAMPLE)})
        done = [measured(place, f"round-{number}", sample) for number in range(ROUNDS)]
        rounds, jobs = [figures for figures, _ in done], [job for _, jobs in done for job in jobs]
        commits = Counter(job for prefix in (OUTPUT_PREFIX, QUARANTINE_PREFIX) for job in jobs_in(place, prefix))
        entries = Counter(key.rpartition("/")[2][:32] for key in place.keys(INDEX_PREFIX))
    return {
        "studies": len(jobs),
        "results": sum(commits[job] > 0 for job in jobs),
        "lost": sum(commits[job] == 0 for job in jobs),
        "double": sum(commits[job] > 1 or entries[job] != 1 for job in jobs),
        "ratio": median(figures["ratio"] for figures in rounds),
        "rounds": rounds,
        **source_state(),
    }


def measured(place: Platform, name: str, sample: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """One round, on a host that runs without its agent and does again afterwards: its figures and its jobs."""
    studies = {f"{name}-{number:03d}": tiny_study_zip() for number in range(STUDIES)}
    loop = plain_loop(place, sample[: LOOP_SAMPLE // 2])
    say(f"the loop takes {median(whole for whole, _ in loop):.2f} s a study, {median(run for _, run in loop):.2f} s of it docker run")
    began = datetime.now(UTC)
    jobs = post(place, studies)
    say(f"{STUDIES} uploads after {(datetime.now(UTC) - began).total_seconds():.1f} s")
    records = wait_for(place, jobs)
    seconds = (max(parse_utc(record.committed_at) for record in records) - began).total_seconds()
    hold_host(place)  # at once, so that both halves of the loop are close by; the queues are empty, so what came twice was seen twice
    loop += plain_loop(place, sample[LOOP_SAMPLE // 2 :])
    loop_seconds = sum(whole for whole, _ in loop) / len(loop) * STUDIES
    figures = {
        "seconds": round(seconds, 1),
        "loop_seconds": round(loop_seconds, 1),
        "ratio": round(loop_seconds / seconds, 2),
        "succeeded": sum(record.status is Status.SUCCEEDED for record in records),
        "loop_studies": len(loop),
        "loop_seconds_a_study": [round(sum(whole for whole, _ in part) / len(part), 2) for part in halves(loop)],
        "docker_run_seconds": round(median(run for _, run in loop), 2),
        "inference_seconds": round(median(record.timings.inference for record in records), 2),
        "hosting": dict(Counter(record.resources.hosting for record in records)),
    }
    say(f"{figures['ratio']} times as fast as the loop")
    return figures, jobs


def post(place: Platform, studies: dict[str, bytes]) -> list[str]:
    """Upload all of them; their jobs. Each event comes twice, and in another order than the uploads."""
    place.cloud.order_fault(duplicate_events=len(studies))
    with ThreadPoolExecutor(8) as uploads:
        jobs: list[str] = []
        names = list(studies)
        for first in range(0, len(names), SHUFFLED):
            part = names[first : first + SHUFFLED]
            place.cloud.order_fault(shuffle_events=len(part))
            jobs += uploads.map(lambda name: place.upload(f"input/{name}.zip", studies[name]), part)
    return jobs


def wait_for(place: Platform, jobs: Sequence[str], seconds: float = 1500) -> list[ResultRecord]:
    """Wait until each job has a commit record; the records in order.

    The queues are asked, and the bucket only when they are empty: listing all that is in it by then takes a core for a while.
    """
    deadline, spoken = time.monotonic() + seconds, 0.0
    wanted = set(jobs)
    while (left := messages(place)) or not wanted <= {*jobs_in(place, OUTPUT_PREFIX), *jobs_in(place, QUARANTINE_PREFIX)}:
        assert time.monotonic() < deadline, f"{left} messages are left after {seconds:.0f} s; {place.diagnosis()}"
        if time.monotonic() > spoken + 30:
            spoken = time.monotonic()
            say(f"{left} messages are left, those that came twice among them")
        time.sleep(3)
    keys = {key.split("/")[-2] if key.startswith(OUTPUT_PREFIX) else key.split("/")[1]: key for key in commit_keys(place)}
    with ThreadPoolExecutor(4) as readers:
        return list(readers.map(lambda job: ResultRecord.from_json(place.read(keys[job]).decode()), jobs))


def messages(place: Platform) -> int:
    """How many messages the uploads and jobs queues hold, those in work included."""
    left = 0
    for name in (place.settings.names.uploads_queue, place.settings.names.jobs_queue):
        url = place.clients.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        wanted = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")
        found = place.clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        left += sum(int(found[attribute]) for attribute in wanted)
    return left


def commit_keys(place: Platform) -> list[str]:
    """All commit records."""
    return [key for prefix in (OUTPUT_PREFIX, QUARANTINE_PREFIX) for key in place.keys(prefix) if key.endswith(RESULT)]


def jobs_in(place: Platform, prefix: str) -> list[str]:
    """The job of each commit record under a prefix."""
    which = 2 if prefix == OUTPUT_PREFIX else 1
    return [key.split("/")[which] for key in place.keys(prefix) if key.endswith(RESULT) and "/plain-loop/" not in key]


def halves(loop: Sequence[tuple[float, float]]) -> list[Sequence[tuple[float, float]]]:
    """What ran before and what ran after."""
    return [loop[: len(loop) // 2], loop[len(loop) // 2 :]]
