"""``make demo``: from an empty machine to an inferred study with its lineage, on the embedded AWS, and back to an empty machine.

Here belong the steps a new user would take, in order, with progress and a summary. Nothing here is pipeline code: every step calls
what the UI, the CLI or an administrator would. docs/local-cloud.md says what of it is real.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError
from rich.console import Console
from rich.text import Text

from examples.brain_mri.evaluate import Evaluation, evaluate
from examples.brain_mri.fetch import ExampleFiles, fetch
from examples.brain_mri.made import made_folder
from examples.brain_mri.reference import write_golden
from examples.brain_mri.study import write_study_zip
from monai_aws_pipeline.archive.connection import HEALTHIMAGING, NONE
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import deploy_stack, stack_name
from monai_aws_pipeline.contract import INPUT_PREFIX, ROLE_INFERENCE, ResultRecord, Status, job_id, sha256_text, short_digest, version_of
from monai_aws_pipeline.contract.outputs import DICOM_SEG
from monai_aws_pipeline.demo.ahead import made_ahead
from monai_aws_pipeline.demo.dagster_processes import DagsterProcesses
from monai_aws_pipeline.demo.idle_cost import idle_periods
from monai_aws_pipeline.deployment.map_source import observation
from monai_aws_pipeline.deployment.packaging import BUILD_LINE
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.local_cloud import commands as local_cloud
from monai_aws_pipeline.local_cloud.config import configure
from monai_aws_pipeline.operations.archive import StudyArchive
from monai_aws_pipeline.operations.live_maps import LiveMaps
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.upload import wait_answer
from monai_aws_pipeline.operations.whereabouts import where
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.run_failures import why
from monai_aws_pipeline.settings import PROJECT_ROOT, Settings, load_settings
from monai_aws_pipeline.studies.record_metadata import JOB_TAG
from monai_aws_pipeline.terminal import literal_console, print_table

DEPLOYMENT: Final = "demo"
UI_PORT: Final = 3000
STUDY_SECONDS: Final = 900


class DemoError(NamedError):
    """A step of the demo did not work. The message says which and where to look."""


@dataclass
class Progress:
    """Prints each step with the time since the start, and remembers how long each took (seconds)."""

    console: Console = field(default_factory=literal_console)
    started: float = field(default_factory=time.monotonic)
    phases: dict[str, float] = field(default_factory=dict)
    _last_build_line: float = 0.0

    def line(self, text: str) -> None:
        """One line of detail. A build's output is thinned out to a line every few seconds; the run's log in Dagster has all of it."""
        if text.startswith(BUILD_LINE):
            if time.monotonic() - self._last_build_line < 5:
                return
            self._last_build_line = time.monotonic()
        self.console.print(f"{self._clock()}   {text[:160]}", style="dim", soft_wrap=True)

    @contextmanager
    def phase(self, name: str, title: str) -> Iterator[None]:
        """A step with a name for the summary and a title for the reader."""
        self.console.print(f"{self._clock()} {title}", style="bold")
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(time.monotonic() - began, 1)
        self.console.print(Text.assemble(f"{self._clock()}   ", ("done", "green"), f" in {self.phases[name]:.1f} s"))

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes:02d}:{seconds:02d}"


class MemoryWatch:
    """The most memory the whole machine had in use beyond what it had at the start, in bytes; sampled twice a second."""

    def __init__(self) -> None:
        self._start = self._used()
        self.peak = 0
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def _used() -> int:
        facts = dict(re.findall(r"^(\w+):\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE))
        return (int(facts["MemTotal"]) - int(facts["MemAvailable"])) * 1024

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self.peak = max(self.peak, self._used() - self._start)

    def stop(self) -> int:
        """End the sampling; returns the peak."""
        self._ended.set()
        return self.peak


@dataclass(frozen=True)
class Workplace:
    """The folders and processes of one demo."""

    root: Path
    state: Path
    port: int

    @classmethod
    def default(cls) -> Workplace:
        """The demo of this project folder."""
        return cls(PROJECT_ROOT / ".demo", PROJECT_ROOT / ".local-cloud", 4566)

    @property
    def home(self) -> Path:
        """DAGSTER_HOME."""
        return self.root / "dagster"

    @property
    def env_file(self) -> Path:
        """Everything a shell needs to act as the operator of this demo."""
        return self.root / "env"

    @property
    def summary(self) -> Path:
        """The machine-readable end of the last run."""
        return self.root / "summary.json"

    def environment(self) -> dict[str, str]:
        """The environment of the last run, empty where there was none."""
        return read_variables(self.env_file)

    def write_environment(self, environment: Mapping[str, str], purpose: str) -> None:
        """Write it down for the user's shell, readable by its owner only."""
        lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in environment.items())
        self.env_file.write_text(f"# {purpose}: set -a; . {self.env_file}; set +a\n{lines}")
        self.env_file.chmod(0o600)

    def of(self, deployment: str) -> Workplace:
        """The folder of a deployment of one's own on the demo's embedded AWS."""
        return Workplace(self.root / "deployments" / deployment, self.state, self.port)

    def env_files(self) -> list[Path]:
        """What was written for shells that act in deployments of one's own."""
        return sorted(self.root.glob("deployments/*/env"))

    def homes(self) -> list[Path]:
        """The DAGSTER_HOME of the demo and of each deployment of one's own."""
        return [self.home, *sorted(self.root.glob("deployments/*/dagster"))]


