"""The model with its preprocessing and postprocessing, as a function from volume to mask. torch and scipy, no DICOM.

The network is the TorchScript 3D U-Net of deepbet 1.0.2 (``bbox_model.pt``); the steps repeat what it was trained with. The same
function runs inside the MAP and outside any container, so the two can be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from errors import NoAnswerError
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

GRID = (128, 128, 128)


class SegmentationError(NoAnswerError):
    """The model file or the volume cannot give a brain mask."""


def load_model(folder_or_file: Path) -> tuple[torch.jit.ScriptModule, torch.device]:
    """Load the one TorchScript file at or below a path, onto the GPU where there is one. Raises SegmentationError."""
    found = [folder_or_file] if folder_or_file.is_file() else sorted(folder_or_file.rglob("*"))
    files = [path for path in found if path.suffix in {".pt", ".pth", ".ts"}]
    if len(files) != 1:
        raise SegmentationError(f"expected one TorchScript file (.pt, .pth, .ts) in the model folder, found {len(files)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.jit.load(str(files[0]), map_location=device).eval(), device


def normalise(volume: torch.Tensor) -> torch.Tensor:
    """Scale the 0.5 % and 99.5 % quantiles to 0 and 1 and clamp; then z-score, brought to mean 0.449 and deviation 0.226."""
    low, high = np.quantile(volume.cpu().numpy(), (0.005, 0.995))  # torch sorts all voxels for it, numpy a few
    if high <= low:
        raise SegmentationError("the series has no contrast: all voxels have nearly the same value")
    clamped = ((volume - low) / (high - low)).clamp(0, 1)
    return 0.226 * (clamped - clamped.mean()) / clamped.std() + 0.449


def brain_mask(model: Any, device: torch.device, volume: NDArray[Any]) -> NDArray[np.bool_]:
    """Brain mask of a T1-weighted volume [x, y, z] in RAS order, of the same shape. Raises SegmentationError when nothing is found."""
    with torch.inference_mode():
        full = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32)).to(device)
        small = functional.interpolate(full[None, None], GRID, mode="trilinear")[0, 0]
        probability = model(normalise(small)[None, None]).softmax(1)[:, 1:2]
        mask = (functional.interpolate(probability, full.shape, mode="trilinear")[0, 0] > 0.5).cpu().numpy()
    return largest_component(mask)


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest face-connected component of a mask. Raises SegmentationError when the mask is empty."""
    labels, count = ndimage.label(mask)
    if not count:
        raise SegmentationError("no brain was found in the series; is it a T1-weighted MR of a head?")
    if count == 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
