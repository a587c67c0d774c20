"""EC2 machines: launch over zones and types, wait, stop, terminate, and the short-lived means to reach one by SSH.

One class owns one thing's whole life. Everything is tagged in the call that creates it, so that whatever is left by a lost
process is found by its tags. What should run, and from which image, is decided in ``deployment``.
"""

from __future__ import annotations

import base64
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import (
    NEW_SECONDS,
    CapacityError,
    CloudError,
    EndedError,
    ImageError,
    MachineError,
    MarketError,
    QuotaError,
    ThrottledError,
    code_of,
    judged,
    refused_launch,
    remove,
    when_known,
)
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.tags import TAG_LEASE, Tags, tag_filters, tags_of
from monai_aws_pipeline.cloud.waiting import retried, silently, wait_until
from monai_aws_pipeline.contract import TAG_EXPIRES_AT
from monai_aws_pipeline.contract.ec2_refusals import Refusal, Way, ending_of

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef, InstanceTypeDef, TagTypeDef


GONE = frozenset({"InvalidInstanceID.NotFound", "InvalidGroup.NotFound", "InvalidGroupId.NotFound", "InvalidKeyPair.NotFound"})
START_SECONDS = 300.0
"""Longest wait for a machine to run; AWS needs some seconds, and tells by a state reason when it will not be."""
END_SECONDS = 300.0
"""Longest wait for a machine to be terminated."""


@dataclass(frozen=True)
class Machine:
    """One EC2 instance as last seen."""

    id: str
    state: str
    type: str
    image: str
    address: str
    tags: dict[str, str]
    launched: str
    profile: str = ""
    zone: str = ""
    reason: str = ""
    """AWS's code for why it is in its state, such as ``Client.InternalError``; empty mostly."""

    @classmethod
    def of(cls, instance: InstanceTypeDef) -> Machine:
        """From AWS's description. ``address`` is the public one where there is one."""
        return cls(
            id=instance.get("InstanceId", ""),
            state=str(instance.get("State", {}).get("Name", "")),
            type=str(instance.get("InstanceType", "")),
            image=instance.get("ImageId", ""),
            address=instance.get("PublicIpAddress") or instance.get("PrivateIpAddress") or "",
            tags=tags_of(instance.get("Tags", [])),
            launched=instance["LaunchTime"].isoformat() if "LaunchTime" in instance else "",
            profile=str(instance.get("IamInstanceProfile", {}).get("Arn", "")).rpartition("/")[2],
            zone=instance.get("Placement", {}).get("AvailabilityZone", ""),
            reason=instance.get("StateReason", {}).get("Code", ""),
        )


@dataclass(frozen=True)
class RootVolume:
    """The root disk: size in GiB, EBS type, and whether it is encrypted, with a KMS key of one's own or (empty) the account's for EBS."""

    gib: int
    type: str = "gp3"
    encrypted: bool = True
    kms_key: str = ""

    def as_ebs(self) -> dict[str, Any]:
        """The form RunInstances wants. The disk ends with its machine."""
        key = {"KmsKeyId": self.kms_key} if self.encrypted and self.kms_key else {}
        return {"VolumeSize": self.gib, "VolumeType": self.type, "Encrypted": self.encrypted, "DeleteOnTermination": True, **key}


@dataclass(frozen=True)
class RootDevice:
    """The root disk of an image: its device name, and the GiB of its snapshot, below which AWS makes no volume of it."""

    name: str
    gib: int


def fitting(volume: RootVolume, image: RootDevice) -> RootVolume:
    """The root volume for a machine of this image: as wanted, and never smaller than the image's snapshot."""
    return replace(volume, gib=max(volume.gib, image.gib))


@dataclass(frozen=True)
class Subnet:
    """Where a machine can be put: subnet, its zone and its VPC."""

    id: str
    zone: str
    vpc: str


