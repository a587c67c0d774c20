"""A day as a picture: the machines that are on and how long studies wait, over the hours. SVG, written by hand so that nothing has to draw.

A line each: several fleets on the same day stand beside each other. The words are text, which a reader can select and a screen reader say.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from monai_aws_pipeline.simulation.arrivals import DAY_S, HOUR_S
from monai_aws_pipeline.simulation.plan import Simulated
from monai_aws_pipeline.simulation.summary import mean_on, percentile

_WIDTH: Final = 900
_LEFT: Final = 60
_RIGHT: Final = 880
_PANEL: Final = 150
_TOPS: Final = (80, 290)
_BIN_S: Final = 900.0
_COLOURS: Final = ("#4f46e5", "#ea580c", "#16a34a", "#64748b")
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3")
_STYLE: Final = """<style>
text { font-family: "DejaVu Sans", "Segoe UI", Helvetica, Arial, sans-serif; font-size: 12px; fill: #475569; }
.t { font-size: 15px; font-weight: 600; fill: #0f172a; }
.h { font-weight: 600; fill: #334155; }
.r { text-anchor: end; }
.m { text-anchor: middle; }
.grid { stroke: #e2e8f0; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
</style>"""


def draw(title: str, days: Sequence[tuple[str, Simulated]]) -> str:
    """The picture of one load with several fleets, each with its name."""
    machines = [mean_on(simulated.day, _BIN_S) for _, simulated in days]
    waits = [_waits(simulated) for _, simulated in days]
    height = _TOPS[-1] + _PANEL + 50
    said = "; ".join(f"{name}: at most {simulated.summary.most_on} machines" for name, simulated in days)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" '
        'aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(said)}</desc>',
        _STYLE,
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="20" y="26" class="t">{escape(title)}</text>',
        *_legend([name for name, _ in days]),
        *_panel(_TOPS[0], "machines on, on average in each quarter of an hour", machines),
        *_panel(_TOPS[1], "minutes from upload to answer (95th percentile of those that came in a quarter of an hour)", waits),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _waits(simulated: Simulated) -> list[float]:
    """Minutes for each quarter of an hour, 0 where nothing came."""
    bins: list[list[float]] = [[] for _ in range(int(DAY_S / _BIN_S))]
    for each in simulated.day.answers:
        bins[min(int(each.arrived / _BIN_S), len(bins) - 1)].append((each.answered - each.arrived) / 60)
    return [percentile(sorted(waits), 95) for waits in bins]


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], _LEFT
    for number, name in enumerate(names):
        parts.append(f'<path class="line" {_stroke(number)} d="M{x} 48 h28"/>')
        parts.append(f'<text x="{x + 34}" y="52">{escape(name)}</text>')
        x += 60 + 8 * len(name)
    return parts


def _panel(top: int, name: str, lines: Sequence[Sequence[float]]) -> list[str]:
    most = _round_up(max((value for line in lines for value in line), default=0.0))
    bottom = top + _PANEL
    parts = [f'<text x="{_LEFT}" y="{top - 8}" class="h">{escape(name)}</text>']
    for part in range(5):
        y = bottom - _PANEL * part / 4
        parts.append(f'<path class="grid" d="M{_LEFT} {y:g} H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:g}" class="r">{most * part / 4:g}</text>')
    for hour in range(0, 25, 3):
        parts.append(f'<text x="{_x(hour * HOUR_S):g}" y="{bottom + 18}" class="m">{hour}:00</text>')
    for number, line in enumerate(lines):
        steps = " ".join(f"V{bottom - _PANEL * value / most:.1f} H{_x((place + 1) * _BIN_S):.1f}" for place, value in enumerate(line))
        parts.append(f'<path class="line" {_stroke(number)} d="M{_LEFT} {bottom} {steps}"/>')
    return parts


def _stroke(number: int) -> str:
    dashes = _DASHES[number % len(_DASHES)]
    return f'stroke="{_COLOURS[number % len(_COLOURS)]}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _x(seconds: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * seconds / DAY_S


def _round_up(value: float) -> float:
    """A scale's end above the value, whose quarters read well."""
    return next((end for end in (4, 8, 12, 20, 40, 60, 80, 120, 200, 400, 800, 1600) if value <= end), value)
