"""The portal's fuzzer: it finds what it is there to find, and a short run of it comes past the first refusals."""

from __future__ import annotations

from email.message import Message
from http.client import HTTPMessage

import pytest

from tests.fuzz.portal import Viewed, run, troubles

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


AT = "/dicomweb/s/j/studies/1/instances/2/frames/1"
VIEWED = Viewed([AT, "/viewer/s/j/"], ["DOE^JANE"])


@pytest.mark.parametrize(
    ("asked", "status", "body", "is_plain", "found"),
    [
        (f"GET {AT}", 200, b"pixels", True, []),
        (f"GET {AT},1", 200, b"pixels", False, []),
        ("GET /viewer/s/j/", 302, b"", True, []),
        ("GET /viewer/s/j/", 503, b"", True, ["an address of the study is not answered"]),
        (f"GET {AT}", 200, b"DOE^JANE", True, ["what identifies comes out"]),
        ("GET /", 200, b"DOE^JANE", False, ["what identifies comes out"]),
        (f"POST {AT}", 200, b"", False, ["a method that writes is answered"]),
        (f"GET {AT.replace('studies', 'studies/.')}", 200, b"", False, ["there is no such address"]),
    ],
)
def test_what_is_wrong_with_an_answer_about_a_study_is_found(asked: str, status: int, body: bytes, is_plain: bool, found: list[str]):
    assert VIEWED.troubles(f"{asked} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), status, headers({}), body, is_plain=is_plain) == found


def test_some_hundred_requests_find_nothing_and_begin_uploads():
    outcome = run(seed=7, seconds=60, most=300)
    assert outcome.findings == []
    assert outcome.ends["201"]
    assert outcome.ends["404"]
    assert outcome.viewed
