"""The agent's command line on the host.

``run`` is the systemd unit; ``prepare`` pulls the live MAP; ``prove`` lets a MAP of the registry answer the golden study that its labels
name; ``golden`` does so with an image and files of this machine; ``inventory`` says what is in an image, ``at-work`` which jobs are in
hand. All but ``run`` print one JSON line.
Here belongs putting the pieces together and process matters: signals, logging, exit codes. Exit codes: 0 done, 2 wrong configuration,
3 the MAP could not be made ready, 4 the golden study was not answered as expected, 1 anything else.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.archive.connection import connect
from monai_aws_pipeline.contract import AgentExit
from monai_aws_pipeline.host_agent import golden
from monai_aws_pipeline.host_agent.agent import RUNTIME_FOLDER, STATE_FOLDER, WORK_FOLDER, Agent, BootOnce, Preparing, SignOfLife, power_off
from monai_aws_pipeline.host_agent.archiving import Archiver
from monai_aws_pipeline.host_agent.at_once import AtOnce, this_machine
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.aws.fleet_membership import GroupInstance
from monai_aws_pipeline.host_agent.aws.instance_metadata import read_host, target_lifecycle_state
from monai_aws_pipeline.host_agent.aws.job_queue import JobsQueue
from monai_aws_pipeline.host_agent.aws.spot_interruption import Notice
from monai_aws_pipeline.host_agent.config import DEFAULT_PATH, AgentConfig, ConfigError, load_config
from monai_aws_pipeline.host_agent.cost_ledger import Bill
from monai_aws_pipeline.host_agent.errors import JobError
from monai_aws_pipeline.host_agent.job_status import Board, read_board
from monai_aws_pipeline.host_agent.job_steps import HostContext, as_job_error
from monai_aws_pipeline.host_agent.membership import GroupMember, Membership, NamedHost, Surroundings
from monai_aws_pipeline.host_agent.runtime import image_inventory
from monai_aws_pipeline.host_agent.runtime.engine import Engine
from monai_aws_pipeline.host_agent.runtime.hosting import Hosting, OneAtATime, PerStudy
from monai_aws_pipeline.host_agent.runtime.live_map import LiveMap, describe, is_image
from monai_aws_pipeline.host_agent.runtime.side_by_side import SideBySide
from monai_aws_pipeline.host_agent.runtime.warm_runner import WARM, Warm
from monai_aws_pipeline.host_agent.stopping import Stop, stop_on_signals
from monai_aws_pipeline.maps.spec.expectation import ExpectationError, read_json
from monai_aws_pipeline.maps.spec.run import Limits

if TYPE_CHECKING:
    from boto3.session import Session

log = logging.getLogger("monai-aws-agent")

BOARD_FILE = RUNTIME_FOLDER / "at-work.json"
_START_TRIES = 12
_START_PAUSE_S = 5.0
_CALLS_TO_GROUP = Config(retries={"mode": "standard", "max_attempts": 2}, connect_timeout=2, read_timeout=5)
"""A study waits for its instance's protection."""
_CALLS = Config(retries={"mode": "standard", "max_attempts": 6}, connect_timeout=5, read_timeout=60)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="monai-aws-agent", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, help="agent.json")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="answer jobs until idle, then stop the machine")
    run.add_argument("--when-idle", choices=("poweroff", "exit"), default="poweroff", help="exit: end the agent only, for debugging")
    prepare = commands.add_parser("prepare", help="pull a MAP and print one JSON line about it")
    prepare.add_argument("--image", type=_image, help="registry/repository@sha256:…; without it, the live MAP")
    prove = commands.add_parser("prove", help="let a MAP answer the golden study that its labels name, and print one JSON line")
    prove.add_argument("--image", type=_image, required=True, help="registry/repository@sha256:…")
    gate = commands.add_parser("golden", help="the same with an image and files of this machine; needs no agent.json")
    gate.add_argument("--image", required=True, help="any reference that the container engine knows")
    gate.add_argument("--study", type=Path, required=True, help="the zipped study")
    gate.add_argument("--expect", type=Path, required=True, help="the expectation as JSON")
    gate.add_argument("--reference", type=Path, help="a DICOM SEG to compare with")
    gate.add_argument("--gpus", default="", help="value of docker run --gpus")
    gate.add_argument("--network", choices=("none", "host", "bridge"), default="none", help="network of the container")
    gate.add_argument("--memory-mib", type=int, default=Limits.memory_mib, help="memory limit in MiB")
    gate.add_argument("--timeout-s", type=int, default=Limits.timeout_s, help="longest run in seconds")
    commands.add_parser("at-work", help="print one JSON line about the jobs in hand; needs no agent.json")
    contents = commands.add_parser("inventory", help="print one JSON line about what is in an image of this machine; needs no agent.json")
    contents.add_argument("--image", required=True, help="any reference that the container engine knows")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    for name in ("botocore", "s3transfer", "urllib3"):  # their warnings quote addresses, in which an upload's key stands
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if chosen.command == "golden":
            return _golden(chosen)
        if chosen.command in ("at-work", "inventory"):
            told = json.dumps(read_board(BOARD_FILE)) if chosen.command == "at-work" else image_inventory.take(chosen.image).to_json()
            sys.stdout.write(told + "\n")
            return AgentExit.DONE
        config = load_config(chosen.config)
        if chosen.command == "prove":
            return _prove(config, chosen.image)
        return _prepare(config, chosen.image) if chosen.command == "prepare" else _run(config, powering_off=chosen.when_idle == "poweroff")
    except (ConfigError, ExpectationError) as error:
        log.critical("%s", error)
        return AgentExit.WRONG_CALL
    except JobError as error:
        log.critical("%s %s", error, error.remedy)
        return AgentExit.NOT_READY


