"""The live MAP of a deployment: the parameter ``live-map`` with the history that AWS keeps, and the ways to change it.

Another MAP becomes live by a promotion, after a host has answered the golden study with it, or by a rollback to one that was live before,
which nothing delays. Hosts read the parameter before each job, so that none changes its MAP within one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.autoscaling import ScalingGroup
from monai_aws_pipeline.cloud.errors import AgentError, CommandError, code_of
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.queues import Queues
from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.cloud.run_command import CommandResult, Commands
from monai_aws_pipeline.cloud.waiting import wait_until
from monai_aws_pipeline.contract import AGENT_PROGRAM, ROLE_INFERENCE, TAG_GROUP, change_key, digest_in
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.maps.build_context import is_stage_tag
from monai_aws_pipeline.operations.golden_check import (
    GoldenCheck,
    NotProvenError,
    choose_host,
    instance_in_service,
    parse_golden_check,
    require_golden_check,
)
from monai_aws_pipeline.operations.host_commands import NOTICED_S, HostCommands
from monai_aws_pipeline.operations.live_map_change import Change, note, parse_change, told_change
from monai_aws_pipeline.operations.promotion import (
    Deployment,
    Kind,
    ListedMap,
    asks_golden,
    choose_map,
    choose_return,
    history_of,
    label,
    parse_deployment,
)

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients
    from monai_aws_pipeline.settings import Settings


TAG_PREPARED: Final = "monai-aws:prepared-map"
"""Tag of a host: the digest that was pulled onto it last."""

PULL_SECONDS: Final = 1800
_RUNS_OF_A_PROOF: Final = 4
"""One after the other: what runs before its turn comes, the golden study alone, warm, and two of it beside each other."""
_MOST_BYTES: Final = 1 << 20


def proof_seconds(settings: Settings) -> int:
    """The longest that a host may take to prove a MAP, with its pull."""
    return PULL_SECONDS + _RUNS_OF_A_PROOF * settings.map_timeout_s


class LiveMaps:
    """The live MAP of one deployment and the images of its repository."""

    def __init__(self, clients: Clients, settings: Settings, report: Report) -> None:
        self._settings, self._report = settings, report
        self._parameter = settings.names.live_map_parameter
        self._registry = Registry(clients.ecr, settings.ecr_repository)
        self._machines = Machines(clients.ec2, settings.deployment)
        self._commands = Commands(clients.ssm)
        self._group = ScalingGroup(clients, settings.names.fleet_group, settings.names.fleet_alarm)
        self._queues = Queues(clients, {})
        self._s3 = clients.s3

    def live(self) -> str:
        """Digest of the live MAP, empty where there is none."""
        return digest_in(self._commands.parameter(self._parameter))

    def history(self) -> tuple[Deployment, ...]:
        """Every switch that AWS still remembers, oldest first."""
        found = (parse_deployment(version) for version in self._commands.parameter_history(self._parameter))
        return tuple(switch for switch in found if switch)

    def change(self, switch: Deployment, *, require: bool = True) -> Change:
        """One change of the history with all that is kept of it.

        Not ``require``: as its description tells it where S3 or ECR does not answer now, for whoever has more to do than to tell.
        """
        try:
            return self._kept(switch) or told_change(switch, self.find(switch.digest))
        except (ClientError, BotoCoreError, NamedError) as error:
            if require:
                raise
            self._report(f"what is kept of an earlier change of the live MAP could not be read: {error}")
            return told_change(switch, None)

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
        version = self._commands.set_parameter(self._parameter, image.reference, description)
        self._report(f"live MAP is now {label(image)}, {image.digest}; hosts take it before their next job")
        return replace(change, version=version)

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
        if self._settings.fleet == "autoscaling":
            return self._prove_in_group(image)
        host = choose_host([each for each in self._machines.find(ROLE_INFERENCE) if TAG_GROUP not in each.tags])
        self._report(f"host {host.id} is {host.state}")
        on_hosts = HostCommands(self._machines, self._commands, self.jobs_at_work, self._report)
        return self._proof_of(host.id, image, partial(on_hosts.run, host))

    def _prove_in_group(self, image: PushedImage) -> GoldenCheck:
        """An instance that is idle may leave while it is asked, and AWS may take one back: then another is asked, once."""
        ended: list[str] = []
        for is_last in (False, True):
            instance = instance_in_service(self._group, self._report, but=ended)
            still_on = partial(self._is_on, instance)
            try:
                self._commands.wait_online(instance, report=self._report, still_on=still_on)
                return self._proof_of(instance, image, partial(self._commands.run, instance, report=self._report, still_on=still_on))
            except (AgentError, CommandError, NotProvenError):
                what = f"looking whether {instance} has ended"
                if is_last or wait_until(still_on, lambda on: not on, NOTICED_S, what=what, report=self._report):
                    raise
            self._report(f"{instance} has ended meanwhile: another one is asked")
            ended.append(instance)
        raise AssertionError("the last proof was returned or has raised")

    def _is_on(self, instance: str) -> bool:
        found = self._machines.look(instance)
        return found is not None and found.state in ("pending", "running")

    def _proof_of(self, host: str, image: PushedImage, run: Callable[..., CommandResult]) -> GoldenCheck:
        self._report(f"host {host} is asked to answer the golden study with {label(image)}")
        script = f"systemctl start docker\n{AGENT_PROGRAM} prove --image {image.reference}"
        ended = run(script, seconds=proof_seconds(self._settings), comment="golden study")
        proof = parse_golden_check(host, ended.exit_code, ended.stdout, ended.stderr)
        self._machines.tag(host, {TAG_PREPARED: image.digest})
        self._report(f"golden study on {host}: {proof.golden}, {len(proof.points)} points, {proof.seconds:.1f} s")
        return proof
