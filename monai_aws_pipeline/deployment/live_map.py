"""live_map: the MAP that answers studies. Data version: its digest.

Materialising it promotes a MAP: a host answers the golden study with it first. The job ``rollback_map`` records onto it too, and so does
the sensor ``live_map_changed`` where something else has changed the parameter: the command line, another Dagster, AWS's console. All of
them record the same, each change in its place. The change itself is in ``operations.promotion``.

Its provenance is the image it is, not the newest one: while another MAP is built and not promoted, live_map is stale, and the results
of the live one are not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    Config,
    DagsterInstance,
    DataVersion,
    DefaultSensorStatus,
    MaterializeResult,
    MetadataValue,
    OpExecutionContext,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    TableColumn,
    TableRecord,
    TableSchema,
    asset,
    job,
    op,
    sensor,
)
from pydantic import Field

from monai_aws_pipeline.cloud.waiting import repeating
from monai_aws_pipeline.contract import short_digest
from monai_aws_pipeline.deployment.lineage import latest_version, materialized_version, version_tags
from monai_aws_pipeline.operations.golden_check import GoldenCheck
from monai_aws_pipeline.operations.live_map_change import Change
from monai_aws_pipeline.operations.live_maps import LiveMaps
from monai_aws_pipeline.operations.promotion import Deployment, label
from monai_aws_pipeline.resources import CloudResource, SettingsResource

LIVE_MAP = AssetKey("live_map")
MAP_IMAGE = AssetKey("map_image")
INFERENCE_HOST = AssetKey("inference_host")

_POINTS = TableSchema(columns=[TableColumn("point"), TableColumn("expected"), TableColumn("found"), TableColumn("met", "bool")])

VERSION: Final = "parameter_version"
"""Metadata of a recorded change: the version of the parameter that it wrote, by which it is known whether one was recorded."""
RECORDED_AT_ONCE: Final = 20
"""Changes that one tick records: of each S3 and ECR are asked. The next tick goes on."""
_LOOKED_THROUGH: Final = 20
"""Records of live_map among which the last change is: a promotion of the MAP that is live is recorded too, and changes nothing."""

Metadata = Mapping[str, str | int | float | bool | MetadataValue]


class WhichMap(Config):
    """Which MAP, and the reason for those who come later."""

    map: str = Field("", description="tag, digest, or the digest's first digits; empty: see the job")
    why: str = Field("", description="kept with the change; no patient's name here")


def change_metadata(change: Change) -> Metadata:
    """What the lineage shows of a change of the live MAP."""
    found: dict[str, str | int | float | bool | MetadataValue] = {
        "kind": str(change.kind),
        "digest": change.image.digest,
        "tag": label(change.image),
        "image": change.image.reference,
        "previous": change.previous or "none",
        "by": change.who,
        "why": change.why or "not said",
        "changed": MetadataValue.bool(change.changed),
        **({"changed_at": change.at} if change.at else {}),
        **({VERSION: change.version} if change.version else {}),
    }
    return found | (_proof_metadata(change.proof) if change.proof else {"golden_study": "not asked"})


def _proof_metadata(proof: GoldenCheck) -> dict[str, str | int | float | bool | MetadataValue]:
    rows = [TableRecord({"point": p.name, "expected": p.expected, "found": p.found, "met": p.ok}) for p in proof.points]
    return {
        "golden_study": proof.golden,
        **({"golden_seconds": proof.seconds, "golden_host": proof.host} if proof.host else {}),
        **({"golden_points": MetadataValue.table(records=rows, schema=_POINTS)} if rows else {}),
    }


def live_tags(digest: str) -> dict[str, str]:
    """Data version and provenance of live_map: the image that it is, whatever was built since."""
    return version_tags(digest, "", {MAP_IMAGE: (digest, 0)})


def change_events(change: Change) -> tuple[AssetMaterialization, AssetObservation]:
    """The change for the lineage: onto live_map, and where an operator looks at the hosts."""
    metadata = change_metadata(change)
    return (
        AssetMaterialization(LIVE_MAP, metadata=metadata, tags=live_tags(change.image.digest)),
        AssetObservation(INFERENCE_HOST, description=f"answers with {label(change.image)}", metadata=metadata),
    )


def unrecorded(past: Sequence[Deployment], digest: str, version: int) -> Sequence[Deployment]:
    """What became live after the change that was recorded last, oldest first. ``past``: the history, oldest first.

    A lineage without any begins with the MAP that is live. All of the history is new where it does not have that change: AWS keeps 100
    versions, and counts them from 1 again once a parameter was deleted. ``version`` is 0 of what an older release has recorded.
    """
    if not digest:
        return past[-1:]
    places = [place for place, switch in enumerate(past) if switch.digest == digest and version in (0, switch.version)]
    return past[places[-1] + 1 :] if places else past


def last_recorded(instance: DagsterInstance) -> tuple[str, int]:
    """Digest and version of the change that was recorded last; an empty one where there is none."""
    for record in instance.fetch_materializations(LIVE_MAP, limit=_LOOKED_THROUGH).records:
        metadata = record.asset_materialization.metadata if record.asset_materialization else {}
        if VERSION in metadata and "digest" in metadata:
            return str(metadata["digest"].value), int(str(metadata[VERSION].value))
    return latest_version(instance, "live_map"), 0


def missed_events(instance: DagsterInstance, maps: LiveMaps, change: Change) -> Iterator[AssetMaterialization | AssetObservation]:
    """Events of what something else has changed just before a run did: the sensor, which has not seen it, looks behind the run's own."""
    for switch in unrecorded(maps.history(), *last_recorded(instance)) if change.version else ():
        if switch.version < change.version:
            yield from change_events(maps.change(switch, require=False))


