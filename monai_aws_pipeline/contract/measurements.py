"""``measurements.json``: what the host measured on a result and the lineage shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from monai_aws_pipeline.contract.parsing import ContractError

MAX_SEGMENTS: Final = 64


@dataclass(frozen=True)
class SegmentVolume:
    """Volume of one segment in millilitres, as the agent measured it on the DICOM SEG."""

    label: str
    volume_ml: float


@dataclass(frozen=True)
class ExpectedVolume:
    """Millilitres from ``low`` to ``high`` that a MAP declares plausible for a segment; None for an open end."""

    label: str
    low: float | None = None
    high: float | None = None

    def holds(self, volume_ml: float) -> bool:
        """Whether a volume lies in it."""
        return (self.low is None or volume_ml >= self.low) and (self.high is None or volume_ml <= self.high)

    @property
    def ends(self) -> dict[str, float]:
        """``min`` and ``max``, without an open end."""
        return {name: value for name, value in (("min", self.low), ("max", self.high)) if value is not None}


def parse_measurements(text: str) -> tuple[SegmentVolume, ...]:
    """Read ``measurements.json`` (``{"segments": [{"label", "volume_ml"}]}``). Raises ContractError."""
    try:
        segments = json.loads(text)["segments"]
        parsed = tuple(SegmentVolume(_label(item["label"]), float(item["volume_ml"])) for item in segments[:MAX_SEGMENTS])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ContractError("measurements: expected {'segments': [{'label', 'volume_ml'}]}") from error
    if not all(0 <= segment.volume_ml < float("inf") for segment in parsed):
        raise ContractError("measurements: volume_ml must be a number of at least 0")
    return parsed


def parse_expected(text: str) -> tuple[ExpectedVolume, ...]:
    """Read ``expected`` of ``measurements.json``; none where the MAP declares nothing, or an older host wrote it. Raises ContractError."""
    try:
        return tuple(
            ExpectedVolume(_label(item["label"]), *(None if item.get(end) is None else float(item[end]) for end in ("min", "max")))
            for item in json.loads(text).get("expected", [])[:MAX_SEGMENTS]
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ContractError("measurements: expected must be a list of {'label', 'min', 'max'}") from error


def _label(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("label")
    return value
