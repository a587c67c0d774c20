"""What goes wrong while studies are inferred, made to go wrong on the embedded AWS: real machines, processes, queues and containers.

One test a case, in docs/faults-inference.md under the same name. The cases of a class share wakings of the hosts; after the class every
upload has exactly one answer, nothing is left over, and the hosts are stopped (``waking``).
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.contract import ROLE_INFERENCE, ResultRecord, Status
from monai_aws_pipeline.operations.hosts import starts_of
from monai_aws_pipeline.operations.status import Watch
from tests.support.faults import AGENT, STATE_FOLDER, Waking, eventually, same_image_under_another_digest
from tests.support.platform import Platform, environment

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]

Tell = Callable[[str, object], None]
PYTHON = "/opt/monai-aws/venv/bin/python"
HAS_A_JOB = """
for n in $(seq 600); do
  shown=$(cat /run/monai-aws/at-work.json)
  case "$shown" in *'"phase"'*) echo "$shown"; exit ;; esac
  sleep 0.1
done
exit 1
"""
"""Says what a host has in hand, once that is anything. Asking its agent takes a process as long as a small study."""


# ---------------------------------------------------------------------------------------- one backlog, two hosts, many faults at once

FAILING = {
    "container_out_of_memory": ("tiny:memory", {"map_out_of_memory"}),
    "application_hangs": ("tiny:sleep=600", {"map_timeout"}),
    "application_fails": ("tiny:fail", {"map_failed"}),
    "exit_0_without_output": ("tiny:nothing", {"no_output"}),
    "output_is_not_dicom": ("tiny:garbage", {"output_not_dicom"}),
    "output_of_another_study": ("tiny:foreign", {"output_other_study"}),
    "output_is_a_link": ("tiny:link", {"output_unsafe"}),
    "fork_bomb": ("tiny:fork", {"map_failed", "map_out_of_memory"}),
}
"""Wish of the study and the codes it may end with."""
DOUBLED = 9
SLOW = 13
"""The agent's SDK asks seven times. Two hosts may try at once, as the event comes twice: still one of them gives up, and one only."""


@dataclass(frozen=True)
class Backlog:
    """The jobs by name, and those that the host had in hand whose network was cut then."""

    jobs: dict[str, str]
    cut: tuple[str, ...]


@dataclass(frozen=True)
class Drained:
    """All answers of each job by its name, when there were all of them; ``pending``: the orders that had not struck by then."""

    found: dict[str, list[ResultRecord]]
    pending: list[dict[str, Any]]


@pytest.fixture(scope="class")
def backlog(place: Platform, waking: Waking) -> Backlog:
    order = place.cloud.order_fault
    # The first host is not there before all of them wait: one more is woken only while there are more than 20.
    # Not longer: after 60 s the wake function itself is ended, and its events come again.
    order(service="ec2", action="StartInstances", delay_s=40)
    order(duplicate_events=DOUBLED)
    order(shuffle_events=DOUBLED)
    order(service="s3", action="GetObject", match="slow-at-get", code="SlowDown", status=503, times=SLOW)
    order(service="s3", action="GetObject", match="broken-at-get", code="InternalError", status=500, times=3)
    order(service="s3", action="PutObject", match="/output/", code="InternalError", status=500, times=4)
    order(service="s3", action="PutObject", match="/output/", code="SlowDown", status=503, times=6, after=6)
    made = {name: waking.upload(name) for name in ("slow-at-get", "broken-at-get")}
    made |= {f"plain-{number}": waking.upload(f"plain-{number}") for number in range(DOUBLED - 2)}
    made |= {name: waking.upload(name, wish) for name, (wish, _) in FAILING.items()}
    made["flood"] = waking.upload("flood", "tiny:flood")
    made["removed"] = waking.upload("removed")
    place.clients.s3.delete_object(Bucket=place.settings.bucket, Key="input/removed.zip")
    hosts = eventually(lambda: [host for host in place.machines(ROLE_INFERENCE) if host.state == "running"][1:], 180)
    shown = json.loads(place.on_host(hosts[0].id, HAS_A_JOB, 120))
    order(cut_network=hosts[0].id, seconds=30)
    return Backlog(made, tuple(shown["jobs"]))


