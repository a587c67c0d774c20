"""Planted secrets of every kind that passes through a build never get out, and other text is left as it is."""

from __future__ import annotations

import base64
import json
import string
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.redaction import Redactor
from monai_aws_pipeline.remote import KeyPair, LineReader

ALNUM = string.ascii_letters + string.digits
BASE64 = ALNUM + "+/"
URLSAFE = ALNUM + "-_"


def text(alphabet: str, low: int, high: int | None = None) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=low, max_size=high or low)


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


access_key = st.builds(lambda head, rest: head + rest, st.sampled_from(["AKIA", "ASIA"]), text(string.ascii_uppercase + string.digits, 16))
secret_key = text(BASE64, 40)
session_token = st.builds(lambda rest: f"IQoJb3JpZ2luX2Vj{rest}==", text(BASE64, 60, 300))
registry_token = st.builds(lambda payload: encoded({"payload": payload, "version": "2", "type": "DATA_KEY"}), text(BASE64, 100, 400))
docker_auth = st.builds(lambda token: base64.b64encode(f"AWS:{token}".encode()).decode(), text(ALNUM, 40, 200))
jwt = st.builds(lambda body, mark: f"eyJhbGciOiJIUzI1NiJ9.{body}.{mark}", text(URLSAFE, 20, 200), text(URLSAFE, 43))
git_token = st.one_of(
    st.builds(lambda kind, rest: f"gh{kind}_{rest}", st.sampled_from("pousr"), text(ALNUM, 36)),
    st.builds(lambda a, b: f"github_pat_{a}_{b}", text(ALNUM, 22), text(ALNUM, 59)),
    st.builds(lambda rest: f"glpat-{rest}", text(URLSAFE, 20)),
    st.builds(lambda rest: f"hf_{rest}", text(ALNUM, 34)),
)
password = text(ALNUM + "-_.!~*", 8, 40)

