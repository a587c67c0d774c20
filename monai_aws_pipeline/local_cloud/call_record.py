"""Which role made which call: one line for each kind, beside the policies that judged it.

Administrators approve policies by what is really called; ``tests/permissions`` reads this file and holds it against the policies and AWS's
published tables. Here belongs writing it down, no judgement. One JSON object a line, ``{role, policies}`` or
``{role, action, resource, keys, allowed}``; ``keys`` are the values of those condition keys that the role's policies ask for, ``allowed``
is what these policies say: a bucket that refuses the call by its own policy takes no permission from the role. No name of an upload is
written.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from ministack.core import iam_evaluator

FILE: Final = "calls.jsonl"
"""Name of the file in a cloud's state folder."""
_MADE_UP: Final = re.compile(r"[0-9a-f]{8,}|\d{4}/\d\d/\d\d/\d\d|\d{3,}")
"""Parts of an ARN that differ from study to study and from run to run: without them a day's calls are some hundred kinds."""
_MOST: Final = 20_000

_UPLOAD: Final = re.compile(r"(?P<before>(?:arn:[\w-]+:s3:::[^/]+/)?input/)(?P<folders>.*/)?(?P<last>[^/]*)", re.DOTALL)
"""A key or prefix under ``input/``: an uploader chose it, and it may be a patient's name."""
_MARKER: Final = "_READY"

_evaluated: ContextVar[list[tuple[Any, Any, Any]] | None] = ContextVar("evaluated", default=None)


class CallRecord:
    """The file, open to append. Safe among threads; a kind of call is written once, policies whenever they change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: set[str] = set()
        self._policies: dict[str, Sequence[Any]] = {}
        self._lock = threading.Lock()

    def watch(self, enforce: Callable[[], Any]) -> Any:
        """Let ministack judge a call, and note who made it and what the caller's own policies say of it. Returns ministack's final word.

        What is evaluated outside of this is no call, but a question about one (SimulatePrincipalPolicy).
        """
        evaluated: list[tuple[Any, Any, Any]] = []
        token = _evaluated.set(evaluated)
        try:
            final = enforce()
        finally:
            _evaluated.reset(token)
        # The first evaluation is that of the caller's own policies; those of resources come after it.
        for context, policies, decision in evaluated[:1]:
            if context.principal_type == "AssumedRole":
                role = iam_evaluator._role_name_from_assumed_arn(context.principal_arn)
                statements = [statement for document in policies for statement in document]
                keys = keys_asked_for(statements, context)
                self.note(role, statements, context.action, context.resource_arn, keys, allowed=decision == "Allow")
        return final

    def install(self) -> None:
        """Look on when ministack evaluates policies."""
        original = iam_evaluator.evaluate

        def evaluate(context: Any, policies: Any, *limits: Any) -> Any:
            result = original(context, policies, *limits)
            evaluated = _evaluated.get()
            if evaluated is not None:
                evaluated.append((context, policies, result.decision))
            return result

        iam_evaluator.evaluate = evaluate

    def note(self, role: str, statements: Sequence[Any], action: str, resource: str, keys: Mapping[str, Any], *, allowed: bool) -> None:
        """Write a call of a kind that is new, and the role's statements where they are not those written last."""
        shown = {name: without_upload(value) if isinstance(value, str) else value for name, value in keys.items()}
        call = {"role": role, "action": action, "resource": without_upload(resource), "keys": shown, "allowed": allowed}
        kind = json.dumps({**call, "resource": _MADE_UP.sub("*", without_upload(resource)), "keys": sorted(keys)})
        with self._lock:
            lines: list[dict[str, Any]] = []
            if self._policies.get(role) != statements:
                self._policies[role] = statements
                lines.append({"role": role, "policies": [_as_written(statement) for statement in statements]})
            if kind not in self._kinds and len(self._kinds) < _MOST:
                self._kinds.add(kind)
                lines.append(call)
            if lines:
                with self._path.open("a") as file:
                    file.writelines(f"{json.dumps(line)}\n" for line in lines)


def without_upload(text: str) -> str:
    """An ARN, or the value of a key, without what an uploader has chosen in it."""
    found = _UPLOAD.fullmatch(text)
    if not found:
        return text
    last = _MARKER if found["last"] == _MARKER else "*" if found["last"] or found["folders"] else ""
    return found["before"] + ("*/" if found["folders"] and last == _MARKER else "") + last


def keys_asked_for(statements: Sequence[Any], context: Any) -> dict[str, Any]:
    """Values of the condition keys that the statements name, as far as the call has them."""
    names = {name for statement in statements for test in statement.conditions.values() for name in test}
    found = {name: iam_evaluator._resolve_condition_key(name, context) for name in sorted(names)}
    return {name: value for name, value in found.items() if value is not None}


def _as_written(statement: Any) -> dict[str, Any]:
    return {
        "Sid": statement.sid,
        "Effect": statement.effect,
        "Action": statement.actions,
        "Resource": statement.resources,
        "Condition": statement.conditions,
    }