@pytest.fixture(scope="class")
def drained(place: Platform, backlog: Backlog) -> Drained:
    found = place.answers(list(backlog.jobs.values()), 520)  # what hangs is ended three times, after a minute each
    return Drained({name: found[job] for name, job in backlog.jobs.items()}, place.cloud.faults()["pending"])


@pytest.fixture(scope="class")
def answers(drained: Drained) -> dict[str, ResultRecord]:
    return {name: records[0] for name, records in drained.found.items()}


class TestOneBacklogOnTwoHosts:
    @pytest.mark.parametrize("case", list(FAILING))
    def test_study_fails(self, place: Platform, answers: dict[str, ResultRecord], case: str, record_property: Tell):
        record = answers[case]
        assert record.status is Status.FAILED
        assert record.error is not None
        assert record.error.code in FAILING[case][1]
        error = json.loads(place.read(record.commit_key.replace("result.json", "error.json")))
        assert error["code"] == record.error.code
        assert error["remedy"]
        tries = "once" if record.error.last_line else "as often as it could help"
        record_property("happened", f"tried {tries}, kept aside as {record.error.code}")

    def test_log_flood(self, place: Platform, answers: dict[str, ResultRecord], record_property: Tell):
        assert answers["flood"].status is Status.SUCCEEDED
        log = next(output for output in answers["flood"].outputs if output.kind == "log")
        assert log.bytes < 100_000
        record_property("happened", f"answered; {log.bytes} bytes of 5 MB of log were kept")

    def test_s3_refuses_the_outputs(self, drained: Drained, answers: dict[str, ResultRecord], record_property: Tell):
        assert drained.pending == []
        assert all(record.status is Status.SUCCEEDED for name, record in answers.items() if name.startswith("plain"))
        record_property("happened", "answered after 10 refused uploads of outputs (500 and SlowDown)")

    def test_duplicate_and_reordered_events(self, place: Platform, drained: Drained, record_property: Tell):
        doubled = [name for name in drained.found if name.startswith("plain") or name.endswith("-at-get")]
        assert len(doubled) == DOUBLED
        assert all(len(drained.found[name]) == 1 for name in doubled)
        commits = Counter(key.split("/")[-2] for key in place.keys("output/") if key.endswith("/result.json"))
        assert [commits[drained.found[name][0].job] for name in doubled] == [1] * DOUBLED
        record_property("happened", f"{DOUBLED} events came twice and in reverse: one result each")

    def test_upload_removed_while_it_waits(self, answers: dict[str, ResultRecord], record_property: Tell):
        assert answers["removed"].status is Status.QUARANTINED
        assert answers["removed"].error is not None
        assert answers["removed"].error.code == "upload_missing"
        record_property("happened", "refused as upload_missing")

    def test_two_hosts_share_a_backlog(self, place: Platform, answers: dict[str, ResultRecord], record_property: Tell):
        hosts = {record.host.instance_id for record in answers.values()}
        assert hosts == {host.id for host in place.machines(ROLE_INFERENCE)}
        place.wait_stopped()
        shares = [sum(record.host.instance_id == host for record in answers.values()) for host in sorted(hosts)]
        record_property("happened", f"{shares[0]} and {shares[1]} uploads, none twice; each host stopped alone")

    def test_network_cut_for_30_s(self, backlog: Backlog, drained: Drained, record_property: Tell):
        assert set(backlog.cut) & set(backlog.jobs.values()), "that host had nothing in hand when its network was cut"
        assert all(len(records) == 1 for records in drained.found.values())
        record_property("happened", "one host reached nothing for 30 s in the middle: no answer is missing or double")

    @pytest.mark.parametrize("case", ["slow-at-get", "broken-at-get"])
    def test_s3_refuses_the_upload(
        self, place: Platform, backlog: Backlog, answers: dict[str, ResultRecord], case: str, record_property: Tell
    ):
        assert answers[case].status is Status.SUCCEEDED
        if case == "slow-at-get":
            assert f"job {backlog.jobs[case]}: given back" in given_back(place)
        record_property("happened", "answered after S3 was asked again")


