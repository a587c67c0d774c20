"""The one place where boto3 clients are made: region, retries, time limits and our name in the user agent.

Credentials and endpoint come from the SDK's default chain (environment, profile, instance role), so that the same code talks to
any account. Nothing here touches the network before the first call.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import NoCredentialsError

from monai_aws_pipeline import __version__
from monai_aws_pipeline.cloud.credentials import Renewable, renewing_session

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_sts import STSClient


class Clients:
    """boto3 clients of one region, each made when it is first used and shared from then on (clients are thread-safe)."""

    def __init__(self, region: str, session: boto3.Session | None = None) -> None:
        self.region = region
        self._session = session or boto3.Session(botocore_session=renewing_session(), region_name=region)
        self._elsewhere: dict[str, Clients] = {}
        self._config = Config(
            region_name=region,
            retries={"mode": "standard", "total_max_attempts": 6},  # throttling backs off; other errors surface quickly
            connect_timeout=10,
            read_timeout=70,
            max_pool_connections=32,  # the preflight asks everything at once
            user_agent_extra=f"monai-aws-pipeline/{__version__}",
        )

    def elsewhere(self, region: str) -> Clients:
        """Clients of another region with the same credentials; these ones for their own."""
        return self if region == self.region else self._elsewhere.setdefault(region, Clients(region, self._session))

    @cached_property
    def ec2(self) -> EC2Client:
        """Machines, images, key pairs, security groups."""
        return self._session.client("ec2", config=self._config)

    @cached_property
    def ec2_launches(self) -> EC2Client:
        """EC2 without the SDK's retries: a lack of capacity is an HTTP 500, and the answer to it is another zone, not patience."""
        once = self._config.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))
        return self._session.client("ec2", config=once)

    @cached_property
    def ecr(self) -> ECRClient:
        """The registry's control plane."""
        return self._session.client("ecr", config=self._config)

    @cached_property
    def iam(self) -> IAMClient:
        """Roles, read only."""
        return self._session.client("iam", config=self._config)

    @cached_property
    def cloudformation(self) -> CloudFormationClient:
        """The administrator's stack."""
        return self._session.client("cloudformation", config=self._config)

    @cached_property
    def cloudwatch(self) -> CloudWatchClient:
        """Alarms."""
        return self._session.client("cloudwatch", config=self._config)

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        """How long the wake function's log is kept."""
        return self._session.client("logs", config=self._config)

    @cached_property
    def functions(self) -> LambdaClient:
        """The wake function and its event source."""
        return self._session.client("lambda", config=self._config)

    @cached_property
    def s3(self) -> S3Client:
        """Studies and results."""
        return self._session.client("s3", config=self._config)

    @cached_property
    def s3_presigning(self) -> S3Client:
        """S3 for addresses that a browser opens: in some regions the SDK would sign them the old way, which objects under KMS refuse."""
        return self._session.client("s3", config=self._config.merge(Config(signature_version="s3v4")))

    @cached_property
    def s3_unsigned(self) -> S3Client:
        """S3 for addresses that are named and not opened: it needs no login."""
        return self._session.client("s3", config=self._config.merge(Config(signature_version=UNSIGNED)))

    @cached_property
    def scheduler(self) -> EventBridgeSchedulerClient:
        """The scheduled wake."""
        return self._session.client("scheduler", config=self._config)

    @cached_property
    def secrets(self) -> SecretsManagerClient:
        """The login of a private application repository."""
        return self._session.client("secretsmanager", config=self._config)

    @cached_property
    def sqs(self) -> SQSClient:
        """Uploads, jobs and their dead letters."""
        return self._session.client("sqs", config=self._config)

    @cached_property
    def ssm(self) -> SSMClient:
        """Parameters and Run Command."""
        return self._session.client("ssm", config=self._config)

    @cached_property
    def sts(self) -> STSClient:
        """Who we are."""
        return self._session.client("sts", config=self._config)

    @cached_property
    def sts_unsigned(self) -> STSClient:
        """STS for whoever has no key, or no right time to sign with: it answers with a refusal, and with its own time."""
        unsigned = self._config.merge(Config(signature_version=UNSIGNED, retries={"mode": "standard", "total_max_attempts": 1}))
        return self._session.client("sts", config=unsigned)

    @cached_property
    def autoscaling(self) -> Any:
        """The Auto Scaling group of inference hosts."""
        return self._session.client("autoscaling", config=self._config)

    @cached_property
    def imaging(self) -> Any:
        """HealthImaging. Its DICOMweb is asked without it, with ``signing_credentials``."""
        return self._session.client("medical-imaging", config=self._config)

    @cached_property
    def quotas(self) -> Any:
        """Service Quotas, read only."""
        return self._session.client("service-quotas", config=self._config)

    @cached_property
    def kms(self) -> Any:
        """The key of the disks, looked at only."""
        return self._session.client("kms", config=self._config)

    @cached_property
    def sns(self) -> Any:
        """Who is told of alarms."""
        return self._session.client("sns", config=self._config)

    @cached_property
    def sns_messages(self) -> Any:
        """SNS for messages: it gives up within half a minute, because a sensor's tick has one minute, and the next tick tries again."""
        soon = self._config.merge(Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2}))
        return self._session.client("sns", config=soon)

    @cached_property
    def budgets(self) -> Any:
        """What was spent of the deployment's budget."""
        return self._session.client("budgets", config=self._config)

    @cached_property
    def costs(self) -> Any:
        """Cost Explorer; each request is billed with 0.01 USD."""
        return self._session.client("ce", config=self._config)

    def make_all(self, *, imaging: bool) -> None:
        """Make every client now. A session makes them one after the other only; each of them is then safe among threads.

        ``imaging``: HealthImaging's too, which no other archive is asked with.
        """
        for name, made in vars(type(self)).items():
            if isinstance(made, cached_property) and (imaging or name != "imaging"):
                getattr(self, name)

    def signing_credentials(self) -> Any:
        """botocore's own, which renew themselves: for requests that no client makes."""
        return self._session.get_credentials()

    def credentials(self) -> Credentials | None:
        """What the SDK's default chain finds; None where it finds nothing."""
        found: Any = self._session.get_credentials()
        return found.now if isinstance(found, Renewable) else found

    @property
    def plain_http(self) -> str:
        """The address of S3 where the way to it is not encrypted, empty where it is. A bucket with ``RequireTls`` refuses that way."""
        address = self.s3.meta.endpoint_url
        return address if urlsplit(address).scheme == "http" else ""

    def signed_socket(self, address: str, service: str, seconds: int) -> str:
        """The address (host, path and query) of a web socket of an AWS service, signed as the caller for so many seconds; a secret.

        It is as encrypted as the way to EC2 itself. Raises NoCredentialsError.
        """
        credentials = self._session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        scheme = {"https": "wss", "http": "ws"}[urlsplit(self.ec2.meta.endpoint_url).scheme]
        request = AWSRequest("GET", f"{scheme}://{address}", headers={"host": address.partition("/")[0]})
        SigV4QueryAuth(credentials.get_frozen_credentials(), service, self.region, expires=seconds).add_auth(request)
        return str(request.url)

    def account(self) -> str:
        """The account's twelve digits."""
        return self.sts.get_caller_identity()["Account"]

    def partition(self) -> str:
        """The partition that the caller's ARNs are in: ``aws``, ``aws-cn``, ``aws-us-gov``."""
        return self.sts.get_caller_identity()["Arn"].split(":")[1]
