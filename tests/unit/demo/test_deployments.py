"""Whose settings the UI on the embedded AWS gets, and that deployments on it do not get each other's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monai_aws_pipeline.demo import deployments
from monai_aws_pipeline.demo.dagster_processes import DagsterProcessError, DagsterProcesses, free_port
from monai_aws_pipeline.demo.deployments import chosen_settings, open_ui, read_dotenv
from monai_aws_pipeline.demo.steps import DemoError, Workplace, read_variables
from monai_aws_pipeline.settings import SettingsError

DEMO = {
    "AWS_PROFILE": "operator",
    "DAGSTER_HOME": "/demo/dagster",
    "MONAI_AWS_DEPLOYMENT": "demo",
    "MONAI_AWS_OWNER": "demo",
    "MONAI_AWS_BUCKET": "monai-aws-demo-1",
    "MONAI_AWS_ECR_REPOSITORY": "monai-aws/demo",
    "MONAI_AWS_BASE_IMAGE": "127.0.0.1:4566/base:1",
    "MONAI_AWS_MODEL_URI": "/cache/model.ts",
    "MONAI_AWS_MODEL_SHA256": "1" * 64,
    "MONAI_AWS_GOLDEN_STUDY": "/cache/golden.zip",
    "MONAI_AWS_GOLDEN_STUDY_SHA256": "2" * 64,
    "MONAI_AWS_IDLE_STOP_MINUTES": "0.25",
}
OWN_BUCKET = {"MONAI_AWS_DEPLOYMENT": "second", "MONAI_AWS_BUCKET": "second-studies"}


def settings(given: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in given.items() if name.startswith("MONAI_AWS_")}


def test_with_nothing_said_the_ui_is_the_demos():
    assert chosen_settings({"PATH": "/bin"}, {}, DEMO) == settings(DEMO)


def test_what_is_exported_wins_over_the_env_file_and_that_over_the_demo():
    exported = {"MONAI_AWS_IDLE_STOP_MINUTES": "9"}
    env_file = {"MONAI_AWS_IDLE_STOP_MINUTES": "7", "MONAI_AWS_HOST_COUNT": "2"}
    chosen = chosen_settings(exported, env_file, DEMO)
    assert (chosen["MONAI_AWS_IDLE_STOP_MINUTES"], chosen["MONAI_AWS_HOST_COUNT"]) == ("9", "2")
    assert chosen_settings({}, env_file, DEMO)["MONAI_AWS_IDLE_STOP_MINUTES"] == "7"


def test_another_deployment_gets_neither_bucket_nor_repository_of_the_demo_but_its_other_settings():
    chosen = chosen_settings({"MONAI_AWS_DEPLOYMENT": "second"}, {}, DEMO)
    assert not {"MONAI_AWS_BUCKET", "MONAI_AWS_ECR_REPOSITORY", "MONAI_AWS_OWNER"} & chosen.keys()
    assert chosen["MONAI_AWS_BASE_IMAGE"] == DEMO["MONAI_AWS_BASE_IMAGE"]
    assert chosen["MONAI_AWS_MODEL_URI"] == DEMO["MONAI_AWS_MODEL_URI"]


@pytest.mark.parametrize("own", [{"MONAI_AWS_APP_SOURCE": "/my/app"}, {"MONAI_AWS_MODEL_URI": "/my/net.ts"}])
@pytest.mark.parametrize("exported", [True, False])
def test_an_application_of_ones_own_gets_nothing_of_the_example(own: dict[str, str], exported: bool):
    chosen = chosen_settings(own if exported else {}, {} if exported else own, DEMO)
    assert {
        name: value for name, value in chosen.items() if name.startswith(("MONAI_AWS_APP", "MONAI_AWS_MODEL", "MONAI_AWS_GOLDEN"))
    } == own


def test_the_bucket_in_an_env_file_is_of_the_deployment_that_it_names():
    assert chosen_settings({}, OWN_BUCKET, DEMO)["MONAI_AWS_BUCKET"] == "second-studies"
    assert chosen_settings({"MONAI_AWS_DEPLOYMENT": "demo"}, OWN_BUCKET, DEMO)["MONAI_AWS_BUCKET"] == "monai-aws-demo-1"
    assert "MONAI_AWS_BUCKET" not in chosen_settings({"MONAI_AWS_DEPLOYMENT": "third"}, OWN_BUCKET, DEMO)


def test_a_shell_that_acts_as_the_demos_operator_may_open_another_deployment():
    chosen = chosen_settings({**DEMO, "MONAI_AWS_DEPLOYMENT": "second"}, {"MONAI_AWS_APP_SOURCE": "/my/app"}, DEMO, DEMO)
    assert not {"MONAI_AWS_BUCKET", "MONAI_AWS_ECR_REPOSITORY", "MONAI_AWS_GOLDEN_STUDY"} & chosen.keys()


def test_a_shell_that_acts_as_the_operator_of_a_second_one_keeps_it_and_follows_its_env_file():
    second = {**DEMO, **OWN_BUCKET, "MONAI_AWS_APP_SOURCE": "/my/app", "MONAI_AWS_HOST_COUNT": "2"}
    chosen = chosen_settings(second, {"MONAI_AWS_HOST_COUNT": "3"}, DEMO, second)
    assert (chosen["MONAI_AWS_DEPLOYMENT"], chosen["MONAI_AWS_BUCKET"]) == ("second", "second-studies")
    assert (chosen["MONAI_AWS_APP_SOURCE"], chosen["MONAI_AWS_HOST_COUNT"]) == ("/my/app", "3")


def test_an_env_file_is_read_as_the_settings_read_it(tmp_path: Path):
    file = tmp_path / ".env"
    file.write_text("# mine\nexport MONAI_AWS_OWNER='A. B.'\nmonai_aws_bucket=x-1  # here\nOTHER=1\n")
    assert read_dotenv(file) == {"MONAI_AWS_OWNER": "A. B.", "MONAI_AWS_BUCKET": "x-1", "OTHER": "1"}
    assert read_dotenv(tmp_path / "none") == {}


# ---------------------------------------------------------------------------------------------------------------------- opening


class Started(DagsterProcesses):
    """Webserver and daemon that are only asked for."""

    asked: tuple[Path, dict[str, str], dict[str, str]]

    def start(self, environment, port, report, seconds=120, *, inherited=None, exact=False):  # type: ignore[no-untyped-def]
        Started.asked = (self.home, dict(environment), dict(inherited or {}))
        return f"http://127.0.0.1:{port}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setattr(deployments, "DagsterProcesses", Started)
    for name in [name for name in os.environ if name.startswith(("AWS_", "MONAI_AWS_"))]:
        monkeypatch.delenv(name)
    return Workplace(tmp_path / "demo", tmp_path / "state", 4566)


def test_the_processes_inherit_no_setting_and_no_login_of_the_shell(place: Workplace, tmp_path: Path):
    place.root.mkdir()
    place.write_environment(DEMO, "test")
    exported = {
        "PATH": "/bin",
        "AWS_ACCESS_KEY_ID": "of a real account",
        "AWS_PROFILE": "work",
        "DAGSTER_HOME": "/mine",
        "MONAI_AWS_OWNER": "me",
    }
    assert open_ui(place, exported, tmp_path / ".env", 3004, lambda _: None).endswith(":3004")
    home, environment, inherited = Started.asked
    assert inherited == {"PATH": "/bin"}
    assert home == place.home
    assert (environment["AWS_PROFILE"], environment["MONAI_AWS_OWNER"]) == ("operator", "me")


def test_the_demo_is_not_led_to_a_bucket_of_others(place: Workplace, tmp_path: Path):
    place.root.mkdir()
    place.write_environment(DEMO, "test")
    with pytest.raises(DemoError, match=r"MONAI_AWS_BUCKET is mine-1, and deployment demo has monai-aws-demo-1"):
        open_ui(place, {"MONAI_AWS_BUCKET": "mine-1"}, tmp_path / ".env", None, lambda _: None)


def test_a_wrong_setting_is_said_in_the_shell_before_anything_starts(place: Workplace, tmp_path: Path):
    place.root.mkdir()
    place.write_environment(DEMO, "test")
    with pytest.raises(SettingsError, match="MONAI_AWS_HOST_COUNT"):
        open_ui(place, {"MONAI_AWS_HOST_COUNT": "many"}, tmp_path / ".env", None, lambda _: None)


def test_without_any_embedded_aws_the_way_to_one_is_said(place: Workplace, tmp_path: Path):
    with pytest.raises(DemoError, match=r"make demo, or sudo -E monai-aws local up"):
        open_ui(place, {}, tmp_path / ".env", None, lambda _: None)


def test_what_is_written_for_a_shell_is_read_back_and_is_private(place: Workplace):
    place.root.mkdir()
    values = {"MONAI_AWS_OWNER": "A. B. it's $HOME", "MONAI_AWS_GPUS": "", "AWS_ENDPOINT_URL": "http://127.0.0.1:4566"}
    place.write_environment(values, "test")
    assert read_variables(place.env_file) == values
    assert place.env_file.stat().st_mode & 0o077 == 0


def test_a_second_ui_takes_the_next_port_and_a_named_one_that_is_taken_is_refused(tmp_path: Path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = free_port(port)
        assert found != port
        with pytest.raises(DagsterProcessError, match=f"Port {port} of this machine is taken"):
            DagsterProcesses(tmp_path / "home").start({}, port, lambda _: None, exact=True)
    assert free_port(port) == port
    assert free_port(port, promised=port) != port, "the UI will listen there"


def test_a_port_is_free_at_once_when_its_server_has_ended():
    """Its last connections are remembered for a minute, in which a demo that is begun again was given another address."""
    import socket

    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn's does
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            assert free_port(port) != port, "somebody listens"
            accepted.close()  # first, so that this side remembers
            assert client.recv(1) == b""
    assert free_port(port) == port
