"""The agent's decisions, without any cloud or engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.contract import HostFacts, JobDone, JobMessage, Rerun, ResultError, Timings
from monai_aws_pipeline.host_agent.agent import BootOnce, Preparing
from monai_aws_pipeline.host_agent.aws.instance_metadata import seconds_since_start
from monai_aws_pipeline.host_agent.config import AgentConfig, ConfigError, parse_config
from monai_aws_pipeline.host_agent.cost_ledger import Bill, Seconds
from monai_aws_pipeline.host_agent.errors import REMEDIES, Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.intake.originals import Kind, kept_keys, source_of, upload_name
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.host_agent.job_steps import (
    PREFETCH_MARGIN,
    as_job_error,
    completed,
    cost_of,
    judge_end,
    retry_seconds,
    room_to_prefetch,
)
from monai_aws_pipeline.host_agent.pipeline import fresh_folder
from monai_aws_pipeline.host_agent.results.commit import error_json
from monai_aws_pipeline.host_agent.runtime.engine import RunEnd
from monai_aws_pipeline.host_agent.runtime.live_map import image_for
from tests.unit.host_agent.host_config import DIGEST, GOOD

ENDED = RunEnd(0, out_of_memory=False, timed_out=False, seconds=1, peak_bytes=1, peak_source="", peak_gpu_bytes=None, log_tail=())


def message(key: str, request: str = "") -> JobMessage:
    return JobMessage.for_object(bucket="studies", key=key, version="", etag="e", size=1, request=request)


# ------------------------------------------------------------------------------------------------------------------------- config


def test_a_good_agent_json_is_read() -> None:
    config = parse_config(json.dumps(GOOD | {"unknown": 1}))
    assert isinstance(config, AgentConfig)
    assert config.limits.memory_mib == 4096
    assert config.intake == IntakeLimits()
    assert parse_config(json.dumps(GOOD | {"unpack_max_ratio": 90, "upload_max_mib": 1})).intake == replace(
        IntakeLimits(), ratio=90, upload_bytes=1 << 20
    )


def test_every_wrong_field_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_config(json.dumps({"bucket": "UPPER", "map_timeout_s": "600", "usd_per_hour": -1, "gpus": "all; reboot"}))
    text = str(wrong.value)
    assert all(name in text for name in GOOD), text
    assert "UPPER" not in text


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner),
    )
)
def test_a_hostile_agent_json_is_a_config_error_and_nothing_else(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_config(json.dumps(value))


@given(st.text())
def test_a_text_that_is_no_json_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text)


# ------------------------------------------------------------------------------------------------------------------------ sources


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("input/a.zip", Kind.ZIP),
        ("input/a b/c.ZIP", Kind.ZIP),
        ("input/f/_READY", Kind.FOLDER),
        ("input/f/g/_READY", Kind.FOLDER),
        ("input/f.zip/_READY", Kind.FOLDER),
        ("input//_READY", Kind.FOLDER),
    ],
)
def test_uploads_are_told_apart_by_their_key(key: str, kind: Kind) -> None:
    assert source_of(message(key)).kind is kind


@pytest.mark.parametrize(
    "key", ["input/a.dcm", "input/a.7z", "output/a.zip", "input/_READY", "_READY", "x/_READY", "quarantine/x/upload.zip", "processed/x.zip"]
)
def test_what_is_no_upload_is_refused(key: str) -> None:
    with pytest.raises(RefusedError, match="upload_type"):
        source_of(message(key))


def test_a_rerun_infers_only_the_study_its_original_is_kept_for() -> None:
    found = source_of(message(f"processed/{'ab' * 8}/{'0' * 32}/upload.zip", DIGEST))
    assert (found.kind, found.only_study) == (Kind.RERUN, "ab" * 8)


def test_a_rerun_from_quarantine_infers_the_study_that_its_request_names() -> None:
    found = source_of(message(f"quarantine/{'0' * 32}/upload.zip", Rerun(DIGEST, "cd" * 8, 2).text))
    assert (found.kind, found.only_study) == (Kind.RERUN, "cd" * 8)


@pytest.mark.parametrize(
    ("key", "request_text"),
    [
        ("input/a.zip", DIGEST),
        (f"quarantine/{'0' * 32}/upload.zip", DIGEST),
        (f"quarantine/{'0' * 32}/upload.bin", f"{DIGEST}/{'ab' * 8}"),
        (f"quarantine/{'0' * 32}/upload/000001", f"{DIGEST}/{'ab' * 8}"),
        (f"processed/{'ab' * 8}/{'0' * 32}/upload.zip", f"{DIGEST}/{'cd' * 8}"),
        (f"processed/{'ab' * 8}/{'0' * 32}/upload.zip", "latest"),
        (f"processed/{'ab' * 8}/{'0' * 32}/upload.zip", f"{DIGEST}#0"),
    ],
)
def test_a_rerun_that_names_no_kept_original_no_study_or_another_one_is_refused(key: str, request_text: str) -> None:
    with pytest.raises(RefusedError, match="bad_request"):
        source_of(message(key, request_text))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("input/Hans Mueller.ZIP", "upload.zip"),
        ("input/Hans Mueller.tar.gz", "upload.tar.gz"),
        ("input/Hans Mueller.nii.gz", "upload.nii.gz"),
        ("input/Hans.7z", "upload.7z"),
        ("input/Hans.Mueller 1970", "upload.bin"),
        ("input/Hans.Mueller", "upload.bin"),
        ("input/Hans.19610203", "upload.bin"),
        ("input/_READY", "upload.bin"),
    ],
)
def test_the_kept_copy_of_an_upload_carries_nothing_of_its_name_but_a_usual_extension(key: str, name: str) -> None:
    assert upload_name(message(key), Kind.ZIP) == name


def test_a_folder_is_kept_as_a_zip_and_an_end_without_a_record_keeps_nothing() -> None:
    assert upload_name(message("input/Hans.7z/_READY"), Kind.FOLDER) == "upload.zip"
    assert kept_keys(message("input/x.zip"), Kind.ZIP, []) == set()


# ------------------------------------------------------------------------------------------------------------------------- images


def test_a_rerun_uses_the_requested_digest_of_the_live_repository() -> None:
    live = "123456789012.dkr.ecr.us-east-1.amazonaws.com/monai-aws/map@sha256:" + "b" * 64
    assert image_for(live, "") == live
    assert image_for(live, DIGEST) == f"123456789012.dkr.ecr.us-east-1.amazonaws.com/monai-aws/map@{DIGEST}"
    assert image_for(f"127.9.9.9:5000/map@{DIGEST}", "").startswith("127.9.9.9:5000/")


@pytest.mark.parametrize(
    "live", ["", "none", "repo:latest", "-v/etc:/x@" + DIGEST, "host/map@sha256:short", f"host/map@{DIGEST} --privileged"]
)
def test_a_parameter_that_names_no_digest_is_no_live_map(live: str) -> None:
    with pytest.raises(FailedError, match="no_live_map"):
        image_for(live, "")


def test_a_rerun_for_something_that_is_no_digest_is_refused() -> None:
    with pytest.raises(RefusedError, match="bad_request"):
        image_for(f"host/map@{DIGEST}", "latest")


# --------------------------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (replace(ENDED, exit_code=3), Code.MAP_FAILED),
        (replace(ENDED, exit_code=137, out_of_memory=True), Code.MAP_OUT_OF_MEMORY),
        (replace(ENDED, exit_code=137, timed_out=True), Code.MAP_TIMEOUT),
    ],
)
def test_the_end_of_a_run_decides_the_code(end: RunEnd, code: Code) -> None:
    with pytest.raises(FailedError) as error:
        judge_end(end, 600, 4096)
    assert error.value.code is code


@pytest.mark.parametrize(
    ("exit_code", "line", "passes"),
    [
        (1, "ValueError: no contrast", False),
        (2, "", False),
        (137, "", True),
        (-9, "", True),
        (1, "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable", True),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", True),
        (1, "OSError: [Errno 28] No space left on device", True),
    ],
)
def test_a_failure_is_tried_again_only_where_that_can_help(exit_code: int, line: str, passes: bool) -> None:
    with pytest.raises(FailedError) as error:
        judge_end(replace(ENDED, exit_code=exit_code, log_tail=("starting", line)), 600, 4096)
    assert error.value.final is not passes
    assert FailedError(Code.STORAGE_FAILED, "").final is False
    assert FailedError(Code.NO_OUTPUT, "").final is True


def test_exit_code_zero_is_no_failure() -> None:
    judge_end(ENDED, 600, 4096)


def test_every_code_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Code)
    wrong = RefusedError(Code.NO_DICOM, "There is none.")
    error = json.loads(error_json(ResultError(str(wrong.code), wrong.message)))
    assert (error["code"], error["cause"], error["remedy"]) == ("no_dicom", "There is none.", REMEDIES[Code.NO_DICOM])


@pytest.mark.parametrize("code", Code)
def test_a_remedy_holds_wherever_it_is_read(code: Code) -> None:
    """It stands in a file of the bucket, in tables of Dagster, on a page and in a terminal: nothing is beside all four."""
    assert not re.search(r"\b(beside|this file|above|below|this page|this folder)\b", REMEDIES[code])
    if "map.log" in REMEDIES[code]:
        assert "monai-aws get JOB, or map.log under quarantine/JOB/" in REMEDIES[code]
    if code in (Code.MAP_FAILED, Code.NO_OUTPUT, Code.MAP_TIMEOUT):  # what stands in the table of unanswered studies day by day
        assert max(map(len, REMEDIES[code].split())) <= len("MONAI_AWS_MAP_TIMEOUT_S"), "its last column would not be seen"


def test_a_failure_of_the_host_waits_longer_than_one_of_the_map() -> None:
    assert retry_seconds(Code.PULL_FAILED, 1) > retry_seconds(Code.MAP_FAILED, 1)
    assert retry_seconds(Code.MAP_FAILED, 2) > retry_seconds(Code.MAP_FAILED, 1)


def test_an_unexpected_error_is_named_by_its_place_and_never_by_its_text() -> None:
    try:
        int("Hans Mueller")
    except ValueError as wrong:
        error = as_job_error(wrong)
    assert error.code is Code.INTERNAL
    assert "Mueller" not in str(error)
    assert "test_decisions.py" in error.cause


def test_the_total_runs_from_the_upload_to_the_commit() -> None:
    assert completed(Timings(queued=100, boot=20, download=1, waiting=2, inference=5, upload=1), 10).total == 110


@given(*[st.floats(0, 1e5)] * 4)
def test_cost_has_named_shares_that_add_up(boot: float, idle: float, busy: float, pull: float) -> None:
    config = parse_config(json.dumps(GOOD | {"usd_per_hour": {"g4dn.xlarge": 9.9, "g5.xlarge": 3.6}}))
    cost = cost_of(Seconds(boot, idle, busy), pull, config, HostFacts("i-1", "g5.xlarge", "ami-1"))
    assert cost.usd == pytest.approx((boot + idle + busy) / 1000, abs=5e-6)
    assert sum(cost.shares.values()) == pytest.approx(cost.usd, abs=1e-6)
    assert cost.shares["boot"] == pytest.approx(boot / 1000, abs=1e-6)
    assert cost.shares["idle"] == pytest.approx(idle / 1000, abs=1e-6)
    assert set(cost.shares) == {"boot", "pull", "inference", "idle"}
    assert min(cost.shares.values()) >= 0
    assert "g5.xlarge" in cost.basis
    assert "on-demand" in cost.basis


def test_a_host_of_a_type_without_a_price_says_so_and_costs_nothing() -> None:
    cost = cost_of(Seconds(busy=10), 0, parse_config(json.dumps(GOOD)), HostFacts("i-1", "p9.huge", "ami-1"))
    assert cost.usd == 0
    assert "no list price known" in cost.basis


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "charge", "refund"]), st.floats(0, 1000)), max_size=40))
def test_every_second_of_a_machine_is_charged_to_exactly_one_study(steps: list[tuple[str, float]]) -> None:
    now, busy = 0.0, 0.0
    bill = Bill(take_boot=iter([7.0] + [0.0] * 100).__next__, clock=lambda: now)
    jobs: list[AbstractContextManager[None]] = []
    charged: list[Seconds] = []
    for step, seconds in steps:
        now += seconds
        busy += seconds if jobs else 0
        if step == "begin":
            jobs.append(bill.job())
            jobs[-1].__enter__()
        elif step == "end" and jobs:
            jobs.pop().__exit__(None, None, None)
        elif step == "charge":
            charged.append(bill.charge())
        elif step == "refund" and charged:
            bill.refund(charged.pop())
    charged.append(bill.charge())
    assert sum(part.boot for part in charged) == 7
    assert sum(part.busy for part in charged) == pytest.approx(busy)
    assert sum(part.idle for part in charged) == pytest.approx(now - busy)


def test_the_idle_tail_before_a_stop_is_charged_to_the_first_study_after_it_and_to_no_other(tmp_path: Path) -> None:
    now, file = 0.0, tmp_path / "unpaid.json"
    before = Bill(file, clock=lambda: now)
    now = 300.0
    before.keep()
    after = Bill(file, clock=lambda: now)
    now = 302.0
    assert after.charge().idle == 302
    assert Bill(file, clock=lambda: now).charge().idle == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"idle": "x"}', '{"idle": -5}', '{"idle": NaN}', '{"idle": 1e99}'])
def test_a_damaged_file_of_idle_seconds_charges_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "unpaid.json").write_text(text)
    assert Bill(tmp_path / "unpaid.json", clock=lambda: 0).charge() == Seconds()


@pytest.mark.parametrize(
    ("size", "free", "room"),
    [(500 << 20, 50 << 30, True), (30 << 30, 50 << 30, False), (1, PREFETCH_MARGIN, False), (1, PREFETCH_MARGIN + 1, True)],
)
def test_a_study_is_fetched_beside_another_only_with_room_on_the_disk(size: int, free: int, room: bool) -> None:
    assert room_to_prefetch(size, free) is room


def test_boot_is_charged_once_even_when_the_agent_restarts(tmp_path: Path) -> None:
    assert BootOnce(tmp_path, lambda: 12.5).seconds == 12.5
    restarted = BootOnce(tmp_path, lambda: 99.0)
    assert restarted.take() == 12.5
    assert restarted.take() == 0.0
    assert BootOnce(tmp_path, lambda: 99.0).take() == 0.0


def test_the_machine_is_in_use_exactly_while_someone_prepares_even_if_he_dies(tmp_path: Path) -> None:
    preparing = Preparing(tmp_path)
    assert not preparing.held()
    with preparing():
        assert preparing.held()
    assert not preparing.held()
    script = (
        "import time; from pathlib import Path; from monai_aws_pipeline.host_agent.agent import Preparing\n"
        f"with Preparing(Path({str(tmp_path)!r}))():\n    print(1, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[4])
    assert child.stdout
    child.stdout.readline()
    assert preparing.held()
    child.kill()
    child.wait()
    child.stdout.close()
    assert not preparing.held()


def test_seconds_since_start_come_from_the_first_process(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "uptime").write_text("1000.00 5.00\n")
    (tmp_path / "1" / "stat").write_text("1 (a ) b) S " + " ".join(["0"] * 18) + " 90000 0 0\n")
    assert seconds_since_start(tmp_path) == pytest.approx(1000 - 90000 / 100)
    assert seconds_since_start(tmp_path / "nowhere") == 0.0


def test_a_job_folder_is_fresh_and_gone_afterwards(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "neighbour").write_text("x")
    with pytest.raises(ZeroDivisionError), fresh_folder(tmp_path / "job") as folder:
        assert list(folder.iterdir()) == []
        (folder / "mine").write_text("x")
        raise ZeroDivisionError
    assert not (tmp_path / "job").exists()


def test_a_job_marker_survives_its_round_trip() -> None:
    marker = JobDone("a" * 32, ("output/x/y/result.json",), "2026-01-01T00:00:00.000Z")
    assert JobDone.from_json(marker.to_json()) == marker
