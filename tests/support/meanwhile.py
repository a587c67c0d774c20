"""What goes on beside a test: somebody who does the same again and again until a block ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(act: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do this every so many seconds while the block lasts. An ``act`` that raises is not called again."""
    over = threading.Event()

    def again() -> None:
        while not over.wait(every_s):
            act()

    acts = threading.Thread(target=again)
    acts.start()
    try:
        yield
    finally:
        over.set()
        acts.join()
