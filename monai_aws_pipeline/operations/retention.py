"""Which images of the ECR repository go when only so many MAPs are kept, and their removal.

ECR's own lifecycle rules know tags and ages and not which MAP is live, so they are used for nothing that has a tag. The choice is made by
pure functions: never the live MAP, one that was live lately, one of those pushed last, one that an operator has tagged ``keep-…``, or one
that a host was given. Lower stages of builds go when no MAP that stays is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from monai_aws_pipeline.cloud.instances import Machines
from monai_aws_pipeline.cloud.registry import PushedImage, Registry
from monai_aws_pipeline.contract import ROLE_INFERENCE
from monai_aws_pipeline.maps.build_context import is_stage_tag
from monai_aws_pipeline.operations.live_maps import TAG_PREPARED, LiveMaps
from monai_aws_pipeline.operations.promotion import Deployment, history_of, label

if TYPE_CHECKING:
    from monai_aws_pipeline.cloud.session import Clients
    from monai_aws_pipeline.settings import Settings

SETTLED: Final = timedelta(days=1)
"""Nothing younger is touched: its build, or the promotion after it, may be at work."""
UNTAGGED_DAYS: Final = 14
KEEP: Final = "keep-"


def is_stage(image: PushedImage) -> bool:
    """Whether an image is a lower stage of builds and no MAP."""
    return all(is_stage_tag(tag) for tag in image.tags)


def surplus_maps(
    maps: Sequence[PushedImage], past: Sequence[Deployment], kept: int, in_hand: Collection[str], now: datetime
) -> tuple[PushedImage, ...]:
    """The MAPs (newest first) that go. ``past``: the live history, oldest first. ``in_hand``: digests that stay in any case."""
    protected = {*lately_live(past, kept), *in_hand}
    return tuple(
        image
        for image in maps[kept:]
        if kept and image.digest not in protected and not any(tag.startswith(KEEP) for tag in image.tags) and _is_settled(image, now)
    )


def lately_live(past: Sequence[Deployment], count: int) -> set[str]:
    """The last ``count`` different MAPs of a live history, the live one among them, and those that a rollback would go to next."""
    latest = list(dict.fromkeys(switch.digest for switch in reversed(past)))[:count]
    return {*latest, *history_of(past).before[:count]}


def surplus_stages(
    stages: Sequence[PushedImage], layers: Mapping[str, frozenset[str]], kept: Sequence[PushedImage], now: datetime
) -> tuple[PushedImage, ...]:
    """The stages that no MAP is made of that stays. ``layers``: of each image by digest; a stage of which they are not known stays."""
    made_of = [layers[image.digest] for image in kept if image.digest in layers]
    if len(made_of) < len(kept):
        return ()
    return tuple(
        stage
        for stage in stages
        if _is_settled(stage, now) and (own := layers.get(stage.digest)) is not None and not any(own <= whole for whole in made_of)
    )


def _is_settled(image: PushedImage, now: datetime) -> bool:
    return bool(image.pushed_at) and now - datetime.fromisoformat(image.pushed_at) >= SETTLED


def remove_old_maps(
    clients: Clients, settings: Settings, report: Callable[[str], None], *, protected: Collection[str] = (), now: datetime | None = None
) -> list[str]:
    """Keep as many MAPs as the settings say, and let ECR expire what has no tag. Returns what was removed. Raises RegistryError.

    ``protected``: digests that stay in any case.
    """
    moment, registry, kept = now or datetime.now(UTC), Registry(clients.ecr, settings.ecr_repository), settings.maps_kept
    if not kept or (owner := registry.owner()) is None:
        return []
    if owner != settings.deployment:
        report(f"the ECR repository {registry.name} carries the tag of {owner or 'no deployment'}, so nothing of it is removed")
        return []
    live_maps = LiveMaps(clients, settings, report)
    images, past = registry.images(), live_maps.history()
    in_hand = {host.tags.get(TAG_PREPARED, "") for host in Machines(clients.ec2, settings.deployment).find(ROLE_INFERENCE)}
    maps = [image for image in images if not is_stage(image)]
    going = surplus_maps(maps, past, kept, {*in_hand, *protected, live_maps.live()}, moment)
    stages = [image for image in images if is_stage(image)]
    staying = [image for image in maps if image not in going]
    layers = {image.digest: registry.layers(image.digest) for image in (*stages, *staying)} if stages else {}
    removed = _delete(registry, (*going, *surplus_stages(stages, layers, staying, moment)), report)
    _expire_untagged(registry, {switch.digest for switch in past}, report)
    return removed


def _delete(registry: Registry, going: Sequence[PushedImage], report: Callable[[str], None]) -> list[str]:
    stayed = registry.delete([image.digest for image in going])
    for image in going:
        reason = stayed.get(image.digest)
        report(
            f"could not remove {label(image)} from {registry.name}: {reason}" if reason else f"removed {label(image)} from {registry.name}"
        )
    return [f"image {label(image)}" for image in going if image.digest not in stayed]


def _expire_untagged(registry: Registry, ever_live: Collection[str], report: Callable[[str], None]) -> None:
    """Not while a MAP that was live has lost its tag: it would expire with the rest."""
    if lost := sorted(set(ever_live) & set(registry.untagged())):
        registry.keep_untagged()
        report(f"what has no tag in {registry.name} does not expire: {', '.join(lost)[:500]} was live and has none. Give it a tag in ECR.")
    elif not registry.expire_untagged(UNTAGGED_DAYS):
        report(f"{registry.name} has a lifecycle policy that is not ours, and stays as it is")
