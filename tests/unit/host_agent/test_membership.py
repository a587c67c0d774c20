"""An instance of an Auto Scaling group: when it takes jobs, when the group may take it, and how it goes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.agent import Agent, BootOnce
from monai_aws_pipeline.host_agent.aws.instance_metadata import target_lifecycle_state
from monai_aws_pipeline.host_agent.aws.spot_interruption import Notice
from monai_aws_pipeline.host_agent.membership import GroupMember, NamedHost, Step, decide
from monai_aws_pipeline.local_cloud.metadata import METADATA_PORT, InstanceFacts, MetadataService
from tests.unit.host_agent.bench import Bench, zip_of
from tests.unit.host_agent.group_bench import IDLE_S, Instance, one_instance, stays
from tests.unit.host_agent.pipeline_bench import HeldMap, prompt_host, until
from tests.unit.local_cloud.autoscaling_bench import launch_template

STATES = [
    "",
    "InService",
    "Detached",
    "Standby",
    "Terminated",
    "Warmed:Stopped",
    "Warmed:Running",
    "Warmed:Hibernated",
    "Warmed:Terminated",
]
PROTECT, LEAVE, COMPLETE = "SetInstanceProtection", "TerminateInstanceInAutoScalingGroup", "CompleteLifecycleAction"


# ------------------------------------------------------------------------------------------------------------------ the decision


@pytest.mark.parametrize(
    ("target", "idle_s", "step"),
    [
        ("InService", -30.0, Step.WORK),
        ("InService", 0.0, Step.WORK),
        ("InService", 9.9, Step.STAY),
        ("InService", 10.0, Step.REST),
        ("InService", 300.0, Step.LEAVE),
        ("", 300.0, Step.LEAVE),
        ("Detached", 0.0, Step.WORK),
        ("Terminated", 0.0, Step.FINISH),
        ("Terminated", 0.1, Step.GO),
        ("Warmed:Stopped", 0.0, Step.FINISH),
        ("Warmed:Stopped", 9000.0, Step.GO),
        ("Standby", 9000.0, Step.GO),
    ],
)
def test_what_is_done_next(target: str, idle_s: float, step: Step) -> None:
    assert decide(target, idle_s, 300.0) is step


@given(st.sampled_from(STATES), st.floats(-1e4, 1e6), st.floats(0.6, 86_400))
def test_only_an_idle_instance_at_work_leaves_and_one_wanted_elsewhere_begins_nothing(target: str, idle_s: float, limit_s: float) -> None:
    step = decide(target, idle_s, limit_s)
    at_work = target in ("", "InService", "Detached")
    assert (step in (Step.FINISH, Step.GO)) == (not at_work)
    assert (step is Step.LEAVE) == (at_work and idle_s >= limit_s)
    assert (step in (Step.WORK, Step.FINISH)) == (idle_s <= 0)


# --------------------------------------------------------------------------------------------------------------- one instance's life


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with launch_template(), one_instance(tmp_path) as made:
        yield made
        made.stop.set()


def begin(what: Callable[[], object]) -> threading.Thread:
    started = threading.Thread(target=what)
    started.start()
    return started


def test_it_says_that_it_is_ready_once_the_map_is_there_and_works_once_the_group_has_it_in_service(instance: Instance) -> None:
    with closing(instance.in_service()):
        assert instance.prepared in (["Pending"], ["Pending:Wait"])
        assert instance.state == "InService"
        assert instance.shown == {"target": "InService", "protected": False}
    assert instance.count(COMPLETE) == 1


def test_in_a_warm_pool_it_waits_to_be_stopped_shows_life_and_works_after_its_next_boot(tmp_path: Path) -> None:
    with launch_template(), one_instance(tmp_path, pool=True) as instance:
        with closing(instance.member()) as first:
            told: list[bool] = []
            waits = begin(lambda: told.append(first.enter()))
            until(lambda: instance.state == "Warmed:Stopped", "the pool never had it")
            before = instance.alive
            assert stays(lambda: not told)
            until(lambda: instance.alive > before + 3, "the dead man's switch finds no sign of life")
            instance.stop.set()
            waits.join(10)
            assert told == [False]
        assert instance.shown == {"target": "Warmed:Stopped", "protected": False}
        instance.stop.clear()
        instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=1)
        until(lambda: instance.state == "Pending:Wait", "it was not started again")
        with closing(instance.in_service()) as second:
            assert instance.prepared[0].startswith("Warmed:Pending")
            assert instance.prepared[1:] == ["Pending:Wait"], "the MAP may have changed meanwhile"
            # Scale-in brings it back to the pool.
            instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
            assert instance.leave.wait(10)
            ends = begin(second.end)
            until(lambda: instance.state == "Warmed:Stopped", "it was not given back")
            instance.stop.set()
            ends.join(10)


def test_it_is_protected_with_its_first_work_and_no_more_when_it_has_had_none_for_a_while(instance: Instance) -> None:
    with closing(instance.in_service()) as member:
        for idle_s in (0.0, 0.4, 0.0, 3.0, 0.0, 9.0, 0.0):
            member.step(idle_s)
            assert instance.shown["protected"]
        instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
        assert stays(lambda: instance.state == "InService"), "scale-in leaves it alone"
        member.step(11.0)
        until(lambda: instance.state == "Terminating:Wait", "the group did not become smaller")
    assert instance.count(PROTECT) == 2


def test_idle_it_makes_the_group_smaller_and_is_let_go(instance: Instance) -> None:
    with closing(instance.in_service()) as member:
        assert member.step(IDLE_S) is Step.LEAVE
        assert member.leave()
        assert instance.group.group()["DesiredCapacity"] == 0
        ends = begin(member.end)
        until(lambda: not instance.state, "the group still has it")
        instance.stop.set()
        ends.join(10)
    assert (instance.off, instance.count(COMPLETE)) == ([], 2)


def test_told_to_go_it_holds_the_group_up_until_nothing_is_in_hand(instance: Instance) -> None:
    with closing(instance.in_service()) as member:
        instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
        assert instance.leave.wait(10)
        assert member.step(0.0) is Step.FINISH
        until(lambda: instance.count("RecordLifecycleActionHeartbeat") >= 3, "it does not say that it goes on")
        assert instance.state == "Terminating:Wait"
        instance.in_use = True
        ends = begin(member.end)
        assert stays(lambda: instance.state == "Terminating:Wait"), "a MAP is being proved"
        instance.in_use = False
        until(lambda: not instance.state, "the group still has it")
        instance.stop.set()
        ends.join(10)
    assert (instance.off, instance.count(LEAVE)) == ([], 0)


def test_told_to_go_at_the_moment_when_it_begins_to_serve_it_goes(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(instance.member()) as member:
        asks = member._instance.state

        def and_the_group_becomes_smaller() -> str | None:
            state = asks()
            if state == "InService" and not instance.leave.is_set():
                instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
                until(lambda: member._target == "Terminated", "the listener has not heard of it")
            return state

        monkeypatch.setattr(member._instance, "state", and_the_group_becomes_smaller)
        assert member.enter()
        assert instance.leave.is_set()
        assert member.step(0.0) is Step.FINISH


def test_what_does_not_end_before_awss_limit_is_given_back(instance: Instance) -> None:
    instance.pace = replace(instance.pace, finish=0.3)
    with closing(instance.in_service()) as member:
        instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
        assert instance.leave.wait(10)
        until(lambda: instance.state == "Terminating:Wait", "the hook does not hold it")
        assert instance.stop.wait(10)
        assert not member.end()
        until(lambda: not instance.state, "it was let go all the same")


def test_a_group_that_may_not_become_smaller_keeps_it(tmp_path: Path) -> None:
    with launch_template(), one_instance(tmp_path, MinSize=1) as instance:
        instance.pace = replace(instance.pace, again=60.0)
        with closing(instance.in_service()) as member:
            assert not member.leave()
            asked = instance.count(LEAVE)
            assert not member.leave(), "not asked again at once"
            assert instance.count(LEAVE) == asked
            for _ in range(10):
                member._ask_again = 0.0
                assert not member.leave()
            assert instance.count(LEAVE) == 11 * asked
        assert instance.state == "InService"


@pytest.mark.parametrize(("code", "asks"), [("AccessDenied", 1), ("Throttling", 5)])
def test_an_instance_that_its_group_does_not_let_go_is_switched_off(instance: Instance, code: str, asks: int) -> None:
    with closing(instance.in_service()) as member:
        instance.calls.refused = dict.fromkeys((LEAVE, PROTECT), code)
        member.step(0.0)
        for _ in range(asks - 1):
            assert not member.leave()
            threading.Event().wait(0.11)
        assert member.leave()
        assert not member.end()
    assert instance.off == [""]
    assert instance.shown == {"target": "InService", "protected": False}


def test_a_refusal_is_said_once_with_what_it_means(instance: Instance, caplog: pytest.LogCaptureFixture) -> None:
    with closing(instance.in_service()) as member, caplog.at_level(logging.WARNING):
        instance.calls.refused = {PROTECT: "Throttling"}
        for _ in range(5):
            member.step(0.0)
    said = [record.getMessage() for record in caplog.records if "Throttling" in record.getMessage()]
    assert len(said) == 1
    assert "the account asks Auto Scaling too often" in said[0]


def test_one_that_no_group_has_works_and_ends_like_a_named_host(instance: Instance) -> None:
    instance.group("DeleteAutoScalingGroup", AutoScalingGroupName="g", ForceDelete=True)
    until(lambda: not instance.state, "the group still has it")
    with closing(instance.in_service()) as member:
        assert member.step(0.0) is Step.WORK
        assert member.leave()
        assert not member.end()
    assert (instance.off, instance.count(PROTECT), instance.count(LEAVE)) == ([""], 0, 0)


def test_one_that_auto_scaling_tells_nothing_of_works_and_completes_its_hook_when_it_is_told(instance: Instance) -> None:
    """A private network without the endpoint, or one that comes late: the hook's end would end it with jobs in hand."""
    until(lambda: instance.state == "Pending:Wait", "the hook does not hold it")
    instance.calls.refused = {"DescribeAutoScalingInstances": "RequestLimitExceeded"}
    with closing(instance.in_service()) as member:
        assert member.step(0.0) is Step.WORK
        assert stays(lambda: instance.state == "Pending:Wait")
        instance.calls.refused = {}
        until(lambda: instance.state == "InService", "its hook was not completed")
        until(lambda: not member._unseen, "it asks on although it knows")
    assert instance.count(COMPLETE) == 1


