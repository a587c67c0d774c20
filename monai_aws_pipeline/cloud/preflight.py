"""The preflight: whether account, permissions and settings allow a deployment, asked before the first run. It changes nothing.

Here belong small questions, each answered by one line; all are asked, whatever the answers, so that one look shows everything that is
missing. Only when AWS does not know the caller are the others left out: they would all say the same. The application itself is examined by
``maps.doctor``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.connect_endpoint import find_endpoint
from monai_aws_pipeline.cloud.errors import DENIED, CloudError, ImageError, code_of
from monai_aws_pipeline.cloud.images import Images
from monai_aws_pipeline.cloud.instances import Machines, launch_attempts
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import requires_tls, stack_name
from monai_aws_pipeline.errors import NamedError

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

BOOTSTRAP = "Let an administrator run: monai-aws bootstrap --bucket NAME"
OPERATOR = "Act as the operator role of infra/bootstrap.yaml; if you do, let the administrator update that stack."
ROLE_NAME_LIMIT = 64
QUEUE_NAME_LIMIT = 80


class PreflightError(NamedError):
    """One question got the wrong answer. ``remedy`` says what to do."""


@dataclass(frozen=True)
class Line:
    """One question and its answer. ``remedy`` is empty where there is nothing to do."""

    what: str
    ok: bool
    answer: str
    remedy: str = ""


@dataclass(frozen=True)
class Probe:
    """A question: ``ask`` returns the answer, or raises; ``remedy`` is for what AWS itself says."""

    what: str
    ask: Callable[[], str]
    remedy: str


def preflight(clients: Clients, settings: Settings) -> Iterator[Line]:
    """Ask everything, one line after the other. Raises nothing that is the account's or the settings' fault."""
    yield from (answer(probe) for probe in machine_probes(settings))
    identity = answer(Probe("identity", lambda: _identity(clients, settings), "Log in (aws sso login), or set AWS_PROFILE."))
    yield identity
    if identity.ok:
        yield from (answer(probe) for probe in account_probes(clients, settings))


def answer(probe: Probe) -> Line:
    """Ask one question. What AWS refuses or does not know becomes a failed line with a remedy."""
    try:
        return Line(probe.what, ok=True, answer=probe.ask())
    except (PreflightError, CloudError) as error:
        return Line(probe.what, ok=False, answer=error.cause, remedy=error.remedy)
    except ClientError as error:
        code = code_of(error)
        return Line(probe.what, ok=False, answer=f"AWS answered {code}", remedy=OPERATOR if code in DENIED else probe.remedy)
    except BotoCoreError as error:
        return Line(probe.what, ok=False, answer=str(error), remedy=probe.remedy)


def machine_probes(settings: Settings) -> list[Probe]:
    """What this machine needs. No container engine: images are built on machines of AWS."""
    probes = [Probe("names", lambda: names_fit(settings), ""), Probe("git", lambda: _program("git"), "")]
    if settings.wheelhouse == "collect":
        probes.append(Probe("pip", _pip, ""))
    return probes


def account_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """What the account must have and allow."""
    names = settings.names
    roles = (names.operator_role, names.build_profile, names.inference_profile, names.wake_role, names.scheduler_role)
    profiles = (names.build_profile, names.inference_profile)
    queues = (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
    return [
        Probe("region", lambda: _region(clients), "Set MONAI_AWS_REGION to a region that the account has enabled."),
        Probe("bootstrap stack", lambda: _stack(clients, settings.deployment), BOOTSTRAP),
        *(Probe(f"role {role}", partial(_role, clients, role), BOOTSTRAP) for role in roles),
        *(Probe(f"instance profile {name}", partial(_profile, clients, name), BOOTSTRAP) for name in profiles),
        Probe("bucket", lambda: _bucket(clients, settings), "Set MONAI_AWS_BUCKET to the bucket that bootstrap made."),
        Probe(
            "base image",
            lambda: Images(clients.ec2, clients.ssm, settings.deployment).base(settings.base_ami, settings.base_ami_owner).id,
            "",
        ),
        Probe("root volume", lambda: _root_volume(clients, settings), ""),
        Probe("instance types", lambda: _types(clients, settings.instance_types), "Set MONAI_AWS_INSTANCE_TYPES."),
        Probe("subnets", lambda: _subnets(clients, settings), ""),
        *([Probe("way to machines", lambda: _endpoint(clients, settings), "")] if settings.reach == "endpoint" else []),
        Probe("registry", lambda: _registry(clients, settings.ecr_repository), "Set MONAI_AWS_ECR_REPOSITORY as bootstrap knows it."),
        *(Probe(f"queue {name}", partial(_queue, clients, name), "") for name in queues),
        Probe(f"parameter {names.live_map_parameter}", lambda: _live_map(clients, names.live_map_parameter), ""),
    ]


def names_fit(settings: Settings) -> str:
    """Whether every name that follows from the deployment's is one that AWS takes."""
    names = settings.names
    roles = (names.operator_role, names.build_profile, names.inference_profile, names.wake_role, names.scheduler_role, names.wake_function)
    queues = (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
    long = [name for name in roles if len(name) > ROLE_NAME_LIMIT] + [name for name in queues if len(name) > QUEUE_NAME_LIMIT]
    if long:
        raise PreflightError(f"too long for AWS: {', '.join(long)}", "Choose a shorter MONAI_AWS_DEPLOYMENT.")
    return f"deployment {settings.deployment}"


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise PreflightError(f"{name} is not installed", f"Install {name}; the application's source is read with it.")
    return found


def _pip() -> str:
    done = subprocess.run([sys.executable, "-m", "pip", "--version"], check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise PreflightError("this Python has no pip", "Create the environment with python3 -m venv, or set MONAI_AWS_WHEELHOUSE=none.")
    return " ".join(done.stdout.split()[:2])


def _identity(clients: Clients, settings: Settings) -> str:
    arn = clients.sts.get_caller_identity()["Arn"]
    role = settings.names.operator_role
    return arn if f"/{role}/" in arn else f"{arn} (not the role {role}, which runs should act as)"


def _region(clients: Clients) -> str:
    zones = clients.ec2.describe_availability_zones()["AvailabilityZones"]
    return f"{clients.region}: {len(zones)} zones"


def _stack(clients: Clients, deployment: str) -> str:
    status = str(clients.cloudformation.describe_stacks(StackName=stack_name(deployment))["Stacks"][0]["StackStatus"])
    if not status.endswith("COMPLETE") or "ROLLBACK" in status or status.startswith("DELETE"):
        raise PreflightError(f"{stack_name(deployment)} is {status}", BOOTSTRAP)
    return f"{stack_name(deployment)} is {status}"


def _role(clients: Clients, name: str) -> str:
    return clients.iam.get_role(RoleName=name)["Role"]["Arn"]


def _profile(clients: Clients, name: str) -> str:
    profile = clients.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if not profile["Roles"]:
        raise PreflightError(f"{name} holds no role", BOOTSTRAP)
    return profile["Arn"]


def _bucket(clients: Clients, settings: Settings) -> str:
    bucket = settings.bucket
    if not bucket:
        raise PreflightError("MONAI_AWS_BUCKET is empty", "Set it to the bucket that bootstrap made (its output 'Bucket').")
    try:
        clients.s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        # The policy that refuses plain HTTP cannot be read over plain HTTP either: the stack says whether there is one.
        if code_of(error) in DENIED and clients.plain_http and requires_tls(clients.cloudformation, stack_name(settings.deployment)):
            raise PreflightError(
                f"the policy of {bucket} refuses plain HTTP, and the endpoint {clients.plain_http} speaks nothing else",
                "Set an endpoint with https, or let an administrator run: monai-aws bootstrap --bucket NAME --allow-plain-http",
            ) from error
        raise
    where = clients.s3.get_bucket_location(Bucket=bucket).get("LocationConstraint") or "us-east-1"  # S3 names that one by nothing
    if where != clients.region:
        raise PreflightError(f"{bucket} lies in {where}, not in {clients.region}", "Use a bucket of MONAI_AWS_REGION.")
    return bucket


def _types(clients: Clients, wanted: Sequence[str]) -> str:
    pages = clients.ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="region", Filters=[{"Name": "instance-type", "Values": list(wanted)}]
    )
    offered = {str(offer.get("InstanceType")) for page in pages for offer in page["InstanceTypeOfferings"]}
    there = [name for name in wanted if name in offered]
    if not there:
        raise PreflightError(f"none of {', '.join(wanted)} is offered in {clients.region}", "Set MONAI_AWS_INSTANCE_TYPES to others.")
    absent = [name for name in wanted if name not in offered]
    return ", ".join(there) + (f" (not offered here: {', '.join(absent)})" if absent else "")


def _root_volume(clients: Clients, settings: Settings) -> str:
    """Snapshot against volume: AWS makes no volume that is smaller than the image's snapshot."""
    try:
        base = Images(clients.ec2, clients.ssm, settings.deployment).base(settings.base_ami, settings.base_ami_owner)
    except ImageError:
        return f"{settings.root_volume_gib} GiB; what the base image needs is not known, see there"
    if settings.root_volume_gib < base.gib:
        raise PreflightError(
            f"{settings.root_volume_gib} GiB is less than the {base.gib} GiB of the base image's snapshot: machines get {base.gib} GiB, "
            "with no room for MAPs but what the image leaves free",
            "Set MONAI_AWS_ROOT_VOLUME_GIB to 150, or to another size that holds the image and two MAPs.",
        )
    return f"{settings.root_volume_gib} GiB, of which the base image's snapshot has {base.gib}"


def _subnets(clients: Clients, settings: Settings) -> str:
    """Where machines can be put, and with which types: a zone without any of the types gives no machine."""
    machines = Machines(clients.ec2, settings.deployment, subnets=settings.subnets)
    offered, subnets = machines.offered(settings.instance_types), machines.subnets()
    attempts = list(launch_attempts(settings.instance_types, offered, subnets))
    if not offered:
        return ", ".join(sorted({subnet.zone for subnet in subnets}))  # which types are missing is said with the types
    if not attempts:
        raise PreflightError(
            f"none of {', '.join(settings.instance_types)} is offered in the zones of the subnets",
            "Set MONAI_AWS_SUBNETS to subnets in other zones, or MONAI_AWS_INSTANCE_TYPES to types that these have.",
        )
    zones = dict.fromkeys(sorted(subnet.zone for _, subnet in attempts))
    return ", ".join(f"{zone} ({len({kind for kind, subnet in attempts if subnet.zone == zone})} types)" for zone in zones)


def _endpoint(clients: Clients, settings: Settings) -> str:
    """The endpoint that leads to machines without a public address."""
    subnets = Machines(clients.ec2, settings.deployment, subnets=settings.subnets).subnets()
    return find_endpoint(clients.ec2, subnets).described(settings.deployment)


def _registry(clients: Clients, repository: str) -> str:
    clients.ecr.get_authorization_token()
    try:
        return clients.ecr.describe_repositories(repositoryNames=[repository])["repositories"][0].get("repositoryUri", repository)
    except ClientError as error:
        if code_of(error) != "RepositoryNotFoundException":
            raise
        return f"{repository} is made with the first map_image"


def _queue(clients: Clients, name: str) -> str:
    try:
        return clients.sqs.get_queue_url(QueueName=name)["QueueUrl"]
    except clients.sqs.exceptions.QueueDoesNotExist:
        return "is made with s3_trigger"


def _live_map(clients: Clients, name: str) -> str:
    try:
        return clients.ssm.get_parameter(Name=name)["Parameter"].get("Value", "")
    except clients.ssm.exceptions.ParameterNotFound:
        return "is made with inference_host"
