"""The server of a warm container, run for real as the first process of a process namespace: what a study gets, and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from monai_aws_pipeline.host_agent.runtime import warm_server

APPLICATION = """
import os, sys, json, random, tempfile
import helper
from pathlib import Path
wish = Path(os.environ["HOLOSCAN_INPUT_PATH"], "wish").read_text()
exec(wish)
"""


@pytest.fixture(autouse=True)
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("a process namespace of one's own needs root")


@dataclass
class Served:
    """A running server and the folders its studies see."""

    process: subprocess.Popen[bytes]
    folder: Path
    said: dict[str, Any]

    def study(self, wish: str, timeout_s: float = 30) -> dict[str, Any]:
        """Run the application on a study that tells it what to do; the server's answer, with the study's log."""
        (self.folder / "in" / "wish").write_text(wish)
        log = self.folder / "log"
        before = log.stat().st_size
        answer = self.tell(timeout_s=timeout_s)["ended"]
        answer["log"] = log.read_text()[before:].partition(f"\n{answer['marker']}\n")[0]
        return answer

    def tell(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder / "tmp")) for path in (self.folder / "tmp").rglob("*"))


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server for an application with one module of its own (``helper``) and one installed beside it (``library``)."""
    running: list[subprocess.Popen[bytes]] = []

    def start(helper: str = "", library: str = "", kind: str = "script", installed: dict[str, str] | None = None, **order: Any) -> Served:
        for folder in ("app", "lib", "in", "out", "tmp"):
            (tmp_path / folder).mkdir()
        program = APPLICATION if kind == "script" else APPLICATION.replace("import helper", "from . import helper")
        (tmp_path / "app" / "__main__.py").write_text(program)
        (tmp_path / "app" / "helper.py").write_text(helper)
        for name, text in {"library": library, **(installed or {})}.items():
            (tmp_path / "lib" / f"{name}.py").write_text(text)
        environment = {
            "HOLOSCAN_INPUT_PATH": str(tmp_path / "in"),
            "TMPDIR": str(tmp_path / "tmp"),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(tmp_path / "lib"),
        }
        command = ["unshare", "--fork", "--pid", "--ipc", "--mount-proc", "--kill-child", sys.executable, warm_server.__file__]
        pipe = subprocess.PIPE
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, cwd=tmp_path, env=environment)
        running.append(process)
        served = Served(process, tmp_path, {})
        scratch = [str(tmp_path / "tmp")]
        served.said = served.tell(
            kind=kind,
            name=str(tmp_path / "app") if kind == "script" else "app",
            arguments=["a", "b"],
            output=str(tmp_path / "out"),
            scratch=scratch,
            **order,
        )
        return served

    yield start
    for process in running:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def test_tables_that_a_library_reads_at_its_first_use_are_read_before_the_first_study(serve: Serve) -> None:
    names = warm_server.READ_AT_FIRST_USE["highdicom._standard_utils"]
    served = serve("import highdicom.seg")
    wish = f"from highdicom import _standard_utils as found; print([getattr(found, name).cache_info().currsize for name in {names}])"
    assert served.study(wish)["log"].splitlines() == ["[1, 1, 1]"]


def test_each_study_is_the_application_started_anew_with_the_imports_there(serve: Serve) -> None:
    server = serve(helper="import email.mime.text as text\nstate = []")
    assert server.said["ready"]["failed"] == []
    wish = "helper.state.append(1); print(sys.argv[1:], sys.path[0], len(helper.state), __name__, sys.stdin.read() == '', flush=True)"
    for _ in range(2):
        assert server.study(wish)["log"].split() == ["['a',", "'b']", str(server.folder / "app"), "1", "__main__", "True"]


def test_a_module_is_started_as_python_does_it(serve: Serve) -> None:
    server = serve(helper="import email.mime.text", kind="module")
    wish = "print(sys.argv[1:], __name__, __package__, sys.path[0] == os.getcwd(), 'email.mime.text' in sys.modules); sys.exit(9)"
    ended = server.study(wish)
    assert (ended["log"], ended["exit_code"]) == ("['a', 'b'] __main__ app True True\n", 9)


