"""The pages as a process of their own: on loopback, ended when told, and with a word where the port is taken."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from monai_aws_pipeline.demo.dagster_processes import _free_links, free_port
from monai_aws_pipeline.portal.server import PortalError, balancer_of, port_of, serve
from monai_aws_pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
BALANCER = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/portal/0123456789abcdef"
LINKS = "from monai_aws_pipeline.cli import main; main()"


def chosen(port: int, **changes: str) -> Settings:
    return Settings(_env_file=None, bucket="studies", links_url=f"http://127.0.0.1:{port}", **changes)  # type: ignore[call-arg, arg-type]


def test_it_serves_on_loopback_logs_nothing_and_ends_when_told():
    port = free_port(0)
    environment = {
        **os.environ,
        "MONAI_AWS_BUCKET": "studies",
        "MONAI_AWS_LINKS_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", LINKS, "portal"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        assert f"127.0.0.1 port {port}" in process.stdout.readline()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/input/DOE-JANE.zip")
        answer = connection.getresponse()
        assert answer.status == 404
        assert answer.getheader("server") is None
        assert b"There is no such page" in answer.read()
        connection.close()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert said == ""


def test_a_port_that_is_taken_is_said():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortalError, match=r"is taken .* Choose another in MONAI_AWS_LINKS_URL"):
            serve(chosen(other.getsockname()[1]), lambda _: None, lambda study, failed: "")


def test_pages_that_are_switched_off_are_not_served():
    with pytest.raises(PortalError, match="switches these pages off"):
        serve(Settings(_env_file=None, bucket="studies", links_url=""), lambda _: None, lambda study, failed: "")  # type: ignore[call-arg]


def test_the_port_is_the_settings_or_the_usual_one_behind_another_name():
    assert port_of("http://127.0.0.1:3071") == 3071
    assert port_of("http://localhost:3071") == 3071
    assert port_of("https://studies.example.org") == port_of("https://studies.example.org:8443") == 3070


def test_the_demo_opens_them_where_there_is_room():
    said: list[str] = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        taken = f"http://127.0.0.1:{other.getsockname()[1]}"
        chosen_instead = _free_links(taken, said.append)
    assert chosen_instead != taken
    assert chosen_instead.startswith("http://127.0.0.1:")
    assert "is taken" in said[0]
    assert _free_links("", said.append) == ""
    assert _free_links(taken, said.append, promised=int(taken.rpartition(":")[2])) != taken, "nobody listens there yet, and the UI will"


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::", "2001:db8::1"])  # noqa: S104  # none is listened on
def test_it_listens_where_others_reach_it_only_behind_a_load_balancer_that_says_who_they_are(address: str):
    with pytest.raises(PortalError, match=r"nothing says who they are.* MONAI_AWS_PORTAL_LOAD_BALANCER"):
        balancer_of(chosen(3070, portal_listen=address))
    assert balancer_of(chosen(3070, portal_listen=address, portal_load_balancer=BALANCER))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_on_loopback_nobody_is_asked(address: str):
    assert balancer_of(chosen(3070, portal_listen=address)) is None


@pytest.mark.parametrize(
    "arn", ["portal", "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/net/x/1", "arn:aws:iam::1:role/x"]
)
def test_what_is_no_application_load_balancer_is_not_taken(arn: str):
    with pytest.raises(ValidationError):
        chosen(3070, portal_load_balancer=arn)
