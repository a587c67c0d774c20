"""Lambda where ministack is kinder than AWS: a function is not ready at once, one change at a time, and its role must be assumable.

How often somebody has to look until a function is ready is counted, not timed, so that tests are the same each time.
Sources: Lambda Developer Guide, "Lambda function states"; Lambda API Reference, CreateFunction, UpdateFunctionCode, Invoke.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Final

from ministack.core import responses
from ministack.services import lambda_svc

from .first_uses import FirstUses

LOOKS: Final = 2
"""With how many questions about a function its creation or update ends."""
_READY: Final = {
    "State": "Active",
    "StateReason": "",
    "StateReasonCode": "",
    "LastUpdateStatus": "Successful",
    "LastUpdateStatusReason": "",
    "LastUpdateStatusReasonCode": "",
}
_CANNOT_BE_ASSUMED: Final = "The role defined for the function cannot be assumed by Lambda."
_NOT_NOW: Final = "The operation cannot be performed at this time. "


class Functions:
    """States of the functions of one cloud. Thread-safe."""

    def __init__(self, first_uses: FirstUses) -> None:
        self._first_uses = first_uses
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}

    def install(self) -> None:
        """Put this into ministack's Lambda."""
        lambda_svc._schedule_state_transition = lambda name, _delay: self._begin(name)
        _before("_get_function", lambda name, *_: self._look(name))
        _before("_get_function_config", lambda name, *_: self._look(name))
        _before("_create_function", self._refused_role)
        _before("_update_code", lambda name, _data: self._busy(name))
        _before("_update_config", lambda name, data: self._busy(name) or self._refused_role(data))
        invoke = lambda_svc._invoke

        @functools.wraps(invoke)
        async def invoke_when_made(name: str, *arguments: Any, **options: Any) -> Any:
            return self._being_made(name) or await invoke(name, *arguments, **options)

        lambda_svc._invoke = invoke_when_made

    def _begin(self, name: str) -> None:
        config = lambda_svc._functions[name]["config"]
        if config.get("StateReasonCode") == "Updating":  # the function as it was goes on answering
            config.update(State="Active", StateReason="", StateReasonCode="")
        with self._lock:
            self._left[config["FunctionArn"]] = LOOKS

    def _look(self, name: str) -> None:
        function = lambda_svc._functions.get(name)
        if function is None or _is_ready(function["config"]):
            return
        arn = function["config"]["FunctionArn"]
        with self._lock:
            self._left[arn] = self._left.get(arn, 0) - 1
            over = self._left[arn] <= 0
        if over:
            for config in (function["config"], *(version["config"] for version in function["versions"].values())):
                config.update(_READY)

    def _busy(self, name: str) -> Any:
        function = lambda_svc._functions.get(name)
        if function is None or _is_ready(function["config"]):
            return None
        self._look(name)
        arn = function["config"]["FunctionArn"]
        return responses.error_response_json("ResourceConflictException", f"{_NOT_NOW}An update is in progress for resource: {arn}", 409)

    def _being_made(self, name: str) -> Any:
        function = lambda_svc._functions.get(name)
        if function is None or function["config"].get("State") != "Pending":
            return None
        self._look(name)
        words = f"{_NOT_NOW}The function is currently in the following state: Pending"
        return responses.error_response_json("ResourceConflictException", words, 409)

    def _refused_role(self, data: dict[str, Any]) -> Any:
        role = data.get("Role")
        if role and self._first_uses.role("lambda", str(role)):
            return responses.error_response_json("InvalidParameterValueException", _CANNOT_BE_ASSUMED, 400)
        return None


def _is_ready(config: dict[str, Any]) -> bool:
    return config.get("State") != "Pending" and config.get("LastUpdateStatus") != "InProgress"


def _before(name: str, check: Callable[..., Any]) -> None:
    """Let an action of ministack's Lambda be answered by a check, where that has an answer."""
    original = getattr(lambda_svc, name)

    @functools.wraps(original)
    def checked(*arguments: Any, **options: Any) -> Any:
        return check(*arguments) or original(*arguments, **options)

    setattr(lambda_svc, name, checked)
