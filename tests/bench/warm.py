"""20 studies of the brain example, hosted warm, beside a plain loop over a sample of them on the same machine.

A study more is answered first: it is run both ways, which decides how this MAP is hosted on this host. Ours is measured from
the first upload to the last commit record, so with the start of the agent and the imports of the warm container. Half of the loop's sample
runs before and half after that, because other work on the machine comes and goes; ``loop_seconds`` is what it would have taken for as many
studies. Takes a quarter of an hour, most of it for the MAP's build and the loop.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pydicom

from examples.brain_mri.fetch import fetch
from examples.brain_mri.study import study_datasets, write_study_zip
from monai_aws_pipeline.contract import OUTPUT_PREFIX, ResultRecord, parse_utc
from monai_aws_pipeline.host_agent.runtime.output_comparison import differences
from monai_aws_pipeline.settings import load_settings
from tests.bench._hosts import answer, brain_example, deployed, hold_host, on_host, plain_loop, put_originals, say, source_state
from tests.support.platform import Platform

STUDIES = 20
LOOP_SAMPLE = 8
LOOP_PART = 4
ANSWERS = {"dicom-seg", "mesh"}


def measure() -> dict[str, Any]:
    """The figures of one run."""
    files = fetch(load_settings().cache_dir, say)
    variables = {**brain_example(files), "MONAI_AWS_IDLE_STOP_MINUTES": "1", "MONAI_AWS_MAP_HOSTING": "warm"}
    with deployed("warm", **variables) as place, tempfile.TemporaryDirectory() as folder:
        studies = {f"{number:02d}": Path(folder, f"{number}.zip") for number in range(STUDIES + 1)}
        for name, path in studies.items():
            write_study_zip(files.volume, path, seed=f"bench-{name}")
        (proof,) = answer(place, [studies.pop("20")])
        hold_host(place)
        verdict = json.loads(on_host(place, "cat /var/lib/monai-aws/hosting/*.json"))
        say(f"{verdict['hosting']}: {verdict['reason']}")
        sample = put_originals(place, {name: studies[name].read_bytes() for name in sorted(studies)[:LOOP_SAMPLE]})
        loop = plain_loop(place, sample[:LOOP_PART])
        say(f"the loop takes {median(whole for whole, _ in loop):.1f} s a study, {median(run for _, run in loop):.1f} s of it docker run")
        began = datetime.now(UTC)
        records = answer(place, [studies[name] for name in sorted(studies)])
        seconds = (max(parse_utc(record.committed_at) for record in records) - began).total_seconds()
        hold_host(place)
        loop += plain_loop(place, sample[LOOP_PART:])
        pairs = list(zip(sorted(studies), records, strict=True))[:LOOP_SAMPLE]
        unlike = [compare(place, record, name, Path(folder), files.volume) for name, record in pairs]
        committed = [key.split("/")[2] for key in place.keys(OUTPUT_PREFIX) if key.endswith("/result.json")]
        jobs = {record.job for record in records}
        double = sum(len(entries) > 1 for entries in place.entries().values())
    loop_seconds = sum(whole for whole, _ in loop) / len(loop) * STUDIES
    warm = [record for record in records if record.resources.hosting == "warm"]
    return {
        "studies": STUDIES,
        "results": len(jobs & set(committed)),
        "lost": STUDIES - len(jobs & set(committed)),
        "double": double,
        "seconds": round(seconds, 1),
        "loop_seconds": round(loop_seconds, 1),
        "loop_studies": len(loop),
        "loop_seconds_a_study": [round(whole, 2) for whole, _ in loop],
        "ratio": round(loop_seconds / seconds, 2),
        "per_study_seconds": round(median(run for _, run in loop), 2),
        "warm_seconds": round(median(record.timings.inference for record in warm), 2),
        "answered_warm": len(warm),
        "outputs_equal": not any(unlike),
        "outputs_compared": len(unlike),
        "verdict": {name: verdict[name] for name in ("hosting", "reason", "per_study_seconds", "warm_seconds")},
        "per_study": used([proof]),
        "warm": used(warm),
        **source_state(),
    }  # fmt: skip


def compare(place: Platform, record: ResultRecord, name: str, folder: Path, volume: Path) -> tuple[str, ...]:
    """How the loop's outputs of a study differ from ours."""
    ours, theirs = folder / f"ours-{name}", folder / f"loop-{name}"
    keys = place.keys(f"{OUTPUT_PREFIX}plain-loop/{name}/")
    chosen = [(ours, output.key) for output in record.outputs if output.kind in ANSWERS] + [(theirs, key) for key in keys]
    for place_of, key in chosen:
        place_of.mkdir(exist_ok=True)
        (place_of / Path(key).name).write_bytes(place.read(key))
    assert keys, "the loop kept no outputs"
    source: list[pydicom.Dataset] = study_datasets(volume, seed=f"bench-{name}")
    return differences(ours, theirs, [str(element.value) for item in source for element in item if element.VR == "UI"])


def used(records: Sequence[ResultRecord]) -> dict[str, Any]:
    """Medians of what the MAP used for these studies."""
    return {
        "studies": len(records),
        "inference_seconds": round(median(record.timings.inference for record in records), 2),
        "cpu_seconds": round(median(record.resources.cpu_seconds for record in records), 2),
        "peak_memory_mib": round(median(record.resources.peak_rss for record in records) / 2**20),
    }
