"""Asset checks of map_image: whether what lies in the registry is what an inference host can run.

Here belongs fetching the image's parts and saying what was found; the points themselves are in ``maps.conformance``. A failed check
does not stop the run: the image is pushed already, and what a host may be given is decided where a MAP is promoted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, AssetKey, MetadataValue, asset_check

from monai_aws_pipeline.cloud.registry import ImageParts, LayerBlob, Registry
from monai_aws_pipeline.deployment.lineage import materialized_version
from monai_aws_pipeline.maps.conformance import POINTS, Finding, check
from monai_aws_pipeline.maps.layers import Layer, LayerRefusedError, UnknownCompressionError, flatten, read_layer
from monai_aws_pipeline.resources import CloudResource, SettingsResource

MAX_LAYER_BYTES: Final = 64 * 1024 * 1024
MAX_TOTAL_BYTES: Final = 192 * 1024 * 1024
NAMES: Final = ("app.json", "pkg.json")
MANIFESTS: Final = ("/etc/holoscan/app.json", "/etc/holoscan/pkg.json", "/etc/monai/app.json", "/etc/monai/pkg.json")

Fetch = Callable[[LayerBlob], bytes]


@dataclass(frozen=True)
class Conformance:
    """What was found. ``undecided``: what only a layer could tell that was not read; ``unread``: such layers; ``refused``: why one was."""

    findings: tuple[Finding, ...]
    refused: tuple[str, ...]
    undecided: tuple[Finding, ...]
    unread: tuple[LayerBlob, ...]


def chosen_layers(layers: tuple[LayerBlob, ...], max_layer: int = MAX_LAYER_BYTES, max_total: int = MAX_TOTAL_BYTES) -> set[LayerBlob]:
    """The layers worth fetching, the uppermost first: application and model lie above the packages, which are large and tell little."""
    chosen: set[LayerBlob] = set()
    left = max_total
    for layer in reversed(layers):
        if 0 <= layer.bytes <= min(max_layer, left) and layer not in chosen:
            chosen.add(layer)
            left -= layer.bytes
    return chosen


def examine(image: ImageParts, fetch: Fetch) -> Conformance:
    """Read the layers worth reading and check the image by them."""
    chosen = chosen_layers(image.layers)
    read: list[Layer] = []
    refused: list[str] = []
    unread: list[LayerBlob] = [layer for layer in image.layers if layer not in chosen]
    for layer in image.layers:
        if layer in chosen:
            try:
                read.append(read_layer(fetch(layer), MANIFESTS))
            except UnknownCompressionError:
                unread.append(layer)
            except LayerRefusedError as wrong:
                unread.append(layer)
                refused.append(f"layer {layer.digest[:19]} {wrong}")
    whole = flatten(read)
    app, package = (next((whole.texts[path] for path in MANIFESTS if path.endswith(name) and path in whole.texts), None) for name in NAMES)
    found = check(image.config, app, package, whole.paths)
    undecided = tuple(finding for finding in found if finding.by_absence and unread)
    return Conformance(tuple(each for each in found if each not in undecided), tuple(refused), undecided, tuple(unread))


@asset_check(
    asset=AssetKey("map_image"),
    description="The pushed image keeps the MAP format: manifests, layout, environment, labels, user, no credentials.",
)
def map_conformance(context: AssetCheckExecutionContext, settings: SettingsResource, cloud: CloudResource) -> AssetCheckResult:
    """Read the image from the registry and check it, point by point."""
    started = time.monotonic()
    registry = Registry(cloud.clients().ecr, settings.load().ecr_repository)
    digest = materialized_version(context.instance, "map_image")
    image = registry.parts(digest)
    result = examine(image, lambda layer: registry.blob(layer.digest, layer.bytes))
    failed = {finding.point for finding in result.findings}
    wrong = [*(f"{finding.point}: {finding.message}" for finding in result.findings), *result.refused]
    for line in wrong:
        context.log.error(line)
    return AssetCheckResult(
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR,
        description="; ".join(wrong) or "the image is a MAP",
        metadata={
            "digest": digest,
            "points": MetadataValue.md(_table(failed, {finding.point for finding in result.undecided})),
            "findings": MetadataValue.json(wrong),
            "undecided": MetadataValue.json([f"{finding.point}: {finding.message}" for finding in result.undecided]),
            "layers": len(image.layers),
            "layers_not_read": MetadataValue.json([{"digest": layer.digest, "bytes": layer.bytes} for layer in result.unread]),
            "seconds": round(time.monotonic() - started, 1),
        },
    )


def _table(failed: set[str], undecided: set[str]) -> str:
    def state(point: str) -> str:
        return "**not kept**" if point in failed else "in a layer that was not read" if point in undecided else "kept"

    return "\n".join(
        ["| Point | What it says | |", "|---|---|---|", *(f"| {name} | {text} | {state(name)} |" for name, text in POINTS.items())]
    )