# ------------------------------------------------------------------------------------------------------------------- the agent dies

HELD = {
    "while_downloading": ("GetObject", "/input/"),
    "while_uploading_outputs": ("PutObject", "/output/"),
    "between_commit_and_index_entry": ("PutObject", "/results-index/"),
    "between_decision_and_commit": ("PutObject", "/result.json"),
    "between_answer_and_end_of_the_job": ("PutObject", "monai-aws/job-done/1"),
}
"""The call that is held when the agent is killed: action and part of its key or body."""


class TestAgentKilled:
    @pytest.mark.parametrize("case", list(HELD))
    def test_killed(self, place: Platform, waking: Waking, case: str, record_property: Tell):
        action, match = HELD[case]
        place.cloud.order_fault(service="s3", action=action, match=match, delay_s=60, code="ServiceUnavailable", status=503)
        job = waking.upload(case)
        waking.until_held(action)
        waking.kill_agent(waking.host())
        place.cloud.clear_faults()
        waking.comes_back()
        waking.succeeded(job)
        record_property("happened", "the agent was started again and answered")

    def test_killed_while_pulling(self, place: Platform, waking: Waking, record_property: Tell):
        job = waking.upload("killed-pulling", "tiny:sleep=25")
        host = waking.host_at_work()
        place.cloud.order_fault(service="registry", action="Pull", match="/manifests/", delay_s=60, code="UNAVAILABLE", status=503)
        forget = "docker ps -aq | xargs -r docker rm -f; docker images -q | sort -u | xargs docker rmi -f"
        # In one go: an agent that is stopped switches no machine off, and the next one finds its job given back and no image.
        place.on_host(host.id, f"systemctl stop {AGENT}\n{forget}\nfind {STATE_FOLDER} -name started.txt -delete\nsystemctl start {AGENT}")
        waking.until_held("Pull")
        waking.kill_agent(host)
        assert place.on_host(host.id, "pgrep --count --full 'docker pull' || true").strip() == "0", "the pull ends with its agent"
        place.cloud.clear_faults()
        waking.comes_back()
        waking.succeeded(job)
        record_property("happened", "the agent was started again, pulled again and answered")

    def test_killed_while_inferring(self, place: Platform, waking: Waking, record_property: Tell):
        job = waking.upload("killed-inferring", "tiny:sleep=10")
        waking.kill_agent_at_work()
        assert job not in place.entries(), "it was inferred when the agent was killed"
        waking.comes_back()
        waking.succeeded(job)
        record_property("happened", "the container that was left is removed, the study inferred again")


# ------------------------------------------------------------------------------------------------------------------ the machine ends


