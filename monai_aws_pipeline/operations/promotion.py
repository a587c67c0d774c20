"""Which MAP answers studies, which ones did before, and how another one takes over.

Here belong the parameter ``live-map`` with its history, which AWS keeps (the last 100 versions), and the two ways to change it: a promotion
after a host has answered the golden study with the candidate, and a rollback to a MAP that was live before, which nothing delays. What the
parameter's description has no room for, such as the points of the golden study, is kept in the bucket (``contract.change_key``). What is
decided from history and registry is in pure functions. Hosts read the parameter before each job, so that none changes its MAP within one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import CloudError, code_of
from monai_aws_pipeline.cloud.instances import Machine, Machines
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.queues import Queues
from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.cloud.run_command import Commands, ParameterVersion
from monai_aws_pipeline.contract import AGENT_PROGRAM, ROLE_INFERENCE, AgentExit, change_key, digest_in
from monai_aws_pipeline.maps.build_context import is_stage_tag
from monai_aws_pipeline.maps.spec.expectation import LABEL_STUDY, Point
from monai_aws_pipeline.operations.hosts import cannot_start

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients
    from monai_aws_pipeline.settings import Settings


TAG_PREPARED: Final = "monai-aws:prepared-map"
"""Tag of a host: the digest that was pulled onto it last."""

PULL_SECONDS: Final = 1800
MAX_POINTS: Final = 100
MAX_WHY: Final = 300
CHANGE_SCHEMA: Final = "monai-aws/live-map-change/1"
SHORTEST_PREFIX: Final = 7

_MOST_BYTES: Final = 1 << 20
_NOTE: Final = re.compile(r"\w+ \S+; before: (?P<previous>\S+); by (?P<who>.*?)(?:; why: (?P<why>.*))?", re.DOTALL)
_CORRECT: Final = "Correct the application or golden/expect.yaml, build again, and promote that."


class PromotionError(CloudError):
    """The live MAP was not changed. The message says why and what to do."""


class UnknownMapError(PromotionError):
    """No image, or more than one, has that name."""


class NotProvenError(PromotionError):
    """The candidate missed points of the golden study on a host, or no host could try it."""


class NeverLiveError(PromotionError):
    """There is no MAP to go back to, or the named one never answered studies."""


class Kind(StrEnum):
    """How a MAP became the live one. The first word of the parameter's description."""

    DEPLOY = "deploy"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Deployment:
    """One version of the parameter: the digest that became live, how, when (ISO 8601), and the words it was written with."""

    digest: str
    kind: Kind
    at: str
    note: str


@dataclass(frozen=True)
class History:
    """What the history says now. ``before``: MAPs to go back to, the nearest first. ``withdrawn``: those that a rollback took back."""

    live: str
    before: tuple[str, ...]
    withdrawn: frozenset[str]


@dataclass(frozen=True)
class GoldenCheck:
    """What a host found about a candidate. ``golden``: passed, failed or none (the MAP brings no golden study)."""

    host: str
    golden: str
    points: tuple[Point, ...]
    seconds: float

    @property
    def missed(self) -> tuple[Point, ...]:
        """The points that were not met."""
        return tuple(point for point in self.points if not point.ok)


@dataclass(frozen=True)
class Change:
    """A MAP that became live, or was so already (``changed`` is False). ``previous`` is empty for the first one. ``at``: ISO 8601, UTC."""

    kind: Kind
    image: PushedImage
    previous: str
    who: str
    why: str
    changed: bool
    proof: GoldenCheck | None = None
    at: str = ""

    def to_json(self) -> str:
        """As it is kept in the bucket."""
        return json.dumps({"schema": CHANGE_SCHEMA, **asdict(self)}, sort_keys=True)


@dataclass(frozen=True)
class ListedMap:
    """One image of the repository and what it is to the deployment: live, previous, withdrawn, was live, or nothing yet."""

    image: PushedImage
    standing: str


# ------------------------------------------------------------------------------------------------------------------- decisions