def test_an_instance_that_works_unseen_never_lets_its_own_end_go_on(instance: Instance) -> None:
    instance.calls.refused = {"DescribeAutoScalingInstances": "RequestLimitExceeded"}
    with closing(instance.in_service()) as member:
        instance.group("TerminateInstanceInAutoScalingGroup", InstanceId=instance.id, ShouldDecrementDesiredCapacity=True)
        until(lambda: instance.state == "Terminating:Wait", "it is to go")
        instance.calls.refused = {}
        until(lambda: not member._unseen, "it asks on although it knows")
        assert stays(lambda: instance.state == "Terminating:Wait"), "a study may be in hand"


def test_a_hook_that_holds_it_already_is_told_at_once_that_it_is_at_it(instance: Instance) -> None:
    """Its boot has taken part of the hook's time."""
    instance.pace = replace(instance.pace, beat=60.0)
    until(lambda: instance.state == "Pending:Wait", "the hook does not hold it")
    with closing(instance.in_service()):
        assert instance.calls.made.index("RecordLifecycleActionHeartbeat") < instance.calls.made.index(COMPLETE)
    assert instance.count("RecordLifecycleActionHeartbeat") == 1


def test_one_that_the_group_takes_back_into_service_begins_with_a_new_process(instance: Instance) -> None:
    with closing(instance.in_service()) as member:
        (group,) = instance.group.service._groups.values()
        known = group.members[0].target
        group.members[0].target = lambda _: "Standby"  # type: ignore[method-assign]  # the embedded AWS has no standby
        assert instance.leave.wait(10)
        told: list[bool] = []
        ends = begin(lambda: told.append(member.end()))
        assert stays(lambda: not told)
        group.members[0].target = known  # type: ignore[method-assign]
        ends.join(10)
    assert told == [True]


