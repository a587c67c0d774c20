"""When a run of the demo fails it says on the spot which step failed, why, and what to do. Runs are real, on Dagster's own storage."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from botocore.exceptions import ClientError
from dagster import DagsterInstance, DagsterRun, Failure, job, op
from rich.console import Console

from monai_aws_pipeline.cloud.errors import CapacityError
from monai_aws_pipeline.demo import rollback
from monai_aws_pipeline.demo.dagster_processes import DagsterProcessError, DagsterProcesses
from monai_aws_pipeline.demo.rollback import _build, _why_not_built
from monai_aws_pipeline.demo.steps import DemoError, Progress, follow
from monai_aws_pipeline.run_failures import last_lines, why


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def run_of(instance: DagsterInstance, *bodies: Callable[[], object], tags: dict[str, str] | None = None) -> DagsterRun:
    """A run of a job of which each function is a step of its own."""

    @job(name="deploy_all", tags=tags)
    def deploy_all() -> None:
        for body in bodies:
            op(name=body.__name__)(_alone(body))()

    run_id = deploy_all.execute_in_process(instance=instance, raise_on_error=False).run_id
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def _alone(body: Callable[[], object]) -> Callable[[], None]:
    def step() -> None:
        body()

    return step


def map_image() -> NoReturn:
    raise Failure("The application cannot be built.\n  [app.yaml] no title. Write one.") from KeyError("what lies under it")


def gpu_ami() -> NoReturn:
    raise CapacityError("No zone had a machine to give.", "Name more types in MONAI_AWS_INSTANCE_TYPES.") from ClientError(
        {"Error": {"Code": "InsufficientInstanceCapacity", "Message": "of AWS"}}, "RunInstances"
    )


def s3_trigger() -> NoReturn:
    raise LookupError("a defect of ours")


def inference_host() -> None:
    pass


def test_a_failure_of_ours_is_said_as_it_was_written(instance: DagsterInstance):
    said = why(instance, run_of(instance, inference_host, map_image))
    assert said == "deploy_all failed in map_image: The application cannot be built.\n  [app.yaml] no title. Write one."


def test_a_named_error_is_said_with_its_remedy_and_without_what_lies_around_and_under_it(instance: DagsterInstance):
    said = why(instance, run_of(instance, gpu_ami))
    named = "CapacityError: No zone had a machine to give. Name more types in MONAI_AWS_INSTANCE_TYPES."
    assert said == f"deploy_all failed in gpu_ami: {named}"


def test_a_defect_is_said_without_dagsters_words_around_it(instance: DagsterInstance):
    assert why(instance, run_of(instance, s3_trigger)) == "deploy_all failed in s3_trigger: LookupError: a defect of ours"


def test_every_step_that_failed_is_named(instance: DagsterInstance):
    lines = why(instance, run_of(instance, gpu_ami, s3_trigger)).splitlines()
    assert [line.partition(":")[0] for line in sorted(lines)] == ["deploy_all failed in gpu_ami", "deploy_all failed in s3_trigger"]


def test_a_long_cause_keeps_its_remedy_and_loses_its_secrets(instance: DagsterInstance):
    token = "ghp_" + "a1B2" * 9

    def long() -> NoReturn:
        raise Failure(f"git said: {token}\n" + "line of output\n" * 2000 + "Store another token.")

    said = why(instance, run_of(instance, long))
    assert token not in said
    assert "git said: [redacted]" in said
    assert said.endswith("Store another token.")
    assert len(said) < 4200


def test_a_run_that_failed_outside_of_its_steps_says_so(instance: DagsterInstance):
    run = instance.create_run_for_job(_empty_job())
    instance.report_run_failed(run, "The run's process ended before its first step.")
    run = instance.get_run_by_id(run.run_id) or run
    assert why(instance, run) == "nothing_to_do failed outside of its steps: The run's process ended before its first step."


def test_a_run_that_was_cancelled_is_no_riddle(instance: DagsterInstance):
    run = instance.create_run_for_job(_empty_job())
    instance.report_run_canceled(run)
    assert why(instance, instance.get_run_by_id(run.run_id) or run) == "nothing_to_do was cancelled."


def _empty_job():  # type: ignore[no-untyped-def]  # Dagster's JobDefinition
    @job
    def nothing_to_do() -> None:
        op(name="inference_host")(_alone(inference_host))()

    return nothing_to_do


def test_the_demo_ends_with_step_cause_remedy_and_address(instance: DagsterInstance):
    screen = io.StringIO()
    run = run_of(instance, map_image)
    with pytest.raises(DemoError) as raised:
        follow(instance, run.run_id, f"http://127.0.0.1:3000/runs/{run.run_id}", Progress(Console(file=screen, width=200)))
    assert raised.value.cause == why(instance, run)
    assert raised.value.remedy == (f"Remove the cause and run make demo again. The whole log: http://127.0.0.1:3000/runs/{run.run_id}")
    assert "step failure: map_image" in screen.getvalue()


def test_the_demo_goes_on_after_a_run_that_succeeded(instance: DagsterInstance):
    follow(instance, run_of(instance, inference_host).run_id, "", Progress(Console(file=io.StringIO())))


def test_the_rollback_finds_its_own_build_and_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with DagsterInstance.get() as instance:
        run_of(instance, gpu_ami, tags={rollback._SHOWING: "ours"})
        run_of(instance, s3_trigger, tags={rollback._SHOWING: "another"})
    assert "No zone had a machine to give." in _why_not_built("ours", tmp_path / "build.log")


def test_a_build_that_does_not_begin_says_what_the_process_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    log = tmp_path / "build.log"
    with pytest.raises(DemoError, match="MONAI_AWS_REGION") as raised:
        _build({"MONAI_AWS_REGION": "moon"}, log, Progress(Console(file=io.StringIO())))
    assert str(log) in raised.value.remedy
    assert "Traceback" not in raised.value.cause.splitlines()[0]


def test_a_build_that_fails_is_found_by_its_tag_and_says_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(DemoError) as raised:
        _build({"MONAI_AWS_APP_SOURCE": str(tmp_path / "nowhere")}, tmp_path / "build.log", Progress(Console(file=io.StringIO())))
    assert raised.value.cause.startswith("build_map failed in ")


def test_dagster_that_does_not_come_up_says_why(tmp_path: Path):
    (tmp_path / "webserver.log").write_text("starting\n" * 100 + "OSError: the port is taken\n")
    cause, remedy = DagsterProcesses(tmp_path)._not_up(["webserver"])
    error = DagsterProcessError(cause, remedy)
    assert "OSError: the port is taken" in str(error)
    assert len(cause.splitlines()) == 16
    assert str(tmp_path) in error.remedy


def test_the_end_of_a_log_is_short_and_has_no_secrets(tmp_path: Path):
    log = tmp_path / "run.log"
    assert last_lines(log) == "(run.log cannot be read: FileNotFoundError)"
    log.write_text("")
    assert last_lines(log) == "(run.log is empty)"
    log.write_text("x" * 100_000 + "\npassword=hunter22\nthe end\n")
    assert last_lines(log).endswith("password=[redacted]\nthe end")
    assert len(last_lines(log)) < 5000
