"""Rehearses what changes something: the very requests of a run, tags included, with ``DryRun``. EC2 then judges and does nothing.

``DryRunOperation`` (412) means allowed, ``UnauthorizedOperation`` (403) that no policy statement allows it, which proves the policies in
the real account. Calls on a machine can be judged only with one, because the policies ask for its tag.
Source: EC2 API Reference, "Common query parameters", DryRun.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.errors import DENIED, CloudError, code_of, message_of, when_known
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootDevice, RootVolume, fitting, launch_attempts
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.contract import ROLE_INFERENCE
from monai_aws_pipeline.contract.ec2_refusals import Way, refusal_of
from monai_aws_pipeline.operations.preflight.answers import BOOTSTRAP, Judgement, Probe, State
from monai_aws_pipeline.operations.preflight.machines import base_image
from monai_aws_pipeline.remote import KeyPair

if TYPE_CHECKING:
    from monai_aws_pipeline.settings import Settings

ALLOWED: Final = "DryRunOperation"
RUN: Final = "doctor"
"""Stands where a run's id stands otherwise."""
NAME: Final = "monai-aws-doctor"
KNOWN_SECONDS: Final = 2.0
"""How long a machine is asked about that is so new that EC2 does not know it yet."""


@dataclass(frozen=True)
class Rehearsed:
    """A call, and the statements of infra/bootstrap.yaml that allow it (their ``Sid``)."""

    call: str
    statements: tuple[str, ...]


LAUNCH: Final = Rehearsed("RunInstances", ("LaunchTagged", "LaunchFrom", "TagWhileMaking", "HandOnMachineRoles"))
SPOT: Final = Rehearsed("RunInstances", (*LAUNCH.statements, "LaunchSpot"))
IMAGE: Final = Rehearsed("CreateImage", ("HandleOurs", "MakeTagged", "TagWhileMaking"))
GROUP: Final = Rehearsed("CreateSecurityGroup", ("MakeTagged", "MakeGroupsInAnyVpc", "TagWhileMaking"))
KEY: Final = Rehearsed("ImportKeyPair", ("MakeTagged", "TagWhileMaking"))
START: Final = Rehearsed("StartInstances", ("HandleOurs",))
TEMPLATE: Final = Rehearsed("CreateLaunchTemplate", ("MakeTemplatesTagged", "TagTemplatesWhileMaking"))
END: Final = Rehearsed("TerminateInstances", ("HandleOurs",))


def rehearsal_probes(clients: Clients, settings: Settings) -> list[Probe]:
    """Each call that a run makes, as far as EC2 judges it beforehand."""
    names, ec2 = settings.names, clients.ec2
    public_key = KeyPair.fresh().public.encode()

    def probe(what: str, rehearsed: Rehearsed, make: Callable[[], object]) -> Probe:
        return Probe(f"dry run: {what}", f"EC2 whether {rehearsed.call} is allowed", partial(_rehearse, rehearsed, make))

    def on_machine(what: str, rehearsed: Rehearsed, make: Callable[[str], object]) -> Probe:
        return Probe(
            f"dry run: {what}", f"EC2 whether {rehearsed.call} is allowed", lambda: _on_a_machine(clients, settings, rehearsed, make)
        )

    spot = settings.build_market != "on-demand"
    build = SPOT if spot else LAUNCH
    market = "spot" if spot else "on-demand"
    template = probe("make a launch template", TEMPLATE, lambda: _make_template(clients, settings))
    return [
        *([template] if settings.fleet == "autoscaling" else []),
        probe("launch a build machine", build, lambda: _launch(clients, settings, names.build_profile, "map-build", market)),
        probe("launch a host", LAUNCH, lambda: _launch(clients, settings, names.inference_profile, ROLE_INFERENCE, "on-demand")),
        probe("make a security group", GROUP, lambda: _make_group(clients, settings)),
        probe(
            "import a key pair",
            KEY,
            lambda: ec2.import_key_pair(
                KeyName=NAME, PublicKeyMaterial=public_key, TagSpecifications=_tagged(settings, "key-pair"), DryRun=True
            ),
        ),
        on_machine(
            "capture an image",
            IMAGE,
            lambda machine: ec2.create_image(
                InstanceId=machine, Name=NAME, TagSpecifications=_tagged(settings, "image", "snapshot"), DryRun=True
            ),
        ),
        on_machine("start a host", START, lambda machine: ec2.start_instances(InstanceIds=[machine], DryRun=True)),
        on_machine("end a machine", END, lambda machine: ec2.terminate_instances(InstanceIds=[machine], DryRun=True)),
    ]