def read_variables(path: Path) -> dict[str, str]:
    """The variables in a file that was written for a shell; none where there is no such file."""
    if not path.exists():
        return {}
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {name: "".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in lines)}


def run(place: Workplace, console: Console | None = None) -> dict[str, Any]:
    """Do the whole way. Returns the summary that is also written to ``summary.json``. Raises what the failing step raises."""
    progress = Progress(console or literal_console())
    memory = MemoryWatch()
    place.root.mkdir(parents=True, exist_ok=True)
    previous = _read_json(place.summary)
    summary: dict[str, Any] = {"status": "failed", "started_at": datetime.now(UTC).isoformat(timespec="seconds"), "phases": progress.phases}
    try:
        with progress.phase("example", "Fetching the example's model and head volume, writing the study"):
            files = fetch(load_settings().cache_dir, progress.line)
            study_zip = _study(files, progress.line)
        with progress.phase("local_cloud", "Starting the embedded AWS"), made_ahead(load_settings().cache_dir):
            base = local_cloud.up(configure(place.state, place.port), progress.line).environment
        with progress.phase("bootstrap", "Creating roles and bucket as the administrator (infra/bootstrap.yaml)"):
            environment = _settings_of_the_demo(place, _operator(place, base, progress.line), files)
        os.environ.update(environment)
        settings = load_settings()
        clients = Clients(settings.region)
        with progress.phase("ui", "Starting Dagster as the operator role"):
            address = DagsterProcesses(place.home).start(environment, UI_PORT, progress.line)
            summary["portal"] = DagsterProcesses(place.home).portal
            progress.line(f"the UI answers at {address}" + (f", the portal at {summary['portal']}/" if summary["portal"] else ""))
        with progress.phase("deploy_all", "Materialising gpu_ami → map_image → inference_host → s3_trigger"):
            _deploy(address, settings, progress)
        with progress.phase("study", "Uploading a study and waiting for its result"):
            record, reused = _answer(clients, settings, study_zip, previous, progress.line)
        with progress.phase("lineage", "Waiting for the sensor to record it"):
            wait_recorded(record.study, progress.line)
        with progress.phase("archive", "Waiting for the host to have it stored in the archive"):
            archived = wait_archived(StudyArchive(clients, settings), record, progress.line, seconds=0 if reused else 120)
        with progress.phase("idle_stop", "Waiting for the idle host to stop itself"):
            wait_stopped(clients, settings, place, progress.line)
        with progress.phase("evaluate", "Comparing with the reference mask"):
            evaluation = _evaluate(clients, settings, record, files, place)
        summary |= _facts(clients, settings, record, evaluation, address, place)
        summary |= {
            "status": "succeeded",
            "study_reused": reused,
            "archived": archived,
            "study_links": study_links(summary["portal"], record),
        }
    finally:
        summary |= {"seconds_total": round(time.monotonic() - progress.started, 1), "peak_memory_bytes": memory.stop()}
        place.summary.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")
    print_table(progress.console, "One study, answered", ("what", "which"), _rows(summary))
    _farewell(progress.console, summary, place)
    return summary


