"""However a build or a bake ends, and at whatever stage, nothing of it is left: every stage times every end, on real machines.

One test a case, in docs/faults-building.md under the same name. Each is a run of its own, brought to its stage and ended there. Two are on
their way at a time. What a run makes bears its case's name as the tag ``monai-aws:owner``; by that, its calls and its remains are found.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import paramiko
import pytest
from click.testing import CliRunner
from dagster import DagsterInstance, DagsterRunStatus, build_sensor_context

from monai_aws_pipeline.automation import run_cleanup
from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.images import Images
from monai_aws_pipeline.cloud.instances import Machine
from monai_aws_pipeline.contract import TAG_OWNER
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.support.account import Account
from tests.support.faults import eventually
from tests.support.platform import TINY_APP, Platform, environment, platform
from tests.support.runs import Installation, Run, Worker, installation, run_config
from tests.support.studies import tiny_study_zip

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]

Tell = Callable[[str, object], None]
THERE = "us-west-2"
"""The region that images are copied to."""
HELD_S = 3.0
"""So long AWS takes over a call in whose middle the end comes. Then it does what it was asked for, whoever is still there to hear of it."""
PATIENCE_S = 300.0
"""Longest wait for a stage, or for the end of a run. Ten times what a quiet machine needs."""
TTL_MINUTES = 4.0
"""build_ttl_minutes of the runs that lose their control machine. From the machine's boot on: each must reach its stage before that."""


@dataclass(frozen=True)
class Stage:
    """A stage of the way of a model, and how one sees from outside that a run is there.

    ``said``: by a line of its log. ``shown``: by a script that succeeds on its machine. ``order``: by a call that AWS takes its time over,
    because that was ordered. ``settings``: those that lead through this stage, or make it last.
    """

    assets: tuple[str, ...]
    said: str = ""
    shown: str = ""
    order: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)


def ec2(action: str, **order: object) -> dict[str, object]:
    """An order about a call of EC2."""
    return {"service": "ec2", "action": action, **order}


LAUNCHED = r"^machine i-\w+ is .*waiting until it is running"
MAP, IMAGE, ANEW = ("gpu_ami", "map_image"), ("gpu_ami",), {"root_volume_gib": 151}
# The first launch is refused, for its key pair is not known yet: a machine comes of the second.
STAGES = {
    "build-launch": Stage(MAP, order=ec2("RunInstances", delay_s=HELD_S, after=1)),
    "build-connect": Stage(MAP, said=LAUNCHED),
    "build-provision": Stage(MAP, said="^provision: ", settings={"ami_mode": "stock"}),
    # Held by what receives it, however fast it is sent.
    "build-send": Stage(MAP, shown="pkill -STOP -x tar", settings={"model_uri": "large model"}),
    "build-build": Stage(MAP, said="^│ #"),
    "build-golden": Stage(MAP, shown="find /var/lib/monai-aws -name started.txt | grep -q .", settings={"golden_study": "tiny:sleep=90"}),
    # Held until the machine is gone, from which it comes.
    "build-push": Stage(MAP, order={"service": "registry", "action": "Push", "delay_s": 300}),
    "bake-launch": Stage(IMAGE, order=ec2("RunInstances", delay_s=HELD_S, after=1), settings=ANEW),
    "bake-provision": Stage(IMAGE, said="^provision: ", settings=ANEW),
    "bake-capture": Stage(IMAGE, order=ec2("CreateImage", delay_s=HELD_S), settings=ANEW),
    "bake-copy": Stage(IMAGE, order=ec2("CopyImage", delay_s=HELD_S), settings={"ami_regions": [THERE]}),
}


@dataclass(frozen=True)
class Ended:
    """A case after its end. ``left``: what there was of it when its run had ended; ``seconds``: after which there was nothing any more."""

    left: set[str]
    seconds: float = 0.0