def history_of(history: Sequence[Deployment]) -> History:
    """Read a history, oldest first. A rollback takes back what came after its target, so that two in a row go two steps back."""
    stack: list[str] = []
    withdrawn: set[str] = set()
    for switch in history:
        if stack and stack[-1] == switch.digest:
            continue
        if switch.kind is Kind.ROLLBACK and switch.digest in stack:
            kept = len(stack) - stack[::-1].index(switch.digest)
            withdrawn |= set(stack[kept:])
            del stack[kept:]
        else:
            stack.append(switch.digest)
        withdrawn.discard(switch.digest)
    live = stack[-1] if stack else ""
    before = dict.fromkeys(digest for digest in reversed(stack[:-1]) if digest != live and digest not in withdrawn)
    return History(live, tuple(before), frozenset(withdrawn))


def choose_map(images: Sequence[PushedImage], wanted: str) -> PushedImage:
    """The image that a user means by a tag, a digest, its first 7 or more digits, or a whole reference; the newest for an empty text.

    ``images``: newest first. Raises UnknownMapError.
    """
    if not images:
        raise UnknownMapError("There is no MAP in the registry.", "Materialise map_image first.")
    if not wanted:
        return images[0]
    tagged = [image for image in images if {wanted, wanted.rpartition(":")[2]} & set(image.tags)]
    digits = wanted.rpartition("@")[2].removeprefix("sha256:")
    named = [image for image in images if image.digest.removeprefix("sha256:").startswith(digits)]
    found = tagged or (named if len(digits) >= SHORTEST_PREFIX and re.fullmatch(r"[0-9a-f]+", digits) else [])
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} MAPs begin with" if found else "The registry has no MAP with the tag or digest"
    raise UnknownMapError(f"{what} {wanted[:120]!r}.", "List them with: monai-aws maps")


def choose_return(images: Sequence[PushedImage], past: Sequence[Deployment], wanted: str) -> PushedImage:
    """The image to roll back to: the named one if it was live before, or the nearest that was and is still in the registry.

    Raises UnknownMapError, NeverLiveError.
    """
    now = history_of(past)
    if wanted:
        image = choose_map(images, wanted)
        if image.digest not in {switch.digest for switch in past}:
            raise NeverLiveError(
                f"{label(image)} has never answered studies here, as far back as the parameter's history goes.",
                f"Promote it, which asks the golden study first: monai-aws promote {label(image)}",
            )
        return image
    there = {image.digest: image for image in images}
    for digest in now.before:
        if digest in there:
            return there[digest]
    raise NeverLiveError("No MAP that was live before is left to go back to.", "Name one that was: monai-aws maps, monai-aws rollback MAP")


def live_after_deploy(now: History, candidate: str, present: Collection[str], promote_on_deploy: bool) -> tuple[str, str]:
    """Which digest is to be live after hosts were deployed, and why it is not the candidate (empty where it is).

    ``present``: digests in the registry. The first MAP becomes live in any case; one that a rollback took back never does.
    """
    if now.live in (candidate, "") or now.live not in present:
        return candidate, ""
    if candidate in now.withdrawn:
        return now.live, "it was taken back by a rollback; promote_map makes it live again"
    if not promote_on_deploy:
        return now.live, "MONAI_AWS_PROMOTE_ON_DEPLOY is false; promote_map makes it live"
    return candidate, ""


def asks_golden(config: Mapping[str, Any], digest: str, past: Sequence[Deployment]) -> bool:
    """Whether an image (its configuration, its digest) has to answer its golden study on a host before a deployment makes it live.

    Not the first MAP, which takes nobody's place; nor one that was live before, as with a rollback; nor one that brings no golden study.
    """
    labels = (config.get("config") or {}).get("Labels") or {}
    return bool(past) and digest not in {switch.digest for switch in past} and bool(labels.get(LABEL_STUDY))


def require_golden_check(image: PushedImage, proof: GoldenCheck, live: str, *, require_golden: bool = False) -> None:
    """Raise NotProvenError where a host did not answer the golden study as expected, or had none and one is required."""
    if proof.golden == "failed":
        missed = "; ".join(map(str, proof.missed)) or "no point was named"
        raise NotProvenError(
            f"{label(image)} missed its golden study on host {proof.host}, and {live or 'no MAP'} stays live. Missed: {missed}.",
            f"Go back to an earlier MAP: monai-aws rollback. {_CORRECT}" if live == image.digest else _CORRECT,
        )
    if proof.golden == "none" and require_golden:
        raise NotProvenError(
            f"{label(image)} brings no golden study, and {live or 'no MAP'} stays live.",
            "Set MONAI_AWS_GOLDEN_STUDY, build again, and promote that (docs/golden.md); or promote it without --require-golden.",
        )


