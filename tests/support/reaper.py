"""Ends what a test process started and does not end itself, because it was interrupted, terminated or killed.

Whoever starts something that outlives its process says first which command ends it. A shell in a session of its own runs that command
when the block is left, or when the process is gone: its standard input closes then, however the process ended. The command also lies in
a file that the process and the shell hold locked; where both were killed, the next test process that starts such a thing runs it first.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from monai_aws_pipeline.settings import PROJECT_ROOT

_SHELL: Final = 'read -r left; "$@" >"$0.log" 2>&1 && rm -f "$0" "$0.log"'


@contextmanager
def ended_by(command: Sequence[str], within: Path) -> Iterator[None]:
    """Have a command run at the end of the block, or of this process. ``within`` is where the files lie that say so.

    It is run in the project's folder; a second run of it must do no harm. Raises RuntimeError with its output where it fails.
    """
    within.mkdir(parents=True, exist_ok=True)
    end_orphans(within)
    record = within / f"{uuid.uuid4().hex[:12]}.owner"
    made = record.with_suffix(".new")
    with made.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        json.dump(list(command), held)
        held.flush()
        made.rename(record)  # whoever looks for orphans sees it locked or not at all
        shell = subprocess.Popen(
            ["sh", "-c", _SHELL, str(record), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=PROJECT_ROOT,
            env=_environment(),
            start_new_session=True,
            pass_fds=(held.fileno(),),
        )
        try:
            yield
        finally:
            shell.communicate(b"left\n")
    if shell.returncode:
        log = Path(f"{record}.log")
        raise RuntimeError(f"{command} ended with {shell.returncode}: {log.read_text()[-2000:] if log.exists() else 'nothing'}")


def end_orphans(within: Path) -> None:
    """Run the commands of processes that are gone, with the shells that should have run them. Leaves alone what has an owner."""
    for record in sorted(within.glob("*.owner")):
        with suppress(FileNotFoundError, BlockingIOError), record.open() as held:  # another does it, or its owner lives
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            command = json.loads(held.read())
            _say(f"ending what a killed test run left: {command[-1]}")
            done = subprocess.run(command, cwd=PROJECT_ROOT, env=_environment(), capture_output=True, text=True, check=False)
            if done.returncode:
                _say(f"it could not be ended and is tried again next time: {(done.stderr or done.stdout).strip()[-500:]}")
            else:
                record.unlink(missing_ok=True)
                Path(f"{record}.log").unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """Without what the caller's test has set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MONAI_AWS_", "AWS_"))}


def _say(line: str) -> None:
    """Show it where the user looks while pytest captures output."""
    sys.__stderr__.write(f"{line}\n") if sys.__stderr__ else None
