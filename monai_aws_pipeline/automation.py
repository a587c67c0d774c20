"""Jobs, schedules and the sensors that start runs. What an asset does is in its own module; here is only when and which.

See https://docs.dagster.io/guides/automate
"""

import time
from collections.abc import Iterable, Sequence

from dagster import (
    AssetSelection,
    Config,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Failure,
    OpExecutionContext,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    job,
    op,
    sensor,
)
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from monai_aws_pipeline.cloud.errors import CloudError
from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import ROLE_INFERENCE
from monai_aws_pipeline.deployment.ami import REFRESH_BASE_TAG
from monai_aws_pipeline.deployment.lineage import latest_version
from monai_aws_pipeline.deployment.map_source import Watched, observation, version_in
from monai_aws_pipeline.maps.git import SourceError
from monai_aws_pipeline.operations.hosts import replacement_key, why_replaced
from monai_aws_pipeline.operations.orphaned_outputs import sweep_outputs
from monai_aws_pipeline.operations.retention import remove_old_maps
from monai_aws_pipeline.operations.sweep import short_lived_runs, sweep
from monai_aws_pipeline.operations.teardown import Teardown, plan
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from monai_aws_pipeline.settings import Settings

STARTED_BY_A_CHANGE = {"build": "build_map", "promote": "release_map"}
"""The job that each value of on_source_change starts; ``observe`` starts none."""
MAKE_HOSTS = ("replace_hosts", "deploy_inference", "deploy_all", "__ASSET_JOB")
"""Jobs with inference_host in them; the last is what a click on *Materialize* starts."""
PLATFORM: Sequence[str] = ("gpu_ami", "map_image", "inference_host", "s3_trigger")

build_map = define_asset_job(
    "build_map",
    AssetSelection.assets("gpu_ami", "map_image"),
    description="Build and push the MAP; nothing is deployed. Start it to see whether an application builds and answers its golden study. "
    "It takes and costs what gpu_ami and map_image do: one to three minutes on the embedded AWS, on AWS the time of two machines.",
)
promote_map = define_asset_job(
    "promote_map",
    AssetSelection.assets("live_map"),
    description="Make a built MAP answer studies, after a host has answered the golden study with it; by default the one built last. "
    "Start it where promote_on_deploy is off, or after a rollback. It takes the golden study's time, 12 s with the example on the "
    "embedded AWS, and costs a host's time for that long.",
)
release_map = define_asset_job(
    "release_map",
    AssetSelection.assets("gpu_ami", "map_image", "live_map"),
    description="Build and push the MAP, then promote it. The sensor map_source_changed starts it where on_source_change is promote. It "
    "takes and costs what build_map and promote_map do: one to three minutes with the example on the embedded AWS.",
)
deploy_inference = define_asset_job(
    "deploy_inference",
    AssetSelection.assets("inference_host", "s3_trigger"),
    description="Bring hosts and trigger to the current image and MAP. Start it after build_map, or when a setting of either changed. It "
    "took 25 to 50 s on the embedded AWS; on AWS it costs the hosts' time until they are stopped again.",
)
replace_hosts = define_asset_job(
    "replace_hosts",
    AssetSelection.assets("inference_host"),
    description="Make others in the place of hosts that cannot start, or that an operator has named (monai-aws hosts replace). The sensor "
    "hosts_to_replace starts it. It takes and costs what inference_host does: 25 to 50 s a host on the embedded AWS.",
)
deploy_all = define_asset_job(
    "deploy_all",
    AssetSelection.assets(*PLATFORM),
    description="The whole platform, step by step: image, MAP, hosts, trigger. Start it first of all, and whenever several of them are "
    "stale. It took two to three minutes with the example on the embedded AWS, where it is free; the first one on AWS, with a few "
    "studies, is reckoned at one to two USD, which nobody has measured yet.",
)


@op
def end_what_expired(context: OpExecutionContext, settings: SettingsResource, cloud: CloudResource) -> None:
    """Remove everything short-lived of this deployment whose time is over, and outputs that no result names."""
    with repeating(context.log.info) as report:
        report("looking for what has lost its owner")
        chosen, clients = settings.load(), cloud.clients()
        removed = sweep(clients, chosen.deployment, run_ids=None, report=report, regions=chosen.ami_regions)
        removed += sweep_outputs(clients.s3, chosen.require_bucket(), report)
        report(f"{len(removed)} orphans removed" if removed else "nothing was left behind")
        context.add_output_metadata({"removed": removed})