class Site:
    """Where cases are brought to their stage, two at a time, and looked at afterwards."""

    def __init__(self, place: Platform, instance: DagsterInstance, account: Account, folder: Path) -> None:
        self.place, self.instance, self.account, self.folder = place, instance, account, folder
        self._turn, self.looking = threading.Semaphore(2), threading.Lock()

    def start(self, assets: Sequence[str], settings: Mapping[str, object]) -> Worker:
        """A run in a process of its own."""
        return Worker(self.instance, self.folder / "dagster", self.place.variables, assets, run_config(settings))

    @contextmanager
    def cases(self, what: Callable[[Site, str], Ended], request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Ended]]]:
        """What becomes of each stage that a test of this class was selected for. After the block the account holds what it held before."""
        wanted = [item.callspec.params["stage"] for item in request.session.items if getattr(item, "cls", None) is request.cls]
        before = self.account.everything()
        with ThreadPoolExecutor(len(STAGES)) as pool:
            yield {stage: pool.submit(what, self, stage) for stage in wanted}
        self.place.cloud.clear_faults()
        assert self.account.everything() == before

    @contextmanager
    def at_work(self, name: str, wanted: Stage, **settings: object) -> Iterator[Worker]:
        """A run of a case that has reached a stage. It has ended when the block does."""
        with self._turn:
            if wanted.order:
                self.place.cloud.order_fault(**wanted.order, match=self._match(name, wanted))
            run = self.start(wanted.assets, self._settings(name, {**wanted.settings, **settings}))
            try:
                self._until_reached(name, wanted, run)
                yield run
            finally:
                run.kill()
            if wanted.order.get("service") == "ec2":  # what AWS was asked for may come to be after the run
                eventually(lambda: not self._is("held", name, wanted))
                time.sleep(2)  # that it is held no more is seen before it is carried out

    def machine(self, name: str) -> Machine:
        """The machine of a case, once there is one."""
        return eventually(lambda: [machine for machine in self.place.machines() if machine.tags[TAG_OWNER] == name])[0]

    def until_gone(self, name: str, since: float) -> float:
        """Wait until there is nothing of a case; how long that took from a moment on."""
        eventually(lambda: not self.account.of(name), PATIENCE_S, 0.5)
        return time.monotonic() - since

    def until_swept(self, name: str) -> float:
        """Let the sensor run_cleanup look until there is nothing of a case; how long that took."""
        began = time.monotonic()
        resources = {"settings": SettingsResource(), "cloud": CloudResource(region=self.place.settings.region)}
        while self.account.of(name):
            assert time.monotonic() < began + PATIENCE_S, self.account.of(name)
            with self.looking:
                run_cleanup(build_sensor_context(instance=self.instance, resources=resources))
        return time.monotonic() - began

    @staticmethod
    def _match(name: str, wanted: Stage) -> str:
        """What a case's calls are known by. What the registry is asked does not say for whom; but one case at a time asks it."""
        return name if wanted.order["service"] == "ec2" else ""

    def _settings(self, name: str, wanted: Mapping[str, object]) -> dict[str, object]:
        """Settings of a case; the files that they name are made."""
        chosen = {**wanted, "owner": name}
        if "golden_study" in wanted:
            chosen |= golden_study(self.folder, str(wanted["golden_study"]))
        if "root_volume_gib" in wanted:
            # From an image that is provisioned already: another image all the same, and in seconds.
            (chosen["base_ami"],) = {image.id for image in Images(self.place.clients.ec2, self.place.clients.ssm, "building").baked()}
        if "model_uri" in wanted:
            model = self.folder / f"{name}.ts"
            model.write_bytes(bytes(300 << 20))
            chosen |= {"model_uri": str(model), "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
        return chosen

    def _until_reached(self, name: str, wanted: Stage, run: Run) -> None:
        if wanted.said:
            run.until_said(wanted.said, PATIENCE_S)
        elif wanted.shown:
            run.until_said("^connected to ", PATIENCE_S)
            self.place.on_host(self.machine(name).id, f"for n in $(seq 600); do {wanted.shown} && exit; sleep 0.2; done; exit 1", 200)
        elif "delay_s" in wanted.order:
            eventually(lambda: not self._is("pending", name, wanted), PATIENCE_S, 0.1)

    def _is(self, what: str, name: str, wanted: Stage) -> bool:
        """Whether a case's order is still to strike (``pending``), or its call is at work (``held``)."""
        kind = (wanted.order["action"], self._match(name, wanted))
        return any((order["action"], order["match"]) == kind for order in self.place.cloud.faults()[what])


def golden_study(folder: Path, wish: str) -> dict[str, object]:
    """A study that makes the application behave, and the settings that name it."""
    path = folder / f"{re.sub('[:=]', '-', wish)}.zip"
    if not path.exists():
        path.write_bytes(tiny_study_zip(wish=wish))
    return {"golden_study": str(path), "golden_study_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("building")
    shutil.copytree(TINY_APP, folder / "app")
    with (folder / "app" / "__main__.py").open("a") as program:
        program.write("# another version than the one that is in the registry\n")
    variables = {
        "MONAI_AWS_APP_SOURCE": str(folder / "app"),
        "MONAI_AWS_SWEEP_CRON": "0 0 1 1 *",  # nothing but what a case is about removes anything
        **{f"MONAI_AWS_{name.upper()}": str(value) for name, value in golden_study(folder, "tiny").items()},
    }
    with platform(local_cloud, "building", folder, **variables) as made:
        yield made


@pytest.fixture(scope="module")
def site(place: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Where a build succeeded: there is an image to start from, and the dependencies lie in the registry."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "dagster").mkdir()
    shutil.copyfile(PROJECT_ROOT / "infra" / "dagster.yaml", folder / "dagster" / "dagster.yaml")
    account = Account(place.cloud, (place.settings.region, THERE), place.settings.ecr_repository)
    with DagsterInstance.from_config(str(folder / "dagster")) as instance:
        made = Site(place, instance, account, folder)
        first = made.start(MAP, {"app_source": str(TINY_APP)})
        assert first.until_ended(2 * PATIENCE_S) is DagsterRunStatus.SUCCESS, first.said()[-10:]
        yield made


@pytest.fixture(autouse=True)
def no_order_left() -> None:
    """Not after each test, as for the other faults: the cases of an end are on their way at the same time."""


# ---------------------------------------------------------------------------------------------------------------------- it fails


@dataclass(frozen=True)
class Failure:
    """What makes a stage fail, and words of the error. ``strike``: done once the run is there; ``order``: a fault from the start on."""

    error: str
    strike: Callable[[Site, str], AbstractContextManager[None]] | None = None
    order: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    def instead_of(self, stage: Stage) -> Stage:
        """The stage that fails."""
        settings = {**stage.settings, **self.settings}
        return replace(stage, settings=settings) if self.strike else Stage(stage.assets, order=self.order, settings=settings)


@contextmanager
def somebody_else_answers(site: Site, name: str) -> Iterator[None]:
    """Another SSH server has the machine's address before the machine has booted."""
    with socket.create_server((site.machine(name).address, site.place.settings.ssh_port)) as listener:

        def answer() -> None:
            while True:
                try:
                    transport = paramiko.Transport(listener.accept()[0])
                except OSError:
                    return
                transport.add_server_key(paramiko.ECDSAKey.generate())
                transport.start_server(event=threading.Event(), server=paramiko.ServerInterface())
                transport.join()
                if transport.remote_version:  # the run knows it by now; the next machine may get this address
                    listener.close()

        threading.Thread(target=answer, daemon=True).start()
        yield


@contextmanager
def power_is_lost(site: Site, name: str) -> Iterator[None]:
    site.place.cloud.lose_instance(site.machine(name).id)
    yield


NO_PUSH = {"service": "registry", "action": "Push", "code": "DENIED", "status": 403, "times": 200}
NO_CAPACITY = ec2("RunInstances", code="InsufficientInstanceCapacity", status=500, times=200)
FAILURES = {
    "build-launch": Failure("MONAI_AWS_INSTANCE_TYPES", order=NO_CAPACITY),
    "build-connect": Failure("answered with a(nother| .*) host key", somebody_else_answers),
    "build-provision": Failure("no NVIDIA driver answers", settings={"gpus": "all"}),
    "build-send": Failure("Sending what is built broke off", power_is_lost),
    "build-build": Failure("Building the MAP failed", settings={"base_image": "127.0.0.1:9/no/such:image"}),
    "build-golden": Failure("the MAP was not pushed", settings={"golden_study": "tiny:fail"}),
    "build-push": Failure("Pushing the MAP failed", order=NO_PUSH),
    "bake-launch": Failure("MONAI_AWS_INSTANCE_TYPES", order=NO_CAPACITY),
    "bake-provision": Failure("no NVIDIA driver answers", settings={"gpus": "all"}),
    "bake-capture": Failure(
        "SnapshotCreationPerVolumeRateExceeded", order=ec2("CreateImage", code="SnapshotCreationPerVolumeRateExceeded")
    ),
    "bake-copy": Failure("ResourceLimitExceeded", order=ec2("CopyImage", code="ResourceLimitExceeded")),
}


def fail(site: Site, stage: str) -> Ended:
    """Let a run fail at a stage."""
    failure, name = FAILURES[stage], f"{stage}-fails"
    with site.at_work(name, failure.instead_of(STAGES[stage])) as run:
        with failure.strike(site, name) if failure.strike else nullcontext():
            assert run.until_ended(PATIENCE_S) is DagsterRunStatus.FAILURE
        left = site.account.of(name)
    assert any(re.search(failure.error, line) for line in run.said()), run.said()[-10:]
    return Ended(left)


class TestFailure:
    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, site: Site, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Ended]]]:
        with site.cases(fail, request) as cases:
            yield cases

    @pytest.mark.parametrize("stage", list(STAGES))
    def test_fails(self, ended: dict[str, Future[Ended]], stage: str, record_property: Tell):
        assert ended[stage].result().left == set()
        record_property("happened", "the run failed with a remedy, and had removed all of it by then")


