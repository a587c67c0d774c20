"""What runs inside a warm container: an interpreter that has imported what the application imports, and forks a child for each study.

It is the MAP's own Python that runs this file, bound read-only into the unmodified image: standard library only, nothing newer than
Python 3.9, no import of this project. The agent speaks with it in JSON lines on standard input and output (``warm_runner.py``); what
the application prints goes to standard error, past this process, so that nothing of a study is ever in the memory that the next child
inherits. Why one study sees nothing of another is told in docs/hosting.md; each rule is a function below.
"""

# ruff: noqa: PTH109, PTH112, PTH114, PTH115, PTH120, PTH123, PTH208, PTH211  it speaks to the kernel in the kernel's own words

from __future__ import annotations

import ast
import atexit
import contextlib
import ctypes
import gc
import importlib
import importlib.util
import io
import json
import os
import random
import runpy
import select
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PR_SET_DUMPABLE, IPC_RMID = 4, 0
POLL_S = 0.02
ENDING_S = 10.0
KEPT_BYTES = 64 << 20
PROBE_S, SEARCH_S = 120.0, 400.0
WORTH = 0.2
HANDED_OVER = "MONAI_AWS_WARM_ORDER"
KERNEL_FILESYSTEMS = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "securityfs", "debugfs", "tracefs", "bpf", "nsfs"}
MEMORY_FILESYSTEMS = {"tmpfs", "mqueue"}

READ_AT_FIRST_USE = {"highdicom._standard_utils": ("get_sop_class_iod_map", "get_iod_module_map", "get_module_attribute_map")}
"""Modules whose functions read files of their own package when they are first called, and keep what they read: the same for every study.

highdicom parses 22 MB of the standard's tables when a process writes its first DICOM SEG: a third of a second.
"""

libc: Any = ctypes.CDLL(None, use_errno=True)

Target = tuple[str, str, list[str]]
"""``script`` or ``module``, its path or name, its arguments."""

Left = dict[str, tuple[float, str]]
"""The modules that each study imports itself: the seconds that takes and what such an import does; none where the agent has named it."""


class RequestRefusedError(Exception):
    """This MAP cannot be hosted warm. Says why."""


# ------------------------------------------------------------------------------------------------------------------ life of the server


def serve(control: Control) -> Target | None:
    """Answer orders until standard input ends: then None. In each forked child: what the child has to run, once."""
    if os.getpid() != 1:
        control.say(refused="the server is not the first process of its container")
        return None
    handed_over = os.environ.pop(HANDED_OVER, "")
    command, environment = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1], dict(os.environ)
    order = json.loads(handed_over) if handed_over else control.read()
    if order is None:
        return None
    try:
        target: Target = (str(order["kind"]), str(order["name"]), [str(part) for part in order["arguments"]])
        left: Left = {str(name): (0.0, "") for name in order.get("leave", ())}
        if order.get("searched"):
            failed, seconds = search(target, left, float(order.get("probe_s", PROBE_S)))
        else:
            failed, seconds = preload(target, left)
        scratch = Scratch(order.get("scratch") or writable_folders(Path("/proc/self/mountinfo").read_text(), str(order["output"])))
        if why := unforkable():
            start_anew(control, command, environment, order, why)
    except RequestRefusedError as error:
        control.say(refused=str(error))
        return None
    gc.collect()
    gc.freeze()  # what was imported is never looked at again, so that children share its memory
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # from now on no child may read or change this process through /proc or ptrace
    control.say(
        ready={
            "seconds": round(seconds, 3),
            "failed": failed[:20],
            "modules": len(sys.modules),
            "anonymous_kib": anonymous_kib(),
            "left": [[name, round(took, 3), does] for name, (took, does) in left.items()],
            "searched": bool(order.get("searched")),
        }
    )
    while True:
        order = control.read()
        if order is None:
            return None
        flush()
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            control.close()
            become_an_application()
            return target
        status, timed_out = wait_for(child, control, began + float(order["timeout_s"]))
        seconds = time.monotonic() - began
        trouble = end_everyone() + scratch.reset() + remove_ipc()
        if status is None:
            return None  # the agent has gone
        marker = os.urandom(16).hex()  # made after the last process of the study ended, so that none can have written it
        os.write(2, f"\n{marker}\n".encode())
        control.say(
            ended={
                "exit_code": 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status),
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                "timed_out": timed_out,
                "seconds": round(seconds, 3),
                "marker": marker,
                "trouble": trouble[:20],
                "anonymous_kib": anonymous_kib(),
            }
        )


