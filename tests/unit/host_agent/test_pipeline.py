"""Several jobs in hand at once, on real threads: what overlaps, what must not, and how each ends."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.uid import generate_uid

from monai_aws_pipeline.contract import ResultRecord, job_done_key, quarantine_key, result_key, study_id
from monai_aws_pipeline.host_agent import pipeline as pipeline_module
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.cost_ledger import Bill
from monai_aws_pipeline.host_agent.errors import Code, FailedError, InterruptedJobError
from monai_aws_pipeline.host_agent.job_steps import Ended, Outcome
from monai_aws_pipeline.host_agent.pipeline import Pipeline, WorkFolderError
from monai_aws_pipeline.host_agent.results import commit
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.hosting import OnExit, PerStudy, nothing
from monai_aws_pipeline.host_agent.runtime.live_map import ReadyMap
from tests.unit.host_agent.bench import SECRET, Bench, answers, handle, zip_of
from tests.unit.host_agent.pipeline_bench import HeldMap, PromptQueue, agent, prompt_host, until, uploads


class HeldStore(Store):
    """A bucket that takes no outputs of a job before ``released`` is set."""

    def __init__(self, client: Any, bucket: str, held: str):
        super().__init__(client, bucket)
        self.held, self.reached, self.released = held, threading.Event(), threading.Event()

    def upload(self, path: Path, key: str, content_type: str) -> None:
        if self.held in key:
            self.reached.set()
            assert self.released.wait(30)
        super().upload(path, key, content_type)


def test_the_next_studies_are_fetched_and_the_last_one_published_while_one_is_inferred(bench: Bench, tmp_path: Path) -> None:
    uids, messages, deliveries = uploads(bench, tmp_path, 5)
    store = HeldStore(bench.s3, "studies", messages[0].job)
    bench.engine.run_map = the_map = HeldMap(uids[1])
    host = replace(bench.host(), store=store)
    pipeline = Pipeline(host)
    ends = [pipeline.accept(delivery) for delivery in deliveries[:2]]
    assert store.reached.wait(30), "the first is being published"
    assert the_map.reached.wait(30), "the second is being inferred"
    for later in (2, 3, 4):
        assert pipeline.wait_for_place(10)
        ends.append(pipeline.accept(deliveries[later]))
        assert len(list((host.work / messages[later].job).glob("study-0/input/*.dcm"))) == 3, "it lies here, unpacked and checked"
    assert not pipeline.wait_for_place(0), "no more than three wait for the MAP"
    assert not any(end.done() for end in ends)
    the_map.released.set()
    until(lambda: all(end.done() for end in ends[2:]), "they overtake the first, which its bucket holds up")
    store.released.set()
    pipeline.close()
    assert [end.result(0) for end in ends] == [Ended(Outcome.ANSWERED)] * 5
    assert the_map.most == 1
    assert list(host.work.iterdir()) == []
    record = bench.record(result_key(study_id(SECRET, uids[2]), messages[2].job))
    assert record.timings.waiting > 0
    assert record.timings.total >= record.timings.waiting + record.timings.download + record.timings.upload


def test_the_next_study_begins_when_the_map_is_over_and_not_before(bench: Bench, tmp_path: Path) -> None:
    """The engine takes its time to say how the first ended. Meanwhile the second runs, and the third waits for it."""
    uids, messages, deliveries = uploads(bench, tmp_path, 3)
    began: list[str] = []
    goes_on, known = [threading.Event() for _ in uids], [threading.Event() for _ in uids]

    class SlowEnd(PerStudy):
        def run(self, ready: ReadyMap, source: Path, target: Path, *_: Any, on_exit: OnExit = nothing, **__: Any) -> RunEnd:
            number = next(n for n, uid in enumerate(uids) if uid.encode() in next(source.iterdir()).read_bytes())
            began.append(messages[number].job)
            assert goes_on[number].wait(30)
            end = answers(source, target)
            on_exit()
            assert known[number].wait(30)
            return end

    host = bench.host()
    pipeline = Pipeline(replace(host, hosting=SlowEnd(host.engine)))
    ends = [pipeline.accept(delivery) for delivery in deliveries]
    until(lambda: len(began) == 1, "the first runs")
    time.sleep(0.2)
    assert began == [messages[0].job]
    goes_on[0].set()
    until(lambda: len(began) == 2, "the second runs while the first's end is not known")
    goes_on[1].set()
    time.sleep(0.2)
    assert began == [message.job for message in messages[:2]], "two ends that are not known are enough"
    known[0].set()
    until(lambda: len(began) == 3, "the third runs")
    assert ends[0].result(30) == Ended(Outcome.ANSWERED)
    assert not ends[1].done()
    for event in (*goes_on, *known):
        event.set()
    pipeline.close()
    assert [end.result(0) for end in ends] == [Ended(Outcome.ANSWERED)] * 3


def test_told_to_stop_it_finishes_what_is_published_and_hands_over_the_rest_uncounted(bench: Bench, tmp_path: Path) -> None:
    uids, messages, deliveries = uploads(bench, tmp_path, 3)
    store = HeldStore(bench.s3, "studies", messages[0].job)
    host = replace(bench.host(), store=store)
    inferring = threading.Event()

    def stoppable(source: Path, target: Path) -> RunEnd:
        if uids[1].encode() in next(source.iterdir()).read_bytes():
            inferring.set()
            assert host.stop.wait(30)
            raise InterruptedJobError("stopping")
        return answers(source, target)

    bench.engine.run_map = stoppable
    pipeline = Pipeline(host)
    ends = [pipeline.accept(delivery) for delivery in deliveries]
    assert store.reached.wait(30)
    assert inferring.wait(30)
    host.stop.set()
    until(lambda: ends[1].done() and ends[2].done(), "the two are handed over at once")
    store.released.set()
    pipeline.close()
    assert [end.result(0).outcome for end in ends] == [Outcome.ANSWERED, Outcome.INTERRUPTED, Outcome.INTERRUPTED]
    again = [delivery for _ in range(3) if (delivery := host.queue.take(0))]
    assert sorted((delivery.body, delivery.receives) for delivery in again) == sorted((message.to_json(), 1) for message in messages[1:])
    assert list(host.work.iterdir()) == []
    assert bench.stored("quarantine/") == []


def test_a_step_that_fails_ends_its_own_job_only(bench: Bench, tmp_path: Path) -> None:
    uids, messages, deliveries = uploads(bench, tmp_path, 4)

    class BrokenStore(Store):
        def upload(self, path: Path, key: str, content_type: str) -> None:
            if messages[1].job in key:
                raise ZeroDivisionError
            super().upload(path, key, content_type)

        def download(self, key: str, version: str, etag: str, target: Path) -> int:
            if key == messages[2].key:
                raise ZeroDivisionError
            return super().download(key, version, etag, target)

    def picky(source: Path, target: Path) -> RunEnd:
        if uids[0].encode() in next(source.iterdir()).read_bytes():
            raise ZeroDivisionError
        return answers(source, target)

    bench.engine.run_map = picky
    pipeline = Pipeline(replace(bench.host(), store=BrokenStore(bench.s3, "studies")))
    ends = [pipeline.accept(delivery) for delivery in deliveries]
    pipeline.close()
    assert [end.result(0).outcome for end in ends] == [Outcome.GIVEN_BACK] * 3 + [Outcome.ANSWERED]
    assert [key for message in messages if (key := job_done_key(message.job)) in bench.stored()] == [job_done_key(messages[3].job)]
    assert list((bench.folder / "work").iterdir()) == []


def test_an_error_of_our_own_at_the_last_try_ends_in_quarantine_and_not_in_silence(bench: Bench, tmp_path: Path) -> None:
    uids, messages, (delivery,) = uploads(bench, tmp_path, 1)

    def broken(source: Path, target: Path) -> RunEnd:
        raise ZeroDivisionError

    bench.engine.run_map = broken
    pipeline = Pipeline(bench.host())
    end = pipeline.accept(replace(delivery, receives=3, last=True))
    pipeline.close()
    assert end.result(0).outcome is Outcome.ANSWERED
    record = bench.record(quarantine_key(messages[0].job, "result.json", study_id(SECRET, uids[0])))
    assert record.error
    assert record.error.code == "internal"


def test_a_full_disk_fails_its_job_with_a_code_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    _, messages, (delivery,) = uploads(bench, tmp_path, 1)

    class FullStore(Store):
        def download(self, key: str, version: str, etag: str, target: Path) -> int:
            target.write_bytes(b"half of it")
            return self._try(lambda: Path("/dev/full").write_bytes(b"the rest"))

    host = replace(bench.host(), store=FullStore(bench.s3, "studies"))
    for receives, outcome in ((1, Outcome.GIVEN_BACK), (3, Outcome.ANSWERED)):
        pipeline = Pipeline(host)
        end = pipeline.accept(replace(delivery, receives=receives, last=receives == 3))
        pipeline.close()
        assert end.result(0).outcome is outcome
        assert list(host.work.iterdir()) == []
    record = bench.record(quarantine_key(messages[0].job, "result.json"))
    assert record.error
    assert record.error.code == "disk_full"
    assert quarantine_key(messages[0].job, "upload.zip") in bench.stored(), "the original is kept, because S3 copies it without this disk"


def test_the_second_message_of_a_job_in_hand_holds_up_nobody(bench: Bench, tmp_path: Path) -> None:
    uids, messages, (delivery,) = uploads(bench, tmp_path, 1)
    bench.engine.run_map = the_map = HeldMap(uids[0])
    bench.send(messages[0])
    twin = bench.host().queue.take(0)
    assert twin
    pipeline = Pipeline(bench.host())
    first = pipeline.accept(delivery)
    assert the_map.reached.wait(30)
    assert pipeline.accept(twin).result(0) == Ended(Outcome.REPEATED), "at once, while the first is inferred"
    assert not first.done()
    bench.host().queue.give_back(delivery)
    assert bench.messages() == 1, "the first's, which comes back if this host dies"
    the_map.released.set()
    pipeline.close()
    assert first.result(0).outcome is Outcome.ANSWERED
    assert bench.engine.runs == 1
    assert bench.messages() == 0


def test_a_second_receipt_of_the_same_message_waits_for_the_first(bench: Bench, tmp_path: Path) -> None:
    uids, _, (delivery,) = uploads(bench, tmp_path, 1)
    bench.engine.run_map = the_map = HeldMap(uids[0])
    bench.host().queue.give_back(delivery)
    twin = bench.host().queue.take(0)
    assert twin
    assert twin.message == delivery.message
    pipeline = Pipeline(bench.host())
    first = pipeline.accept(delivery)
    assert the_map.reached.wait(30)
    second: list[Any] = []
    taking = threading.Thread(target=lambda: second.append(pipeline.accept(twin)))
    taking.start()
    time.sleep(0.1)
    assert not second
    the_map.released.set()
    taking.join(30)
    pipeline.close()
    assert (first.result(0).outcome, second[0].result(0).outcome) == (Outcome.ANSWERED, Outcome.REPEATED)
    assert bench.engine.runs == 1
    assert bench.messages() == 0


def test_without_room_on_the_disk_nothing_is_fetched_ahead(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uids, messages, deliveries = uploads(bench, tmp_path, 2)
    bench.engine.run_map = the_map = HeldMap(uids[0])
    monkeypatch.setattr(pipeline_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    host, signs = bench.host(), list[int]()
    pipeline = Pipeline(host, lambda: signs.append(1))
    first = pipeline.accept(deliveries[0])
    assert the_map.reached.wait(30)
    second: list[Any] = []
    taking = threading.Thread(target=lambda: second.append(pipeline.accept(deliveries[1])))
    taking.start()
    before = len(signs)
    until(lambda: len(signs) > before + 1, "who waits for room says that the agent lives")
    assert [path.name for path in host.work.iterdir()] == [messages[0].job]
    the_map.released.set()
    taking.join(30)
    pipeline.close()
    assert [end.result(0).outcome for end in (first, *second)] == [Outcome.ANSWERED] * 2


def test_the_seconds_of_overlapping_studies_are_charged_once(bench: Bench, tmp_path: Path) -> None:
    uids, messages, deliveries = uploads(bench, tmp_path, 3)
    host = replace(bench.host(), bill=Bill(take_boot=iter([20.0] + [0.0] * 9).__next__))
    began = time.monotonic()
    pipeline = Pipeline(host)
    for delivery in deliveries:
        pipeline.accept(delivery)
    pipeline.close()
    lasted = time.monotonic() - began
    records = [bench.record(result_key(study_id(SECRET, uid), message.job)) for uid, message in zip(uids, messages, strict=True)]
    assert sorted(record.timings.boot for record in records) == [0, 0, 20]
    charged = sum(record.cost.shares["inference"] for record in records) / 0.526 * 3600
    assert 0 < charged <= lasted + 0.02
    assert sum(record.timings.total - record.timings.queued for record in records) > charged


def test_what_a_decided_answer_was_charged_is_charged_to_no_other_when_its_record_was_written_later(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bill, write = Bill(take_boot=iter([20.0] + [0.0] * 9).__next__), commit._write

    def once(*_: object) -> ResultRecord:
        monkeypatch.setattr(commit, "_write", write)
        raise FailedError(Code.STORAGE_FAILED, "S3 does not answer.")

    monkeypatch.setattr(commit, "_write", once)
    host = replace(bench.host(), bill=bill)
    uids, messages, deliveries = uploads(bench, tmp_path, 1)
    assert handle(host, deliveries[0]).outcome is Outcome.GIVEN_BACK
    assert bill.charge().boot == 0, "whoever comes next does not pay it again"
    assert handle(host, deliveries[0]).outcome is Outcome.ANSWERED
    assert bench.record(result_key(study_id(SECRET, uids[0]), messages[0].job)).timings.boot == 20


# ------------------------------------------------------------------------------------------------------------------ the agent's life


def test_the_agent_answers_all_there_is_and_then_stops_the_machine_once(bench: Bench, tmp_path: Path) -> None:
    jobs = [bench.upload(f"input/{number}.zip", zip_of(tmp_path, generate_uid())) for number in range(5)]
    for job in jobs[:3]:
        bench.send(job)
    bench.engine.run_map = the_map = HeldMap()
    off: list[int] = []
    agent(bench, prompt_host(bench), off).run()
    assert off == [5], "off once, with every job done"
    assert (bench.engine.runs, the_map.most) == (5, 1)
    assert bench.messages() == 0
    assert Bill(bench.folder / "unpaid.json").charge().idle >= 0.6, "the idle tail waits for the next study"


def test_what_arrives_in_the_last_moment_keeps_the_machine_on(bench: Bench, tmp_path: Path) -> None:
    host, off, late = prompt_host(bench), list[int](), zip_of(tmp_path, generate_uid())

    class Queue(PromptQueue):
        looks = 0

        def waiting(self) -> int:
            self.looks += 1
            if self.looks == 1:
                bench.upload("input/late.zip", late)
            return super().waiting()

    agent(bench, replace(host, queue=Queue(bench.sqs, host.config.jobs_queue)), off).run()
    assert off == [1]


def test_a_map_that_is_being_proved_keeps_the_machine_on(bench: Bench) -> None:
    off, proved_until = list[int](), time.monotonic() + 2
    agent(bench, prompt_host(bench), off, lambda: time.monotonic() < proved_until).run()
    assert off == [0]
    assert time.monotonic() >= proved_until


def test_a_folder_that_cannot_be_wiped_ends_the_agent(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.upload("input/a.zip", zip_of(tmp_path, generate_uid()))
    host, off = prompt_host(bench), list[int]()
    host.work.mkdir()
    real = shutil.rmtree
    monkeypatch.setattr(
        pipeline_module.shutil, "rmtree", lambda path, **options: None if Path(path).parent == host.work else real(path, **options)
    )
    with pytest.raises(WorkFolderError):
        agent(bench, host, off).run()
    assert off == []


def test_a_queue_that_does_not_answer_does_not_keep_a_machine_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    host, off = prompt_host(bench), list[int]()
    bench.sqs.delete_queue(QueueUrl=bench.url)
    monkeypatch.setattr("monai_aws_pipeline.host_agent.agent._QUEUE_PAUSE_S", 0.1)
    agent(bench, host, off).run()
    assert off == [0]