@dataclass(frozen=True)
class LaunchSpec:
    """What to launch. ``end_on_shutdown``: the machine's own shutdown terminates it (build machines) instead of stopping it.

    ``markets``: ``on-demand`` and ``spot`` in the order to try. ``avoid_zones``: tried last, because others of its kind are there.
    """

    image: str
    types: tuple[str, ...]
    profile: str
    tags: Tags
    user_data: str
    volume: RootVolume
    security_group: str
    key_name: str = ""
    end_on_shutdown: bool = True
    markets: tuple[str, ...] = ("on-demand",)
    avoid_zones: tuple[str, ...] = ()


def cloud_config(
    *,
    host_key: tuple[str, str] | None = None,
    files: Sequence[dict[str, str]] = (),
    commands: Sequence[str] = (),
) -> str:
    """cloud-init user data: the SSH host key to answer with (private, public), files to write and commands of the first boot.

    JSON is YAML, so no value can break out of it. Source: cloud-init's modules ``ssh``, ``write_files`` and ``runcmd``.
    """
    config: dict[str, Any] = {"write_files": list(files), "runcmd": list(commands)}
    if host_key:
        config |= {"ssh_deletekeys": True, "ssh_keys": {"ed25519_private": host_key[0], "ed25519_public": host_key[1]}}
    return "#cloud-config\n" + json.dumps(config)


def launch_attempts(
    types: Sequence[str], offered: dict[str, list[str]], subnets: Sequence[Subnet], avoid: Sequence[str] = ()
) -> Iterator[tuple[str, Subnet]]:
    """(type, subnet) in the order to try: every zone of the preferred type first, those to avoid last, then the next type."""
    ordered = sorted(subnets, key=lambda subnet: (avoid.count(subnet.zone), subnet.zone))
    return itertools.chain.from_iterable(((kind, subnet) for subnet in ordered if subnet.zone in offered.get(kind, [])) for kind in types)


@dataclass(frozen=True)
class Quota:
    """A quota of EC2 as Service Quotas names it; it counts vCPUs of all types in its families together."""

    title: str
    code: str


def quota_of(kind: str, *, spot: bool) -> Quota:
    """The quota that an instance type counts against. Source: Service Quotas, Amazon EC2."""
    quotas = {
        "g": ("G and VT", "L-DB2E81BA", "L-3819A6DF"),
        "vt": ("G and VT", "L-DB2E81BA", "L-3819A6DF"),
        "p": ("P", "L-417A185B", "L-7212CCBC"),
    }
    family = kind.partition(".")[0].rstrip("abcdefghijklmnopqrstuvwxyz-").rstrip("0123456789")
    name, on_demand, spot_code = quotas.get(family, ("Standard (A, C, D, H, I, M, R, T, Z)", "L-1216C47A", "L-34B43A08"))
    if spot:
        return Quota(f"All {name} Spot Instance Requests", spot_code)
    return Quota(f"Running On-Demand {name} instances", on_demand)


def size_of(kind: str) -> float:
    """What an instance type's size counts for, next to others of its family: an xlarge 4, a 2xlarge 8, metal the most."""
    size = kind.partition(".")[2]
    times, _, rest = size.partition("xlarge")
    if size.endswith("xlarge") and not rest and (not times or times.isdigit()):
        return 4.0 * int(times or 1)
    return {"large": 2.0, "medium": 1.0, "small": 1.0, "micro": 1.0, "nano": 1.0}.get(size, float("inf"))


def quota_error(kind: str, code: str, region: str) -> QuotaError:
    """What to do about a quota: it is named, with the command that asks for more."""
    quota = quota_of(kind, spot="Spot" in code)
    return QuotaError(
        f"The account's quota '{quota.title}' ({quota.code}, counted in vCPUs) does not allow another {kind} in {region} ({code}).",
        f"End other machines, or ask for more: aws service-quotas request-service-quota-increase --region {region} --service-code ec2 "
        f"--quota-code {quota.code} --desired-value VCPUS (a g4dn.xlarge counts 4; new accounts have 0, and an answer may take a day). "
        "Or add a type of another quota to MONAI_AWS_INSTANCE_TYPES.",
    )


