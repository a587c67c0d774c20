"""Studies at once on a real GPU, without a container engine: ``python -m tests.gpu PYTHON [--at-once 1,2,4] [--studies N]``.

What it needs: Linux, root (for namespaces: ``unshare``), a GPU with ``nvidia-smi``, and PYTHON: an interpreter that has what the MAP has
(``examples/brain_mri/app/requirements.txt`` and a torch for CUDA). The project's own environment runs this file. Without a GPU it says so
and ends well; ``--cpu`` runs it all the same. ``--application`` says which of two is tried, both without it: the brain example, and
``tests/apps/bundle``, whose bundle and CT study are made here. ``--app FOLDER --model FILE --study ZIP`` is another one instead.

The warm server of this repository is started once for each place, unchanged, as process 1 of namespaces of its own. Each number answers the
same studies; outputs must be those of a study alone. At the end a study of one more warm server fills the card on purpose
(``tests/apps/fills_the_card``): the study beside it must fail, and be answered as before when it has the card for itself again. What it
says is printed: an application words it as it likes, so the host goes by the end of the study and not by words. Prints a table, and writes
the same as JSON with ``--json FILE``. Exit code 1 where any of this does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from examples.brain_mri.fetch import fetch
from examples.brain_mri.study import write_study_zip
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.host_agent.runtime import warm_server
from monai_aws_pipeline.host_agent.runtime.gpu import GpuWatch
from monai_aws_pipeline.host_agent.runtime.output_comparison import differences, has_files
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings
from monai_aws_pipeline.terminal import literal_console, print_table
from tests.support.studies import ct_study_zip

STUDY_S = 900
FULL_S = 120
BUNDLE = PROJECT_ROOT / "tests" / "apps" / "bundle"
FILLS_THE_CARD = PROJECT_ROOT / "tests" / "apps" / "fills_the_card"
FULL, ENOUGH = "full", "enough"
"""Files of that application: it says in its output that the card is full, and ends when its input says that it is enough."""


@dataclass(frozen=True)
class Application:
    """What is run: its folder, its model, one study's files."""

    name: str
    app: Path
    model: Path
    study: Path


@dataclass(frozen=True)
class Row:
    """What so many studies took with so many at once."""

    at_once: int
    studies: int
    seconds: float
    failed: int
    gpu_mib: int | None
    """None where the driver showed none of its processes."""

    @property
    def per_minute(self) -> float:
        """Studies a minute."""
        return self.studies * 60 / self.seconds


@dataclass
class Tried:
    """What came of an application."""

    application: str
    rows: list[Row] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    full_card: str = ""

    @property
    def is_good(self) -> bool:
        """Whether all of it held."""
        return not (self.unlike or self.wrong or any(row.failed for row in self.rows))

    def figures(self) -> list[dict[str, Any]]:
        """The rows, rounded, each with what it gains over the first."""
        return [
            {
                "application": self.application,
                "at_once": row.at_once,
                "studies": row.studies,
                "seconds": round(row.seconds, 1),
                "per_minute": round(row.per_minute, 1),
                "gain": round(row.per_minute / self.rows[0].per_minute, 2),
                "failed": row.failed,
                "gpu_mib": row.gpu_mib,
            }
            for row in self.rows
        ]

    def sentences(self) -> list[str]:
        """What a table does not hold."""
        said = [f"{self.application}: outputs {'differ: ' + ', '.join(self.unlike) if self.unlike else 'are equal'}"] if self.rows else []
        said += [f"{self.application}: {text}" for text in self.wrong]
        return [*said, f"{self.application}, a full card: {self.full_card}"] if self.full_card else said


