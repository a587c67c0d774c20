"""Temporary folders that do not outlive their process for long, however it ended.

A process that is killed, or a machine that loses its power, leaves its temporary folders: hundreds of megabytes of wheels, a study that was
being packed, a source's login. A lock of the kernel says whether a folder's process still lives, so whoever needs a folder of the same
kind next removes those of the dead.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_YOUNG_S: Final = 60.0
"""So old must a folder be that nobody holds: a moment lies between making one and locking it."""


@contextmanager
def scratch(kind: str, within: Path | None = None) -> Iterator[Path]:
    """An empty folder of mode 0700 in ``within`` (the system's temporary folder), gone afterwards; ``kind`` begins its name.

    Raises OSError where it cannot be made. Folders of this kind that a process left which is gone are removed first.
    """
    place = within or Path(tempfile.gettempdir())
    for path in place.glob(f"{kind}-*"):
        with suppress(OSError):  # somebody else is at it, or it is not ours to remove
            _remove_if_left(path)
    with tempfile.TemporaryDirectory(prefix=f"{kind}-", dir=place) as name:
        held = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(name)
        finally:
            os.close(held)


def _remove_if_left(path: Path) -> None:
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(found)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077 or time.time() - status.st_mtime < _YOUNG_S:
            return
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(found)