def test_the_exit_code_is_the_applications_own(serve: Serve) -> None:
    server = serve()
    assert server.study("pass")["exit_code"] == 0
    assert server.study("sys.exit(3)")["exit_code"] == 3
    assert server.study("import atexit; atexit.register(print, 'last words')")["log"] == "last words\n"
    failed = server.study("raise ValueError('no')")
    assert failed["exit_code"] == 1
    assert failed["log"].rstrip().endswith("ValueError: no")
    killed = server.study("os.kill(os.getpid(), 9)")
    assert (killed["exit_code"], killed["signal"]) == (137, 9)
    assert server.study("os.abort()")["exit_code"] == 134


LAST_WORDS = """
import atexit, threading, time
from concurrent.futures import ThreadPoolExecutor

class Last:
    def __del__(self):
        print("collected")

sys.stdout = open(1, "w", buffering=1 << 16, closefd=False)
kept = open(Path(os.environ["HOLOSCAN_INPUT_PATH"]).parent / "out" / "kept", "w")
kept.write("never closed")
helper.library.kept = open(Path(os.environ["HOLOSCAN_INPUT_PATH"]).parent / "out" / "far", "w")
helper.library.kept.write("nor this")
ring = [Last()]
ring.append(ring)
del ring
atexit.register(print, "exit handler")
atexit.register(int, "a handler that fails")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
ThreadPoolExecutor(1).submit(lambda: (time.sleep(0.4), print("pool")))
"""


@pytest.mark.parametrize("end", ["sys.exit(0)", "sys.exit()", "", "sys.exit(3)"])
def test_at_its_end_an_application_finds_what_an_interpreter_promises(serve: Serve, end: str) -> None:
    """With 3 it is the interpreter's own end, which the others are to be like."""
    server = serve("import library")
    ended = server.study(LAST_WORDS + end)
    assert (ended["exit_code"], ended["signal"], ended["trouble"]) == (3 if "3" in end else 0, 0, [])
    words = {"collected", "exit handler", "pool", "thread"}
    assert sorted(line for line in ended["log"].splitlines() if line in words) == sorted(words)
    assert "ValueError: invalid literal" in ended["log"]
    if ended["exit_code"]:
        return  # its outputs are thrown away
    assert {path.name: path.read_text() for path in (server.folder / "out").iterdir()} == {"kept": "never closed", "far": "nor this"}


@pytest.mark.parametrize("buffer", ["open('/dev/full', 'w')", "open('/dev/full', 'wb')"])
def test_a_file_that_cannot_be_written_at_the_end_is_named_in_the_log(serve: Serve, buffer: str) -> None:
    ended = serve("import library").study(f"helper.library.kept = {buffer}; helper.library.kept.write({'b' if 'wb' in buffer else ''}'x')")
    assert (ended["exit_code"], ended["trouble"]) == (0, [])
    assert "could not be written: OSError(28" in ended["log"]


def test_a_study_that_hangs_is_ended_with_all_that_it_started(serve: Serve) -> None:
    server = serve()
    hanging = server.study("os.fork(); import time; time.sleep(1000)", timeout_s=0.3)
    assert (hanging["timed_out"], hanging["exit_code"], hanging["trouble"]) == (True, 137, [])
    assert server.study("print(sorted(n for n in os.listdir('/proc') if n.isdigit()) == ['1', str(os.getpid())])")["log"] == "True\n"


LITTER = """
folder = Path(os.environ["TMPDIR"])
(folder / "a file").write_text("of the first study")
(folder / "closed" / "deep").mkdir(parents=True)
(folder / "closed" / "deep" / "file").write_text("x")
os.symlink("/", folder / "link")
os.mkfifo(folder / "pipe")
(folder / "closed").chmod(0)
import ctypes, subprocess
ctypes.CDLL(None).shmget(77, 4096, 0o1666)
ctypes.CDLL(None).semget(77, 1, 0o1666)
ctypes.CDLL(None).msgget(77, 0o1666)
subprocess.Popen(["sleep", "1000"], start_new_session=True)
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        import time, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
"""

LOOK = """
print(os.listdir(os.environ["TMPDIR"]), sorted(n for n in os.listdir('/proc') if n.isdigit()) == ['1', str(os.getpid())],
      [len(Path('/proc/sysvipc', kind).read_text().splitlines()) for kind in ('shm', 'sem', 'msg')])
"""


def test_what_a_study_leaves_is_gone_before_the_next(serve: Serve) -> None:
    server = serve()
    assert server.study(LITTER)["trouble"] == []
    assert server.left() == []
    assert server.study(LOOK)["log"] == "[] True [1, 1, 1]\n"  # one line each: the head of the table


