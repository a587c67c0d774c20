"""The embedded AWS's Auto Scaling in this process: calls as they come over the wire, and machines that exist in EC2's states only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from ministack.services import cloudwatch
from moto.ec2.models import ec2_backends

from monai_aws_pipeline.local_cloud import identity
from monai_aws_pipeline.local_cloud.autoscaling import AutoScaling
from monai_aws_pipeline.local_cloud.autoscaling_launch import LaunchError
from monai_aws_pipeline.local_cloud.autoscaling_plan import REFRESH_S, Offer, Seen
from monai_aws_pipeline.local_cloud.autoscaling_protocol import SERVICE, service_model
from monai_aws_pipeline.local_cloud.config import ACCOUNT

REGION = "us-east-1"


class States:
    """Machines that come and go at once."""

    def __init__(self) -> None:
        self.states: dict[str, Seen] = {}
        self.offers: list[Offer] = []
        self.without: set[str] = set()

    def launch(self, _group: Any, _template: Any, offer: Offer) -> str:
        self.offers.append(offer)
        if {offer.zone, offer.kind} & self.without:
            raise LaunchError("InsufficientInstanceCapacity", "We currently do not have sufficient capacity.")
        name = f"i-{len(self.states):017x}"
        self.states[name] = Seen("running")
        return name

    def seen(self, instance_id: str) -> Seen:
        return self.states.get(instance_id, Seen(""))

    def tell(self, _region: str, instance_id: str, verb: str) -> None:
        self.states[instance_id] = Seen({"start": "running", "stop": "stopped", "terminate": "terminated"}[verb])


class Client:
    """Calls as botocore makes them."""

    def __init__(self, may: Callable[..., bool] = lambda *_: True) -> None:
        self.machines, self.may, self.refresh_patience = States(), may, float(REFRESH_S)
        self.service = AutoScaling(
            self.machines,  # type: ignore[arg-type] - EC2 by its states alone
            lambda *asked: self.may(*asked),  # noqa: PLW0108 - another one may take its place
            lambda: None,
            lambda: self.refresh_patience,
        )

    def __call__(self, action: str, **parameters: Any) -> dict[str, Any]:
        operation = service_model(SERVICE).operation_model(action)
        body = create_serializer("query", include_validation=False).serialize_to_request(parameters, operation)["body"]
        headers = {"authorization": f"AWS4-HMAC-SHA256 Credential=AKIA/20260101/{REGION}/autoscaling/aws4_request"}
        status, head, text = asyncio.run(self.service.handle("POST", "/", headers, urlencode(body).encode(), {}))
        shape = operation.output_shape if status == 200 else None
        answer: dict[str, Any] = create_parser("query").parse({"status_code": status, "headers": head, "body": text}, shape)
        return answer

    def ticks(self, count: int = 8) -> None:
        for _ in range(count):
            self.service.tick()

    def at_once(self) -> None:
        """Let the groups ask EC2 again now for what it has just refused."""
        for group in self.service._groups.values():
            group.next_launch = 0.0

    def group(self) -> dict[str, Any]:
        found = self("DescribeAutoScalingGroups", AutoScalingGroupNames=["g"])["AutoScalingGroups"]
        return dict(found[0]) if found else {}

    def states(self) -> list[str]:
        return [each["LifecycleState"] for each in self("DescribeAutoScalingInstances")["AutoScalingInstances"]]

    def refusal(self, action: str, **parameters: Any) -> tuple[str, str]:
        error = self(action, **parameters)["Error"]
        return error["Code"], error["Message"]


@contextmanager
def launch_template() -> Iterator[Any]:
    """The template ``own``."""
    identity.as_account()
    identity.drop_role("AWSServiceRoleForAutoScaling")
    ec2 = ec2_backends[ACCOUNT][REGION]
    made = ec2.create_launch_template("own", "", {"ImageId": "ami-1", "InstanceType": "t3.micro"}, {})
    yield made
    ec2.delete_launch_template("own", None)
    cloudwatch._alarms.clear()
    cloudwatch._metrics.clear()


def create(client: Client, desired: int = 0, largest: int = 3, **options: Any) -> dict[str, Any]:
    zones = {"AvailabilityZones": ["us-east-1a", "us-east-1b"]}
    launched = {} if "MixedInstancesPolicy" in options else {"LaunchTemplate": {"LaunchTemplateName": "own", "Version": "$Latest"}}
    sizes = {"MinSize": 0, "MaxSize": largest, "DesiredCapacity": desired}
    return client("CreateAutoScalingGroup", AutoScalingGroupName="g", **{**sizes, **zones, **launched, **options})
