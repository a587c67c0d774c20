"""Reading JSON of another process: each field is checked, and an error names the field, never its value. Times are ISO 8601 in UTC."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from monai_aws_pipeline.errors import NamedError

_HEX: Final = re.compile(r"[0-9a-f]+")
_T = TypeVar("_T")


class ContractError(NamedError, ValueError):
    """A message or record that does not have the agreed shape. Names the field, never a value that could identify a person."""


def hex_digits(value: str, digits: int, what: str) -> str:
    """The value, once it is so many lower-case hex digits. Raises ContractError naming ``what``."""
    if len(value) != digits or not _HEX.fullmatch(value):
        raise ContractError(f"{what} must be {digits} lower-case hex digits")
    return value


def utc_text(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and a Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_utc(text: str) -> datetime:
    """Read ISO 8601 with an offset. Raises ContractError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ContractError("a time is not ISO 8601") from error
    if moment.tzinfo is None:
        raise ContractError("a time has no offset; write it in UTC with a Z")
    return moment.astimezone(UTC)


def json_object(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object. Raises ContractError naming ``what``."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{what} is not JSON") from error
    if not isinstance(data, dict):
        raise ContractError(f"{what} is not a JSON object")
    return data


def text_field(data: Mapping[str, Any], name: str, *, empty: bool = False, missing: str | None = None) -> str:
    """A string of an object, not empty unless told so. Raises ContractError."""
    value = data.get(name, missing)
    if not isinstance(value, str) or not (value or empty):
        raise ContractError(f"{name} must be a {'' if empty else 'non-empty '}string")
    return value


def whole_field(data: Mapping[str, Any], name: str) -> int:
    """A whole number of at least 0. Raises ContractError."""
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ContractError(f"{name} must be a whole number of at least 0")
    return value


def list_field(data: Mapping[str, Any], name: str) -> list[Any]:
    """A list; empty where the object has none. Raises ContractError."""
    value = data.get(name, [])
    if not isinstance(value, list):
        raise ContractError(f"{name} must be a list")
    return value


_ACCEPTS: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
}


def part_of(kind: type[_T], data: Mapping[str, Any], name: str, sequences: tuple[str, ...] = ()) -> _T:
    """Build one part of a record, checking each field's type; unknown fields of a later version are ignored."""
    given = data.get(name, {})
    if not isinstance(given, dict):
        raise ContractError(f"{name} must be an object")
    values: dict[str, Any] = {}
    for spec in fields(kind):  # type: ignore[arg-type]
        if spec.name not in given:
            continue
        value = given[spec.name]
        if spec.name in sequences:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ContractError(f"{name}.{spec.name} must be a list of strings")
            values[spec.name] = tuple(value)
        elif spec.type in ("Mapping[str, float]", "Mapping[str, int]"):
            numbers = (int, float) if spec.type == "Mapping[str, float]" else (int,)
            if not isinstance(value, dict) or not all(type(number) in numbers for number in value.values()):
                raise ContractError(f"{name}.{spec.name} must map names to numbers")
            values[spec.name] = dict(value)
        elif isinstance(value, bool) or not isinstance(value, _ACCEPTS[str(spec.type)]):
            raise ContractError(f"{name}.{spec.name} must be {spec.type}")
        else:
            values[spec.name] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise ContractError(f"{name} lacks a field") from error


def without_none(value: Any) -> Any:
    """The value without the fields that are None, at any depth."""
    if isinstance(value, dict):
        return {name: without_none(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value]
    return value