@op
def keep_so_many_maps(context: OpExecutionContext, settings: SettingsResource, cloud: CloudResource) -> None:
    """Remove old MAPs from ECR where maps_kept says how many are kept; never the live one, nor one that a rollback would go to."""
    with repeating(context.log.info) as report:
        report("looking for MAPs beyond those that are kept")
        built = latest_version(context.instance, "map_image")  # may be an old one that a build has found again
        removed = remove_old_maps(cloud.clients(), settings.load(), report, protected=[built])
        context.add_output_metadata({"removed": removed})


@job(
    description="Remove what lost its owner: expired machines, disks, keys, groups, half-made images, outputs that no result names; and "
    "MAPs beyond those that are kept. scheduled_orphan_sweep starts it every hour. It takes a second where nothing is left, two minutes "
    "where a machine is, and costs nothing."
)
def sweep_orphans() -> None:
    """See ``cloud.sweep`` and ``cloud.retention``."""
    end_what_expired()
    keep_so_many_maps()


class TeardownConfig(Config):
    """``confirm``: the deployment's name, so that nobody takes it down by a click. ``keep_images``: the MAPs and their repository stay."""

    confirm: str
    keep_images: bool = False


@op
def remove_deployment(context: OpExecutionContext, config: TeardownConfig, settings: SettingsResource, cloud: CloudResource) -> None:
    """Remove everything the lineage has made. Raises Failure without confirmation, and when something is left afterwards."""
    with repeating(context.log.info) as report:
        report("looking what there is of the deployment")
        chosen = settings.load()
        if config.confirm != chosen.deployment:
            raise Failure(f"Nothing was removed. To take down {chosen.deployment}, set the op's config 'confirm' to that name.")
        teardown_of = Teardown(cloud.clients(), chosen, report)
        outcome = teardown_of.run(plan(teardown_of.inventory(), config.keep_images), config.keep_images)
        context.add_output_metadata({"removed": [str(thing) for thing in outcome.removed], "left": [str(thing) for thing in outcome.left]})
        if outcome.left:
            raise Failure(f"Still there: {', '.join(map(str, outcome.left))}. Run teardown again; what is gone does not matter to it.")
        report(f"{len(outcome.removed)} things removed; nothing of {chosen.deployment} is left but the bucket and its stack")


@job(
    description="Take the deployment down: all but the administrator's stack and the bucket's objects. Start it with the deployment's "
    "name in its config, when it is no longer needed. It takes some minutes on AWS, most of them for machines to end, and costs nothing; "
    "what is kept in S3 goes on costing."
)
def teardown() -> None:
    """See ``cloud.teardown``."""
    remove_deployment()


@sensor(
    job=sweep_orphans,
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    description="Removes what ended runs have left behind: cancelled, failed or killed. It is on from the start, looks every minute and "
    "starts no run. It takes a few calls, which cost nothing, and saves what a forgotten machine would.",
)
def run_cleanup(context: SensorEvaluationContext, settings: SettingsResource, cloud: CloudResource) -> SkipReason:
    """Look at what is short-lived and remove it where its run has ended.

    Level-triggered: it asks what is there and not what happened, so a missed event or a restart of the daemon loses nothing.
    """
    chosen, clients = settings.load(), cloud.clients()
    ended = {run_id for run_id in short_lived_runs(clients, chosen.deployment, chosen.ami_regions) if _has_ended(context, run_id)}
    if not ended:
        return SkipReason("Nothing short-lived belongs to an ended run.")
    removed = sweep(clients, chosen.deployment, run_ids=ended, report=context.log.info, regions=chosen.ami_regions)
    return SkipReason(f"Removed {', '.join(removed)} of ended runs." if removed else "What ended runs left is going already.")


def _has_ended(context: SensorEvaluationContext, run_id: str) -> bool:
    run = context.instance.get_run_by_id(run_id)
    # A run that this Dagster does not know is another installation's: its timer and the sweep by time end it.
    return run is not None and run.is_finished


