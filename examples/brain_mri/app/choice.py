"""Which of the series that the rules select is answered: the largest. pydicom and numpy, no SDK."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from errors import NoAnswerError
from frames import stack_of
from instances import number_of_frames
from pixels import volume_of
from pydicom.dataset import Dataset


class SeriesChoiceError(NoAnswerError):
    """The study does not say which series is meant."""


def largest(series: Sequence[list[Dataset]]) -> list[Dataset]:
    """The images of the series with the most planes; the first of two that hold the same volume, as a series and its multi-frame copy do.

    Raises:
        SeriesChoiceError: Several are the largest, and differ.
    """
    counts = [sum(map(number_of_frames, images)) for images in series]
    first, *others = [images for images, count in zip(series, counts, strict=True) if count == max(counts)]
    if all(_same_volume(first, other) for other in others):
        return first
    raise SeriesChoiceError(
        f"{len(others) + 1} series of the study fit, with {max(counts)} images each; this application answers the largest one"
    )


def _same_volume(one: list[Dataset], other: list[Dataset]) -> bool:
    """Whether two series have equal voxels at equal places; a copy by another system often gets a frame of reference of its own."""
    try:
        stacks = [stack_of(images) for images in (one, other)]
        if not np.allclose(stacks[0].affine, stacks[1].affine, atol=1e-3):
            return False
        return np.array_equal(*(volume_of(stack.frames) for stack in stacks))
    except NoAnswerError:  # one that is no volume is not the same as another
        return False
