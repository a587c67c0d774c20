"""The command line, ``monai-aws``: what an administrator, an operator and a first-time user do outside the Dagster UI.

Here belong arguments, output and exit codes; every command calls a function that is tested elsewhere. Named errors are printed
as they are, with their remedy; anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table

from monai_aws_pipeline import __version__
from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import deploy_stack, stack_name
from monai_aws_pipeline.cloud.sweep import sweep as sweep_cloud
from monai_aws_pipeline.contract import INPUT_PREFIX, ContractError, job_id
from monai_aws_pipeline.settings import PROJECT_ROOT, SettingsError, load_settings

CONSOLE = Console(highlight=False)


def _say(text: str) -> None:
    CONSOLE.print(text, markup=False, soft_wrap=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="monai-aws")
def cli() -> None:
    """MONAI models put to work on AWS. The lineage itself is worked with in the Dagster UI."""


@cli.command()
@click.option("--down", is_flag=True, help="End every process of the demo instead of running it.")
def demo(down: bool) -> None:
    """From an empty machine to an inferred study with its lineage, on the embedded AWS."""
    from monai_aws_pipeline import demo as steps

    place = steps.Workplace.default()
    if down:
        steps.down(place, CONSOLE)
    else:
        steps.run(place, CONSOLE)


@cli.command()
def ui() -> None:
    """Start the Dagster UI of the demo again, on loopback."""
    from monai_aws_pipeline.dagster_processes import DagsterProcesses
    from monai_aws_pipeline.demo import UI_PORT, Workplace

    place = Workplace.default()
    environment = place.environment()
    if not environment:
        raise click.ClickException("There is no demo here yet. Run: make demo")
    _say(f"The UI answers at {DagsterProcesses(place.home).start(environment, UI_PORT, _say)}")


@cli.group()
def local() -> None:
    """The embedded AWS on this machine (docs/local-cloud.md)."""


def _local_options(command: click.decorators.FC) -> click.decorators.FC:
    command = click.option("--port", default=4566, show_default=True, help="Loopback port of its front door.")(command)
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        default=Path(".local-cloud"),
        show_default=True,
        help="Folder that holds all of its state.",
    )(command)


@local.command("up")
@_local_options
def local_up(state_dir: Path, port: int) -> None:
    """Start it; one that runs already is left as it is."""
    from monai_aws_pipeline.local_cloud import commands
    from monai_aws_pipeline.local_cloud.config import configure

    commands.up(configure(state_dir, port), _say)
    _say(f"To use it in this shell:  set -a; . {state_dir / 'env'}; set +a")


@local.command("down")
@_local_options
def local_down(state_dir: Path, port: int) -> None:
    """Stop it. Objects and pushed images stay in its state folder."""
    from monai_aws_pipeline.local_cloud import commands
    from monai_aws_pipeline.local_cloud.config import configure

    commands.down(configure(state_dir, port), _say)


@local.command("status")
@_local_options
def local_status(state_dir: Path, port: int) -> None:
    """What of it runs."""
    from monai_aws_pipeline.local_cloud import commands
    from monai_aws_pipeline.local_cloud.config import configure

    _say(str(commands.status(configure(state_dir, port))))


@local.command("reset")
@_local_options
def local_reset(state_dir: Path, port: int) -> None:
    """Stop it and delete all of its state."""
    from monai_aws_pipeline.local_cloud import commands
    from monai_aws_pipeline.local_cloud.config import configure

    commands.reset(configure(state_dir, port), _say)


@cli.command()
@click.option("--bucket", required=True, help="Name of the bucket to create.")
@click.option("--require-tls/--allow-plain-http", default=True, show_default=True, help="Refuse plain HTTP on the bucket.")
def bootstrap(bucket: str, require_tls: bool) -> None:
    """Deploy infra/bootstrap.yaml as an administrator: roles, bucket, study key."""
    settings = load_settings()
    outputs = deploy_stack(
        Clients(settings.region).cloudformation,
        stack_name(settings.deployment),
        PROJECT_ROOT / "infra" / "bootstrap.yaml",
        {
            "Deployment": settings.deployment,
            "Owner": settings.owner,
            "BucketName": bucket,
            "EcrRepository": settings.ecr_repository,
            "RequireTls": str(require_tls).lower(),
        },
        _say,
    )
    for name, value in outputs.items():
        _say(f"{name}: {value}")


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def upload(paths: tuple[Path, ...]) -> None:
    """Upload zipped studies under a neutral name; prints the job of each."""
    settings = load_settings()
    clients = Clients(settings.region)
    bucket = settings.require_bucket()
    for path in paths:
        # The file's own name may be a patient's: what is uploaded is named by its content.
        key = f"{INPUT_PREFIX}{_content_name(path)}.zip"
        clients.s3.upload_file(str(path), bucket, key)
        head = clients.s3.head_object(Bucket=bucket, Key=key)
        _say(f"{key}: job {job_id(bucket, key, head.get('VersionId', '') or head['ETag'])}")


def _content_name(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:20]


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def status(as_json: bool) -> None:
    """Machines, queues and the live MAP of this deployment."""
    settings = load_settings()
    clients = Clients(settings.region)
    names = settings.names
    machines = [
        {"id": m.id, "role": m.tags.get("monai-aws:role", ""), "state": m.state, "type": m.type}
        for m in Machines(clients.ec2, settings.deployment).find()
    ]
    queues = {}
    for queue in (names.uploads_queue, names.uploads_dead_letters, names.jobs_queue, names.jobs_dead_letters):
        try:
            url = clients.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
            attributes = clients.sqs.get_queue_attributes(
                QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            )["Attributes"]
            queues[queue] = {
                "waiting": int(attributes["ApproximateNumberOfMessages"]),
                "at_work": int(attributes["ApproximateNumberOfMessagesNotVisible"]),
            }
        except clients.sqs.exceptions.QueueDoesNotExist:
            queues[queue] = {"waiting": -1, "at_work": -1}
    try:
        live = clients.ssm.get_parameter(Name=names.live_map_parameter)["Parameter"].get("Value", "")
    except clients.ssm.exceptions.ParameterNotFound:
        live = ""
    if as_json:
        print(json.dumps({"machines": machines, "queues": queues, "live_map": live}, indent=2))
        return
    table = Table(title=f"deployment {settings.deployment}", title_justify="left")
    for column in ("what", "which", "state"):
        table.add_column(column)
    for machine in machines:
        table.add_row(machine["role"], machine["id"], f"{machine['state']} ({machine['type']})")
    for name, depth in queues.items():
        state = "not there" if depth["waiting"] < 0 else f"{depth['waiting']} waiting, {depth['at_work']} at work"
        table.add_row("queue", name, state)
    table.add_row("live MAP", live or "none", "")
    CONSOLE.print(table)


@cli.command()
def sweep() -> None:
    """Remove machines, key pairs and security groups whose time is over."""
    settings = load_settings()
    removed = sweep_cloud(Clients(settings.region), settings.deployment, run_ids=None, report=_say)
    _say(f"{len(removed)} removed" if removed else "nothing was left behind")


def main() -> None:
    """Entry point. Named errors end with exit code 1 and their text alone."""
    from examples.brain_mri.fetch import FetchError
    from monai_aws_pipeline.dagster_processes import DagsterProcessError
    from monai_aws_pipeline.demo import DemoError
    from monai_aws_pipeline.local_cloud.errors import LocalCloudError

    named = (SettingsError, CloudError, ContractError, LocalCloudError, DemoError, DagsterProcessError, FetchError)
    try:
        cli()
    except named as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except (ClientError, BotoCoreError) as error:
        _say(f"AWS did not do what was asked: {error}")
        _say("Check credentials, region and endpoint (aws sts get-caller-identity), and that the operator role is used.")
        sys.exit(1)
