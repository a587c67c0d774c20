"""An answer beside the one that the study had before: MAP, model and volumes, side by side.

Here belongs reading an earlier answer back from the lineage, in the words of any version of ours, and the table of both. Pure: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from monai_aws_pipeline.contract import ResultRecord, SegmentVolume, parse_utc, short_digest

_NAME: Final = re.compile(r"volume_(.+)_ml")


@dataclass(frozen=True)
class Earlier:
    """What is compared of an answer. ``volumes`` in millilitres by the name of their segment; empty texts are not known."""

    at: datetime
    version: str = ""
    digest: str = ""
    model: str = ""
    volumes: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, record: ResultRecord, measurements: tuple[SegmentVolume, ...]) -> Earlier:
        """As a record has it."""
        made = record.map
        return cls(parse_utc(record.committed_at), made.app_version, made.digest, made.model_sha256, volumes_by_name(measurements))

    @classmethod
    def recorded(cls, metadata: Mapping[str, Any]) -> Earlier | None:
        """As the metadata of its materialization has it; None where that does not say when it was answered."""
        values = {name: entry.value for name, entry in metadata.items()}
        at = values.get("committed_at")
        if not isinstance(at, int | float):
            return None
        volumes = {found[1]: values[name] for name in values if (found := _NAME.fullmatch(name)) and isinstance(values[name], int | float)}
        version, digest, model = (str(values.get(name, "")) for name in ("map_app_version", "map_digest", "model_sha256"))
        return cls(datetime.fromtimestamp(at, UTC), version, digest, model, volumes)


def comparison(this: Earlier, before: Earlier, most: int) -> str:
    """A Markdown table of both, the change in its last column. ``most``: of the segments that both have."""
    rows = [
        ("answered", f"{this.at:%Y-%m-%d %H:%M}", f"{before.at:%Y-%m-%d %H:%M}", ""),
        ("MAP", _short(this.version), _short(before.version), _changed(this.version, before.version)),
        ("digest", _short(this.digest), _short(before.digest), _changed(this.digest, before.digest)),
        ("model", _short(this.model), _short(before.model), _changed(this.model, before.model)),
    ]
    for name in sorted(this.volumes.keys() & before.volumes.keys())[:most]:
        now, then = this.volumes[name], before.volumes[name]
        change = f"{now - then:+.1f}{f' ({(now - then) / then:+.1%})' if then else ''}" if now != then else "same"
        rows.append((f"{name.replace('_', ' ')[:24]}, ml", f"{now:.1f}", f"{then:.1f}", change))
    lines = [f"| {' | '.join(row)} |" for row in rows if row[1] or row[2]]
    return "\n".join(["| | this answer | the one before | change |", "|---|---|---|---|", *lines])


def volumes_by_name(measurements: tuple[SegmentVolume, ...]) -> dict[str, float]:
    """Millilitres by names fit for metadata keys; segments of one name are numbered, so that none hides another."""
    named: dict[str, float] = {}
    for each in measurements:
        name = re.sub(r"[^a-z0-9]+", "_", each.label.lower()).strip("_")[:40] or "other"
        same = sum(1 for other in named if other == name or re.fullmatch(rf"{name}_no\d+", other))
        named[f"{name}_no{same + 1}" if same else name] = round(float(each.volume_ml), 3)
    return named


def _short(text: str) -> str:
    return short_digest(re.sub(r"[|\\[\]`*_<>]", "", text))


def _changed(this: str, before: str) -> str:
    return "" if not (this and before) else "same" if this == before else "other"
