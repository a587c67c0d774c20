"""What is asked for in a terminal: answered as a table, as JSON and as a picture, or refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from monai_aws_pipeline.simulation.__main__ import main
from monai_aws_pipeline.simulation.arrivals import Load
from monai_aws_pipeline.simulation.day import Day, OnTime
from monai_aws_pipeline.simulation.fleet import Fleet, Kind
from monai_aws_pipeline.simulation.measured import SPEEDS, CloudWatch, Hosting, Machine, Study, figures
from monai_aws_pipeline.simulation.plan import PlanError, plan_for, run, with_figures
from monai_aws_pipeline.simulation.summary import Summary, percentile, usd_of


def said(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_day_is_shown():
    shown = said("--studies-a-day", "300", "--fleet", "autoscaling", "--spot")
    assert "300 CT studies a day, warm" in shown
    assert "300 of 300" in shown
    assert "autoscaling of up to 1, Spot, g4dn.xlarge, 4 at once" in shown


def test_a_warm_pool_is_named_with_its_fleet():
    assert "autoscaling of up to 1 with 2 in a warm pool, On-Demand" in said(
        "--studies-a-day", "9", "--fleet", "autoscaling", "--warm-pool", "2"
    )


def test_a_day_is_told_to_a_program():
    answer = json.loads(said("--studies-a-day", "300", "--study", "small", "--hosting", "cold", "--hosts", "2", "--json"))
    plan = answer.pop("plan")
    assert set(answer) == {field.name for field in fields(Summary)}
    assert (answer["studies"], answer["answered"]) == (300, 300)
    assert answer["usd_a_study"] == pytest.approx(answer["usd_a_day"] / 300)
    assert plan["fleet"]["most"] == 2


def test_a_day_is_drawn(tmp_path: Path):
    picture = tmp_path / "day.svg"
    said("--studies-a-day", "300", "--svg", str(picture))
    root = ET.fromstring(picture.read_text())  # noqa: S314 - our own
    assert root.tag.endswith("svg")
    assert "300 CT studies a day, warm" in "".join(root.itertext())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--at-once", "9"], "were never measured"),
        (["--hosting", "cold", "--at-once", "2"], "were never measured"),
        (["--figure", "boots=3"], "no figure boots"),
        (["--figure", "start_s=nan"], "start_s is not a number"),
        (["--figure", "datapoints=inf"], "datapoints is not a number"),
        (["--figure", "start_s=-1"], "a figure is 0 at least"),
        (["--figure", "refused_starts=1"], "refused"),
        (["--figure", "poll_s=0"], "poll_s"),
        (["--studies-a-day", "0"], "0 studies"),
        (["--hosts", "51"], "MONAI_AWS_HOST_COUNT"),
        (["--fleet", "autoscaling", "--warm-pool", "51"], "MONAI_AWS_FLEET_WARM_POOL"),
        (["--fleet", "autoscaling", "--warm-pool", "-1"], "MONAI_AWS_FLEET_WARM_POOL"),
        (["--fleet", "hosts", "--warm-pool", "1"], "a warm pool of named hosts"),
        (["--fleet", "autoscaling", "--spot", "--warm-pool", "1"], "beside Spot"),
        (["--hosts", "-1"], "MONAI_AWS_HOST_COUNT"),
        (["--hosts", "0"], "MONAI_AWS_HOST_COUNT"),
        (["--at-once", "0"], "were never measured"),
        (["--idle-stop-minutes", "0"], "idle for 0 minutes"),
        (["--slower", "nan"], "times the seconds"),
        (["--burst", "nan"], "at least one"),
        (["--burst", "0.5"], "at least one"),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_name(arguments: list[str], word: str):
    with pytest.raises(PlanError, match=word):
        CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_a_refusal_is_a_line_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "monai_aws_pipeline.simulation", "--at-once", "9"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "never measured" in done.stderr


def test_every_figure_says_where_it_is_from():
    for of in (Machine, CloudWatch):
        assert {name for name, *_ in figures(of)} == {field.name for field in fields(of)}
        assert all(source for _, _, source, _ in figures(of))
    assert set(SPEEDS) == {(study, hosting) for study in Study for hosting in Hosting}


def test_a_figure_is_replaced_where_it_belongs():
    plan = with_figures(plan_for(Load(10), Study.CT, Hosting.WARM, Kind.HOSTS), {"start_s": 60, "datapoints": 2})
    assert (plan.machine, plan.watch) == (replace(Machine(), start_s=60), replace(CloudWatch(), datapoints=2))


def test_what_a_day_costs_to_the_cent():
    """One study: its host stops at the first poll after five minutes. Price by the hour with the address, disk for a day."""
    plan = plan_for(Load(1), Study.SMALL, Hosting.COLD, Kind.HOSTS)
    one = run(plan)
    assert one.day.machine_seconds == pytest.approx(180 + 0.3 + 315 + 60)
    assert sum(one.summary.by_hour) == pytest.approx(one.summary.machine_hours, abs=0.01)
    assert one.summary.usd_a_day == pytest.approx(one.day.machine_seconds / 3600 * (0.526 + 0.005) + 0.40)
    spot = run(replace(plan, fleet=replace(plan.fleet, spot=True), machine=replace(plan.machine, interruptions_per_hour=0)))
    assert spot.summary.usd_a_day == pytest.approx(one.day.machine_seconds / 3600 * (0.526 * 0.4 + 0.005) + 0.40)
    group = replace(plan.fleet, kind=Kind.AUTOSCALING)
    new = run(replace(plan, fleet=group)).summary
    assert new.usd_a_day == pytest.approx(new.machine_hours * (0.526 + 0.005 + 0.40 / 24)), "its disk goes with it"
    pool = run(replace(plan, fleet=replace(group, warm_pool=2)))
    (refill,), (on,) = pool.day.refills, pool.day.on
    assert refill.seconds == 180 + 120 + 47 + 60
    hours = (refill.seconds + on.seconds) / 3600
    assert pool.summary.machine_hours == pytest.approx(hours)
    assert sum(pool.summary.by_hour) == pytest.approx(hours, abs=0.01)
    assert pool.summary.usd_a_day == pytest.approx(hours * (0.526 + 0.005) + (2 + on.seconds / 86400) * 0.40), "two disks all day"


def test_a_machine_is_paid_for_a_minute_at_least():
    day = Day(on=[OnTime(0, 0, 10), OnTime(0, 100, 190)])
    assert usd_of(day, Fleet(), Machine()) == pytest.approx((60 + 90) / 3600 * (0.526 + 0.005) + 0.40)


@pytest.mark.parametrize(("per_cent", "value"), [(50, 2), (75, 3), (76, 4), (99, 4), (100, 4), (1, 1)])
def test_percentiles_are_values_that_were(per_cent: float, value: float):
    assert percentile([1, 2, 3, 4], per_cent) == value