# ---------------------------------------------------------------------------------------------------------------- it is cancelled


def cancel(site: Site, stage: str) -> Ended:
    """Terminate a run at a stage."""
    name = f"{stage}-cancelled"
    with site.at_work(name, STAGES[stage]) as run:
        run.cancel()
        since = time.monotonic()
        assert run.until_ended(PATIENCE_S) is DagsterRunStatus.CANCELED
    # What AWS makes of a call that was at work, after the run has ended, is found by the sensor.
    late = "delay_s" in STAGES[stage].order
    return Ended(site.account.of(name), site.until_swept(name) if late else site.until_gone(name, since))


class TestCancelled:
    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, site: Site, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Ended]]]:
        with site.cases(cancel, request) as cases:
            yield cases

    @pytest.mark.parametrize("stage", list(STAGES))
    def test_cancelled(self, ended: dict[str, Future[Ended]], stage: str, record_property: Tell):
        case = ended[stage].result()
        if "delay_s" not in STAGES[stage].order:
            assert case.left == set(), "a run removes what it made before it ends"
        record_property("happened", f"CANCELED; nothing was left after {case.seconds:.0f} s")


# ------------------------------------------------------------------------------------------------------------ the worker is killed


def kill(site: Site, stage: str) -> Ended:
    """kill -9 of the process that executes a run."""
    name = f"{stage}-killed"
    with ExitStack() as unswept:
        with site.at_work(name, STAGES[stage]) as run:
            run.kill()
            unswept.enter_context(site.looking)  # the look for another case would sweep this one's things as well, before they are seen
            run.is_missed()
        left = eventually(lambda: site.account.of(name))
    return Ended(left, site.until_swept(name))