def choose_host(hosts: Sequence[Machine]) -> Machine:
    """The host to try a candidate on: a stopped one, so that no study waits for it, else a running one; last one that could not start.

    Raises NotProvenError.
    """
    order = ("stopped", "stopping", "running", "pending")
    known = sorted((host for host in hosts if host.state in order), key=lambda host: (cannot_start(host), order.index(host.state)))
    if not known:
        raise NotProvenError("There is no inference host to answer the golden study.", "Materialise inference_host first.")
    return known[0]


def parse_golden_check(host: str, exit_code: int, stdout: str, stderr: str) -> GoldenCheck:
    """What ``monai-aws-agent prove`` said. Raises NotProvenError where it could not say anything."""
    if "invalid choice: 'prove'" in stderr:
        raise NotProvenError(
            f"The agent of host {host} is older than this project: it knows no golden study.", "Materialise gpu_ami and inference_host."
        )
    if exit_code == AgentExit.NOT_READY:
        raise NotProvenError(
            f"Host {host} could not make the MAP ready: {stderr[-800:].strip()}",
            "Check that its role may read the repository, that its disk has room, and that map_conformance passed.",
        )
    answer = last_json(stdout)
    golden = answer.get("golden")
    fitting = {int(AgentExit.DONE): ("passed", "none"), int(AgentExit.MISSED): ("failed",)}.get(exit_code, ())
    if golden not in fitting:
        raise NotProvenError(
            f"Host {host} did not say how the golden study ended (exit code {exit_code}): {stderr[-800:].strip()}",
            "Look at the command in SSM Run Command.",
        )
    given = answer.get("points")
    points = tuple(_point(item) for item in given[:MAX_POINTS] if isinstance(item, dict)) if isinstance(given, list) else ()
    seconds = answer.get("seconds")
    return GoldenCheck(host, str(golden), points, float(seconds) if isinstance(seconds, int | float) else 0.0)


def _point(item: dict[str, Any]) -> Point:
    def text(name: str) -> str:
        value = item.get(name, "")
        return (value if isinstance(value, str) else json.dumps(value))[:200]

    return Point(text("name"), text("expected"), text("found"), item.get("ok") is True)


def last_json(text: str) -> dict[str, Any]:
    """The JSON object on the last line, empty where there is none: what a host prints is parsed with care."""
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def label(image: PushedImage) -> str:
    """How a user speaks of an image: its tag, or its digest where it has none."""
    return image.tags[0] if image.tags else image.digest


def note(kind: Kind, image: PushedImage, previous: str, who: str, why: str) -> str:
    """The parameter's description, which AWS keeps with each version (at most 1,024 characters)."""
    reason = " ".join(why.split())[:MAX_WHY]
    parts = [
        f"{kind} {label(image)}",
        f"before: {previous or 'none'}",
        f"by {' '.join(who.split())[:200]}",
        *([f"why: {reason}"] if reason else []),
    ]
    return "; ".join(parts)[:1024]


