"""Stacks of images with one thing changed."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from tests.unit.host_agent.series import each


def with_value(datasets: list[Dataset], name: str, *values: object) -> list[Dataset]:
    """Equal parts of the stack, one behind the other, with these values."""
    part = len(datasets) // len(values)
    return each(datasets, lambda index, data: setattr(data, name, values[min(index // part, len(values) - 1)]))


def without(datasets: list[Dataset], name: str, which: slice) -> list[Dataset]:
    each(datasets[which], lambda _, data: data.pop(name))
    return datasets


def jittered(_: int, data: Dataset) -> None:
    random = np.random.default_rng(int(data.InstanceNumber))
    data.ImagePositionPatient = [f"{float(value) + random.uniform(-1e-4, 1e-4):.6f}" for value in data.ImagePositionPatient]
    data.ImageOrientationPatient = [f"{float(value) + random.uniform(-1e-5, 1e-5):.7f}" for value in data.ImageOrientationPatient]