class Control:
    """The agent's lines. Standard input and output are moved out of the application's reach: its own are /dev/null and the log."""

    def __init__(self) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        self._rest = b""

    def read(self) -> dict[str, Any] | None:
        """The next order, None at the end."""
        while b"\n" not in self._rest:
            more = os.read(self._in, 65536)
            if not more:
                return None
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order

    def gone(self, seconds: float) -> bool:
        """Whether the agent has gone; waits up to ``seconds`` for that. It sends nothing while a study runs."""
        return bool(select.select([self._in], [], [], seconds)[0])

    def say(self, **message: Any) -> None:
        """One line to the agent."""
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._out, data) :]

    def put_back(self) -> None:
        """Give the lines back to standard input and output, for the interpreter that is about to replace this one."""
        os.dup2(self._in, 0)
        os.dup2(self._out, 1)

    def close(self) -> None:
        """In a child: the agent cannot be heard or answered from here."""
        os.close(self._in)
        os.close(self._out)


def wait_for(child: int, control: Control, deadline: float) -> tuple[int | None, bool]:
    """Status of the child and whether its time ran out; status None when the agent has gone. Orphans are reaped on the way."""
    timed_out = False
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == child:
            return status, timed_out
        if not timed_out and time.monotonic() > deadline:
            timed_out = True
            os.kill(child, signal.SIGKILL)
        if ended == 0 and control.gone(POLL_S):
            return None, timed_out


def end_everyone() -> list[str]:
    """Kill and reap every other process of the container. This one is its process 1: the kernel spares it, and hands it every orphan."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    deadline = time.monotonic() + ENDING_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(POLL_S)
        except ChildProcessError:
            break
    left = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    return [f"{len(left)} process(es) did not end"] if left else []


def become_an_application() -> None:
    """In a fresh child: what a process has that was started as the MAP's only one, and that a fork does not give by itself."""
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    os.setsid()
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, it is the study that ends and not this server
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # else all children would draw the same "random" identifiers


def run_application(target: Target) -> None:
    """Run it as ``python3 SCRIPT …`` or ``python3 -m MODULE …`` does. Returns when it ended well, by its end or by exit code 0.

    Everything else that ends it is raised, so that traceback, exit code and what happens at the exit are the interpreter's own.
    """
    try:
        execute(target)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise


def execute(target: Target) -> None:
    """The application itself, as the interpreter starts it."""
    kind, name, arguments = target
    sys.argv = [name, *arguments]
    if kind == "module":
        sys.path[0] = os.getcwd()
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif os.path.isdir(name):
        del sys.path[0]  # run_path puts the folder there
        runpy.run_path(name, run_name="__main__")
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(name))
        runpy.run_path(name, run_name="__main__")


