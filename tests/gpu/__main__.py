"""Studies at once on a real GPU, without a container engine: ``python -m tests.gpu PYTHON [--at-once 1,2,4] [--studies N]``.

What it needs: Linux, root (for namespaces: ``unshare``), a GPU with ``nvidia-smi``, and PYTHON: an interpreter that has what the MAP has
(``examples/brain_mri/app/requirements.txt`` and a torch for CUDA). The project's own environment runs this file. Without a GPU it says so
and ends well; ``--cpu`` runs it all the same. Another application is tried with ``--app FOLDER --model FILE --study ZIP``, such as one of
a bundle.

The warm server of this repository is started once for each place, unchanged, as process 1 of namespaces of its own. Each number answers the
same studies; outputs must be those of a study alone. At the end a program fills the card on purpose beside a study: the study must fail,
and be answered as before when it has the card for itself again. What it says is printed: an application words it as it likes, so the host
goes by the end of the study and not by words. Prints a table. Exit code 1 where any of this does not hold.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from examples.brain_mri.fetch import fetch
from examples.brain_mri.study import write_study_zip
from monai_aws_pipeline.host_agent.runtime import warm_server
from monai_aws_pipeline.host_agent.runtime.gpu import GpuWatch
from monai_aws_pipeline.host_agent.runtime.output_comparison import differences
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings

READY_S = 900
STUDY_S = 900
FULL_S = 120
FILLS_THE_CARD = """
import time, torch
held, size, told = [], 256 << 20, False
while True:
    try:
        held.append(torch.zeros(size, dtype=torch.uint8, device="cuda"))
    except RuntimeError:
        if size == 16 << 20 and not told:
            print("full", flush=True)
            told = True
        size = max(size // 2, 16 << 20)
        time.sleep(0.1)
"""


@dataclass(frozen=True)
class Application:
    """What is run: its folder, its model, one study's files."""

    app: Path
    model: Path
    study: Path


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
            self.log.seek(0)
            raise RuntimeError(f"not hosted warm: {answer or self.log.read()[-2000:].decode(errors='replace')}")
        return time.monotonic() - began

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """An order and its answer; empty where the server has ended."""
        assert self.process.stdin
        assert self.process.stdout
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

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self.log.close()


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
        say(f"{number} server(s), {max(seconds):.1f} s of imports")
        yield found


class Peak:
    """The most memory of the GPU that all processes under one had together, looked at all the while."""

    def __init__(self, gpu: GpuWatch, roots: Sequence[int]):
        self.bytes = 0
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
            self.bytes = max(self.bytes, self._gpu.used_by({pid for root in self._roots for pid in descendants(root)}) or 0)


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


def row(number: int, studies: int, chosen: argparse.Namespace, application: Application, folder: Path, gpu: GpuWatch) -> dict[str, Any]:
    """So many studies with so many at once."""
    with servers(number, chosen.python, application, folder, environment(chosen)) as places:
        idle: SimpleQueue[Server] = SimpleQueue()
        for place in places:
            idle.put(place)
            assert place.study(folder / f"first-{id(place)}") == 0, "a study before the measurement failed"

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
    return {
        "at_once": number, "studies": studies, "seconds": round(seconds, 1), "per_minute": round(studies * 60 / seconds, 1),
        "failed": sum(code != 0 for code in codes), "gpu_mib": peak.bytes >> 20,
    }  # fmt: skip


@contextmanager
def filled(chosen: argparse.Namespace, gpu: GpuWatch) -> Iterator[None]:
    """A program has taken what the card has: it was refused the smallest that it asks for. Raises RuntimeError where it could not."""
    hoarder = subprocess.Popen([chosen.python, "-c", FILLS_THE_CARD], stdout=subprocess.PIPE)
    assert hoarder.stdout
    patience = threading.Timer(FULL_S, hoarder.kill)
    patience.start()
    try:
        is_full = hoarder.stdout.readline() != b""  # empty where it has ended
        patience.cancel()
        if not is_full or (gpu.used_by_all() or 0) <= (gpu.total_bytes() or 0) // 2:
            raise RuntimeError("the card could not be filled")
        yield
    finally:
        patience.cancel()
        hoarder.kill()
        hoarder.communicate()


def full_card(chosen: argparse.Namespace, application: Application, folder: Path, alone: Path, gpu: GpuWatch) -> tuple[list[str], str]:
    """What went otherwise than it must, and what the study said, when another program has filled the card, and afterwards.

    ``alone``: the outputs of the same study before.
    """
    wrong = []
    with servers(1, chosen.python, application, folder, environment(chosen)) as (place,):
        with filled(chosen, gpu):
            full = place.study(folder / "output-full")
        place.log.seek(0)
        last = [line for line in place.log.read().decode(errors="replace").splitlines() if line.strip()][-3:]
        if full == 0:
            wrong.append("on a full card it was answered")
        if place.process.poll() is not None:
            wrong.append("its server ended with it")
        elif code := place.study(folder / "output-after"):
            wrong.append(f"alone afterwards it ends with exit code {code}")
        else:
            wrong += [f"alone afterwards: {text}" for text in differences(alone, folder / "output-after")]
    return wrong, f"exit code {full}; it said last: {' | '.join(last)}"


def environment(chosen: argparse.Namespace) -> dict[str, str]:
    """What every server starts with."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **({"CUDA_VISIBLE_DEVICES": ""} if chosen.cpu else {})}


def brain(folder: Path) -> Application:
    """The example of this repository with the study of its volume."""
    files = fetch(load_settings().cache_dir, say)
    write_study_zip(files.volume, folder / "brain.zip", seed="gpu")
    return Application(PROJECT_ROOT / "examples" / "brain_mri" / "app", files.model, unzipped(folder / "brain.zip", folder / "study"))


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


def main() -> int:
    """The table; 1 where outputs differ, a study failed, or a full card was not met as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="an interpreter that has what the MAP has")
    parser.add_argument("--at-once", default="1,2,4", help="numbers, 1 first, with commas between them")
    parser.add_argument("--studies", type=int, default=24, help="studies of each row")
    parser.add_argument("--cpu", action="store_true", help="without a GPU")
    parser.add_argument("--app", type=Path, help="another application's folder, with --model and --study")
    parser.add_argument("--model", type=Path, help="its model's file or folder")
    parser.add_argument("--study", type=Path, help="a zipped study for it")
    chosen = parser.parse_args()
    numbers = [int(word) for word in chosen.at_once.split(",")]
    if numbers[0] != 1 or chosen.studies < 1:
        parser.error("--at-once begins with 1, which the others are held against, and --studies is 1 at least")
    if not chosen.cpu and not shutil.which("nvidia-smi"):
        say("skipped: this machine has no nvidia-smi, so no GPU (--cpu runs without one)")
        return 0
    gpu = GpuWatch()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if chosen.app:
            application = Application(chosen.app.resolve(), chosen.model.resolve(), unzipped(chosen.study, folder / "study"))
        else:
            application = brain(folder)
        rows = [row(number, chosen.studies, chosen, application, folder / str(number), gpu) for number in numbers]
        alone = folder / "1" / "output-0"
        unlike = {
            text
            for number in numbers
            for which in range(chosen.studies)
            for text in differences(alone, folder / str(number) / f"output-{which}")
        }
        if not any(path.is_file() for path in alone.rglob("*")):
            unlike.add("one that ran alone wrote nothing")
        wrong, full = ([], "") if chosen.cpu else full_card(chosen, application, folder / "full", alone, gpu)
        gpu.close()
    for each in rows:
        sys.stdout.write(f"{json.dumps(each | {'gain': round(each['per_minute'] / rows[0]['per_minute'], 2)})}\n")
    sys.stdout.write(f"outputs {'are equal' if not unlike else f'differ: {sorted(unlike)}'}\n")
    if full:
        ends = ", ".join(wrong) or "the study failed, and was answered when it had the card for itself"
        sys.stdout.write(f"a full card: {ends}; {full}\n")
    return int(bool(unlike or wrong) or any(each["failed"] for each in rows))


if __name__ == "__main__":
    sys.exit(main())
