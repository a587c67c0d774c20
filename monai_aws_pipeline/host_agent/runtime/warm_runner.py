"""Warm hosting: a container of the MAP, kept, in which each study runs in a forked process of its own; one for each study at once.

Two thirds of a small study's seconds are imports. The server in the container (``warm_server.py``) has made them already. Here belongs
the host's side: proving for each digest that the answers are the same, starting, feeding, measuring and ending that container. What must
hold so that no study sees another is listed in docs/hosting.md.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import pydicom

from monai_aws_pipeline.contract import short_digest
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.runtime import warm_server
from monai_aws_pipeline.host_agent.runtime.docker_api import EngineError
from monai_aws_pipeline.host_agent.runtime.engine import LINE_BYTES, LOG_LINES, Engine, RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import OnExit, PerStudy, nothing
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from monai_aws_pipeline.host_agent.runtime.output_comparison import differences, has_files
from monai_aws_pipeline.host_agent.runtime.usage import Meter
from monai_aws_pipeline.maps.spec.run import CONTAINER_LABEL, Limits, PythonCommand, effective_timeout, python_command, warm_container

log = logging.getLogger(__name__)

WARM: Final = "warm"
PER_STUDY: Final = "per_study"

_SERVER: Final = Path(warm_server.__file__).resolve()
_STUDIES: Final = 200
"""A container is replaced after so many studies, whatever it looks like."""
_GROWTH_KIB: Final = 256 << 10
_READY_S: Final = 600.0
_GRACE_S: Final = 30.0
_CREATED_S: Final = 10.0
_TICK_S: Final = 0.05
_LACKING_S: Final = 30.0
"""Until another container is tried where this host lacked what one takes, a full disk mostly."""


class WarmRefusedError(Exception):
    """This MAP cannot be hosted warm. Says why."""


@dataclass(frozen=True)
class Verdict:
    """How a digest is hosted on this host and why. ``proved_with``: SHA-256 of the server's source; seconds of the run both ways.

    ``leave``: the imports that each study makes itself.
    """

    digest: str
    hosting: str
    reason: str
    proved_with: str
    at: str
    per_study_seconds: float = 0.0
    warm_seconds: float = 0.0
    leave: tuple[str, ...] = ()


class Verdicts:
    """The verdicts on this host's disk, one small file a digest. ``ways``: what may be said."""

    def __init__(self, folder: Path, ways: Collection[str] = (WARM, PER_STUDY)):
        self._folder, self._ways = folder, ways
        self._server = hashlib.sha256(_SERVER.read_bytes()).hexdigest()

    def read(self, digest: str) -> Verdict | None:
        """The verdict on a digest; None where there is none, or one about another version of the server."""
        try:
            found = Verdict(**json.loads(self._path(digest).read_text()))
            found = replace(found, leave=tuple(map(str, found.leave)))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return found if found.digest == digest and found.proved_with == self._server and found.hosting in self._ways else None

    def write(
        self, digest: str, hosting: str, reason: str, seconds: tuple[float, float] = (0.0, 0.0), leave: tuple[str, ...] = ()
    ) -> Verdict:
        """Keep a verdict and say it."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        verdict = Verdict(digest, hosting, reason, self._server, at, round(seconds[0], 3), round(seconds[1], 3), leave)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._path(digest).with_suffix(".new")
        fresh.write_text(json.dumps(asdict(verdict), indent=2) + "\n")
        fresh.replace(self._path(digest))
        log.info("the MAP %s is hosted %s: %s", short_digest(digest), hosting.replace("_", " "), reason)
        return verdict

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest.rpartition(':')[2]}.json"


class Warm:
    """Hosts warm where that was proved to give the same answers, and in a container for each study otherwise.

    ``verdicts``: the folder that holds what was proved. ``folder``: this object's alone, on the disk of the studies' own folders, because
    their files are linked into it and not copied.
    """

    def __init__(self, engine: Engine, verdicts: Path, folder: Path):
        self._engine = engine
        self._alone = PerStudy(engine)
        self._verdicts = Verdicts(verdicts)
        self._folder = folder
        shutil.rmtree(self._folder, ignore_errors=True)  # what an agent left that was killed in the middle of a study
        self._lock = threading.Lock()
        self._idle: list[WarmContainer] = []
        self._lent: list[WarmContainer] = []
        self._made = 0
        self._lacking_until = 0.0
        self._given_up: set[str] = set()
        self._left: dict[str, list[Any]] = {}

    def run(
        self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str, stop: threading.Event, on_exit: OnExit = nothing
    ) -> RunEnd:
        """Run the MAP on one study. The first study of a digest is run both ways; its answer is that of the container of its own."""
        digest = ready.facts.digest
        verdict = self._verdicts.read(digest)
        if verdict and verdict.hosting == WARM and digest not in self._given_up:
            try:
                end = self._run_warm(ready, source, target, limits, stop)
                self._get_ready(ready, limits, 1)  # one that was just ended has its imports made anew while the answer is uploaded
                return end  # noqa: TRY300
            except WarmRefusedError as why:
                verdict = self._refused(digest, str(why))
        self._end(0)
        unproved = verdict is None and digest not in self._given_up
        end = self._alone.run(ready, source, target, limits, name=name, stop=stop, on_exit=nothing if unproved else on_exit)
        if unproved and end.ended_well and has_files(target):
            self.prove(ready, source, target, limits, end.seconds, stop)
        return end

    def prove(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, seconds: float, stop: threading.Event) -> Verdict | None:
        """Run a study warm that was run alone (outputs in ``target``, in ``seconds``), compare, keep the verdict.

        None where that cannot be said now.
        """
        other = self._folder / "proof"
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir(parents=True, mode=0o700)
        digest = ready.facts.digest
        try:
            end = self._run_warm(ready, source, other, limits, stop)
            _check_same(end, differences(target, other, uids_of(source)) if end.ended_well else ())
            reason = f"a study had the same outputs both ways, in {seconds:.1f} s alone and {end.seconds:.1f} s warm"
            left = self._left.get(digest, [])
            leave = tuple(str(name) for name, _, _ in left)
            return self._verdicts.write(digest, WARM, reason + left_to_studies(left), (seconds, end.seconds), leave)
        except WarmRefusedError as why:
            return self._refused(digest, str(why))
        except Exception as error:  # says nothing about the MAP: the next study of this digest is tried again, and this one is answered
            self._end(0)
            log.warning("whether this MAP can be hosted warm is not known yet (%s)", error.__class__.__name__)
            return None
        finally:
            shutil.rmtree(other, ignore_errors=True)

    def _refused(self, digest: str, why: str) -> Verdict | None:
        """Keep that it is hosted by study. Where the disk does not take that, the next study finds it anew."""
        self._end(0)
        try:
            return self._verdicts.write(digest, PER_STUDY, why)
        except OSError as error:
            log.warning("that this MAP is hosted by study could not be kept (%s)", error.__class__.__name__)
            return None

    def ahead(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, *, name: str) -> None:
        """Only where each study has a container of its own; the warm one is there already."""
        verdict = self._verdicts.read(ready.facts.digest)
        if verdict and verdict.hosting == PER_STUDY:
            self._alone.ahead(ready, source, target, limits, name=name)

    def drop(self, name: str) -> None:
        """Undo ``ahead``."""
        self._alone.drop(name)

    def ready_for(self, ready: ReadyMap, limits: Limits, number: int) -> bool:
        """Where it is hosted warm: once so many containers have made their imports. A MAP that nobody has proved yet runs alone."""
        digest = ready.facts.digest
        verdict = self._verdicts.read(digest)
        if digest in self._given_up or (verdict and verdict.hosting == PER_STUDY):
            return self._alone.ready_for(ready, limits, number)
        if verdict is None or number == 1:
            self._end(number)
            return number == 1
        if not self._get_ready(ready, limits, number):
            return False
        self._end(number)
        return self._ready(number)

    def is_settled(self, ready: ReadyMap) -> bool:
        """Once it was proved, or given up until the agent starts again."""
        digest = ready.facts.digest
        return digest in self._given_up or self._verdicts.read(digest) is not None

    def close(self) -> None:
        """End the containers, side by side: each takes the engine a while."""
        with self._lock:
            ended, self._idle, self._lent = [*self._idle, *self._lent], [], []
        if ended:
            with ThreadPoolExecutor(len(ended), "warm ends") as threads:
                list(threads.map(WarmContainer.close, ended))
        self._alone.close()

    def _run_warm(self, ready: ReadyMap, source: Path, target: Path, limits: Limits, stop: threading.Event) -> RunEnd:
        container = self._borrow(ready, limits)
        try:
            container.wait_ready(stop)
            self._left.setdefault(ready.facts.digest, container.left)
            end = container.run(source, target, effective_timeout(ready.spec, limits), stop)
        except FailedError:
            # The server itself ended. This study is tried again, and without it, so that it cannot fail for that reason twice.
            self._given_up.add(ready.facts.digest)
            self._give_back(container, worn=True)
            raise
        except BaseException:
            self._give_back(container, worn=True)
            raise
        if why := container.worn():
            log.info("the warm container is replaced: %s", why)
        self._give_back(container, worn=bool(why))
        return end

    def _borrow(self, ready: ReadyMap, limits: Limits) -> WarmContainer:
        """A container for one study, of those whose imports are made first. Raises WarmRefusedError."""
        container: WarmContainer | None = None
        while container is None:
            self._begin(ready, limits, 1)
            with self._lock:
                self._idle.sort(key=lambda each: not each.is_ready())
                if self._idle:  # another study that begins may have found the one that this one has begun
                    container = self._idle.pop(0)
                    self._lent.append(container)
        container.serves(ready.image, _of_warm(limits))  # a study that ended meanwhile may have given it the share that it had itself
        return container

    def _give_back(self, container: WarmContainer, *, worn: bool) -> None:
        with self._lock:
            self._lent = [each for each in self._lent if each is not container]
            if not worn:
                self._idle.append(container)
        if worn:
            container.close()

    def _begin(self, ready: ReadyMap, limits: Limits, number: int) -> None:
        """Have one idle, and so many with those that studies are in; what serves another image or has ended goes.

        Raises WarmRefusedError.
        """
        limits = _of_warm(limits)
        with self._lock:
            useless = [each for each in self._idle if not each.serves(ready.image, limits)]
            self._idle = [each for each in self._idle if each not in useless]
        for each in useless:
            each.close()
        python = python_command(ready.spec.command)
        if python is None:
            raise WarmRefusedError("its command is not Python with a script or a module")
        with self._lock:
            for _ in range(max(number - len(self._idle) - len(self._lent), 1 - len(self._idle))):
                self._made += 1
                folder = self._folder / f"study-{self._made}"
                self._idle.append(WarmContainer(self._engine, ready, python, limits, folder, self._leave(ready.facts.digest)))

    def _get_ready(self, ready: ReadyMap, limits: Limits, number: int) -> bool:
        """``_begin`` for a study that is answered, or that waits: neither fails of what this host lacks for another container."""
        if time.monotonic() < self._lacking_until:
            return False
        try:
            self._begin(ready, limits, number)
        except WarmRefusedError:
            return False  # the study that runs then says it
        except (OSError, RuntimeError) as error:
            log.warning("a warm container could not be started (%s); again in %.0f s", error.__class__.__name__, _LACKING_S)
            self._lacking_until = time.monotonic() + _LACKING_S
            return False
        return True

    def _end(self, number: int) -> None:
        """Leave so many, with those that studies are in; of more, those go whose imports are not made."""
        with self._lock:
            self._idle.sort(key=lambda each: not each.is_ready())
            keep = max(0, number - len(self._lent))
            ended, self._idle = self._idle[keep:], self._idle[:keep]
        for each in ended:
            each.close()

    def _ready(self, number: int) -> bool:
        with self._lock:
            return sum(each.is_ready() for each in self._idle) + len(self._lent) >= number

    def _leave(self, digest: str) -> list[str]:
        """What the first container of a digest has found that each study imports itself."""
        verdict = self._verdicts.read(digest)
        return list(verdict.leave) if verdict else [str(name) for name, _, _ in self._left.get(digest, [])]


class WarmContainer:
    """One running server: its container, its pipes, and the two folders that each study's files appear in."""

    def __init__(self, engine: Engine, ready: ReadyMap, python: PythonCommand, limits: Limits, folder: Path, leave: Iterable[str] = ()):
        self._engine, self._image, self._limits, self._folder = engine, ready.image, limits, folder
        self._name = f"monai-aws-warm-{os.getpid()}-{time.monotonic_ns() // 1000}"
        self._studies = 0
        self._baseline_kib = self._now_kib = 0
        self._trouble = ""
        self._ready = False
        self.left: list[Any] = []
        self._make_folders()
        wanted = warm_container(ready.image, ready.spec, python, _SERVER, self._input, self._output, limits, name=self._name)
        self._process = engine.start(wanted)
        self._log = Lines(self._process.stderr)
        self._answers = Answers(self._process.stdout)
        self._say(kind=python.kind, name=python.name, arguments=list(python.arguments), output=ready.spec.output_path, leave=list(leave))

    def serves(self, image: str, limits: Limits) -> bool:
        """Whether it is of this image, alive, and has these limits; of memory it is given another share where it can be."""
        if self._process.poll() is not None or self._trouble or image != self._image:
            return False
        if limits.memory_mib != self._limits.memory_mib and limits == replace(self._limits, memory_mib=limits.memory_mib):
            return self._limit_memory(limits)
        return limits == self._limits

    def is_ready(self) -> bool:
        """Whether its imports are made, without waiting for them."""
        return self._ready or self._answers.has_one()

    def wait_ready(self, stop: threading.Event) -> None:
        """Until the imports are made. Raises WarmRefusedError, FailedError(ENGINE_FAILED), InterruptedJobError."""
        if self._ready:
            return
        answer = self._answer(time.monotonic() + _READY_S, stop, None)
        if answer is None or not isinstance(answer.get("ready"), dict):
            reason = (answer or {}).get("refused")
            raise WarmRefusedError(str(reason)[:300]) if reason else self._never_answered()
        self._ready = True
        self.left = answer["ready"].get("left", [])
        self._baseline_kib = int(answer["ready"].get("anonymous_kib", 0))
        log.info("the warm container is ready after %.1f s of imports", float(answer["ready"].get("seconds", 0)))

    def run(self, source: Path, target: Path, timeout_s: float, stop: threading.Event) -> RunEnd:
        """One study. Raises FailedError(ENGINE_FAILED) where the server did not survive it, InterruptedJobError on ``stop``."""
        self._deliver(source)
        self._log.clear()
        self._studies += 1
        meter = self._engine.meter(self._name, bool(self._limits.gpus), warm=True)
        started = time.monotonic()
        self._say(timeout_s=timeout_s)
        answer = self._answer(started + timeout_s + _GRACE_S, stop, meter)
        ended = (answer or {}).get("ended")
        if not isinstance(ended, dict):
            return self._without_an_answer(meter, time.monotonic() - started, silent=answer is None)
        meter.sample()
        lines, is_whole = self._log.until(str(ended["marker"]))
        self._collect(target)
        self._now_kib = int(ended["anonymous_kib"])
        killed = meter.kills > 0
        if ended["signal"] or ended["timed_out"] or killed or ended["trouble"]:
            self._trouble = "; ".join(ended["trouble"]) or ("a study timed out" if ended["timed_out"] else "a study was killed")
        elif not is_whole:  # what comes late would be the next study's
            self._trouble = "a study's log did not come to its end in time"
        return self._end(int(ended["exit_code"]), meter, float(ended["seconds"]), lines, killed=killed, timed_out=bool(ended["timed_out"]))

    def worn(self) -> str:
        """Why the next study needs a new container; empty where it does not."""
        if self._trouble:
            return self._trouble
        if self._studies >= _STUDIES:
            return f"it has answered {self._studies} studies"
        grown = self._now_kib - self._baseline_kib
        return f"its server has grown by {grown >> 10} MiB" if grown > _GROWTH_KIB else ""

    def close(self) -> None:
        """Kill and remove it with everything in its folders."""
        self._trouble = "closed"
        began, stop = time.monotonic(), self._engine.stop
        while not self._ready and self._process.poll() is None and not self._engine.state(self._name) and stop.left(began, _CREATED_S) > 0:
            time.sleep(_TICK_S)  # one that is only being created could not be removed yet, and would be left
        self._engine.remove(self._name)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        shutil.rmtree(self._folder, ignore_errors=True)

    def _limit_memory(self, limits: Limits) -> bool:
        try:
            self._engine.limit_memory(self._name, limits.memory_mib)
        except EngineError as error:
            log.info("a warm container's memory could not be limited anew, so it is replaced (%s)", error)
            return False
        self._limits = limits
        return True

    # -- the two folders -------------------------------------------------------------------------------------------------------

    @property
    def _input(self) -> Path:
        return self._folder / "input"

    @property
    def _output(self) -> Path:
        return self._folder / "output"

    def _make_folders(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, mode=0o700)
        for path in (self._input, self._output):
            path.mkdir()
        self._reset_folders()

    def _reset_folders(self) -> None:
        """Empty, with the rights and owner of a fresh one. Raises FailedError where that cannot be had."""
        for folder in (self._input, self._output):
            for entry in folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            for attribute in os.listxattr(folder):
                os.removexattr(folder, attribute)
        self._input.chmod(0o755)
        self._output.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(self._output, self._limits.uid, self._limits.gid)

    def _deliver(self, source: Path) -> None:
        self._reset_folders()
        for path in sorted(source.rglob("*")):
            place = self._input / path.relative_to(source)
            if path.is_dir():
                place.mkdir(mode=0o755)
            else:
                os.link(path, place)

    def _collect(self, target: Path) -> None:
        for entry in list(self._output.iterdir()):
            entry.rename(target / entry.name)
        self._reset_folders()

    # -- talking ---------------------------------------------------------------------------------------------------------------

    def _say(self, **order: Any) -> None:
        stream = self._process.stdin
        try:
            if stream:
                stream.write(json.dumps(order).encode() + b"\n")
                stream.flush()
        except BrokenPipeError:
            return  # the missing answer tells

    def _answer(self, deadline: float, stop: threading.Event, meter: Meter | None) -> dict[str, Any] | None:
        """What the server says next, None where it says nothing in time."""
        while time.monotonic() < deadline:
            if stop.is_set():
                raise InterruptedJobError("the host is stopping")
            try:
                return self._answers.get(_TICK_S)
            except queue.Empty:
                if meter:
                    meter.sample()
        return None

    def _never_answered(self) -> FailedError:
        said = self._log.last()
        return FailedError(Code.ENGINE_FAILED, f"The warm container did not start: {said or 'no message'}.")

    def _without_an_answer(self, meter: Meter, seconds: float, *, silent: bool) -> RunEnd:
        """The server does not answer, or is gone: then what docker knows of it is the study's end, if it says one."""
        state = self._engine.state(self._name)
        self._trouble = "its server ended"
        out_of_memory = bool(state.get("OOMKilled")) or meter.kills > 0
        if not out_of_memory and not silent:
            raise FailedError(Code.ENGINE_FAILED, f"The warm container ended with exit code {state.get('ExitCode', 'unknown')}.")
        return self._end(137, meter, seconds, self._log.take(), killed=out_of_memory, timed_out=silent and not out_of_memory)

    def _end(self, code: int, meter: Meter, seconds: float, lines: tuple[str, ...], *, killed: bool, timed_out: bool) -> RunEnd:
        return RunEnd(
            exit_code=code, out_of_memory=killed, timed_out=timed_out, seconds=seconds, peak_bytes=meter.peak, peak_source=meter.source,
            peak_gpu_bytes=meter.gpu_peak, log_tail=lines, cpu_seconds=meter.cpu_seconds, hosting=WARM,
            held_bytes=meter.held, own_gpu_bytes=meter.gpu_own,
        )  # fmt: skip


