"""Which of the processes that run tests takes what: machines wait for much, and a third process computes meanwhile.

Two take the test files in their order, those with machines first. A third, where there is one, takes the unit tests first, which need a
processor and nothing else, and gives way to the others.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler.loadfile import LoadFileScheduling

GIVES_WAY: Final = "gw2"
"""The third, as xdist names it."""
COMPUTES: Final = "tests/unit/"
_NICENESS: Final = 10


class Scheduling(LoadFileScheduling):
    """By file, as ``--dist loadfile``."""

    def _assign_work_unit(self, node: Any) -> None:
        if node.gateway.id == GIVES_WAY and (computing := next((file for file in self.workqueue if file.startswith(COMPUTES)), None)):
            self.workqueue.move_to_end(computing, last=False)  # its super takes the first
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Nothing where the command line asks for another way."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    """In the third process: give way."""
    if getattr(config, "workerinput", {}).get("workerid") == GIVES_WAY:
        os.setsid()  # Linux shares the processor between sessions first, and asks for the niceness of each
        os.nice(_NICENESS)
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(_NICENESS))