def down(place: Workplace, console: Console | None = None) -> None:
    """End every process of the demo and of its embedded AWS. Files stay in the project folder; ``make clean`` removes them."""
    out = (console or literal_console()).print
    for home in place.homes():
        DagsterProcesses(home).stop()
    out("Dagster has ended")
    local_cloud.down(configure(place.state, place.port), out)
    out(f"the embedded AWS has ended; its bucket and registry are kept in {place.state.name}/ for the next time")


# --------------------------------------------------------------------------------------------------------------------- steps


def _study(files: ExampleFiles, report: Callable[[str], None]) -> Path:
    target = made_folder(files) / "study.zip"
    if not target.exists():
        made = write_study_zip(files.volume, target, seed="monai-aws-demo")
        report(f"wrote {made.instances} MR instances, zipped {made.bytes / 1e6:.1f} MB")
    return target


def _operator(place: Workplace, base: Mapping[str, str], report: Callable[[str], None]) -> dict[str, str]:
    return become_operator(base, DEPLOYMENT, place.root / "aws-config", report, archive=HEALTHIMAGING)


def become_operator(
    base: Mapping[str, str], deployment: str, config: Path, report: Callable[[str], None], archive: str = NONE
) -> dict[str, str]:
    """Deploy the administrator's stack with the administrator's profile; return an environment that acts as the operator role.

    ``base`` is the environment that the embedded AWS wrote; ``config`` the AWS configuration file to write the operator's profile to;
    ``archive``: whether studies are archived in a data store that is made.
    Changes this process's environment to ``base``, so that boto3 reads it.
    """
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        os.environ.pop(name, None)  # a key in the environment would win over the profile
    os.environ.update(base)
    region = base["AWS_DEFAULT_REGION"]
    administrator = Clients(region)
    outputs = deploy_stack(
        administrator.cloudformation,
        stack_name(deployment),
        PROJECT_ROOT / "infra" / "bootstrap.yaml",
        {
            "Deployment": deployment,
            "Owner": deployment,
            "BucketName": f"monai-aws-{deployment}-{administrator.account()}",
            "EcrRepository": f"monai-aws/{deployment}",
            "RequireTls": "false",  # the embedded AWS speaks plain HTTP on loopback
            "Archive": archive,
            "ArchiveSecret": f"monai-aws/{deployment}/archive",  # there need not be one
            "PortalOrigin": "http://127.0.0.1:*",  # at whichever port it finds free
            "KmsKeyArns": base.get("MONAI_AWS_ROOT_VOLUME_KMS_KEY", ""),
        },
        report,
    )
    return operator_environment(base, deployment, outputs, f"monai-aws/{deployment}", deployment, config)


def operator_environment(
    base: Mapping[str, str], deployment: str, outputs: Mapping[str, str], repository: str, owner: str, config: Path
) -> dict[str, str]:
    """An environment that acts as the operator role of a deployment's stack, by a profile that is written to ``config``."""
    region = base["AWS_DEFAULT_REGION"]
    profiles = configparser.ConfigParser()
    profiles.read(base["AWS_CONFIG_FILE"])
    profiles["profile operator"] = {"role_arn": outputs["OperatorRoleArn"], "source_profile": base["AWS_PROFILE"], "region": region}
    with config.open("w") as file:
        profiles.write(file)
    return {
        **base,
        "AWS_CONFIG_FILE": str(config),
        "AWS_PROFILE": "operator",
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "MONAI_AWS_DEPLOYMENT": deployment,
        "MONAI_AWS_OWNER": owner,
        "MONAI_AWS_BUCKET": outputs["Bucket"],
        "MONAI_AWS_ECR_REPOSITORY": repository,
        **({"MONAI_AWS_ARCHIVE": HEALTHIMAGING, "MONAI_AWS_DATASTORE_ID": outputs["ImageArchive"]} if "ImageArchive" in outputs else {}),
    }