class Server:
    """One warm server: its process, and the folders of the study that is in it."""

    def __init__(self, python: str, application: Application, folder: Path, environment: dict[str, str]):
        self.input, self.output, scratch = folder / "input", folder / "output", folder / "tmp"
        for each in (self.input, self.output, scratch):
            each.mkdir(parents=True)
        variables = {
            "HOLOSCAN_INPUT_PATH": str(self.input), "HOLOSCAN_OUTPUT_PATH": str(self.output), "HOLOSCAN_WORKDIR": str(folder),
            "HOLOSCAN_MODEL_PATH": str(application.model), "HOME": str(scratch), "TMPDIR": str(scratch),
        }  # fmt: skip
        command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", python, warm_server.__file__]
        pipe = subprocess.PIPE
        self.log = (folder / "log").open("w+b")
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, env={**environment, **variables}, cwd=folder)
        self._scratch = scratch
        self._kept = application

    def start(self) -> float:
        """Make the imports; seconds. Raises RuntimeError where this application cannot be hosted warm here."""
        began = time.monotonic()
        order = {
            "kind": "script",
            "name": str(self._kept.app),
            "arguments": [],
            "output": str(self.output),
            "scratch": [str(self._scratch)],
        }
        if "ready" not in (answer := self.ask(order)):
            raise RuntimeError(f"not hosted warm: {answer or self.last_words()}")
        return time.monotonic() - began

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """An order and its answer; empty where the server has ended."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def study(self, target: Path) -> int:
        """One study; its outputs are moved to ``target``. The exit code."""
        for path in self._kept.study.iterdir():
            (self.input / path.name).symlink_to(path)
        ended = self.ask({"timeout_s": STUDY_S}).get("ended", {})
        target.mkdir(parents=True)
        for path in [*self.output.iterdir()]:
            shutil.move(path, target / path.name)
        for path in self.input.iterdir():
            path.unlink()
        return int(ended.get("exit_code", -1))

    def last_words(self) -> str:
        """The end of its log."""
        return last_lines(Path(self.log.name).read_text(errors="replace"))

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            with suppress(BrokenPipeError):  # of an order that it did not live to read
                assert stream
                stream.close()


def last_lines(text: str) -> str:
    """The last three lines, less what the server writes at the end of a study: a marker, 32 characters of hexadecimal."""
    lines = [line.strip() for line in text.splitlines()]
    marks = {line for line in lines if len(line) == 32 and not set(line) - set("0123456789abcdef")}
    return " | ".join([line for line in lines if line and line not in marks][-3:])


@contextmanager
def servers(number: int, python: str, application: Application, folder: Path, environment: dict[str, str]) -> Iterator[list[Server]]:
    """So many servers, all with their imports made."""
    with ExitStack() as ends:
        found = []
        for which in range(number):
            found.append(Server(python, application, folder / f"server-{which}", environment))
            ends.callback(found[-1].close)
        with ThreadPoolExecutor(number) as threads:
            seconds = list(threads.map(Server.start, found))
        say(f"{application.name}: {number} server(s), {max(seconds):.1f} s of imports")
        yield found


class Peak:
    """The most memory of the GPU that all processes under one had together, looked at all the while."""

    def __init__(self, gpu: GpuWatch, roots: Sequence[int]):
        self.bytes: int | None = None
        self._gpu, self._roots, self._over = gpu, roots, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            seen = self._gpu.used_by({pid for root in self._roots for pid in descendants(root)})
            self.bytes = max((each for each in (self.bytes, seen) if each is not None), default=None)


def descendants(root: int) -> set[int]:
    """A process and all below it, as this machine numbers them."""
    found, waiting = {root}, [root]
    while waiting:
        for path in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                new = {int(word) for word in path.read_text().split()} - found
            except OSError:
                continue
            found |= new
            waiting += new
    return found


def row(number: int, studies: int, chosen: argparse.Namespace, application: Application, folder: Path, gpu: GpuWatch) -> Row:
    """So many studies with so many at once. Raises RuntimeError where a server cannot answer one before them."""
    with servers(number, chosen.python, application, folder, environment(chosen)) as places:
        idle: SimpleQueue[Server] = SimpleQueue()
        for which, place in enumerate(places):
            idle.put(place)
            if code := place.study(folder / f"first-{which}"):
                raise RuntimeError(f"a study before the measurement ended with exit code {code}; it said last: {place.last_words()}")

        def one(which: int) -> int:
            place = idle.get()
            try:
                return place.study(folder / f"output-{which}")
            finally:
                idle.put(place)

        with Peak(gpu, [place.process.pid for place in places]) as peak, ThreadPoolExecutor(number) as threads:
            began = time.monotonic()
            codes = list(threads.map(one, range(studies)))
            seconds = time.monotonic() - began
    return Row(number, studies, seconds, sum(code != 0 for code in codes), None if peak.bytes is None else peak.bytes >> 20)


@contextmanager
def filled(chosen: argparse.Namespace, folder: Path, gpu: GpuWatch) -> Iterator[None]:
    """A study of another warm server holds what the card has: it was refused the smallest that it asks for.

    Raises RuntimeError where it could not fill it, or did not end well when it was told to.
    """
    (folder / "nothing").mkdir(parents=True)
    application = Application("what fills the card", FILLS_THE_CARD, folder, folder / "nothing")
    with servers(1, chosen.python, application, folder, environment(chosen)) as (place,), ThreadPoolExecutor(1) as threads:
        code = threads.submit(place.study, folder / "output")
        try:
            patience = time.monotonic() + FULL_S
            while not (is_full := (place.output / FULL).exists()) and not code.done() and time.monotonic() < patience:
                time.sleep(0.1)
            if not is_full or (gpu.used_by_all() or 0) <= (gpu.total_bytes() or 0) // 2:
                raise RuntimeError(f"the card could not be filled: {place.last_words() or 'nothing was said'}")
            yield
        finally:
            (place.input / ENOUGH).touch()
        if code.result():
            raise RuntimeError(f"the study that filled the card ended with exit code {code.result()}: {place.last_words()}")


def full_card(chosen: argparse.Namespace, application: Application, folder: Path, alone: Path, gpu: GpuWatch) -> tuple[list[str], str]:
    """What went otherwise than it must, and what the study said, when another study has filled the card, and afterwards.

    ``alone``: the outputs of the same study before.
    """
    wrong = []
    with servers(1, chosen.python, application, folder, environment(chosen)) as (place,):
        with filled(chosen, folder / "filled", gpu):
            full = place.study(folder / "output-full")
        said = place.last_words()
        if full == 0:
            wrong.append("on a full card it was answered")
        if place.process.poll() is not None:
            wrong.append("its server ended with it")
        elif code := place.study(folder / "output-after"):
            wrong.append(f"alone afterwards it ends with exit code {code}")
        else:
            wrong += [f"alone afterwards: {text}" for text in differences(alone, folder / "output-after")]
    ends = "it did not go as it must" if wrong else "the study failed, and was answered when it had the card for itself"
    return wrong, f"{ends}; exit code {full}; it said last: {said}"


def environment(chosen: argparse.Namespace) -> dict[str, str]:
    """What every server starts with."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **({"CUDA_VISIBLE_DEVICES": ""} if chosen.cpu else {})}


