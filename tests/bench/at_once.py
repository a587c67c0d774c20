"""Several studies at once on one host: a MAP that behaves like one on a GPU by numbers and by ``auto``, and the brain example by ``auto``.

The light MAP waits three seconds a study and uses little of the CPU, as an inference does that the GPU makes; nothing else about it is made
easy, and its uploads, trigger, agent, commits and S3 share the machine's cores. A row is one backlog, from the first upload to the last
commit record; the start of the machine, and two studies before that (the proofs), are in none. ``auto`` has one backlog in which it looks
for its number and one with the number that it found. The brain example takes every core by itself: there ``auto`` is held against one at a
time, both twice and in turns. The same studies are uploaded to every row, so that their outputs can be compared. Takes half an hour.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from examples.brain_mri.fetch import fetch
from examples.brain_mri.study import write_study_zip
from monai_aws_pipeline.contract import INDEX_PREFIX, ResultRecord, parse_utc
from monai_aws_pipeline.contract.outputs import DICOM_SEG, MESH
from monai_aws_pipeline.host_agent.at_once import AUTO
from monai_aws_pipeline.host_agent.runtime.output_comparison import differences
from monai_aws_pipeline.settings import load_settings
from tests.bench._hosts import answer, brain_example, deployed, hold_host, on_host, say, source_state
from tests.bench.load import jobs_in, post, wait_for
from tests.support.platform import Platform
from tests.support.studies import tiny_study_zip

STUDIES = 48
LOOKING = 192
COMPARED = 6
NUMBERS = ("1", "2", "3", "4", "5", "6", "7", "8")
WISH = "tiny:sleep=3"
BRAINS = 8
KEPT = "cat /var/lib/monai-aws/at-once/*.json"


def measure() -> dict[str, Any]:
    """The figures of one run."""
    light, brain = measure_light(), measure_brain()
    return {
        "map": f"tests/apps/tiny, {WISH}: waits as for a GPU, and uses little of the CPU",
        **light,
        "brain": brain,
        "brain_auto_share": round(brain["one_seconds"] / brain["auto_seconds"], 3),
        **source_state(),
    }


def measure_light() -> dict[str, Any]:
    """Rows by number, and what ``auto`` finds."""
    studies = {f"{number:03d}": tiny_study_zip(wish=WISH) for number in range(LOOKING)}
    rows, kept = [], dict[str, list[ResultRecord]]()
    with deployed("at-once", MONAI_AWS_IDLE_STOP_MINUTES="1") as place, tempfile.TemporaryDirectory() as folder:
        for number in NUMBERS:
            now = with_number(place, number, tiny_study_zip(wish=WISH))
            seconds, kept[number] = backlog(now, f"at-{number}", dict(list(studies.items())[:STUDIES]))
            rows.append(row(number, seconds, kept[number]))
        now = with_number(place, AUTO, tiny_study_zip(wish=WISH))
        looking, found = backlog(now, "looking", studies)
        number = json.loads(on_host(now, KEPT))["number"]
        seconds, kept[AUTO] = backlog(now, "auto", dict(list(studies.items())[:STUDIES]))
        rows.append(row(AUTO, seconds, kept[AUTO]))
        jobs = {record.job for records in (*kept.values(), found) for record in records}
        commits = Counter(job for prefix in ("output/", "quarantine/") for job in jobs_in(place, prefix))
        entries = Counter(key.rpartition("/")[2][:32] for key in place.keys(INDEX_PREFIX))
        unlike = [text for number in (*NUMBERS[1:], AUTO) for text in compared(place, kept["1"], kept[number], Path(folder, number))]
    by_number = {one["at_once"]: one["per_minute"] for one in rows if one["at_once"] != AUTO}
    best = max(by_number, key=lambda each: by_number[each])
    return {
        "rows": rows,
        "auto": number,
        "auto_looking": {"studies": LOOKING, "seconds": round(looking, 1), "beside": beside(found)},
        "best": best,
        "gain_of_four": round(by_number[4] / by_number[1], 2),
        "lost": sum(commits[job] == 0 for job in jobs),
        "double": sum(commits[job] > 1 or entries[job] != 1 for job in jobs),
        "outputs_equal": not unlike,
        "outputs_compared": COMPARED * len(NUMBERS),
    }


def measure_brain() -> dict[str, Any]:
    """One at a time and ``auto`` in turns, with a MAP that takes every core."""
    files = fetch(load_settings().cache_dir, say)
    seconds: dict[str, list[float]] = {"1": [], AUTO: []}
    with (
        deployed("at-once-brain", **brain_example(files), MONAI_AWS_IDLE_STOP_MINUTES="1") as place,
        tempfile.TemporaryDirectory() as folder,
    ):
        paths = [Path(folder, f"{number}.zip") for number in range(BRAINS + 1)]
        for path in paths:
            write_study_zip(files.volume, path, seed=f"at-once-{path.stem}")
        studies = {path.stem: path.read_bytes() for path in paths}
        for turn, number in enumerate(("1", AUTO, AUTO, "1")):
            now = with_number(place, number, studies["0"])
            took, _ = backlog(now, f"turn-{turn}", {name: body for name, body in studies.items() if name != "0"})
            seconds[number].append(took)
            if number == AUTO:  # before the next turn's host takes the place of this one
                kept = json.loads(on_host(now, f"{KEPT} || echo null"))
    return {
        "studies": BRAINS,
        "one_seconds": round(sum(seconds["1"]), 1),
        "auto_seconds": round(sum(seconds[AUTO]), 1),
        "each": {number: [round(value, 1) for value in values] for number, values in seconds.items()},
        "kept": kept,
    }


def with_number(place: Platform, number: str, study: bytes) -> Platform:
    """A host with that setting, which has proved its MAP on a study or two and runs without its agent."""
    now = place.changed(MONAI_AWS_STUDIES_AT_ONCE=number)
    assert now.materialize("inference_host").success
    with tempfile.TemporaryDirectory() as folder:
        for which in range(2):
            path = Path(folder, f"proof-{number}-{which}.zip")
            path.write_bytes(study)
            answer(now, [path])
    hold_host(now)
    return now


def backlog(place: Platform, name: str, studies: dict[str, bytes]) -> tuple[float, list[ResultRecord]]:
    """Seconds until all of them are answered, and the records in order."""
    hold_host(place)
    began = datetime.now(UTC)
    records = wait_for(place, post(place, {f"{name}-{study}": body for study, body in studies.items()}))
    seconds = (max(parse_utc(record.committed_at) for record in records) - began).total_seconds()
    say(f"{name}: {len(studies)} studies in {seconds:.1f} s; beside others: {beside(records)}")
    return seconds, records


def beside(records: list[ResultRecord]) -> dict[int, int]:
    """How many studies ran beside how many others."""
    return dict(sorted(Counter(record.resources.beside for record in records).items()))


def row(number: str, seconds: float, records: list[ResultRecord]) -> dict[str, Any]:
    """One row of the result."""
    return {
        "at_once": number if number == AUTO else int(number),
        "studies": len(records),
        "seconds": round(seconds, 1),
        "per_minute": round(len(records) * 60 / seconds, 1),
        "beside": beside(records),
        "succeeded": sum(record.error is None for record in records),
    }


def compared(place: Platform, one: list[ResultRecord], other: list[ResultRecord], folder: Path) -> list[str]:
    """What is unlike between the outputs of the same studies of two rows."""
    unlike: list[str] = []
    for number, pair in enumerate(list(zip(one, other, strict=True))[:COMPARED]):
        folders = [folder / f"{number}-{side}" for side in ("one", "other")]
        for target, record in zip(folders, pair, strict=True):
            target.mkdir(parents=True)
            for output in record.outputs:
                if output.kind in (DICOM_SEG, MESH):
                    (target / output.key.rpartition("/")[2]).write_bytes(place.read(output.key))
        unlike += differences(*folders)
    return unlike
