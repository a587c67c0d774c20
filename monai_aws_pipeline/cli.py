"""The command line, ``monai-aws``: what an administrator, an operator and a first-time user do outside the Dagster UI.

Here belong arguments, what is said, and exit codes. Tables are in ``cli_tables``, and every command calls a function that is tested
elsewhere. Named errors are printed as they are, with their remedy; anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline import __version__, cli_tables
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import stack_name
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import ROLE_INFERENCE, is_job, utc_text
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.operations.orphaned_outputs import sweep_outputs
from monai_aws_pipeline.operations.sweep import sweep as sweep_cloud
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings
from monai_aws_pipeline.terminal import literal_console, print_table, progress_bar

if TYPE_CHECKING:
    from monai_aws_pipeline.operations.failures import Failures
    from monai_aws_pipeline.operations.find import Found
    from monai_aws_pipeline.operations.status import DeploymentState

CONSOLE = literal_console()
LOCAL_EXTRA: Final = frozenset({"ministack", "moto", "hypercorn", "h11", "werkzeug", "nibabel", "highdicom"})
"""What the extra ``local`` brings, as it is imported."""


def _say(text: str) -> None:
    CONSOLE.print(text, soft_wrap=True)


def _show(table: cli_tables.Table) -> None:
    print_table(CONSOLE, *table)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="monai-aws")
def cli() -> None:
    """MONAI models put to work on AWS. The lineage itself is worked with in the Dagster UI."""


@cli.command()
@click.option("--down", is_flag=True, help="End every process of the demo instead of running it.")
@click.option("--rollback", "roll_back", is_flag=True, help="After the demo: a second MAP version, a study by each, and the way back.")
def demo(down: bool, roll_back: bool) -> None:
    """From an empty machine to an inferred study with its lineage, on the embedded AWS."""
    if down and roll_back:
        raise click.UsageError("--down ends the demo, --rollback needs it: choose one.")
    _find_the_example()
    from monai_aws_pipeline.demo import steps

    place = steps.Workplace.default()
    if down:
        steps.down(place, CONSOLE)
    elif roll_back:
        from monai_aws_pipeline.demo.rollback import show

        show(place, CONSOLE)
    else:
        steps.run(place, CONSOLE)


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Loopback port; default: 3000, or the next that is free.")
def ui(port: int | None) -> None:
    """Start the Dagster UI of the demo, or of MONAI_AWS_DEPLOYMENT, on the embedded AWS; on loopback.

    Settings are those that are exported, then those of .env, then the demo's (docs/local-cloud.md, "A deployment of your own").
    """
    _find_the_example()
    from monai_aws_pipeline.demo.deployments import dotenv_file, open_ui
    from monai_aws_pipeline.demo.steps import Workplace

    _say(f"The UI answers at {open_ui(Workplace.default(), dict(os.environ), dotenv_file(), port, _say)}")


def _find_the_example() -> None:
    """Let the demo import its example: it lies in the clone and is not installed, so that nobody gets a package called ``examples``."""
    if not (PROJECT_ROOT / "examples" / "brain_mri" / "__init__.py").exists():
        raise click.ClickException("The demo needs a clone of this project, which holds its example. See README.md, 'Run it'.")
    sys.path.insert(0, str(PROJECT_ROOT))


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
@click.option(
    "--profile", default="", metavar="NAME[,NAME]", help="Which kind of account it is (docs/local-cloud.md), such as organisation."
)
def local_up(state_dir: Path, port: int, profile: str) -> None:
    """Start it; one that runs already is left as it is."""
    from monai_aws_pipeline.local_cloud import commands
    from monai_aws_pipeline.local_cloud.config import configure

    named = tuple(name.strip() for name in profile.split(",") if name.strip())
    commands.up(configure(state_dir, port, profiles=named), _say)
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
@click.option("--bucket", help="Bucket of studies and results; needed the first time.")
@click.option("--existing-bucket/--own-bucket", default=None, help="The bucket is there already and is left as it is.")
@click.option("--versioning/--no-versioning", default=None, help="Keep overwritten and deleted objects for a week.")
@click.option("--require-tls/--allow-plain-http", default=None, help="Refuse plain HTTP on the bucket that the stack makes.")
@click.option("--model-bucket", "models", multiple=True, metavar="BUCKET[/PREFIX]", help="Where models lie that the operator may read.")
@click.option("--kms-key", "keys", multiple=True, metavar="ARN", help="Customer key of bucket, models or disks; the first is the bucket's.")
@click.option("--alarm-email", help="Who is told of alarms.")
@click.option("--budget-email", help="Who is warned of the monthly budget (MONAI_AWS_MONTHLY_BUDGET_USD).")
@click.option("--budget-counts", type=click.Choice(["account", "deployment"]), help="deployment: only what bears its tag.")
@click.option("--github-subject", help="The one GitHub branch whose workflows may be the operator (docs/aws.md).")
@click.option("--archive", type=click.Choice(["none", "healthimaging"]), help="healthimaging: a data store that hosts may store in.")
@click.option("--portal-origin", help="Origin of the portal's pages, which may send uploads to the bucket that the stack makes.")
@click.option("--yes", is_flag=True, help="Apply without asking.")
def bootstrap(bucket: str | None, models: tuple[str, ...], keys: tuple[str, ...], yes: bool, **said: Any) -> None:
    """Deploy infra/bootstrap.yaml as an administrator: roles, bucket, study key. What is not named keeps the value it has."""
    from monai_aws_pipeline.cloud.stack import apply, check_transport, propose, stack_parameters, withdraw
    from monai_aws_pipeline.operations.bootstrap import TEMPLATE, check_bucket, cors_command, object_arns, parameters

    settings = load_settings()
    clients, name = Clients(settings.region), stack_name(settings.deployment)
    current = stack_parameters(clients.cloudformation, name)
    if not bucket and not current:
        raise click.UsageError("--bucket is needed the first time.")
    if bucket and bucket != current.get("BucketName"):
        check_bucket(clients.s3, bucket, exists=bool(said["existing_bucket"]))
    if not said["existing_bucket"]:
        asked_tls, has_tls = said["require_tls"], current.get("RequireTls", "true") == "true"
        check_transport(clients.plain_http, has_tls if asked_tls is None else asked_tls)
    asked = parameters(
        settings,
        {
            "BucketName": bucket,
            "ExistingBucket": _yes_or_no(said["existing_bucket"], "true", "false"),
            "Versioning": _yes_or_no(said["versioning"], "Enabled", "Suspended"),
            "RequireTls": _yes_or_no(said["require_tls"], "true", "false"),
            "ModelObjects": object_arns(models, clients.partition()) if models else None,
            "KmsKeyArns": ",".join(keys) if keys else None,
            "AlarmEmail": said["alarm_email"],
            "BudgetEmail": said["budget_email"],
            "BudgetCounts": said["budget_counts"],
            "GitHubSubject": said["github_subject"],
            "Archive": said["archive"],
            "PortalOrigin": said["portal_origin"],
        },
    )
    proposal = propose(clients.cloudformation, name, TEMPLATE, asked, _say)
    if proposal.changes:
        _show(cli_tables.changes_of_a_stack(proposal))
        if not yes and not click.confirm("Apply these changes?"):
            withdraw(clients.cloudformation, proposal)
            _say("Nothing was changed.")
            return
    for output, value in apply(clients.cloudformation, proposal, _say).items():
        _say(f"{output}: {value}")
    chosen = {**current, **asked}
    if said["portal_origin"] and chosen.get("ExistingBucket") == "true":
        command = cors_command(chosen["BucketName"], asked["PortalOrigin"])
        _say(f"The bucket is not the stack's. So that it takes uploads from the portal: {command}")
    if asked.get("AlarmEmail"):
        _say(f"AWS has sent a mail to {asked['AlarmEmail']}: alarms are told only after the link in it was followed.")


def _yes_or_no(said: bool | None, yes: str, no: str) -> str | None:
    return None if said is None else yes if said else no


@cli.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable: a list of {check, state, what, remedy}.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Ask before the first run whether account and settings allow it; changes nothing. See also: doctor app.

    The exit code is 1 where something is an error; warnings and what was skipped leave it 0.
    """
    if context.invoked_subcommand:
        return
    from monai_aws_pipeline.operations.preflight import State, in_order, preflight

    settings = load_settings()
    answers = preflight(Clients(settings.region), settings, lambda text: click.echo(text, err=True))
    if as_json:
        print(json.dumps([answer.as_dict() for answer in answers], indent=2))
    else:
        _show(cli_tables.preflight_answers(settings, answers))
        counts = {state: sum(answer.state is state for answer in answers) for state in State}
        _say(f"{len(answers)} checks: {', '.join(f'{count} {state}' for state, count in counts.items() if count)}.")
    if not in_order(answers):
        sys.exit(1)