def brain(chosen: argparse.Namespace, folder: Path) -> Application:
    """The example of this repository with the study of its volume."""
    files = fetch(load_settings().cache_dir, say)
    write_study_zip(files.volume, folder / "brain.zip", seed="gpu")
    app = PROJECT_ROOT / "examples" / "brain_mri" / "app"
    return Application("brain", app, files.model, unzipped(folder / "brain.zip", folder / "study"))


def bundle(chosen: argparse.Namespace, folder: Path) -> Application:
    """A bundle made here, in the folders of a MAP, with a synthetic CT. Raises RuntimeError where PYTHON cannot make it."""
    model = folder / "models" / "model" / "model.ts"
    model.parent.mkdir(parents=True)
    command = [chosen.python, BUNDLE / "make_model.py", model]
    made = subprocess.run(command, env=environment(chosen), cwd=folder, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"the bundle could not be made: {last_lines(made.stdout + made.stderr)}")
    (folder / "ct.zip").write_bytes(ct_study_zip(96, size=128))
    return Application("bundle", BUNDLE, folder / "models", unzipped(folder / "ct.zip", folder / "study"))


def another(chosen: argparse.Namespace, folder: Path) -> Application:
    """The one that the caller has brought."""
    return Application(chosen.app.resolve().name, chosen.app.resolve(), chosen.model.resolve(), unzipped(chosen.study, folder / "study"))


APPLICATIONS = {"brain": brain, "bundle": bundle}


