"""Credentials that end: read anew where the chain has newer ones, once a call; ended and missing logins are named."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.credentials import Credentials

from monai_aws_pipeline.cloud.credentials import Renewable, renewing_session
from monai_aws_pipeline.cloud.errors import SessionError
from monai_aws_pipeline.cloud.refusals import Kind, meaning_of
from monai_aws_pipeline.cloud.session import Clients


def keys(name: str) -> Credentials:
    return Credentials(name, "secret", f"token of {name}")


def test_the_chain_is_read_anew_and_only_other_keys_are_news():
    chain = iter([keys("a"), None, keys("b")])
    found = Renewable(lambda: next(chain), keys("a"))
    assert [found.renew() for _ in range(3)] == [False, False, True]
    assert (found.access_key, found.get_frozen_credentials().token) == ("b", "token of b")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which access key each call of SQS was signed with. The one of the first key is refused as over."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "first")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    signed: list[str] = []

    def send(_: Any, request: Any) -> AWSResponse:
        signed.append(request.headers["Authorization"].decode().split("Credential=")[1].split("/")[0])
        over = signed[-1] == "first"
        body = b'{"__type": "ExpiredTokenException", "message": "expired"}' if over else b"{}"
        answer = AWSResponse(request.url, 400 if over else 200, {}, None)
        answer._content = body
        return answer

    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", send)
    return signed


def test_a_call_goes_on_with_keys_that_came_meanwhile(calls: list[str], monkeypatch: pytest.MonkeyPatch):
    sqs = Clients("us-east-1").sqs
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    sqs.list_queues()
    sqs.list_queues()
    assert calls == ["first", "second", "second"]


def test_without_newer_keys_the_end_is_named_and_the_call_made_once(calls: list[str]):
    with pytest.raises(SessionError, match=r"ExpiredTokenException.*aws sso login"):
        Clients("us-east-1").sqs.list_queues()
    assert calls == ["first"]


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier", "set-ntp"),
        ("InvalidSignatureException", "The request signature we calculated does not match", "aws sso login"),
        ("AWS.SimpleQueueService.RequestThrottled", "", "in some minutes"),
    ],
)
def test_a_code_that_says_several_things_is_read_by_its_words(code: str, message: str, kind: str):
    meaning = meaning_of(code, message)
    assert meaning is not None
    assert kind in meaning.remedy
    assert meaning.kind in (Kind.SESSION, Kind.THROTTLED)


def test_sessions_of_one_process_read_the_description_of_a_service_once():
    first, second = (renewing_session().get_component("data_loader").load_service_model("sqs", "service-2") for _ in range(2))
    assert first is second
    assert "SendMessage" in first["operations"]
