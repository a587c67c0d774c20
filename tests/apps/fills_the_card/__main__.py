"""Takes all memory that the GPU has, says so by a file in its output, and holds it until a file in its input says that it is enough.

It stands for a study that leaves nothing of the GPU to the one beside it. What that one gives back meanwhile it takes too.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

FULL, ENOUGH = "full", "enough"
LARGEST, SMALLEST = 256 << 20, 16 << 20


def main() -> None:
    """Hold the card."""
    source, output = Path(os.environ["HOLOSCAN_INPUT_PATH"]), Path(os.environ["HOLOSCAN_OUTPUT_PATH"])
    held, size = [], LARGEST
    while not (source / ENOUGH).exists():
        try:
            held.append(torch.zeros(size, dtype=torch.uint8, device="cuda"))
        except RuntimeError:
            if size == SMALLEST:
                (output / FULL).touch()
            size = max(size // 2, SMALLEST)
            time.sleep(0.1)


if __name__ == "__main__":
    main()
