"""What goes wrong with an Auto Scaling group of inference hosts, made to go wrong on the embedded AWS: real machines, agents and queues.

One test a case, in docs/faults-inference.md under the same name. Each begins and ends with an empty group; after all of them every upload
has exactly one answer and nothing is left over.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import boto3
import pytest

from monai_aws_pipeline.contract import ROLE_INFERENCE, ResultRecord, Status
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from tests.support.faults import STATE_FOLDER, Waking, eventually
from tests.support.fleet import remove_group
from tests.support.platform import Platform, environment, platform

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]

Tell = Callable[[str, object], None]
SETTINGS: Final = {
    "MONAI_AWS_FLEET": "autoscaling",
    "MONAI_AWS_HOST_COUNT": "3",
    "MONAI_AWS_INSTANCE_TYPES": "g4dn.xlarge",
    "MONAI_AWS_STUDIES_AT_ONCE": "1",  # so that no instance takes more than four of a backlog
    "MONAI_AWS_IDLE_STOP_MINUTES": "0.3",
}


class Fleet:
    """The deployment's group as ``inference_host`` makes it, changed as a person with an administrator's rights would."""

    def __init__(self, place: Platform) -> None:
        self.place, self.name = place, place.settings.names.fleet_group
        with environment(place.cloud.environment):
            self.api, self.ec2 = boto3.Session().client("autoscaling"), boto3.Session().client("ec2")

    def shown(self) -> dict[str, Any]:
        found = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        return dict(found[0]) if found else {}

    def states(self) -> dict[str, str]:
        """Lifecycle states by instance, those of the warm pool too."""
        found = self.api.describe_auto_scaling_instances()["AutoScalingInstances"]
        return {each["InstanceId"]: each["LifecycleState"] for each in found if each["AutoScalingGroupName"] == self.name}

    def asked_first(self) -> str:
        """The zone that the empty group asks for an instance."""
        subnet = self.shown()["VPCZoneIdentifier"].split(",")[0]
        return str(self.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailabilityZone"])

    def desired(self, number: int) -> None:
        self.api.set_desired_capacity(AutoScalingGroupName=self.name, DesiredCapacity=number)

    def until(self, number: int, state: str = "InService", seconds: float = 150) -> list[str]:
        return list(
            eventually(lambda: len(found := [name for name, now in self.states().items() if now == state]) >= number and found, seconds)
        )

    def whole_without(self, lost: str) -> set[str]:
        """The other instances, if they are as many as there are to be, and two at least."""
        others = set(self.states()) - {lost}
        return others if len(others) >= max(2, self.shown()["DesiredCapacity"]) else set()

    def zero(self, seconds: float = 240) -> None:
        """Wait until the group is empty, by what its instances did, and is to be."""
        eventually(lambda: not self.states(), seconds)
        assert self.shown()["DesiredCapacity"] == 0
        eventually(lambda: not self.place.machines(ROLE_INFERENCE))

    def activities(self, status: str) -> list[dict[str, Any]]:
        found = self.api.describe_scaling_activities(AutoScalingGroupName=self.name)["Activities"]
        return [each for each in found if each["StatusCode"] == status]

    def leaves(self, instance: str, *, smaller: bool) -> None:
        self.api.terminate_instance_in_auto_scaling_group(InstanceId=instance, ShouldDecrementDesiredCapacity=smaller)

    def at_work(self, instance: str) -> None:
        """Wait until an application sleeps there."""
        self.place.on_host(
            instance, f"for n in $(seq 400); do find {STATE_FOLDER} -name started.txt | grep -q . && exit; sleep 0.1; done; exit 1", 90
        )

    def told(self, instance: str) -> dict[str, Any]:
        """What an instance says of itself."""
        return dict(json.loads(self.place.on_host(instance, "/opt/monai-aws/bin/monai-aws-agent at-work")))


@pytest.fixture(scope="module")
def fleet(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with platform(local_cloud, "fleet-faults", tmp_path_factory.mktemp("fleet"), **SETTINGS) as place:
        try:
            place.adopt_image()
            assert place.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
            yield Fleet(place)
        finally:
            place.cloud.clear_faults()
            remove_group(place)


@pytest.fixture(scope="class")
def waking(fleet: Fleet) -> Iterator[Waking]:
    """Uploads of all cases. Afterwards each has exactly one answer, and nothing is left over."""
    at_work = Waking(fleet.place)
    yield at_work
    fleet.place.cloud.clear_faults()
    at_work.assert_settled()


@pytest.fixture(autouse=True)
def no_order_left(fleet: Fleet) -> Iterator[None]:
    yield
    fleet.place.cloud.clear_faults()


def uploaded(waking: Waking, name: str, number: int, wish: str = "tiny") -> list[str]:
    """So many studies at once; their jobs."""
    with ThreadPoolExecutor(4) as uploads:
        return list(uploads.map(lambda which: waking.upload(f"{name}-{which}", wish), range(number)))


def answered(waking: Waking, jobs: Sequence[str], seconds: float = 300) -> list[ResultRecord]:
    """The one answer of each."""
    found = waking.place.answers(list(jobs), seconds)
    assert all(len(records) == 1 and records[0].status is Status.SUCCEEDED for records in found.values())
    return [found[job][0] for job in jobs]


class TestAFleet:
    def test_from_none_to_three_and_back_with_100_jobs(self, fleet: Fleet, waking: Waking, record_property: Tell):
        jobs = uploaded(waking, "hundred", 100, "tiny:sleep=1")
        three = set(fleet.until(3, seconds=400))  # the wake function lifts the group from zero, its policy follows the backlog
        records = answered(waking, jobs, 500)
        shares = Counter(record.host.instance_id for record in records)
        assert set(shares) == three, "all of them worked"
        fleet.zero()
        record_property("happened", f"{sorted(shares.values())} of 100 each; the idle ones left by themselves")

    def test_scale_in_while_busy(self, fleet: Fleet, waking: Waking, record_property: Tell):
        fleet.desired(2)
        two = fleet.until(2)
        jobs = uploaded(waking, "scale-in", 8, "tiny:sleep=5")
        for instance in two:
            fleet.at_work(instance)
            assert fleet.told(instance)["group"] == {"target": "InService", "protected": True}
        fleet.desired(0)
        records = answered(waking, jobs)
        assert {record.host.instance_id for record in records} == set(two), "nobody was taken while at work"
        fleet.zero()
        record_property("happened", "protected while at work; taken when idle")

    def test_told_to_go_while_busy(self, fleet: Fleet, waking: Waking, record_property: Tell):
        jobs = uploaded(waking, "told-to-go", 1, "tiny:sleep=60")
        fleet.desired(1)
        (instance,) = fleet.until(1)
        fleet.at_work(instance)
        fleet.leaves(instance, smaller=True)
        eventually(lambda: fleet.told(instance)["group"]["target"] != "InService")  # it looks every five seconds
        waits = uploaded(waking, "told-to-go-waits", 1)
        (record,) = answered(waking, jobs)
        assert record.host.instance_id == instance, "the hook held the group up until its study was answered"
        (other,) = answered(waking, waits)
        assert other.host.instance_id != instance
        fleet.zero()
        record_property("happened", "ended what was in hand, took nothing new, was let go")

    def test_instance_lost(self, fleet: Fleet, waking: Waking, record_property: Tell):
        fleet.desired(2)
        two = fleet.until(2)
        jobs = uploaded(waking, "lost", 8, "tiny:sleep=4")
        fleet.at_work(two[0])
        fleet.place.cloud.lose_instance(two[0])
        replaced = eventually(lambda: fleet.whole_without(two[0]), 150) - set(two)
        waking.comes_back()
        records = answered(waking, jobs)
        eventually(lambda: two[0] not in fleet.states(), 150)
        fleet.zero()
        others = {record.host.instance_id for record in records} - set(two)
        record_property("happened", f"its jobs came back; the group replaced it by {len(replaced)}, and {len(others)} new one(s) answered")

    def test_refresh_while_busy(self, fleet: Fleet, waking: Waking, record_property: Tell):
        jobs = uploaded(waking, "refresh", 1, "tiny:sleep=60")
        fleet.desired(1)
        (instance,) = fleet.until(1)
        fleet.at_work(instance)
        newer = fleet.ec2.create_launch_template_version(
            LaunchTemplateName=fleet.name, SourceVersion="1", LaunchTemplateData={"InstanceType": "g5.xlarge"}
        )["LaunchTemplateVersion"]["VersionNumber"]
        fleet.api.start_instance_refresh(
            AutoScalingGroupName=fleet.name,
            DesiredConfiguration={"LaunchTemplate": {"LaunchTemplateName": fleet.name, "Version": str(newer)}},
            Preferences={"SkipMatching": True, "ScaleInProtectedInstances": "Refresh"},
        )
        eventually(lambda: fleet.states().get(instance) == "Terminating:Wait")
        (record,) = answered(waking, jobs)
        assert record.host.instance_id == instance, "the hook held the refresh up until its study was answered"
        refresh = lambda: fleet.api.describe_instance_refreshes(AutoScalingGroupName=fleet.name)["InstanceRefreshes"][0]  # noqa: E731
        eventually(lambda: refresh()["Status"] == "Successful", 200)
        (after,) = answered(waking, uploaded(waking, "refreshed", 1))
        assert after.host.type == "g5.xlarge"
        fleet.zero()
        record_property("happened", f"version {newer} came when the study was answered")

    def test_zone_without_capacity(self, fleet: Fleet, waking: Waking, record_property: Tell):
        first = fleet.asked_first()
        fleet.place.cloud.order_fault(account={"no_capacity": [first]})
        (record,) = answered(waking, uploaded(waking, "zone", 1))
        refusals = [each["StatusMessage"] for each in fleet.activities("Failed")]
        assert any("InsufficientInstanceCapacity" in said for said in refusals)
        zone = fleet.ec2.describe_instances(InstanceIds=[record.host.instance_id])["Reservations"][0]["Instances"][0]["Placement"]
        assert zone["AvailabilityZone"] != first
        fleet.zero()
        record_property("happened", "the group took the other zone")

    def test_group_changed_by_hand(self, fleet: Fleet, waking: Waking, record_property: Tell):
        fleet.api.update_auto_scaling_group(AutoScalingGroupName=fleet.name, MinSize=1)
        (instance,) = fleet.until(1)
        answered(waking, uploaded(waking, "by-hand", 1))
        time.sleep(0.3 * 60 + 15)
        assert fleet.states() == {instance: "InService"}, "idle, and the group may not become smaller"
        fleet.ec2.terminate_instances(InstanceIds=[instance])
        (other,) = eventually(lambda: [each for each, state in fleet.states().items() if state == "InService" and each != instance], 150)
        answered(waking, uploaded(waking, "by-hand-again", 1))
        fleet.api.update_auto_scaling_group(AutoScalingGroupName=fleet.name, MinSize=0)
        fleet.zero()
        record_property("happened", f"kept at its least size, replaced ({other} for {instance}), gone when it might be")

    def test_pool_instance_that_does_not_start(self, fleet: Fleet, waking: Waking, record_property: Tell):
        pool = {"MaxGroupPreparedCapacity": 1, "InstanceReusePolicy": {"ReuseOnScaleIn": True}}
        fleet.api.put_warm_pool(AutoScalingGroupName=fleet.name, **pool)
        (warm,) = fleet.until(1, "Warmed:Stopped")
        (record,) = answered(waking, uploaded(waking, "pool", 1))
        assert record.host.instance_id == warm, "it had been waiting with the MAP on its disk"
        (warm,) = fleet.until(1, "Warmed:Stopped", 240)
        fleet.place.cloud.order_fault(ends_at="start", reason="Server.InsufficientInstanceCapacity", match=warm)
        (record,) = answered(waking, uploaded(waking, "pool-again", 1))
        assert record.host.instance_id != warm
        cancelled = [each["Description"] for each in fleet.activities("Cancelled")]
        assert f"Launching a new EC2 instance from warm pool: {warm}" in cancelled
        fleet.api.delete_warm_pool(AutoScalingGroupName=fleet.name, ForceDelete=True)
        fleet.zero()
        record_property("happened", "another one was launched and answered")
