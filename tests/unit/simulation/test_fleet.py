"""How many hosts are wanted: the rules of the wake function and of a group's alarms, and what both share with the product."""

from __future__ import annotations

import pytest

from lambda_fn import hosts as wake
from monai_aws_pipeline.host_agent.aws import job_queue, spot_interruption
from monai_aws_pipeline.settings import Settings
from monai_aws_pipeline.simulation.fleet import MOST_HOSTS, Fleet, Kind, Seen, hosts_for, hosts_to_start, instances_to_add
from monai_aws_pipeline.simulation.measured import JOBS_PER_HOST, CloudWatch, Machine, Speed

GROUP = Fleet(Kind.AUTOSCALING, most=10)
WATCH = CloudWatch()


@pytest.mark.parametrize("waiting", [0, 1, 19, 20, 21, 40, 41, 100, 1000])
@pytest.mark.parametrize("on", [0, 1, 2, 5])
def test_hosts_are_started_as_the_wake_function_starts_them(waiting: int, on: int):
    machines = [wake.Host(f"i-{number}", "running" if number < on else "stopped") for number in range(5)]
    started = len(wake.plan(machines, waiting).start) if waiting else 0  # without a job it plans nothing
    assert hosts_to_start(waiting, on, Fleet(most=5)) == started


@pytest.mark.parametrize(("waiting", "on", "lifted"), [(0, 0, 0), (1, 0, 1), (1000, 0, 1), (1000, 1, 0)])
def test_of_a_group_the_wake_function_starts_the_first_alone(waiting: int, on: int, lifted: int):
    assert hosts_to_start(waiting, on, GROUP) == lifted


def test_what_the_simulation_repeats_of_the_product_is_the_same():
    count = Settings.model_fields["host_count"]
    assert {each.le for each in count.metadata if hasattr(each, "le")} == {MOST_HOSTS}
    assert (JOBS_PER_HOST, Machine().poll_s) == (wake.JOBS_PER_HOST, job_queue.WAIT_S)
    assert Machine().notice_s == spot_interruption.NOTICE_S - spot_interruption.MARGIN_S
    assert Settings.model_fields["idle_stop_minutes"].default == Fleet().idle_stop_minutes
    assert Settings.model_fields["wake_every_minutes"].default == Fleet().wake_every_minutes


@pytest.mark.parametrize(
    ("waiting", "oldest_s", "running", "starting", "added"),
    [
        ([0], 0, 0, 0, 0),
        ([1], 0, 0, 0, 1),  # what the wake function lifted, and EC2 could not give
        ([61], 0, 0, 0, 1),
        ([0, 0, 61], 0, 1, 0, 0),  # target tracking waits for three values
        ([61, 61, 61], 0, 1, 0, 3),
        ([61, 19, 61], 0, 1, 0, 0),
        ([61, 61, 61], 0, 1, 3, 0),  # those that start are counted
        ([5, 5, 5], 301, 1, 0, 1),  # the oldest is too old
        ([5, 5, 5], 301, 1, 1, 0),
        ([900, 900, 900], 301, 8, 0, 2),  # no more than there may be
    ],
)
def test_a_group_grows_by_what_its_alarms_see(waiting: list[int], oldest_s: float, running: int, starting: int, added: int):
    seen = [Seen(count, oldest_s) for count in waiting]
    assert instances_to_add(seen, running, starting, GROUP, WATCH) == added


def test_a_plan_has_hosts_for_the_busiest_hour_and_a_quarter_more():
    speed = Speed((1.0, 2.0), 0, 0)
    assert [hosts_for(peak, speed, 1) for peak in (0, 48, 49, 480, 10_000)] == [1, 1, 2, 10, MOST_HOSTS]
    assert hosts_for(480, speed, 2) == 5
