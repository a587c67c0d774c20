"""``python -m monai_aws_pipeline.simulation``: one plan simulated, as a table, as JSON, and as a picture.

Here belongs what is asked for and how it is shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from monai_aws_pipeline.cloud.prices import ON_DEMAND_USD_PER_HOUR, basis
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.simulation.arrivals import Load
from monai_aws_pipeline.simulation.chart import draw
from monai_aws_pipeline.simulation.fleet import Kind
from monai_aws_pipeline.simulation.measured import Hosting, Study
from monai_aws_pipeline.simulation.plan import Plan, Simulated, plan_for, run, with_figures
from monai_aws_pipeline.terminal import literal_console, print_table


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--studies-a-day", default=1500, help="On a working day, by the clock of a hospital.")
@click.option("--weekend", is_flag=True, help="A day of the weekend: about a third of them.")
@click.option("--burst", default=1.0, help="How many uploads come together on average.")
@click.option("--studies-an-upload", default=1)
@click.option("--study", type=click.Choice([each.value for each in Study]), default=Study.CT.value, help="What kind of study.")
@click.option(
    "--hosting",
    type=click.Choice([each.value for each in Hosting]),
    default=Hosting.WARM.value,
    help="Imports kept in memory, or a process for each study.",
)
@click.option(
    "--fleet",
    type=click.Choice([each.value for each in Kind]),
    default=Kind.HOSTS.value,
    help="autoscaling: an EC2 Auto Scaling group (MONAI_AWS_FLEET).",
)
@click.option("--hosts", type=int, help="How many there may be; left out: enough for the busiest hour and a quarter more.")
@click.option("--at-once", type=int, help="Studies at once on a host; left out: as many as answer most.")
@click.option("--spot", is_flag=True, help="Machines that AWS may take back. Named hosts are bought On-Demand.")
@click.option("--warm-pool", default=0, help="Stopped instances that the group keeps beside those at work (MONAI_AWS_FLEET_WARM_POOL).")
@click.option("--idle-stop-minutes", default=5.0, help="MONAI_AWS_IDLE_STOP_MINUTES.")
@click.option("--instance-type", type=click.Choice([*ON_DEMAND_USD_PER_HOUR]), default="g4dn.xlarge")
@click.option("--slower", default=1.0, help="Seconds of inference, times this.")
@click.option("--figure", multiple=True, metavar="NAME=NUMBER", help="Instead of a measured or assumed figure, such as start_s=120.")
@click.option("--seed", default=0, help="The same seed makes the same day.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw machines and waits over the day into this file.")
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def main(  # noqa: D103 - the help says it
    studies_a_day: int,
    weekend: bool,
    burst: float,
    studies_an_upload: int,
    study: str,
    hosting: str,
    fleet: str,
    hosts: int | None,
    at_once: int | None,
    spot: bool,
    warm_pool: int,
    idle_stop_minutes: float,
    instance_type: str,
    slower: float,
    figure: Sequence[str],
    seed: int,
    svg: Path | None,
    as_json: bool,
) -> None:
    load = Load(studies_a_day, weekend, burst, studies_an_upload)
    plan = plan_for(load, Study(study), Hosting(hosting), Kind(fleet), spot=spot, at_once=at_once, hosts=hosts, seed=seed)
    chosen = replace(plan.fleet, warm_pool=warm_pool, idle_stop_minutes=idle_stop_minutes, instance_type=instance_type)
    simulated = run(with_figures(replace(plan, fleet=chosen, slower=slower), dict(map(_figure, figure))))
    if svg:
        svg.write_text(draw(title_of(simulated.plan), [(fleet_of(simulated.plan), simulated)]))
    if as_json:
        click.echo(json.dumps({**asdict(simulated.summary), "plan": asdict(simulated.plan)}, indent=2))
    else:
        show(simulated)


def _figure(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not NAME=NUMBER", param_hint="--figure") from None


def title_of(plan: Plan) -> str:
    """What is simulated, in a line."""
    kind = {Study.SMALL: "small", Study.CT: "CT"}[plan.study]
    return f"{plan.load.studies:,} {kind} studies {'on a day of the weekend' if plan.load.weekend else 'a day'}, {plan.hosting}"


def fleet_of(plan: Plan) -> str:
    """The fleet in a few words."""
    fleet = plan.fleet
    pool = f" with {fleet.warm_pool} in a warm pool" if fleet.warm_pool else ""
    return f"{fleet.kind} of up to {fleet.most}{pool}, {'Spot' if fleet.spot else 'On-Demand'}"


def show(simulated: Simulated) -> None:
    """Print the day as a person reads it."""
    plan, found = simulated.plan, simulated.summary
    console = literal_console()
    rows = [
        ("machines", f"{fleet_of(plan)}, {plan.fleet.instance_type}, {plan.fleet.at_once} at once"),
        ("answered", f"{found.answered:,} of {found.studies:,}"),
        (
            "wait, upload to answer",
            f"half within {seconds(found.wait_p50_s)}, 95 % {seconds(found.wait_p95_s)}, 99 % {seconds(found.wait_p99_s)}, "
            f"the longest {seconds(found.wait_worst_s)}",
        ),
        ("machines on", f"at most {found.most_on}, {found.starts} starts, {found.machine_hours:.1f} hours, {found.utilisation:.0%} used"),
        ("US dollars", f"{found.usd_a_study:.4f} a study, {found.usd_a_day:.2f} a day ({basis('us-east-1')})"),
    ]
    if plan.fleet.spot:
        rows.append(("taken back by AWS", f"{found.taken_back} machines with {found.given_back} jobs in hand, which others answered"))
    if found.refused_starts:
        rows.append(("starts without capacity", str(found.refused_starts)))
    print_table(console, title_of(plan), ("", ""), rows)
    by_hour = " ".join(f"{count:.1f}" for count in found.by_hour)
    console.print(f"machines on, on average in each hour from 0 to 23: {by_hour}", soft_wrap=True)
    console.print("What this rests on, and what of it nobody has measured: docs/scale.md")


def seconds(value: float) -> str:
    """Seconds below two minutes, minutes above."""
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


if __name__ == "__main__":
    try:
        main()
    except NamedError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
