"""What tests of faults do: order one, catch a job in the middle of its work, and look whether all was well afterwards."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable
from typing import Any, TypeVar

from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import AGENT_UNIT, ROLE_INFERENCE, ResultRecord, Status
from monai_aws_pipeline.local_cloud.engine import Engine
from tests.support.platform import Platform, environment
from tests.support.studies import tiny_study_zip

T = TypeVar("T")
AGENT = AGENT_UNIT
STATE_FOLDER = "/var/lib/monai-aws"
LONGEST_RECEIVE_S = 5.5
PATIENCE_S = 150
"""So long a host may take from its start to an application that sleeps: it boots, and its agent fetches and starts what is to sleep."""
KILL_AGENT = f"""
kill -9 $(systemctl show --property MainPID --value {AGENT})
systemctl reset-failed {AGENT}
find {STATE_FOLDER} -name started.txt -delete
"""
"""Not counted: a host whose agent ends five times in a quarter of an hour switches itself off. The files are those of a container that
outlives its agent."""


def eventually(what: Callable[[], T], seconds: float = 60.0, every: float = 0.2) -> T:
    """The first true value of ``what``."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds:.0f} s"
        time.sleep(every)
    return value


def until_asleep(studies: int) -> str:
    """A script that ends well once so many applications sleep on its machine."""
    count = f"find {STATE_FOLDER} -name started.txt | wc --lines"
    return f"for n in $(seq {10 * PATIENCE_S}); do [ $({count}) -ge {studies} ] && exit; sleep 0.1; done; exit 1"


def same_image_under_another_digest(place: Platform) -> str:
    """Push the live MAP's manifest with a remark in it: the same layers, another digest. Returns the reference."""
    live = place.clients.ssm.get_parameter(Name=place.settings.names.live_map_parameter)["Parameter"]["Value"]
    repository, _, digest = live.partition("@")
    wanted: Any = {"repositoryName": place.settings.ecr_repository}
    with environment(place.cloud.environment):  # an administrator's: nobody else pushes from here
        ecr = Clients(place.settings.region).ecr
        (image,) = ecr.batch_get_image(**wanted, imageIds=[{"imageDigest": digest}])["images"]
        manifest = json.dumps(json.loads(image["imageManifest"]) | {"annotations": {"remark": "the same again"}})
        pushed = ecr.put_image(**wanted, imageManifest=manifest, imageTag="again")
    return f"{repository}@{pushed['image']['imageId']['imageDigest']}"


