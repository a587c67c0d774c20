"""A multipart body is taken apart the same, however it arrives, and what is none is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.local_cloud.multipart import MultipartError, PartBegins, PartSplitter


def body_of(parts: list[bytes], header: bytes = b"Content-Type: application/dicom\r\n") -> bytes:
    return b"".join(b"--mark\r\n" + header + b"\r\n" + part + b"\r\n" for part in parts) + b"--mark--\r\n"


def taken_apart(body: bytes, sizes: list[int]) -> list[bytes]:
    splitter, parts = PartSplitter("mark"), list[bytes]()
    while body:
        size = sizes[len(body) % len(sizes)]
        for event in splitter.feed(body[:size]):
            if isinstance(event, PartBegins):
                parts.append(b"")
            else:
                parts[-1] += event.data
        body = body[size:]
    splitter.finish()
    return parts


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\r\n--mar", b"\r\n", b"--mark", b"\r\r\n--"])), max_size=4),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.booleans(),
)
def test_every_cut_gives_the_same_parts(parts: list[bytes], sizes: list[int], bare: bool):
    assert taken_apart(body_of(parts, b"" if bare else b"Content-Type: application/dicom\r\n"), sizes) == parts


def test_a_preamble_is_passed_over_and_header_fields_are_read():
    splitter = PartSplitter("mark")
    events = list(splitter.feed(b"hello\r\n" + body_of([b"x"], b"Content-TYPE: a/b\r\nX-Y:  z \r\n")))
    assert events[0] == PartBegins({"content-type": "a/b", "x-y": "z"})


@pytest.mark.parametrize(
    "body", [b"", b"no boundary", b"--mark\r\n\r\nhalf", b"--markx\r\n\r\n\r\n--mark--", b"--mark\r\n" + b"a" * 20_000]
)
def test_what_is_no_multipart_message_is_refused(body: bytes):
    splitter = PartSplitter("mark")
    with pytest.raises(MultipartError):
        list(splitter.feed(body))
        splitter.finish()


def test_no_more_than_a_chunk_is_held():
    splitter = PartSplitter("mark")
    list(splitter.feed(b"--mark\r\n\r\n"))
    for _ in range(50):
        list(splitter.feed(b"a" * 10_000))
        assert len(splitter._held) < 20
