"""One thing that is wrong with an application, as every part of the doctor says it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """``ERROR``: the build or the first study would fail. ``WARNING``: it works today and may not tomorrow, elsewhere, or with every study.

    ``INFO``: nothing is wrong; what the platform does with such an application is said.
    """

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    ``point`` says where: source, app.yaml, entry-point, imports, sdk, input, network, series, decoders, requirements, constraints,
    system-packages, model, base-image, packager, golden. ``file`` is relative to the application's folder (or a file to write, such as
    ``.env``), ``line`` its line, 0 for the file as a whole. ``paste``: the lines that mend it, ready to be put into the file ``into``
    (empty: the same).
    """

    point: str
    message: str
    remedy: str
    severity: Severity = Severity.ERROR
    file: str = ""
    line: int = 0
    paste: str = ""
    into: str = ""

    @property
    def place(self) -> str:
        """``FILE:LINE`` as far as they are known."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        text = f"{self.severity} in {self.point}{where}: {self.message}. {self.remedy}."
        lines = "".join(f"\n    {line}" for line in self.paste.splitlines())
        return f"{text}\n  into {self.into or self.file}:{lines}" if lines else text