class TestMachineEnds:
    @pytest.mark.parametrize("case", ["host_stopped", "power_lost", "spot_interruption", "agent_stopped_by_hand"])
    def test_machine_ends(self, place: Platform, waking: Waking, case: str, record_property: Tell):
        job = waking.upload(case, "tiny:sleep=28")
        host = waking.host_at_work()
        if case == "host_stopped":
            place.clients.ec2.stop_instances(InstanceIds=[host.id])
        elif case == "power_lost":
            place.cloud.lose_instance(host.id)
        elif case == "spot_interruption":
            place.cloud.order_fault(interrupt_spot=host.id, seconds=2, action="stop")
        else:
            place.on_host(host.id, f"systemctl stop {AGENT}")
        if case != "agent_stopped_by_hand":
            eventually(lambda: all(machine.state == "stopped" for machine in place.machines(ROLE_INFERENCE)))
        assert job not in place.entries(), "it was inferred when that ended"
        waking.comes_back()
        place.wake()
        waking.succeeded(job)
        record_property("happened", "the job was given back, and answered at the next wake")

    def test_spot_notice_in_time(self, place: Platform, waking: Waking, record_property: Tell):
        runs = waking.upload("runs-at-the-notice", "tiny:sleep=25")  # 40 s are left at the notice
        host = waking.host_at_work()
        with environment(place.variables):
            (seen,) = (machine for machine in Watch(place.clients, place.settings).look().machines if machine.id == host.id)
        assert seen.work is not None
        assert [(job.job, job.phase) for job in seen.work.jobs] == [(runs, "inferring")]
        since = time.time()
        place.cloud.order_fault(interrupt_spot=host.id, seconds=60, action="stop")
        waking.until_said(host, "AWS takes this machine back", since)
        waits = waking.upload("comes-after-the-notice")
        eventually(lambda: all(machine.state == "stopped" for machine in place.machines(ROLE_INFERENCE)), 60)
        assert runs in place.entries(), "what can end before the machine is taken is answered"
        assert waits not in place.entries(), "nothing new is begun"
        place.wake()
        waking.succeeded(waits)
        record_property("happened", "the study at work was answered, the next one left to the next wake; the host stopped early")

    def test_queue_redelivers_while_the_job_runs(self, place: Platform, waking: Waking, record_property: Tell):
        job = waking.upload("redelivered", "tiny:sleep=10")
        host, since = waking.host_at_work(), time.time()
        assert waking.redeliver() >= 1  # copies of earlier jobs may be hidden as well, given to an agent that is dead
        place.wake()
        waking.succeeded(job)
        waking.until_said(host, f"job {job}: repeated", since)
        record_property("happened", "the second delivery found the commit and ended")


# ----------------------------------------------------------------------------------------------------------------- the host's world


class TestSurroundings:
    def test_disk_full(self, place: Platform, waking: Waking, record_property: Tell):
        first = waking.upload("before-the-disk-is-full", "tiny:sleep=2")
        host = waking.host_at_work()
        waking.succeeded(first)
        place.cloud.order_fault(small_disk=host.id, path=STATE_FOLDER, mib=1)
        place.on_host(host.id, f"systemctl restart {AGENT}")
        since = time.time()
        job = waking.upload("full", size=640)
        waking.until_said(host, f"job {job}: try 1 failed (disk_full", since)
        assert job not in place.entries()
        place.cloud.order_fault(restore_disk=host.id, path=STATE_FOLDER)
        place.on_host(host.id, f"systemctl restart {AGENT}")
        waking.succeeded(job)
        record_property("happened", "given back with disk_full, answered once there was room")

    @pytest.mark.parametrize("case", ["slow", "fast"])
    def test_clock_10_minutes(self, place: Platform, waking: Waking, case: str, record_property: Tell):
        first = waking.upload(f"before-the-clock-is-{case}", "tiny:sleep=4")
        host = waking.host_at_work()
        agent = base64.b64encode((Path(__file__).parent / "skewed_clock.py").read_bytes()).decode()
        unit = f"/run/systemd/system/{AGENT}.d"
        place.on_host(
            host.id,
            f"mkdir -p /run/skew {unit}; echo {agent} | base64 -d > /run/skew/agent.py\n"
            f"printf '[Service]\\nEnvironment=PYTHONPATH=/opt/monai-aws/lib\\nExecStart=\\nExecStart={PYTHON} -P /run/skew/agent.py run\\n'"
            f" > {unit}/skew.conf\nsystemctl daemon-reload; systemctl restart {AGENT}",
        )
        waking.succeeded(first)
        place.cloud.order_fault(service="ec2", action="StartInstances", code="RequestLimitExceeded", status=503, times=1000)
        place.on_host(
            host.id, f"echo {-600 if case == 'slow' else 600} > /run/skew/seconds; sleep 6"
        )  # so long may a receive wait that was signed before
        job = waking.upload(f"skewed-{case}")
        place.wait_stopped()
        assert job not in place.entries(), "AWS takes no call that was signed ten minutes ago, or will be"
        place.cloud.clear_faults()
        place.wake()  # what lies in /run is gone after a boot, and the clock is right again
        waking.succeeded(job)
        record_property("happened", "AWS refuses its calls; the host stops itself, the next wake answers")

    def test_registry_down_at_pull(self, place: Platform, waking: Waking, record_property: Tell):
        first = waking.upload("before-the-pull", "tiny:sleep=2")
        host = waking.host_at_work()
        place.cloud.order_fault(service="registry", action="Pull", code="UNAVAILABLE", status=503, times=40)
        waking.succeeded(first)
        place.on_host(host.id, "docker ps -aq | xargs -r docker rm -f; docker images -q | sort -u | xargs docker rmi -f")
        job = waking.upload("no-registry")
        eventually(lambda: len(place.cloud.faults()["pending"]) == 0 or place.cloud.faults()["pending"][0]["times"] < 40)
        place.cloud.clear_faults()
        waking.succeeded(job)
        record_property("happened", "given back with pull_failed, answered once the registry was back")

    def test_map_switched_while_a_backlog_drains(self, place: Platform, waking: Waking, record_property: Tell):
        second = same_image_under_another_digest(place)
        first = waking.upload("switch-0", "tiny:sleep=10")
        waking.host_at_work()
        name = place.settings.names.live_map_parameter
        place.clients.ssm.put_parameter(Name=name, Value=second, Type="String", Overwrite=True)
        later = [waking.upload(f"switch-{number}", "tiny:sleep=1") for number in range(1, 5)]  # the queue promises no order
        new = second.partition("@")[2]
        assert waking.succeeded(first).map.digest != new
        assert {waking.succeeded(job).map.digest for job in later} == {new}
        record_property("happened", "each study was answered once, by the old MAP or by the new one")


