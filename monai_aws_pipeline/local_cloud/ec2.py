"""EC2: moto's records joined to real machines, so that a state is told only when the machine is in it.

moto validates, stores and answers; its four life-cycle methods and its image methods are wrapped here to act on machines.py.
Work on a machine happens in background threads, one at a time for each machine. The names of moto that this relies on are pinned
by tests/integration/local_cloud/test_contract.py.
"""

from __future__ import annotations

import base64
import copy
import functools
import inspect
import logging
import shlex
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final, NoReturn

from moto.core.utils import utcnow
from moto.ec2 import models as moto_models
from moto.ec2 import utils as moto_utils
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError, UnvailableAMIIdError
from moto.ec2.models import amis as moto_amis
from moto.ec2.models import elastic_network_interfaces as moto_interfaces
from moto.ec2.models import iam_instance_profile as moto_profiles
from moto.ec2.models import instance_types as moto_types
from moto.ec2.models import instances as moto_instances
from moto.ec2.responses import instances as moto_instance_responses
from moto.ec2.responses.launch_templates import LaunchTemplates

from . import ec2_disks, identity
from .authorization import tags_on_creation
from .base_image import SSM_UNIT
from .config import ACCOUNT, METADATA_PORT, CloudConfig
from .ec2_answers import ENDINGS, SENT
from .ec2_images import base_images
from .faults import FaultBoard, FaultError
from .machines import Executed, Hypervisor, MachineSpec
from .metadata import InstanceFacts, MetadataService

_log: Final = logging.getLogger("local-cloud.ec2")
_CODES: Final = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
_NO_CLIENT_TOKEN: Final = "ABCDE"  # noqa: S105 - what moto puts where a request has no ClientToken
_FIRST_HOST, _LAST_HOST = 10, 250


@dataclass
class Machine:
    """One instance and what is known of its machine. ``work`` serialises what is done to it."""

    instance: Any
    backend: Any
    address: str
    work: threading.RLock = field(default_factory=threading.RLock)
    exit_expected: bool = False
    booted_at: float = 0.0
    agent_delay_s: float = 0.0
    metadata: MetadataService | None = None
    interruption: tuple[str, str] | None = None
    changed_at: float = 0.0
    powered_on_at: float = 0.0
    disk_key: str = ""
    """ARN of the customer's KMS key that its root disk is encrypted with; empty where it is AWS's."""
    without_grant: bool = False

    @property
    def region(self) -> str:
        """Region the instance was launched in."""
        return str(self.backend.region_name)

    @property
    def state(self) -> str:
        """The EC2 state name."""
        return str(self.instance._state.name)

    @property
    def is_public(self) -> bool:
        """Whether it has a public address while it runs."""
        return any(interface.public_ip_auto_assign for interface in self.instance.nics.values())

    def become(self, name: str) -> None:
        """Tell a new state."""
        self.instance._state.name, self.instance._state.code = name, _CODES[name]
        self.changed_at = time.time()

    def explain(self, reason: str, code: str = "", message: str = "") -> None:
        """Set StateTransitionReason and StateReason."""
        self.instance._reason = reason
        self.instance.state_reason = moto_instances.StateReason(message, code)


