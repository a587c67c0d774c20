"""What map_image makes of the agent's report, and what it keeps for those who prove an image later."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from dagster import Failure
from moto import mock_aws

from monai_aws_pipeline.contract import golden_key
from monai_aws_pipeline.deployment import machine_agent
from monai_aws_pipeline.deployment.golden_gate import _failure, arguments, keep, read_report
from monai_aws_pipeline.maps.golden import Golden
from monai_aws_pipeline.maps.spec.expectation import parse_expectation
from monai_aws_pipeline.remote import RemoteCommandError
from monai_aws_pipeline.settings import load_settings

POINTS = [
    {"name": "files mesh", "expected": "1", "found": "1", "ok": True},
    {"name": "volume of Brain", "expected": "from 1 to 2 ml", "found": "3.0 ml", "ok": False},
]


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    (tmp_path / "study.zip").write_bytes(b"study")
    return Golden(tmp_path / "study.zip", "1" * 64, parse_expectation({"files": [{"kind": "mesh", "count": 1}]}))


def test_a_miss_is_a_failure_that_names_the_point_the_figures_and_the_remedy():
    report = read_report(json.dumps({"points": POINTS, "seconds": 3}))
    failure = _failure(report, [point for point in report.points if not point.ok])
    assert "volume of Brain: expected from 1 to 2 ml, found 3.0 ml" in str(failure.description)
    assert "the MAP was not pushed" in str(failure.description)
    assert "files mesh" not in str(failure.description)
    assert "golden/expect.yaml" in str(failure.description)
    assert {"golden", "golden_points"} == set(failure.metadata)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"points": 3}', '{"points": [{}]}', '{"points": []}'])
def test_a_report_that_says_nothing_passes_nothing(text: str):
    with pytest.raises(Failure, match="did not say"):
        read_report(text)


def test_only_a_true_true_is_a_met_point():
    report = read_report(json.dumps({"points": [POINTS[0] | {"ok": "yes"}], "seconds": 1}))
    assert not report.points[0].ok


def test_the_study_is_run_with_the_limits_that_hosts_will_have(golden: Golden):
    command = arguments("host/map:1.0", golden, load_settings(gpus="all", map_memory_mib=999, map_timeout_s=77, map_network="none"))
    assert "--gpus all --network none --memory-mib 999 --timeout-s 77" in " ".join(command)
    assert command[command.index("--image") + 1] == "host/map:1.0"
    assert "--reference" not in command


def test_a_report_of_any_length_comes_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The shell line, run here by a shell with a stand-in for the agent."""
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\necho progress >&2\ncat "$2"\nexit 4\n')
    agent.chmod(0o755)
    long = json.dumps({"points": [POINTS[0]] * 300, "seconds": 1})
    (tmp_path / "report.json").write_text(long + "\n")
    monkeypatch.setattr(machine_agent, "AGENT_PROGRAM", str(agent))
    monkeypatch.setattr(machine_agent, "_FILE", str(tmp_path / "there.json"))

    class Here:
        def run(self, command: str, on_line: Callable[[str], None], *, what: str, seconds: float) -> list[str]:
            shell = subprocess.run(["bash", "-c", command.removeprefix("sudo ")], capture_output=True, text=True, check=False)
            lines = [line[:4000] for line in (shell.stderr + shell.stdout).splitlines()]
            for line in lines:
                on_line(line)
            if shell.returncode:
                raise RemoteCommandError(what, shell.returncode, lines[-20:])
            return lines

    said: list[str] = []
    answer = machine_agent.ask(Here(), ["golden", str(tmp_path / "report.json")], said.append, what="x", seconds=9, accepted=(4,))  # type: ignore[arg-type]
    assert (answer.text, answer.exit_code) == (long, 4)
    assert said == ["asking the agent on the machine: x", "│ progress"]
    with pytest.raises(RemoteCommandError):
        machine_agent.ask(Here(), ["golden", str(tmp_path / "report.json")], said.append, what="x", seconds=9)  # type: ignore[arg-type]


def test_objects_are_kept_by_their_content_once(golden: Golden):
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="studies")
        keep(client, "studies", golden)
        written = {item["Key"]: item["LastModified"] for item in client.list_objects_v2(Bucket="studies")["Contents"]}
        assert set(written) == {golden_key(label) for label in golden.labels.values() if label}
        client.put_object(Bucket="studies", Key=golden_key("1" * 64), Body=b"kept as it is")
        keep(client, "studies", golden)
        assert client.get_object(Bucket="studies", Key=golden_key("1" * 64))["Body"].read() == b"kept as it is"
        keep(client, "studies", None)