class Machines:
    """The EC2 machines of one deployment."""

    def __init__(
        self,
        ec2: EC2Client,
        deployment: str,
        launches: EC2Client | None = None,
        subnets: Sequence[str] = (),
        *,
        public: bool = True,
    ) -> None:
        """``launches`` is a client without retries of its own, for those who launch (``Clients.ec2_launches``).

        ``subnets``: where machines go, all of one VPC; empty: the default subnets of the region. ``public``: with a public address.
        """
        self._ec2 = ec2
        self._launches = launches or ec2
        self._deployment = deployment
        self._subnet_ids = tuple(subnets)
        self._public = public

    def find(self, role: str = "", states: str = "pending,running,stopping,stopped") -> list[Machine]:
        """Machines of this deployment, oldest first."""
        pages = self._ec2.get_paginator("describe_instances").paginate(
            Filters=tag_filters(self._deployment, role, instance_state_name=states),
        )
        found = [Machine.of(i) for page in pages for group in page["Reservations"] for i in group.get("Instances", [])]
        return sorted(found, key=lambda machine: machine.launched)

    def look(self, machine_id: str) -> Machine | None:
        """One machine as it is now, or None when AWS no longer knows it."""
        try:
            answer = self._ec2.describe_instances(InstanceIds=[machine_id])
        except ClientError as error:
            if code_of(error) in GONE:
                return None
            raise
        return next((Machine.of(i) for group in answer["Reservations"] for i in group.get("Instances", [])), None)

    def launch(self, spec: LaunchSpec, report: Report) -> Machine:
        """Launch one machine, in the first of the markets that has one to give, and wait until it runs.

        Raises what the last of the markets raised; nothing is left then.
        """
        image = self._root_device(spec.image)
        volume = fitting(spec.volume, image)
        if volume != spec.volume:
            report(f"the image's snapshot has {image.gib} GiB: the root volume is made that large, not {spec.volume.gib} GiB")
        spec = replace(spec, volume=volume)
        *others, last = spec.markets
        for market in others:
            try:
                return self._launch(replace(spec, markets=(market,)), image, report)
            except (CapacityError, QuotaError, MarketError) as error:
                report(f"no {market} machine, trying the next market: {error}")
        return self._launch(replace(spec, markets=(last,)), image, report)

    def _launch(self, spec: LaunchSpec, image: RootDevice, report: Report) -> Machine:
        """Launch one machine in one market, over all zones of the preferred type, then the next type.

        A full quota rules out what counts against it and is no smaller, a full subnet every type in it; the rest is tried.
        """
        tried: dict[str, Refusal] = {}
        full: dict[tuple[Quota, float], QuotaError] = {}
        barred: set[str] = set()
        for kind, subnet in launch_attempts(spec.types, self.offered(spec.types), self.subnets(), spec.avoid_zones):
            quota, size = quota_of(kind, spot=spec.markets == ("spot",)), size_of(kind)
            if subnet.id in barred or any(quota == known and size >= smallest for known, smallest in full):
                continue
            try:
                machine = self._settled(self._run_patiently(spec, image, kind, subnet, report), report)
            except (ClientError, EndedError) as error:
                code, refusal = (error.reason, ending_of(error.reason)) if isinstance(error, EndedError) else judged(error)
                report(f"no {kind} in {subnet.zone} ({code}). {refusal.what} {refusal.way.capitalize()}.")
                if refusal.way in (Way.NEXT_ZONE, Way.NEXT_SUBNET):
                    tried[f"{kind} in {subnet.zone} ({code})"] = refusal
                    barred |= {subnet.id} if refusal.way is Way.NEXT_SUBNET else set()
                elif refusal.way is Way.NEXT_TYPE:
                    full[quota, size] = quota_error(kind, code, self._ec2.meta.region_name)
                else:
                    raise refused_launch(error, f"launching a {spec.tags.role} machine") from error
                continue
            report(f"machine {machine.id} ({kind}, {subnet.zone}) runs as {spec.tags.role}")
            return machine
        if full:
            raise next(iter(full.values()))
        raise self._nothing_left(spec, tried)

    def _nothing_left(self, spec: LaunchSpec, tried: dict[str, Refusal]) -> CapacityError:
        if not tried:
            return CapacityError(
                f"None of the types {', '.join(spec.types)} is offered where this deployment has a subnet.",
                "Set MONAI_AWS_INSTANCE_TYPES to types that the region has, or MONAI_AWS_SUBNETS to subnets in zones that have them.",
            )
        remedies = dict.fromkeys(refusal.remedy for refusal in tried.values())
        return CapacityError(f"AWS has no machine to give now; tried {', '.join(tried)}.", " ".join(remedies))

    def subnets(self) -> list[Subnet]:
        """Where machines may go: the subnets of the settings, or the region's default ones. Raises MachineError where there is none."""
        try:
            found = (
                self._ec2.describe_subnets(SubnetIds=list(self._subnet_ids))["Subnets"]
                if self._subnet_ids
                else self._ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
            )
        except ClientError as error:
            raise refused_launch(error, "looking for subnets") from error
        subnets = [Subnet(each.get("SubnetId", ""), each.get("AvailabilityZone", ""), each.get("VpcId", "")) for each in found]
        if not subnets:
            raise MachineError(
                "The region has no default subnet to put a machine into.",
                "Set MONAI_AWS_SUBNETS to subnets of a VPC of yours, or create the default VPC: aws ec2 create-default-vpc",
            )
        if len({subnet.vpc for subnet in subnets}) > 1:
            raise MachineError(
                f"The subnets {', '.join(self._subnet_ids)} lie in different VPCs.", "Name subnets of one VPC in MONAI_AWS_SUBNETS."
            )
        return subnets

    def _settled(self, machine: Machine, report: Report) -> Machine:
        """A machine that was just launched, once it runs. However else this ends, it is terminated. Raises EndedError among others."""
        try:
            return self.wait(machine.id, "running", START_SECONDS, report)
        except BaseException:  # a cancelled run raises KeyboardInterrupt's kin; nobody else knows the machine yet
            try:
                when_known(partial(self._ec2.terminate_instances, InstanceIds=[machine.id]), NEW_SECONDS)
                # Whoever removes the lease may not find a machine so new by its tag, and would not wait for its end.
                self.wait(machine.id, "terminated", END_SECONDS, report)
            except (ClientError, BotoCoreError, MachineError) as error:
                report(f"{machine.id} could not be terminated, or has not ended yet; if it still runs, end it by hand: {error}")
            raise

    def offered(self, types: Sequence[str]) -> dict[str, list[str]]:
        """The zones of the region that have each type."""
        pages = self._ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": list(types)}]
        )
        offered: dict[str, list[str]] = {}
        for page in pages:
            for offer in page["InstanceTypeOfferings"]:
                offered.setdefault(str(offer.get("InstanceType")), []).append(str(offer.get("Location")))
        return offered

    def _run_patiently(self, spec: LaunchSpec, image: RootDevice, kind: str, subnet: Subnet, report: Report) -> Machine:
        """Launch in one zone, backing off while AWS throttles or does not know yet what was just made."""
        token = uuid.uuid4().hex  # a repeated request with the same token cannot launch a second machine
        for pause in (1.0, 2.0, 4.0, 8.0, 16.0):
            try:
                return self._run(spec, image, kind, subnet, token)
            except ClientError as error:
                code, refusal = judged(error)
                if refusal.way not in (Way.RETRY, Way.NOT_YET):
                    raise
                report(f"{refusal.what} ({code}); trying again in {pause:.0f} s")
                time.sleep(pause)
        try:
            return self._run(spec, image, kind, subnet, token)
        except ClientError as error:
            code, refusal = judged(error)
            if refusal.way is not Way.RETRY:
                raise
            raise ThrottledError(f"AWS still does not take launches after six attempts ({code}).", refusal.remedy) from error

    def _run(self, spec: LaunchSpec, image: RootDevice, kind: str, subnet: Subnet, token: str) -> Machine:
        request = self.launch_request(spec, image, kind, subnet)
        return Machine.of(self._launches.run_instances(**request, ClientToken=token)["Instances"][0])

    def launch_request(self, spec: LaunchSpec, image: RootDevice, kind: str, subnet: Subnet) -> dict[str, Any]:
        """RunInstances for one machine in one subnet, in the first of its markets; a rehearsal (DryRun) sends the same."""
        # Said either way: a subnet need not give a public address by itself, and may give one that nobody asked for.
        interface = {"DeviceIndex": 0, "SubnetId": subnet.id, "Groups": [spec.security_group], "AssociatePublicIpAddress": self._public}
        request: dict[str, Any] = {
            "ImageId": spec.image,
            "InstanceType": kind,
            "MinCount": 1,
            "MaxCount": 1,
            "IamInstanceProfile": {"Name": spec.profile},
            "NetworkInterfaces": [interface],
            "UserData": spec.user_data,
            "InstanceInitiatedShutdownBehavior": "terminate" if spec.end_on_shutdown else "stop",
            # IMDSv2 only, and an answer that does not travel further than the machine: a container behind a bridge never sees its role.
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
            "BlockDeviceMappings": [{"DeviceName": image.name, "Ebs": spec.volume.as_ebs()}],
            "TagSpecifications": [{"ResourceType": kind_of, "Tags": spec.tags.as_list()} for kind_of in ("instance", "volume")],
        }
        if spec.markets[0] == "spot":  # one-time: what AWS takes back is gone, and nothing is asked for again
            spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
        if spec.key_name:
            request["KeyName"] = spec.key_name
        return request

    def template_request(self, spec: LaunchSpec, kind: str) -> dict[str, Any]:
        """The same launch as the data of a launch template: what decides subnet, number and market is left to who launches by it."""
        image = self._root_device(spec.image)
        request = self.launch_request(replace(spec, volume=fitting(spec.volume, image)), image, kind, Subnet("", "", ""))
        del request["MinCount"], request["MaxCount"], request["NetworkInterfaces"][0]["SubnetId"]
        return {**request, "UserData": base64.b64encode(spec.user_data.encode()).decode()}  # RunInstances encodes it by itself

    def taken_back(self, machine_id: str, seconds: float = 30, report: Report = silently) -> bool:
        """Whether AWS took a spot machine back. Waits a while for a machine that still seems to run: its end is told late."""

        def verdict() -> bool | None:
            answer = self._ec2.describe_instances(InstanceIds=[machine_id])["Reservations"]
            for found in (instance for group in answer for instance in group.get("Instances", [])):
                if found.get("StateReason", {}).get("Code") == "Server.SpotInstanceTermination":
                    return True
                if found.get("State", {}).get("Name") != "running":
                    return False
            return None

        asking = f"asking whether AWS took {machine_id} back"
        return bool(wait_until(verdict, lambda known: known is not None, seconds, what=asking, report=report))

    def _root_device(self, image_id: str) -> RootDevice:
        try:
            images = self._ec2.describe_images(ImageIds=[image_id])["Images"]
        except ClientError as error:
            if not code_of(error).startswith("InvalidAMIID"):
                raise
            images = []
        if not images:
            raise ImageError(f"The machine image {image_id} is not there any more.", "Materialise gpu_ami, then this asset again.")
        return root_device(images[0])

    def start(self, machine_id: str) -> None:
        """Start a stopped machine; a running one stays as it is, one that is so new that AWS does not know it yet is waited for.

        Raises CapacityError, AccessError or LaunchError with AWS's code.
        """
        try:
            when_known(partial(self._launches.start_instances, InstanceIds=[machine_id]), NEW_SECONDS)
        except ClientError as error:
            raise refused_launch(error, f"starting {machine_id}") from error

    def stop(self, machine_id: str) -> None:
        """Stop a machine; its disk stays."""
        when_known(partial(self._ec2.stop_instances, InstanceIds=[machine_id]), NEW_SECONDS)

    def terminate(self, machine_id: str) -> None:
        """End a machine for good; one that is gone already is fine, one that is so new that AWS does not know it yet is waited for."""

        def listed() -> bool:
            found = self._ec2.describe_instances(Filters=[{"Name": "instance-id", "Values": [machine_id]}])["Reservations"]
            return any(Machine.of(each).state != "terminated" for group in found for each in group.get("Instances", []))

        remove(partial(self._ec2.terminate_instances, InstanceIds=[machine_id]), listed)

    def tag(self, machine_id: str, tags: dict[str, str]) -> None:
        """Add or replace tags of one machine."""
        wanted: list[TagTypeDef] = [{"Key": key, "Value": value} for key, value in tags.items()]
        when_known(partial(self._ec2.create_tags, Resources=[machine_id], Tags=wanted), NEW_SECONDS)

    def tag_with_disks(self, machine_id: str, tags: dict[str, str]) -> None:
        """Add or replace tags of one machine and its disks, which were tagged with it."""
        disks = self._ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [machine_id]}])["Volumes"]
        resources = [*(disk.get("VolumeId", "") for disk in disks), machine_id]
        wanted: list[TagTypeDef] = [{"Key": key, "Value": value} for key, value in tags.items()]
        when_known(partial(self._ec2.create_tags, Resources=resources, Tags=wanted), NEW_SECONDS)

    def wait(self, machine_id: str, wanted: str, seconds: float, report: Report = silently) -> Machine:
        """Wait until a machine is in a state. Raises MachineError when it ends elsewhere, with AWS's reason, or time is up.

        A machine that AWS does not know is gone for who waits for its end. For others it may be so new that AWS does not know it yet.
        """
        known_by = time.monotonic() + (0 if wanted == "terminated" else NEW_SECONDS)
        ends = {wanted, "terminated", *(("stopping", "stopped", "shutting-down") if wanted == "running" else ())}
        seen = False

        def look() -> Machine:
            nonlocal seen
            found = self.look(machine_id)
            seen = seen or found is not None
            state = "not known yet" if not seen and time.monotonic() < known_by else "terminated"
            return found or Machine(machine_id, state, "", "", "", {}, "")

        machine = wait_until(
            look,
            lambda found: found.state in ends,
            seconds,
            what=lambda found: f"machine {machine_id} is {found.state}; waiting until it is {wanted}",
            report=report,
            pause=5.0,
        )
        if machine.state == wanted:
            return machine
        if machine.state in ends:
            raise EndedError(machine_id, machine.state, wanted, machine.reason)
        raise MachineError(
            f"Machine {machine_id} is still {machine.state} after {seconds:.0f} s.", f"It should have become {wanted}; look at it in EC2."
        )

    # -------------------------------------------------------------------------------------------------------- leases

    def end_lease(self, lease: str, machine: str, report: Report) -> None:
        """Remove everything that was made under a lease; each step is tried whatever became of the others.

        It is looked for by the lease's tag, because a block may be interrupted after AWS made something and before it said so.
        ``machine``: the machine's id where it is known.
        """
        problems: list[str] = []
        attempt = partial(_attempt, problems)
        ending: list[str] = []
        attempt("look for the machine", lambda: ending.extend(self._of_lease(lease, machine)))
        for name in ending:
            attempt(f"terminate {name}", partial(self.terminate, name))
        for name in ending:
            attempt(f"wait for {name}", partial(self.wait, name, "terminated", END_SECONDS, report))
        problems += self.end_access(lease, report)
        if ending and not problems:
            report(f"machine {', '.join(ending)} terminated, its key pair and security group deleted")
        for problem in problems:
            report(f"left to the sweep: {problem}")

    def end_access(self, lease: str, report: Report) -> list[str]:
        """Remove the key pair and the security group of a lease. Returns what did not work."""
        problems: list[str] = []
        attempt = partial(_attempt, problems)
        keys: list[str] = []
        attempt("look for the key pair", lambda: keys.extend(self.key_names(lease)))
        for key in keys:
            attempt(f"delete key pair {key}", partial(self.delete_key, key))
        groups: list[str] = []
        attempt("look for the security group", lambda: groups.extend(self.security_groups(lease)))
        for group in groups:
            attempt(f"delete security group {group}", partial(self.delete_security_group, group, report))
        return problems

    def _of_lease(self, lease: str, machine: str) -> list[str]:
        """The lease's machines. EC2 shows a new machine within seconds; without an id it is looked for that long."""
        for pause in (0.0,) if machine else (0.0, 1.0, 2.0):
            time.sleep(pause)
            pages = self._ec2.get_paginator("describe_instances").paginate(
                Filters=[
                    *tag_filters(self._deployment, instance_state_name="pending,running,stopping,stopped,shutting-down"),
                    {"Name": f"tag:{TAG_LEASE}", "Values": [lease]},
                ]
            )
            found = {i.get("InstanceId", "") for page in pages for group in page["Reservations"] for i in group.get("Instances", [])}
            if found:
                return sorted(found | ({machine} if machine else set()))
        return [machine] if machine else []

    # ------------------------------------------------------------------------------------------------ network and key

    def set_security_groups(self, machine_id: str, groups: Sequence[str]) -> None:
        """Put a machine into these groups and no others."""
        when_known(partial(self._ec2.modify_instance_attribute, InstanceId=machine_id, Groups=list(groups)), NEW_SECONDS)

    def security_group(self, tags: Tags, description: str, ingress_from: str = "", port: int = 22) -> str:
        """Create a group without any way in, or with one port open to one address range or security group. Returns its id."""
        group = self._ec2.create_security_group(
            GroupName=f"{tags.name}-{tags.run_id[:8]}-{time.time_ns():x}",
            Description=description,
            VpcId=self.subnets()[0].vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tags.as_list()}],
        )["GroupId"]
        if ingress_from:
            permission: Any = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **_source(ingress_from)}
            opening = partial(self._ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[permission])
            when_known(opening, NEW_SECONDS)
        return group

    def find_security_group(self, role: str) -> str | None:
        """A group of this deployment and role that is meant to stay, in the VPC that machines go into now."""
        filters = tag_filters(self._deployment, role, vpc_id=self.subnets()[0].vpc)
        groups = self._ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        staying = [group for group in groups if not tags_of(group.get("Tags", [])).get(TAG_EXPIRES_AT)]
        return staying[0].get("GroupId") if staying else None

    def security_groups(self, lease: str = "") -> list[str]:
        """Ids of all groups of this deployment, or of those made under a lease."""
        found = self._ec2.describe_security_groups(Filters=self._filters(lease))["SecurityGroups"]
        return [group.get("GroupId", "") for group in found]

    def delete_security_group(self, group: str, report: Report = silently, seconds: float = 60) -> None:
        """Delete a group, waiting while a machine that is ending still holds it."""

        def listed() -> bool:
            return bool(self._ec2.describe_security_groups(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroups"])

        delete = partial(remove, partial(self._ec2.delete_security_group, GroupId=group), listed)
        waiting = f"waiting until no machine holds the security group {group} any more"
        retried(delete, ClientError, _is_held, seconds, what=waiting, report=report, pause=1.0)

    def import_key(self, tags: Tags, public_key: str) -> str:
        """Import a public key under a fresh name. Returns the name."""
        name = f"{tags.name}-{tags.run_id[:8]}-{time.time_ns():x}"
        self._ec2.import_key_pair(
            KeyName=name, PublicKeyMaterial=public_key.encode(), TagSpecifications=[{"ResourceType": "key-pair", "Tags": tags.as_list()}]
        )
        return name

    def key_names(self, lease: str = "") -> list[str]:
        """Names of all key pairs of this deployment, or of those made under a lease."""
        return [pair.get("KeyName", "") for pair in self._ec2.describe_key_pairs(Filters=self._filters(lease))["KeyPairs"]]

    def _filters(self, lease: str) -> list[FilterTypeDef]:
        chosen = tag_filters(self._deployment)
        return [*chosen, {"Name": f"tag:{TAG_LEASE}", "Values": [lease]}] if lease else chosen

    def delete_key(self, name: str) -> None:
        """Delete a key pair; one that is gone already is fine."""
        try:
            self._ec2.delete_key_pair(KeyName=name)
        except ClientError as error:
            if code_of(error) not in GONE:
                raise


def _is_held(error: ClientError) -> bool:
    return code_of(error) == "DependencyViolation"


def _source(ingress_from: str) -> dict[str, list[dict[str, str]]]:
    """Who may come in by a rule, as EC2 wants it: a security group, or a range of addresses."""
    if ingress_from.startswith("sg-"):
        return {"UserIdGroupPairs": [{"GroupId": ingress_from, "Description": "build"}]}
    if ":" in ingress_from:
        return {"Ipv6Ranges": [{"CidrIpv6": ingress_from, "Description": "build"}]}
    return {"IpRanges": [{"CidrIp": ingress_from, "Description": "build"}]}


def root_device(image: ImageTypeDef) -> RootDevice:
    """The root disk of an image as AWS describes it; 0 GiB where it does not say."""
    name = image.get("RootDeviceName", "/dev/sda1")
    sizes = [
        mapping.get("Ebs", {}).get("VolumeSize", 0) for mapping in image.get("BlockDeviceMappings", []) if mapping.get("DeviceName") == name
    ]
    return RootDevice(name, max(sizes, default=0))


def _attempt(problems: list[str], name: str, step: Callable[[], object]) -> None:
    try:
        step()
    except (ClientError, BotoCoreError, CloudError) as error:
        problems.append(f"{name}: {error}")


def leased(tags: Tags) -> Tags:
    """The tags with a lease: a name of its own, by which everything made for one piece of work is found again."""
    return replace(tags, extra={**tags.extra, TAG_LEASE: f"{tags.run_id[:8]}-{uuid.uuid4().hex[:12]}"})


@contextmanager
def short_lived(
    machines: Machines, spec: LaunchSpec, *, report: Report, public_key: str = "", ssh_from: str = "", ssh_port: int = 22
) -> Iterator[Machine]:
    """A machine with its key pair (none without ``public_key``) and security group, all gone when the block ends, however it ends.

    A cancelled Dagster run raises inside the block and is cleaned up here too. A killed process is not: then the machine's own timer
    ends it, and the sweep removes key and group by their ``expires-at`` tag.
    """
    tags = leased(spec.tags)
    machine = ""
    try:
        group = machines.security_group(tags, "SSH for the time of one build", ssh_from, ssh_port)
        key = machines.import_key(tags, public_key) if public_key else ""
        launched = machines.launch(replace(spec, tags=tags, security_group=group, key_name=key), report)
        machine = launched.id
        yield launched
    finally:
        machines.end_lease(tags.extra[TAG_LEASE], machine, report)