CACHE = """
import os
from pathlib import Path
folder = Path(os.environ["TMPDIR"], "cache")
folder.mkdir()
(folder / "index").write_text("kept")
"""


def test_what_the_imports_left_is_put_back(serve: Serve) -> None:
    """As matplotlib and CuPy do it: a cache folder, made when imported and expected later."""
    server = serve(helper="import library", library=CACHE)
    assert server.left() == ["cache", "cache/index"]
    assert server.study("import shutil; shutil.rmtree(helper.library.folder); (Path(os.environ['TMPDIR']) / 'x').touch()")["trouble"] == []
    assert server.study("print((helper.library.folder / 'index').read_text())")["log"] == "kept\n"
    assert server.left() == ["cache", "cache/index"]


def test_two_studies_do_not_draw_the_same_random_numbers(serve: Serve) -> None:
    server = serve(helper="import random\nimport numpy.random\nimport uuid")
    wish = "print(random.random(), helper.numpy.random.random(), helper.uuid.uuid4(), next(tempfile._get_candidate_names()))"
    one, other = (set(server.study(wish)["log"].split()) for _ in range(2))
    assert len(one) == len(other) == 4
    assert not one & other


def test_a_study_cannot_reach_the_server(serve: Serve) -> None:
    server = serve()
    wish = """
import ctypes, signal
for number in (9, 15, 19):
    os.kill(1, number)
os.setresuid(1000, 1000, 1000)
for path in ("/proc/1/mem", "/proc/1/environ", "/proc/1/fd/0", "/proc/1/maps"):
    try:
        print(path, os.open(path, os.O_RDONLY))
    except PermissionError:
        pass
print("ptrace", ctypes.CDLL(None).ptrace(16, 1, 0, 0))
print(sorted(os.listdir("/proc/self/fd"))[:3], len(os.listdir("/proc/self/fd")))
"""
    log = server.study(wish)["log"].splitlines()
    assert log == ["ptrace -1", "['0', '1', '2'] 4"]
    assert server.study("pass")["exit_code"] == 0


THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(999,), daemon=True).start()\n"
DEAR = "import time; time.sleep(1)\n"
GPU = (
    "import os; os.set_inheritable(os.open('/dev/zero', os.O_RDONLY), True)\nclass cuda:\n    is_initialized = staticmethod(lambda: True)\n"
)
LOOK_ANEW = "print(sorted(set(helper.before) & {'library', 'other', 'dear', 'torch'}), len(os.listdir('/proc/self/task')))"


def left(server: Served) -> list[tuple[str, str]]:
    return [(name, does) for name, _, does in server.said["ready"]["left"]]


def test_an_import_that_starts_a_thread_is_left_to_each_study_and_the_rest_is_kept(serve: Serve) -> None:
    server = serve("import sys; before = list(sys.modules)\nimport dear\nimport library", THREAD, installed={"dear": DEAR})
    assert left(server) == [("library", "starts 1 thread")]
    for _ in range(2):
        assert server.study(LOOK_ANEW)["log"] == "['dear'] 2\n"
    assert server.study("print(os.environ.get('MONAI_AWS_WARM_ORDER'), len(os.listdir('/proc/self/fd')))")["log"] == "None 4\n"


def test_every_import_that_starts_threads_is_found_also_where_another_brings_it_in(serve: Serve) -> None:
    installed = {"dear": DEAR, "other": "import library\n" + THREAD, "third": THREAD}
    server = serve("import sys; before = list(sys.modules)\nimport other, third\nimport dear", THREAD, installed=installed)
    assert left(server) == [("other", "starts 2 threads"), ("third", "starts 1 thread")]
    assert server.study(LOOK_ANEW)["log"] == "['dear'] 4\n"


def test_an_import_that_opens_the_gpu_is_left_to_each_study(serve: Serve) -> None:
    helper = "import os, sys; before = list(sys.modules); files = len(os.listdir('/proc/self/fd'))\nimport torch, dear"
    server = serve(helper, installed={"dear": DEAR, "torch": GPU})
    assert left(server) == [("torch", "opens the GPU")]
    assert server.study(LOOK_ANEW)["log"] == "['dear'] 1\n"
    assert server.study("print(helper.files)")["log"] == "4\n", "nothing is open that the first try opened"


