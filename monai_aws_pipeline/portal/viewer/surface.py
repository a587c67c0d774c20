"""An application's surface (STL) for the 3D page: read within bounds, and given in the coordinates of the volumes beside it.

Applications write LPS or RAS, and hosts take both (``host_agent.results.mesh``). Which one a surface is in is found by the segmentation
that it lies on; without one it is taken for DICOM's own, LPS.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Final

import numpy as np

from monai_aws_pipeline.host_agent.intake.geometry import Array
from monai_aws_pipeline.portal.viewer.study_view import ViewError
from monai_aws_pipeline.portal.viewer.volume import Volume

LARGEST: Final = 128 << 20
_TRIANGLE: Final = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX: Final = re.compile(rb"^\s*vertex\s+(\S{1,40})\s+(\S{1,40})\s+(\S{1,40})", re.MULTILINE | re.IGNORECASE)
_LPS: Final = np.array([-1.0, -1.0, 1.0], np.float32)
_RAS: Final = np.ones(3, np.float32)


def surface_in_ras(path: Path, mask: Volume | None) -> bytes:
    """The surface as binary STL in RAS. ``mask``: the segmentation beside it. Raises ViewError."""
    corners = _corners(path)
    turned = corners * _turn(corners, mask)
    triangles = np.zeros(len(turned), _TRIANGLE)
    triangles["corners"] = turned
    triangles["normal"] = np.cross(turned[:, 1] - turned[:, 0], turned[:, 2] - turned[:, 0])
    return b"\0" * 80 + struct.pack("<I", len(triangles)) + triangles.tobytes()


def _corners(path: Path) -> Array:
    """Of each triangle three vertices (n, 3, 3), as the file has them."""
    size = path.stat().st_size
    if size > LARGEST:
        raise ViewError("surface_too_large", status=413)
    data = path.read_bytes()
    count = struct.unpack_from("<I", data, 80)[0] if size >= 84 else -1
    if size == 84 + 50 * count:
        corners = np.frombuffer(data, _TRIANGLE, count, 84)["corners"].astype(np.float32)
    else:
        try:
            corners = np.array([match.groups() for match in _VERTEX.finditer(data)], np.float32).reshape(-1, 3, 3)
        except ValueError as error:
            raise ViewError("surface_unreadable", status=502) from error
    if not np.isfinite(corners).all():
        raise ViewError("surface_no_numbers", status=502)
    return corners


def _turn(corners: Array, mask: Volume | None) -> Array:
    if mask is None or not len(corners) or not mask.voxels.any():
        return _LPS
    filled = np.argwhere(mask.voxels)
    ends = np.array(np.meshgrid(*zip(filled.min(axis=0), filled.max(axis=0), strict=True), indexing="ij")).reshape(3, -1)
    places = (mask.affine[:3, :3] @ ends).T + mask.affine[:3, 3]
    wanted = np.stack([places.min(axis=0), places.max(axis=0)])
    flat = corners.reshape(-1, 3)

    def apart(turn: Array) -> float:
        turned = np.sort([flat.min(axis=0) * turn, flat.max(axis=0) * turn], axis=0)
        return float(np.abs(turned - wanted).sum())

    return min((_LPS, _RAS), key=apart)