@doctor.command("app")
def doctor_app() -> None:
    """Examine application and model as the settings name them, before anything is paid for."""
    from monai_aws_pipeline.cloud.objects import looking_into
    from monai_aws_pipeline.deployment.doctor import consult
    from monai_aws_pipeline.deployment.source_login import asked_login
    from monai_aws_pipeline.maps.findings import Severity

    settings = load_settings()
    s3 = Clients(settings.region).s3
    with scratch("monai-aws-doctor") as folder:
        seen = consult(
            settings,
            target=folder,
            download_s3=lambda bucket, key, path: s3.download_file(bucket, key, str(path)),
            look_s3=looking_into(s3),
            login=lambda: asked_login(settings),
            report=_say,
        )
    if seen.findings:
        _show(cli_tables.findings_of_an_application(settings.app_source, seen.findings))
    for finding in seen.findings:
        if finding.paste:
            _say(f"\nready to paste into {finding.into or finding.file} ({finding.severity} in {finding.point}):\n{finding.paste}")
    if all(finding.severity is Severity.INFO for finding in seen.findings):
        _say("Nothing is known against building this application.")
    if seen.errors:
        sys.exit(1)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Wait for the answer of each study and show it.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds for each; default: twice the MAP's time limit and 15 minutes.")
@click.option("--again", is_flag=True, help="A new job although the same content was uploaded before, for a study that failed.")
def upload(paths: tuple[Path, ...], wait: bool, timeout: float | None, again: bool) -> None:
    """Upload studies, zips or folders, under neutral names; prints the job of each."""
    from monai_aws_pipeline.operations.results_store import ResultsStore
    from monai_aws_pipeline.operations.status import ResultLine
    from monai_aws_pipeline.operations.upload import ANSWER_ALLOWANCE_SECONDS, check_upload, pack, upload_study, wait_answer
    from monai_aws_pipeline.operations.whereabouts import where

    settings = load_settings()
    clients = Clients(settings.region)
    bucket = settings.require_bucket()
    for path in paths:  # all of them before the first one goes
        check_upload(path)
    uploaded = []
    for path in paths:
        with scratch("monai-aws-upload") as folder:
            archive = path
            if path.is_dir():
                archive = folder / "study.zip"
                pack(path, archive)
            with progress_bar(CONSOLE, archive.stat().st_size, "uploading") as advance:
                done = upload_study(clients, bucket, archive, again, advance)
        _say(f"{done.key}: job {done.job}, {done.bytes / 1e6:.1f} MB")
        uploaded.append(done)
    if not wait:
        return
    store, seconds = ResultsStore(clients.s3, bucket), timeout or settings.study_seconds + ANSWER_ALLOWANCE_SECONDS
    failed = False
    for done in uploaded:
        for record in wait_answer(store, done.job, seconds, partial(where, clients, settings, [done.job]), _say):
            line = ResultLine.of(record)
            failed = failed or line.status != "succeeded"
            _say(f"{line.status}: study {line.study or 'unknown'}, {line.result_key}, {line.seconds:.1f} s, {line.cost_usd:.4f} USD")
            if record.error:
                _say(f"  {record.error.text}")
    if failed:
        sys.exit(1)


