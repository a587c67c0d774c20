"""A machine for the time of one piece of work: launched, reached by SSH with a pinned host key, provisioned, and gone afterwards.

Used by gpu_ami and map_image alike. Four things end such a machine: this block's end, whatever it is; the run_cleanup sensor after
a killed worker; the sweep by the expires-at tag; and the machine's own timer, which needs nobody.
"""

from __future__ import annotations

import ipaddress
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from monai_aws_pipeline.cloud.connect_endpoint import LONGEST_S, ConnectEndpoint, find_endpoint, open_tunnel
from monai_aws_pipeline.cloud.errors import MachineError
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machine, Machines, RootVolume, cloud_config, short_lived
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.redaction import Redactor
from monai_aws_pipeline.remote import KeyPair, Remote, RemoteError, Tunnel, connect
from monai_aws_pipeline.settings import Settings

BUILD_POOL = "builds"
"""Dagster's pool of what has such a machine: one run at a time. ``infra/team`` names it again, to a Dagster that has not seen it yet."""
MARKETS = {"on-demand": ("on-demand",), "spot": ("spot",), "spot-or-on-demand": ("spot", "on-demand")}
PROVISION_FOLDER = "/tmp/monai-aws-provision"  # noqa: S108  # on a machine that is ours alone
TIMER_UNIT = "monai-aws-ttl"


@dataclass(frozen=True)
class BuildMachine:
    """The machine and the connection to it."""

    machine: Machine
    remote: Remote


@dataclass(frozen=True)
class WayIn:
    """How machines are reached: who may connect, an address range or a security group, and through which endpoint, where not directly."""

    ingress_from: str
    endpoint: ConnectEndpoint | None = None
    clients: Clients | None = None

    def tunnel_to(self, address: str) -> Tunnel | None:
        """The tunnel to a machine by its private address; none where it is reached directly."""
        if self.endpoint is None or self.clients is None:
            return None
        return Tunnel(partial(open_tunnel, self.clients, self.endpoint, address), LONGEST_S, f"the endpoint {self.endpoint.id}")


def machines_of(clients: Clients, settings: Settings) -> Machines:
    """The deployment's machines, for those who launch some: in its subnets, with a public address where they are reached by one."""
    public = settings.reach == "public"
    return Machines(clients.ec2, settings.deployment, clients.ec2_launches, settings.subnets, public=public)


def way_in(clients: Clients, settings: Settings, machines: Machines, report: Report) -> WayIn:
    """How new machines are reached. Raises what finding that out raises, before anything is launched."""
    if settings.reach == "public":
        return WayIn(caller_range(settings.ssh_from))
    endpoint = find_endpoint(clients.ec2, machines.subnets())
    report(endpoint.described(settings.deployment))
    return WayIn(caller_range(settings.ssh_from) if endpoint.keeps_client_address else endpoint.groups[0], endpoint, clients)


def caller_range(ssh_from: str) -> str:
    """The address range that may reach SSH: the setting, or this machine's own public address as AWS sees it."""
    if ssh_from != "auto":
        return str(ipaddress.ip_network(ssh_from, strict=False))
    try:
        with urllib.request.urlopen("https://checkip.amazonaws.com", timeout=10) as answer:
            return str(ipaddress.ip_network(answer.read(64).decode().strip()))
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise MachineError(
            f"This machine's public address could not be found out ({error}).", "Set MONAI_AWS_SSH_FROM, for example to 203.0.113.7/32."
        ) from error


def expiring_tags(settings: Settings, role: str, run_id: str, now: datetime, **extra: str) -> Tags:
    """Tags of something that must not outlive ``build_ttl_minutes``."""
    expires = now + timedelta(minutes=settings.build_ttl_minutes)
    return Tags(settings.deployment, role, settings.owner, run_id, settings.names.machine(role), expires, extra)


def root_volume(settings: Settings) -> RootVolume:
    """The root disk of every machine of the deployment."""
    return RootVolume(settings.root_volume_gib, settings.root_volume_type, settings.root_volume_encrypted, settings.root_volume_kms_key)


def own_timer(settings: Settings) -> str:
    """A command of the first boot after which the machine ends itself (shutdown terminates it) although everyone else may be gone.

    Not a command of every boot (cloud-init's ``bootcmd``): systemd-run waits there for what waits for cloud-init itself.
    """
    return f"systemd-run --unit={TIMER_UNIT} --on-active={round(settings.build_ttl_minutes * 60)}s systemctl poweroff"


@contextmanager
def build_machine(clients: Clients, settings: Settings, *, role: str, image: str, run_id: str, report: Report) -> Iterator[BuildMachine]:
    """Launch a machine of a role from an image and connect to it; terminate it when the block ends."""
    user_key, host_key = KeyPair.fresh(), KeyPair.fresh()
    spec = LaunchSpec(
        image=image,
        types=settings.instance_types,
        profile=settings.names.build_profile,
        tags=expiring_tags(settings, role, run_id, datetime.now(UTC)),
        user_data=cloud_config(host_key=(host_key.private, host_key.public), commands=[own_timer(settings)]),
        volume=root_volume(settings),
        security_group="",
        markets=MARKETS[settings.build_market],
    )
    machines = machines_of(clients, settings)
    way = way_in(clients, settings, machines, report)
    with (
        short_lived(
            machines, spec, public_key=user_key.public, ssh_from=way.ingress_from, ssh_port=settings.ssh_port, report=report
        ) as machine,
        reach(machine, settings, way, user_key, host_key, report) as remote,
    ):
        try:
            yield BuildMachine(machine, remote)
        except (RemoteError, OSError, EOFError) as error:
            if "spot" in spec.markets and machines.taken_back(machine.id, report=report):
                raise MachineError(
                    f"AWS took the spot machine {machine.id} back before the work was done; nothing is left of it.",
                    "Start the run again, or set MONAI_AWS_BUILD_MARKET=on-demand.",
                ) from error
            raise


@contextmanager
def reach(machine: Machine, settings: Settings, way: WayIn, user_key: KeyPair, host_key: KeyPair, report: Report) -> Iterator[Remote]:
    """A connection to a machine that is booting, made when its first boot is done."""
    with connect(
        machine.address,
        port=settings.ssh_port,
        user=settings.ssh_user,
        key=user_key,
        host_key=host_key.public,
        redact=Redactor([user_key.private, host_key.private]),
        on_line=report,
        tunnel=way.tunnel_to(machine.address),
    ) as remote:
        with repeating(report) as say:
            say("waiting until the first boot is done")
            remote.run("cloud-init status --wait >/dev/null || true", report, what="Waiting for the first boot", seconds=300)
        yield remote


def provision(remote: Remote, bundle: Path, min_driver: str, report: Report) -> None:
    """Send the host bundle and run its provisioning script as root; each of its lines is reported."""
    report(f"sending the host bundle ({sum(p.stat().st_size for p in bundle.rglob('*') if p.is_file()) / 1e6:.0f} MB)")
    remote.send_folder(bundle, PROVISION_FOLDER, report, what="Sending the host bundle")
    remote.run(
        f"sudo env MIN_DRIVER={min_driver} bash {PROVISION_FOLDER}/provision.sh",
        report,
        what="Provisioning (infra/host/provision.sh)",
        seconds=1800,
    )