def parse_change(text: str, switch: Deployment) -> Change | None:
    """A change as it was kept in the bucket; None for what is no record of this one."""
    try:
        data = json.loads(text)
        image, proof = data["image"], data["proof"]
        checked = proof and GoldenCheck(
            str(proof["host"]), str(proof["golden"]), tuple(map(_point, proof["points"][:MAX_POINTS])), float(proof["seconds"])
        )
        if data["schema"] != CHANGE_SCHEMA or image["digest"] != switch.digest:
            return None
        kept = PushedImage(
            str(image["repository"]), switch.digest, tuple(map(str, image["tags"])), int(image["bytes"]), str(image["pushed_at"])
        )
        return Change(
            switch.kind, kept, str(data["previous"]), str(data["who"]), str(data["why"]), data["changed"] is True, checked, str(data["at"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def told_change(switch: Deployment, image: PushedImage | None) -> Change:
    """A change of which nothing is kept but the parameter's description: set by hand, or without a bucket. ``image``: where it is left."""
    told = _NOTE.fullmatch(switch.note)
    previous, who, why = (told["previous"], told["who"], told["why"] or "") if told else ("", "somebody who did not say", switch.note)
    known = image or PushedImage("", switch.digest, (), 0, "")
    unknown = GoldenCheck("", "not known", (), 0.0)
    return Change(switch.kind, known, "" if previous == "none" else previous, who, why, changed=True, proof=unknown, at=switch.at)


def parse_deployment(version: ParameterVersion) -> Deployment | None:
    """One version of the parameter as a switch; None where its value names no digest."""
    digest = digest_in(version.value)
    word = version.description.partition(" ")[0]
    kind = Kind(word) if word in set(Kind) else Kind.DEPLOY
    return Deployment(digest, kind, version.at, version.description) if digest else None


# ----------------------------------------------------------------------------------------------------------------------- hosts


@contextmanager
def awake(
    machines: Machines, commands: Commands, host: Machine, at_work: Callable[[], bool], report: Report, *, new: bool = False
) -> Iterator[None]:
    """A host that takes commands for the time of a block, and is left as it was found.

    A new host and one that was stopped are stopped afterwards, unless studies came meanwhile; one that was running stops by itself when
    idle.
    """
    now = machines.look(host.id) or host
    serving = now.state == "running" and not new
    if now.state == "stopping":
        machines.wait(host.id, "stopped", 300, report)
    if now.state in ("stopping", "stopped"):
        machines.start(host.id)
    try:
        machines.wait(host.id, "running", 300, report)
        commands.wait_online(host.id, report=report)
        yield
    except BaseException:  # also a cancelled run: no host is left running by mistake, and the first error is the one to be seen
        with suppress(CloudError, ClientError):
            if not serving and not at_work():
                machines.stop(host.id)
        raise
    if serving or at_work():
        report(f"{host.id} is at work and stops by itself when idle")
        return
    machines.stop(host.id)
    machines.wait(host.id, "stopped", 300, report)
    report(f"{host.id} is stopped: it costs nothing until a study comes")


class LiveMaps:
    """The live MAP of one deployment and the images of its repository."""

    def __init__(self, clients: Clients, settings: Settings, report: Report) -> None:
        self._settings, self._report = settings, report
        self._parameter = settings.names.live_map_parameter
        self._registry = Registry(clients.ecr, settings.ecr_repository)
        self._machines = Machines(clients.ec2, settings.deployment)
        self._commands = Commands(clients.ssm)
        self._queues = Queues(clients, {})
        self._s3 = clients.s3

    def live(self) -> str:
        """Digest of the live MAP, empty where there is none."""
        return digest_in(self._commands.parameter(self._parameter))

    def history(self) -> tuple[Deployment, ...]:
        """Every switch that AWS still remembers, oldest first."""
        found = (parse_deployment(version) for version in self._commands.parameter_history(self._parameter))
        return tuple(switch for switch in found if switch)

    def last_change(self) -> Change | None:
        """What made the live MAP live, with all that is kept of it; None where there is none."""
        past = self.history()
        return (self._kept(past[-1]) or told_change(past[-1], self.find(past[-1].digest))) if past else None

    def find(self, digest: str) -> PushedImage | None:
        """The image with a digest, or None."""
        return self._registry.find(digest=digest)

    def maps(self) -> tuple[ListedMap, ...]:
        """All images, newest first, each with its standing."""
        past = self.history()
        now = history_of(past)
        once = {switch.digest for switch in past}

        def of(digest: str) -> str:
            if digest == now.live:
                return "live"
            if digest in now.withdrawn:
                return "withdrawn"
            if now.before and digest == now.before[0]:
                return "previous"
            return "was live" if digest in once else ""

        return tuple(ListedMap(image, of(image.digest)) for image in self._images())

    def promote(self, wanted: str, who: str, why: str = "", *, require_golden: bool = False) -> Change:
        """Make a MAP live after a host has answered its golden study with it. Raises PromotionError; nothing was changed then.

        ``require_golden``: also raise where the MAP brings no golden study, and ask a host also about the MAP that is live already.
        """
        image = choose_map(self._images(), wanted)
        previous = self.live()
        changed = previous != image.digest
        if not changed and not require_golden:
            self._report(f"nothing changed: {label(image)} is live already")
            return Change(Kind.PROMOTE, image, previous, who, why, changed=False)
        proof = self._prove(image)
        require_golden_check(image, proof, previous, require_golden=require_golden)
        if proof.golden == "none":
            self._report(f"{label(image)} brings no golden study: the host can run it, and nothing more is known (docs/your-own-model.md)")
        if not changed:
            self._report(f"nothing changed: {label(image)} is live already")
            return Change(Kind.PROMOTE, image, previous, who, why, changed=False, proof=proof)
        return self.switch(Kind.PROMOTE, image, who, why, proof)

    def deploy(self, image: PushedImage, who: str, why: str) -> Change:
        """Make a MAP live that the hosts hold; where ``asks_golden`` says so, after a host has answered its golden study.

        Raises PromotionError; nothing was changed then.
        """
        previous = self.live()
        proof = None
        if asks_golden(self._registry.parts(image.digest).config, image.digest, self.history()):
            proof = self._prove(image)
            require_golden_check(image, proof, previous)
        else:
            self._report(f"{label(image)} becomes live without a golden study on a host: it is the first, was live before, or brings none")
        return self.switch(Kind.DEPLOY, image, who, why, proof)

    def rollback(self, wanted: str, who: str, why: str = "") -> Change:
        """Make a MAP live that was so before; without a name the one before the present one. Raises PromotionError."""
        past = self.history()
        image = choose_return(self._images(), past, wanted)
        previous = self.live()
        if previous == image.digest:
            self._report(f"nothing changed: {label(image)} is live already")
            return Change(Kind.ROLLBACK, image, previous, who, why, changed=False)
        return self.switch(Kind.ROLLBACK, image, who, why)

    def switch(self, kind: Kind, image: PushedImage, who: str, why: str, proof: GoldenCheck | None = None) -> Change:
        """Write the parameter: from its next job on, every host answers with that MAP. Raises RegistryError where it is gone meanwhile."""
        self._registry.require(digest=image.digest)
        previous = self.live()
        change = Change(kind, image, previous, who, why, changed=True, proof=proof, at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        description = note(kind, image, previous, who, why)
        self._keep(change, description)
        self._commands.set_parameter(self._parameter, image.reference, description)
        self._report(f"live MAP is now {label(image)}, {image.digest}; hosts take it before their next job")
        return change

    def _keep(self, change: Change, description: str) -> None:
        """Keep it before it is made, so that whoever sees the parameter finds it. What cannot be kept delays no rollback."""
        if not self._settings.bucket:
            return
        key, body = change_key(change.image.digest, description), change.to_json().encode()
        try:
            self._s3.put_object(Bucket=self._settings.bucket, Key=key, Body=body, ContentType="application/json")
        except (ClientError, BotoCoreError) as error:
            self._report(f"what is known of this change beside the parameter's description could not be kept: {error}")

    def _kept(self, switch: Deployment) -> Change | None:
        """What was kept of a change; None where nothing is. Raises ClientError for any other trouble than that."""
        if not self._settings.bucket:
            return None
        try:
            body = self._s3.get_object(Bucket=self._settings.bucket, Key=change_key(switch.digest, switch.note))["Body"].read(_MOST_BYTES)
        except ClientError as error:
            if code_of(error) not in ("NoSuchKey", "NoSuchBucket", "404"):
                raise
            return None
        return parse_change(body.decode("utf-8", "replace"), switch)

    def jobs_at_work(self) -> bool:
        """Whether studies wait or are answered now; about, as SQS counts."""
        queue = self._queues.find_queue(self._settings.names.jobs_queue)
        return queue is not None and any(self._queues.depth(queue))

    def _images(self) -> list[PushedImage]:
        """The MAPs of the repository, newest first: without the lower stages of builds, which it keeps too."""
        return [image for image in self._registry.images() if not all(is_stage_tag(tag) for tag in image.tags)]

    def _prove(self, image: PushedImage) -> GoldenCheck:
        host = choose_host(self._machines.find(ROLE_INFERENCE))
        self._report(f"host {host.id} ({host.state}) is asked to answer the golden study with {label(image)}")
        script = f"systemctl start docker\n{AGENT_PROGRAM} prove --image {image.reference}"
        with awake(self._machines, self._commands, host, self.jobs_at_work, self._report):
            seconds = PULL_SECONDS + self._settings.map_timeout_s
            ended = self._commands.run(host.id, script, seconds, comment="golden study", report=self._report)
            proof = parse_golden_check(host.id, ended.exit_code, ended.stdout, ended.stderr)
            self._machines.tag(host.id, {TAG_PREPARED: image.digest})
        self._report(f"golden study on {host.id}: {proof.golden}, {len(proof.points)} points, {proof.seconds:.1f} s")
        return proof
