"""A whole platform on the embedded AWS for tests: bootstrap stack, operator role, Dagster instance, and the steps a user takes.

Here belongs what several integration and end-to-end tests do with a platform. Everything is the product's own code; only settings
differ (a tiny application, short waits).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult

from monai_aws_pipeline.archive.connection import NONE
from monai_aws_pipeline.cloud.instances import Machine, Machines
from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import (
    INDEX_PREFIX,
    JOBS_PREFIX,
    ROLE_INFERENCE,
    TAG_CONTENT,
    TAG_DEPLOYMENT,
    IndexEntry,
    ResultRecord,
    job_done_key,
    job_id,
    version_of,
)
from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.demo.idle_cost import idle_periods
from monai_aws_pipeline.demo.steps import become_operator
from monai_aws_pipeline.local_cloud.commands import LocalCloud, control
from monai_aws_pipeline.settings import PROJECT_ROOT, Settings, load_settings

TINY_APP = PROJECT_ROOT / "tests" / "apps" / "tiny"


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """The process's environment with these values, and as it was afterwards."""
    before = dict(os.environ)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass
class Platform:
    """One deployment on a running embedded AWS. ``log`` collects what deployment code reported."""

    cloud: LocalCloud
    settings: Settings
    clients: Clients
    instance: DagsterInstance
    variables: Mapping[str, str]
    log: list[str] = field(default_factory=list)

    def materialize(
        self, *assets: str, raise_on_error: bool = True, run_config: Any = None, tags: Mapping[str, str] | None = None
    ) -> ExecuteInProcessResult:
        """Materialise assets in this process, as the jobs do, and keep the run in the instance."""
        with environment(self.variables):
            repository = build_defs(self.settings).get_repository_def()
            job = repository.get_job("deploy_all")
            return job.execute_in_process(
                instance=self.instance,
                asset_selection=[AssetKey(name) for name in assets],
                raise_on_error=raise_on_error,
                run_config=run_config,
                tags=dict(tags or {}),
            )

    def changed(self, **variables: str) -> Platform:
        """The same platform with other settings."""
        chosen = {**self.variables, **variables}
        with environment(chosen):
            return replace(self, settings=load_settings(), variables=chosen)

    def adopt_image(self) -> None:
        """Take over the image that an earlier deployment on this cloud has baked, if there is one: baking another takes a minute.

        What is in it is what this deployment would bake as long as its tag says the same content; otherwise ``gpu_ami`` bakes anew.
        """
        with environment(self.cloud.environment):
            ec2 = boto3.Session().client("ec2")
            baked = ec2.describe_images(Owners=["self"], Filters=[{"Name": "tag-key", "Values": [TAG_CONTENT]}])["Images"]
            for image in baked:
                disks = [mapping["Ebs"]["SnapshotId"] for mapping in image["BlockDeviceMappings"] if "Ebs" in mapping]
                ec2.create_tags(Resources=[image["ImageId"], *disks], Tags=[{"Key": TAG_DEPLOYMENT, "Value": self.settings.deployment}])

    def rerun(self, study: str, *, raise_on_error: bool = True) -> ExecuteInProcessResult:
        """Materialise one partition of inference_result, as the UI does."""
        with environment(self.variables):
            job = build_defs(self.settings).resolve_implicit_global_asset_job_def()
            return job.execute_in_process(
                instance=self.instance,
                asset_selection=[AssetKey("inference_result")],
                partition_key=study,
                raise_on_error=raise_on_error,
            )

    def rerun_studies(self, config: Mapping[str, Any]) -> ExecuteInProcessResult:
        """Launch the job rerun_studies, as the launchpad does."""
        with environment(self.variables):
            job = build_defs(self.settings).get_repository_def().get_job("rerun_studies")
            run_config = {"ops": {"answer_studies_again": {"config": dict(config)}}}
            return job.execute_in_process(instance=self.instance, run_config=run_config)

    def machines(self, role: str = "") -> list[Machine]:
        """Machines of this deployment that are not terminated."""
        return Machines(self.clients.ec2, self.settings.deployment).find(role)

    def upload(self, key: str, body: bytes) -> str:
        """Put an object; returns the job it becomes."""
        put = self.clients.s3.put_object(Bucket=self.settings.bucket, Key=key, Body=body)
        return job_id(self.settings.bucket, key, version_of(put.get("VersionId")) or put["ETag"])

    def keys(self, prefix: str) -> list[str]:
        """All keys under a prefix."""
        pages = self.clients.s3.get_paginator("list_objects_v2").paginate(Bucket=self.settings.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        """One object."""
        return self.clients.s3.get_object(Bucket=self.settings.bucket, Key=key)["Body"].read()

    def entries(self) -> dict[str, list[IndexEntry]]:
        """All index entries by job."""
        found: dict[str, list[IndexEntry]] = {}
        for key in self.keys(INDEX_PREFIX):
            entry = IndexEntry.from_json(self.read(key).decode())
            found.setdefault(entry.job, []).append(entry)
        return found

    def answers(self, jobs: Sequence[str], seconds: float = 180) -> dict[str, list[ResultRecord]]:
        """Wait until every job is done, all its studies committed; the commit records by job. Fails with what machines and queues show."""
        deadline = time.monotonic() + seconds
        while True:
            done = set(self.keys(JOBS_PREFIX))
            if all(job_done_key(job) in done for job in jobs):
                entries = self.entries()  # a job is marked done after the last of them
                return {job: [ResultRecord.from_json(self.read(entry.key).decode()) for entry in entries[job]] for job in jobs}
            if time.monotonic() > deadline:
                missing = [job for job in jobs if job_done_key(job) not in done]
                raise AssertionError(f"no answer to {missing}; machines: {[(m.id, m.state) for m in self.machines()]}; {self.diagnosis()}")
            time.sleep(0.5)

    def wait_stopped(self, seconds: float = 120, at_work_minutes: float = 0.0) -> None:
        """Wait until every inference host is stopped, and check that none idled longer than it may (``check_idle_cost``)."""
        deadline = time.monotonic() + seconds
        while any(machine.state != "stopped" for machine in self.machines(ROLE_INFERENCE)):
            assert time.monotonic() < deadline, f"hosts do not stop: {[(m.id, m.state) for m in self.machines()]}; {self.diagnosis()}"
            time.sleep(0.3)
        self.check_idle_cost(at_work_minutes)

    def check_idle_cost(self, at_work_minutes: float = 0.0) -> None:
        """Each host that stopped itself was off within ``idle_stop_minutes`` and a minute after its own last answer, or its start.

        ``at_work_minutes``: so long it had something to do behind its answer, as one has that tries an archive which is away.
        """
        allowed = self.settings.model_copy(update={"idle_stop_minutes": self.settings.idle_stop_minutes + at_work_minutes})
        idle_periods(self.clients, allowed, control(self.cloud.config, "GET", "/_local/health")["machines"])

    def on_host(self, machine_id: str, script: str, seconds: int = 60) -> str:
        """Run a script as root on a running machine; its standard output."""
        commands = Commands(self.clients.ssm)
        commands.wait_online(machine_id)
        ended = commands.run(machine_id, script, seconds=seconds)
        assert ended.exit_code == 0, f"{script!r} ended with {ended.exit_code}: {ended.stderr}"
        return ended.stdout

    def wake(self) -> None:
        """What the schedule does every few minutes, now."""
        called = self.clients.functions.invoke(FunctionName=self.settings.names.wake_function, Payload=b'{"source": "monai-aws.test"}')
        assert "FunctionError" not in called, called["Payload"].read()

    def diagnosis(self) -> str:
        """What an operator would look at first: the agent's last log lines of a running host, and the queues' depths."""
        parts = []
        for machine in self.machines(ROLE_INFERENCE):
            if machine.state == "running":
                sent = self.clients.ssm.send_command(
                    InstanceIds=[machine.id],
                    DocumentName="AWS-RunShellScript",
                    Parameters={"commands": ["journalctl -u monai-aws-agent --no-pager -n 40; systemctl status monai-aws-agent | head -5"]},
                )["Command"]["CommandId"]
                time.sleep(2)
                seen = self.clients.ssm.get_command_invocation(CommandId=sent, InstanceId=machine.id)
                parts.append(seen.get("StandardOutputContent", ""))
        names = self.settings.names
        for name in (names.uploads_queue, names.jobs_queue, names.uploads_dead_letters, names.jobs_dead_letters):
            url = self.clients.sqs.get_queue_url(QueueName=name)["QueueUrl"]
            parts.append(f"{name}: {json.dumps(self.clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=['All'])['Attributes'])}")
        return "\n".join(parts)


@contextmanager
def platform(cloud: LocalCloud, deployment: str, folder: Path, archive: str = NONE, **variables: str) -> Iterator[Platform]:
    """A deployment of the tiny application. Its machines are terminated afterwards; bucket and roles stay with the cloud."""
    with environment(cloud.environment):
        operator = become_operator(cloud.environment, deployment, folder / "aws-config", lambda _: None, archive)
    chosen = {
        **operator,
        "MONAI_AWS_APP_SOURCE": str(TINY_APP),
        "MONAI_AWS_IDLE_STOP_MINUTES": "0.1",
        "MONAI_AWS_WAKE_EVERY_MINUTES": "1",
        "MONAI_AWS_AMI_CHECK": "false",  # one more machine's start for each image
        **variables,
    }
    (folder / "dagster").mkdir()
    with environment(chosen), DagsterInstance.local_temp(str(folder / "dagster"), overrides={"telemetry": {"enabled": False}}) as instance:
        settings = load_settings()
        made = Platform(cloud, settings, Clients(settings.region), instance, chosen)
        try:
            yield made
            made.wait_stopped()  # wherever a host ran, what it cost while idle is looked at
        finally:
            for machine in made.machines():
                Machines(made.clients.ec2, made.settings.deployment).terminate(machine.id)