def _run(config: AgentConfig, *, powering_off: bool) -> int:
    boot = BootOnce(RUNTIME_FOLDER)
    stop = stop_on_signals()
    session = boto3.Session(region_name=config.region)
    engine = Engine(RUNTIME_FOLDER / "docker", stop=stop)
    at_once = _at_once(config, engine)
    hosting = _hosting(config, engine, STATE_FOLDER / "warm", at_once, shared=True)
    context = HostContext(
        config=config,
        store=Store(session.client("s3", config=_CALLS), config.bucket, stop),
        queue=JobsQueue(session.client("sqs", config=_CALLS), config.jobs_queue),
        engine=engine,
        hosting=hosting,
        live_map=_live_map(session, engine, config),
        secret=_study_key(session, config, stop),
        host=read_host(),
        work=WORK_FOLDER,
        stop=stop,
        limits=config.intake,
        bill=Bill(WORK_FOLDER.parent / "unpaid.json", boot.take),
        board=Board(BOARD_FILE),
        archiver=_archiver(session, config, stop),
        at_once=at_once,
    )
    try:
        membership = _membership(session, context) if powering_off else NamedHost(config.idle_stop_minutes * 60, lambda: None)
        with closing(membership), Notice(context.leave, stop):
            again = Agent(context, membership, boot, Preparing(RUNTIME_FOLDER).held, SignOfLife(RUNTIME_FOLDER)).run()
    finally:
        hosting.close()
    return AgentExit.AGAIN if again else AgentExit.DONE


def _membership(session: Session, context: HostContext) -> Membership:
    config, preparing = context.config, Preparing(RUNTIME_FOLDER)
    idle_limit_s = config.idle_stop_minutes * 60
    if not (config.fleet_group and context.host.instance_id):
        return NamedHost(idle_limit_s, power_off)

    def prepare() -> None:
        try:
            with preparing():
                context.live_map.ready("", context.stop)
        except Exception as error:  # no study is in hand: the first one finds the same, and says it
            log.warning("the live MAP is not made ready (%s); the first job does it", as_job_error(error).cause)

    instance = GroupInstance(session.client("autoscaling", config=_CALLS_TO_GROUP), config.fleet_group, context.host.instance_id)
    around = Surroundings(context.leave, context.stop, context.board, prepare, preparing.held, power_off, SignOfLife(RUNTIME_FOLDER))
    return GroupMember(instance, around, idle_limit_s, target_lifecycle_state)


def _archiver(session: Session, config: AgentConfig, stop: Stop) -> Archiver | None:
    place = config.archive_place
    if not place:
        return None

    def client(service: str) -> Any:
        return session.client(service, config=_CALLS)  # type: ignore[call-overload]  # one of two, by the kind of archive

    store = Store(session.client("s3", config=_CALLS), config.bucket, stop)
    return Archiver(store, lambda: connect(place, client, session.get_credentials(), pause=stop.wait), stop, correct=place.correct)


def _prepare(config: AgentConfig, image: str | None) -> int:
    session = boto3.Session(region_name=config.region)
    live_map = _live_map(session, Engine(RUNTIME_FOLDER / "docker-prepare"), config)
    with Preparing(RUNTIME_FOLDER)():
        ready = live_map.make_ready(image, threading.Event()) if image else live_map.ready("", threading.Event())
    line = {"image": ready.image, "digest": ready.facts.digest, "bytes": ready.bytes, "seconds": round(ready.seconds, 3)}
    sys.stdout.write(json.dumps(line, sort_keys=True) + "\n")
    return AgentExit.DONE