def leave() -> None:
    """End a child whose application ended well; does not return. What an interpreter promises at its exit is done: threads are waited for,
    exit handlers run, files are written out.

    It does not take every imported object apart, as the interpreter does. That touches all the memory that the child shares with the
    server, which is copied to be thrown away: a quarter of a small study's seconds.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # the interpreter's own way; thread pools do not end by being joined
    with contextlib.suppress(BaseException):  # a handler that fails has said so, and changes no exit code
        atexit._run_exitfuncs()
    flush_files()  # first, because a collection may close the buffer below a text before the text has been handed to it
    gc.collect()
    with contextlib.suppress(Exception):
        flush()  # what the collection made objects print
    os._exit(0)


def flush_files() -> None:
    """Write out every open file of this child. What was open before the fork is frozen and not found, but for the standard streams.

    A file that cannot be written changes no exit code and is named in the log, as at the interpreter's own end.
    """
    for item in (*gc.get_objects(), sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if issubclass(type(item), io.IOBase):
            try:
                item.flush()
            except ValueError:
                continue  # it is closed
            except Exception as error:
                os.write(2, f"Exception ignored at the exit, a file could not be written: {error!r}\n".encode())
    libc.fflush(None)


def flush() -> None:
    """Empty every buffer, so that no child writes a second time what was printed before the fork."""
    sys.stdout.flush()
    sys.stderr.flush()
    libc.fflush(None)


# ------------------------------------------------------------------------------------------------------------ what a study may leave


class Scratch:
    """The folders a study can write beside its output. After it they are as they were after the imports."""

    def __init__(self, folders: list[str]) -> None:
        self._folders = [Path(folder) for folder in folders]
        self._kept = {folder: snapshot(folder) for folder in self._folders}
        if sum(len(content) for kept in self._kept.values() for _, content in kept.values()) > KEPT_BYTES:
            raise RequestRefusedError(f"the imports leave more than {KEPT_BYTES >> 20} MiB of temporary files")

    def reset(self) -> list[str]:
        """Wipe, verify, put back; returns what went wrong."""
        trouble = []
        for folder in self._folders:
            try:
                wipe(folder)
                restore(folder, self._kept[folder])
                if snapshot(folder) != self._kept[folder]:
                    trouble.append(f"{folder} is not as it was")
            except (OSError, RecursionError, RequestRefusedError) as error:
                trouble.append(f"{folder} could not be cleaned ({error.__class__.__name__})")
        return trouble


Snapshot = dict[str, tuple[int, bytes]]


def snapshot(folder: Path) -> Snapshot:
    """Mode and content (or link target) of everything below a folder. Raises RefusedError for sockets, pipes and devices."""
    found: Snapshot = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(mode):
                content = os.readlink(path).encode()
            elif stat.S_ISDIR(mode):
                content = b""
            else:
                raise RequestRefusedError("the imports leave a socket, a pipe or a device among the temporary files")
            found[str(path.relative_to(folder))] = (mode, content)
    return found


def restore(folder: Path, kept: Snapshot) -> None:
    """Write back what a snapshot holds; parents come before their content in it."""
    for name, (mode, content) in kept.items():
        path = folder / name
        if stat.S_ISDIR(mode):
            path.mkdir()
        elif stat.S_ISLNK(mode):
            os.symlink(content.decode(), path)
        else:
            path.write_bytes(content)
        if not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode))


def wipe(folder: Path) -> None:
    """Remove everything below a folder, also below folders that were made unreadable."""
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            if not (Path(parent) / name).is_symlink():
                (Path(parent) / name).chmod(0o700)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def writable_folders(mountinfo: str, output: str) -> list[str]:
    """Where this user may write, apart from the output. Raises RefusedError for a volume, which outlives a study."""
    scratch = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        kind = after.split()[0]
        if point == output or kind in KERNEL_FILESYSTEMS or not os.path.isdir(point) or not os.access(point, os.W_OK):
            continue
        if kind not in MEMORY_FILESYSTEMS:
            raise RequestRefusedError(f"the image can write at {point}, which is kept from one study to the next")
        scratch.append(point)
    return scratch


def remove_ipc() -> list[str]:
    """Remove System V shared memory, semaphores and message queues, which outlive the processes that made them."""
    remove: dict[str, Any] = {
        "shm": lambda number: libc.shmctl(number, IPC_RMID, None),
        "sem": lambda number: libc.semctl(number, 0, IPC_RMID, 0),
        "msg": lambda number: libc.msgctl(number, IPC_RMID, None),
    }
    trouble = []
    for kind, end in remove.items():
        table = Path("/proc/sysvipc") / kind
        for number in ipc_numbers(table):
            end(number)
        if ipc_numbers(table):
            trouble.append(f"System V {kind} is left")
    return trouble


def ipc_numbers(table: Path) -> list[int]:
    """The identifiers in one of the kernel's tables; empty where it keeps none."""
    try:
        return [int(line.split()[1]) for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []


# ------------------------------------------------------------------------------------------------------------------------- imports


def preload(target: Target, left: Left) -> tuple[list[str], float]:
    """Import what the application's sources import and is neither part of it nor left out; returns what could not be, and the seconds.

    That is no error: many imports are tried and done without. Its own modules are left to the child, which runs them from the start.
    """
    failed: list[str] = []
    began = time.monotonic()
    for module, package in steps_of(target, left):
        failed += bring(module, package)
    read_ahead()
    return failed, time.monotonic() - began


def search(target: Target, left: Left, probe_s: float) -> tuple[list[str], float]:
    """``preload``, each import only after a process that is thrown away has made it: what cannot be forked after it comes to ``left``."""
    end_everyone()  # what the imports started that this interpreter replaces
    failed: list[str] = []
    seconds = 0.0
    deadline = time.monotonic() + SEARCH_S
    for module, package in steps_of(target, left):
        if time.monotonic() > deadline:
            raise RequestRefusedError(f"which of its imports cannot be kept was not found within {SEARCH_S:.0f} s{also(left)}")
        took, does = probe(module, package, probe_s)
        end_everyone()
        if does:
            left[module] = (took, does)
            continue
        began = time.monotonic()
        failed += bring(module, package)
        seconds += time.monotonic() - began
    read_ahead()
    every = seconds + sum(took for took, _ in left.values())
    if seconds < WORTH * every:
        raise RequestRefusedError(f"{seconds:.1f} s of {every:.1f} s of imports could be kept, which is too little{also(left)}")
    return failed, seconds


def also(left: Left) -> str:
    """What was found out about single imports, the dearest first, as the end of a sentence."""
    dearest = sorted(left.items(), key=lambda each: -each[1][0])
    return "".join(f"; the import of {name} {does or 'cannot be kept'} ({took:.1f} s)" for name, (took, does) in dearest)


def probe(module: str, package: str, seconds: float) -> tuple[float, str]:
    """Make an import in a process that is thrown away: its seconds, and what that process does since that no fork would have.

    Raises RequestRefusedError for one that does not come back from it: a study is a forked process too.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            began = time.monotonic()
            bring(module, package)
            took = time.monotonic() - began
            os.write(writing, json.dumps([took, unforkable()]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        answered = select.select([reading], [], [], seconds)[0]
        said = os.read(reading, 4096) if answered else b""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not said:
        how = "ends the process" if answered else f"takes more than {seconds:g} s"
        raise RequestRefusedError(f"the import of {module} {how} where it is made in a forked process")
    took, does = json.loads(said)
    return float(took), str(does)


def bring(module: str, package: str) -> list[str]:
    """Import a module; with ``package`` only if its last name is not something else in there. What failed, with the reason."""
    try:
        if not package or not hasattr(importlib.import_module(package), module.rpartition(".")[2]):
            importlib.import_module(module)
    except BaseException as error:  # whatever it raises, the child will meet it again where the application expects it
        return [f"{module}: {error.__class__.__name__}"]
    return []


def steps_of(target: Target, left: Left) -> Iterator[tuple[str, str]]:
    """The application's imports one module at a time, a package before what lies in it, as ``bring`` takes them.

    What is there by then, what is left out and what lies in that is passed over; so is what lies in a package that failed.
    """
    tried = set()
    for module, names in imports_of(target):
        parts = module.split(".")
        steps = [(".".join(parts[:end]), "") for end in range(1, len(parts) + 1)]
        steps += [(f"{module}.{name}", module) for name in names if name != "*"]
        for step, package in steps:
            above, _, name = step.rpartition(".")
            there = step in sys.modules or (package and name in vars(sys.modules.get(package, object)))
            if there or step in tried or (above and above not in sys.modules):
                continue
            if not any(f"{step}.".startswith(f"{each}.") for each in left):
                tried.add(step)
                yield step, package


def read_ahead() -> None:
    """Let the modules that were imported read what they would read anew in each study. Another version may not have these functions."""
    for module, names in READ_AT_FIRST_USE.items():
        for name in names:
            with contextlib.suppress(Exception):  # the child meets it where the application uses it
                getattr(sys.modules[module], name)()


def imports_of(target: Target) -> list[tuple[str, list[str]]]:
    """Every import statement of the application's own files, as module and names, each once, in the order of reading."""
    kind, name, _ = target
    if kind == "module":
        top = name.partition(".")[0]
        sys.path.insert(0, os.getcwd())
        try:
            spec = importlib.util.find_spec(top)
        finally:
            del sys.path[0]
        places = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
        if not places:
            raise RequestRefusedError(f"there is no module {top}")
        base, own = Path(places[0]).parent, {top}
        start = base.joinpath(*name.split("."))
    else:
        start = Path(os.path.realpath(name))
        base, own = (start if start.is_dir() else start.parent), set()
    files = [path for path in (start / "__main__.py", start.with_suffix(".py"), start) if path.is_file()][:1]
    if not files:
        raise RequestRefusedError("the application is not a Python file or folder")
    found: list[tuple[str, list[str]]] = []
    seen: set[Path] = set()
    while files:
        file = files.pop(0)
        if file in seen:
            continue
        seen.add(file)
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for module, names in statements(tree, file, base):
            if module.partition(".")[0] in own or (not own and is_own(base, module)):
                files += own_files(base, module, names)
            elif (module, names) not in found:
                found.append((module, names))
    return found


def statements(tree: ast.AST, file: Path, base: Path) -> list[tuple[str, list[str]]]:
    """The imports of one file with absolute names; those for type checkers alone are left out."""
    found: list[tuple[str, list[str]]] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                try:
                    package = file.parents[node.level - 1].relative_to(base).parts
                except (ValueError, IndexError):
                    package = ()
                if not package:  # reaches out of the application, which fails when it is run
                    continue
                module = ".".join((*package, *([module] if module else [])))
            if module:
                found.append((module, [alias.name for alias in node.names]))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, "id", ""), getattr(node.test, "attr", "")):
            waiting[:0] = node.orelse
        else:
            waiting[:0] = ast.iter_child_nodes(node)
    return found


