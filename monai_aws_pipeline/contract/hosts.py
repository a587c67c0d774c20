"""What the wake function and the lineage tell each other about an inference host, in its tags."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from monai_aws_pipeline.contract.parsing import parse_utc, utc_text

_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,80}")


@dataclass(frozen=True)
class FailedStarts:
    """How often in a row a host could not start, and why the last time: what its tag says (``TAG_FAILED_STARTS``).

    The wake function counts, with the only tag that it may set; ``at`` and ``code`` stay after a start that went well.
    """

    APART = timedelta(minutes=4)
    """Failures closer together count once: many uploads at a time meet one moment without capacity."""

    count: int = 0
    at: datetime | None = None
    code: str = ""

    @classmethod
    def parse(cls, text: str) -> FailedStarts:
        """Read a tag. What is not ours to read, which anyone may have written, counts as no failure."""
        try:
            count, at, code = text.split(" ")
            return cls(int(count), parse_utc(at), code) if 0 <= int(count) < 1000 and _CODE.fullmatch(code) else cls()
        except ValueError:  # ContractError is one
            return cls()

    def to_text(self) -> str:
        """The tag's value."""
        return f"{self.count} {utc_text(self.at)} {self.code}" if self.at else ""

    def failed(self, code: str, now: datetime) -> FailedStarts:
        """After another failure, with EC2's code for it."""
        if self.count and self.at and now - self.at < self.APART:
            return self
        return FailedStarts(self.count + 1, now, code if _CODE.fullmatch(code) else "Unknown")

    def started(self) -> FailedStarts:
        """After a start that went well."""
        return FailedStarts(0, self.at, self.code)