# (the secret, a line of output that holds it). The parts between which it stands must survive.
PLANTED = {
    "AWS access key id": st.builds(lambda key: (key, f"using {key} now"), access_key),
    "AWS secret access key in a credentials file": st.builds(lambda key: (key, f"aws_secret_access_key = {key}"), secret_key),
    "AWS secret access key in JSON": st.builds(lambda key: (key, json.dumps({"SecretAccessKey": key, "Code": "Success"})), secret_key),
    "AWS secret access key beside its id": st.builds(lambda i, key: (key, f"{i} {key} us-east-1"), access_key, secret_key),
    "AWS session token in the environment": st.builds(lambda token: (token, f"export AWS_SESSION_TOKEN={token}"), session_token),
    "AWS session token alone": st.builds(lambda token: (token, f"got {token} from the role"), session_token),
    "metadata service credentials": st.builds(lambda token: (token, json.dumps({"Type": "AWS-HMAC", "Token": token})), session_token),
    "presigned address": st.builds(
        lambda mark: (mark, f"GET https://b.s3.amazonaws.com/k?X-Amz-Expires=9&X-Amz-Signature={mark}&x=1"), text("0123456789abcdef", 64)
    ),
    "ECR authorization token": st.builds(lambda token: (token, json.dumps({"authorizationToken": token})), docker_auth),
    "ECR password alone": st.builds(lambda token: (token, token), registry_token),
    "docker login": st.builds(lambda token: (token, f"docker login -u AWS --password {token} registry"), registry_token),
    "docker configuration": st.builds(lambda auth: (auth, json.dumps({"auths": {"r.example": {"auth": auth}}})), docker_auth),
    "docker configuration in base64": st.builds(
        lambda auth: (encoded({"auths": {"r.example": {"auth": auth}}}), f"config {encoded({'auths': {'r.example': {'auth': auth}}})}"),
        docker_auth,
    ),
    "private key on one line": st.builds(
        lambda body: (body, f"key: -----BEGIN RSA PRIVATE KEY-----\\n{body}\\n-----END RSA PRIVATE KEY----- done"), text(BASE64, 64)
    ),
    "private key in base64": st.builds(
        lambda body: (
            base64.b64encode(f"-----BEGIN PRIVATE KEY-----\n{body}".encode()).decode(),
            f"pem {base64.b64encode(f'-----BEGIN PRIVATE KEY-----{chr(10)}{body}'.encode()).decode()}",
        ),
        text(BASE64, 64),
    ),
    "git token in an address": st.builds(lambda token: (token, f"fatal: cannot read https://{token}@github.com/a/b.git"), git_token),
    "git token alone": st.builds(lambda token: (token, f"remote: {token} expired"), git_token),
    "basic authentication in an address": st.builds(
        lambda word: (f":{word}@", f"Looking in indexes: https://user:{word}@pypi.example/simple"), password
    ),
    "Authorization: Basic": st.builds(
        lambda word: (word, f"> Authorization: Basic {word}"),
        text(BASE64, 24, 60),
    ),
    "Authorization: Bearer": st.builds(lambda token: (token, f"authorization: Bearer {token}"), text(URLSAFE, 20, 60)),
    "Authorization: AWS4-HMAC-SHA256": st.builds(
        lambda mark: (mark, f"Authorization: AWS4-HMAC-SHA256 Credential=A/b, SignedHeaders=host, Signature={mark}"),
        text("0123456789abcdef", 64),
    ),
    "JSON Web Token": st.builds(lambda token: (token, f"id {token} ok"), jwt),
    "password = value": st.builds(lambda word: (word, f"DB_PASSWORD={word}"), password),
    "password with spaces in quotes": st.builds(lambda a, b: (f"{a} {b}", f'password: "{a} {b}"'), text(ALNUM, 8), text(ALNUM, 8)),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_never_appears(kind: str):
    @given(PLANTED[kind], st.integers(1, 5))
    def check(planted: tuple[str, str], size: int):
        secret, line = planted
        out = through(f"before\n#7 0.31 {line}\nafter\n".encode(), size)
        assert secret not in "\n".join(out)
        assert (out[0], out[-1]) == ("before", "after")
        assert "[redacted]" in out[1]

    check()


def through(data: bytes, size: int, secrets: tuple[str, ...] = ()) -> list[str]:
    """What comes out when the bytes arrive in chunks of this size: a secret is cut in every possible way."""
    reader = LineReader(Redactor(secrets))
    out = [line for place in range(0, len(data), size) for line in reader.feed(data[place : place + size])]
    return [*out, *reader.end()]


@given(
    text(BASE64, 64 * 6 + 20), st.sampled_from(["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY"]), st.booleans()
)
def test_a_private_key_over_several_lines_is_taken_out_and_what_follows_stays(body: str, kind: str, in_docker: bool):
    key = [f"-----BEGIN {kind}-----", *textwrap.wrap(body, 64), f"-----END {kind}-----"]
    lines = ["before", *key, "Successfully built 1234"]
    printed = "\n".join(f"#9 1.{number} {line}" if in_docker else line for number, line in enumerate(lines))
    out = through(printed.encode(), 7)
    assert not [part for part in textwrap.wrap(body, 64) if part in "\n".join(out)]
    assert "before" in out[0]
    assert "Successfully built 1234" in out[-1]


def test_a_private_key_that_breaks_off_does_not_hide_the_rest():
    out = through(b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\ncat: write error: no space left\nnext step\n", 100)
    assert out == ["[redacted]", "[redacted]", "cat: write error: no space left", "next step"]


@given(registry_token, st.sampled_from([64, 76]))
def test_base64_that_was_wrapped_is_taken_out_as_a_whole(token: str, width: int):
    parts = textwrap.wrap(token, width)
    out = through("\n".join(["start", *parts, "Login Succeeded"]).encode(), 11)
    assert out == ["start", *["[redacted]"] * len(parts), "Login Succeeded"]


@given(text(ALNUM, 12, 60), st.integers(1, 59))
def test_a_known_secret_that_was_broken_over_two_lines_is_taken_out(secret: str, place: int):
    cut = 1 + place % (len(secret) - 1)
    out = through(f"= {secret[:cut]}\n{secret[cut:]} =\n".encode(), 5, (secret,))
    for part in (secret[:cut], secret[cut:]):
        if len(part) >= 6:
            assert part not in "\n".join(out)


def test_every_line_of_a_known_private_key_is_known():
    key = KeyPair.fresh()
    redact = Redactor([key.private])
    for line in key.private.splitlines()[1:-1]:
        assert line not in redact(f"x {line} y")


# What a build prints: nothing in it is a secret, so nothing of it may change.
ORDINARY = [
    "#7 12.34 Processing ./wheels/torch-2.13.0-cp311-cp311-linux_x86_64.whl (token embeddings 512)",
    "Step 3/9 : RUN pip install --no-index --find-links /wheels -r requirements.txt",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "HEAD is now at 4df28b3f0e9a1c2d3e4f5a6b7c8d9e0f1a2b3c4d Leave a serving host at work",
    "Cloning ssh://git@github.com/owner/repository.git into /tmp/x",
    "latest: digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 size: 1234",
    "Password prompts are off; tokens are short; the secret is out; basic authentication",
    "WARNING: --password-stdin was not used",
    "/usr/lib/python3/dist-packages/holoscan/core/__init__.py:12: UserWarning: key=7",
    "layer 4f4fb700ef54: Pushed  [==================================================>]  3.072kB",
    "author: someone <someone@example.org>",
]


@pytest.mark.parametrize("line", ORDINARY)
def test_ordinary_output_is_left_as_it_is(line: str):
    assert through(f"{line}\n".encode(), 3) == [line]


WORDS = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=12), min_size=1, max_size=12).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=20), st.integers(1, 50))
def test_words_and_their_order_are_left_as_they_are(lines: list[str], size: int):
    lines = [line for line in lines if "bearer " not in line]
    assert through(("\n".join(lines) + "\n").encode(), size) == lines


def test_lines_come_out_while_the_stream_goes_on():
    reader = LineReader(Redactor())
    assert list(reader.feed(b"one\ntw")) == ["one"]
    assert list(reader.feed(b"o\rthree")) == ["two"]
    assert list(reader.end()) == ["three"]


def test_a_line_without_end_is_left_out_instead_of_being_cut_through_a_secret():
    reader = LineReader(Redactor())
    out = [line for _ in range(40) for line in reader.feed(b"x" * 10_000)]
    assert out == ["[a line of more than 65536 bytes was left out]"]
    assert list(reader.feed(b"rest\nnext\n")) == ["next"]
