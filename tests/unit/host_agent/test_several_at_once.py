"""Several studies inferred at once: each ends by itself, what fails beside others is run again alone, and a stop finds all of them."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import ResultRecord, Status, study_id
from monai_aws_pipeline.host_agent import pipeline as pipeline_module
from monai_aws_pipeline.host_agent.at_once import MOST, AtOnce, Machine
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.intake.map_requirements import requirements_of
from monai_aws_pipeline.host_agent.job_steps import Ended, HostContext, InferenceRun, OneStudy, Outcome, ReceivedJob, publish
from monai_aws_pipeline.host_agent.pipeline import Hands, Pipeline
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.maps.spec.series_rules import LABEL_RULES
from tests.unit.host_agent.bench import SECRET, WELL, Bench, answers, zip_of
from tests.unit.host_agent.host_config import DIGEST
from tests.unit.host_agent.pipeline_bench import until, uploads

GIB = 1 << 30
OTHER = "sha256:" + "9" * 64
OUT_OF_MEMORY = replace(WELL, exit_code=137, out_of_memory=True)
OUT_OF_GPU = replace(WELL, exit_code=1, log_tail=("RuntimeError: some_library: allocation of 3 GiB was not possible",))


def host_with(bench: Bench, number: int) -> HostContext:
    """A host that infers so many at once of a MAP that it has measured."""
    host = bench.host()
    at_once = AtOnce(str(number), Machine(64 * GIB, 4, 1 << 20), host.config.limits)
    for digest in (DIGEST, OTHER):
        at_once.used(digest, replace(WELL, peak_bytes=GIB // 8))
    return replace(host, at_once=at_once)


@dataclass
class CrowdedMap:
    """Runs wait until ``meet`` of them are inside. ``beside`` says how a study ends that is not alone, by its number."""

    uids: list[str]
    meet: int = 2
    beside: Callable[[int, Path, Path], RunEnd] = field(default=lambda _, source, target: answers(source, target))
    alone: Callable[[int, Path, Path], RunEnd] = field(default=lambda _, source, target: answers(source, target))
    running: int = 0
    most: int = 0
    runs: list[int] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    met: bool = False

    def __call__(self, source: Path, target: Path) -> RunEnd:
        number = next(n for n, uid in enumerate(self.uids) if uid.encode() in next(source.iterdir()).read_bytes())
        with self.changed:
            self.runs.append(number)
            self.running += 1
            self.most = max(self.most, self.running)
            self.met = self.met or self.running >= self.meet
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.met, 30), "so many are to run at once"
            ways = self.beside if self.runs.count(number) == 1 and number < self.meet else self.alone
        end = ways(number, source, target)
        with self.changed:
            self.running -= 1
        return end


def answer_all(bench: Bench, folder: Path, the_map: CrowdedMap, number: int, host: HostContext | None = None) -> list[Ended]:
    """Have the uploads answered on a host that infers so many at once."""
    the_map.uids, _, deliveries = uploads(bench, folder, len(the_map.uids))
    bench.engine.run_map = the_map
    pipeline = Pipeline(host or host_with(bench, number))
    ends = [pipeline.accept(delivery) for delivery in deliveries if pipeline.wait_for_place(30)]
    pipeline.close()
    assert not pipeline.broken
    assert list((bench.folder / "work").iterdir()) == []
    return [end.result(0) for end in ends]


def test_two_run_at_once_each_with_an_end_of_its_own(bench: Bench, tmp_path: Path) -> None:
    the_map = CrowdedMap([""] * 6)
    ends = answer_all(bench, tmp_path, the_map, 2)
    assert ends == [Ended(Outcome.ANSWERED)] * 6
    assert the_map.most == 2
    records = [bench.record(key) for key in bench.stored("output/") if key.endswith("result.json")]
    assert {record.study for record in records} == {study_id(SECRET, uid) for uid in the_map.uids}
    assert max(record.resources.beside for record in records) == 1


def test_four_run_at_once(bench: Bench, tmp_path: Path) -> None:
    the_map = CrowdedMap([""] * 8, meet=4)
    assert answer_all(bench, tmp_path, the_map, 4) == [Ended(Outcome.ANSWERED)] * 8
    assert the_map.most == 4


def _nothing(*_: object) -> RunEnd:
    return WELL


def _broken(*_: object) -> RunEnd:
    raise FailedError(Code.ENGINE_FAILED, "The warm container ended with exit code 137.")


@pytest.mark.parametrize(
    "beside",
    [
        lambda *_: OUT_OF_MEMORY,
        lambda *_: OUT_OF_GPU,
        lambda *_: replace(WELL, exit_code=1, timed_out=True),
        _nothing,
        _broken,
    ],
    ids=["host memory", "GPU memory in words of its own", "too slow beside others", "it ends well and has written nothing", "engine"],
)
def test_what_fails_beside_another_is_run_again_alone_and_answered(
    bench: Bench, tmp_path: Path, beside: Callable[[int, Path, Path], RunEnd]
) -> None:
    the_map = CrowdedMap([""] * 4, beside=lambda n, source, target: beside(n, source, target) if n == 1 else answers(source, target))
    host = host_with(bench, 2)
    assert answer_all(bench, tmp_path, the_map, 2, host) == [Ended(Outcome.ANSWERED)] * 4
    assert the_map.runs.count(1) == 2
    assert bench.stored("quarantine/") == []
    assert host.at_once.number(DIGEST) == 1, "two at once were too many"


def test_who_meets_its_own_share_of_the_memory_beside_others_was_not_disturbed(bench: Bench, tmp_path: Path) -> None:
    host = host_with(bench, 2)
    at_once = AtOnce("2", Machine(8 * GIB, 4, 1 << 20), host.config.limits)
    at_once.used(DIGEST, replace(WELL, peak_bytes=GIB // 8))
    share = at_once.limits(DIGEST).memory_mib
    assert share < host.config.limits.memory_mib
    the_map = CrowdedMap([""] * 4, beside=lambda n, source, target: OUT_OF_MEMORY if n == 1 else answers(source, target))
    assert answer_all(bench, tmp_path, the_map, 2, replace(host, at_once=at_once)) == [Ended(Outcome.ANSWERED)] * 4
    assert at_once._of(DIGEST).ceiling == MOST
    assert at_once._of(DIGEST).use.memory_bytes == share << 20, "it takes at least what it had"


@pytest.mark.parametrize("failed", [OUT_OF_MEMORY, OUT_OF_GPU], ids=["by the kernel", "in words of its own"])
def test_who_fails_with_a_share_of_the_memory_and_nothing_beside_it_is_answered_with_all_of_it(
    bench: Bench, tmp_path: Path, failed: RunEnd
) -> None:
    host = host_with(bench, 2)
    at_once = AtOnce("2", Machine(8 * GIB, 4, 1 << 20), host.config.limits)
    at_once.used(DIGEST, replace(WELL, peak_bytes=GIB // 8))
    share = at_once.limits(DIGEST).memory_mib
    the_map = CrowdedMap([""], meet=1, beside=lambda *_: failed)
    assert answer_all(bench, tmp_path, the_map, 2, replace(host, at_once=at_once)) == [Ended(Outcome.ANSWERED)]
    assert the_map.runs == [0, 0]
    assert bench.stored("quarantine/") == []
    assert at_once._of(DIGEST).ceiling == MOST
    assert at_once._of(DIGEST).use.memory_bytes == share << 20


def test_it_is_run_alone_by_the_same_map_in_a_container_of_its_own_whatever_is_live_by_then(bench: Bench, tmp_path: Path) -> None:
    host = host_with(bench, 2)
    at_once = AtOnce("2", Machine(8 * GIB, 4, 1 << 20), host.config.limits)
    for digest in (DIGEST, OTHER):
        at_once.used(digest, replace(WELL, peak_bytes=GIB // 8))
    turns, plain_ready, plain_run = iter([DIGEST, OTHER]), bench.live_map.ready, bench.engine.run
    bench.live_map.ready = lambda request, stop: plain_ready(next(turns), stop)  # type: ignore[method-assign]
    ran: list[tuple[str, str]] = []

    def run(wanted: object, **how: object) -> RunEnd:
        ran.append((wanted.image, wanted.name))  # type: ignore[attr-defined]
        return plain_run(wanted, **how)  # type: ignore[arg-type]

    bench.engine.run = run  # type: ignore[method-assign,assignment]
    the_map = CrowdedMap([""], meet=1, beside=lambda *_: OUT_OF_MEMORY)
    assert answer_all(bench, tmp_path, the_map, 2, replace(host, at_once=at_once)) == [Ended(Outcome.ANSWERED)]
    (first, name), (second, other_name) = ran
    assert first == second
    assert first.endswith(DIGEST)
    assert name != other_name, "the engine may still be removing the first"


def test_a_study_that_cannot_be_run_again_leaves_the_one_before_it_in_peace(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = bench.upload("input/two.zip", zip_of(tmp_path, str(generate_uid()), str(generate_uid())))
    bench.upload("input/other.zip", zip_of(tmp_path, str(generate_uid())))
    beside, failed, published = threading.Event(), threading.Event(), list[bool]()

    def a_map(source: Path, target: Path) -> RunEnd:
        if source.parent.parent.name != two.job:
            beside.set()
            assert failed.wait(30)
        elif source.parent.name == "study-1":
            assert beside.wait(30)
            return OUT_OF_MEMORY
        return answers(source, target)

    def full(*_: object) -> OneStudy:
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    def slow(context: HostContext, received: ReceivedJob, tried: InferenceRun) -> ResultRecord:
        if tried.one.staged.folder.name == "study-0" and received.message.job == two.job:
            assert failed.wait(30)
            time.sleep(0.5)
            published.append(tried.one.staged.folder.exists())
        return publish(context, received, tried)

    monkeypatch.setattr(pipeline_module, "once_more", full)
    monkeypatch.setattr(pipeline_module, "publish", slow)
    bench.engine.run_map = a_map
    host = host_with(bench, 2)
    deliveries = sorted((delivery for _ in range(2) if (delivery := host.queue.take(0))), key=lambda each: "other" in each.body)
    pipeline = Pipeline(host)
    ends = [pipeline.accept(delivery) for delivery in deliveries]
    pipeline.close()
    assert [end.result(0).outcome for end in ends] == [Outcome.GIVEN_BACK, Outcome.ANSWERED]
    assert published == [True], "its folder was there until it was published"
    assert sum(key.endswith("result.json") for key in bench.stored("output/")) == 2
    assert list((bench.folder / "work").iterdir()) == []


def test_what_fails_alone_as_well_has_failed_and_closes_nothing(bench: Bench, tmp_path: Path) -> None:
    fails = replace(WELL, exit_code=3, log_tail=("it is the study",))
    the_map = CrowdedMap(
        [""] * 4,
        beside=lambda n, source, target: fails if n == 1 else answers(source, target),
        alone=lambda n, source, target: fails if n == 1 else answers(source, target),
    )
    host = host_with(bench, 2)
    ends = answer_all(bench, tmp_path, the_map, 2, host)
    assert ends == [Ended(Outcome.ANSWERED)] * 4
    assert the_map.runs.count(1) == 2
    assert host.at_once.number(DIGEST) == 2
    (failed,) = [bench.record(key) for key in bench.stored("quarantine/") if key.endswith("result.json")]
    assert (failed.status, failed.study) == (Status.FAILED, study_id(SECRET, the_map.uids[1]))


def test_a_study_that_is_refused_before_the_map_ran_is_not_tried_alone(bench: Bench, tmp_path: Path) -> None:
    rules = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'
    bench.live_map.requirements = requirements_of({LABEL_RULES: rules})
    the_map = CrowdedMap([""] * 3)
    assert answer_all(bench, tmp_path, the_map, 2) == [Ended(Outcome.ANSWERED)] * 3
    assert the_map.runs == []
    codes = {
        record.error.code for key in bench.stored("quarantine/") if key.endswith("result.json") and (record := bench.record(key)).error
    }
    assert codes == {"no_matching_series"}


def test_another_digest_begins_when_the_studies_of_the_first_have_ended(bench: Bench, tmp_path: Path) -> None:
    host, seen = host_with(bench, 2), list[tuple[str, frozenset[str]]]()
    running: list[str] = []
    lock = threading.Lock()
    plain = bench.engine.run

    def run(wanted: object, **how: object) -> RunEnd:
        image = wanted.image  # type: ignore[attr-defined]
        with lock:
            running.append(image)
            seen.append((image, frozenset(running)))
        end = plain(wanted, **how)  # type: ignore[arg-type]
        with lock:
            running.remove(image)
        return end

    bench.engine.run = run  # type: ignore[method-assign,assignment]
    _, _, deliveries = uploads(bench, tmp_path, 6)
    turns = iter([DIGEST, DIGEST, OTHER, OTHER, DIGEST, DIGEST] * 9)
    plain_ready = bench.live_map.ready
    bench.live_map.ready = lambda request, stop: plain_ready(next(turns), stop)  # type: ignore[method-assign]
    pipeline = Pipeline(host)
    ends = [pipeline.accept(delivery) for delivery in deliveries if pipeline.wait_for_place(30)]
    pipeline.close()
    assert [end.result(0) for end in ends] == [Ended(Outcome.ANSWERED)] * 6
    assert all(images == {image} for image, images in seen), "never two beside each other"
    assert len({image for image, _ in seen}) == 2


def test_told_to_stop_with_several_in_hand_it_hands_all_of_them_over_uncounted(bench: Bench, tmp_path: Path) -> None:
    host = host_with(bench, 2)
    inside: list[int] = []

    def stoppable(source: Path, target: Path) -> RunEnd:
        inside.append(1)
        assert host.stop.wait(30)
        raise InterruptedJobError("stopping")

    bench.engine.run_map = stoppable
    _, messages, deliveries = uploads(bench, tmp_path, 4)
    pipeline = Pipeline(host)
    ends = [pipeline.accept(delivery) for delivery in deliveries]
    until(lambda: len(inside) == 2, "two run")
    host.stop.set()
    pipeline.close()
    assert [end.result(10).outcome for end in ends] == [Outcome.INTERRUPTED] * 4
    again = [delivery for _ in range(4) if (delivery := host.queue.take(0))]
    assert sorted((each.body, each.receives) for each in again) == sorted((message.to_json(), 1) for message in messages)
    assert bench.stored("output/") == bench.stored("quarantine/") == []


def test_more_are_fetched_ahead_the_more_run_at_once() -> None:
    assert (Hands(1).ahead, Hands(1).in_hand) == (3, 6)
    assert (Hands(4).ahead, Hands(4).in_hand) == (6, 13)
