"""Every setting of the project, typed and validated once; read from ``MONAI_AWS_…`` variables and ``.env``.

Here belong values a user may choose, the names that follow from them, and the text that explains a wrong one. Credentials are
never settings: they come from the AWS SDK's default chain. docs/settings.md lists all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from monai_aws_pipeline.errors import NamedError

PACKAGE_ROOT = Path(__file__).resolve().parent
PROJECT_ROOT = PACKAGE_ROOT.parent
# Source: CloudWatch Logs API Reference, "PutRetentionPolicy", up to two years.
LOG_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731)

_NOT_SHOWN = frozenset({"notify"})
"""Settings into which somebody may have put a secret by mistake: a webhook's own address."""

BASES = {
    "ubuntu": "ssm:/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    "deep-learning": "ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
}
"""Short names of base images: AWS's public parameters that name them."""


class SettingsError(NamedError):
    """One or more settings are wrong. The message lists all of them: name, value, what is expected."""


@dataclass(frozen=True)
class Names:
    """What everything of one deployment is called. ``infra/bootstrap.yaml`` uses the same names."""

    deployment: str

    def _of(self, part: str) -> str:
        return f"monai-aws-{self.deployment}-{part}"

    @property
    def operator_role(self) -> str:
        """Role that Dagster runs as."""
        return self._of("operator")

    @property
    def build_profile(self) -> str:
        """Instance profile (and role) of ``ami-bake`` and ``map-build`` machines."""
        return self._of("build-host")

    @property
    def inference_profile(self) -> str:
        """Instance profile (and role) of inference hosts."""
        return self._of("inference-host")

    @property
    def wake_role(self) -> str:
        """Role of the wake function."""
        return self._of("wake")

    @property
    def scheduler_role(self) -> str:
        """Role that the schedule invokes the function with."""
        return self._of("scheduler")

    @property
    def wake_function(self) -> str:
        """The Lambda function that turns uploads into jobs."""
        return self._of("wake")

    @property
    def wake_schedule(self) -> str:
        """The schedule of the same function."""
        return self._of("wake")

    @property
    def uploads_queue(self) -> str:
        """Where the bucket announces new objects."""
        return self._of("uploads")

    @property
    def uploads_dead_letters(self) -> str:
        """Announcements the function failed on three times."""
        return self._of("uploads-dead-letters")

    @property
    def jobs_queue(self) -> str:
        """Where hosts take their work."""
        return self._of("jobs")

    @property
    def jobs_dead_letters(self) -> str:
        """Jobs that were received three times without an end."""
        return self._of("jobs-dead-letters")

    @property
    def alarms(self) -> str:
        """What the names of all alarms begin with."""
        return self._of("")

    @property
    def study_key_secret(self) -> str:
        """Secret that study pseudonyms are made with."""
        return f"monai-aws/{self.deployment}/study-key"

    @property
    def live_map_parameter(self) -> str:
        """Parameter that names the MAP which answers studies."""
        return f"/monai-aws/{self.deployment}/live-map"

    @property
    def fleet_group(self) -> str:
        """The Auto Scaling group of inference hosts, and its launch template."""
        return self._of("inference-hosts")

    @property
    def fleet_alarm(self) -> str:
        """The alarm by which that group hears that a job waits for long. It tells nobody else."""
        return f"{self.fleet_group}-job-age"

    def machine(self, role: str) -> str:
        """The ``Name`` tag of a machine, image, key pair or security group of a role."""
        return self._of(role)