@cli.command()
def portal() -> None:
    """Serve the portal (MONAI_AWS_LINKS_URL) until Ctrl-C: drop a study, follow it, and the pages that the lineage links to."""
    from monai_aws_pipeline.operations.results_store import ResultsStore
    from monai_aws_pipeline.portal.server import serve
    from monai_aws_pipeline.studies.rerun import Reruns

    settings = load_settings()
    clients = Clients(settings.region)
    reruns = Reruns(clients, settings, ResultsStore(clients.s3, settings.require_bucket()), _say)
    serve(settings, _say, lambda study, failed: reruns.ask(study, failed).job)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("--watch", is_flag=True, help="Look every two seconds until Ctrl-C.")
@click.option("--job", help="Where this one job is, or how it ended.")
def status(as_json: bool, watch: bool, job: str | None) -> None:
    """Machines, queues, dead letters, the live MAP and the last results of this deployment."""
    from monai_aws_pipeline.operations.find import find_job
    from monai_aws_pipeline.operations.status import Watch

    if as_json and watch:
        raise click.UsageError("--json shows the state once; leave out --watch.")
    if job and (as_json or watch):
        raise click.UsageError("--job tells of one job in words; leave out --json and --watch.")
    settings = load_settings()
    if job:
        found = find_job(Clients(settings.region), settings, job)
        _tell(found)
        sys.exit(any(trace.state == "unknown" for trace in found.traces))
    deployment = Watch(Clients(settings.region), settings)
    state = deployment.look()
    if as_json:
        print(json.dumps(state.as_dict(), indent=2))
        return
    _show_status(state)
    with suppress(KeyboardInterrupt):
        while watch:
            time.sleep(2.0)
            try:
                state = deployment.look()
            except (ClientError, BotoCoreError) as error:  # who watches overnight does not want one lost answer to end it
                _say(f"AWS did not answer: {error}")
                continue
            CONSOLE.clear()
            _show_status(state)


