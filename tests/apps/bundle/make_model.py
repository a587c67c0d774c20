"""Makes the bundle that this application runs: ``python make_model.py FILE.ts``, with a Python that has the application's requirements.

A MONAI UNet with random weights of a fixed seed, as TorchScript with ``metadata.json`` and ``inference.json`` among its extra files, as
``python -m monai.bundle ckpt_export`` writes one. No part of the application imports it.

What it answers is moved so that both kinds of voxels are there: a mask that is empty or full would compare nothing. A voxel near the
decision may fall the other way where a library adds up in another order, sooner than with trained weights; so where only pixels differ,
that is looked at before the host is blamed.
"""

from __future__ import annotations

import json
import sys

import torch
from monai.data import save_net_with_metadata
from monai.networks.nets import UNet

PATCH = (96, 96, 96)
LOWEST_HU, HIGHEST_HU = -1000, 1000
AIR_HU, TISSUE_HU = -800, 40

METADATA = {
    "version": "1.0.0",
    "task": "none: random weights, for tests",
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image",
                "format": "hounsfield",
                "modality": "CT",
                "num_channels": 1,
                "spatial_shape": list(PATCH),
                "dtype": "float32",
                "value_range": [0, 1],
                "is_patch_data": True,
                "channel_def": {"0": "image"},
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": 2,
                "spatial_shape": list(PATCH),
                "dtype": "float32",
                "value_range": [0, 1],
                "is_patch_data": True,
                "channel_def": {"0": "background", "1": "air"},
            }
        },
    },
}
INFERENCE = {
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": LOWEST_HU,
                "a_max": HIGHEST_HU,
                "b_min": 0,
                "b_max": 1,
                "clip": True,
            },
            {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": list(PATCH), "sw_batch_size": 4, "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ],
    },
}


class Moved(torch.nn.Module):
    """A network of two channels, moved so that a patch of nothing but air is answered as air, and one of tissue as background."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("factor", torch.ones(1, 2, 1, 1, 1))
        self.register_buffer("middle", torch.zeros(1, 2, 1, 1, 1))
        with torch.no_grad():
            air, tissue = (self.lead(hounsfield) for hounsfield in (AIR_HU, TISSUE_HU))
            self.factor *= 1 if air > tissue else -1
            self.middle[:, 1] = (air + tissue) / 2 * self.factor[:, 1]

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """Background and air."""
        return self.network(patch) * self.factor - self.middle

    def lead(self, hounsfield: float) -> torch.Tensor:
        """By how much the second channel is before the first in the middle of a patch that is all the same."""
        value = (hounsfield - LOWEST_HU) / (HIGHEST_HU - LOWEST_HU)
        middle = self.network(torch.full((1, 1, *PATCH), value))[(0, slice(None), *(side // 2 for side in PATCH))]
        return middle[1] - middle[0]


def main(target: str) -> None:
    """Write the bundle."""
    torch.manual_seed(20)
    # Batch normalisation passes through what it has never been trained on; by instance, a patch all the same would become nothing.
    network = UNet(
        spatial_dims=3, in_channels=1, out_channels=2, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2, norm="batch"
    ).eval()
    save_net_with_metadata(
        torch.jit.script(Moved(network).eval()),
        target,
        meta_values=METADATA,
        more_extra_files={"inference.json": json.dumps(INFERENCE).encode()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
