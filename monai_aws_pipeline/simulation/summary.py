"""What a day comes to: how long studies waited, how many machines were on, what it costs. Pure, from what happened.

Prices are those that results are reckoned with (``cloud/prices.py``). A host that is kept costs its disk all day, and so does a place of
the warm pool; one that is terminated costs it while it is on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai_aws_pipeline.cloud.prices import usd_per_hour
from monai_aws_pipeline.simulation.arrivals import DAY_S, HOUR_S
from monai_aws_pipeline.simulation.day import Day, Job
from monai_aws_pipeline.simulation.fleet import Fleet
from monai_aws_pipeline.simulation.measured import Machine, Speed


@dataclass(frozen=True)
class Summary:
    """A day in figures. Waits in seconds from the upload to the answer, prices in US dollars.

    ``utilisation``: of the seconds that hosts were on, how many they would have needed for these studies with every place taken.
    ``most_on``: hosts on at once. ``by_hour``: machines that are on, on average in each hour. ``starts``: how often a host was started.
    """

    studies: int
    answered: int
    wait_p50_s: float
    wait_p95_s: float
    wait_p99_s: float
    wait_worst_s: float
    most_on: int
    by_hour: tuple[float, ...]
    starts: int
    machine_hours: float
    utilisation: float
    usd_a_day: float
    usd_a_study: float
    taken_back: int
    given_back: int
    refused_starts: int


def summarise(day: Day, jobs: Sequence[Job], speed: Speed, fleet: Fleet, machine: Machine | None = None) -> Summary:
    """The figures of a day."""
    machine = machine or Machine()
    studies = sum(job.studies for job in jobs)
    waits = sorted(each.answered - each.arrived for each in day.answers for _ in range(jobs[each.job].studies))
    usd = usd_of(day, fleet, machine)
    needed = studies / speed.rate(fleet.at_once)
    return Summary(
        studies=studies,
        answered=len(waits),
        wait_p50_s=percentile(waits, 50),
        wait_p95_s=percentile(waits, 95),
        wait_p99_s=percentile(waits, 99),
        wait_worst_s=percentile(waits, 100),
        most_on=max((count for _, count in hosts_on(day)), default=0),
        by_hour=tuple(round(count, 2) for count in mean_on(day, HOUR_S)),
        starts=len(day.on),
        machine_hours=day.machine_seconds / 3600,
        utilisation=needed / day.machine_seconds if day.machine_seconds else 0.0,
        usd_a_day=usd,
        usd_a_study=usd / studies if studies else 0.0,
        taken_back=sum(each.taken_back for each in day.on),
        given_back=day.given_back,
        refused_starts=day.refused_starts,
    )


def usd_of(day: Day, fleet: Fleet, machine: Machine) -> float:
    """What the machines cost: seconds by the market's price, addresses, disks."""
    hourly = usd_per_hour(fleet.instance_type) * (machine.spot_share if fleet.spot else 1.0) + machine.address_usd_per_hour
    paid = math.fsum(max(each.seconds, machine.least_paid_s) for each in (*day.on, *day.refills))
    disks = float(fleet.most) if fleet.keeps_machines else fleet.warm_pool + math.fsum(each.seconds for each in day.on) / DAY_S
    return paid / 3600 * hourly + disks * machine.disk_usd_a_day


def percentile(ordered: Sequence[float], per_cent: float) -> float:
    """The smallest value that so many per cent do not exceed (nearest rank); 0.0 of nothing."""
    return ordered[max(0, math.ceil(len(ordered) * per_cent / 100) - 1)] if ordered else 0.0


def hosts_on(day: Day) -> list[tuple[float, int]]:
    """How many hosts are on from each moment at which that changes."""
    changes = sorted([(each.begin, 1) for each in day.on] + [(each.end, -1) for each in day.on])
    found: list[tuple[float, int]] = []
    count = 0
    for moment, change in changes:
        count += change
        if found and found[-1][0] == moment:
            found[-1] = (moment, count)
        else:
            found.append((moment, count))
    return found


def mean_on(day: Day, bin_s: float) -> tuple[float, ...]:
    """How many machines are on, on average in each part of the day of so many seconds."""
    found = [0.0] * round(DAY_S / bin_s)
    for on in (*day.on, *day.refills):
        for number in range(int(on.begin / bin_s), min(int(on.end / bin_s) + 1, len(found))):
            found[number] += max(0.0, min(on.end, (number + 1) * bin_s) - max(on.begin, number * bin_s)) / bin_s
    return tuple(found)
