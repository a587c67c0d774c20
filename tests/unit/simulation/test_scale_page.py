"""docs/scale.md and its pictures are what the simulation says today, with what it rests on.

When a figure or a rule changes: UPDATE_SNAPSHOTS=1 make test TESTS=tests/unit/simulation/test_scale_page.py. What the page concludes in
words is held against the figures too: look at ``conclusions`` when that fails.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest

from monai_aws_pipeline.simulation.__main__ import seconds
from monai_aws_pipeline.simulation.arrivals import Load
from monai_aws_pipeline.simulation.chart import draw
from monai_aws_pipeline.simulation.fleet import Kind
from monai_aws_pipeline.simulation.measured import SOURCES, CloudWatch, Hosting, Machine, Speed, Study, figures
from monai_aws_pipeline.simulation.plan import Plan, Simulated, plan_for, run
from monai_aws_pipeline.simulation.summary import Summary

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = DOCS / "scale.md"
FEW, MANY = 1500, 50_000
LOADS = (FEW, MANY)
Buying = tuple[Kind, bool, bool]
"""A kind of fleet, whether of Spot machines, whether with a warm pool."""
FLEETS: tuple[Buying, ...] = (
    (Kind.HOSTS, False, False),
    (Kind.HOSTS, True, False),
    (Kind.AUTOSCALING, False, False),
    (Kind.AUTOSCALING, False, True),
    (Kind.AUTOSCALING, True, False),
)
DRAWN: tuple[Buying, ...] = ((Kind.HOSTS, False, False), (Kind.AUTOSCALING, False, False), (Kind.AUTOSCALING, True, False))
CASES = [(study, hosting) for study in Study for hosting in (Hosting.WARM, Hosting.COLD)]
NAMES = {
    (Study.SMALL, Hosting.WARM): "small, warm",
    (Study.SMALL, Hosting.COLD): "small, cold",
    (Study.CT, Hosting.WARM): "CT, warm",
    (Study.CT, Hosting.COLD): "CT, cold",
}
PICTURES = {"scale-1500.svg": (FEW, Study.CT, Hosting.WARM), "scale-50000.svg": (MANY, Study.CT, Hosting.COLD)}
HEAD = """# How many machines, how long a wait, how many dollars

For whoever plans for more than runs here. `python -m monai_aws_pipeline.simulation` reckons a day of studies with the seconds that were
measured: how many machines are on, how long studies wait, what it costs.

    .venv/bin/python -m monai_aws_pipeline.simulation --studies-a-day 5000 --study ct --fleet hosts
    .venv/bin/python -m monai_aws_pipeline.simulation --studies-a-day 50000 --fleet autoscaling --spot --svg day.svg
    .venv/bin/python -m monai_aws_pipeline.simulation --help

