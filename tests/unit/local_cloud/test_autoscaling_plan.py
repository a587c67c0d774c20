"""What a group does next, planned from records and states of machines alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.local_cloud.autoscaling_plan import (
    Forget,
    Launch,
    Machine,
    Move,
    RefreshIs,
    Seen,
    Unwell,
    offers,
    plan,
    victims,
)
from monai_aws_pipeline.local_cloud.autoscaling_records import LAUNCHING, TERMINATING, Group, Member, Template, as_json, from_json

RUNS, STOPPED = Seen("running"), Seen("stopped")


def template(version: str = "1", of: str = "lt-1") -> Template:
    return Template(of, "own", version, {"InstanceType": "t3.micro"})


def member(name: str, state: str = "InService", **facts: Any) -> Member:
    return Member(name, **{"zone": "a", "kind": "t3.micro", "template": template().record, "state": state, "launched": 1.0, **facts})


def group(*members: Member, desired: int = 0, largest: int = 5, **facts: Any) -> Group:
    settings = {"MinSize": 0, "MaxSize": largest, "DesiredCapacity": desired, **facts.pop("settings", {})}
    return Group("g", "arn", "us-east-1", 0.0, settings, members=list(members), **facts)


def steps(of: Group, seen: dict[str, Seen] | None = None, by: Template | None = None, patience: float = 600.0) -> list[Any]:
    return plan(of, {each.id: RUNS for each in of.members} | (seen or {}), by or template(), 100.0, patience)


def hook(transition: str) -> dict[str, Any]:
    return {"h": {"LifecycleTransition": transition, "HeartbeatTimeout": 60, "DefaultResult": "ABANDON"}}


def moves(found: Sequence[Any]) -> list[tuple[str, str]]:
    return [(each.id, each.state) for each in found if isinstance(each, Move)]


def test_a_group_that_is_what_it_is_to_be_does_nothing():
    assert steps(group(member("a"), desired=1)) == []


def test_what_is_missing_is_launched_once_for_each():
    assert [type(each) for each in steps(group(member("a", "Pending"), desired=3), {"a": Seen("pending")})] == [Launch, Launch]
    assert steps(group(desired=2, suspended=["Launch"])) == []
    assert steps(group(desired=2, next_launch=200.0)) == []


def test_protected_instances_are_never_taken():
    assert moves(steps(group(member("a", protected=True), member("b"), desired=0))) == [("b", "Terminating")]


def test_the_fullest_zone_and_then_the_oldest_version_gives_first():
    known = [member("a", zone="x"), member("b", zone="y"), member("c", zone="y", template=template("2").record)]
    assert [each.id for each in victims(known, 1, [])] == ["b"]
    assert [each.id for each in victims([member("a", launched=1.0), member("b", launched=2.0)], 1, ["NewestInstance"])] == ["b"]


def test_one_that_stopped_or_ended_is_unhealthy_and_then_leaves():
    for state in ("stopped", "terminated"):
        assert steps(group(member("a"), desired=1), {"a": Seen(state)}) == [Unwell("a")]
    assert moves(steps(group(member("a", healthy=False), desired=1))) == [("a", "Terminating")]
    assert steps(group(member("a"), desired=1, suspended=["HealthCheck"]), {"a": STOPPED}) == []


def test_hooks_hold_an_instance_at_both_ends():
    arrives = group(member("a", "Pending"), desired=1, hooks=hook(LAUNCHING))
    assert moves(steps(arrives)) == [("a", "Pending:Wait")]
    assert steps(group(member("a", "Pending:Wait", hooks={"h": 200.0}), desired=1)) == []
    assert moves(steps(group(member("a", "Pending:Wait"), desired=1))) == [("a", "Pending:Proceed")]
    assert moves(steps(group(member("a", "Pending:Wait", abandoned=True), desired=1))) == [("a", "Terminating")]
    assert moves(steps(group(member("a", "Terminating"), hooks=hook(TERMINATING)))) == [("a", "Terminating:Wait")]
    assert steps(group(member("a", "Terminating:Proceed"), hooks=hook(TERMINATING))) == [Machine("a", "terminate")]
    assert steps(group(member("a", "Terminating")), {"a": Seen("terminated")}) == [Forget("a")]


def test_a_launch_that_ended_is_forgotten_as_failed():
    assert steps(group(member("a", "Pending"), desired=1), {"a": Seen("terminated")}) == [Forget("a", failed=True)]


def test_a_warm_pool_is_filled_stopped_used_first_and_refilled_by_reuse():
    pool = {"MinSize": 0, "PoolState": "Stopped", "InstanceReusePolicy": {"ReuseOnScaleIn": True}}
    assert [each.warm for each in steps(group(largest=2, warm_pool=pool))] == [True, True]
    assert steps(group(member("a", "Warmed:Pending"), largest=1, warm_pool=pool)) == [Machine("a", "stop")]
    assert moves(steps(group(member("a", "Warmed:Pending"), largest=1, warm_pool=pool), {"a": STOPPED})) == [("a", "Warmed:Stopped")]
    assert moves(steps(group(member("a", "Warmed:Stopped"), desired=1, largest=1, warm_pool=pool), {"a": STOPPED})) == [("a", "Pending")]
    assert steps(group(member("a", "Pending"), desired=1, largest=1, warm_pool=pool), {"a": STOPPED}) == [Machine("a", "start")]
    assert moves(steps(group(member("a"), desired=0, largest=1, warm_pool=pool))) == [("a", "Warmed:Pending")]
    assert moves(steps(group(member("a", "Warmed:Stopped"), largest=1), {"a": STOPPED})) == [("a", "Warmed:Terminating")]


def test_one_from_the_pool_that_stops_again_is_unhealthy():
    assert steps(group(member("a", "Pending", started=True), desired=1), {"a": STOPPED}) == [Unwell("a")]


def test_an_interrupted_spot_instance_is_replaced_before_it_leaves():
    risky = Seen("running", at_risk=True)
    rebalances = group(member("a", spot=True), desired=1, settings={"CapacityRebalance": True})
    assert [type(each) for each in steps(rebalances, {"a": risky})] == [Launch]
    rebalances.members.append(member("b"))
    assert moves(steps(rebalances, {"a": risky})) == [("a", "Terminating")]
    assert steps(group(member("a", spot=True), desired=1), {"a": risky}) == []


def refresh(status: str = "InProgress", **preferences: Any) -> list[dict[str, Any]]:
    progress = {"PercentageComplete": 0, "StartTime": 50.0, "Progressed": 50.0, "Left": 0, "Ready": 0}
    return [{"Status": status, **progress, "Preferences": preferences}]


def test_a_refresh_goes_one_by_one_waits_for_protected_ones_and_ends():
    old = group(member("a"), member("b"), desired=2, refreshes=refresh())
    assert moves(steps(old)) == [("a", "Terminating")]
    assert steps(group(member("a", protected=True), desired=1, refreshes=refresh())) == []
    assert moves(steps(group(member("a", protected=True), desired=1, refreshes=refresh(ScaleInProtectedInstances="Refresh")))) != []
    fresh = group(member("a", launched=60.0), desired=1, refreshes=refresh())
    assert steps(fresh) == [RefreshIs("Successful", 100)]
    assert steps(group(member("a"), desired=1, refreshes=refresh(SkipMatching=True))) == [RefreshIs("Successful", 100)]
    assert moves(steps(group(member("a"), desired=1, refreshes=refresh(SkipMatching=True)), by=template("2"))) == [("a", "Terminating")]


def test_a_match_is_of_the_same_template_version_and_set_of_types():
    of_a_mix = {"MixedInstancesPolicy": {"LaunchTemplate": {"Overrides": [{"InstanceType": "g5.xlarge"}, {"InstanceType": "g4dn.xlarge"}]}}}
    skips = lambda kind, **facts: group(member("a", kind=kind), desired=1, refreshes=refresh(SkipMatching=True), **facts)  # noqa: E731
    assert steps(skips("g4dn.xlarge", settings=of_a_mix)) == [RefreshIs("Successful", 100)]
    assert moves(steps(skips("t3.micro", settings=of_a_mix))) == [("a", "Terminating")]
    assert moves(steps(skips("t3.micro"), by=template(of="lt-2"))) == [("a", "Terminating")]


def test_a_refresh_replaces_nothing_while_there_is_no_template_to_launch_by():
    gone = Template("", "", "", {})
    for status, preferences in (("InProgress", {}), ("InProgress", {"SkipMatching": True}), ("RollbackInProgress", {})):
        assert steps(group(member("a"), desired=1, refreshes=refresh(status, **preferences)), by=gone) == []


def test_a_refresh_is_judged_by_what_is_there_now_and_not_by_when_it_was_last_looked_at():
    done = group(member("a", launched=60.0), desired=1, refreshes=refresh())
    assert steps(done, patience=10.0) == [RefreshIs("Successful", 100)]
    further = group(member("a", launched=60.0), member("b"), desired=2, refreshes=refresh())
    further.refreshes[0]["Left"] = 2
    assert steps(further, patience=10.0)[0] == RefreshIs("InProgress", 50, 1, 1)
    stuck = group(member("a", protected=True), desired=1, refreshes=refresh())
    assert [each.status for each in steps(stuck, patience=10.0)] == ["Failed"]


def test_a_cancel_waits_for_what_was_in_flight_and_for_nothing_else():
    empty = group(desired=1, suspended=["Launch", "InstanceRefresh"], refreshes=refresh("Cancelling"))
    assert steps(empty) == [RefreshIs("Cancelled", 0)]
    boots = {"a": Seen("pending")}
    flying = group(member("a", "Pending"), desired=1, refreshes=refresh("Cancelling"))
    flying.refreshes[0]["WaitsFor"] = ["a"]
    assert steps(flying, boots) == []
    flying.refreshes[0]["WaitsFor"] = ["b"]
    assert steps(flying, boots) == [RefreshIs("Cancelled", 0)]


def test_a_mix_is_on_demand_at_its_base_and_spot_above_it():
    policy = {
        "LaunchTemplate": {"Overrides": [{"InstanceType": "g5.xlarge"}, {"InstanceType": "g4dn.xlarge"}]},
        "InstancesDistribution": {"OnDemandBaseCapacity": 1, "OnDemandPercentageAboveBaseCapacity": 0},
    }
    empty = group(settings={"MixedInstancesPolicy": policy})
    assert [(each.kind, each.zone, each.spot) for each in offers(empty, "", ["a", "b"])] == [
        ("g5.xlarge", "a", False), ("g5.xlarge", "b", False), ("g4dn.xlarge", "a", False), ("g4dn.xlarge", "b", False),
    ]  # fmt: skip
    one = group(member("m", zone="a"), settings={"MixedInstancesPolicy": policy})
    assert (offers(one, "", ["a", "b"])[0].zone, offers(one, "", ["a", "b"])[0].spot) == ("b", True)


def test_nothing_is_lost_when_a_group_is_written_down():
    made = group(member("a", hooks={"h": 1.0}, token="t"), desired=1, hooks=hook(LAUNCHING), warm_pool={"MinSize": 0})
    assert from_json(as_json(made)) == made


def test_a_refresh_of_an_earlier_version_goes_on():
    made = group(member("a", protected=True), desired=1, refreshes=refresh())
    for name in ("Progressed", "Left", "Ready"):
        del made.refreshes[0][name]
    read = from_json(as_json(made))
    read.refreshes[0]["Progressed"] = 100.0
    assert steps(read) == []


@given(st.integers(0, 6), st.integers(0, 6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_capacity_is_met_exactly_but_for_protection(present: int, desired: int, protected: list[bool]):
    members = [member(f"i{number}", protected=protected[number]) for number in range(present)]
    found = steps(group(*members, desired=desired, largest=6))
    free = sum(not each.protected for each in members)
    assert sum(isinstance(each, Launch) for each in found) == max(0, desired - present)
    assert len(moves(found)) == min(max(0, present - desired), free)
