"""Which series an application takes: its selection rules, read from its files, kept in a label, judged on a host.

Here belongs evaluating rules as the MONAI Deploy SDK's own operator does (https://docs.monai.io/projects/monai-deploy-app-sdk,
DICOMSeriesSelectorOperator). Rules that are put together by code cannot be known, and what cannot be decided is never held against a study.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

LABEL_RULES: Final = "monai-aws.series-rules"
"""Label of an image: the rules of its application as the SDK's JSON; empty where they are not known."""
LABEL_CHARACTERS: Final = 8192
_MAX_TEXT: Final = 1024 * 1024
_MAX_FILES: Final = 2000
_VALUE_CHARACTERS: Final = 256
"""A pattern meets a text that somebody sent; no attribute by which series are selected is longer."""
ORIENTATIONS: Final = ("sagittal", "coronal", "axial")

Rules = list[tuple[str, dict[str, Any]]]
"""Name and conditions of each selection. A series is taken when it meets all conditions of one of them."""


def label_of(application: Path) -> str:
    """The value of ``LABEL_RULES``: the application's rules where there is one set of them, otherwise empty."""
    found = [rules for _, rules in series_rules(application)]
    if len(found) != 1:
        return ""
    selections = [{"name": name, "conditions": conditions} for name, conditions in found[0]]
    text = json.dumps({"selections": selections}, ensure_ascii=True, separators=(",", ":"))
    return text if len(text) <= LABEL_CHARACTERS else ""


def rules_in(label: str) -> Rules:
    """The rules of a label; none where it holds no valid ones."""
    return _parse(label) if len(label) <= LABEL_CHARACTERS else []


def series_rules(application: Path) -> Iterator[tuple[str, Rules]]:
    """Every text in the application's files that is a set of selection rules: where it is, and (name, conditions) of each selection."""
    for path in sorted(item for item in application.rglob("*") if item.suffix in (".py", ".json"))[:_MAX_FILES]:
        if not path.is_file() or path.stat().st_size > _MAX_TEXT:
            continue
        text = path.read_text("utf-8", errors="replace")
        for each in [text] if path.suffix == ".json" else _texts(text):
            if found := _parse(each):
                yield path.relative_to(application).as_posix(), found


def _texts(code: str) -> list[str]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # said elsewhere
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _parse(text: str) -> Rules:
    if '"selections"' not in text:
        return []
    try:
        selections = json.loads(text)["selections"]
        return [(str(each.get("name", "")), each["conditions"]) for each in selections if isinstance(each.get("conditions"), dict)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # a docstring, or something else that only looks like rules


class UndecidedError(ValueError):
    """A condition of a kind that is not evaluated here."""


def matches(conditions: dict[str, Any], series: Dataset) -> bool:
    """Whether one series, by the header of one instance, meets all conditions, as the SDK's own operator decides."""
    return all(_meets(key, wanted, series) for key, wanted in conditions.items() if wanted)


def missed(conditions: dict[str, Any], series: Dataset) -> list[str]:
    """The attributes in which a series does not meet the conditions. Raises UndecidedError."""
    return [key for key, wanted in conditions.items() if wanted and not _meets(key, wanted, series)]


def _meets(key: str, wanted: Any, series: Dataset) -> bool:
    tag = tag_for_keyword(key)
    element = series[tag] if tag is not None and tag in series else None
    if element is None or element.value in (None, ""):
        return False
    if key == "ImageOrientationPatient":
        row, column = (np.array(series.ImageOrientationPatient[part], dtype=float) for part in (slice(0, 3), slice(3, 6)))
        return ORIENTATIONS[int(np.abs(np.cross(row, column)).argmax())] == str(wanted).lower()
    if element.VM > 1:
        shown = str(element.repval).lower()
        terms = [str(term).lower() for term in (wanted if isinstance(wanted, list) else [wanted])]
        return all((term[1:] not in shown) if term.startswith("!") else (term in shown) for term in terms)
    if isinstance(element.value, int | float):
        return _number(wanted, float(element.value), str(element.value))
    if not isinstance(wanted, str):
        raise UndecidedError(f"{key} is a text, and the condition is not")
    if len(str(element.value)) > _VALUE_CHARACTERS:
        raise UndecidedError(f"{key} is longer than any such text")
    try:
        return element.value.casefold() == wanted.casefold() or bool(re.search(wanted, str(element.value), re.IGNORECASE))
    except re.error as error:
        raise UndecidedError(f"{key} has a pattern that is none") from error


def _number(wanted: Any, value: float, text: str) -> bool:
    if isinstance(wanted, str):
        return bool(re.fullmatch(wanted, text))
    if isinstance(wanted, int | float):
        return value == wanted
    match wanted:
        case [int() | float() as low, int() | float() as high]:
            return bool(low <= value <= high)
        case [limit, ">" | ">=" | "<" | "<=" | "!=" as sign]:
            limit = float(limit)
            return {
                ">": value > limit, ">=": value >= limit, "<": value < limit, "<=": value <= limit, "!=": value != limit
            }[sign]  # fmt: skip
    raise UndecidedError("a number is compared with something else")