class Instances:
    """All instances of one cloud. ``install`` puts it between moto and the hypervisor."""

    def __init__(self, config: CloudConfig, hypervisor: Hypervisor, faults: FaultBoard, ssh_port: int, root_key: str) -> None:
        self._config = config
        self._hypervisor = hypervisor
        self._faults = faults
        self._ssh_port = ssh_port
        self._bases = base_images(root_key)
        self._machines: dict[str, Machine] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="machine")
        self._request = threading.local()
        self.private_subnets: set[str] = set()
        """Subnets without a route out or in: what is in them has a public address at most by name."""
        self.may_grant: Callable[[str, str, str], bool] = lambda *_: True
        """Whether a caller (access key) may give EC2 a grant for a customer's KMS key (region, ARN), without which no disk is attached."""

        self.target_state: Callable[[str, str], str] = lambda *_: ""
        """Target lifecycle state of an instance (region, id) in its Auto Scaling group; empty where no group has it."""

    # ------------------------------------------------------------------------------------------------------------- what others ask

    def noting(self, parameters: Mapping[str, list[str]], access_key: str = "") -> None:
        """Remember parameters and caller of the EC2 request that this thread serves; moto drops some that matter here."""
        self._request.parameters, self._request.access_key = parameters, access_key

    def find(self, instance_id: str) -> Machine | None:
        """The machine of an instance, or None."""
        return self._machines.get(instance_id)

    def at_address(self, address: str, vpc: str) -> Machine | None:
        """The running machine that has an address in a VPC, or None."""
        return next(
            (m for m in list(self._machines.values()) if m.address == address and m.state == "running" and m.instance.vpc_id == vpc), None
        )

    @staticmethod
    def ingress_rules(machine: Machine) -> list[Any]:
        """What moto knows of who may connect to a machine, from all of its security groups."""
        return [rule for group in machine.instance.dynamic_group_list for rule in group.ingress_rules]

    def managed(self, region: str, among: Collection[str] | None = None) -> dict[str, Machine]:
        """Machines whose SSM agent has registered: running for a while, with a role, and with what stands for the agent at work."""
        now = time.time()
        return {
            name: machine
            for name, machine in list(self._machines.items())
            if (among is None or name in among) and machine.region == region and machine.state == "running" and self._role(machine)
            and machine.booted_at and now - machine.booted_at >= machine.agent_delay_s and not self._faults.is_cut(name)
            and self._hypervisor.is_active(name, SSM_UNIT)
        }  # fmt: skip

    def execute(self, instance_id: str, script: str, *, timeout_s: float, folder: str = "") -> Executed:
        """Run a script inside a machine as its SSM agent would."""
        machine = self._machines[instance_id]
        return self._hypervisor.execute(instance_id, script, self._environment(machine), timeout_s=timeout_s, folder=folder)

    def tags_of(self, resource_id: str) -> dict[str, str]:
        """Tags of an EC2 resource by id, in whichever region it is."""
        for backend in list(moto_models.ec2_backends[ACCOUNT].values()):
            pair = backend.key_pairs.get(resource_id)  # policies name a key pair by its name, moto's tags by its id
            tags = backend.tags.get(pair.id if pair else resource_id)
            if tags:
                return dict(tags)
        return {}

    def lose(self, instance_id: str) -> None:
        """Pull a machine's plug: an ordered fault. AWS would report it stopped after a while."""
        self._hypervisor.kill(instance_id)

    def refuse_ssh(self, instance_id: str) -> None:
        """Stop a machine's SSH server: an ordered fault."""
        self._hypervisor.make_sshd_refuse(instance_id)

    def interrupt(self, instance_id: str, seconds: float, action: str) -> None:
        """Announce a spot interruption in the machine's metadata and carry it out after so many seconds: an ordered fault."""
        machine = self._machines[instance_id]
        end = {"stop": machine.backend.stop_instances, "terminate": machine.backend.terminate_instances}[action]
        machine.interruption = announced = (action, f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}")

        def interrupted() -> None:
            if machine.interruption is not announced or machine.state != "running":
                return  # it stopped by itself meanwhile, as the notice asked it to
            identity.as_account()
            end([instance_id])
            machine.explain("", "Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance interruption")

        threading.Timer(seconds, interrupted).start()

    def shrink_disk(self, instance_id: str, path: str, mib: int) -> None:
        """Put an empty disk of so many MiB under a folder of a machine, until it is restored or the machine stops: an ordered fault."""
        self._in_machine(instance_id, f"mkdir -p {shlex.quote(path)} && mount -t tmpfs -o size={mib}m,mode=700 small {shlex.quote(path)}")

    def restore_disk(self, instance_id: str, path: str) -> None:
        """Take that disk away again."""
        self._in_machine(instance_id, f"umount --lazy {shlex.quote(path)}")

    def _in_machine(self, instance_id: str, script: str) -> None:
        done = self.execute(instance_id, script, timeout_s=20)
        if done.exit_code:
            raise FaultError(f"{instance_id} did not do it: {done.stderr.strip()}")

    def overview(self) -> list[dict[str, Any]]:
        """Instances for ``status``: id, state, address, name, and when they got into that state and were last powered on (Unix seconds)."""
        return [
            {
                "id": name,
                "state": machine.state,
                "address": machine.address,
                "name": str(self.tags_of(name).get("Name", "")),
                "changed_at": machine.changed_at,
                "powered_on_at": machine.powered_on_at,
            }
            for name, machine in list(self._machines.items())
            if machine.state != "terminated"
        ]

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------------------------ installing

    def install(self) -> None:
        """Wrap moto's methods."""
        backend, images = moto_instances.InstanceBackend, moto_amis.AmiBackend
        for owner, name, wrapper in (
            (backend, "run_instances", self._run_instances),
            (backend, "start_instances", self._start_instances),
            (backend, "stop_instances", self._stop_instances),
            (backend, "reboot_instances", self._reboot_instances),
            (backend, "terminate_instances", self._terminate_instances),
            (images, "create_image", self._create_image),
            (images, "copy_image", self._copy_image),
            (images, "deregister_image", self._deregister_image),
            (moto_amis.Ami, "__init__", ec2_disks.made_from(self._bases)),
            (LaunchTemplates, "create_launch_template_version", _from_source_version),
        ):
            _wrap(owner, name, wrapper)
        moto_amis.Ami.block_device_mappings = property(ec2_disks.block_device_mappings)
        interface = moto_interfaces.NetworkInterface
        interface.association = property(functools.partial(association_at_once, interface.association.fget))
        for module in (moto_utils, moto_profiles, moto_instance_responses):
            module.filter_iam_instance_profiles = _find_profile

    def watch(self) -> None:
        """Notice machines that end by themselves."""
        self._hypervisor.watch(self._on_exit, self._look_at_all)

    # --------------------------------------------------------------------------------------------------------------------- machines

    def _run_instances(self, original: Callable[..., Any], backend: Any, image_id: str, *arguments: Any, **options: Any) -> Any:
        token = options.get("client_token")
        if token and token != _NO_CLIENT_TOKEN:
            for reservation in list(backend.reservations.values()):
                if any(instance.client_token == token for instance in reservation.instances):
                    for instance in reservation.instances:  # moto associates the profile again after this returns
                        backend.iam_instance_profile_associations.pop(instance.id, None)
                    return reservation
        if not image_id and (template := options.get("launch_template")):
            image_id = backend._get_template_from_args(template).data.get("ImageId", "")
        if not image_id:  # moto would start a machine of nothing
            raise EC2ClientError("MissingParameter", "The request must contain the parameter ImageId")
        image = backend.amis.get(image_id)
        if image is None:  # moto would start one from an image that was deregistered
            raise InvalidAMIIdError(image_id)
        if image.state != "available":
            raise UnvailableAMIIdError(image_id)
        self._put_groups_at_instance(options)
        mappings = ec2_disks.mappings_of(backend, options)
        ec2_disks.refuse_small_volumes(backend, image, mappings)
        self._refuse_what_the_account_lacks(backend, options)
        reservation = original(backend, image_id, *arguments, **options)
        for instance in reservation.instances:
            if not mappings:
                ec2_disks.fit_root_volume(image, instance)
            machine = Machine(instance, backend, self._free_address())
            machine.become("pending")
            machine.disk_key = ec2_disks.key_of_root(backend, image, mappings)
            self._ask_for_grant(machine)
            self._show_address(machine)
            self._machines[instance.id] = machine
            self._submit(self._boot_first, machine)
        return reservation

    @staticmethod
    def _put_groups_at_instance(options: dict[str, Any]) -> None:
        """moto shows the groups of a network interface that comes with a launch only at the interface, EC2 at the instance as well."""
        for interface in options.get("nics") or []:
            if groups := interface.pop("Groups", None):
                options["security_group_ids"] = [*options.get("security_group_ids", []), *groups]

    def _refuse_what_the_account_lacks(self, backend: Any, options: Mapping[str, Any]) -> None:
        """Refuse a launch for what the account or the place has too little of. Raises EC2ClientError in AWS's words."""
        account, kind = self._faults.account, str(options.get("instance_type", ""))
        named = options.get("subnet_id") or next((each.get("SubnetId") for each in options.get("nics") or [] if each.get("SubnetId")), None)
        subnet = backend.get_subnet(named) if named else None
        if options.get("instance_market_options") and not account.spot_role:
            _refuse("AuthFailure.ServiceLinkedRoleCreationNotPermitted")
        if (subnet.availability_zone if subnet else options.get("placement")) in account.no_capacity:
            _refuse("InsufficientInstanceCapacity")
        if subnet is not None and subnet.available_ip_address_count < 1:
            raise EC2ClientError(
                "InsufficientFreeAddressesInSubnet",
                f"There are not enough free addresses in subnet '{subnet.id}' to satisfy the requested number of instances.",
            )
        running = [
            m.instance.instance_type for m in list(self._machines.values()) if m.backend is backend and m.state in ("pending", "running")
        ]
        if account.vcpus and sum(_vcpus(each) for each in [*running, kind]) > account.vcpus:
            _refuse("VcpuLimitExceeded")

    def _start_instances(self, original: Callable[..., Any], backend: Any, instance_ids: list[str]) -> Any:
        self._require(instance_ids, "start", {"stopped", "running", "pending"})
        asleep = {name for name in instance_ids if (machine := self.find(name)) and machine.state == "stopped"}
        if any(self._machines[name].instance.placement.zone in self._faults.account.no_capacity for name in asleep):
            _refuse("InsufficientInstanceCapacity")
        changes = []
        for instance in backend.get_multi_instances_by_id(instance_ids):
            if instance.id not in asleep:
                changes.append((instance, copy.copy(instance._state)))
                continue
            changes += original(backend, [instance.id])
            instance.launch_time = utcnow()  # EC2 User Guide, "Instance lifecycle": LaunchTime is that of the last start
            machine = self._machines[instance.id]
            machine.become("pending")
            self._ask_for_grant(machine)
            self._show_address(machine)
            self._submit(self._boot_again, machine)
        return changes

    def _stop_instances(self, original: Callable[..., Any], backend: Any, instance_ids: list[str]) -> Any:
        self._require(instance_ids, "stop", {"running", "stopping", "stopped"})
        changes = []
        for instance in backend.get_multi_instances_by_id(instance_ids):
            machine = self._machines[instance.id]
            if machine.state != "running":
                changes.append((instance, copy.copy(instance._state)))
                continue
            changes += original(backend, [instance.id])
            machine.become("stopping")
            self._show_address(machine, public=False)
            self._submit(self._shut_down, machine)
        return changes

    def _reboot_instances(self, original: Callable[..., Any], backend: Any, instance_ids: list[str]) -> Any:
        self._require(instance_ids, "reboot", {"running"})
        rebooted = original(backend, instance_ids)
        for name in instance_ids:
            self._submit(self._restart, self._machines[name])
        return rebooted

    def _terminate_instances(self, original: Callable[..., Any], backend: Any, instance_ids: list[str]) -> Any:
        changes = []
        for instance in backend.get_multi_instances_by_id(instance_ids):
            machine = self._machines[instance.id]
            if machine.state in ("shutting-down", "terminated"):
                changes.append((instance, copy.copy(instance._state)))
                continue
            changes += original(backend, [instance.id])
            machine.become("shutting-down")
            self._show_address(machine, public=False)
            self._submit(self._destroy, machine)
        if not changes:
            return original(backend, instance_ids)
        return changes

    def _ask_for_grant(self, machine: Machine) -> None:
        """Note whether whoever launches or starts a machine lets EC2 use the key of its disk. EC2 takes the call either way."""
        caller = getattr(self._request, "access_key", "")
        machine.without_grant = bool(machine.disk_key) and not self.may_grant(caller, machine.region, machine.disk_key)

    def _require(self, instance_ids: list[str], verb: str, states: set[str]) -> None:
        for name in instance_ids:
            machine = self.find(name)
            if machine and machine.state not in states:
                raise EC2ClientError(
                    "IncorrectInstanceState",
                    f"The instance '{name}' is not in a state from which it can be {verb}ed (it is {machine.state}).",
                )

    def _boot_first(self, machine: Machine) -> None:
        with machine.work:
            if machine.state != "pending" or self._ends_at("launch", machine):
                return
            instance = machine.instance
            image = instance.image_id
            base = self._bases.get(image)
            key_pair = machine.backend.key_pairs.get(instance.key_name) if instance.key_name else None
            try:
                spec = MachineSpec(
                    instance_id=instance.id,
                    image=self._hypervisor.base_name(base) if base else self._hypervisor.image_name(image),
                    address=machine.address,
                    hostname=_hostname(machine.address),
                    ssh_port=self._ssh_port,
                    public_key=_text(key_pair.material_public).strip() if key_pair else "",
                    user_data=user_data_of(instance),
                    environment=self._environment(machine),
                    ssh_from="" if self._is_open(machine) else self._config.endpoint_address,
                    engine_store=None if base else self._hypervisor.image_store(image),
                )
                self._hypervisor.create(spec)
                self._power_on(machine)
            except Exception as failed:
                _log.exception("%s did not start", instance.id)
                self._hypervisor.destroy(instance.id)
                instance.terminate()
                machine.become("terminated")
                machine.explain("Server.InternalError", "Server.InternalError", f"Server.InternalError: {failed}")

    def _is_open(self, machine: Machine) -> bool:
        """Whether packets from outside of its network reach a machine."""
        return machine.is_public and not any(each.subnet.id in self.private_subnets for each in machine.instance.nics.values())

    def _boot_again(self, machine: Machine) -> None:
        with machine.work:
            if machine.state == "pending" and not self._ends_at("start", machine):
                self._power_on(machine)

    def _ends_at(self, phase: str, machine: Machine) -> bool:
        """Whether a machine was ordered to end while it starts; it has ended then."""
        instance = machine.instance
        reason = "Client.InternalError" if machine.without_grant else ""
        reason = reason or self._faults.take_ending(phase, instance.id, instance.instance_type, str(instance.placement.zone))
        if not reason:
            return False
        end, state = (instance.terminate, "terminated") if phase == "launch" else (instance.stop, "stopped")
        end()
        self._show_address(machine, public=False)
        machine.explain("Server.InternalError", reason, ENDINGS[reason])
        machine.become(state)
        return True

    def _power_on(self, machine: Machine) -> None:
        name = machine.instance.id
        machine.exit_expected, machine.interruption = False, None
        machine.agent_delay_s = self._faults.agent_delay_s
        if machine.metadata is None:
            machine.metadata = MetadataService(
                machine.address, functools.partial(self._facts, machine), functools.partial(identity.role_credentials, session_name=name)
            )
        self._hypervisor.start(name)
        machine.booted_at = machine.powered_on_at = time.time()
        if machine.state == "pending":
            machine.become("running")
            machine.explain("")
        _log.info("%s runs at %s", name, machine.address)

    def _shut_down(self, machine: Machine) -> None:
        with machine.work:
            if machine.state != "stopping":
                return
            self._power_off(machine)
            if machine.state == "stopping":
                machine.become("stopped")
        _log.info("%s is stopped", machine.instance.id)

    def _power_off(self, machine: Machine) -> None:
        machine.exit_expected = True
        machine.booted_at = 0.0
        self._hypervisor.stop(machine.instance.id)
        self._close_metadata(machine)

    def _restart(self, machine: Machine) -> None:
        with machine.work:
            if machine.state == "running":
                self._power_off(machine)
                self._power_on(machine)

    def _destroy(self, machine: Machine) -> None:
        with machine.work:
            if machine.booted_at:  # as AWS does it: the system shuts down first, so that what runs there can hand over
                self._power_off(machine)
            machine.exit_expected = True
            self._close_metadata(machine)
            self._hypervisor.destroy(machine.instance.id)
            machine.become("terminated")
        _log.info("%s is terminated", machine.instance.id)

    def _on_exit(self, instance_id: str) -> None:
        machine = self.find(instance_id)
        if machine and not machine.exit_expected:
            self._submit(self._ended_by_itself, machine)

    def _look_at_all(self) -> None:
        for machine in list(self._machines.values()):
            if machine.state == "running" and not machine.exit_expected:
                self._submit(self._ended_by_itself, machine, 0.0)

    def _ended_by_itself(self, machine: Machine, patience_s: float = 5.0) -> None:
        """The machine shut itself down, or was lost (EC2: InstanceInitiatedShutdownBehavior)."""
        with machine.work:
            name = machine.instance.id
            if machine.exit_expected or machine.state != "running" or not self._hypervisor.has_ended(name, patience_s):
                return
            if self._hypervisor.wants_reboot(name):
                machine.booted_at = time.time()
                _log.info("%s rebooted", name)
                return
            machine.booted_at = 0.0
            self._close_metadata(machine)
            reason = f"Instance initiated ({datetime.now(UTC):%Y-%m-%d %H:%M:%S} GMT)"
            message = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
            if machine.instance.instance_initiated_shutdown_behavior == "terminate":
                machine.instance.terminate()
                machine.become("shutting-down")
                machine.explain(reason, "Client.InstanceInitiatedShutdown", message)
                self._destroy(machine)
                return
            # Not by moto's stop(), which shows it as stopped by its user until it is explained.
            machine.explain(reason, "Client.InstanceInitiatedShutdown", message)
            self._show_address(machine, public=False)
            machine.become("stopped")
            _log.info("%s shut itself down", name)

    # ----------------------------------------------------------------------------------------------------------------------- images

    def _create_image(
        self, original: Callable[..., Any], backend: Any, instance_id: str, name: str, *arguments: Any, **options: Any
    ) -> Any:
        machine = self.find(instance_id)
        if machine and machine.state not in ("running", "stopped", "stopping", "pending"):
            raise EC2ClientError(
                "IncorrectState", f"The instance '{instance_id}' is not in a state from which an image can be made ({machine.state})."
            )
        if any(image.name == name and image.owner_id == ACCOUNT for image in backend.amis.values()):
            raise EC2ClientError(
                "InvalidAMIName.Duplicate", f"AMI name {name} is already in use by another AMI in this account and region."
            )
        bound = inspect.signature(original).bind(backend, instance_id, name, *arguments, **options)
        wanted = bound.arguments.get("tag_specifications") or []
        # moto refuses tags for the snapshot, which AWS takes: they are set once the image is there.
        bound.arguments["tag_specifications"] = [each for each in wanted if each["ResourceType"] != "snapshot"]
        image = original(*bound.args, **bound.kwargs)
        for each in wanted:
            if each["ResourceType"] == "snapshot" and image.ebs_snapshot is not None:
                backend.create_tags([image.ebs_snapshot.id], {tag["Key"]: tag["Value"] for tag in each["Tags"]})
        if machine:
            no_reboot = getattr(self._request, "parameters", {}).get("NoReboot", ["false"])[0] == "true"
            image.state = "pending"
            self._submit(self._capture, machine, image, no_reboot)
        return image

    def _capture(self, machine: Machine, image: Any, no_reboot: bool) -> None:
        with machine.work:
            name = machine.instance.id
            restart = machine.state == "running" and not no_reboot
            try:
                if restart:  # EC2 reboots an instance for a consistent image unless it is told not to
                    self._power_off(machine)
                self._hypervisor.capture(name, image.id)
                self._finish_image(machine.backend, image)
            except Exception:
                _log.exception("%s could not be captured", name)
                image.state = "failed"
            finally:
                if restart:
                    self._power_on(machine)

    def _copy_image(
        self, original: Callable[..., Any], backend: Any, source_image_id: str, source_region: str, *arguments: Any, **options: Any
    ) -> Any:
        source = moto_models.ec2_backends[ACCOUNT][source_region].amis.get(source_image_id)
        if source is not None and source.state != "available":
            raise UnvailableAMIIdError(source_image_id)
        image = original(backend, source_image_id, source_region, *arguments, **options)
        image.state = "pending"
        tags = tags_on_creation(getattr(self._request, "parameters", {}))  # moto does not read those of CopyImage
        for kind, resource in (("image", image.id), ("snapshot", image.ebs_snapshot.id)):
            if tags.get(kind):
                backend.create_tags([resource], tags[kind])
        self._submit(self._copy, backend, image, source_image_id)
        return image

    def _copy(self, backend: Any, image: Any, origin: str) -> None:
        try:
            if base := self._bases.get(origin):
                self._hypervisor.base_name(base)
            self._hypervisor.copy_image(base.tag if base else origin, image.id)
            self._finish_image(backend, image)
        except Exception:
            _log.exception("%s could not be copied", origin)
            image.state = "failed"

    def _finish_image(self, backend: Any, image: Any) -> None:
        image.state = "available"
        if image.id not in backend.amis:  # deregistered while it was made
            self._hypervisor.remove_image(image.id)

    def _deregister_image(self, original: Callable[..., Any], backend: Any, ami_id: str) -> Any:
        done = original(backend, ami_id)
        if ami_id not in self._bases:
            self._submit(self._hypervisor.remove_image, ami_id)
        return done

    def images_state(self) -> list[dict[str, Any]]:
        """Images of this account that are ready, for persistence."""
        return [
            {
                "region": region, "ami_id": image.id, "name": image.name, "description": image.description, "tags": self.tags_of(image.id),
                "instance_id": image.instance_id, "creation_date": image.creation_date.isoformat(), "gib": ec2_disks.root_gib(image),
            }
            for region, backend in list(moto_models.ec2_backends[ACCOUNT].items())
            for image in list(backend.amis.values())
            if image.owner_id == ACCOUNT and image.state == "available"
        ]  # fmt: skip

    def restore_images(self, state: list[dict[str, Any]]) -> None:
        """Register the images again whose file systems are still in the engine."""
        for known in state:
            if not self._hypervisor.has_image(known["ami_id"]):
                continue
            backend = moto_models.ec2_backends[ACCOUNT][known["region"]]
            image = moto_amis.Ami(
                backend,
                known["ami_id"],
                name=known["name"],
                description=known["description"],
                tags=known["tags"],
                creation_date=datetime.fromisoformat(known["creation_date"]),
                virtualization_type="hvm",
                architecture="x86_64",
                root_device_type="ebs",
            )
            image.instance_id = known["instance_id"]
            image.ebs_snapshot.volume.size = known["gib"]
            backend.amis[image.id] = image

    # -------------------------------------------------------------------------------------------------------------------- small things

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> None:
        def run() -> None:
            identity.as_account()
            try:
                work(*arguments)
            except Exception:
                _log.exception("background work failed")

        self._pool.submit(run)

    def _free_address(self) -> str:
        with self._lock:
            used = {machine.address for machine in self._machines.values() if machine.state != "terminated"}
            for host in range(_FIRST_HOST, _LAST_HOST):
                address = f"{self._config.subnet}.{host}"
                if address not in used:
                    return address
        raise EC2ClientError("InsufficientInstanceCapacity", "The embedded AWS has no address left for another machine.")

    @staticmethod
    def _show_address(machine: Machine, *, public: bool = True) -> None:
        for interface in machine.instance.nics.values():
            interface.private_ip_address = machine.address
            interface.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": machine.address}]
            interface.public_ip = machine.address if public and interface.public_ip_auto_assign else None

    def _environment(self, machine: Machine) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self._config.endpoint,
            "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",  # some HealthImaging calls would go to runtime-127.0.0.1
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{machine.address}:{METADATA_PORT}",
            "AWS_DEFAULT_REGION": machine.region,
        }

    @staticmethod
    def _close_metadata(machine: Machine) -> None:
        if machine.metadata:
            machine.metadata.close()
            machine.metadata = None

    @staticmethod
    def _profile(machine: Machine) -> dict[str, Any] | None:
        association = machine.backend.iam_instance_profile_associations.get(machine.instance.id)
        return identity.instance_profile(association.iam_instance_profile.arn) if association else None

    def _role(self, machine: Machine) -> str:
        profile = self._profile(machine)
        roles = profile.get("Roles", []) if profile else []
        return str(roles[0]["RoleName"] if isinstance(roles[0], dict) else roles[0]) if roles else ""

    def _facts(self, machine: Machine) -> InstanceFacts:
        instance, profile = machine.instance, self._profile(machine)
        return InstanceFacts(
            instance_id=instance.id,
            instance_type=instance.instance_type,
            image_id=instance.image_id,
            region=machine.region,
            zone=str(instance.placement.zone),
            address=machine.address,
            hostname=_hostname(machine.address),
            public=machine.is_public,
            lifecycle=instance.lifecycle or "on-demand",
            role=self._role(machine),
            profile_arn=profile["Arn"] if profile else "",
            profile_id=profile["InstanceProfileId"] if profile else "",
            user_data=user_data_of(instance),
            tags=self.tags_of(instance.id) if instance.metadata_options.instance_metadata_tags == "enabled" else {},
            target_state=self.target_state(machine.region, instance.id),
            interruption=machine.interruption,
        )