class Lines:
    """The last lines of a study's log, read as they come."""

    def __init__(self, stream: IO[bytes] | None):
        self._kept: deque[str] = deque(maxlen=LOG_LINES + 2)  # the marker, and an empty line before it
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._read, args=(stream,), name="warm log", daemon=True).start()

    def until(self, marker: str, seconds: float = 10.0) -> tuple[tuple[str, ...], bool]:
        """The lines before the marker, which ends a study's log; and whether it has come."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or marker in self._kept, seconds)
            lines = list(self._kept)
            self._kept.clear()
        is_whole = marker in lines
        if is_whole:
            lines = lines[: lines.index(marker)]
        if lines and not lines[-1]:
            lines.pop()
        return tuple(lines[-LOG_LINES:]), is_whole

    def take(self) -> tuple[str, ...]:
        """What there is now."""
        with self._changed:
            return tuple(self._kept)[-LOG_LINES:]

    def last(self) -> str:
        """The last line with something in it, shortened."""
        return next((line.strip()[-300:].rstrip(".") for line in reversed(self.take()) if line.strip()), "")

    def clear(self) -> None:
        """Forget what was said before a study."""
        with self._changed:
            self._kept.clear()

    def _read(self, stream: IO[bytes] | None) -> None:
        for line in _bounded(stream, LINE_BYTES):
            with self._changed:
                self._kept.append(line.decode("utf-8", "replace").rstrip("\r\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Answers:
    """The server's lines, read as they come; what is no JSON object, or the end, is empty."""

    def __init__(self, stream: IO[bytes] | None):
        self._found: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), name="warm answers", daemon=True).start()

    def get(self, seconds: float) -> dict[str, Any]:
        """The next one. Raises queue.Empty."""
        return self._found.get(timeout=seconds)

    def has_one(self) -> bool:
        """Whether there is one."""
        return not self._found.empty()

    def _read(self, stream: IO[bytes] | None) -> None:
        for line in _bounded(stream, 1 << 20):
            try:
                value = json.loads(line)
            except ValueError:
                value = {}
            self._found.put(value if isinstance(value, dict) else {})
        self._found.put({})


