"""What the account must have: region, stack, roles, bucket, registry; and what the lineage makes by itself, which may be missing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import DENIED, code_of
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import requires_tls, stack_name
from monai_aws_pipeline.operations.preflight.answers import BOOTSTRAP, PreflightError, Probe, State

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings


def account_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """Stack, roles, bucket, registry, queues and the live MAP."""
    names = settings.names
    roles = (names.operator_role, names.build_profile, names.inference_profile, names.wake_role, names.scheduler_role)
    profiles = (names.build_profile, names.inference_profile)
    queues = (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters)
    region = "Set MONAI_AWS_REGION to a region that the account has enabled."
    bucket = "Set MONAI_AWS_BUCKET to the bucket that bootstrap made."
    registry = "Set MONAI_AWS_ECR_REPOSITORY as bootstrap knows it."
    return [
        Probe("region", "EC2 for the region's zones", lambda: _region(clients), region, State.ERROR),
        Probe("bootstrap stack", "CloudFormation for the stack", lambda: _stack(clients, settings.deployment), BOOTSTRAP),
        *(Probe(f"role {role}", "IAM for the role", partial(_role, clients, role), BOOTSTRAP) for role in roles),
        *(Probe(f"instance profile {name}", "IAM for the profile", partial(_profile, clients, name), BOOTSTRAP) for name in profiles),
        Probe("bucket", "S3 for the bucket's list", lambda: _bucket(clients, settings), bucket),
        Probe("registry", "ECR for the repository", lambda: _registry(clients, settings.ecr_repository), registry),
        *(Probe(f"queue {name}", "SQS for the queue", partial(_queue, clients, name)) for name in queues),
        Probe(f"parameter {names.live_map_parameter}", "SSM for the parameter", lambda: _live_map(clients, names.live_map_parameter)),
    ]


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
