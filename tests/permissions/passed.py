"""A pytest plugin that notes which test files ran whole and passed: only all of them together show what no test calls.

It looks on where reports arrive, which with xdist is the process that hands the tests out.
"""

from __future__ import annotations

import pytest

from tests.permissions.record import LONG, TESTS, begin, note_passed

_CHOOSING = ("keyword", "deselect", "lf", "stepwise")
"""Options of pytest that leave tests of a file out."""


def pytest_configure(config: pytest.Config) -> None:
    """Look on, where files are run as they are."""
    chosen = any(config.getoption(name, None) for name in _CHOOSING) or any("::" in each for each in config.args)
    own, marks = config.getini("addopts"), config.getoption("markexpr")
    is_long = marks == "long"
    chosen = chosen or not (is_long or marks == (own[own.index("-m") + 1] if "-m" in own else ""))
    if not (chosen or hasattr(config, "workerinput") or config.option.collectonly):
        config.pluginmanager.register(
            Passed(whole=not is_long and set(TESTS) <= {each.rstrip("/") for each in config.args}, is_long=is_long)
        )


class Passed:
    """The reports of one session. ``whole``: it runs all that ``make test`` does; ``is_long``: what ``make faults`` runs of the rest."""

    def __init__(self, *, whole: bool, is_long: bool) -> None:
        self._whole, self._kind = whole, LONG if is_long else ""
        self._passed: set[str] = set()
        self._other: set[str] = set()

    def pytest_sessionstart(self) -> None:
        """A run of everything is evidence by itself."""
        begin(whole=self._whole)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that failed or was left out called nothing, or not all that it calls."""
        if (name := report.nodeid.partition("::")[0]).startswith(tuple(f"{each}/" for each in TESTS)):
            (self._passed if report.passed else self._other).add(name)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Of a session that ended well: one that broke off has begun files whose other tests nobody has seen."""
        if exitstatus == pytest.ExitCode.OK and (whole := self._passed - self._other):
            note_passed(f"{name}{self._kind}" for name in whole)
