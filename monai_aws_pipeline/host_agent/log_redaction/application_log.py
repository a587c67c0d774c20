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
_CAUSE_CHARACTERS: Final = 120
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
    r"|(?:\w{0,20}(?:ing|progress|step|epoch|batch)[: ]{1,3}){0,2}\[?\d{1,3}(?:\.\d{1,3})? ?%\]?(?: done| complete)?"
    r"|(?:End|Begin) (?:prepare|run|execut|compose)\w*.*|exit(?: code)?:? \d+",
    re.IGNORECASE,
)
_BANNER: Final = re.compile(
    r"\W*(?:(?:gracefully |now )?(?:shutting down|shut down|shutdown|exiting|terminating|stopping|cleaning up|clean-?up|good ?bye|bye)"
    r"(?: (?:the )?\w{1,20}(?: files)?)?|(?:done|finished|stopped|terminated)(?: \w+)?)\W*"
    r"|.*resource_tracker.*|\s*warnings\.warn\(.*|terminate called without an active exception",
    re.IGNORECASE,
)
"""What programs say whenever they end."""
_BETWEEN: Final = re.compile(
    r"\s*(?:The above exception was the direct cause of the following|During handling of the above exception, another) exception.*:\s*"
)
"""What Python writes between a traceback and the one that came of it."""


def last_meaningful_line(lines: Sequence[str], *, killed: bool = False) -> str:
    """The line that says why the application ended, at most 300 characters; empty where no line says anything.

    In this order: a last word of the operating system; the exception of the last traceback with the one that it came of, or that of an
    operator where the traceback is the framework's own; the last line that names an exception; the last of level error; the last that is no
    noise; the last. Of an application that was ``killed`` (time, memory) it is the last line that says where it was: whatever went wrong
    before, it had gone on.
    """
    found = [shown for line in lines if (shown := _shown(line)).strip()]
    text = " ".join(Redactor()(_said_before_the_kill(found) if killed else _chosen(found)).split())
    return _clipped(text, LINE_CHARACTERS)


def _said_before_the_kill(found: Sequence[str]) -> str:
    behind, raised = _traceback(found)
    last = next((number for number in reversed(range(len(found))) if not _says_nothing(found[number])), -1)
    if 0 <= last < behind:
        return raised
    return found[last] if found else ""


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
    """Where the last traceback ends, and its exception's line with its cause; 0 and nothing where there is none that reaches its end."""
    chosen, first, behind = "", "", 0
    at = 0
    while at < len(lines):
        if not _TRACEBACK.fullmatch(lines[at]):
            at += 1
            continue
        if not any(_BETWEEN.fullmatch(line) for line in lines[behind:at]):
            first = ""  # another chain begins
        margin = _margin(lines[at])
        at += 1
        while at < len(lines) and not _TRACEBACK.fullmatch(lines[at]):
            line = lines[at]
            at += 1
            if _margin(line) > margin or _FRAME.fullmatch(line):
                continue
            if _EXCEPTION.fullmatch(line.strip()) and not _is_noise(line):
                chosen, behind = line.strip(), at
                first = first or chosen
                break
    return behind, _with_cause(chosen, first)


def _with_cause(raised: str, first: str) -> str:
    """An exception's line, and that of the first in its chain, from which the others came."""
    if not first or first == raised:
        return raised
    cause = f" (came of {_clipped(first, _CAUSE_CHARACTERS)})"
    return _clipped(raised, LINE_CHARACTERS - len(cause)) + cause


def _clipped(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())


def _level(line: str) -> str:
    """The level of a logger's line in lower case; empty where the line is none."""
    found = _LEVEL.search(line[:100])
    return found[1].lower() if found and (_LOGGED.match(line) or found.start() < 3) else ""


def _is_noise(line: str) -> bool:
    """Whether a line tells nothing of an end: progress, a level below error, what programs say whenever they end."""
    return _says_nothing(line) or _level(line) not in ("", *_BAD_LEVELS)


def _says_nothing(line: str) -> bool:
    """Whether a line is progress or a banner, whatever its level."""
    return bool(_NOISE.fullmatch(line.strip()) or _BANNER.fullmatch(line.strip()))