def unzipped(archive: Path, folder: Path) -> Path:
    """The files of a zip side by side, under names of their own."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as packed:
        for number, item in enumerate(each for each in packed.infolist() if not each.is_dir()):
            (folder / f"{number:06d}.dcm").write_bytes(packed.read(item))
    return folder


def say(line: str) -> None:
    """Progress."""
    sys.stderr.write(f"{line}\n")


def tried(name: str, chosen: argparse.Namespace, folder: Path, gpu: GpuWatch) -> Tried:
    """An application with each number at once, and beside one that fills the card. What stops it is told in the answer."""
    found = Tried(name)
    folder.mkdir()
    try:
        application = (another if chosen.app else APPLICATIONS[name])(chosen, folder)
        for number in chosen.at_once:
            found.rows.append(row(number, chosen.studies, chosen, application, folder / str(number), gpu))
        alone = folder / "1" / "output-0"
        every = [folder / str(number) / f"output-{which}" for number in chosen.at_once for which in range(chosen.studies)]
        found.unlike = sorted({text for each in every for text in differences(alone, each)})
        if not has_files(alone):
            found.unlike.append("one that ran alone wrote nothing")
        if not chosen.cpu:
            wrong, found.full_card = full_card(chosen, application, folder / "full", alone, gpu)
            found.wrong += wrong
    except (RuntimeError, NamedError) as error:
        found.wrong.append(str(error))
    return found


def asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for; ends with exit code 2 where that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="an interpreter that has what the MAP has")
    parser.add_argument("--at-once", default="1,2,4", help="numbers, 1 first, with commas between them")
    parser.add_argument("--studies", type=int, default=24, help="studies of each row")
    parser.add_argument("--cpu", action="store_true", help="without a GPU")
    parser.add_argument("--application", choices=[*APPLICATIONS, "both"], help="which of the two here; both without it")
    parser.add_argument("--app", type=Path, help="another application's folder instead, with --model and --study")
    parser.add_argument("--model", type=Path, help="its model's file or folder")
    parser.add_argument("--study", type=Path, help="a zipped study for it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures are written too")
    chosen = parser.parse_args(arguments)
    words = chosen.at_once.split(",")
    chosen.at_once = [int(word) for word in words if word.isdecimal() and int(word)]
    if len(set(chosen.at_once)) != len(words) or chosen.at_once[0] != 1 or chosen.studies < 1:
        parser.error("--at-once is numbers, each once, and begins with 1, which the others are held against; --studies is 1 at least")
    brought = [chosen.app, chosen.model, chosen.study]
    if any(brought) and not all(brought):
        parser.error("another application is --app, --model and --study, all three")
    if any(brought) and chosen.application:
        parser.error("--application is one of those that are here, and --app another one: give one of the two")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """The table; 1 where outputs differ, a study failed, or a full card was not met as it must be."""
    chosen = asked(arguments)
    if not chosen.cpu and not shutil.which("nvidia-smi"):
        say("skipped: this machine has no nvidia-smi, so no GPU (--cpu runs without one)")
        return 0
    here = [*APPLICATIONS] if chosen.application in (None, "both") else [chosen.application]
    names = [chosen.app.resolve().name] if chosen.app else here
    gpu = GpuWatch()
    with tempfile.TemporaryDirectory() as temporary:
        found = [tried(name, chosen, Path(temporary) / name, gpu) for name in names]
        gpu.close()
    columns = ("application", "at once", "studies", "seconds", "a minute", "gain", "failed", "GPU MiB")
    cells = [["-" if value is None else str(value) for value in figures.values()] for each in found for figures in each.figures()]
    console = literal_console()
    if cells:
        print_table(console, f"Studies at once, {'without a GPU' if chosen.cpu else 'on the GPU'}", columns, cells)
    for sentence in (sentence for each in found for sentence in each.sentences()):
        console.print(sentence, soft_wrap=True)
    if chosen.json:
        chosen.json.write_text(json.dumps([{**asdict(each), "rows": each.figures()} for each in found], indent=2) + "\n")
    return int(not all(each.is_good for each in found))


if __name__ == "__main__":
    sys.exit(main())
