"""Calls that tests make to see them refused, by role: ``action resource`` with wildcards, each named beside the test that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "operator": (
        "kms:CreateGrant arn:aws:kms:*:key/*",  # tests/fidelity/test_organisation.py: an administrator who did not name the key
        # tests/integration/test_source_login.py: the secret beside the one that was named
        "secretsmanager:GetSecretValue arn:aws:secretsmanager:*:secret:login/app-of-others-*",
    ),
}