class Settings(BaseSettings):
    """All settings with their defaults. Build one with ``load_settings()``, which reports every wrong value at once."""

    model_config = SettingsConfigDict(env_prefix="MONAI_AWS_", env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    deployment: str = Field("dev", description="short name that tags and prefixes everything", pattern=r"^[a-z][a-z0-9-]{0,18}[a-z0-9]$")
    region: str = Field("us-east-1", pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="AWS region")
    owner: str = Field("unknown", pattern=r"^[\w .@+=/-]{1,64}$", description="who answers for the costs; a tag on everything")
    bucket: str = Field(
        "", pattern=r"^$|^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", examples=["monai-aws-studies"], description="bucket of studies and results"
    )
    ecr_repository: str = Field("monai-aws/map", pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$", description="ECR repository of the MAP")

    instance_types: Annotated[tuple[str, ...], NoDecode] = Field(
        ("g4dn.xlarge", "g4dn.2xlarge", "g5.xlarge"), description="in order of preference"
    )
    ami_mode: Literal["bake", "stock"] = Field("bake", description="bake an image once, or provision the stock image at host creation")
    base_ami: str = Field(
        BASES["deep-learning"],
        description="the image to start from: ubuntu (plain, GPU driver installed by our script), deep-learning (AWS's, with driver), "
        "ssm:/public/parameter, ami-…, or name:… with * and ? (the newest by that name)",
    )
    base_ami_owner: str = Field(
        "amazon", pattern=r"^(amazon|self|\d{12})$", description="whose images count for name:…: amazon, self or an account's 12 digits"
    )
    ami_check: bool = Field(True, description="start a machine from each newly baked image for a minute or two to check it")
    ami_keep: int = Field(3, ge=1, le=100, description="baked images that are kept; older ones go with their snapshots unless in use")
    ami_regions: Annotated[tuple[str, ...], NoDecode] = Field((), description="regions that each baked image is copied to")
    root_volume_gib: int = Field(
        150, ge=8, le=1024, description="root disk of every machine in GiB; made at least as large as the image's snapshot"
    )
    root_volume_type: Literal["gp3", "gp2"] = Field("gp3", description="EBS type of the root disk")
    root_volume_encrypted: bool = Field(True, description="encrypt the root disk, and with it the image's snapshot")
    root_volume_kms_key: str = Field(
        "",
        pattern=r"^$|^arn:[\w:/+=.@-]+$|^alias/[\w/-]+$|^(mrk-)?[0-9a-f-]{32,36}$",
        examples=["alias/studies"],
        description="KMS key of the root disk; empty: the account's key for EBS",
    )
    subnets: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="subnets of one VPC that machines go into; empty: the region's default subnets"
    )
    reach: Literal["public", "endpoint"] = Field(
        "public",
        description="how SSH reaches machines: by a public address each, or without one, through the VPC's Instance Connect Endpoint",
    )
    ssh_user: str = Field("ubuntu", pattern=r"^[a-z_][a-z0-9_-]{0,31}$", description="user of the base image")
    ssh_port: int = Field(22, ge=1, le=65535, description="port of the machines' SSH server")
    ssh_from: str = Field(
        "auto",
        pattern=r"^auto$|^[0-9a-fA-F.:]+/\d{1,3}$",
        examples=["203.0.113.7/32"],
        description="address range that may reach SSH; auto: this machine's public address",
    )

    app_source: str = Field("examples/brain_mri/app", min_length=1, description="git URL or path of the MAP application")
    app_ref: str = Field("HEAD", pattern=r"^[\w./@^~{}-]{1,200}$", description="git ref to build")
    app_dir: str = Field(".", min_length=1, description="folder of the application inside its source")
    app_source_secret: str = Field(
        "",
        pattern=r"^$|^[A-Za-z0-9/_+=.@-]+$|^arn:[\w:/+=.@-]+$",
        examples=["monai-aws/app-source"],
        description="name or ARN of the secret with a token or deploy key for a private app_source",
    )
    model_uri: str = Field(
        "",
        description="path, file:, https: or s3: address of the model, a file, a zip, or a folder of this machine; "
        "several: NAME=ADDRESS,NAME=ADDRESS",
    )
    model_sha256: str = Field(
        "",
        description="SHA-256 of the model file, or of a folder's names and bytes (docs/your-own-model.md); of several in the same order",
    )
    golden_study: str = Field("", description="address of a zipped study that every new MAP must answer; empty: none")
    golden_study_sha256: str = Field("", description="SHA-256 of the golden study")
    golden_reference: str = Field("", description="address of a DICOM SEG that the golden study's segments are compared with; empty: none")
    golden_reference_sha256: str = Field("", description="SHA-256 of the golden reference")
    packager: Literal["layered", "monai-deploy"] = Field("layered", description="how the MAP is built")
    base_image: str = Field("nvidia/cuda:13.0.0-runtime-ubuntu24.04", min_length=1, description="base image of the MAP")
    wheelhouse: Literal["none", "collect"] = Field(
        "none", description="collect: gather the wheels here and build without internet on the build host"
    )
    build_ttl_minutes: float = Field(
        120, ge=0.5, le=1440, description="a build machine ends itself after this many minutes, whoever has forgotten it"
    )

    build_market: Literal["on-demand", "spot", "spot-or-on-demand"] = Field(
        "on-demand", description="where build machines are bought; spot is cheaper, and AWS may take the machine back"
    )

    gpus: str = Field("all", pattern=r"^$|^all$|^\d+$", description="value of docker run --gpus; empty on machines without a GPU")
    map_network: Literal["none", "host", "bridge"] = Field("none", description="network of the MAP container")
    map_hosting: Literal["warm", "per_study"] = Field(
        "warm", description="warm: keep the MAP's imports in memory where its answers prove to be the same; per_study: a container a study"
    )
    studies_at_once: str = Field(
        "auto",
        pattern=r"^auto$|^[1-8]$",
        description="studies inferred at once on a host: auto finds by measuring how many answer the most a minute; or a number, 1 to 8",
    )
    map_timeout_s: int = Field(
        1800, ge=10, le=18000, description="longest run of one study in seconds; SQS keeps a job for 12 hours, in which it may run twice"
    )
    map_memory_mib: int = Field(12288, ge=256, le=1048576, description="memory limit of the MAP container in MiB")
    idle_stop_minutes: float = Field(5.0, gt=0, le=1440, description="an idle host stops after this many minutes")
    upload_max_mib: int = Field(8192, ge=1, le=1048576, description="largest upload as stored, in MiB")
    unpacked_max_mib: int = Field(24576, ge=1, le=4194304, description="largest upload unpacked, in MiB")
    upload_max_files: int = Field(50000, ge=1, le=1000000, description="most files in one upload, over all of its zips")
    unpack_max_ratio: int = Field(250, ge=2, le=10000, description="unpacked to stored size, judged from 256 MiB on; a zip bomb exceeds it")
    unpack_max_depth: int = Field(1, ge=0, le=3, description="levels of zips inside the zip that are opened")
    unpack_max_seconds: int = Field(900, ge=10, le=7200, description="longest unpacking of one upload in seconds")
    require_volume: bool = Field(
        False, description="refuse studies in which no series is a regular volume (geometry known, no plane missing)"
    )
    host_count: int = Field(1, ge=1, le=50, description="number of inference hosts; of a group the most there may be")
    fleet: Literal["hosts", "autoscaling"] = Field(
        "hosts",
        description="hosts: that many named machines, stopped while idle. autoscaling: an EC2 Auto Scaling group of none to that many",
    )
    fleet_on_demand_base: int = Field(0, ge=0, le=50, description="in a group so many instances are On-Demand before any is Spot")
    fleet_spot_percent: int = Field(
        0, ge=0, le=100, description="in a group so many of a hundred instances above that base are Spot; 0: all are On-Demand"
    )
    fleet_warm_pool: int = Field(
        0,
        ge=0,
        le=50,
        description="stopped instances that a group keeps beside those at work; 0: none. Beside Spot or several instance types AWS is "
        "asked each time; where it refuses, instances are launched when they are needed, and inference_host says so",
    )
    replace_host_after: int = Field(
        0,
        ge=0,
        le=100,
        description="another host is made in the place of one that could not start so many times in a row; 0: never by itself",
    )

    phi_policy: Literal["reject", "quarantine", "deidentify", "allow"] = Field(
        "allow", description="what to do with identified studies; this version answers them as they are, so only allow is taken"
    )
    study_key_secret_arn: str = Field(
        "",
        pattern=r"^$|^arn:[\w:/+=.@-]+$",
        examples=["arn:aws:secretsmanager:us-east-1:123456789012:secret:NAME"],
        description="secret of the study pseudonyms; empty: the one made by bootstrap",
    )
    archive: Literal["none", "healthimaging", "dicomweb"] = Field(
        "none", description="where answered studies and their results are stored for viewers: AWS HealthImaging, or any DICOMweb archive"
    )
    datastore_id: str = Field(
        "",
        pattern=r"^$|^[0-9a-f]{32}$",
        examples=["0123456789abcdef" * 2],
        description="data store of HealthImaging, the output ImageArchive of bootstrap",
    )
    archive_address: str = Field(
        "",
        pattern=r"^$|^https?://[\w.-]+(:\d{1,5})?(/[\w.~-]+)*/?$",
        examples=["https://orthanc.example.org/dicom-web"],
        description="address of the DICOMweb archive, without /studies; hosts must reach it",
    )
    archive_secret: str = Field(
        "",
        pattern=r"^$|^[A-Za-z0-9/_+=.@-]+$|^arn:[\w:/+=.@-]+$",
        examples=["monai-aws/dev/archive"],
        description="name or ARN of the secret with user:password, or with a token, for the DICOMweb archive; empty: it asks nobody",
    )
    archive_correct: bool = Field(
        False,
        description="change what would hide a result (such as another AccessionNumber than its study's) in the archived copy; false: such "
        "a result is not archived, and named",
    )
    monthly_budget_usd: float = Field(100.0, gt=0, description="monthly budget of the deployment in USD")
    study_max_seconds: int = Field(
        0, ge=0, le=18000, description="the lineage asks to look at an inference that took longer; 0: four fifths of map_timeout_s"
    )
    study_max_usd: float = Field(0.0, ge=0, le=10000, description="the lineage asks to look at a study that cost more; 0: not judged")

    alarm_topic_arn: str = Field(
        "",
        pattern=r"^$|^arn:[\w:/+=.@-]+$",
        examples=["arn:aws:sns:us-east-1:123456789012:NAME"],
        description="SNS topic that the deployment's alarms tell; empty: they only show in CloudWatch",
    )
    notify: str = Field(
        "",
        pattern=r"^$|^arn:[\w:/+=.@-]+$|^[A-Za-z0-9/_+=.@-]+$",
        examples=["monai-aws/dev/notify"],
        description="how people are told of what fails: sns (the topic of the alarms), an SNS topic's ARN, or name or ARN of the secret "
        "that holds a webhook's address (Slack, Teams, …); empty: nobody is told",
    )
    ui_address: str = Field(
        "",
        pattern=r"^$|^https?://[^\s@]+$",
        examples=["https://dagster.example.org"],
        description="where people reach Dagster's UI, for the links in what they are told; make ui fills it in",
    )
    alarm_job_minutes: int = Field(60, ge=5, le=10080, description="an alarm is raised when a job waits, or is worked on, for longer")
    alarm_host_hours: float = Field(24, gt=0, le=8760, description="an alarm is raised when a host has been running for so many hours")
    results_expire_days: int = Field(
        0, ge=0, le=36500, description="results leave the bucket after so many days, at least 16; 0: never. What Dagster has recorded stays"
    )
    originals_expire_days: int = Field(
        0,
        ge=0,
        le=36500,
        description="originals of answered and of refused uploads leave the bucket after so many days, at least 16; 0: never. "
        "Without its original no study can be answered again",
    )
    log_retention_days: int = Field(90, description="how long the wake function's log is kept; one of the numbers that CloudWatch takes")
    maps_kept: int = Field(
        0,
        ge=0,
        le=1000,
        description="MAPs that the sweep keeps in ECR beside the live one: so many of those pushed last, and of those live last; 0: all. "
        "Only where no other deployment uses the repository",
    )
    promote_on_deploy: bool = Field(
        True,
        description="true: inference_host makes the newest MAP live, after a host has answered its golden study where it has one and takes "
        "another MAP's place; false: only promote_map does, once there is a live one",
    )
    on_source_change: Literal["observe", "build", "promote"] = Field(
        "observe", description="what a new version of the source starts: nothing, build_map, or build_map and a promotion"
    )
    folder_quiet_minutes: float = Field(
        10.0, ge=0, le=1440, description="a folder under input/ that received nothing for so long is complete; 0: only with _READY"
    )
    wake_every_minutes: int = Field(5, ge=1, le=60, description="the wake function also runs on this schedule")
    rebuild_cron: str = Field("0 3 * * 1", description="cron of scheduled_map_rebuild, UTC")
    ami_refresh_cron: str = Field("0 2 1 * *", description="cron of scheduled_ami_refresh, UTC")
    sweep_cron: str = Field("17 * * * *", description="cron of scheduled_orphan_sweep, UTC")
    results_interval_s: int = Field(30, ge=2, le=3600, description="how often the sensor looks for results")
    study_window: int = Field(
        20_000,
        ge=100,
        le=100_000,
        description="studies that are partitions of inference_result, those that came last; older ones are found in studies_by_day and can "
        "be called back. Dagster advises no more than 100,000",
    )
    host_python: str = Field("3.12", pattern=r"^3\.\d{1,2}$", description="Python of the base image (Ubuntu 24.04 has 3.12)")
    map_python: str = Field("3.12", pattern=r"^3\.\d{1,2}$", description="Python of the MAP base image")
    local_profile: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="account profiles of the embedded AWS (docs/local-cloud.md), for monai-aws local up and the demo"
    )
    code_url: str = Field(
        "",
        pattern=r"^$|^https?://[\w.:-]+(/[\w.~%+/-]*)?[^/]$",
        examples=["https://github.com/OWNER/REPOSITORY/blob/main"],
        description="web address of this project's folder at a branch, to which pages in Dagster link; empty: they name the files here",
    )
    links_url: str = Field(
        "http://127.0.0.1:3070",
        pattern=r"^$|^https?://[A-Za-z0-9.-]+(:\d{1,5})?$",
        examples=["http://127.0.0.1:3070"],
        description="where a browser opens the portal (monai-aws portal) and studies' pages, as the lineage links to them; empty: neither",
    )
    console_url: str = Field(
        "auto",
        pattern=r"^$|^auto$|^https?://[A-Za-z0-9.-]+(:\d{1,5})?$",
        examples=["auto"],
        description="AWS console that links to S3 lead to; auto: the region's own; empty: none, as the embedded AWS sets it",
    )
    portal_listen: str = Field(
        "127.0.0.1",
        pattern=r"^[0-9a-fA-F.:]{2,39}$",
        description="address that the portal listens on; another than loopback only with portal_load_balancer",
    )
    portal_load_balancer: str = Field(
        "",
        pattern=r"^$|^arn:[\w-]+:elasticloadbalancing:[\w-]+:\d{12}:loadbalancer/app/[\w/-]+$",
        examples=["arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/portal/0123456789abcdef"],
        description="ARN of the Application Load Balancer that logs the portal's users in: requests without its signature are refused; "
        "empty: nobody is asked",
    )
    portal_keys_url: str = Field(
        "auto",
        pattern=r"^auto$|^https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[\w.-]+)*$",
        examples=["auto"],
        description="where the load balancer's public keys are read; auto: the region's own address of AWS",
    )
    cache_dir: Path = Field(PROJECT_ROOT / ".cache", description="wheels, model and study fetched at set-up")

    @field_validator("base_ami")
    @classmethod
    def _base_named(cls, value: str) -> str:
        value = BASES.get(value, value)
        kind, colon, rest = value.partition(":")
        if kind == "name" and colon:
            if not re.fullmatch(r"[\w .()*?/@'\[\]-]{3,128}", rest) or len(re.sub(r"[*?\W]", "", rest)) < 3:
                raise ValueError(
                    "expected an image's name after name:, 3 to 128 characters, with * and ? for what changes and at least three letters "
                    "or digits; for example 'name:Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04)*'"
                )
        elif not re.fullmatch(r"ssm:/[\w./-]+|ami-[0-9a-f]{8,17}", value):
            raise ValueError(
                f"expected {', '.join(BASES)}, ami- and 8 to 17 hex digits, ssm: and a parameter's path that starts with /, "
                "or name: and a name"
            )
        return value

    @field_validator("notify")
    @classmethod
    def _topic_or_secret(cls, value: str) -> str:
        if value.startswith("arn:") and value.split(":")[2] not in ("sns", "secretsmanager"):
            raise ValueError("expected sns, the ARN of an SNS topic, or the name or ARN of a secret in Secrets Manager")
        return value

    @field_validator("log_retention_days")
    @classmethod
    def _days_that_cloudwatch_takes(cls, value: int) -> int:
        if value not in LOG_DAYS:
            raise ValueError(f"CloudWatch keeps logs for one of {', '.join(map(str, LOG_DAYS))} days")
        return value

    @field_validator("results_expire_days", "originals_expire_days")
    @classmethod
    def _days_that_outlive_a_message(cls, value: int) -> int:
        if 0 < value < 16:
            raise ValueError("expected 0, or at least 16 days: a job may come back from its queues for 14")
        return value

    @field_validator("ami_regions")
    @classmethod
    def _regions_named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in value if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", name)]
        if wrong:
            raise ValueError(f"expected names such as eu-central-1, separated by commas; not a region: {', '.join(wrong)}")
        return value

    @field_validator("subnets")
    @classmethod
    def _subnets_named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in value if not re.fullmatch(r"subnet-[0-9a-f]{8,17}", name)]
        if wrong:
            raise ValueError(f"expected ids such as subnet-0123456789abcdef0, separated by commas; not a subnet: {', '.join(wrong)}")
        return value

    @field_validator("instance_types", "ami_regions", "subnets", "local_profile", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("instance_types")
    @classmethod
    def _types_named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in value if not re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", name)]
        if wrong or not value:
            raise ValueError(f"expected names such as g4dn.xlarge, separated by commas; not a type: {', '.join(wrong) or '(empty)'}")
        return value

    @field_validator("model_sha256", "golden_study_sha256", "golden_reference_sha256")
    @classmethod
    def _hashes(cls, value: str, info: ValidationInfo) -> str:
        hashes = [part.strip().lower() for part in value.split(",")] if value.strip() else []  # Windows prints them in capitals
        wrong = [part for part in hashes if not re.fullmatch(r"[0-9a-f]{64}", part)]
        if wrong:
            raise ValueError(f"expected 64 hex digits, as `sha256sum FILE` prints them; {wrong[0]!r} has {len(wrong[0])} characters")
        if len(hashes) > 1 and info.field_name != "model_sha256":
            raise ValueError(f"expected one hash, for there is one file; found {len(hashes)}")
        return ",".join(hashes)

    @field_validator("phi_policy")
    @classmethod
    def _phi_as_is(cls, value: str) -> str:
        # A policy that is accepted and not applied would be believed.
        if value != "allow":
            raise ValueError("this version neither finds nor removes identifiers: set allow, and upload studies that may be processed so")
        return value

    @field_validator("rebuild_cron", "ami_refresh_cron", "sweep_cron")
    @classmethod
    def _cron(cls, value: str) -> str:
        from dagster._utils.schedules import is_valid_cron_schedule  # only where settings are loaded, never on a host

        if not is_valid_cron_schedule(value):
            raise ValueError("expected five cron fields such as '0 3 * * 1'")
        return value

    @model_validator(mode="after")
    def _together(self) -> Settings:
        for name in ("golden_study", "golden_reference"):
            if getattr(self, name) and not getattr(self, f"{name}_sha256"):
                raise ValueError(f"{name}_sha256 is missing: give the SHA-256 of the file at {name}, so that an altered file is noticed")
        if self.golden_reference and not self.golden_study:
            raise ValueError("golden_study is missing: a golden_reference is what its result is compared with")
        if self.notify == "sns" and not self.alarm_topic_arn:
            raise ValueError("notify is sns, and alarm_topic_arn is empty: set it to the stack's output AlarmTopicArn (--alarm-email)")
        if self.root_volume_kms_key and not self.root_volume_encrypted:
            raise ValueError("root_volume_kms_key is set, but root_volume_encrypted is off: set one or the other")
        if self.archive == "healthimaging" and not self.datastore_id:
            raise ValueError("archive is healthimaging, and datastore_id is empty: set it to the stack's output ImageArchive")
        if self.archive == "dicomweb" and not self.archive_address:
            raise ValueError("archive is dicomweb, and archive_address is empty: give the archive's address, up to before /studies")
        if self.fleet == "autoscaling" and self.ami_mode == "stock":
            raise ValueError("fleet is autoscaling, and ami_mode is stock: a group launches instances by itself, from a baked image")
        mixes = self.fleet == "autoscaling" and (self.fleet_spot_percent > 0 or len(self.instance_types) > 1)
        if mixes and self.fleet_on_demand_base > self.host_count:
            raise ValueError(
                f"fleet_on_demand_base is {self.fleet_on_demand_base}, and host_count is {self.host_count}: AWS takes no group whose "
                "On-Demand base is more than its most instances; lower the first or raise the second"
            )
        if self.reach == "endpoint" and self.ssh_port != 22:
            raise ValueError("ssh_port is not 22, and an EC2 Instance Connect Endpoint carries SSH to no other: set 22, or reach to public")
        return self

    @cached_property
    def names(self) -> Names:
        """Names of everything in this deployment."""
        return Names(self.deployment)

    @property
    def study_seconds(self) -> int:
        """The longest that a study may take on a host: what fails beside others is run once more, alone."""
        return 2 * self.map_timeout_s

    def require_bucket(self) -> str:
        """The bucket, or SettingsError where it is needed and not given."""
        if not self.bucket:
            raise SettingsError("MONAI_AWS_BUCKET is empty: name the bucket that infra/bootstrap.yaml created (its output 'Bucket').")
        return self.bucket


def load_settings(**overrides: Any) -> Settings:
    """Read environment and ``.env``. Raises SettingsError listing every wrong setting by name, value and remedy."""
    try:
        return Settings(**overrides)
    except ValidationError as wrong:
        lines = ["These settings are wrong:"]
        for error in wrong.errors(include_url=False):
            name = str(error["loc"][0]) if error["loc"] else ""
            known = Settings.model_fields.get(name)
            label = f"MONAI_AWS_{name.upper()}" if name else "together"
            shown = "(not shown)" if name in _NOT_SHOWN else re.sub(r"(?<=://)[^/@]+@", "[redacted]@", repr(error["input"]))
            value = f" = {shown}" if name else ""
            meant = f" ({known.description})" if known and known.description else ""
            expected = error["msg"].removeprefix("Value error, ")
            if known and error["type"] == "string_pattern_mismatch":
                expected = f"expected a value such as {(known.examples or [known.default])[0]}"  # nobody should have to read a pattern
            lines.append(f"  {label}{value}{meant}: {expected}")
        raise SettingsError("\n".join(lines)) from None
