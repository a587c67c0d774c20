"""The portal's fuzzer: it finds what it is there to find, and a short run of it comes past the first refusals."""

from __future__ import annotations

from email.message import Message
from http.client import HTTPMessage

import pytest

from tests.fuzz.portal import run, troubles

SECURED = {"content-security-policy": "default-src 'none'", "content-type": "application/json"}


def headers(given: dict[str, str]) -> HTTPMessage:
    made: Message = HTTPMessage()
    for name, value in given.items():
        made[name] = value
    assert isinstance(made, HTTPMessage)
    return made


@pytest.mark.parametrize(
    ("status", "given", "body", "found"),
    [
        (200, SECURED, b"{}", []),
        (404, SECURED, b'{"error": "not_there"}', []),
        (400, {"content-type": "text/plain"}, b"Invalid HTTP request received.", []),
        (500, SECURED, b'{"error": "internal"}', ["unhandled"]),
        (404, {}, b"", ["no security headers"]),
        (409, SECURED, b'{"error": "of nobody"}', ["a refusal without a text"]),
        (502, {**SECURED, "content-type": "text/html"}, b"Traceback (most recent call last)", ["a stack is shown"]),
    ],
)
def test_what_is_wrong_with_an_answer_is_found(status: int, given: dict[str, str], body: bytes, found: list[str]):
    assert troubles(status, headers(given), body) == found


def test_some_hundred_requests_find_nothing_and_begin_uploads():
    outcome = run(seed=7, seconds=60, most=300)
    assert outcome.findings == []
    assert outcome.ends["201"]
    assert outcome.ends["404"]
