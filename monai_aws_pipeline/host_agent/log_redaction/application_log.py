"""Reading an application's log for the one line that says why it ended.

Here belongs what lines of logs look like: Python's tracebacks, the lines of loggers, progress bars. The lines come in without identifiers
(``identifiers.py``); what looks like a secret is taken out here, because the line goes into records, tables and pages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from monai_aws_pipeline.host_agent.log_redaction.identifier_forms import clean
from monai_aws_pipeline.redaction import Redactor

LINE_CHARACTERS: Final = 300
_LOOKED_AT: Final = 4096

_TRACEBACK: Final = re.compile(r"(?:.*\s)?Traceback \(most recent call last\):?\s*")
_FRAME: Final = re.compile(r"\s*File \".*\", line \d+(?:, in .*)?|\s*\[Previous line repeated \d+ more times?\]")
_EXCEPTION: Final = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:: .*|:)?")
_NAMED_EXCEPTION: Final = re.compile(r"(?<![\w.])(?:[A-Za-z_]\w*\.){0,8}[A-Za-z_]\w*(?:Error|Exception): \S")
_OF_OPERATOR: Final = re.compile(r".{0,200}Exception occurred for operator: '[^']*' - (?P<said>.*)")
"""Holoscan's word on an operator's exception; the traceback that follows it is often its own."""
_FRAMEWORKS_OWN: Final = re.compile(r".*(?:Failed to launch app|GXF_[A-Z_]+|Graph execution error|wait failed).*")
_FATAL: Final = re.compile(
    r"(?:.{0,40}: )?(?:segmentation fault|killed|aborted|bus error|illegal instruction|floating point exception|terminate called after .*"
    r"|fatal python error: .*)(?: \(core dumped\))?",
    re.IGNORECASE,
)
_WHAT: Final = re.compile(r"\s*what\(\):\s+(?P<said>.*)")
_LEVEL: Final = re.compile(r"(?<![a-z])(trace|debug|info|notice|warn(?:ing)?|error|critical|fatal)(?![a-z])", re.IGNORECASE)
_BAD_LEVELS: Final = ("error", "critical", "fatal")
_LOGGED: Final = re.compile(r"\W{0,2}(?:\d{4}[-/]\d\d[-/]\d\d|[IWEF]\d{4}\b|\d\d:\d\d:\d\d)|\s*\[")
_NOISE: Final = re.compile(
    r"(?:\[.{0,60}?\] .{0,20}?)?Application exited with \S+|.*\b\d{1,3}%\|.*|.*\b\d+/\d+ \[\d+:\d\d.*|[\W_]*|Exception ignored in.*"
    r"|(?:End|Begin) (?:prepare|run|execut|compose)\w*.*|exit(?: code)?:? \d+",
    re.IGNORECASE,
)


def last_meaningful_line(lines: Sequence[str]) -> str:
    """The line that says why the application ended, at most 300 characters; empty where no line says anything.

    In this order: a last word of the operating system; the exception of the last traceback, or that of an operator where the traceback is
    the framework's own; the last line that names an exception; the last of level error; the last that is no noise; the last.
    """
    found = [shown for line in lines if (shown := _shown(line)).strip()]
    text = " ".join(Redactor()(_chosen(found)).split())
    return text if len(text) <= LINE_CHARACTERS else text[: LINE_CHARACTERS - 1] + "…"


def _chosen(found: Sequence[str]) -> str:
    behind, raised = _traceback(found)
    for line in reversed(found[behind:]):
        if _FATAL.fullmatch(line.strip()):
            what = next((said["said"] for other in reversed(found) if (said := _WHAT.fullmatch(other))), "")
            return what or line
    if not raised or _FRAMEWORKS_OWN.fullmatch(raised):
        raised = next((said["said"] for line in reversed(found) if (said := _OF_OPERATOR.fullmatch(line))), raised)
    if raised:
        return raised
    quiet = [line for line in reversed(found) if not _is_noise(line)]
    named = next((line for line in quiet if _NAMED_EXCEPTION.search(line)), "")
    bad = next((line for line in quiet if _level(line) in _BAD_LEVELS and not _FRAMEWORKS_OWN.fullmatch(line)), "")
    return named or bad or next(iter(quiet), "") or (found[-1] if found else "")


def _shown(line: str) -> str:
    """What a terminal would show of a line in the end: a carriage return overwrites."""
    parts = [part for part in line.rstrip("\r\n").split("\r") if part.strip()]
    return clean(parts[-1] if parts else "")[:_LOOKED_AT].rstrip()


def _traceback(lines: Sequence[str]) -> tuple[int, str]:
    """Where the last traceback ends, and its exception's own line; 0 and nothing where there is none that reaches its end."""
    chosen, behind = "", 0
    at = 0
    while at < len(lines):
        if not _TRACEBACK.fullmatch(lines[at]):
            at += 1
            continue
        margin = _margin(lines[at])
        at += 1
        while at < len(lines) and not _TRACEBACK.fullmatch(lines[at]):
            line = lines[at]
            at += 1
            if _margin(line) > margin or _FRAME.fullmatch(line):
                continue
            if _EXCEPTION.fullmatch(line.strip()) and not _is_noise(line):
                chosen, behind = line.strip(), at
                break
    return behind, chosen


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())


def _level(line: str) -> str:
    """The level of a logger's line in lower case; empty where the line is none."""
    found = _LEVEL.search(line[:100])
    return found[1].lower() if found and (_LOGGED.match(line) or found.start() < 3) else ""


def _is_noise(line: str) -> bool:
    """Whether a line tells nothing of an end: progress, a level below error, what the framework says whenever it ends."""
    return bool(_NOISE.fullmatch(line.strip())) or _level(line) not in ("", *_BAD_LEVELS)
