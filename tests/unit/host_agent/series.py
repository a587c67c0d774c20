"""Series made from good ones by changing their datasets, and what the agent's own reading makes of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from monai_aws_pipeline.host_agent.intake.dicom import Instance, Study, read_studies
from tests.unit.host_agent.dicom_files import write_series

STUDY = "1.2.826.0.1.3680043.8.498.1234567890"


def good(folder: Path, *, slices: int = 8, **more: float) -> list[Dataset]:
    """The datasets of a good series, in order of their planes."""
    return [pydicom.dcmread(path) for path in write_series(folder, STUDY, slices=slices, **more)]  # type: ignore[arg-type]


def again(data: Dataset, **changes: object) -> Dataset:
    """Another instance of the same series with some attributes changed."""
    other = copy.deepcopy(data)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def each(datasets: Iterable[Dataset], change: Callable[[int, Dataset], None]) -> list[Dataset]:
    """The datasets after a change to each."""
    listed = list(datasets)
    for index, data in enumerate(listed):
        change(index, data)
    return listed


def in_series(datasets: Iterable[Dataset]) -> list[Dataset]:
    """The same datasets in a series of their own."""
    uid = generate_uid()
    return each(datasets, lambda _, data: setattr(data, "SeriesInstanceUID", uid))


def written(folder: Path, datasets: Sequence[Dataset]) -> list[Path]:
    """The datasets as files, in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.dcm" for number in range(1, len(datasets) + 1)]
    for path, data in zip(paths, datasets, strict=True):
        data.save_as(path, enforce_file_format=True)
    return paths


def study_of(folder: Path, datasets: Sequence[Dataset]) -> Study:
    """The one study of these datasets, as the agent reads it."""
    (study,) = read_studies(written(folder, datasets))
    return study


def images_of(folder: Path, datasets: Sequence[Dataset]) -> tuple[Instance, ...]:
    """The images of these datasets, as the agent reads them."""
    return study_of(folder, datasets).instances
