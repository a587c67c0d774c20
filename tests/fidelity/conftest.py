"""Collects what the tests of the behaviours showed, and writes it where ``MONAI_TESTS_FIDELITY`` says (``make fidelity``)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootVolume
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.fidelity.outcomes import Outcome, kind_of, summary
from tests.fidelity.register import BEHAVIOURS
from tests.integration.local_cloud.conftest import Account, unique

SOURCES = {behaviour.id: behaviour.source for behaviour in BEHAVIOURS}
HERE = Path(__file__).parent
_outcomes: list[Outcome] = []


@pytest.fixture
def account(local_cloud: LocalCloud) -> Account:
    return Account(local_cloud, patient=False)


@pytest.fixture(autouse=True)
def no_order_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "local_cloud" in request.fixturenames:
        request.getfixturevalue("local_cloud").clear_faults()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test here names its behaviour, and the register knows it."""
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        named = [str(mark.args[0]) for mark in item.iter_markers("behaviour")]
        unknown = [name for name in named if name not in SOURCES]
        if not named or unknown:
            raise pytest.UsageError(f"{item.nodeid}: not in tests/fidelity/register.py: {', '.join(unknown) or '(no behaviour named)'}")
        item.user_properties += [("behaviour", (name, kind_of(item.name))) for name in named]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _outcomes.extend(Outcome(*value, report.outcome) for name, value in report.user_properties if name == "behaviour")


def pytest_sessionfinish() -> None:
    place = os.environ.get("MONAI_TESTS_FIDELITY")
    if place:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text(json.dumps(summary(SOURCES, _outcomes), indent=1) + "\n")


class Buyer:
    """Launches machines of a deployment of its own in one region, with the system's own code, and keeps what was said."""

    def __init__(self, account: Account, region: str = "us-east-1", subnets: tuple[str, ...] = ()) -> None:
        self.account, self.deployment, self.said = account, unique("fidelity")[:20], list[str]()
        self.ec2 = account.client("ec2", region=region)
        self.machines = Machines(self.ec2, self.deployment, subnets=subnets)
        self.tags = Tags(self.deployment, "map-build", "test", "run", "n")
        self.image, self.profile = account.base_image(), account.profile([])
        self.launched: list[str] = []

    def spec(self, **changes: Any) -> LaunchSpec:
        group = changes.pop("group", "") or self.machines.security_group(self.tags, "no way in")
        volume = changes.pop("volume", RootVolume(150))
        plain = LaunchSpec(self.image, ("t3.micro",), self.profile, self.tags, user_data="", volume=volume, security_group=group)
        return replace(plain, **changes)

    def launch(self, **changes: Any) -> dict[str, Any]:
        """The machine as EC2 describes it when it runs."""
        machine = self.machines.launch(self.spec(**changes), self.said.append)
        self.launched.append(machine.id)
        found: dict[str, Any] = self.ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]
        return found

    def raw(self, **request: Any) -> Any:
        """RunInstances as anybody calls it, with nothing of the system between."""
        answer = self.ec2.run_instances(ImageId=self.image, InstanceType="t3.micro", MinCount=1, MaxCount=1, **request)
        self.launched += [instance["InstanceId"] for instance in answer["Instances"]]
        return answer

    def left(self) -> list[str]:
        """Machines of this deployment that somebody pays for."""
        return [machine.id for machine in self.machines.find()]

    def end(self) -> None:
        for machine in {*self.launched, *self.left()}:
            self.machines.terminate(machine)


@pytest.fixture
def buy(account: Account) -> Iterator[Callable[..., Buyer]]:
    """Makes buyers, whose machines are ended afterwards."""
    made: list[Buyer] = []

    def make(region: str = "us-east-1", subnets: tuple[str, ...] = ()) -> Buyer:
        made.append(Buyer(account, region, subnets))
        return made[-1]

    yield make
    account.cloud.clear_faults()
    for buyer in made:
        buyer.end()


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int, str]:
    """Code, HTTP status and message of what AWS said."""
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]
