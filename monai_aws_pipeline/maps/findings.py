"""One thing that is wrong with an application, as every part of the doctor says it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """``ERROR``: the build or the first study would fail. ``WARNING``: it works today and may not tomorrow, or elsewhere."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    ``point`` says where: source, app.yaml, entry-point, requirements, constraints, sdk, model, base-image, packager,
    golden.
    """

    point: str
    message: str
    remedy: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return f"{self.severity} in {self.point}: {self.message}. {self.remedy}."