def _settings_of_the_demo(place: Workplace, operator: Mapping[str, str], files: ExampleFiles) -> dict[str, str]:
    """The operator's environment with the example's settings, also written down for the user's shell."""
    environment = {
        **operator,
        "DAGSTER_HOME": str(place.home),
        "MONAI_AWS_MODEL_URI": str(files.model),
        "MONAI_AWS_MODEL_SHA256": files.model_sha256,
        **write_golden(files),
        "MONAI_AWS_IDLE_STOP_MINUTES": "0.25",
        "MONAI_AWS_WAKE_EVERY_MINUTES": "1",
        "MONAI_AWS_RESULTS_INTERVAL_S": "5",
    }
    place.write_environment(environment, "To act as the demo's operator")
    return environment


def _deploy(address: str, settings: Settings, progress: Progress) -> None:
    """Start deploy_all as a click in the UI does, and follow it."""
    host, _, port = address.removeprefix("http://").partition(":")
    client = DagsterGraphQLClient(host, port_number=int(port))
    with DagsterInstance.get() as instance:
        # What the sensor map_source_changed does each minute: the first lineage should not have to wait for it.
        instance.report_runless_asset_event(observation(settings))
        try:
            run_id = client.submit_job_execution("deploy_all")
        except DagsterGraphQLClientError as error:
            raise DemoError(
                f"Dagster did not start deploy_all: {error}.", f"{address}/locations says whether it could load the project."
            ) from error
        follow(instance, run_id, f"{address}/runs/{run_id}", progress)


def follow(instance: DagsterInstance, run_id: str, address: str, progress: Progress) -> None:
    """Show the log of a run until the run ends. Raises DemoError with step, cause and remedy where it fails. ``address``: of the run."""
    cursor = None
    while True:
        connection = instance.get_records_for_run(run_id, cursor=cursor, limit=500)
        cursor = connection.cursor
        for record in connection.records:
            _show(record.event_log_entry, progress)
        run = instance.get_run_by_id(run_id)
        if run is not None and run.is_finished and not connection.has_more:
            break
        time.sleep(0.5)
    if run.status is not DagsterRunStatus.SUCCESS:
        raise DemoError(why(instance, run), f"Remove the cause and run make demo again. The whole log: {address}")


def _show(entry: Any, progress: Progress) -> None:
    event = entry.dagster_event
    if event is None:
        if not re.match(r"(Writing|Loading) file", entry.user_message):  # Dagster's own, about values between ops
            progress.line(str(entry.user_message))
    elif event.event_type_value in ("STEP_START", "STEP_FAILURE", "RUN_FAILURE"):
        progress.line(f"{event.event_type_value.replace('_', ' ').lower()}: {event.step_key or event.job_name}")


def _answer(
    clients: Clients, settings: Settings, study_zip: Path, previous: Mapping[str, Any], report: Callable[[str], None]
) -> tuple[ResultRecord, bool]:
    """Upload the study and wait for its commit record; or take the record of the last run where the same MAP made it."""
    digest = LiveMaps(clients, settings, report).live()
    key = f"{INPUT_PREFIX}head-{short_digest(digest)}-{study_zip.parent.name}.zip"
    results = ResultsStore(clients.s3, settings.bucket)
    answered = str(previous.get("result_key", ""))
    found = results.record(answered) if answered else None
    if found is not None and (found.map.digest, found.input.key_sha256) == (digest, sha256_text(key)):
        report(f"the live MAP answered this study before: {found.commit_key}")
        return found, True
    put = clients.s3.put_object(Bucket=settings.bucket, Key=key, Body=study_zip.read_bytes())
    job = job_id(settings.bucket, key, version_of(put.get("VersionId")) or put["ETag"])
    report(f"uploaded {study_zip.stat().st_size / 1e6:.1f} MB; its job is {job}")
    (record,) = wait_answer(results, job, STUDY_SECONDS, partial(where, clients, settings, [job]), report)
    if record.status is not Status.SUCCEEDED:
        why = record.error.text if record.error else "no reason recorded"
        raise DemoError(f"The study was not answered ({record.status.value}): {why}")
    report(f"answered: {record.commit_key}")
    return record, False


