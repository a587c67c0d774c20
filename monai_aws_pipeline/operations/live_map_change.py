"""One change of the live MAP, and what is kept of it: the parameter's description, and in the bucket what that has no room for.

Pure. The key in the bucket is ``contract.change_key``'s.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final

from monai_aws_pipeline.cloud.registry import PushedImage
from monai_aws_pipeline.contract import parse_utc
from monai_aws_pipeline.operations.golden_check import MAX_POINTS, GoldenCheck, point_of
from monai_aws_pipeline.operations.promotion import Deployment, Kind, label

MAX_WHY: Final = 300
CHANGE_SCHEMA: Final = "monai-aws/live-map-change/1"
WRITTEN_WITHIN: Final = timedelta(minutes=10)
"""Between keeping a change and AWS's time of the parameter: two calls, by two clocks."""
_NOTE: Final = re.compile(r"\w+ \S+; before: (?P<previous>\S+); by (?P<who>.*?)(?:; why: (?P<why>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Change:
    """A MAP that became live, or was so already (``changed`` is False). ``previous`` is empty for the first one. ``at``: ISO 8601, UTC.

    ``version``: number of the parameter's version that it wrote; 0 where it wrote none.
    """

    kind: Kind
    image: PushedImage
    previous: str
    who: str
    why: str
    changed: bool
    proof: GoldenCheck | None = None
    at: str = ""
    version: int = 0

    def to_json(self) -> str:
        """As it is kept in the bucket: before the parameter is written, so without the version's number."""
        kept = {name: value for name, value in asdict(self).items() if name != "version"}
        return json.dumps({"schema": CHANGE_SCHEMA, **kept}, sort_keys=True)


def note(kind: Kind, image: PushedImage, previous: str, who: str, why: str) -> str:
    """The parameter's description, which AWS keeps with each version (at most 1,024 characters)."""
    reason = " ".join(why.split())[:MAX_WHY]
    parts = [
        f"{kind} {label(image)}",
        f"before: {previous or 'none'}",
        f"by {' '.join(who.split())[:200]}",
        *([f"why: {reason}"] if reason else []),
    ]
    return "; ".join(parts)[:1024]


def parse_change(text: str, switch: Deployment) -> Change | None:
    """A change as it was kept in the bucket; None for what is no record of this one."""
    try:
        data = json.loads(text)
        image, proof = data["image"], data["proof"]
        checked = proof and GoldenCheck(
            str(proof["host"]), str(proof["golden"]), tuple(map(point_of, proof["points"][:MAX_POINTS])), float(proof["seconds"])
        )
        if data["schema"] != CHANGE_SCHEMA or image["digest"] != switch.digest:
            return None
        if switch.at and abs(parse_utc(str(data["at"])) - parse_utc(switch.at)) > WRITTEN_WITHIN:
            return None  # the same was done again, in the same words, and kept in its place
        kept = PushedImage(
            str(image["repository"]), switch.digest, tuple(map(str, image["tags"])), int(image["bytes"]), str(image["pushed_at"])
        )
        return Change(
            switch.kind,
            kept,
            str(data["previous"]),
            str(data["who"]),
            str(data["why"]),
            data["changed"] is True,
            checked,
            str(data["at"]),
            switch.version,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def told_change(switch: Deployment, image: PushedImage | None) -> Change:
    """A change of which nothing is kept but the parameter's description: set by hand, or without a bucket. ``image``: where it is left."""
    told = _NOTE.fullmatch(switch.note)
    previous, who, why = (told["previous"], told["who"], told["why"] or "") if told else ("", "somebody who did not say", switch.note)
    known = image or PushedImage("", switch.digest, (), 0, "")
    unknown = GoldenCheck("", "not known", (), 0.0)
    before = "" if previous == "none" else previous
    return Change(switch.kind, known, before, who, why, changed=True, proof=unknown, at=switch.at, version=switch.version)