@dataclass(frozen=True)
class _Profile:
    """What moto's EC2 reads from an instance profile."""

    arn: str
    name: str
    id: str


def _find_profile(*_: Any, iam_instance_profile_arn: str | None, iam_instance_profile_name: str | None, **__: Any) -> _Profile:
    """Stand-in for moto's search in its own IAM: the profiles are in ministack's."""
    wanted = iam_instance_profile_name or iam_instance_profile_arn or ""
    found = identity.instance_profile(wanted)
    if not found or (iam_instance_profile_arn and found["Arn"] != iam_instance_profile_arn):
        raise EC2ClientError(
            "InvalidParameterValue", f"Value ({wanted}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
        )
    return _Profile(found["Arn"], found["InstanceProfileName"], found["InstanceProfileId"])


def _refuse(code: str) -> NoReturn:
    raise EC2ClientError(code, SENT[code].message)


def _vcpus(kind: str) -> int:
    return int(moto_types.INSTANCE_TYPES[kind]["VCpuInfo"]["DefaultVCpus"])


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(backend: Any, *arguments: Any, **options: Any) -> Any:
        return wrapper(original, backend, *arguments, **options)

    setattr(owner, name, wrapped)


def _from_source_version(original: Callable[..., Any], response: Any) -> Any:
    """A launch template's new version has what it does not say itself from the version that it names as its source; moto forgets that."""
    source, name = response._get_param("SourceVersion"), response._get_param("LaunchTemplateName")
    if source:
        known = response.ec2_backend
        template = known.get_launch_template_by_name(name) if name else known.get_launch_template(response._get_param("LaunchTemplateId"))
        given = response._get_param("LaunchTemplateData", {})
        response.params["LaunchTemplateData"] = {**template.get_version(source).data, **given}
    return original(response)


def association_at_once(original: Callable[[Any], dict[str, Any]], interface: Any) -> dict[str, Any]:
    """An interface's public address as one look has it: moto looks several times, and fails where the machine stops meanwhile."""
    address = interface.public_ip
    return original(SimpleNamespace(public_ip=address, ec2_backend=interface.ec2_backend)) if address else {}


def user_data_of(instance: Any) -> bytes:
    """User data as the caller gave it, decoded from the base64 of the API."""
    if not instance.user_data:
        return b""
    raw = str(instance.user_data).encode()
    try:
        return base64.b64decode(raw, validate=True)
    except ValueError:
        return raw


def _hostname(address: str) -> str:
    return "ip-" + address.replace(".", "-")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