def _prove(config: AgentConfig, image: str) -> int:
    started = time.monotonic()
    session = boto3.Session(region_name=config.region)
    stop = stop_on_signals()
    engine = Engine(RUNTIME_FOLDER / "docker-prove", stop=stop)
    with Preparing(RUNTIME_FOLDER)(), golden.scratch(STATE_FOLDER) as folder:
        ready = _live_map(session, engine, config).make_ready(image, stop)
        given = golden.from_labels(engine.facts(image).labels, Store(session.client("s3", config=_CALLS), config.bucket), folder)
        at_once = _at_once(config, engine, is_shared=True)  # the agent's warm containers stay while this has its turn
        hosting = _hosting(config, engine, folder / "warm", at_once)  # so that a golden study proves as well how the MAP can be hosted
        try:
            verdict = golden.examine(hosting, config.limits, stop, ready, given, folder) if given else None
        finally:
            hosting.close()
    sys.stdout.write(golden.report(image, ready.facts.digest, verdict, started) + "\n")
    return AgentExit.DONE if verdict is None or verdict.passed else AgentExit.MISSED


def _golden(chosen: argparse.Namespace) -> int:
    started = time.monotonic()
    stop = stop_on_signals()
    engine = Engine(RUNTIME_FOLDER / "docker-golden", stop=stop)
    given = golden.Given(chosen.study, read_json(chosen.expect.read_bytes()), chosen.reference)
    limits = Limits(timeout_s=chosen.timeout_s, memory_mib=chosen.memory_mib, gpus=chosen.gpus, network=chosen.network)
    ready = describe(engine.facts(chosen.image), 0.0)
    with golden.scratch(STATE_FOLDER) as folder:
        verdict = golden.examine(OneAtATime(PerStudy(engine), RUNTIME_FOLDER), limits, stop, ready, given, folder)
    sys.stdout.write(golden.report(chosen.image, "", verdict, started) + "\n")
    return AgentExit.DONE if verdict.passed else AgentExit.MISSED


def _at_once(config: AgentConfig, engine: Engine, *, is_shared: bool = False) -> AtOnce:
    machine = this_machine(engine.gpu.total_bytes() if config.gpus else None, is_shared=is_shared)
    return AtOnce(config.studies_at_once, machine, config.limits, STATE_FOLDER / "at-once", engine.gpu.total_bytes)


def _hosting(config: AgentConfig, engine: Engine, folder: Path, at_once: AtOnce, *, shared: bool = False) -> Hosting:
    """The way that the setting asks for, one process's MAP at a time. ``folder``: where warm containers' studies appear, nobody else's."""
    verdicts = STATE_FOLDER / "hosting"
    chosen = Warm(engine, verdicts, folder) if config.map_hosting == WARM else PerStudy(engine)
    proofs = folder.with_name(f"{folder.name}-side-by-side")
    proved = SideBySide(chosen, verdicts / "side-by-side", proofs, at_once.may_share, at_once.proved, at_once.shared_mib)
    return OneAtATime(proved, RUNTIME_FOLDER, shared=shared, waited=at_once.begin_anew)


def _image(text: str) -> str:
    if not is_image(text):
        raise argparse.ArgumentTypeError("expected registry/repository@sha256:digest")
    return text


def _live_map(session: Session, engine: Engine, config: AgentConfig) -> LiveMap:
    return LiveMap(session.client("ssm", config=_CALLS), session.client("ecr", config=_CALLS), engine, config.live_map_parameter)


def _study_key(session: Session, config: AgentConfig, stop: Stop) -> bytes:
    client = session.client("secretsmanager", config=_CALLS)
    for left in range(_START_TRIES, -1, -1):
        try:
            secret = client.get_secret_value(SecretId=config.study_key_secret)
            break
        except (ClientError, BotoCoreError) as error:
            # Right after a machine's birth its role may not be known everywhere yet: IAM is eventually consistent.
            log.warning("the study key cannot be read (%s); %d more tries", error.__class__.__name__, left)
            if not left:
                raise
            stop.wait(_START_PAUSE_S)
    key = secret["SecretString"].encode() if secret.get("SecretString") else secret.get("SecretBinary", b"")
    if len(key) < 16:
        raise ConfigError("the study key secret is shorter than 16 characters; bootstrap generates one of 64")
    return key


if __name__ == "__main__":
    sys.exit(main())