def left_to_studies(left: Iterable[Any]) -> str:
    """What the server has left out of its imports, as it says it (name, seconds, what such an import does), as the end of a sentence.

    One that it was told of has no seconds and no cause: nothing has tried it then.
    """
    return "".join(
        f"; {name} is imported by each study itself" + (f" ({seconds:.1f} s): it {does}" if does else "") for name, seconds, does in left
    )


def _of_warm(limits: Limits) -> Limits:
    return replace(limits, labels=((CONTAINER_LABEL, WARM),))


def _check_same(end: RunEnd, unlike: tuple[str, ...]) -> None:
    """Raise WarmRefusedError unless the warm run answered, and as the other did."""
    if not end.ended_well:
        raise WarmRefusedError(f"a study that it answers alone ends with exit code {end.exit_code} warm")
    if unlike:
        raise WarmRefusedError(f"a study's outputs differ between the two ways ({'; '.join(unlike)})")


def _bounded(stream: IO[bytes] | None, limit: int) -> Iterator[bytes]:
    try:
        while stream is not None and (line := stream.readline(limit)):
            yield line
    except ValueError:
        return  # closed while it was read


def uids_of(source: Path) -> Iterable[str]:
    """Every UID that the source study brings along."""
    found: set[str] = set()
    for path in source.rglob("*"):
        if path.is_file():
            data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            found |= {str(element.value) for element in data if element.VR == "UI"}
    return found
