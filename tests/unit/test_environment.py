"""The set-up of the Python environment, interrupted at every step, and beside what runs on an older one.

The script and the Makefile are the real ones, in a small checkout. Python is pretended, so that each step takes no time and can be held;
the last test has the real Python and the real pip.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the project runs on Linux")

# What it is asked for decides: to make an environment, to install, to end the demo. It writes its packages in two halves and may be held
# between them, where a named pipe `hold-STEP` lies: it opens the pipe `held`, so that the test knows, and waits until the other is opened.
PRETENDED_PYTHON = """\
#!/bin/sh
at() { if [ -p "$WORKSHOP/hold-$1" ]; then echo "$1" >"$WORKSHOP/held"; read -r go <"$WORKSHOP/hold-$1"; fi; }
case "$*" in
  "-c import ensurepip"*) ;;
  "-m venv "*)
    echo "venv $3" >>"$WORKSHOP/done"
    mkdir -p "$3/bin"
    at venv
    cp "$WORKSHOP/bin/python3.11" "$3/bin/python"
    ;;
  *"--upgrade pip"*) at pip ;;
  *"--editable "*)
    here=$(dirname "$(dirname "$0")")
    echo "first half" >"$here/package"
    at packages
    echo "second half" >>"$here/package"
    printf '#!/bin/sh\\nexec "%s" "$0" "$@"\\n' "$here/bin/python" >"$here/bin/monai-aws"
    chmod +x "$here/bin/monai-aws"
    ;;
  *"monai-aws demo"*)
    here=$(dirname "$(dirname "$0")")
    grep -q "second half" "$here/package" || { echo "ModuleNotFoundError"; exit 1; }
    shift
    echo "$* on $(basename "$here")"
    at demo
    ;;
  *"monai-aws local reset"*) echo "$*" >>"$WORKSHOP/reset" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""
STEPS = ("venv", "pip", "packages")


class Checkout:
    """A clone of the project as far as its set-up is concerned, and the workshop beside it, where what was done is noted."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.workshop = folder / "workshop"
        for name in ("Makefile", "infra/setup/environment.sh"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "constraints.txt").touch()
        self.change("first")
        python = self.workshop / "bin" / "python3.11"
        python.parent.mkdir(parents=True)
        python.write_text(PRETENDED_PYTHON)
        python.chmod(0o755)
        os.mkfifo(self.workshop / "held")
        self.environment = {
            **os.environ,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "WORKSHOP": str(self.workshop),
            "REAL_PYTHON": sys.executable,
        }

    def change(self, what: str) -> None:
        """Make what is wanted another one."""
        (self.root / "pyproject.toml").write_text(f"# {what}\n")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=120)

    def set_up(self, level: str = "use") -> Path:
        """A set-up that has to work; the environment it gave."""
        done = self.run("infra/setup/environment.sh", level)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.current

    def make(self, target: str) -> str:
        done = self.run("make", "--no-print-directory", target)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def held(self, step: str, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A command in a process group of its own that has come to a step and waits there."""
        hold = self.workshop / f"hold-{step}"
        os.mkfifo(hold)
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert (self.workshop / "held").read_text().strip() == step
        try:
            yield process
        finally:
            hold.unlink(missing_ok=True)
            end(process.pid)
            process.wait()

    def let_go(self, step: str) -> None:
        """Let what is held go on."""
        hold = self.workshop / f"hold-{step}"
        hold.write_text("go\n")
        hold.unlink()

    @property
    def current(self) -> Path:
        return self.root / (self.root / ".venv").readlink()

    def environments(self) -> list[str]:
        return sorted(path.name for path in (self.root / ".cache" / "environments").iterdir())

    def made(self) -> int:
        """How many environments were begun until now."""
        noted = self.workshop / "done"
        return len(noted.read_text().splitlines()) if noted.exists() else 0


