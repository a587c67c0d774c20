"""One behaviour of AWS as the register has it. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Behaviour:
    """What AWS does, how the system lives through it, and where the first is written; a line each."""

    id: str
    aws: str
    system: str
    source: str
