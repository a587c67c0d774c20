"""What runs inside a MAP's image before it is pushed: it compiles the application's files, imports what they import, and says how it went.

It is started by the image's own Python, as a study is, and therefore needs the standard library of Python 3.9 and nothing of this project.
One JSON line for each step on standard output, behind a mark, because what is imported prints too. Modules of the application's own are
compiled and not imported: what they do when they are run is a study's business. Who starts it and judges is ``deployment.import_gate``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

MARK = "import-probe:"
_TEXT = 500


def main(folder: Path, asked_file: Path) -> None:
    """Compile every file of ``folder`` and make every import of the JSON list in ``asked_file``; what fails is said, and the rest tried."""
    out = os.fdopen(os.dup(1), "w")  # what is imported may close or replace its standard output

    def say(told: dict[str, object]) -> None:
        out.write(f"\n{MARK}{json.dumps(told)}\n")  # what was printed before may not have ended its line
        out.flush()

    sys.dont_write_bytecode = True
    sys.argv[:] = [str(folder)]
    sys.path[0] = str(folder)  # as `python3 FOLDER` has it, so that a file of the application's own hides a module here as it will there
    for path in sorted(folder.rglob("*.py")):
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 0
            where = path.relative_to(folder).as_posix()
            say({"uncompiled": where, "line": line, "kind": type(error).__name__, "text": last_line(error)})
    asked = json.loads(asked_file.read_text("utf-8"))
    for number, each in enumerate(asked):
        say({"at": number})
        try:
            make(each["module"], each["names"])
        except BaseException as error:
            absent = error.name if isinstance(error, ModuleNotFoundError) else None
            say({"failed": number, "kind": type(error).__name__, "text": last_line(error), "absent": absent})
    say({"done": len(asked)})
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)  # threads and libraries that were imported need not take themselves down


def make(module: str, names: list[str]) -> None:
    """``from module import names``, without a place for them. Raises what that raises."""
    found = importlib.import_module(module)
    for name in names:
        if name == "*" or hasattr(found, name):
            continue
        try:
            importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{module}.{name}":
                raise
            raise ImportError(f"cannot import name {name!r} from {module!r}") from error


def last_line(error: BaseException) -> str:
    """The last line of an error's text, which is where Python and most libraries say what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else "")[:_TEXT]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