def is_own(base: Path, module: str) -> bool:
    """Whether a module lies in the application's folder."""
    top = base / module.partition(".")[0]
    return top.with_suffix(".py").is_file() or top.is_dir()


def own_files(base: Path, module: str, names: list[str]) -> list[Path]:
    """The files that an import of the application's own reads."""
    parts = module.split(".")
    places = [base.joinpath(*parts[: end + 1]) for end in range(len(parts))]
    places += [places[-1] / name for name in names if name != "*"]
    return [path for place in places for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()]


# -------------------------------------------------------------------------------------------------------------------------- forking


def unforkable() -> str:
    """What this process does that a fork of it would not have; empty where a fork is a whole one."""
    torch = sys.modules.get("torch")
    opened = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    devices = [os.readlink(path) for path in opened if os.path.islink(path)]
    initialized = getattr(getattr(torch, "cuda", None), "is_initialized", bool)
    if initialized() or any(device.startswith("/dev/nvidia") for device in devices):
        return "opens the GPU"
    # A first fork lets mathematics libraries end the threads they start when loaded (OpenBLAS does so); others stay.
    child = os.fork()
    if child == 0:
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        return "cannot be forked"
    threads = len(os.listdir("/proc/self/task")) - 1
    return f"starts {threads} thread{'s' if threads > 1 else ''}" if threads else ""


def start_anew(control: Control, command: list[bytes], environment: dict[str, str], order: dict[str, Any], why: str) -> None:
    """Replace this process by a clean interpreter that is told the order and searches; does not return. It stays process 1.

    Nothing that the imports opened stays open: a GPU is given back only with its last file. Raises RequestRefusedError the second time.
    """
    if order.get("searched"):
        raise RequestRefusedError(f"its imports together leave a process that {why}, and no single one of them does")
    flush()
    control.put_back()
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.set_inheritable(number, False)
    told = {**environment, HANDED_OVER: json.dumps({**order, "searched": True})}
    os.execve(sys.executable, command, told)  # noqa: S606  itself, with its own arguments


def anonymous_kib() -> int:
    """Memory of this process that is not a file's, in KiB: what grows if studies leave something behind in it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


if __name__ == "__main__":
    chosen = serve(Control())
    if chosen is not None:
        run_application(chosen)
        leave()
