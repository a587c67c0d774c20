"""How the planes lie in the patient: directions, spacings, tilt, counts. Each is a study of its own right; the truth is its own planes."""

from __future__ import annotations

import math

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_axes.axis import ANSWER, Phase, axis, either, refuse, variants
from tests.fuzz.study_draft import Draft, Geometry


def _turned(about_x: float, about_z: float = 0.0) -> Geometry:
    x, z = math.radians(about_x), math.radians(about_z)
    row = (math.cos(z), math.sin(z), 0.0)
    column = (-math.sin(z) * math.cos(x), math.cos(z) * math.cos(x), math.sin(x))
    return Geometry(row, column, shape=(26, 44, 50))


@variants(
    "acquired_{}",
    Phase.ACQUISITION,
    ANSWER,
    {
        "sagittal": Geometry((0, 1, 0), (0, 0, -1), (1.2, 0.9), 2.2, (22, 48, 36)),
        "coronal": Geometry((1, 0, 0), (0, 0, -1), (1.3, 1.1), 2.0, (18, 46, 46)),
        "sagittal_reversed": Geometry((0, -1, 0), (0, 0, 1), (1.2, 0.9), 2.2, (22, 48, 36)),
        "prone": Geometry((-1, 0, 0), (0, -1, 0)),
        "head_to_feet": Geometry((-1, 0, 0), (0, 1, 0)),
        "oblique": _turned(4.0),
        "steep": _turned(24.0),
        "twice_oblique": _turned(-11.0, 17.0),
        "anisotropic": Geometry(spacing=(1.6, 0.8), step=3.1, shape=(20, 24, 62)),
        "isotropic": Geometry(spacing=(1.2, 1.2), step=1.2, shape=(40, 32, 44)),
        "thin_planes": Geometry(step=0.4, spacing=(1.6, 1.6), shape=(48, 24, 32)),
        "thick_planes": Geometry(step=9.0, shape=(7, 40, 48)),
        "one_row_more": Geometry(shape=(24, 41, 48)),
    },
)
def _acquired(draft: Draft, geometry: Geometry) -> None:
    draft.series.append(draft.acquire(geometry))


@variants("gantry_tilt_{}", Phase.ACQUISITION, either(Code.GANTRY_TILT), {"slight": 0.25, "strong": -0.9}, sdk=refuse(Code.GANTRY_TILT))
def _tilted(draft: Draft, shear: float) -> None:
    draft.series.append(draft.acquire(Geometry(shear=shear)))


@axis("three_planes", Phase.ACQUISITION, either(Code.IRREGULAR_VOLUME))
def _three(draft: Draft) -> None:
    draft.series.append(draft.acquire(Geometry(shape=(3, 40, 48), step=12.0)))


@variants("{}", Phase.ACQUISITION, refuse(Code.IRREGULAR_VOLUME), {"two_planes": 2, "one_plane": 1})
def _few(draft: Draft, planes: int) -> None:
    series = draft.acquire(Geometry(shape=(planes, 40, 48)))
    series.truth.clear()
    draft.series.append(series)
