"""Who asks, behind a load balancer: its own word alone counts, while it lasts, and for nobody but whom it names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto import mock_aws
from starlette.testclient import TestClient

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.operations.status import Depth
from monai_aws_pipeline.operations.whereabouts import Surroundings
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import Portal, build_app
from monai_aws_pipeline.portal.identity import HEADER, LoadBalancer, SigningKeys, UnknownUserError
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.safety import REQUEST_HEADER
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.uploads import MIB, Uploads

ARN = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/portal/0123456789abcdef"
KEYS = "https://public-keys.auth.elb.us-east-1.amazonaws.com"
KID = "12345678-1234-1234-1234-123456789012"
OTHER_KID = "99999999-1234-1234-1234-123456789012"
KEY, STRANGE, RSA = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)


def pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


class Fetch:
    """AWS's host of keys."""

    def __init__(self, **keys: bytes) -> None:
        self.keys, self.asked = {f"{KEYS}/{name}": key for name, key in keys.items()}, [""][:0]

    def __call__(self, address: str) -> bytes:
        self.asked.append(address)
        if address not in self.keys:
            raise OSError("404")
        return self.keys[address]


@pytest.fixture
def fetch() -> Fetch:
    return Fetch(**{KID: pem(KEY)})


@pytest.fixture
def balancer(fetch: Fetch) -> LoadBalancer:
    return LoadBalancer(ARN, SigningKeys(KEYS, fetch))


def token(key: Any = KEY, claims: dict[str, Any] | None = None, algorithm: str = "ES256", **header: Any) -> str:
    said = {"kid": KID, "signer": ARN, "iss": "https://login.example.org", "client": "x", "exp": int(time.time()) + 120, **header}
    payload = {"sub": "DOE-JANE", "exp": int(time.time()) + 120} if claims is None else claims
    return jwt.encode(payload, key, algorithm=algorithm, headers={name: value for name, value in said.items() if value is not None})


def test_whom_the_load_balancer_has_let_in_is_known_by_a_pseudonym(balancer: LoadBalancer, fetch: Fetch):
    user = balancer.user(token())
    assert len(user) == 16
    assert "JANE" not in user
    assert balancer.user(token()) == user != balancer.user(token(claims={"sub": "another"}))
    assert fetch.asked == [f"{KEYS}/{KID}"], "a key is fetched once"


def test_a_token_with_padding_is_read_as_load_balancers_write_it(balancer: LoadBalancer):
    """They pad each part of a token, and sign it so, which no standard asks for."""
    from cryptography.hazmat.primitives import hashes
    from jwt.utils import base64url_encode, der_to_raw_signature

    def padded(part: bytes) -> bytes:
        return part + b"=" * (-len(part) % 4)

    header, payload, _ = token(client="longer").encode().split(b".")
    signed = padded(header) + b"." + padded(payload)
    raw = der_to_raw_signature(KEY.sign(signed, ec.ECDSA(hashes.SHA256())), KEY.curve)
    text = (signed + b"." + padded(base64url_encode(raw))).decode()
    assert "=" in text
    assert balancer.user(text) == balancer.user(token())


FORGED: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no token": lambda: "DOE-JANE",
    "dots": lambda: "..",
    "another key": lambda: token(STRANGE),
    "no signature": lambda: jwt.encode({"sub": "x"}, None, algorithm="none", headers={"kid": KID, "signer": ARN, "exp": 9999999999}),
    "a secret that is the public key": lambda: jwt.encode(
        {"sub": "x"}, "a" * 64, algorithm="HS256", headers={"kid": KID, "signer": ARN, "exp": 9999999999}
    ),
    "another load balancer": lambda: token(signer=ARN.replace("portal", "other")),
    "no signer": lambda: token(signer=None),
    "over by its header": lambda: token(exp=int(time.time()) - 1),
    "without an end": lambda: token(exp=None),
    "an end that is no number": lambda: token(exp="9999999999"),
    "an end that is true": lambda: token(exp=True),
    "over by its claims": lambda: token(claims={"sub": "x", "exp": int(time.time()) - 1}),
    "no user": lambda: token(claims={}),
    "a user that is no text": lambda: token(claims={"sub": ""}),
    "a key that is not there": lambda: token(kid=OTHER_KID),
    "a key elsewhere": lambda: token(kid="../../evil"),
    "a key elsewhere by its address": lambda: token(kid="https://evil.example/key"),
    "changed": lambda: token()[:-6] + "AAAAAA",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_a_header_that_is_forged_or_over_is_refused(balancer: LoadBalancer, fetch: Fetch, forged: Callable[[], str]):
    with pytest.raises(UnknownUserError) as refused:
        balancer.user(forged())
    assert "JANE" not in str(refused.value)
    assert all(address.startswith(f"{KEYS}/") and "evil" not in address for address in fetch.asked)


