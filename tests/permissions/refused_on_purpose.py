"""Calls that tests make to see them refused, by role: ``action resource`` with wildcards, each named beside the test that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REFUSED: Final[Mapping[str, tuple[str, ...]]] = {}