def _tags(settings: Settings, role: str) -> Tags:
    return Tags(settings.deployment, role, settings.owner, RUN, settings.names.machine(role))


def _tagged(settings: Settings, *kinds: str) -> Any:
    return [{"ResourceType": kind, "Tags": _tags(settings, "map-build").as_list()} for kind in kinds]


def _launch(clients: Clients, settings: Settings, profile: str, role: str, market: str) -> None:
    base = base_image(clients, settings)
    machines = Machines(clients.ec2, settings.deployment, subnets=settings.subnets, public=settings.reach == "public")
    kind, subnet = next(launch_attempts(settings.instance_types, machines.offered(settings.instance_types), machines.subnets()))
    device = RootDevice(base.root_device, base.gib)
    disk = RootVolume(settings.root_volume_gib, settings.root_volume_type, settings.root_volume_encrypted, settings.root_volume_kms_key)
    spec = LaunchSpec(
        image=base.id,
        types=(kind,),
        profile=profile,
        tags=_tags(settings, role),
        user_data="",
        volume=fitting(disk, device),
        security_group="",
        markets=(market,),
    )
    request = machines.launch_request(spec, device, kind, subnet)
    for interface in request.get("NetworkInterfaces", []):
        interface.pop("Groups", None)  # none is made for this: the VPC's own group
    clients.ec2_launches.run_instances(**request, DryRun=True)


def _make_group(clients: Clients, settings: Settings) -> None:
    vpc = Machines(clients.ec2, settings.deployment, subnets=settings.subnets).subnets()[0].vpc
    clients.ec2.create_security_group(
        GroupName=NAME, Description=NAME, VpcId=vpc, TagSpecifications=_tagged(settings, "security-group"), DryRun=True
    )


def _make_template(clients: Clients, settings: Settings) -> None:
    clients.ec2.create_launch_template(
        LaunchTemplateName=NAME,
        LaunchTemplateData={"InstanceType": "t3.micro"},
        TagSpecifications=_tagged(settings, "launch-template"),
        DryRun=True,
    )


def _on_a_machine(clients: Clients, settings: Settings, rehearsed: Rehearsed, make: Callable[[str], object]) -> Judgement:
    machines = Machines(clients.ec2, settings.deployment).find()
    if not machines:
        return Judgement(f"{rehearsed.call} is judged by a machine's tag, and there is no machine yet: ask again then", State.SKIPPED)
    return _rehearse(rehearsed, lambda: make(machines[0].id))


def _rehearse(rehearsed: Rehearsed, make: Callable[[], object]) -> Judgement:
    try:
        when_known(make, KNOWN_SECONDS)
    except ClientError as error:
        return judge_rehearsal(rehearsed, code_of(error), message_of(error))
    except (CloudError, StopIteration):  # no image, no subnet, no type: said by the questions for these
        return Judgement("cannot be asked without image, type and subnet, see there", State.SKIPPED)
    raise AssertionError(f"{rehearsed.call} with DryRun was done")


def judge_rehearsal(rehearsed: Rehearsed, code: str, message: str) -> Judgement:
    """What EC2's answer to a call with DryRun says about the caller's policies."""
    if code == ALLOWED:
        return Judgement(f"{rehearsed.call} is allowed")
    if code in DENIED:
        said = f"{rehearsed.call} is not allowed ({code}){_named_in(message)}"
        if "explicit deny" in message or "service control policy" in message:
            return Judgement(said, State.ERROR, "A policy above the role's (service control policy, boundary) denies it: ask who keeps it.")
        return Judgement(said, State.ERROR, f"It needs {_listed(rehearsed.statements)} of infra/bootstrap.yaml. {BOOTSTRAP}")
    refusal = refusal_of(code, message)
    if refusal.way is Way.NOT_YET and not code.startswith("InvalidParameter"):
        return Judgement(f"the machine is gone meanwhile ({code})", State.SKIPPED)
    if refusal.way is Way.NEXT_MARKET:
        return Judgement(f"cannot be asked without the role for spot, see there ({code})", State.SKIPPED)
    return Judgement(f"{rehearsed.call} would fail ({code}): {refusal.what}", State.ERROR, refusal.remedy)


def _named_in(message: str) -> str:
    """The action that AWS names as missing, which may be another than the call's: tagging, or handing on a role."""
    _, found, rest = message.partition("not authorized to perform: ")
    return f": {rest.split(' because')[0].split('. Encoded')[0]}" if found else ""


def _listed(statements: Sequence[str]) -> str:
    return ", ".join(statements[:-1]) + (" and " if len(statements) > 1 else "") + statements[-1]
