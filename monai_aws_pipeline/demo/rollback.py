"""``monai-aws demo --rollback``: on the demo that was made, a second MAP version, a study by each, a rollback, and what the lineage says.

Here belong the steps an operator would take after ``make demo``, in order. Each is a command or a job that docs/operations.md names; no
pipeline code is here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, RunsFilter
from rich.console import Console

from examples.brain_mri.fetch import ExampleFiles, fetch
from examples.brain_mri.made import made_folder
from examples.brain_mri.study import write_study_zip
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import ResultRecord, Status
from monai_aws_pipeline.demo.steps import STUDY_SECONDS, DemoError, Progress, Workplace, wait_recorded, wait_stopped
from monai_aws_pipeline.operations.live_maps import LiveMaps
from monai_aws_pipeline.operations.promotion import label
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.upload import upload_study, wait_answer
from monai_aws_pipeline.operations.whereabouts import where
from monai_aws_pipeline.run_failures import last_lines, why
from monai_aws_pipeline.settings import PROJECT_ROOT, Settings, load_settings
from monai_aws_pipeline.terminal import literal_console, print_table

_SHOWING: Final = "monai-aws/showing"
"""Tag of the build's run, by which it is found again."""
_COMMITTER: Final = {  # the same content is the same commit each time, so that a second showing builds nothing
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "demo"), ("EMAIL", "demo@example.org"), ("DATE", "2026-01-01T00:00:00Z"))
}


@dataclass(frozen=True)
class Told:
    """What the lineage says about one study: when in the showing it was answered, and by which MAP."""

    when: str
    study: str
    version: str
    digest: str


def show(place: Workplace, console: Console | None = None) -> list[Told]:
    """Show it. The first version is live again at the end. Raises what the failing step raises."""
    environment = place.environment()
    if not environment:
        raise DemoError("There is no demo here yet. Run: make demo")
    progress = Progress(console or literal_console())
    os.environ.update(environment)
    settings = load_settings()
    clients = Clients(settings.region)
    maps = LiveMaps(clients, settings, progress.line)
    who = f"{settings.owner}, demo --rollback"
    first = maps.live()
    if not first:
        raise DemoError("No MAP is live. Run: make demo")

    files = fetch(settings.cache_dir, progress.line)
    told = [_answered(1, "by the first version", clients, settings, files, progress)]
    with progress.phase("build", "Building a second version (job build_map, source: a copy of the example in a git repository of its own)"):
        version = second_version(place.root / "second-version")
        _build(environment | {"MONAI_AWS_APP_SOURCE": str(place.root / "second-version")}, place.root / "second-version.log", progress)
        second = next(each.image for each in maps.maps() if any(tag.startswith(f"{version}-") for tag in each.image.tags))
    with progress.phase("promote", f"Promoting it: monai-aws promote {label(second)}"):
        wait_stopped(clients, settings, place, progress.line)
        maps.promote(second.digest, who, "the demo's second version")
    told.append(_answered(2, "by the second version", clients, settings, files, progress))
    with progress.phase("rollback", "Rolling back: monai-aws rollback"):
        maps.rollback("", who, "to show it")
    told.append(_answered(3, "after the rollback", clients, settings, files, progress))
    with progress.phase("idle_stop", "Waiting for the idle host to stop itself"):
        wait_stopped(clients, settings, place, progress.line)

    digests = [each.digest for each in told]
    if digests != [first, second.digest, first]:
        raise DemoError(f"The studies were not answered by the first, the second and again the first version, but by {', '.join(digests)}.")
    _show(told, maps.live(), progress)
    return told


def second_version(folder: Path, example: Path = PROJECT_ROOT / "examples" / "brain_mri" / "app") -> str:
    """A copy of the example with a higher version, committed in a git repository of its own. Returns that version."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(example, folder, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = folder / "app.yaml"
    text = manifest.read_text()
    found = re.search(r"^(\s*version:\s*)(\d+)\.(\d+)\.(\d+)\s*$", text, re.MULTILINE)
    if found is None:
        raise DemoError(f"{manifest} has no version of three numbers to count up.")
    version = f"{found[2]}.{int(found[3]) + 1}.0"
    manifest.write_text(text.replace(found[0], f"{found[1]}{version}", 1))
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", version]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, env={**os.environ, **_COMMITTER})
    return version


def _build(environment: Mapping[str, str], log: Path, progress: Progress) -> None:
    """The job ``build_map`` as a process of its own, with other settings than the running UI has; the same lineage records it."""
    showing = uuid.uuid4().hex
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "monai_aws_pipeline.definitions", "-j", "build_map"]
    command += ["--tags", json.dumps({_SHOWING: showing})]
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, cwd=PROJECT_ROOT, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child,
    ):
        try:
            for line in child.stdout or ():
                out.write(line)
                if " - INFO - " in line:
                    progress.line(line.rpartition(" - ")[2].rstrip())
        except BaseException:
            child.terminate()  # Dagster ends the run, which ends its build machine
            raise
    if child.returncode:
        raise DemoError(_why_not_built(showing, log), f"Remove the cause and show it again. The whole log: {log}")


def _why_not_built(showing: str, log: Path) -> str:
    with DagsterInstance.get() as instance:
        for run in instance.get_runs(RunsFilter(tags={_SHOWING: showing}), limit=1):
            return why(instance, run)
    return f"The build of the second version did not begin. Its last lines:\n{last_lines(log)}"


def _answered(number: int, when: str, clients: Clients, settings: Settings, files: ExampleFiles, progress: Progress) -> Told:
    """Upload a study of its own, wait for the answer, and read what the lineage has recorded about it."""
    with progress.phase(f"study_{number}", f"Study {number}: uploaded, answered {when}"):
        archive = made_folder(files) / f"rollback-{number}.zip"
        if not archive.exists():
            write_study_zip(files.volume, archive, seed=f"monai-aws-demo-rollback-{number}")
        # Always a new job: an earlier showing has uploaded the same study, and another MAP may have answered it.
        done = upload_study(clients, settings.bucket, archive, again=True)
        progress.line(f"job {done.job}")
        told = partial(where, clients, settings, [done.job])
        (record,) = wait_answer(ResultsStore(clients.s3, settings.bucket), done.job, STUDY_SECONDS, told, progress.line)
        if record.status is not Status.SUCCEEDED:
            why = record.error.text if record.error else "no reason recorded"
            raise DemoError(f"Study {number} was not answered ({record.status.value}): {why}")
        wait_recorded(record.study, progress.line, job=record.job)
        return _recorded(when, record)


def _recorded(when: str, record: ResultRecord) -> Told:
    wanted = AssetRecordsFilter(asset_key=AssetKey("inference_result"), asset_partitions=[record.study])
    with DagsterInstance.get() as instance:
        (latest,) = instance.fetch_materializations(wanted, limit=1).records
    event = latest.asset_materialization
    metadata: Mapping[str, Any] = event.metadata if event else {}
    return Told(when, record.study, str(metadata["map_app_version"].value), str(metadata["map_digest"].value))


def _show(told: list[Told], live: str, progress: Progress) -> None:
    seconds = progress.phases
    title = f"What the lineage says (promoted in {seconds['promote']:.0f} s, rolled back in {seconds['rollback']:.1f} s)"
    rows = [(each.study, each.when, each.version, each.digest, "fresh" if each.digest == live else "stale") for each in told]
    print_table(progress.console, title, ("study", "answered", "MAP version", "digest", "lineage"), rows)
