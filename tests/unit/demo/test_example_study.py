"""The demo's study and golden study are kept, and made anew where what makes them has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from examples.brain_mri import made
from examples.brain_mri.fetch import ExampleFiles
from examples.brain_mri.reference import write_golden
from monai_aws_pipeline.demo import steps


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