def _show_status(state: DeploymentState) -> None:
    _show(cli_tables.state_of_a_deployment(state))
    _say(f"live MAP: {state.live_map or 'none'}")
    _say(f"dead letters: {state.dead_letters}{'; look for the cause, then: monai-aws replay' if state.dead_letters else ''}")


@cli.command()
@click.argument("wanted", metavar="KEY|PATH")
def find(wanted: str) -> None:
    """What became of an upload: KEY under input/, the SHA-256 of one, or PATH of what was uploaded.

    The exit code is 1 where nothing is known of it.
    """
    from monai_aws_pipeline.operations.find import find as find_upload

    settings = load_settings()
    with repeating(partial(click.echo, err=True)) as tell:
        tell("looking under input/, among dead letters, on the hosts and through the results")
        found = find_upload(Clients(settings.region), settings, wanted)
    _tell(found)
    if not found.traces:
        _say("unknown: it was never uploaded to this bucket, has expired, or is older than what was looked through")
        sys.exit(1)


def _tell(found: Found) -> None:
    for trace in found.traces:
        _say(f"{trace.state}: {f'job {trace.job}: ' if trace.job else ''}{trace.words}")
    _say(f"looked through: {', '.join(found.looked)}")


@cli.command()
@click.argument("wanted", metavar="JOB|STUDY")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Folder for the files.")
def get(wanted: str, folder: Path) -> None:
    """Results and log of a job, or of a study's latest answer, into a folder; writes over nothing that is there."""
    from monai_aws_pipeline.operations.fetch import fetch, records_of
    from monai_aws_pipeline.operations.results_store import ResultsStore

    settings = load_settings()
    store = ResultsStore(Clients(settings.region).s3, settings.require_bucket())
    incomplete = False
    for record in records_of(store, wanted):
        _say(f"{record.status.value}: study {record.study or 'unknown'}, job {record.job}")
        if record.error:
            _say(f"  {record.error.text}")
        total = sum(output.bytes for output in record.outputs)
        with repeating(_say) as tell, progress_bar(CONSOLE, total, "fetching") as advance:
            tell(f"  fetching {len(record.outputs)} files, {total / 1e6:.1f} MB")
            for each in fetch(store, record, folder, advance or (lambda _: None)):
                said = each.trouble or f"{each.path}: {each.bytes} bytes{', there already' if each.kept else ''}"
                _say(f"  {said}")
                incomplete = incomplete or bool(each.trouble)
    if incomplete:
        sys.exit(1)