def test_set_aside_by_a_person_it_waits_for_as_long_as_that_takes(instance: Instance) -> None:
    instance.pace = replace(instance.pace, finish=0.05)
    with closing(instance.in_service()) as member:
        beats = instance.count("RecordLifecycleActionHeartbeat")
        (group,) = instance.group.service._groups.values()
        known = group.members[0].target
        group.members[0].target = lambda _: "Standby"  # type: ignore[method-assign]
        assert instance.leave.wait(10)
        told: list[bool] = []
        ends = begin(lambda: told.append(member.end()))
        assert stays(lambda: not instance.stop.is_set() and not told, 0.5)
        assert instance.count("RecordLifecycleActionHeartbeat") == beats, "no hook holds it"
        group.members[0].target = known  # type: ignore[method-assign]
        ends.join(10)
        assert stays(lambda: not instance.stop.is_set(), 0.2), "the time for going counts no more"
    assert told == [True]


def test_one_that_is_taken_out_of_its_group_for_good_begins_as_a_named_host(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(instance.in_service()) as member:
        (group,) = instance.group.service._groups.values()
        group.members[0].target = lambda _: "Standby"  # type: ignore[method-assign]
        assert instance.leave.wait(10)
        monkeypatch.setattr(member._instance, "state", lambda: "")
        group.members[0].target = lambda _: "Detached"  # type: ignore[method-assign]
        until(lambda: member._target == "Detached", "it was not told")
        assert member.end()
    assert instance.off == []


# ------------------------------------------------------------------------------------------------------------------- the whole agent


def life(bench: Bench, instance: Instance, member: GroupMember) -> Agent:
    host = replace(prompt_host(bench), leave=instance.leave, stop=instance.stop, board=instance.board)
    return Agent(host, member, BootOnce(bench.folder, lambda: 5.0), lambda: False)


def test_what_passes_before_it_is_in_service_is_not_counted_as_idle(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with launch_template(), one_instance(tmp_path) as instance:
        instance.pull_s = 3.0
        idle: list[float] = []
        with closing(instance.member()) as member:
            step = member.step
            monkeypatch.setattr(member, "step", lambda seconds: (idle.append(seconds), step(seconds))[1])
            runs = begin(life(bench, instance, member).run)
            until(lambda: bool(idle), "it never asked for work")
            instance.stop.set()
            runs.join(30)
    assert idle[0] < instance.pull_s


def test_a_study_in_hand_is_answered_although_the_group_becomes_smaller(bench: Bench, tmp_path: Path) -> None:
    uids = [str(generate_uid()) for _ in range(3)]
    for number, uid in enumerate(uids):
        bench.upload(f"input/{number}.zip", zip_of(tmp_path, uid))
    bench.engine.run_map = the_map = HeldMap(uids[0][:6])
    with launch_template(), one_instance(tmp_path) as instance, closing(instance.member()) as member:
        runs = begin(life(bench, instance, member).run)
        assert the_map.reached.wait(30)
        assert instance.shown["protected"]
        instance.group("SetInstanceProtection", AutoScalingGroupName="g", InstanceIds=[instance.id], ProtectedFromScaleIn=False)
        instance.group("SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=0)
        assert instance.leave.wait(10)
        until(lambda: instance.state == "Terminating:Wait", "the hook does not hold it")  # it is "Terminating" for a moment before
        assert stays(lambda: instance.state == "Terminating:Wait")
        the_map.released.set()
        until(lambda: not instance.state, "it never let the group go on")
        instance.stop.set()
        runs.join(30)
    assert (bench.engine.runs, instance.off) == (1, [])
    assert len([key for key in bench.stored("output/") if key.endswith("/result.json")]) == 1
    assert bench.messages() == 2, "the others were given back for whoever comes next"


def test_a_spot_notice_has_the_group_replace_the_instance(bench: Bench, tmp_path: Path) -> None:
    bench.upload("input/0.zip", zip_of(tmp_path, str(generate_uid())))
    bench.engine.run_map = the_map = HeldMap()
    with launch_template(), one_instance(tmp_path) as instance, closing(instance.member()) as member:
        first = instance.id
        with Notice(
            instance.leave,
            instance.stop,
            lambda: datetime.now(UTC) + timedelta(seconds=100) if the_map.most else None,
            every_s=0.05,
        ):
            runs = begin(life(bench, instance, member).run)
            until(lambda: len(instance.group.machines.states) == 2, "no other was launched")
            until(lambda: instance.group.machines.states[first].state == "terminated", "it was not let go")
        instance.stop.set()
        runs.join(30)
        assert instance.group.group()["DesiredCapacity"] == 1
    assert instance.off == []


def test_a_named_host_is_switched_off_and_nothing_is_asked() -> None:
    off: list[str] = []
    host = NamedHost(60, lambda: off.append(""))
    assert host.enter()
    assert (host.step(0.0), host.step(61)) == (Step.WORK, Step.LEAVE)
    assert host.leave()
    assert not host.end()
    assert off == [""]


# --------------------------------------------------------------------------------------------------------------------------- IMDS

ADDRESS = "127.83.21.6"
ENDPOINT = f"http://{ADDRESS}:{METADATA_PORT}"
PLAIN = InstanceFacts("i-1", "g4dn.xlarge", "ami-1", "us-east-1", "us-east-1a", ADDRESS, "host")


def test_the_target_state_is_read_from_the_metadata_service() -> None:
    assert target_lifecycle_state(ENDPOINT) is None, "nobody answers"
    served = MetadataService(ADDRESS, lambda: PLAIN, lambda _: None)
    try:
        assert not target_lifecycle_state(ENDPOINT)
        served.facts = lambda: replace(PLAIN, target_state="Warmed:Stopped")
        assert target_lifecycle_state(ENDPOINT) == "Warmed:Stopped"
    finally:
        served.close()