def wait_recorded(study: str, report: Callable[[str], None], seconds: float = 120, job: str = "") -> None:
    """Wait until the sensor has recorded an answer to a study, or that of one job. Raises DemoError."""
    wanted = AssetRecordsFilter(asset_key=AssetKey("inference_result"), asset_partitions=[study])
    deadline = time.monotonic() + seconds

    def recorded(instance: DagsterInstance) -> bool:
        latest = instance.fetch_materializations(wanted, limit=1).records
        event = latest[0].asset_materialization if latest else None
        return event is not None and (not job or (event.tags or {}).get(JOB_TAG) == job)

    with DagsterInstance.get() as instance:
        while not recorded(instance):
            if time.monotonic() > deadline:
                raise DemoError("The sensor study_results did not record the study; see its ticks in the UI and .demo/dagster/daemon.log.")
            time.sleep(0.5)
    report(f"inference_result[{study}] is recorded")


def wait_archived(archive: StudyArchive, record: ResultRecord, report: Callable[[str], None], seconds: float) -> dict[str, Any]:
    """Wait for what the archive answered: instances that it has, and the seconds that storing took. Raises DemoError.

    A study that was answered before there was an archive is not waited for (0 seconds): the sensor has it stored. Then nothing is returned.
    """
    deadline = time.monotonic() + seconds
    while (found := archive.record(record.study, record.job)) is None:
        if not seconds:
            report("it was answered before there was an archive: the sensor archived_studies has it stored")
            return {}
        if time.monotonic() > deadline:
            raise DemoError("The host did not store the study in the archive; monai-aws doctor says whether that answers.")
        time.sleep(0.5)
    if not found.is_whole:
        raise DemoError(f"The study is not in the archive as it should be: {'; '.join(found.troubles)}.")
    instances = sum(each.stored + each.there for each in found.series)
    report(f"the archive has {instances} instances, stored in {found.seconds:.1f} s with {found.requests} requests")
    return {"kind": found.archive, "instances": instances, "seconds": found.seconds, "datastore": found.datastore}


def wait_stopped(clients: Clients, settings: Settings, place: Workplace, report: Callable[[str], None], seconds: float = 180) -> None:
    """Wait until every inference host has stopped itself, and say what that took. Raises DemoError, IdleCostError."""
    deadline = time.monotonic() + seconds
    machines = Machines(clients.ec2, settings.deployment)
    while any(machine.state != "stopped" for machine in machines.find(ROLE_INFERENCE)):
        if time.monotonic() > deadline:
            raise DemoError("The idle inference host did not stop; see its agent's log with monai-aws status.")
        time.sleep(0.5)
    seen = local_cloud.control(configure(place.state, place.port), "GET", "/_local/health")["machines"]
    for rest in idle_periods(clients, settings, seen):
        report(f"{rest.host} was off {rest.seconds:.0f} s after its last answer or its start")
    report("the inference host is stopped and costs nothing")


def _evaluate(clients: Clients, settings: Settings, record: ResultRecord, files: ExampleFiles, place: Workplace) -> Evaluation:
    results = place.root / "results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    segmentation: Path | None = None
    for output in record.outputs:
        target = results / Path(output.key).name
        clients.s3.download_file(settings.bucket, output.key, str(target))
        if output.kind == DICOM_SEG:
            segmentation = target
    if segmentation is None:
        raise DemoError("The study's result has no DICOM segmentation.")
    return evaluate(segmentation, files.reference)


# ------------------------------------------------------------------------------------------------------------------- summary


