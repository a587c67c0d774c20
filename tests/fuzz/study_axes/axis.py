"""One way in which a study can be odd: its name, what it changes, and which ends are right.

Here belongs the value and the register; the axes themselves are in the modules beside, one for each family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any, Final

from monai_aws_pipeline.host_agent.errors import Code
from tests.fuzz.study_draft import Draft


class Phase(IntEnum):
    """When an axis changes a draft: what comes later sees what came before."""

    ACQUISITION = 1
    STACK = 2
    SERIES = 3
    POSITION = 4
    PIXELS = 5
    MULTIFRAME = 6
    COMPANIONS = 7
    HEADER = 8
    ENCODING = 9
    NAMES = 10
    PACKAGING = 11


class IncompatibleAxesError(Exception):
    """Two axes of a pair want opposite things, so that the pair means nothing."""


@dataclass(frozen=True)
class Right:
    """Ends that are right: an answer (that agrees with the truth), or a refusal with one of these codes."""

    answer: bool
    codes: frozenset[Code] = frozenset()

    def allows(self, end: str) -> bool:
        """Whether ``answered`` or a code is one of them."""
        return self.answer if end == "answered" else end in self.codes


ANSWER: Final = Right(answer=True)


def either(*codes: Code) -> Right:
    """A right answer, or one of these refusals."""
    return Right(answer=True, codes=frozenset(codes))


def refuse(*codes: Code) -> Right:
    """One of these refusals."""
    return Right(answer=False, codes=frozenset(codes))


Change = Callable[[Draft], None]


@dataclass(frozen=True)
class Axis:
    """``slot``: two axes of the same one are not combined. ``sdk``: what is right for an application built on the SDK's volume.

    ``chosen``: what is right for an application that says which of several stacks it wants.
    """

    name: str
    phase: Phase
    slot: str
    right: Right
    change: Change = field(repr=False, compare=False)
    sdk: Right | None = None
    chosen: Right | None = None

    def right_for(self, application: str) -> Right | None:
        """The ends that are right for one of the honest applications; None where that depends on more than the axis."""
        if application == "echo":
            return self.chosen
        return self.sdk if self.sdk and application == "sdk" else self.right


AXES: Final[dict[str, Axis]] = {}
"""Every axis by its name, in the order of its phase once ``study_axes`` is imported."""


def axis(
    name: str, phase: Phase, right: Right, *, slot: str = "", sdk: Right | None = None, chosen: Right | None = None
) -> Callable[[Change], Change]:
    """Register a function as an axis."""

    def register(change: Change) -> Change:
        if name in AXES:
            raise ValueError(f"two axes are called {name}")
        AXES[name] = Axis(name, phase, slot or phase.name.lower(), right, change, sdk, chosen)
        return change

    return register


def variants(
    template: str, phase: Phase, right: Right, values: dict[str, Any], *, slot: str = "", sdk: Right | None = None
) -> Callable[[Callable[[Draft, Any], None]], Callable[[Draft, Any], None]]:
    """Register a function as one axis for each value; ``template`` holds ``{}`` for the value's name."""

    def register(change: Callable[[Draft, Any], None]) -> Callable[[Draft, Any], None]:
        for label, value in values.items():
            axis(template.format(label), phase, right, slot=slot, sdk=sdk)(partial(_with, change, value))
        return change

    return register


def _with(change: Callable[[Draft, Any], None], value: Any, draft: Draft) -> None:
    change(draft, value)