class TestWorkerKilled:
    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, site: Site, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Ended]]]:
        with site.cases(kill, request) as cases:
            yield cases

    @pytest.mark.parametrize("stage", list(STAGES))
    def test_worker_killed(self, ended: dict[str, Future[Ended]], stage: str, record_property: Tell):
        case = ended[stage].result()
        assert case.left, "there was nothing to remove"
        record_property("happened", f"left {len(case.left)} things; run_cleanup had removed them after {case.seconds:.0f} s")


# ----------------------------------------------------------------------------------------------------- the control machine is lost


def lose(site: Site, stage: str) -> Ended:
    """Lose the control machine: the worker ends at once, and nobody who knows of its run looks after it."""
    name = f"{stage}-lost"
    with site.at_work(name, STAGES[stage], build_ttl_minutes=TTL_MINUTES) as run:
        run.kill()
    return Ended(eventually(lambda: site.account.of(name)))


class TestControlMachineLost:
    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, site: Site, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Ended]]]:
        with site.cases(lose, request) as cases:
            yield cases

    @pytest.fixture(scope="class")
    @classmethod
    def swept(cls, site: Site, ended: dict[str, Future[Ended]]) -> None:
        """Every machine has switched itself off; then somebody who knows none of the runs has swept once."""
        for case in ended.values():
            case.exception()
        over = time.monotonic() + TTL_MINUTES * 60 + 2
        # Terminated, and not only on the way there: removing a full disk takes its time.
        eventually(lambda: not [thing for thing in site.account.everything() if "/i-" in thing], TTL_MINUTES * 60 + 120)
        time.sleep(max(0.0, over - time.monotonic()))
        with environment(site.place.variables):
            done = CliRunner().invoke(cli, ["sweep"])
        assert done.exit_code == 0, done.output

    @pytest.mark.parametrize("stage", list(STAGES))
    def test_control_machine_lost(self, site: Site, ended: dict[str, Future[Ended]], swept: None, stage: str, record_property: Tell):
        left, name = ended[stage].result().left, f"{stage}-lost"
        assert left
        assert site.account.ended_by(name) == ({"Client.InstanceInitiatedShutdown"} if stage != "bake-copy" else set())
        assert site.account.of(name) == set()
        record_property("happened", f"left {len(left)} things; the machine ended itself, the sweep removed the rest")


