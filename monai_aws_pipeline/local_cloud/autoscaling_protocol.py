"""The query protocol, both ways, by botocore's own model of a service: what a form asks becomes plain data, an answer becomes XML.

Here belongs the wire and nothing of Auto Scaling's meaning.
Source: Smithy, "AWS query protocol".
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from xml.sax.saxutils import escape

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

SERVICE: Final = "autoscaling"
Json = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
_SCALARS: Final[Mapping[str, Callable[[str], Any]]] = {
    "integer": int, "long": int, "float": float, "double": float, "boolean": lambda text: text.lower() == "true",
}  # fmt: skip
_HEAD: Final = {"Content-Type": "text/xml"}


class QueryError(Exception):
    """A refusal as it is sent: code, message and HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


def invalid(message: str) -> QueryError:
    """A refusal of what was asked for."""
    return QueryError("ValidationError", message)


@cache
def service_model(name: str) -> ServiceModel:
    """The newest model that botocore has of a service."""
    return ServiceModel(Loader().load_service_model(name, "service-2"), name)


def parse(operation: OperationModel, fields: Mapping[str, str]) -> Json:
    """What a form asks, by the input of its operation. Raises QueryError in AWS's words for members that break the model's constraints."""
    shape = operation.input_shape
    data: Json = _read(shape, fields, "") or {} if shape else {}
    if broken := list(_broken(shape, data, "")) if shape else []:
        raise invalid(f"{len(broken)} validation error{'s' if len(broken) > 1 else ''} detected: {'; '.join(broken)}")
    return data


def _broken(shape: Any, value: Any, path: str) -> Iterator[str]:
    """The constraints of a shape that a value and its members break, in AWS's words. Patterns are not looked at."""
    if must := _must(shape, value):
        shown = f" '{value}'" if isinstance(value, str | int | float) else ""
        yield f"Value{shown} at '{path}' failed to satisfy constraint: Member must {must}"
    if shape.type_name == "list":
        for number, each in enumerate(value, 1):
            yield from _broken(shape.member, each, f"{path}.{number}.member")
    if shape.type_name != "structure":
        return
    for name, member in shape.members.items():
        place = f"{path}.{name[0].lower()}{name[1:]}".lstrip(".")
        if name in value:
            yield from _broken(member, value[name], place)
        elif name in shape.required_members:
            yield f"Value null at '{place}' failed to satisfy constraint: Member must not be null"


def _must(shape: Any, value: Any) -> str:
    """What a value must be by its shape alone and is not; empty where it is."""
    if (allowed := shape.metadata.get("enum")) and value not in allowed:
        return f"satisfy enum value set: [{', '.join(allowed)}]"
    size, of = (len(value), "length") if isinstance(value, str | list) else (value, "value")
    if (least := shape.metadata.get("min")) is not None and size < least:
        return f"have {of} greater than or equal to {least}"
    if (most := shape.metadata.get("max")) is not None and size > most:
        return f"have {of} less than or equal to {most}"
    return ""


def _read(shape: Any, fields: Mapping[str, str], prefix: str) -> Any:
    if shape.type_name == "structure":
        found = {
            name: value
            for name, member in shape.members.items()
            if (value := _read(member, fields, f"{prefix}.{name}" if prefix else name)) is not None
        }
        return found or None
    if shape.type_name == "list":
        if prefix not in fields and not any(name.startswith(f"{prefix}.member.") for name in fields):
            return None
        listed: list[Any] = []
        while (value := _read(shape.member, fields, f"{prefix}.member.{len(listed) + 1}")) is not None:
            listed.append(value)
        return listed
    if prefix not in fields:
        return None
    text = fields[prefix]
    try:
        return _SCALARS.get(shape.type_name, str)(text)
    except ValueError:
        raise QueryError("MalformedInput", f"{text} is not a valid {shape.type_name}") from None


def answer(operation: OperationModel, data: Mapping[str, Any]) -> Answer:
    """The answer to a call."""
    shape, name = operation.output_shape, operation.name
    result = f"<{name}Result>{_write(shape, data)}</{name}Result>" if shape else ""
    return 200, dict(_HEAD), _document(operation, f"{name}Response", f"{result}<ResponseMetadata>{_request_id()}</ResponseMetadata>")


def refusal(operation: OperationModel, error: QueryError) -> Answer:
    """The answer to a call that is refused."""
    inner = f"<Error><Type>Sender</Type><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>{_request_id()}"
    return error.status, dict(_HEAD), _document(operation, "ErrorResponse", inner)


def _write(shape: Any, value: Any) -> str:
    if shape.type_name == "structure":
        return "".join(
            f"<{name}>{_write(member, value[name])}</{name}>" for name, member in shape.members.items() if value.get(name) is not None
        )
    if shape.type_name == "list":
        return "".join(f"<member>{_write(shape.member, each)}</member>" for each in value)
    if shape.type_name == "timestamp":
        return datetime.fromtimestamp(float(value), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return escape(str(value).lower() if isinstance(value, bool) else str(value))


def _document(operation: OperationModel, root: str, inner: str) -> bytes:
    namespace = operation.service_model.metadata["xmlNamespace"]
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{namespace}">{inner}</{root}>'.encode()


def _request_id() -> str:
    return f"<RequestId>{uuid.uuid4()}</RequestId>"


def request_tags(parameters: Mapping[str, list[str]]) -> dict[str, str]:
    """Tags that a call sets, by their keys (Tags.member.N)."""
    found = {}
    for name, values in parameters.items():
        if match := re.fullmatch(r"Tags\.member\.(\d+)\.Key", name):
            found[values[0]] = parameters.get(f"Tags.member.{match[1]}.Value", [""])[0]
    return found
