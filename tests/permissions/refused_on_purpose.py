"""Calls that tests make to see them refused, by role: ``action resource`` with wildcards, each named beside the test that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "operator": (
        "kms:CreateGrant arn:aws:kms:*:key/*",  # tests/fidelity/test_organisation.py: an administrator who did not name the key
    ),
}