class TestIsolation:
    def test_hostile_application(self, place: Platform, waking: Waking, record_property: Tell):
        neighbour = waking.upload("neighbour", "tiny:sleep=3", patient_name="NEIGHBOUR^STUDY")
        host = waking.host_at_work()
        jobs = [waking.upload(f"hostile-{number}", f"tiny:hostile={host.address}") for number in range(2)]
        tried = 0
        for job in jobs:
            record = waking.succeeded(job)
            log = place.read(next(output.key for output in record.outputs if output.kind == "log")).decode()
            (line,) = [line for line in log.splitlines() if line.startswith("hostile: ")]
            findings = json.loads(line.removeprefix("hostile: "))
            assert {name: got for name, got in findings.items() if got} == {}
            tried = len(findings)
            assert "NEIGHBOUR" not in log
        waking.succeeded(neighbour)
        left = "find / -xdev -name hostile-was-here -not -path '/proc/*' | wc -l; docker ps -aq | wc -l; pgrep -c -u 1000 python3 || true"
        files, containers, processes = map(int, place.on_host(waking.host().id, left).split())
        assert files == 0
        assert containers <= 1, "nothing but the container that waits warm for the next study"
        assert processes <= 1, "nothing but its server"
        record_property("happened", f"{tried} attempts, twice: got nothing and left nothing")


# ------------------------------------------------------------------------------------------------------------------ wake and trigger


