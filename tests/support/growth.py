"""How the time that something takes grows with what it is given, for code that meets text which somebody wrote to stall it.

Here belongs what tells linear from quadratic on a machine of any speed; how fast something is belongs to tests/bench.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

TIMES: Final = 8
MOST: Final = 24
"""Eight times as much takes 8 times as long if time grows with size, 64 times if with its square; between them a machine may stutter."""
TICK_S: Final = 0.01
"""Below this, what a thread is charged for is noise."""


def grows_with_size(act: Callable[[int], object], size: int) -> None:
    """Fails where ``act`` takes out of all proportion longer for eight times ``size`` than for ``size``, by CPU seconds of this thread."""
    act(1)  # what is made once
    small, large = _seconds(act, size), _seconds(act, size * TIMES)
    assert large < MOST * max(small, TICK_S), f"{size}: {small:.3f} s, {size * TIMES}: {large:.3f} s"


def _seconds(act: Callable[[int], object], size: int) -> float:
    gc.collect()
    gc.disable()  # what is collected is the whole process's, whose turn comes when it comes
    try:
        began = time.thread_time()
        act(size)
        return time.thread_time() - began
    finally:
        gc.enable()
