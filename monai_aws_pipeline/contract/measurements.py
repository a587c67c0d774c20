"""What the host measured on a result and the lineage shows: ``measurements.json``, and a part of the commit record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

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


@dataclass(frozen=True)
class Measurements:
    """What was measured on one result, and what its MAP declares plausible; at most 64 of each are read."""

    segments: tuple[SegmentVolume, ...] = ()
    expected: tuple[ExpectedVolume, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """As ``measurements.json`` and the commit record have them; ``expected`` only where the MAP declares something."""
        data: dict[str, Any] = {"segments": [{"label": each.label, "volume_ml": each.volume_ml} for each in self.segments]}
        return {**data, "expected": [{"label": each.label, **each.ends} for each in self.expected]} if self.expected else data

    @classmethod
    def from_json(cls, text: str) -> Measurements:
        """Read ``measurements.json``. Raises ContractError."""
        try:
            return cls.from_data(json.loads(text))
        except (ValueError, RecursionError) as error:
            if isinstance(error, ContractError):
                raise
            raise ContractError("measurements are not JSON") from error

    @classmethod
    def from_data(cls, data: Any) -> Measurements:
        """Check ``{"segments": [{"label", "volume_ml"}], "expected": [{"label", "min", "max"}]}``; an older host wrote no ``expected``.

        Raises ContractError.
        """
        try:
            segments = tuple(SegmentVolume(_label(item["label"]), float(item["volume_ml"])) for item in data["segments"][:MAX_SEGMENTS])
            expected = tuple(
                ExpectedVolume(_label(item["label"]), *(None if item.get(end) is None else float(item[end]) for end in ("min", "max")))
                for item in data.get("expected", [])[:MAX_SEGMENTS]
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ContractError(
                "measurements: expected {'segments': [{'label', 'volume_ml'}], 'expected': [{'label', 'min', 'max'}]}"
            ) from error
        if not all(0 <= segment.volume_ml < float("inf") for segment in segments):
            raise ContractError("measurements: volume_ml must be a number of at least 0")
        return cls(segments, expected)


def _label(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("label")
    return value