# ----------------------------------------------------------------------------------------- the same with webserver, daemon and sensor


class TestInstallation:
    @pytest.fixture(scope="class")
    @classmethod
    def dagster(cls, site: Site) -> Iterator[Installation]:
        with installation(site.folder / "installation", site.place.variables) as made:
            yield made

    def test_terminated_in_the_ui(self, site: Site, dagster: Installation, record_property: Tell):
        before = site.account.everything()
        run = dagster.start("build_map", MAP, {"owner": "terminated"})
        run.until_said(LAUNCHED, PATIENCE_S)
        dagster.cancel(run)
        assert run.until_ended(PATIENCE_S) is DagsterRunStatus.CANCELED
        assert site.account.everything() == before
        record_property("happened", "GraphQL's terminateRun: CANCELED, and nothing was left by then")

    def test_killed_under_a_daemon(self, site: Site, dagster: Installation, record_property: Tell):
        before = site.account.everything()
        run = dagster.start("build_map", MAP, {"owner": "killed"})
        run.until_said(LAUNCHED, PATIENCE_S)
        dagster.kill(run)
        assert run.until_ended(PATIENCE_S) is DagsterRunStatus.FAILURE
        seconds = site.until_gone("killed", time.monotonic())
        assert site.account.everything() == before
        record_property("happened", f"FAILURE; the daemon's run_cleanup had removed all of it after {seconds:.0f} s")