**Nobody has run this on AWS.** The seconds of inference come from a trial on one GPU, those of a start from nobody: what was measured
and what was not stands [below](#what-it-rests-on), with [how far the results move](#what-moves-it) where a guess is wrong. What
the simulation does with its seconds is held against a real run of three hosts on the embedded AWS, `make bench BENCH=fleet`: 1,000 studies
in two waves, whose events came twice and out of order. None was lost, none was answered twice; the hosts were on for 4,310 s, and the
simulation said 4,350 s. Those were named hosts with one study at a time: a group, Spot and several at once are reckoned by their
rules, and no run was held against them.

*hosts* is what this project has by default: `MONAI_AWS_HOST_COUNT` machines that are stopped while nothing comes, bought On-Demand.
*autoscaling* is an EC2 Auto Scaling group (`MONAI_AWS_FLEET`), which it has as well. Hosts on Spot are reckoned too, to compare; only a
group buys them so.

This page is written by a test from the simulation.
"""
HOW = """## How it is reckoned

- **Studies come** by the clock of a hospital: quiet nights, the busiest hour at ten with a fifth of the day (300 of 1,500), a second peak
  at two.
- **Hosts** work as the agent does: the next jobs fetched ahead, so many inferred at once, those before published, a stop after
  five idle minutes. *Warm* hosts answer up to four at once, *cold* ones (a process for each study) one, because several cold ones were
  not measured. A host with a name knows from an earlier day what it has proved of the MAP and how many at once are best.
- **The fleet** has enough hosts for the busiest hour and a quarter more, 50 at most. The wake function starts one with a name for each 20
  jobs that wait, and of a group the first. The group sees its queue a minute late and grows after three values above 20 jobs a host, or by
  one while the oldest job is older than five minutes; idle instances leave by themselves, and are gone.
- **Each instance of a group is new**: it pulls the MAP, proves it with its first study, and begins with one at a time. *With a pool* the
  group keeps a quarter as many stopped instances beside those at work, one at least: they have pulled the MAP already, and the rest is the
  same. One that leaves the pool does not come back. Another is launched into its place, and is paid for until it is stopped.
- **A wait** is from the upload to the answer. **A dollar** is the list price by which results are reckoned, with the address and the
  disk: of kept hosts and of the pool's places all day, of new machines while they run. S3, queues and the archive are not in it. *Used* is
  the share of the machine-hours that the studies would have needed with every place taken.
"""

MOVES = """\
Left: 1,500 CT studies a day on today's hosts, warm. Right: 10,000 on a group of Spot machines, cold. One thing is changed in each line, the
number of hosts is not. Differences of a tenth are chance: which host gets which study, and which machine AWS takes back."""


@cache
def simulated(load: int, study: Study, hosting: Hosting, kind: Kind, spot: bool, pool: bool = False) -> Simulated:
    plan = plan_for(Load(load), study, hosting, kind, spot=spot)
    return run(replace(plan, fleet=replace(plan.fleet, warm_pool=max(1, plan.fleet.most // 4) if pool else 0)))


def summary(load: int, study: Study, hosting: Hosting, kind: Kind, spot: bool, pool: bool = False) -> Summary:
    return simulated(load, study, hosting, kind, spot, pool).summary


def fleet_name(kind: Kind, spot: bool, pool: bool) -> str:
    return f"{kind}, {'Spot' if spot else 'On-Demand'}{', with a pool' if pool else ''}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def load_table(load: int) -> str:
    head = ("Studies", "Fleet", "Hosts", "Half within", "95 %", "99 %", "Longest", "Machine-hours", "Used", "USD a study", "USD a day")
    rows = []
    for study, hosting in CASES:
        for buying in FLEETS:
            one = simulated(load, study, hosting, *buying)
            found = one.summary
            waits = (found.wait_p50_s, found.wait_p95_s, found.wait_p99_s, found.wait_worst_s)
            rows.append(
                (
                    NAMES[study, hosting],
                    fleet_name(*buying),
                    f"{found.most_on} of {one.plan.fleet.most}",
                    *map(seconds, waits),
                    f"{found.machine_hours:.0f}",
                    f"{found.utilisation:.0%}",
                    f"{found.usd_a_study:.4f}",
                    f"{found.usd_a_day:.0f}",
                )
            )
    return table(head, rows)


# ------------------------------------------------------------------------------------------------------------------------ what moves it


FEW_BASE = (FEW, Study.CT, Hosting.WARM, Kind.HOSTS, False)
MANY_BASE = (10_000, Study.CT, Hosting.COLD, Kind.AUTOSCALING, True)
Change = Callable[[Plan], Plan]


def machine(**values: float) -> Change:
    return lambda plan: replace(plan, machine=replace(plan.machine, **values))  # type: ignore[arg-type]


def load(**values: float) -> Change:
    return lambda plan: replace(plan, load=replace(plan.load, **values))  # type: ignore[arg-type]


def fleet(**values: float) -> Change:
    return lambda plan: replace(plan, fleet=replace(plan.fleet, **values))  # type: ignore[arg-type]


class SlowTransfers(Plan):
    """Fetching and publishing take twice as long. Speeds are a table and no setting."""

    @property
    def speed(self) -> Speed:
        measured = super().speed
        return replace(measured, fetch_s=2 * measured.fetch_s, publish_s=2 * measured.publish_s)


def slow_transfers(plan: Plan) -> Plan:
    return SlowTransfers(**{each.name: getattr(plan, each.name) for each in fields(plan)})


ASSUMPTIONS: dict[str, tuple[str, Change]] = {
    "start_s 120": ("a stopped host starts in two minutes, not three", machine(start_s=120)),
    "start_s 300": ("in five", machine(start_s=300)),
    "launch_s": ("a new machine needs six minutes more, not two", machine(launch_s=360)),
    "stop_s": ("a shutdown takes 10 s, not 60", machine(stop_s=10)),
    "trigger_s": ("the trigger takes 10 s, not 2", machine(trigger_s=10)),
    "spot_share": ("Spot costs 0.6 of On-Demand, not 0.4", machine(spot_share=0.6)),
    "interruptions_per_hour": ("AWS takes a Spot machine back every four hours, not every twenty", machine(interruptions_per_hour=0.25)),
    "refused_starts": ("a third of the starts finds no capacity", machine(refused_starts=0.33)),
    "delay_s": ("metrics are three minutes late, not one", lambda plan: replace(plan, watch=replace(plan.watch, delay_s=180))),
    "oldest_s": (
        "the group acts on jobs older than two minutes, not five",
        lambda plan: replace(plan, watch=replace(plan.watch, oldest_s=120)),
    ),
    "slower": ("inference on a T4 and 4 vCPU takes twice as long", lambda plan: replace(plan, slower=2.0)),
    "transfers": ("fetching and publishing a CT takes twice as long", slow_transfers),
    "spread": ("studies are unequal: one in seven takes 1.5 times the mean or more", load(spread=0.5)),
    "burst": ("they come in bursts of 20", load(burst=20)),
}
"""By the assumption's name, with what it is changed to. ``repeat_s`` is in no row: no message comes twice in these days."""
SETTINGS: dict[str, Change] = {
    "one study at a time, not four": fleet(at_once=1),
    "idle for one minute, not five": fleet(idle_stop_minutes=1),
    "idle for 15 minutes": fleet(idle_stop_minutes=15),
    "one more host for each 5 jobs, not 20": fleet(jobs_per_host=5),
    "ten studies in an upload": load(studies_an_upload=10),
    "a day of the weekend": load(weekend=True),
}


def moved() -> str:
    bases = [simulated(*FEW_BASE).plan, simulated(*MANY_BASE).plan]
    changes = [("as above", lambda plan: plan), *ASSUMPTIONS.values(), *SETTINGS.items()]
    rows = []
    for name, change in changes:
        found = [run(change(base)).summary for base in bases]
        rows.append(
            (name, *(cell for each in found for cell in (seconds(each.wait_p50_s), seconds(each.wait_p99_s), f"{each.usd_a_study:.4f}")))
        )
    return table(("", "1,500: half", "99 %", "USD a study", "10,000: half", "99 %", "USD a study"), rows)


def rests_on() -> str:
    rows = [*SOURCES]
    for of in (Machine, CloudWatch):
        rows += [(f"`{name}` {value:g}", source, "assumed" if guess else "measured or read") for name, value, source, guess in figures(of)]
    return table(("Figure", "Where it is from", ""), rows)


def page() -> str:
    parts = [HEAD, "## What to choose", conclusions()]
    for load_, picture in zip(LOADS, PICTURES, strict=True):
        parts += [f"## {load_:,} studies a day", f"![Machines and waiting over the day]({picture_path(picture)})", load_table(load_)]
    parts += [HOW, "## What moves it"]
    parts += [MOVES, moved(), "## What it rests on", rests_on()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def picture_path(name: str) -> str:
    return f"pictures/{name}"


def conclusions() -> str:
    """What the figures say, in words that hold only as long as the figures do."""
    hosts, group = (summary(FEW, Study.CT, Hosting.WARM, kind, False) for kind in Kind)
    few = simulated(*FEW_BASE).plan
    short = run(fleet(idle_stop_minutes=1)(few)).summary
    assert few.fleet.most == hosts.most_on == 1
    assert hosts.utilisation < 0.05
    assert short.usd_a_study < hosts.usd_a_study
    assert short.wait_p99_s > hosts.wait_p99_s
    pooled = summary(FEW, Study.CT, Hosting.WARM, Kind.AUTOSCALING, False, True)
    assert group.wait_p99_s > pooled.wait_p99_s > hosts.wait_p99_s
    assert pooled.usd_a_study > 1.1 * group.usd_a_study
    warm, cold = (summary(MANY, Study.CT, hosting, Kind.HOSTS, False) for hosting in (Hosting.WARM, Hosting.COLD))
    assert cold.usd_a_study > 4 * warm.usd_a_study
    many = simulated(MANY, Study.CT, Hosting.COLD, Kind.HOSTS, False).plan
    left, sooner = (run(change(many)).summary for change in (fleet(idle_stop_minutes=1), fleet(jobs_per_host=5)))
    assert left.usd_a_study < cold.usd_a_study * 0.8
    assert sooner.wait_p99_s < cold.wait_p99_s * 0.6
    limited = run(slow_transfers(simulated(MANY, Study.CT, Hosting.WARM, Kind.HOSTS, False).plan)).summary
    assert limited.wait_p99_s > 20 * warm.wait_p99_s
    dearer = []
    for case in CASES:
        for load_ in LOADS:
            on_demand, spot = (summary(load_, *case, Kind.AUTOSCALING, market) for market in (False, True))
            named = summary(load_, *case, Kind.HOSTS, False)
            assert spot.usd_a_study < on_demand.usd_a_study * 0.55
            assert spot.wait_worst_s < 20 * 60
            dearer.append(on_demand.usd_a_study / named.usd_a_study - 1)
    assert min(dearer) > -0.05
    assert 0.1 < max(dearer) < 0.25
    longest = max(summary(load_, *case, Kind.AUTOSCALING, True).wait_worst_s for load_ in LOADS for case in CASES)
    points = [
        f"**For 1,500 studies a day, one warm host.** A CT study costs {hosts.usd_a_study:.4f} USD, and 99 % are answered within "
        f"{seconds(hosts.wait_p99_s)}: those that wait longest wait for a start. The host is on for {hosts.machine_hours:.0f} hours and "
        f"used to {hosts.utilisation:.0%}, so that what is paid for is waiting for the next study. "
        f"`MONAI_AWS_IDLE_STOP_MINUTES=1` makes it {short.usd_a_study:.4f} USD, and 99 % {seconds(short.wait_p99_s)}. Each "
        f"instance of a group is new: 99 % within {seconds(group.wait_p99_s)}; with one in a warm pool {seconds(pooled.wait_p99_s)}, at "
        f"{pooled.usd_a_study:.4f} USD a study.",
        f"**Warm before more machines.** 50,000 CT studies a day need at most {warm.most_on} warm hosts with four at once, and "
        f"{cold.most_on} cold ones with one at a time, at {cold.usd_a_study / warm.usd_a_study:.0f} times the price.",
        "**Spot is about half the price or less** in a group, with every study answered; the longest waits are up to "
        f"{seconds(longest)}, because a new machine pulls and proves the MAP first.",
        f"**A group is no cheaper than hosts with names**, and without a pool up to {max(dearer):.0%} dearer where its instances come and "
        "go often. What it brings is not in these figures: other zones and types where one has no capacity, machines in the place of those "
        "that are lost.",
        "**Idle hosts hardly leave a large fleet.** Whichever host polls may get the next study, so that each gets one before its five "
        f"minutes are over. One minute instead makes a cold CT study of 50,000 cost {left.usd_a_study:.4f} USD and not "
        f"{cold.usd_a_study:.4f}.",
        f"**20 jobs a host is a long wait for slow studies.** 99 % of those are answered within {seconds(cold.wait_p99_s)}; with one more "
        f"host for each 5 jobs, which is no setting today, within {seconds(sooner.wait_p99_s)}.",
        "**Fetching is what limits warm hosts next.** A host fetches and checks one study at a time. If that takes twice what is assumed "
        f"of a CT study, 99 % of 50,000 warm ones wait {seconds(limited.wait_p99_s)} and not {seconds(warm.wait_p99_s)}.",
    ]
    return "\n".join(
        textwrap.fill(f"- {point}", 148, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) for point in points
    )


def picture(name: str) -> str:
    load_, study, hosting = PICTURES[name]
    title = f"{load_:,} studies a day: {NAMES[study, hosting]}"
    return draw(
        title,
        [(fleet_name(*buying), simulated(load_, study, hosting, *buying)) for buying in DRAWN],
    )


def test_the_page_says_what_the_simulation_says():
    written = page()
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(written)
    assert PAGE.read_text() == written


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_show_what_the_simulation_says(name: str):
    path = DOCS / picture_path(name)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(picture(name))
    assert path.read_text() == picture(name)