@asset(
    key=LIVE_MAP,
    deps=[MAP_IMAGE],
    group_name="platform",
    kinds={"docker"},
    description="The MAP that answers studies. Materialise it to promote map_image, after a host has answered the golden study with it; "
    "rollbacks and what the command line changes are recorded here too. The example's golden study took 12 s on the embedded AWS, where "
    "it is free; on AWS, where nobody has measured it, a host runs for that long and its boot (g4dn.xlarge: 0.53 USD an hour).",
)
def live_map(context: AssetExecutionContext, config: WhichMap, settings: SettingsResource, cloud: CloudResource) -> MaterializeResult:  # type: ignore[type-arg]
    """Promote the named MAP, or the one that map_image has made last."""
    with repeating(context.log.info) as report:
        report("asking which MAP is live and which is wanted")
        chosen = settings.load()
        maps = LiveMaps(cloud.clients(), chosen, report)
        wanted = config.map or materialized_version(context.instance, "map_image")
        change = maps.promote(wanted, who=f"{chosen.owner}, run {context.run.run_id[:8]}", why=config.why)
        for event in (*missed_events(context.instance, maps, change), change_events(change)[1]):
            context.log_event(event)
        digest = change.image.digest
        return MaterializeResult(data_version=DataVersion(digest), tags=live_tags(digest), metadata=change_metadata(change))


@op
def take_back(context: OpExecutionContext, config: WhichMap, settings: SettingsResource, cloud: CloudResource) -> None:
    """Make a MAP live that was so before: the named one, or the one before the present one. No host is asked, nothing is built."""
    with repeating(context.log.info) as report:
        report("asking which MAP is live and which was before")
        chosen = settings.load()
        maps = LiveMaps(cloud.clients(), chosen, report)
        change = maps.rollback(config.map, who=f"{chosen.owner}, run {context.run_id[:8]}", why=config.why)
        for event in (*missed_events(context.instance, maps, change), *change_events(change)):
            context.log_event(event)


@job(
    description="Answer studies with a MAP that did so before; by default the one before the present one. Start it when the live MAP "
    "answers wrongly. It takes seconds, because nothing is built and no host is asked, and costs nothing."
)
def rollback_map() -> None:
    """See ``operations.promotion``."""
    take_back()


@sensor(
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    description="Records the live MAP where something else than a run here has changed it: the command line, another Dagster, AWS's "
    "console. It is on from the start and starts no run. It looks every minute, which takes a call or two and costs nothing.",
)
def live_map_changed(context: SensorEvaluationContext, settings: SettingsResource, cloud: CloudResource) -> SensorResult | SkipReason:
    """Compare the parameter's history with what is recorded; level-triggered, so that nothing depends on having seen a change."""
    maps = LiveMaps(cloud.clients(), settings.load(), context.log.info)
    past = maps.history()
    if not past:
        return SkipReason("No MAP is live yet.")
    missed = unrecorded(past, *last_recorded(context.instance))
    if not missed:
        return SkipReason(f"{short_digest(past[-1].digest)} is live and recorded.")
    changes = [maps.change(switch) for switch in missed[:RECORDED_AT_ONCE]]
    return SensorResult(asset_events=[event for change in changes for event in change_events(change)])