def end(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def is_whole(environment: Path) -> bool:
    return (environment / "package").read_text().splitlines() == ["first half", "second half"]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_an_environment_is_made_once_and_used_again(checkout: Checkout):
    made = checkout.set_up()
    assert is_whole(made)
    again = checkout.run("infra/setup/environment.sh", "use")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", ""), "nothing to do, nothing to say"
    checkout.run(str(checkout.root / "infra/setup/environment.sh"), "use")
    assert checkout.made() == 1, "however the script is called"
    assert "demo on" in checkout.make("demo")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_after_an_interrupted_first_set_up_the_next_one_works(checkout: Checkout, step: str, how: signal.Signals):
    with checkout.held(step, "make", "dev") as making:
        os.killpg(making.pid, how)
        making.communicate(timeout=60)
        assert making.returncode != 0
        assert not (checkout.root / ".venv").exists(), "what is half made is not used"
    assert "demo on" in checkout.make("demo")
    assert is_whole(checkout.set_up("dev"))
    assert "demo --down on" in checkout.make("demo-down")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_an_interrupted_set_up_leaves_the_environment_that_was_there_whole(checkout: Checkout, step: str, how: signal.Signals):
    older = checkout.set_up()
    checkout.change("second")
    with checkout.held(step, "make", "dev") as making:
        os.killpg(making.pid, how)
        making.communicate(timeout=60)
    assert checkout.current == older
    assert is_whole(older)
    begun = checkout.made()
    assert f"demo --down on {older.name}" in checkout.make("demo-down"), "what the demo started with ends it"
    assert checkout.made() == begun, "and nothing is installed for that"
    newer = checkout.set_up("dev")
    assert newer != older
    assert is_whole(newer)
    assert checkout.environments() == [newer.name], "neither what nothing uses nor what was half made is kept"


def test_what_a_killed_set_up_left_at_work_is_waited_for_and_not_written_into(checkout: Checkout):
    with checkout.held("packages", "infra/setup/environment.sh", "use") as making:
        os.kill(making.pid, signal.SIGKILL)  # the script alone: its pip lives on
        making.wait()
        pipe = subprocess.PIPE
        command = ["infra/setup/environment.sh", "use"]
        with subprocess.Popen(command, cwd=checkout.root, env=checkout.environment, text=True, stdout=pipe) as second:
            assert second.stdout
            assert second.stdout.readline() == "Waiting for another set-up in this folder to end\n"
            assert checkout.made() == 1
            checkout.let_go("packages")
            second.stdout.read()
        assert second.returncode == 0
    assert checkout.made() == 2, "what had no stamp was made anew"
    assert is_whole(checkout.current)


def test_tests_beside_a_running_demo_have_an_environment_of_their_own(checkout: Checkout):
    with checkout.held("demo", "make", "demo") as demo:
        runs_on = checkout.current
        before = {path: path.stat().st_mtime_ns for path in runs_on.rglob("*")}
        tests = checkout.set_up("dev")
        assert tests != runs_on
        assert {path: path.stat().st_mtime_ns for path in runs_on.rglob("*")} == before
        checkout.set_up("dev")
        assert checkout.environments() == sorted([runs_on.name, tests.name])
        checkout.let_go("demo")
        demo.communicate()
    assert f"demo on {tests.name}" in checkout.make("demo"), "one for both, when both begin anew"
    assert checkout.environments() == [tests.name], "a gigabyte is not kept for nobody"
    assert checkout.made() == 2


def test_an_environment_that_was_half_removed_is_not_taken_for_whole(checkout: Checkout):
    older = checkout.set_up()
    checkout.change("second")
    pretended_rm = checkout.workshop / "bin" / "rm"
    pretended_rm.write_text(f'#!/bin/sh\ncase "$*" in *{older.name}) kill -9 $PPID ;; *) exec /bin/rm "$@" ;; esac\n')
    pretended_rm.chmod(0o755)
    checkout.run("infra/setup/environment.sh", "use")
    pretended_rm.unlink()
    assert older.exists()
    assert not (older / "installed-by-environment.sh").exists()
    checkout.change("first")
    begun = checkout.made()
    assert is_whole(checkout.set_up())
    assert checkout.made() == begun + 1


def test_a_plain_folder_of_an_older_version_is_replaced(checkout: Checkout):
    plain = checkout.root / ".venv"
    (plain / "bin").mkdir(parents=True)
    (plain / "installed-by-environment.sh").write_text("0123 dev\n")
    shutil.copy(checkout.workshop / "bin" / "python3.11", plain / "bin" / "python")
    assert is_whole(checkout.set_up())
    assert plain.is_symlink()
    assert checkout.environments() == [checkout.current.name]


def test_a_checkout_that_was_moved_or_copied_has_an_environment_of_its_own(checkout: Checkout, tmp_path: Path):
    checkout.set_up()
    shutil.copytree(checkout.root, tmp_path / "copy", symlinks=True)
    original = checkout.current
    checkout.root = tmp_path / "copy"
    assert "demo --down on" in checkout.make("demo-down")
    assert checkout.current.name != original.name
    assert is_whole(original)


def test_a_failed_set_up_says_what_pip_said_and_where_the_rest_is(checkout: Checkout):
    python = checkout.workshop / "bin" / "python3.11"
    python.write_text(PRETENDED_PYTHON.replace("    at packages\n", "    echo 'no such version' >&2; exit 1\n"))
    done = checkout.run("infra/setup/environment.sh", "use")
    assert done.returncode == 1
    assert "no such version" in done.stderr
    assert ".cache/environment.log" in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_clean_ends_what_runs_and_removes_everything(checkout: Checkout):
    checkout.set_up()
    (checkout.root / ".cache" / "test-clouds" / "shared-1").mkdir(parents=True)
    checkout.make("clean")
    ended = (checkout.workshop / "reset").read_text()
    assert "--state-dir .cache/test-clouds/shared-1/" in ended, "a folder is not removed under what runs in it"
    assert not (checkout.root / ".venv").is_symlink()
    assert not (checkout.root / ".cache").exists()


# A project that builds itself, so that pip needs nothing from anywhere.
PYPROJECT = """\
[build-system]
requires = []
backend-path = ["."]
build-backend = "backend"
[project]
name = "tiny"
version = "1"
"""
BACKEND = """\
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    files = {
        "tiny.py": "import sys\\ndef main(): print(sys.prefix)\\n",
        "tiny-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\nProvides-Extra: local\\nProvides-Extra: dev\\n",
        "tiny-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "tiny-1.dist-info/entry_points.txt": "[console_scripts]\\nmonai-aws = tiny:main\\n",
        "tiny-1.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(f"{folder}/tiny-1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "tiny-1-py3-none-any.whl"
"""


def test_with_the_real_python_and_pip_what_runs_keeps_its_packages_when_the_link_moves_on(tmp_path: Path):
    checkout = Checkout(tmp_path)
    checkout.environment |= {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"}
    (checkout.root / "pyproject.toml").write_text(PYPROJECT)
    (checkout.root / "backend.py").write_text(textwrap.dedent(BACKEND))
    older = checkout.set_up()
    assert checkout.run(".venv/bin/monai-aws").stdout.strip() == str(older)
    wait_then_import = "import sys; print(1, flush=True); sys.stdin.readline(); import tiny; tiny.main()"
    command: Sequence[str] = [f"{older}/bin/python", "-c", wait_then_import]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        running.stdout.readline()
        newer = checkout.set_up("dev")
        assert checkout.run(".venv/bin/monai-aws").stdout.strip() == str(newer)
        assert running.communicate("go\n")[0].strip() == str(older)
    checkout.set_up("dev")
    assert checkout.environments() == [newer.name]
