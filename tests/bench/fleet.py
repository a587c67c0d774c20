"""Many studies on three hosts, and what the simulation says of the same run: machine-seconds beside machine-seconds.

Every upload event comes twice, and the events come out of order in groups of 20. The MAP behaves like one on a GPU: it waits for two
seconds a study and uses little of the CPU, so that three hosts on one small machine do not take it from each other. First a backlog of
other studies is answered, by which the seconds of a start, a study and a stop are measured; then two waves come, the second when the
hosts have stopped after the first. The simulation is given when each upload came, what was measured before, and the settings; nothing of
the run.
``machine_seconds``: the hosts' seconds between power on and off, by the embedded AWS's own records.

``MONAI_BENCH_FLEET_STUDIES`` makes it smaller than its 1,000 studies, which take about half an hour.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from statistics import mean, median
from typing import Any

from monai_aws_pipeline.contract import INDEX_PREFIX, OUTPUT_PREFIX, QUARANTINE_PREFIX, ROLE_INFERENCE, ResultRecord, Status, parse_utc
from monai_aws_pipeline.local_cloud.commands import control
from monai_aws_pipeline.simulation.fleet import Fleet, Kind
from monai_aws_pipeline.simulation.measured import Machine
from monai_aws_pipeline.simulation.replay import Rig, replay
from tests.bench._hosts import deployed, say, source_state
from tests.bench.load import SHUFFLED, jobs_in, wait_for
from tests.support.platform import Platform
from tests.support.studies import tiny_study_zip

STUDIES = int(os.environ.get("MONAI_BENCH_FLEET_STUDIES", "1000"))
HOSTS = 3
AT_ONCE = 1
TO_MEASURE = 25 * HOSTS
"""Enough that the wake starts each host, and that each answers a row of studies."""
EVENTS = 2
IDLE_MINUTES = 0.5
WAKE_MINUTES = 1
WISH = "tiny:sleep=2"
_LOOK_S = 1.0

PowerOns = dict[tuple[str, float], float]
"""Host and moment of each power on, with the moment of the off that followed."""


def measure() -> dict[str, Any]:
    """The figures of one run."""
    fleet = Fleet(Kind.HOSTS, HOSTS, AT_ONCE, IDLE_MINUTES, WAKE_MINUTES)
    settings = {
        "MONAI_AWS_HOST_COUNT": f"{HOSTS}",
        "MONAI_AWS_IDLE_STOP_MINUTES": f"{IDLE_MINUTES}",
        "MONAI_AWS_STUDIES_AT_ONCE": f"{AT_ONCE}",
        "MONAI_AWS_WAKE_EVERY_MINUTES": f"{WAKE_MINUTES}",
    }
    with deployed("fleet", **settings) as place:
        with watched(place) as before:
            sent = send(place, "measure", TO_MEASURE, events=1)
            records = wait_for(place, list(sent))
            place.wait_stopped(300)
        rig = measured(sent, records, before)
        say(f"measured {rig}")
        arrivals = dict[str, float]()
        with watched(place) as on:
            for number, studies in enumerate((STUDIES - STUDIES // 2, STUDIES // 2)):
                wave = send(place, f"wave-{number}", studies, events=EVENTS)
                arrivals |= wave
                records = wait_for(place, [*sent, *arrivals], 3000)
                place.wait_stopped(300)
                say(f"{studies} studies of wave {number + 1} are answered")
        answers = [record for record in records if record.job in arrivals]
        commits = Counter(job for prefix in (OUTPUT_PREFIX, QUARANTINE_PREFIX) for job in jobs_in(place, prefix))
        entries = Counter(key.rpartition("/")[2][:32] for key in place.keys(INDEX_PREFIX))
    simulated = replay([*arrivals.values()], rig, fleet, events=EVENTS, group=SHUFFLED)
    seconds = sum(off - begin for (_, begin), off in on.items())
    return {
        "kind": Kind.HOSTS,
        "studies": STUDIES,
        "hosts": HOSTS,
        "at_once": AT_ONCE,
        "seconds": round(max(parse_utc(record.committed_at).timestamp() for record in answers) - min(arrivals.values()), 1),
        "lost": sum(commits[job] == 0 for job in arrivals),
        "double": sum(commits[job] > 1 or entries[job] != 1 for job in arrivals),
        "succeeded": sum(record.status is Status.SUCCEEDED for record in answers),
        "machine_seconds": round(seconds, 1),
        "simulated_machine_seconds": round(simulated.machine_seconds, 1),
        "ratio": round(simulated.machine_seconds / seconds, 3),
        "simulated_seconds": round(simulated.answered_s, 1),
        "starts": len(on),
        "simulated_starts": simulated.starts,
        "studies_by_host": sorted(Counter(record.host.instance_id for record in answers).values()),
        "measured": {name: round(value, 2) for name, value in asdict(rig).items()},
        **source_state(),
    }


def send(place: Platform, name: str, studies: int, *, events: int) -> dict[str, float]:
    """Upload so many studies at once; their jobs, each with the moment at which it was there."""
    bodies = {f"{name}-{number:04d}": tiny_study_zip(wish=WISH) for number in range(studies)}
    if events > 1:
        place.cloud.order_fault(duplicate_events=studies)

    def upload(each: str) -> tuple[str, float]:
        return place.upload(f"input/{each}.zip", bodies[each]), time.time()

    found: dict[str, float] = {}
    names = list(bodies)
    with ThreadPoolExecutor(8) as uploads:
        for first in range(0, studies, SHUFFLED):
            part = names[first : first + SHUFFLED]
            if events > 1:
                place.cloud.order_fault(shuffle_events=len(part))
            found |= dict(uploads.map(upload, part))
    return found


@contextmanager
def watched(place: Platform) -> Iterator[PowerOns]:
    """Collects every time that a host is on meanwhile: the embedded AWS keeps only the last of each."""
    found: PowerOns = {}
    over = threading.Event()
    hosts = {machine.id for machine in place.machines(ROLE_INFERENCE)}
    began = time.time()

    def look() -> None:
        for machine in control(place.cloud.config, "GET", "/_local/health")["machines"]:
            if machine["id"] in hosts and machine["state"] == "stopped" and machine["powered_on_at"] >= began:
                found[machine["id"], machine["powered_on_at"]] = machine["changed_at"]

    def watch() -> None:
        while not over.wait(_LOOK_S):
            look()

    watcher = threading.Thread(target=watch, name="watched", daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        look()


def measured(sent: Mapping[str, float], records: Sequence[ResultRecord], on: PowerOns) -> Rig:
    """What the first backlog says of a start, a study and a stop."""
    commits: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        commits[record.host.instance_id].append(parse_utc(record.committed_at).timestamp())
    # Without the first two: the first study of a digest on a host is answered twice, to prove that it can be hosted warm.
    rows = [sorted(moments)[2:] for moments in commits.values() if len(moments) > 5]
    assert len(rows) == HOSTS, f"of {HOSTS} hosts only {len(rows)} had enough to do: {[len(moments) for moments in commits.values()]}"
    tails = [off - max(commits[host]) - IDLE_MINUTES * 60 for (host, _), off in on.items()]
    enqueued = [parse_utc(record.committed_at).timestamp() - record.timings.total - sent[record.job] for record in records]
    return Rig(
        start_s=mean(record.timings.boot for record in records if record.timings.boot),
        study_s=mean((row[-1] - row[0]) / (len(row) - 1) for row in rows),
        fetch_s=median(record.timings.download for record in records),
        publish_s=median(record.timings.upload for record in records),
        stop_s=max(0.0, mean(tails) - Machine().poll_s / 2),
        trigger_s=max(0.0, median(enqueued)),
    )
