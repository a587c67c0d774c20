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


def _label(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("label")
    return value
