"""Asset checks of map_image: whether what lies in the registry is what an inference host can run, and what ECR's scan found in it.

Here belongs fetching the image's parts and saying what was found; the points themselves are in ``maps.conformance``. A failed check
does not stop the run: the image is pushed already, and what a host may be given is decided where a MAP is promoted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, AssetKey, MetadataValue, asset_check

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.cloud.registry import SEVERITIES, ImageParts, ImageScan, LayerBlob, Registry
from monai_aws_pipeline.cloud.waiting import repeating, silently, wait_until
from monai_aws_pipeline.contract import short_digest
from monai_aws_pipeline.deployment.lineage import materialized_version
from monai_aws_pipeline.maps.conformance import POINTS, Finding, check
from monai_aws_pipeline.maps.layers import Layer, LayerRefusedError, flatten, read_layer
from monai_aws_pipeline.resources import CloudResource, SettingsResource

MAX_LAYER_BYTES: Final = 64 * 1024 * 1024
MAX_TOTAL_BYTES: Final = 192 * 1024 * 1024
NAMES: Final = ("app.json", "pkg.json")
MANIFESTS: Final = ("/etc/holoscan/app.json", "/etc/holoscan/pkg.json", "/etc/monai/app.json", "/etc/monai/pkg.json")

USERS: Final = "/etc/passwd"

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
                read.append(read_layer(fetch(layer), (*MANIFESTS, USERS)))
            except LayerRefusedError as error:
                unread.append(layer)
                refused.append(f"layer {short_digest(layer.digest)} {error}")
    whole = flatten(read)
    app, package = (next((whole.texts[path] for path in MANIFESTS if path.endswith(name) and path in whole.texts), None) for name in NAMES)
    found = check(image.config, app, package, whole.paths, whole.texts.get(USERS))
    undecided = tuple(finding for finding in found if finding.by_absence and unread)
    return Conformance(tuple(each for each in found if each not in undecided), tuple(refused), undecided, tuple(unread))


@asset_check(
    asset=AssetKey("map_image"),
    description="The pushed image keeps the MAP format: manifests, layout, environment, labels, user, no credentials. It runs with "
    "map_image and reads the upper layers from the registry, 192 MiB at most. It took a second on the embedded AWS, needs no machine and "
    "costs nothing but the transfer.",
)
def map_conformance(context: AssetCheckExecutionContext, settings: SettingsResource, cloud: CloudResource) -> AssetCheckResult:
    """Read the image from the registry and check it, point by point."""
    with repeating(context.log.info) as report:
        report("reading manifest and layers of the image from the registry")
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


SCAN_SECONDS: Final = 180.0
_SCAN_PAUSE_S: Final = 5.0


@dataclass(frozen=True)
class ScanVerdict:
    """Whether the scan says nothing critical, and what it says. What was not scanned has not passed."""

    passed: bool
    text: str


def judge_scan(scan: ImageScan | None) -> ScanVerdict:
    """A finished scan without a critical finding passes; anything else does not."""
    if scan is None:
        return ScanVerdict(False, "not scanned: the repository does not scan on push, or the registry has no scanner")
    if not scan.finished:
        return ScanVerdict(False, f"not scanned: ECR says {scan.status}")
    counts = ", ".join(f"{scan.counts[severity]} {severity.lower()}" for severity in SEVERITIES if scan.counts.get(severity))
    return ScanVerdict(not scan.counts.get("CRITICAL"), counts or "nothing found")


def wait_for_scan(
    look: Callable[[], ImageScan | None], seconds: float, report: Report = silently, pause: float = _SCAN_PAUSE_S
) -> ImageScan | None:
    """The scan as it is when it has ended, or after ``seconds``."""
    waiting = "waiting for ECR's scan of the image"
    return wait_until(look, lambda scan: scan is None or not scan.under_way, seconds, what=waiting, report=report, pause=pause)


@asset_check(
    asset=AssetKey("map_image"),
    description="What ECR's scan found in the pushed image, by severity. It runs with map_image; a critical finding, or no scan, is a "
    "warning and stops nothing. It waits for a scan that is under way, three minutes at most; ECR's basic scan costs nothing.",
)
def map_vulnerabilities(context: AssetCheckExecutionContext, settings: SettingsResource, cloud: CloudResource) -> AssetCheckResult:
    """Ask ECR; wait a while for a scan that is under way."""
    with repeating(context.log.info) as report:
        report("asking ECR for its scan of the image")
        registry = Registry(cloud.clients().ecr, settings.load().ecr_repository)
        digest = materialized_version(context.instance, "map_image")
        scan = wait_for_scan(lambda: registry.scan(digest), SCAN_SECONDS, report)
        verdict = judge_scan(scan)
        report(f"vulnerabilities: {verdict.text}")
        counts = scan.counts if scan and scan.finished else {}
        return AssetCheckResult(
            passed=verdict.passed,
            severity=AssetCheckSeverity.WARN,
            description=verdict.text,
            metadata={
                "digest": digest,
                "scan_status": scan.status if scan else "NOT_SCANNED",
                "scan_completed_at": scan.completed_at if scan else "",
                "worst": MetadataValue.json(list(scan.worst) if scan else []),
                **{severity.lower(): counts.get(severity, 0) for severity in SEVERITIES if scan and scan.finished},
            },
        )
