"""A plan: a load, a kind of study and a fleet, simulated for a day. What is wrong in it is refused by name.

Here belongs what a person may ask for and whether it can be answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Final

from monai_aws_pipeline.cloud.prices import ON_DEMAND_USD_PER_HOUR
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.simulation.arrivals import DAY_S, Load, uploads
from monai_aws_pipeline.simulation.day import Day, Job, simulate
from monai_aws_pipeline.simulation.fleet import MOST_HOSTS, Fleet, Kind, hosts_for
from monai_aws_pipeline.simulation.measured import SPEEDS, CloudWatch, Hosting, Machine, Speed, Study
from monai_aws_pipeline.simulation.summary import Summary, summarise

MOST_STUDIES: Final = 200_000


class PlanError(NamedError):
    """A plan that cannot be simulated."""


@dataclass(frozen=True)
class Plan:
    """What is simulated. ``slower``: the seconds of inference, times this."""

    load: Load
    study: Study = Study.CT
    hosting: Hosting = Hosting.WARM
    fleet: Fleet = field(default_factory=Fleet)
    machine: Machine = field(default_factory=Machine)
    watch: CloudWatch = field(default_factory=CloudWatch)
    slower: float = 1.0
    seed: int = 0

    @property
    def speed(self) -> Speed:
        """How quickly a host answers."""
        measured = SPEEDS[self.study, self.hosting]
        return replace(measured, per_minute=tuple(rate / self.slower for rate in measured.per_minute))


@dataclass(frozen=True)
class Simulated:
    """A plan with what came of it."""

    plan: Plan
    jobs: tuple[Job, ...]
    day: Day
    summary: Summary


def run(plan: Plan) -> Simulated:
    """Simulate a day. Raises PlanError for a plan that cannot be."""
    check(plan)
    jobs = tuple(Job(each.at, each.studies, each.size) for each in uploads(plan.load, plan.seed))
    day = simulate(jobs, plan.speed, plan.fleet, plan.machine, plan.watch, plan.seed)
    return Simulated(plan, jobs, day, summarise(day, jobs, plan.speed, plan.fleet, plan.machine))


def plan_for(
    load: Load,
    study: Study,
    hosting: Hosting,
    kind: Kind,
    *,
    spot: bool = False,
    at_once: int | None = None,
    hosts: int | None = None,
    seed: int = 0,
) -> Plan:
    """A plan with as many studies at once as answer most, and the hosts for the busiest hour, where nothing else is asked for."""
    speed = SPEEDS[study, hosting]
    chosen = speed.best_at_once if at_once is None else at_once
    if not 1 <= chosen <= len(speed.per_minute):
        raise PlanError(
            f"{chosen} {study} studies at once, {hosting}, were never measured; {len(speed.per_minute)} were.",
            remedy="Ask for a number that was, or measure it and add it to monai_aws_pipeline/simulation/measured.py.",
        )
    most = hosts_for(load.peak_per_hour, speed, chosen) if hosts is None else hosts
    return Plan(load, study, hosting, Fleet(kind, most, chosen, spot=spot), seed=seed)


def with_figures(plan: Plan, values: Mapping[str, float]) -> Plan:
    """The plan with other figures of the machine or of CloudWatch, by name. Raises PlanError for a name that is neither's."""
    machine = {each.name for each in fields(Machine)}
    watch = {each.name for each in fields(CloudWatch)}
    if unknown := sorted(values.keys() - machine - watch):
        raise PlanError(f"There is no figure {', '.join(unknown)}.", remedy=f"There are {', '.join(sorted(machine | watch))}.")
    if wrong := sorted(name for name, value in values.items() if not math.isfinite(value)):
        raise PlanError(f"{', '.join(wrong)} is not a number.", remedy="Give one that is.")
    return replace(
        plan,
        machine=replace(plan.machine, **{name: value for name, value in values.items() if name in machine}),
        watch=replace(
            plan.watch,
            datapoints=int(values.get("datapoints", plan.watch.datapoints)),
            **{name: value for name, value in values.items() if name in watch - {"datapoints"}},
        ),
    )


def check(plan: Plan) -> None:
    """Raises PlanError with all that is wrong."""
    load, fleet, machine, watch = plan.load, plan.fleet, plan.machine, plan.watch
    wrong = [
        (not 1 <= load.studies <= MOST_STUDIES, f"{load.studies} studies: 1 to {MOST_STUDIES} can be simulated"),
        (not 1 <= load.burst <= 1000 or load.studies_an_upload < 1, "a burst and an upload hold at least one; a burst 1000 at most"),
        (not 0 <= load.spread <= 3, f"a spread of {load.spread:g}: 0 (all studies alike) to 3"),
        (not 1 <= fleet.most <= MOST_HOSTS, f"{fleet.most} hosts: MONAI_AWS_HOST_COUNT is 1 to {MOST_HOSTS}"),
        (not 0 <= fleet.warm_pool <= MOST_HOSTS, f"a pool of {fleet.warm_pool}: MONAI_AWS_FLEET_WARM_POOL is 0 to {MOST_HOSTS}"),
        (
            fleet.warm_pool > 0 and (fleet.spot or fleet.kind is Kind.HOSTS),
            "a warm pool of named hosts or beside Spot: AWS keeps it for a group of On-Demand instances",
        ),
        (not 0 < fleet.idle_stop_minutes <= 1440, f"idle for {fleet.idle_stop_minutes:g} minutes: more than 0, at most 1440"),
        (
            fleet.instance_type not in ON_DEMAND_USD_PER_HOUR,
            f"{fleet.instance_type} has no price here; there are {', '.join(ON_DEMAND_USD_PER_HOUR)}",
        ),
        (not 0.01 <= plan.slower <= 100, f"{plan.slower:g} times the seconds of inference: 0.01 to 100 times"),
        (
            not all(0 <= value <= DAY_S for value in (*astuple(machine), *astuple(watch))),
            "a figure is 0 at least, a day's seconds at most",
        ),
        (machine.refused_starts > 0.95, "with more than 0.95 of the starts refused, a day does not end"),
        (min(machine.poll_s, watch.period_s, watch.datapoints) < 1, "poll_s, period_s and datapoints are at least 1"),
        (machine.interruptions_per_hour > 60, "a machine that is taken back more than once a minute answers nothing"),
    ]
    if said := [text for is_wrong, text in wrong if is_wrong]:
        raise PlanError(f"This cannot be simulated: {'; '.join(said)}.", remedy="Change what is named.")