def _facts(
    clients: Clients, settings: Settings, record: ResultRecord, evaluation: Evaluation, address: str, place: Workplace
) -> dict[str, Any]:
    machines = Machines(clients.ec2, settings.deployment).find()
    left: dict[str, dict[str, int]] = {}
    for machine in machines:
        states = left.setdefault(machine.tags.get("monai-aws:role", "?"), {})
        states[machine.state] = states.get(machine.state, 0) + 1
    return {
        "study": record.study,
        "job": record.job,
        "result_key": record.commit_key,
        "map_digest": record.map.digest,
        "map_image": record.map.image,
        "image_bytes": Registry(clients.ecr, settings.ecr_repository).require(digest=record.map.digest).bytes,
        "model_sha256": record.map.model_sha256,
        "commit": record.map.commit,
        "host": {"instance_id": record.host.instance_id, "type": record.host.type, "ami": record.host.ami},
        "seconds": {name: getattr(record.timings, name) for name in ("queued", "boot", "download", "pull", "inference", "upload", "total")},
        "cost_usd": record.cost.usd,
        "cost_basis": record.cost.basis,
        "brain_volume_ml": round(evaluation.volume_ml, 1),
        "reference_volume_ml": round(evaluation.reference_ml, 1),
        "dice": round(evaluation.dice, 4),
        "instances_left": left,
        "ui": address,
        "lineage": f"{address}/assets/inference_result?view=lineage&lineageScope=upstream&lineageDepth=5",
        "partition": f"{address}/assets/inference_result?view=partitions&partition={record.study}",
        "bucket": f"s3://{settings.bucket}",
        "results_folder": str((place.root / "results").relative_to(PROJECT_ROOT)) if place.root.is_relative_to(PROJECT_ROOT) else "results",
    }


def study_links(portal: str, record: ResultRecord) -> dict[str, str]:
    """Where a browser opens the study's answer, by what opens there; none without a portal."""
    where = Addresses(bucket="", links=portal)
    pages = {"its answer": where.page, "the viewer": where.viewer, "in 3D": where.volume}
    return {what: page(record.study, record.job) for what, page in pages.items()} if portal else {}


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds, archived = summary["seconds"], summary["archived"]
    rows = {
        "study": f"{summary['study']}{' (answered by an earlier run)' if summary.get('study_reused') else ''}",
        "MAP digest": summary["map_digest"],
        "MAP size": f"{summary['image_bytes'] / 1e6:.0f} MB compressed",
        "model (SHA-256)": summary["model_sha256"],
        "source commit": summary["commit"],
        "host": f"{summary['host']['instance_id']} ({summary['host']['type']}, {summary['host']['ami']})",
        "seconds by phase": ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()),
        "cost": f"{summary['cost_usd']:.4f} USD ({summary['cost_basis']})",
        "brain volume": f"{summary['brain_volume_ml']:.0f} ml (reference mask {summary['reference_volume_ml']:.0f} ml)",
        "Dice": f"{summary['dice']:.3f} against the reference mask",
        "archive": f"{archived['instances']} instances in {archived['kind']} (archived_study), stored in {archived['seconds']:.1f} s"
        if archived
        else "not yet (archived_study)",
        "machines left": ", ".join(
            f"{role}: {count} {state}" for role, states in summary["instances_left"].items() for state, count in states.items()
        ),
        "portal": f"{summary['portal']}/ (drop a study there)" if summary.get("portal") else "none (MONAI_AWS_LINKS_URL is empty)",
        **summary["study_links"],
        "whole demo": f"{summary['seconds_total']:.0f} s, peak memory {summary['peak_memory_bytes'] / 2**30:.1f} GiB",
    }
    return list(rows.items())


def _farewell(console: Console, summary: Mapping[str, Any], place: Workplace) -> None:
    console.print(f"Lineage:      {summary['lineage']}", soft_wrap=True)
    console.print(f"This study:   {summary['partition']}", soft_wrap=True)
    console.print(f"Its results:  {summary['results_folder']}/ (SEG, STL, preview)")
    console.print("Your shell as the operator:  set -a; . .demo/env; set +a")
    console.print("To end everything:  make demo-down")
    console.print(
        f"The same in JSON: {place.summary.relative_to(PROJECT_ROOT) if place.summary.is_relative_to(PROJECT_ROOT) else place.summary}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