@sensor(
    jobs=[build_map, release_map],
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    description="Records a new version of the source, and starts build_map or release_map where on_source_change says so. It is on from "
    "the start and looks every minute, less often where the source does not answer. A look takes some seconds and costs nothing; what it "
    "starts does.",
)
def map_source_changed(context: SensorEvaluationContext, settings: SettingsResource) -> SensorResult | SkipReason:
    """Compare the source with the last look. A remote that does not answer is asked again after a pause that grows."""
    chosen, before, now = settings.load(), Watched.parse(context.cursor), time.time()
    if now < before.not_before:
        return SkipReason(f"The source could not be looked at {before.failures} times; next look in {before.not_before - now:.0f} s.")
    try:
        seen = observation(chosen, known=before.version)
    except (SourceError, CloudError) as error:
        after = before.missed(now)
        return SensorResult(
            skip_reason=SkipReason(f"The source could not be looked at: {error} Next look in {after.not_before - now:.0f} s."),
            cursor=after.to_text(),
        )
    version = version_in(seen)
    wanted = STARTED_BY_A_CHANGE.get(chosen.on_source_change, "")
    after = before.saw(version, starts=bool(wanted))
    events = [seen] if version != before.version else []
    if after.pending and not _is_building(context):
        request = RunRequest(run_key=f"{wanted}:{after.run_key}", job_name=wanted)
        return SensorResult(asset_events=events, run_requests=[request], cursor=after.started().to_text())
    state = "waits for the build that is at work" if after.pending else "is recorded" if events else "is as before: nothing changed"
    return SensorResult(asset_events=events, skip_reason=SkipReason(f"The source, {seen.description}, {state}."), cursor=after.to_text())


def _is_building(context: SensorEvaluationContext) -> bool:
    """Whether a build is queued or at work: a second one beside it could end first and be overtaken by the older version."""
    return _is_active(context, STARTED_BY_A_CHANGE.values())


def _is_active(context: SensorEvaluationContext, jobs: Iterable[str]) -> bool:
    active = [status for status in DagsterRunStatus if status not in FINISHED_STATUSES]
    return any(context.instance.get_runs_count(RunsFilter(job_name=name, statuses=active)) for name in jobs)


@sensor(
    job=replace_hosts,
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    description="Starts replace_hosts for hosts that could not start as often as replace_host_after says, or that an operator has named. "
    "It is on from the start and looks every minute. A look is one call and costs nothing; what it starts costs what inference_host does.",
)
def hosts_to_replace(context: SensorEvaluationContext, settings: SettingsResource, cloud: CloudResource) -> RunRequest | SkipReason:
    """Look at the hosts' tags. What was asked for once starts one run; further failed starts start another."""
    chosen = settings.load()
    if chosen.fleet == "autoscaling":
        return SkipReason("A group replaces its instances by itself.")
    hosts = Machines(cloud.clients().ec2, chosen.deployment).find(ROLE_INFERENCE)
    after = chosen.replace_host_after
    wanted = sorted(replacement_key(host, after) for host in hosts if why_replaced(host, after))
    if not wanted:
        return SkipReason("No host is to be replaced.")
    if _is_active(context, MAKE_HOSTS):
        return SkipReason("A run that makes hosts is at work already.")
    return RunRequest(run_key="; ".join(wanted))


def schedules(settings: Settings) -> list[ScheduleDefinition]:
    """The schedules, off until someone turns them on (the sweep is on: it costs nothing and saves money)."""
    return [
        ScheduleDefinition(
            name="scheduled_map_rebuild",
            job=build_map,
            cron_schedule=settings.rebuild_cron,
            description="Starts build_map, by default on Mondays at 03:00 UTC (MONAI_AWS_REBUILD_CRON). Turn it on where no push builds; "
            "a MAP that is in the registry is found within seconds and costs nothing.",
        ),
        ScheduleDefinition(
            name="scheduled_ami_refresh",
            target=AssetSelection.assets("gpu_ami"),
            cron_schedule=settings.ami_refresh_cron,
            description="Has gpu_ami follow the setting of its base image anew, by default on the first of a month at 02:00 UTC "
            "(MONAI_AWS_AMI_REFRESH_CRON). Turn it on for the base's security updates. A bake of a new base takes and costs what gpu_ami "
            "does, and 4 to 8 USD a month for each older image that is kept.",
            tags={REFRESH_BASE_TAG: "true"},
        ),
        ScheduleDefinition(
            name="scheduled_orphan_sweep",
            job=sweep_orphans,
            cron_schedule=settings.sweep_cron,
            description="Starts sweep_orphans, by default every hour (MONAI_AWS_SWEEP_CRON). It is on from the start, because it costs "
            "nothing and ends machines that were left behind. It takes a second where there are none.",
            default_status=DefaultScheduleStatus.RUNNING,
        ),
    ]
