"""The demo's study and golden study are kept, and made anew where what makes them has changed; so is the answer to that study."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from examples.brain_mri import made
from examples.brain_mri.fetch import ExampleFiles
from examples.brain_mri.reference import write_golden
from monai_aws_pipeline.contract import InputFacts, JobDone, ResultRecord, job_done_key, sha256_text, utc_text
from monai_aws_pipeline.demo import steps
from tests.unit.studies.conftest import aws, bucket, deployment
from tests.unit.studies.records import DIGEST, NOON, succeeded
from tests.unit.studies.rerun_bench import Deployment

__all__ = ["aws", "bucket", "deployment"]


def write_volume(path: Path, brightest: int) -> None:
    data = np.zeros((6, 6, 4), np.uint8)
    data[2:4, 2:4, 1:3] = brightest
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


@pytest.fixture
def files(tmp_path: Path) -> ExampleFiles:
    found = ExampleFiles(tmp_path / "model.pt", tmp_path / "volume.nii.gz", tmp_path / "mask.nii.gz")
    write_volume(found.volume, 200)
    write_volume(found.reference, 1)
    return found


def studies(files: ExampleFiles) -> tuple[Path, Path]:
    return steps._study(files, lambda _: None), Path(write_golden(files)["MONAI_AWS_GOLDEN_STUDY"])


def test_they_are_kept_while_nothing_has_changed(files: ExampleFiles):
    first = studies(files)
    written = [path.stat().st_mtime_ns for path in first]
    assert studies(files) == first
    assert [path.stat().st_mtime_ns for path in first] == written


def by_another_generator(files: ExampleFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = files.volume.with_name("study.py")
    changed.write_text(made.GENERATORS[0].read_text() + "# changed\n")
    monkeypatch.setattr(made, "GENERATORS", (changed, *made.GENERATORS[1:]))


def by_another_writer(files: ExampleFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "version", lambda name: "0.1" if name == "pydicom" else "1")


def of_another_volume(files: ExampleFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(files.volume, 201)


@pytest.mark.parametrize("change", [by_another_generator, by_another_writer, of_another_volume])
def test_what_was_made_in_another_way_is_not_used_on(
    files: ExampleFiles, change: Callable[[ExampleFiles, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
):
    before = studies(files)
    change(files, monkeypatch)
    after = studies(files)
    assert not set(before) & set(after)
    assert all(path.exists() for path in after)


def test_an_answer_is_used_again_for_the_same_study_by_the_same_map_alone(deployment: Deployment, tmp_path: Path):
    deployment.make_live(DIGEST)
    answered: list[ResultRecord] = []

    def host(line: str) -> None:
        """Answers as soon as it is said that a study was uploaded."""
        if not (said := re.search(r"its job is (\w+)", line)):
            return
        (key,) = {item["Key"] for item in deployment.bucket.s3.list_objects_v2(Bucket="studies", Prefix="input/")["Contents"]}
        record = replace(succeeded(1), job=said[1], outputs=(), input=InputFacts(sha256_text(key), "e", 3))
        answered.append(deployment.bucket.commit(record))
        deployment.bucket.put(job_done_key(record.job), JobDone(record.job, (record.commit_key,), utc_text(NOON)).to_json())
        deployment.bucket.delete(key)

    def answer(study: str) -> tuple[ResultRecord, bool]:
        path = tmp_path / study / "study.zip"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"PK " + study.encode())
        previous = {"result_key": answered[-1].commit_key} if answered else {}
        return steps._answer(deployment.clients, deployment.settings, path, previous, host)

    first, reused = answer("made-1")
    assert (first, reused) == (answered[0], False)
    assert answer("made-1") == (first, True)
    second, reused = answer("made-2")
    assert (second, reused) == (answered[1], False)
    assert second.job != first.job