def test_a_key_that_is_none_of_theirs_is_refused():
    balancer = LoadBalancer(ARN, SigningKeys(KEYS, Fetch(**{KID: pem(RSA), OTHER_KID: b"<html>"})))
    for name in (KID, OTHER_KID):
        with pytest.raises(UnknownUserError, match="not to be had from AWS"):
            balancer.user(token(kid=name))


def test_a_key_that_was_not_there_is_asked_for_again_later_and_not_at_once():
    now, fetch = [0.0], Fetch()
    keys = SigningKeys(KEYS, fetch, lambda: now[0])
    for _ in range(3):
        with pytest.raises(UnknownUserError):
            keys.key(KID)
    assert len(fetch.asked) == 1
    now[0], fetch.keys = 60.0, {f"{KEYS}/{KID}": pem(KEY)}
    assert keys.key(KID)


# ------------------------------------------------------------------------------------------------------------- the application


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch, balancer: LoadBalancer) -> Iterator[TestClient]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="studies")
        clients = Clients("us-east-1")
        files = StudyFiles(clients, "studies")
        watcher = Watcher(files.store, lambda: Surroundings(Depth(0, 0), Depth(0, 0)))
        portal = Portal(Uploads(clients, "studies", 64 * MIB), watcher, lambda study, failed: "", balancer)
        app = build_app(files, Addresses("studies", links="https://portal.example.org"), portal)
        yield TestClient(app, base_url="https://portal.example.org", headers={REQUEST_HEADER: "1"})


@pytest.mark.parametrize("path", ["/", "/recent", "/static/drop.js", "/studies/0123456789abcdef/", "/nothing"])
def test_nothing_is_given_to_whom_nobody_knows(browser: TestClient, path: str):
    for headers in ({}, {HEADER: token(STRANGE)}):
        answer = browser.get(path, headers=headers)
        assert answer.status_code == 401
        assert "Not logged in" in answer.text
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_the_api_refuses_whom_nobody_knows(browser: TestClient):
    answer = browser.post("/api/uploads", json={"bytes": 10})
    assert (answer.status_code, answer.json()) == (401, {"error": "unknown_user"})


def test_a_header_that_is_there_twice_is_refused(browser: TestClient):
    answer = browser.get("/", headers=[(HEADER, token()), (HEADER, token())])  # type: ignore[arg-type]
    assert answer.status_code == 401


def test_who_is_known_sees_the_pages_and_alone_goes_on_with_an_upload(browser: TestClient):
    mine, others = {HEADER: token()}, {HEADER: token(claims={"sub": "another"})}
    assert browser.get("/", headers=mine).status_code == 200
    made = browser.post("/api/uploads", json={"bytes": 10}, headers=mine).json()["token"]
    assert browser.get(f"/api/uploads/{made}", headers=mine).status_code == 200
    assert browser.get(f"/api/uploads/{made}", headers=others).status_code == 404


def test_the_load_balancer_asks_for_the_health_by_the_machines_address(browser: TestClient):
    assert browser.get("/health", headers={"host": "10.0.0.7:3070"}).status_code == 200
    assert browser.get("/", headers={"host": "10.0.0.7:3070", HEADER: token()}).status_code == 421
