"""What survives a restart, a crash and kill -9: written to the state folder shortly after it changed.

ministack saves at a clean end only; here its services are saved within a second of a change, and with them what is ours: images of
EC2, login tokens, temporary credentials. Machines, key pairs and security groups are gone with the server, as docs/local-cloud.md says.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TextIO

from ministack import app as ministack_app
from ministack.core import persistence as ministack_persistence

_log: Final = logging.getLogger("local-cloud.persistence")
_READS: Final = ("Get", "List", "Describe", "Head", "Batch Get", "Receive", "Simulate", "Lookup", "Filter", "Validate")
_LOSSY: Final = frozenset(("logs", "cloudwatch", "monitoring"))
"""Services whose loss costs a few log lines; saving them after each line would cost more."""


def _dump(data: Any, out: TextIO, **how: Any) -> None:
    """``json.dump`` encodes piece by piece in Python, ten times as slowly; the server answers nobody meanwhile."""
    out.write(json.dumps(data, **how))


vars(ministack_persistence)["json"] = SimpleNamespace(**{**vars(json), "dump": _dump})


class StateStore:
    """Knows what changed and writes it down. Runs in the server's event loop."""

    def __init__(self, state_dir: Path, ours: Callable[[], dict[str, Any]]) -> None:
        self._place = state_dir / "local-state.json"
        self._ours = ours
        self._changed: set[str] = set()

    def note(self, service: str, action: str) -> None:
        """A call of an action was answered; remember the service if it may have changed something."""
        if not action.startswith(_READS) and service not in _LOSSY:
            self._changed.add(service)

    def save(self) -> None:
        """Write what changed since the last time."""
        changed, self._changed = self._changed, set()
        if not changed:
            return
        everything = "cloudformation" in changed  # a stack changes other services
        wanted = {
            key: module
            for key, module in ministack_app._state_map.items()
            if everything
            or any(ministack_app.SERVICE_REGISTRY[name]["module"] == module for name in changed if name in ministack_app.SERVICE_REGISTRY)
        }
        states = {key: get_state for key, get_state in ministack_app._build_persistence_save_dict().items() if key in wanted}
        ministack_persistence.save_all(states)
        self.save_ours()

    def save_ours(self) -> None:
        """Write what is not ministack's."""
        work = self._place.with_suffix(".part")
        with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            _dump(self._ours(), out)
        work.replace(self._place)

    def load_ours(self) -> dict[str, Any]:
        """What ``save_ours`` wrote; empty on a new cloud or when the file is damaged."""
        try:
            data: dict[str, Any] = json.loads(self._place.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            _log.warning("%s is damaged and was left out", self._place)
            return {}
        return data
