"""The axes along which a good study is changed, one module for each family; importing this registers them all."""

from tests.fuzz.study_axes import acquisition, companions, encoding, headers, order, packaging, pixels, positions, series, stacks
from tests.fuzz.study_axes.axis import AXES, Axis, IncompatibleAxesError, Phase, Right

__all__ = [
    "AXES", "Axis", "IncompatibleAxesError", "Phase", "Right",
    "acquisition", "companions", "encoding", "headers", "order", "packaging", "pixels", "positions", "series", "stacks",
]  # fmt: skip
