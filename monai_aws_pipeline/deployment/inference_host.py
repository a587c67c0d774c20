"""inference_host: the machines that answer studies, with agent, settings and the live MAP on their disks, then stopped.

They are hosts with names, or a group of none to as many (``fleet``, see ``fleet_group.py``); going from one kind to the other, what is new
stands, and is what the wake function wakes, before what was there goes. A host is replaced when what it was made from changed (image, disk,
settings of the agent), when somebody asked for it, and when it could not start as often as the settings say; a new MAP is pulled onto the
host there is.
Afterwards that MAP is made live, so that no study meets one that is not there: always when none is live yet, never when a rollback took
it back, and otherwise as ``promote_on_deploy`` says. Where it is not made live, the hosts hold the live one.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from dagster import AssetExecutionContext, AssetKey, DataVersion, MaterializeResult, MetadataValue, asset

from monai_aws_pipeline.cloud.errors import CommandError
from monai_aws_pipeline.cloud.images import Images
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machine, Machines, RootVolume, cloud_config
from monai_aws_pipeline.cloud.prices import ON_DEMAND_USD_PER_HOUR, basis, usd_per_hour
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.cloud.run_command import Commands, last_json
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import AGENT_PROGRAM, AGENT_SETTINGS, AGENT_UNIT, ROLE_INFERENCE, TAG_CONTENT
from monai_aws_pipeline.deployment.build_machine import machines_of, root_volume
from monai_aws_pipeline.deployment.fleet_group import Fleet, GroupPlan, Wanted, named_hosts, retire_hosts
from monai_aws_pipeline.deployment.lineage import materialized_version
from monai_aws_pipeline.deployment.live_map import change_events, missed_events
from monai_aws_pipeline.deployment.root_volume import check_volume, disk_sizes, volume_need
from monai_aws_pipeline.deployment.stock_host import launch_provisioned, provisioned_content
from monai_aws_pipeline.deployment.wake_function import switch_wake_function
from monai_aws_pipeline.operations.host_commands import HostCommands
from monai_aws_pipeline.operations.hosts import cannot_start, why_replaced
from monai_aws_pipeline.operations.live_maps import PULL_SECONDS, TAG_PREPARED, LiveMaps
from monai_aws_pipeline.operations.promotion import history_of, label, live_after_deploy
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import Settings


@dataclass(frozen=True)
class HostPlan:
    """What to do with the hosts there are: keep these, end those (each with the reason), make so many new ones.

    ``avoid_zones``: where hosts could not start, once for each host there may be, so that such a zone comes after every other.
    """

    keep: tuple[Machine, ...]
    retire: tuple[Machine, ...]
    create: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    avoid_zones: tuple[str, ...] = ()


def plan_hosts(existing: Sequence[Machine], content: str, count: int, replace_after: int = 0) -> HostPlan:
    """Keep the oldest ``count`` hosts made from the same inputs, retire every other one, and those that are to be replaced first of all."""
    replaced = {machine.id: why for machine in existing if (why := why_replaced(machine, replace_after))}
    same = [machine for machine in existing if machine.tags.get(TAG_CONTENT) == content and machine.id not in replaced]
    keep = tuple(same[:count])
    retire = tuple(machine for machine in existing if machine not in keep)
    failed = tuple(machine.zone for machine in retire if cannot_start(machine)) * (count + 1)
    others = {machine.id: "there are enough" if machine in same else "it was made from other inputs" for machine in retire}
    return HostPlan(keep, retire, count - len(keep), others | replaced, failed)


def agent_settings(settings: Settings) -> dict[str, Any]:
    """The content of /etc/monai-aws/agent.json. No secret is in it: the agent reads those with its role."""
    names = settings.names
    return {
        "deployment": settings.deployment,
        "region": settings.region,
        "bucket": settings.require_bucket(),
        "jobs_queue": names.jobs_queue,
        "live_map_parameter": names.live_map_parameter,
        "study_key_secret": settings.study_key_secret_arn or names.study_key_secret,
        "gpus": settings.gpus,
        "map_network": settings.map_network,
        "map_hosting": settings.map_hosting,
        "studies_at_once": settings.studies_at_once,
        "fleet_group": names.fleet_group if settings.fleet == "autoscaling" else "",
        "map_timeout_s": settings.map_timeout_s,
        "map_memory_mib": settings.map_memory_mib,
        "idle_stop_minutes": settings.idle_stop_minutes,
        "upload_max_mib": settings.upload_max_mib,
        "unpacked_max_mib": settings.unpacked_max_mib,
        "upload_max_files": settings.upload_max_files,
        "unpack_max_ratio": settings.unpack_max_ratio,
        "unpack_max_depth": settings.unpack_max_depth,
        "unpack_max_seconds": settings.unpack_max_seconds,
        "require_volume": settings.require_volume,
        "archive": settings.archive,
        "archive_address": settings.archive_address,
        "archive_secret": settings.archive_secret,
        "archive_correct": settings.archive_correct,
        "datastore_id": settings.datastore_id,
        "usd_per_hour": ON_DEMAND_USD_PER_HOUR,  # of every type: which one it becomes is known when there is capacity
        "price_basis": basis(settings.region),
    }


def host_content(image: str, agent: dict[str, Any], volume: RootVolume, provisioned: str = "") -> str:
    """16 hex digits over everything a host is made from. ``provisioned``: what is put onto it that its image does not hold."""
    parts = [image, agent, volume.as_ebs(), *([provisioned] if provisioned else [])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@asset(
    deps=[AssetKey("gpu_ami"), AssetKey("map_image")],
    group_name="platform",
    kinds={"ec2"},
    description="The machines that answer studies: made from gpu_ami, holding the live MAP, stopped until a study comes; or an Auto "
    "Scaling group of none to as many (MONAI_AWS_FLEET). Materialise it where it is stale, or a setting of the hosts changed. One host "
    "took 25 to 50 s on the embedded AWS, where it is free; on AWS, where nobody has measured it, its disk of 150 GiB costs 12 USD a month "
    "and each hour that it runs 0.53 USD (g4dn.xlarge).",
)
def inference_host(context: AssetExecutionContext, settings: SettingsResource, cloud: CloudResource) -> MaterializeResult:  # type: ignore[type-arg]
    """Bring the hosts to the wanted image, settings and MAP, and leave them stopped."""
    with repeating(context.log.info) as report:
        report("looking at image, MAP and hosts")
        chosen, clients = settings.load(), cloud.clients()
        started = time.monotonic()
        machines = machines_of(clients, chosen)
        image = materialized_version(context.instance, "gpu_ami")
        registry, maps = Registry(clients.ecr, chosen.ecr_repository), LiveMaps(clients, chosen, report)
        candidate = registry.require(digest=materialized_version(context.instance, "map_image"))
        present = {image.digest for image in registry.images()}
        now = history_of(maps.history())
        wanted, kept_back = live_after_deploy(now, candidate.digest, present, chosen.promote_on_deploy)
        pushed = registry.require(digest=wanted)
        if kept_back:
            report(f"{label(candidate)} is not made live: {kept_back}")
        agent = agent_settings(chosen)
        content = host_content(image, agent, root_volume(chosen), provisioned_content(chosen, report))
        volume_gib, system_gib = disk_sizes(Images(clients.ec2, clients.ssm, chosen.deployment), image, chosen)
        need = volume_need(system_gib, [pushed, candidate])
        if tight := check_volume(volume_gib, need, pushed):
            context.log.warning(tight)

        spec = host_spec(machines, chosen, image, agent, content, context.run.run_id)
        fleet = Fleet(clients, chosen, machines, report)
        former = named_hosts(machines.find(ROLE_INFERENCE))
        if chosen.fleet == "autoscaling":
            plan, aim = fleet.bring(spec, content)
            version = f"{content}:{chosen.names.fleet_group}"
        else:
            hosts = HostCommands(machines, Commands(clients.ssm), maps.jobs_at_work, report)
            version, metadata = _bring_hosts(clients, chosen, spec, former, pushed, hosts)
        live = maps.live()
        if live not in (pushed.digest, now.live):
            report(f"{live} became live meanwhile and stays so")
        elif live != pushed.digest:
            change = maps.deploy(pushed, f"{chosen.owner}, run {context.run.run_id[:8]}", "inference_host was materialised")
            for event in (*missed_events(context.instance, maps, change), *change_events(change)):
                context.log_event(event)
        if chosen.fleet == "autoscaling":
            metadata = _group_metadata(plan, aim, chosen, fleet.fill_pool(plan, aim))
        metadata |= _hand_over(clients, chosen, machines, fleet, former, report)
        return MaterializeResult(
            data_version=DataVersion(version),
            metadata={
                **metadata,
                "image_id": image,
                "map_digest": pushed.digest,
                "map_tag": label(pushed),
                **({"not_made_live": f"{label(candidate)}: {kept_back}"} if kept_back else {}),
                "idle_stop_minutes": chosen.idle_stop_minutes,
                "root_volume_gib": volume_gib,
                "root_volume_gib_for_two_maps": need.gib,
                "seconds": round(time.monotonic() - started, 1),
            },
        )


def _hand_over(
    clients: Clients, settings: Settings, machines: Machines, fleet: Fleet, former: Sequence[Machine], report: Report
) -> dict[str, Any]:
    """Let hosts of the other kind go, once nothing wakes them any more: whichever study comes meanwhile, its host stands and is woken."""
    switch_wake_function(clients, settings, report)
    if settings.fleet == "autoscaling":
        return {"retired": MetadataValue.json(retire_hosts(clients, machines, former, settings.study_seconds, report))}
    fleet.remove()
    return {}


def _group_metadata(plan: GroupPlan, aim: Wanted, settings: Settings, no_pool: str) -> dict[str, Any]:
    changes = [*plan.changed, *plan.said, *filter(None, (plan.refresh, no_pool))]
    return {
        "group": settings.names.fleet_group,
        "group_most": settings.host_count,
        "group_changes": MetadataValue.json(changes),
        "launch_template_version": aim.version,
        "warm_pool": 0 if no_pool else int(aim.pool.get("MinSize", 0)),
        "instance_type": settings.instance_types[0],
        "usd_per_hour_while_running": usd_per_hour(settings.instance_types[0]),
        "reused": MetadataValue.bool(plan.is_nothing),
    }


def _bring_hosts(
    clients: Clients, settings: Settings, spec: LaunchSpec, former: Sequence[Machine], pushed: PushedImage, on_hosts: HostCommands
) -> tuple[str, dict[str, Any]]:
    """Keep, make and retire named hosts, each with the MAP on its disk. Returns the data version and what is said of them."""
    machines, report = on_hosts.machines, on_hosts.report
    content = spec.tags.extra[TAG_CONTENT]
    plan = plan_hosts(former, content, settings.host_count, settings.replace_host_after)
    report(f"hosts: {len(plan.keep)} kept, {plan.create} to make, {len(plan.retire)} to retire")
    with discarded_on_failure(machines, report) as created:
        for _ in range(plan.create):
            zones = (*plan.avoid_zones, *(host.zone for host in (*plan.keep, *created)))
            created.append(_launch(clients, machines, settings, replace(spec, avoid_zones=zones), report))
        hosts = [*plan.keep, *created]
        pulls = [_prepare(on_hosts, host, pushed, new=host in created) for host in hosts]
    for machine in plan.retire:
        machines.terminate(machine.id)
        report(f"retired {machine.id}: {plan.reasons[machine.id]}")
    ids = sorted(host.id for host in hosts)
    metadata = {
        "instances": MetadataValue.json(ids),
        "retired": MetadataValue.json(dict(plan.reasons)),
        "instance_type": hosts[0].type,
        "usd_per_hour_while_running": usd_per_hour(hosts[0].type),
        "pull_seconds": MetadataValue.json(pulls),
        "reused": MetadataValue.bool(plan.create == 0),
    }
    return f"{content}:{','.join(ids)}", metadata


@contextmanager
def discarded_on_failure(machines: Machines, report: Report) -> Iterator[list[Machine]]:
    """A list for new machines; those in it are terminated when the block does not end well, so that no half-made host stays."""
    created: list[Machine] = []
    try:
        yield created
    except BaseException:  # a cancelled run raises KeyboardInterrupt's kin; the machines must go then too
        for machine in created:
            machines.terminate(machine.id)
            report(f"terminated {machine.id}: it was not made completely")
        raise


def host_spec(machines: Machines, settings: Settings, image: str, agent: dict[str, Any], content: str, run_id: str) -> LaunchSpec:
    """What every host is launched from, named or of a group. One of a group ends with its shutdown: the group makes another."""
    tags = Tags(
        settings.deployment, ROLE_INFERENCE, settings.owner, run_id, settings.names.machine(ROLE_INFERENCE), extra={TAG_CONTENT: content}
    )
    # A host has no way in: commands come through SSM, studies through the queue.
    group = machines.find_security_group(ROLE_INFERENCE) or machines.security_group(tags, "inference host: no way in")
    return LaunchSpec(
        image=image,
        types=settings.instance_types,
        profile=settings.names.inference_profile,
        tags=tags,
        user_data=cloud_config(files=_settings_file(agent), commands=[f"systemctl start --no-block {AGENT_UNIT}"]),
        volume=root_volume(settings),
        security_group=group,
        end_on_shutdown=settings.fleet == "autoscaling",
    )


def _settings_file(agent: dict[str, Any]) -> list[dict[str, str]]:
    return [{"path": AGENT_SETTINGS, "permissions": "0644", "content": json.dumps(agent, indent=2)}]


def _launch(clients: Clients, machines: Machines, settings: Settings, spec: LaunchSpec, report: Report) -> Machine:
    """Launch one host, in another zone than ``avoid_zones`` where one has capacity: a zone without any must not stop every host."""
    if settings.ami_mode == "stock":
        return launch_provisioned(clients, machines, settings, spec, _settings_file(agent_settings(settings)), report)
    return machines.launch(spec, report)


def _prepare(on_hosts: HostCommands, host: Machine, pushed: PushedImage, *, new: bool) -> float:
    """Have a host pull the MAP by digest, once. Returns the pull's seconds."""
    machines, report = on_hosts.machines, on_hosts.report
    now = machines.look(host.id) or host
    if now.tags.get(TAG_PREPARED) == pushed.digest:
        report(f"{host.id} holds {pushed.digest} already")
        return 0.0
    report(f"{host.id} pulls {pushed.reference} ({pushed.bytes / 1e6:.0f} MB)")
    # The SSM agent may be up before the container engine is; starting the engine waits until it is.
    script = f"systemctl start docker\n{AGENT_PROGRAM} prepare --image {pushed.reference}"
    ended = on_hosts.run(host, script, seconds=PULL_SECONDS, comment="pull the MAP", new=new)
    if ended.exit_code != 0:
        raise CommandError(
            f"Host {host.id} could not pull {pushed.reference} (exit code {ended.exit_code}): {ended.stderr[-800:]}",
            "Check that its role may read the repository and that its disk has room; then materialise inference_host again.",
        )
    machines.tag(host.id, {TAG_PREPARED: pushed.digest})
    report(f"{host.id} holds {pushed.digest}")
    return float(last_json(ended.stdout).get("seconds", 0.0))
