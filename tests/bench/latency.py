"""One study at a time on a running host: seconds from its upload to its commit record, beside a bare ``docker run`` of the same study.

The brain example, hosted warm as is the default, and once more in a container for each study. The two ways take turns, study by study, so
that other work on the machine meets both; the bare run's download and upload are not counted. Takes about ten minutes, most of it for the
MAP's build and two pulls.
"""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from examples.brain_mri.fetch import fetch
from examples.brain_mri.study import write_study_zip
from monai_aws_pipeline.contract import parse_utc
from monai_aws_pipeline.settings import load_settings
from tests.bench._hosts import answer, brain_example, deployed, plain_loop, put_originals, say, source_state
from tests.support.platform import Platform

PAIRS = 6


def measure() -> dict[str, Any]:
    """The figures of one run."""
    files = fetch(load_settings().cache_dir, say)
    variables = {**brain_example(files), "MONAI_AWS_IDLE_STOP_MINUTES": "30"}
    figures = {}
    with deployed("latency", **variables) as first, tempfile.TemporaryDirectory() as folder:
        for hosting in ("warm", "per_study"):
            studies = [Path(folder, f"{hosting}-{number}.zip") for number in range(PAIRS + 1)]
            for path in studies:
                write_study_zip(files.volume, path, seed=path.stem)
            place = first.changed(MONAI_AWS_MAP_HOSTING=hosting)
            assert place.materialize("inference_host").success
            figures[hosting] = pairs(place, studies)
            assert figures[hosting]["hosting"] == [hosting]
    return {**figures["warm"], "per_study": figures["per_study"], **source_state()}


def pairs(place: Platform, studies: list[Path]) -> dict[str, Any]:
    """Medians over all but the first, which starts the host, has the MAP proved where it is hosted warm, and is not counted."""
    first, *others = studies
    answer(place, [first])
    originals = put_originals(place, {path.stem: path.read_bytes() for path in others})
    ours, bare, hostings = [], [], set()
    for path, original in zip(others, originals, strict=True):
        bare += [run for _, run in plain_loop(place, [original])]
        time.sleep(2)
        began = datetime.now(UTC)
        (record,) = answer(place, [path])
        ours.append((parse_utc(record.committed_at) - began).total_seconds())
        hostings.add(record.resources.hosting)
        say(f"{ours[-1]:.1f} s from upload to commit, {bare[-1]:.1f} s docker run")
    return {
        "ours_seconds": round(median(ours), 2),
        "bare_seconds": round(median(bare), 2),
        "ratio": round(median(ours) / median(bare), 2),
        "allowed_seconds": round(1.10 * median(bare) + 2, 2),
        "all_ours_seconds": [round(value, 2) for value in ours],
        "all_bare_seconds": [round(value, 2) for value in bare],
        "hosting": sorted(hostings),
    }
