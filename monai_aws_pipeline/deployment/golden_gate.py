"""The golden gate: a new image answers the application's golden study on the build machine before anything of it is pushed.

Here belong sending the study, running the agent's own command over SSH and saying what was missed; the judgement is the agent's
(``host_agent.golden``), so that an image is judged by the code that will run it. And keeping the study in the bucket, by its content, so
that any host can prove the image later.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError
from dagster import Failure, MetadataValue, TableRecord

from monai_aws_pipeline.cloud.errors import named
from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.contract import AgentExit, golden_key
from monai_aws_pipeline.deployment.machine_agent import ask
from monai_aws_pipeline.maps.golden import Golden
from monai_aws_pipeline.maps.spec.expectation import EXPECT_FILE, Point
from monai_aws_pipeline.remote import Remote
from monai_aws_pipeline.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FOLDER: Final = "/tmp/monai-aws-golden"  # noqa: S108  # on a machine that is ours alone
"""Exit code of the agent where a point is not met."""


@dataclass(frozen=True)
class GateReport:
    """The points of a passed gate, and how long the study took altogether in seconds."""

    points: tuple[Point, ...]
    seconds: float


def hold(remote: Remote, image: str, golden: Golden | None, settings: Settings, work: Path, report: Report) -> GateReport | None:
    """Let the image on the machine answer the golden study; None where there is none.

    ``work``: an empty folder here. Raises Failure that names each point that was missed; RemoteError where the machine failed.
    """
    if golden is None:
        report("no golden study is configured: the image is pushed without having answered one")
        return None
    _lay_out(golden, work)
    remote.send_folder(work, FOLDER, report, what="Sending the golden study")
    asked, seconds = arguments(image, golden, settings), settings.map_timeout_s + 600
    answer = ask(
        remote, asked, report, what="The golden study", seconds=seconds, accepted=(AgentExit.DONE, AgentExit.MISSED, AgentExit.WRONG_CALL)
    )
    if answer.exit_code == AgentExit.WRONG_CALL:
        lines = "\n".join(answer.tail)
        raise Failure(
            f"The agent on the machine cannot hold the golden gate; the MAP was not pushed. Materialise gpu_ami, then map_image.\n{lines}",
            allow_retries=False,
        )
    found = read_report(answer.text)
    missed = [point for point in found.points if not point.ok]
    if missed or not found.points:
        raise _failure(found, missed)
    report(f"the golden study was answered as expected: {len(found.points)} points in {found.seconds:.0f} s")
    return found


def read_report(text: str) -> GateReport:
    """Read the agent's line. Raises Failure when it is none: what said nothing has passed nothing."""
    try:
        data = json.loads(text)
        points = tuple(Point(str(item["name"]), str(item["expected"]), str(item["found"]), item["ok"] is True) for item in data["points"])
        return GateReport(points, float(data["seconds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Failure("The agent did not say how the golden study was answered; the MAP was not pushed. Look at the run's log.") from error


def table(points: tuple[Point, ...]) -> MetadataValue[Any]:
    """The points as Dagster shows them."""
    records = [TableRecord({"point": each.name, "expected": each.expected, "found": each.found, "met": each.ok}) for each in points]
    return MetadataValue.table(records)


def keep(s3: S3Client, bucket: str, golden: Golden | None) -> None:
    """Put study, expectation and reference into the bucket under their hashes; what is there already stays."""
    for sha256, content in (golden.objects() if golden else {}).items():
        try:
            if _is_there(s3, bucket, golden_key(sha256)):
                continue
            if isinstance(content, bytes):
                s3.put_object(Bucket=bucket, Key=golden_key(sha256), Body=content)
            else:
                s3.upload_file(str(content), bucket, golden_key(sha256))
        except ClientError as error:
            raise named(error, "putting the golden study into the bucket") from error


def _is_there(s3: S3Client, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
            return False
        raise
    return True


def _lay_out(golden: Golden, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(golden.study, work / "study.zip")
    (work / "expect.json").write_bytes(golden.expect_json)
    if golden.reference:
        shutil.copyfile(golden.reference, work / "reference.dcm")


def arguments(image: str, golden: Golden, settings: Settings) -> list[str]:
    """How the agent is asked: with the limits that a host will have."""
    return [
        "golden", "--image", image, "--study", f"{FOLDER}/study.zip", "--expect", f"{FOLDER}/expect.json",
        *(["--reference", f"{FOLDER}/reference.dcm"] if golden.reference else []),
        "--gpus", settings.gpus, "--network", settings.map_network,
        "--memory-mib", str(settings.map_memory_mib), "--timeout-s", str(settings.map_timeout_s),
    ]  # fmt: skip


def _failure(found: GateReport, missed: list[Point]) -> Failure:
    lines = "\n".join(f"  {point}" for point in missed)
    failed = any(point.name == "application" for point in missed)
    remedy = (
        "Read the application's own words in this run's log, correct the application or the model, and materialise map_image again"
        if failed
        else f"Correct the application or the model; if the answer is right, correct {EXPECT_FILE}. Then materialise map_image again"
    )
    return Failure(
        f"The golden study was not answered as expected; the MAP was not pushed. Missed:\n{lines}\n{remedy}. See docs/golden.md.",
        metadata={"golden": "failed", "golden_points": table(found.points)},
        allow_retries=False,
    )
