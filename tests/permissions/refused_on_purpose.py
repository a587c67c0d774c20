"""Calls that tests make to see them refused, by role: ``action resource`` with wildcards, each named beside the test that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REFUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "operator": (
        "kms:CreateGrant arn:aws:kms:*:key/*",  # tests/fidelity/test_organisation.py: an administrator who did not name the key
        # tests/integration/test_source_login.py: the secret beside the one that was named
        "secretsmanager:GetSecretValue arn:aws:secretsmanager:*:secret:login/app-of-others-*",
        # tests/integration/test_notifications.py: topic, secret and budget of the deployment beside one's own
        "sns:Publish arn:aws:sns:*:monai-aws-told-2-alarms",
        "secretsmanager:GetSecretValue arn:aws:secretsmanager:*:secret:monai-aws/told-2/notify-*",
        "budgets:ViewBudget arn:aws:budgets::*:budget/monai-aws-told-2",
        # tests/integration/test_field_test.py: a secret that is not there, so that its ARN has no suffix
        "secretsmanager:GetSecretValue arn:aws:secretsmanager:*:secret:monai-aws/field/notify",
        "medical-imaging:SearchDICOMStudies arn:aws:medical-imaging:*:datastore/00000000000000000000000000000000",  # a data store of nobody
    ),
}
