"""The agent's decisions, without any cloud or engine."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.contract import HostFacts, JobMessage, Timings
from monai_aws_pipeline.host_agent.agent import BootOnce, Idleness, Preparing
from monai_aws_pipeline.host_agent.commit import JobDone, error_json
from monai_aws_pipeline.host_agent.config import AgentConfig, ConfigError, parse_config
from monai_aws_pipeline.host_agent.engine import RunEnd
from monai_aws_pipeline.host_agent.errors import REMEDIES, Code, FailedError, RefusedError
from monai_aws_pipeline.host_agent.job import as_job_error, completed, cost_of, fresh_folder, judge_end, retry_seconds
from monai_aws_pipeline.host_agent.live_map import image_for
from monai_aws_pipeline.host_agent.metadata import seconds_since_start
from monai_aws_pipeline.host_agent.originals import Kind, kept_keys, source_of, upload_name

GOOD = {
    "deployment": "dev",
    "region": "us-east-1",
    "bucket": "studies",
    "jobs_queue": "monai-aws-dev-jobs",
    "live_map_parameter": "/monai-aws/dev/live-map",
    "study_key_secret": "monai-aws/dev/study-key",
    "gpus": "",
    "map_network": "none",
    "map_timeout_s": 600,
    "map_memory_mib": 4096,
    "idle_stop_minutes": 5,
    "usd_per_hour": 0.526,
    "price_basis": "on-demand, us-east-1",
}
ENDED = RunEnd(0, out_of_memory=False, timed_out=False, seconds=1, peak_bytes=1, peak_source="", peak_gpu_bytes=None, log_tail=())
DIGEST = "sha256:" + "a" * 64


def message(key: str, request: str = "") -> JobMessage:
    return JobMessage.for_object(bucket="studies", key=key, version="", etag="e", size=1, request=request)


# ------------------------------------------------------------------------------------------------------------------------- config


def test_a_good_agent_json_is_read() -> None:
    config = parse_config(json.dumps(GOOD | {"unknown": 1}))
    assert isinstance(config, AgentConfig)
    assert config.limits.memory_mib == 4096


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
    [("input/a.zip", Kind.ZIP), ("input/a b/c.ZIP", Kind.ZIP), ("input/f/_READY", Kind.FOLDER), ("input/f/g/_READY", Kind.FOLDER)],
)
def test_uploads_are_told_apart_by_their_key(key: str, kind: Kind) -> None:
    assert source_of(message(key)).kind is kind


@pytest.mark.parametrize(
    "key", ["input/a.dcm", "output/a.zip", "input/_READY", "input//_READY", "quarantine/x/upload.zip", "processed/x.zip"]
)
def test_what_is_no_upload_is_refused(key: str) -> None:
    with pytest.raises(RefusedError, match="upload_type"):
        source_of(message(key))


def test_a_rerun_infers_only_the_study_its_original_is_kept_for() -> None:
    found = source_of(message(f"processed/{'ab' * 8}/{'0' * 32}/upload.zip", DIGEST))
    assert (found.kind, found.only_study) == (Kind.RERUN, "ab" * 8)


def test_a_rerun_of_anything_else_is_refused() -> None:
    with pytest.raises(RefusedError, match="bad_request"):
        source_of(message("input/a.zip", DIGEST))


def test_the_kept_copy_of_an_upload_carries_nothing_of_its_name() -> None:
    assert upload_name(message("input/Hans Mueller.ZIP"), Kind.ZIP) == "upload.zip"
    assert upload_name(message("input/Hans.Mueller 1970"), Kind.ZIP) == "upload.bin"
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


def test_exit_code_zero_is_no_failure() -> None:
    judge_end(ENDED, 600, 4096)


def test_every_code_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Code)
    assert json.loads(error_json(RefusedError(Code.NO_DICOM, "x")))["remedy"]


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


def test_cost_counts_busy_seconds_and_boot_but_not_the_queue() -> None:
    config = parse_config(json.dumps(GOOD | {"usd_per_hour": 3.6}))
    timings = completed(Timings(queued=100, boot=20, download=1, inference=5), upload=1, busy=10)
    assert timings.total == 110
    cost = cost_of(timings, config, HostFacts("i-1", "g4dn.xlarge", "ami-1"))
    assert cost.usd == pytest.approx(0.03)
    assert "g4dn.xlarge" in cost.basis
    assert "on-demand" in cost.basis


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.01, 1440))
def test_the_machine_stops_exactly_when_idle_long_enough(since: float, later: float, minutes: float) -> None:
    assert Idleness(since).stop_due(since + later, minutes) == ((since + later) - since >= minutes * 60)


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
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
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