class Waking:
    """Uploads of some cases, and what must hold when they are over."""

    def __init__(self, place: Platform) -> None:
        self.place = place
        self.jobs: dict[str, str] = {}

    def upload(self, name: str, wish: str = "tiny", instances: int = 3, **options: object) -> str:
        """Upload a fresh study; returns its job."""
        job = self.place.upload(f"input/{name}.zip", tiny_study_zip(instances, wish=wish, **options))
        self.jobs[job] = name
        return job

    def answer(self, job: str, seconds: float = 180, nudge: bool = True) -> ResultRecord:
        """The one answer of a job. ``nudge``: the scheduled wake comes every ten seconds instead of every minute."""
        began = nudged = time.monotonic()
        while job not in self.place.entries() and time.monotonic() < began + seconds:
            if nudge and time.monotonic() > nudged + 10:
                self.place.wake()
                nudged = time.monotonic()
            time.sleep(0.5)
        # Its index entry is there before the job is marked done, and the original is kept between the two.
        (record,) = self.place.answers([job], max(60, began + seconds - time.monotonic()))[job]
        return record

    def succeeded(self, job: str, seconds: float = 180, nudge: bool = True) -> ResultRecord:
        """The one answer of a job, which is a result."""
        record = self.answer(job, seconds, nudge)
        assert record.status is Status.SUCCEEDED, record.error
        return record

    # ------------------------------------------------------------------------------------------------------------------ hosts

    def host(self, seconds: float = 90) -> Machine:
        """The host that runs, once one does."""
        began = nudged = time.monotonic()
        while not (found := [host for host in self.place.machines(ROLE_INFERENCE) if host.state == "running"]):
            assert time.monotonic() < began + seconds, "no host was started"
            if time.monotonic() > nudged + 10:
                self.place.wake()
                nudged = time.monotonic()
            time.sleep(0.3)
        return found[0]

    def host_at_work(self, studies: int = 1) -> Machine:
        """The host on which applications sleep, once so many do."""
        host = self.host()
        self.place.on_host(host.id, until_asleep(studies), PATIENCE_S + 50)
        return host

    def kill_agent(self, host: Machine) -> None:
        """kill -9 of the agent's process, as the kernel does it when memory is short."""
        self.place.on_host(host.id, KILL_AGENT)

    def kill_agent_at_work(self) -> Machine:
        """The same on a host as soon as an application sleeps there: by one script, because a second one may come when it is over."""
        host = self.host()
        self.place.on_host(host.id, f"({until_asleep(1)}) || exit 1\n{KILL_AGENT}", PATIENCE_S + 50)
        return host

    def until_said(self, host: Machine, words: str, since: float) -> None:
        """Wait until the agent of a host that runs has logged these words, at or after a moment (seconds since 1970)."""
        said = f"journalctl --unit {AGENT} --no-pager --since @{int(since)} | grep --quiet --fixed-strings '{words}'"
        self.place.on_host(host.id, f"for n in $(seq 300); do {said} && exit; sleep 0.2; done; exit 1", 150)

    def until_held(self, action: str) -> None:
        """Wait until a call of this action waits because that was ordered."""
        eventually(lambda: [fault for fault in self.place.cloud.faults()["held"] if fault["action"] == action], 180)

    def redeliver(self, queue: str = "") -> int:
        """Let the time pass after which a message that nobody ended is visible again; how many there were."""
        return int(self.place.cloud.order_fault(redeliver=queue or self.place.settings.names.jobs_queue)["messages"])

    def comes_back(self) -> None:
        """Let the job of an agent or machine that died show up again.

        Not at once: the dead agent's receive may still wait at the queue, and would be given what is visible by then.
        """
        time.sleep(LONGEST_RECEIVE_S)
        self.redeliver()

    def alarm(self, name: str) -> str:
        """State of one of the deployment's alarms."""
        found = self.place.clients.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return found[0]["StateValue"] if found else "there is no such alarm"

    # --------------------------------------------------------------------------------------------------------------- afterwards

    def assert_settled(self) -> None:
        """Each upload has exactly one answer, nothing is left over anywhere, and every host is stopped in time."""
        place = self.place
        answers = place.answers(list(self.jobs))
        place.wait_stopped(240)
        self._let_copies_end()
        kept = [key for prefix in ("output/", "quarantine/") for key in place.keys(prefix)]
        for job, name in self.jobs.items():
            mine = [key for key in kept if job in key]
            commits = [key for key in mine if key.endswith("/result.json")]
            assert len(commits) == len(place.entries()[job]) == len(answers[job]) == 1, f"{name} was answered more than once: {commits}"
            (record,) = answers[job]
            made = {output.key for output in record.outputs} | {commits[0]}
            strays = [key for key in mine if key.startswith("output/") and key not in made]
            assert strays == [], f"{name} left what belongs to no result"
            assert made <= set(mine)
        assert place.keys("input/") == [], "an original was not moved"
        names = place.settings.names
        for queue in (names.uploads_queue, names.jobs_queue, names.uploads_dead_letters, names.jobs_dead_letters):
            url = place.clients.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
            depths = place.clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            assert depths["ApproximateNumberOfMessages"] == depths["ApproximateNumberOfMessagesNotVisible"] == "0", queue
        for host in place.machines(ROLE_INFERENCE):
            assert files_on_stopped(place, host.id, f"{STATE_FOLDER}/work") == []

    def _let_copies_end(self) -> None:
        """Copies of answered jobs may still be hidden, given to a receive of an agent that is dead. Once visible they end at once."""
        place, names = self.place, self.place.settings.names
        url = place.clients.sqs.get_queue_url(QueueName=names.jobs_queue)["QueueUrl"]

        def depth(which: str) -> int:
            return int(place.clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"][which])

        if depth("ApproximateNumberOfMessagesNotVisible"):
            self.redeliver()
        if depth("ApproximateNumberOfMessages"):
            place.wake()
            eventually(lambda: depth("ApproximateNumberOfMessages") + depth("ApproximateNumberOfMessagesNotVisible") == 0)
            place.wait_stopped(240)


def files_on_stopped(place: Platform, machine_id: str, folder: str) -> list[str]:
    """Files below a folder on the disk of a stopped machine."""
    config = place.cloud.config
    engine = Engine(**json.loads((config.state_dir / "engine.json").read_text()))
    copied = engine.run("cp", f"{config.container_prefix}{machine_id}:{folder}", "-", check=False)
    if copied.returncode:
        assert b"not find" in copied.stderr or b"No such" in copied.stderr, copied.stderr
        return []
    return [member.name for member in tarfile.open(fileobj=io.BytesIO(copied.stdout)) if not member.isdir()]
