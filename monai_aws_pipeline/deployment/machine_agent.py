"""The agent's own commands on a build machine: run over SSH, their one JSON line brought back whole.

A line of a machine's output has a limited length here, because it goes into the log; what the agent reports has not. So the report is
written to a file there and sent in pieces, and everything else that the command prints is reported as it comes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from monai_aws_pipeline.cloud.progress import Report
from monai_aws_pipeline.contract import AGENT_PROGRAM
from monai_aws_pipeline.deployment.packaging import BUILD_LINE
from monai_aws_pipeline.remote import Remote, RemoteCommandError

_FILE: Final = "/tmp/monai-aws-report.json"  # noqa: S108  # on a machine that is ours alone
_PIECE: Final = 2000
_MARK: Final = "agent-report:"


@dataclass(frozen=True)
class Answer:
    """What a command said, and how it ended. ``tail``: the last lines it printed beside that."""

    text: str
    exit_code: int
    tail: tuple[str, ...] = ()


def ask(remote: Remote, arguments: Sequence[str], report: Report, *, what: str, seconds: float, accepted: Sequence[int] = (0,)) -> Answer:
    """Run one command of the agent as root. Raises RemoteCommandError for an exit code that is not ``accepted``."""
    pieces: list[str] = []

    def on_line(line: str) -> None:
        if line.startswith(_MARK):
            pieces.append(line.removeprefix(_MARK))
        else:
            report(f"{BUILD_LINE}{line}")

    report(f"asking the agent on the machine: {what[:1].lower()}{what[1:]}")
    try:
        remote.run(command(arguments), on_line, what=what, seconds=seconds)
    except RemoteCommandError as error:
        if error.exit_code not in accepted:
            raise
        return Answer("".join(pieces), error.exit_code, error.tail)
    return Answer("".join(pieces), 0)


def command(arguments: Sequence[str]) -> str:
    """The shell line that runs the agent and prints its report in pieces."""
    in_pieces = f"sed 's/.\\{{{_PIECE}\\}}/&\\n/g' {_FILE} | sed 's/^/{_MARK}/'"
    return f"sudo {AGENT_PROGRAM} {shlex.join(arguments)} > {_FILE}; code=$?; {in_pieces}; exit $code"