@cli.command()
@click.option("--since", default="2d", show_default=True, metavar="AGO|TIME", help="30m, 12h, 2d; 2026-01-31 or 2026-01-31T08:00Z.")
@click.option("--code", default="", help="Those with this code alone.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def failures(since: str, code: str, as_json: bool) -> None:
    """The studies without an answer, newest first: why, and what to do. One that was answered since is none."""
    from monai_aws_pipeline.operations.failures import failures as read_failures
    from monai_aws_pipeline.operations.results_store import ResultsStore

    now = datetime.now(UTC)
    start = _since(since, now)
    settings = load_settings()
    store = ResultsStore(Clients(settings.region).s3, settings.require_bucket())
    with repeating(partial(click.echo, err=True)) as tell:
        tell(f"reading results back to {utc_text(start)}")
        found = read_failures(store, start, now, code)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _show_failures(found)


def _since(text: str, now: datetime) -> datetime:
    from monai_aws_pipeline.operations.moment import MomentError, moment

    try:
        return moment(text, now)
    except MomentError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error


def _show_failures(found: Failures) -> None:
    from monai_aws_pipeline.operations.unanswered import counts_by_code

    if found.rows:
        _show(cli_tables.unanswered_studies(found))
    counts = ", ".join(f"{count} {code}" for code, count in counts_by_code(found.rows).items())
    _say(f"{len(found.rows)} without an answer since {found.since}{f': {counts}' if counts else ''}")
    if found.other_codes:
        _say(f"with another code: {', '.join(f'{count} {code}' for code, count in found.other_codes.items())}")
    if found.unreadable:
        _say(f"{found.unreadable} results could not be read: they are damaged, or have expired.")
    if not found.complete:
        _say(f"Only the newest {found.looked} results were read; say a shorter time with --since for all of it.")


@cli.command()
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@click.option("--job", help="The dead letters of one job.")
@click.option("--since", metavar="AGO|TIME", help="Those first sent at or after 30m, 12h, 2d ago; 2026-01-31 or 2026-01-31T08:00Z.")
def replay(everything: bool, job: str | None, since: str | None) -> None:
    """Bring messages back from the dead-letter queues, after their cause was removed."""
    from monai_aws_pipeline.operations.replay import Wanted, replay_dead_letters

    if everything == bool(job or since):
        raise click.UsageError("Say which: --all, or --job JOB, --since TIME or both.")
    if job and not is_job(job):
        raise click.BadParameter("a job has 32 lower-case hex digits, as in monai-aws status", param_hint="--job")
    wanted = Wanted(job or "", _since(since, datetime.now(UTC)) if since else None)
    settings = load_settings()
    incomplete = False
    for done in replay_dead_letters(Clients(settings.region), settings, wanted, _say):
        _say(f"{done.queue}: {done.moved} brought back, {done.left} left")
        for message in done.unreadable:
            _say(f"  message {message} cannot be read and stays; look at it in the SQS console")
        incomplete = incomplete or not done.complete
    if incomplete:
        _say("There was more than fits into ten minutes. Run it again for the rest.")
        sys.exit(1)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def maps(as_json: bool) -> None:
    """The MAPs in the registry, the newest first: which is live, which was before."""
    from monai_aws_pipeline.operations.live_maps import LiveMaps

    settings = load_settings()
    found = LiveMaps(Clients(settings.region), settings, _say).maps()
    if as_json:
        print(json.dumps([{**asdict(each.image), "standing": each.standing} for each in found], indent=2))
        return
    _show(cli_tables.maps_of_a_registry(settings, found))


@cli.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.pass_context
def hosts(context: click.Context, as_json: bool) -> None:
    """The inference hosts: state, type, zone, and why the last start failed. See also: hosts replace."""
    if context.invoked_subcommand:
        return
    from monai_aws_pipeline.cloud.instances import Machines
    from monai_aws_pipeline.operations.hosts import lines

    settings = load_settings()
    found = lines(Machines(Clients(settings.region).ec2, settings.deployment).find(ROLE_INFERENCE), settings.replace_host_after)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return
    _show(cli_tables.inference_hosts(settings, found))


@hosts.command("replace")
@click.argument("wanted", metavar="[HOST]...", nargs=-1)
@click.option("--all-failed", is_flag=True, help="Every host whose last start failed.")
def hosts_replace(wanted: tuple[str, ...], all_failed: bool) -> None:
    """Have others made in the place of hosts, in another zone where they could not start. Dagster makes them, within a minute."""
    from monai_aws_pipeline.cloud.instances import Machines
    from monai_aws_pipeline.operations.hosts import ask_replacement

    if bool(wanted) == all_failed:
        raise click.UsageError("Say which: hosts by their ids (monai-aws hosts lists them), or --all-failed.")
    settings = load_settings()
    machines = Machines(Clients(settings.region).ec2, settings.deployment)
    if not ask_replacement(machines, wanted, datetime.now(UTC), _say, all_failed=all_failed):
        _say("No host's last start failed; nothing is to be replaced.")
        return
    _say("Dagster's sensor hosts_to_replace starts the job replace_hosts within a minute. A host goes when another has taken its place.")
    _say("If Dagster's daemon does not run, start that job, or materialise inference_host.")


@cli.command()
@click.argument("wanted", metavar="[MAP]", default="")
@click.option("--why", default="", help="The reason, kept with the change.")
@click.option(
    "--require-golden", is_flag=True, help="Fail unless a host answered the MAP's golden study now, also where it is live already."
)
@click.option("--built", is_flag=True, help="The MAP that map_image has made last in this DAGSTER_HOME, in place of the one pushed last.")
def promote(wanted: str, why: str, require_golden: bool, built: bool) -> None:
    """Make a MAP live after a host has answered its golden study; by default the one pushed last. MAP is a tag or a digest."""
    from monai_aws_pipeline.operations.live_maps import LiveMaps

    if built and wanted:
        raise click.UsageError("Name a MAP, or say --built.")
    settings = load_settings()
    maps = LiveMaps(Clients(settings.region), settings, _say)
    chosen = _built_map() if built else wanted
    maps.promote(chosen, who=f"{settings.owner}, monai-aws promote", why=why, require_golden=require_golden)


def _built_map() -> str:
    """Digest of the MAP that the Dagster of this environment has made last."""
    from dagster import DagsterInstance

    from monai_aws_pipeline.deployment.lineage import latest_version

    if "DAGSTER_HOME" not in os.environ:
        raise click.UsageError("--built needs DAGSTER_HOME to say which Dagster has built it.")
    with DagsterInstance.get() as instance:
        digest = latest_version(instance, "map_image")
    if not digest:
        raise click.UsageError("The Dagster of this DAGSTER_HOME has not made a map_image yet.")
    return digest


@cli.command()
@click.argument("wanted", metavar="[MAP]", default="")
@click.option("--why", default="", help="The reason, kept with the change.")
def rollback(wanted: str, why: str) -> None:
    """Go back to a MAP that was live before; by default the one before the present one. Takes seconds, builds and asks nothing."""
    from monai_aws_pipeline.operations.live_maps import LiveMaps

    settings = load_settings()
    LiveMaps(Clients(settings.region), settings, _say).rollback(wanted, who=f"{settings.owner}, monai-aws rollback", why=why)


@cli.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-images", is_flag=True, help="Keep the MAP images and their ECR repository.")
def teardown(yes: bool, keep_images: bool) -> None:
    """Remove what the lineage has made. The administrator's stack and the bucket's objects stay."""
    from monai_aws_pipeline.operations.teardown import Teardown, plan

    settings = load_settings()
    down = Teardown(Clients(settings.region), settings, _say)
    going = plan(down.inventory(), keep_images)
    if not going:
        _say(f"There is nothing of deployment {settings.deployment} to remove.")
        return
    if not yes:
        _say(f"This would go of deployment {settings.deployment}:")
        for thing in going:
            _say(f"  {thing}")
        click.confirm("Remove all of it?", abort=True)
    outcome = down.run(going, keep_images)
    for thing in outcome.left:
        _say(f"still there: {thing}")
    if outcome.left:
        _say("Run it again; what is gone does not matter to it. If something stays, its error above says why.")
        sys.exit(1)
    _say(f"{len(outcome.removed)} removed; looked again, and nothing is left. The bucket {settings.bucket} and its stack stay.")


@cli.command()
def sweep() -> None:
    """Remove machines, key pairs and security groups whose time is over, outputs that no result names, and MAPs beyond those kept."""
    from monai_aws_pipeline.operations.retention import remove_old_maps

    settings = load_settings()
    clients = Clients(settings.region)
    removed = sweep_cloud(clients, settings.deployment, run_ids=None, report=_say, regions=settings.ami_regions)
    removed += sweep_outputs(clients.s3, settings.require_bucket(), _say)
    removed += remove_old_maps(clients, settings, _say)
    _say(f"{len(removed)} removed" if removed else "nothing was left behind")


@cli.command("move-storage")
@click.option("--from", "source", type=click.Path(path_type=Path), required=True, help="The DAGSTER_HOME that keeps its storage in SQLite.")
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="A folder whose dagster.yaml names a PostgreSQL.")
def move_storage(source: Path, target: Path) -> None:
    """Move Dagster's storage from SQLite into an empty PostgreSQL: runs, events, lineage, sensors' state. All of it or nothing.

    Stop daemon and webserver first. See docs/team.md, "From one machine to a team".
    """
    from monai_aws_pipeline.storage_move import move

    moved = move(source, target, _say)
    _say(f"Moved: {moved}.")
    _say(f"Start webserver and daemon with DAGSTER_HOME={target} from now on. What is in {source} stays as it was, as a copy of today.")


def main() -> None:
    """Entry point. Named errors end with exit code 1 and their text alone."""
    # Dagster's notes to developers about its beta interfaces: the versions are pinned, and a user can do nothing about them.
    warnings.filterwarnings("ignore", message=r"(Function|Parameter|Class|Property) `")
    try:
        cli()
    except (ClientError, BotoCoreError, Boto3Error) as error:
        _say(f"AWS did not do what was asked: {error}")
        _say("Check credentials, region and endpoint, and that the operator role is used: monai-aws doctor names what is wrong.")
        sys.exit(1)
    except NamedError as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in LOCAL_EXTRA:
            raise
        _say(f"{error.name} is not installed, which the demo and the embedded AWS need.")
        _say("Run: make demo, which installs it; or install this project with its extra: pip install -e '.[local]'")
        sys.exit(1)
