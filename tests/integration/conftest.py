"""What holds for all tests beside the embedded AWS, whose machines and tests share the cores with whoever is asked."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.operations import preflight


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preflight waits for the answers about the caller for as long as they take here."""
    monkeypatch.setattr(preflight, "CALLER_SECONDS", 60.0)