def test_where_too_little_could_be_kept_it_is_refused_with_the_import_and_its_cost(serve: Serve) -> None:
    refused = serve("import library", THREAD + "time.sleep(4)").said["refused"]
    assert "which is too little; the import of library starts 1 thread (4." in refused


def test_what_the_agent_names_is_left_out_without_a_search(serve: Serve) -> None:
    helper = "import sys; before = list(sys.modules)\nimport dear, library"
    server = serve(helper, THREAD, installed={"dear": DEAR}, leave=["library"])
    assert (left(server), server.said["ready"]["searched"]) == ([("library", "")], False)
    assert server.study(LOOK_ANEW)["log"] == "['dear'] 2\n"


@pytest.mark.parametrize(("does", "how"), [("time.sleep(999)", "takes more than 3 s"), ("os._exit(1)", "ends the process")])
def test_an_import_that_no_forked_process_comes_back_from_is_refused(serve: Serve, does: str, how: str) -> None:
    installed = {"other": f"import os, time\nif os.getpid() != 1: {does}"}
    refused = serve("import library, other", THREAD, installed=installed, probe_s=3).said["refused"]
    assert refused == f"the import of other {how} where it is made in a forked process"


def test_pandas_with_pyarrow_is_left_to_each_study(serve: Serve) -> None:
    server = serve("import pandas, dear", installed={"dear": "import time; time.sleep(4)"})
    assert [name for name, _ in left(server)] == ["pandas"]
    assert server.study("print(helper.pandas.DataFrame({'a': [1, 2]}).a.sum())")["log"] == "3\n"


def test_an_application_whose_imports_leave_a_socket_is_refused(serve: Serve) -> None:
    server = serve("import library", "import os; os.mkfifo(os.environ['TMPDIR'] + '/pipe')")
    assert "socket" in server.said["refused"]


def test_the_server_ends_with_the_agent_also_in_the_middle_of_a_study(serve: Serve) -> None:
    server = serve()
    (server.folder / "in" / "wish").write_text("import time; time.sleep(1000)")
    assert server.process.stdin
    server.process.stdin.write(b'{"timeout_s": 1000}\n')
    server.process.stdin.close()
    assert server.process.wait(30) == 0


# ------------------------------------------------------------------------------------------------------------------ what it would import


def test_the_imports_of_an_application_are_read_from_all_its_own_files(tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "parts").mkdir(parents=True)
    (app / "__main__.py").write_text("import json, parts.one\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nowhere\n")
    (app / "parts" / "__init__.py").write_text("")
    (app / "parts" / "one.py").write_text("from . import two\ndef f():\n    from email.mime import text as t\n")
    (app / "parts" / "two.py").write_text(
        "import os.path as p\nfrom ..unrelated import x\ntry:\n    import nonsense\nexcept ImportError: pass\n"
    )
    (app / "unused.py").write_text("import unused_thing")
    found = warm_server.imports_of(("script", str(app), []))
    assert found == [("json", []), ("typing", ["TYPE_CHECKING"]), ("email.mime", ["text"]), ("os.path", []), ("nonsense", [])]


def test_a_module_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "packaged" / "__main__.py").write_text("from packaged.core import x\nimport base64")
    (tmp_path / "packaged" / "core.py").write_text("import zlib")
    monkeypatch.chdir(tmp_path)
    assert warm_server.imports_of(("module", "packaged", [])) == [("base64", []), ("zlib", [])]


def test_an_application_that_is_no_python_is_refused(tmp_path: Path) -> None:
    for name in (str(tmp_path), "/nowhere"):
        with pytest.raises(warm_server.RequestRefusedError):
            warm_server.imports_of(("script", name, []))


MOUNTS = """
21 1 0:20 / / ro - overlay overlay rw
22 21 0:21 / /proc rw - proc proc rw
23 21 0:22 / {folder} rw - tmpfs tmpfs rw
24 21 0:23 / /sys ro - sysfs sysfs ro
"""


def test_where_a_study_may_write_is_read_from_the_mounts(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    line = str(folder).replace(" ", "\\040")
    mounts = MOUNTS.format(folder=line).strip().replace("/ / ro", "/ /nowhere ro")
    assert warm_server.writable_folders(mounts, "/out") == [str(folder)]
    assert warm_server.writable_folders(mounts, str(folder)) == []
    with pytest.raises(warm_server.RequestRefusedError, match="is kept from one study to the next"):
        warm_server.writable_folders(mounts.replace("tmpfs", "ext4"), "/out")
