"""The base of every error that speaks to a user: what happened and why, and what to do about it.

Here belongs this base alone, so that whoever shows errors knows them without importing what raises them. It ships with the wake function
and with the agent. Standard library only.
"""

from __future__ import annotations


class NamedError(Exception):
    """``cause``: what happened and why. ``remedy``: what to do; empty where the cause says it, the class's own where it has one for all."""

    remedy: str = ""

    def __init__(self, cause: str, remedy: str = "") -> None:
        between = "\n" if "\n" in cause else " "
        super().__init__(f"{cause}{between}{remedy}" if remedy else cause)
        self.cause = cause
        if remedy:
            self.remedy = remedy
