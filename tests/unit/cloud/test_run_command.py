"""What stands between us and a host's shell is told apart: permission, the host's agent, the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from monai_aws_pipeline.cloud.errors import AccessError, AgentError, CloudError, CommandError, NetworkError
from monai_aws_pipeline.cloud.run_command import Commands

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient


def client(**options: Any) -> SSMClient:
    return boto3.client("ssm", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test", **options)


@pytest.fixture
def ssm() -> Iterator[Stubber]:
    with Stubber(client()) as stubbed:
        yield stubbed


def test_whoever_waits_for_a_command_is_told_so_until_it_has_ended(ssm: Stubber) -> None:
    said: list[str] = []
    ssm.add_response("send_command", {"Command": {"CommandId": "c" * 36}})
    ssm.add_client_error("get_command_invocation", "InvocationDoesNotExist")
    ssm.add_response("get_command_invocation", {"Status": "InProgress"})
    ssm.add_response("get_command_invocation", {"Status": "Success", "ResponseCode": 0, "StandardOutputContent": "done"})
    ended = Commands(ssm.client).run("i-1", "true", comment="golden study", report=said.append)
    assert (ended.exit_code, ended.stdout) == (0, "done")
    assert said == ["waiting for i-1: golden study"]


def test_a_command_ends_with_its_machine_of_which_ssm_says_nothing(ssm: Stubber) -> None:
    ssm.add_response("send_command", {"Command": {"CommandId": "c" * 36}})
    ssm.add_response("get_command_invocation", {"Status": "InProgress"})
    ssm.add_response("get_command_invocation", {"Status": "InProgress"})
    on = iter((True, False))
    with pytest.raises(CommandError, match="i-1 has ended, and a command on it with it"):
        Commands(ssm.client).run("i-1", "true", still_on=lambda: next(on))


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        ("AccessDeniedException", AccessError, "operator role"),
        ("InvalidInstanceId", AgentError, "journalctl -u amazon-ssm-agent"),
        ("UnsupportedPlatformType", CommandError, "UnsupportedPlatformType"),
    ],
)
def test_a_command_that_aws_refuses_says_whose_fault_it_is(ssm: Stubber, code: str, expected: type[CloudError], said: str) -> None:
    ssm.add_client_error("send_command", code)
    with pytest.raises(CloudError, match=said) as wrong:
        Commands(ssm.client).run("i-1", "true")
    assert type(wrong.value) is expected


def test_an_agent_that_does_not_come_online_is_named(ssm: Stubber) -> None:
    ssm.add_response("describe_instance_information", {"InstanceInformationList": [{"InstanceId": "i-1", "PingStatus": "ConnectionLost"}]})
    with pytest.raises(AgentError, match=r"i-1 did not come online.*instance profile"):
        Commands(ssm.client).wait_online("i-1", seconds=0)


def test_of_a_machine_that_is_off_no_agent_is_waited_for(ssm: Stubber) -> None:
    ssm.add_response("describe_instance_information", {"InstanceInformationList": []})
    assert not Commands(ssm.client).wait_online("i-1", still_on=lambda: False)


def test_no_answer_is_the_networks_fault() -> None:
    nobody = Commands(client(endpoint_url="http://127.0.0.1:1", config=Config(retries={"total_max_attempts": 1})))
    for ask in (lambda: nobody.wait_online("i-1"), lambda: nobody.run("i-1", "true"), lambda: nobody.parameter("p")):
        with pytest.raises(NetworkError, match=r"EndpointConnectionError.*HTTPS_PROXY"):
            ask()


def test_a_parameter_that_is_not_there_is_empty_and_one_that_may_not_be_read_is_an_error(ssm: Stubber) -> None:
    ssm.add_client_error("get_parameter", "ParameterNotFound")
    assert Commands(ssm.client).parameter("p") == ""
    ssm.add_client_error("get_parameter", "AccessDeniedException")
    with pytest.raises(AccessError, match="reading the parameter p"):
        Commands(ssm.client).parameter("p")