class TestWake:
    def test_no_capacity_for_two_tries(self, place: Platform, waking: Waking, record_property: Tell):
        place.wait_stopped()
        place.cloud.order_fault(service="ec2", action="StartInstances", code="InsufficientInstanceCapacity", status=500, times=1000)
        hosts = len(place.machines(ROLE_INFERENCE))
        job = waking.upload("no-capacity")
        for wakes in (1, 2):  # each tries every host, and the SDK each start five times: a lack of capacity is an HTTP 500
            eventually(lambda wakes=wakes: times_left(place) <= 1000 - 5 * hosts * wakes)
            place.wake()
        assert job not in place.entries()
        starts = [starts_of(host) for host in place.machines(ROLE_INFERENCE)]
        assert all((each.count >= 1, each.code) == (True, "InsufficientInstanceCapacity") for each in starts)
        place.cloud.clear_faults()
        place.wake()
        waking.succeeded(job)
        record_property("happened", "the job stayed queued, each host's failed start was counted; a later wake started one")

    def test_lambda_fails_three_times(self, place: Platform, waking: Waking, record_property: Tell):
        names = place.settings.names
        place.cloud.order_fault(service="sqs", action="SendMessage", code="InternalFailure", status=500, times=1000, match=names.jobs_queue)
        job = waking.upload("lambda-fails")
        for left in (995, 990, 985):
            eventually(lambda left=left: times_left(place) == left)
            eventually(lambda: at_work(place, names.uploads_queue) == 1)
            time.sleep(1)
            waking.redeliver(names.uploads_queue)
        eventually(lambda: waking.alarm(names.uploads_dead_letters) == "ALARM")
        place.cloud.clear_faults()
        assert "1 brought back" in replay(place)
        waking.succeeded(job)
        record_property("happened", "dead letter, alarm; answered after monai-aws replay --all")

    def test_job_on_which_the_agent_dies(self, place: Platform, waking: Waking, record_property: Tell):
        names = place.settings.names
        job = waking.upload("poison", "tiny:sleep=10")
        for _ in range(3):
            waking.kill_agent_at_work()
            waking.comes_back()
        eventually(lambda: waking.alarm(names.jobs_dead_letters) == "ALARM")
        assert "1 brought back" in replay(place)
        waking.succeeded(job)
        record_property("happened", "dead letter after three receipts, alarm; answered after monai-aws replay --all")

    def test_wake_lost(self, place: Platform, waking: Waking, record_property: Tell):
        place.wait_stopped()
        place.cloud.order_fault(service="ec2", action="StartInstances", code="RequestLimitExceeded", status=503, times=5)
        job = waking.upload("lost-wake")
        started = time.monotonic()
        waking.succeeded(job, nudge=False)
        record_property("happened", f"the schedule started a host; answered after {time.monotonic() - started:.0f} s")


class TestHostsGone:
    def test_host_terminated(self, place: Platform, waking: Waking, record_property: Tell):
        job = waking.upload("terminated", "tiny:sleep=28")
        host = waking.host_at_work()
        place.clients.ec2.terminate_instances(InstanceIds=[host.id])
        eventually(lambda: host.id not in {machine.id for machine in place.machines(ROLE_INFERENCE)})
        waking.comes_back()
        place.wake()
        assert waking.succeeded(job).host.instance_id != host.id
        record_property("happened", "the other host was started and answered")

    def test_no_host_at_all(self, place: Platform, waking: Waking, record_property: Tell):
        place.clients.ec2.terminate_instances(InstanceIds=[machine.id for machine in place.machines(ROLE_INFERENCE)])
        eventually(lambda: place.machines(ROLE_INFERENCE) == [])
        job = waking.upload("no-host")
        alarm = f"{place.settings.names.alarms}host-missing"
        eventually(lambda: waking.alarm(alarm) == "ALARM")
        assert job not in place.entries()
        one = replace(place, variables={**place.variables, "MONAI_AWS_HOST_COUNT": "1"})
        assert one.materialize("inference_host").success
        place.wake()
        waking.succeeded(job)
        record_property("happened", "alarm; answered after inference_host was materialised")


def given_back(place: Platform) -> str:
    """What the agents of all hosts have logged of jobs that they gave back. The hosts are started for it, and stop again by themselves."""
    place.wait_stopped()
    hosts = [host.id for host in place.machines(ROLE_INFERENCE)]
    place.clients.ec2.start_instances(InstanceIds=hosts)
    return "\n".join(place.on_host(host, f"journalctl --unit {AGENT} --no-pager | grep ': given back' || true") for host in hosts)


def times_left(place: Platform) -> int:
    return sum(fault["times"] for fault in place.cloud.faults()["pending"])


def at_work(place: Platform, queue: str) -> int:
    url = place.clients.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    asked = place.clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessagesNotVisible"])
    return int(asked["Attributes"]["ApproximateNumberOfMessagesNotVisible"])


def replay(place: Platform) -> str:
    with environment(place.variables):
        done = CliRunner().invoke(cli, ["replay", "--all"])
    assert done.exit_code == 0, done.output
    return done.output
