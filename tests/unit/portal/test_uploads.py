"""A browser's upload goes to S3 in parts that were signed for their size; what is refused here, by name, and what S3 is left with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws
from starlette.testclient import TestClient

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import JobMessage
from monai_aws_pipeline.operations.status import Depth
from monai_aws_pipeline.operations.whereabouts import Surroundings
from monai_aws_pipeline.portal import uploads as portal_uploads
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.portal.app import Portal, build_app
from monai_aws_pipeline.portal.live import Watcher
from monai_aws_pipeline.portal.safety import REQUEST_HEADER, Rate
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.texts import TEXTS
from monai_aws_pipeline.portal.uploads import LEAST_PART_BYTES, MIB, UploadRefusedError, Uploads

BUCKET = "studies"
LINKS = "http://127.0.0.1:3070"
OURS = {REQUEST_HEADER: "1"}
SIZE = LEAST_PART_BYTES + 1000


@pytest.fixture(autouse=True)
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def uploads(**changes: Any) -> Uploads:
    return Uploads(Clients("us-east-1"), BUCKET, 64 * MIB, **changes)


def browser_of(made: Uploads, rate: Rate | None = None, client: str = "127.0.0.1") -> TestClient:
    files = StudyFiles(Clients("us-east-1"), BUCKET)
    watcher = Watcher(files.store, lambda: Surroundings(Depth(0, 0), Depth(0, 0)))
    app = build_app(files, Addresses(BUCKET, links=LINKS), Portal(made, watcher, lambda study, failed: "", rate=rate or Rate()))
    return TestClient(app, base_url=LINKS, follow_redirects=False, headers=OURS, client=(client, 50000))


@pytest.fixture
def browser() -> TestClient:
    return browser_of(uploads(), Rate(burst=10_000))


def begun(browser: TestClient, size: int = SIZE) -> str:
    answer = browser.post("/api/uploads", json={"bytes": size})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def open_at(s3: Any) -> list[dict[str, Any]]:
    return list(s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))


def put(s3: Any, number: int, body: bytes) -> None:
    (upload,) = open_at(s3)
    s3.upload_part(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"], PartNumber=number, Body=body)


def test_what_was_sent_in_parts_becomes_the_job_that_the_wake_function_makes_of_it(browser: TestClient, s3: Any):
    token = begun(browser)
    put(s3, 1, b"a" * LEAST_PART_BYTES)
    assert browser.get(f"/api/uploads/{token}").json() == {
        "token": token, "bytes": SIZE, "part_bytes": LEAST_PART_BYTES, "stored": [1], "job": "",
    }  # fmt: skip
    put(s3, 2, b"b" * 1000)
    job = browser.post(f"/api/uploads/{token}/complete", json={}).json()["job"]
    (item,) = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    message = JobMessage.for_object(bucket=BUCKET, key=item["Key"], version="", etag=item["ETag"], size=item["Size"])
    assert (message.job, item["Size"]) == (job, SIZE)
    assert browser.post(f"/api/uploads/{token}/complete", json={}).json()["job"] == job, "an answer that was lost is given again"
    assert browser.get(f"/api/uploads/{token}").json()["job"] == job


def test_the_key_is_random_and_type_and_metadata_are_ours(browser: TestClient, s3: Any):
    token = begun(browser, 10)
    put(s3, 1, b"x" * 10)
    browser.post(f"/api/uploads/{token}/complete", json={})
    (key,) = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    head = s3.head_object(Bucket=BUCKET, Key=key)
    assert (head["ContentType"], head["Metadata"]) == ("application/zip", {})
    assert key.startswith("input/")
    assert token not in key
    assert len(key) == len("input/.zip") + 32


def test_each_parts_size_is_signed_into_its_address(browser: TestClient, s3: Any):
    token = begun(browser)
    addresses = browser.post(f"/api/uploads/{token}/parts", json={"numbers": [1, 2]}).json()["addresses"]
    assert set(addresses) == {"1", "2"}
    for number, address in addresses.items():
        query = parse_qs(urlsplit(address).query)
        assert query["X-Amz-SignedHeaders"] == ["content-length;host"], "S3 refuses a part of another size"
        assert query["partNumber"] == [number]
        assert urlsplit(address).path.startswith("/input/")


@pytest.mark.parametrize(
    ("size", "status", "code"),
    [(0, 400, "upload_empty"), (64 * MIB + 1, 413, "upload_too_large"), (10**18, 413, "upload_too_large")],
)
def test_a_size_that_is_not_taken_is_refused_before_anything_is_sent(browser: TestClient, s3: Any, size: int, status: int, code: str):
    answer = browser.post("/api/uploads", json={"bytes": size})
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert not open_at(s3)


@pytest.mark.parametrize(
    "parts", [{}, {1: LEAST_PART_BYTES}, {1: LEAST_PART_BYTES, 2: 999}, {1: LEAST_PART_BYTES, 2: 1001, 3: 5}, {2: 1000}]
)
def test_parts_that_are_not_as_declared_do_not_become_a_job(browser: TestClient, s3: Any, parts: dict[int, int]):
    token = begun(browser)
    for number, size in parts.items():
        put(s3, number, b"x" * size)
    answer = browser.post(f"/api/uploads/{token}/complete", json={})
    assert (answer.status_code, answer.json()["error"]) == (409, "parts_missing")
    whole = {number for number, size in parts.items() if size == {1: LEAST_PART_BYTES, 2: 1000}.get(number)}
    assert set(answer.json()["missing"]) == {1, 2} - whole
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


def test_a_part_beyond_what_was_declared_is_left_out(browser: TestClient, s3: Any):
    token = begun(browser)
    for number, size in ((1, LEAST_PART_BYTES), (2, 1000), (3, 5)):
        put(s3, number, b"x" * size)
    assert browser.post(f"/api/uploads/{token}/complete", json={}).status_code == 200
    assert s3.list_objects_v2(Bucket=BUCKET)["Contents"][0]["Size"] == SIZE


def test_a_cancelled_upload_leaves_nothing(browser: TestClient, s3: Any):
    token = begun(browser)
    put(s3, 1, b"x" * LEAST_PART_BYTES)
    assert browser.delete(f"/api/uploads/{token}").status_code == 200
    assert not open_at(s3)
    for answer in (browser.get(f"/api/uploads/{token}"), browser.post(f"/api/uploads/{token}/complete", json={})):
        assert (answer.status_code, answer.json()["error"]) == (404, "no_such_upload")


def test_an_upload_that_s3_has_forgotten_is_said_to_be_gone(browser: TestClient, s3: Any):
    token = begun(browser)
    (upload,) = open_at(s3)
    s3.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    assert browser.get(f"/api/uploads/{token}").json()["error"] == "no_such_upload"
    assert browser.delete(f"/api/uploads/{token}").status_code == 200


def test_a_complete_upload_is_not_cancelled(browser: TestClient, s3: Any):
    token = begun(browser, 10)
    put(s3, 1, b"x" * 10)
    browser.post(f"/api/uploads/{token}/complete", json={})
    assert browser.delete(f"/api/uploads/{token}").json()["error"] == "upload_complete"
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1


@pytest.mark.parametrize("numbers", [[], [0], [3], [-1], list(range(1, 30)), [1, 3], [True], ["1"], [1.0], "1", None, {}])
def test_addresses_are_given_for_parts_of_the_upload_alone(browser: TestClient, numbers: Any):
    token = begun(browser)
    answer = browser.post(f"/api/uploads/{token}/parts", json={"numbers": numbers})
    assert answer.status_code == 400
    assert answer.json()["error"] in ("no_such_part", "not_understood")


def test_nobody_goes_on_with_the_upload_of_another():
    made = uploads()
    token = made.begin("somebody", 10).token
    for ask in (made.begun, made.complete, made.abort):
        with pytest.raises(UploadRefusedError, match="no_such_upload"):
            ask("another", token)
    with pytest.raises(UploadRefusedError, match="no_such_upload"):
        made.addresses("another", token, [1])
    assert made.addresses("somebody", token, [1])


def test_uploads_are_forgotten_after_a_day_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(portal_uploads, "MOST_OPEN", 5)
    monkeypatch.setattr(portal_uploads, "MOST_OF_ONE", 3)
    now = [0.0]
    made = uploads(clock=lambda: now[0])
    tokens = [made.begin("somebody", 10).token for _ in range(3)]
    with pytest.raises(UploadRefusedError, match="too_many_uploads"):
        made.begin("somebody", 10)
    for _ in range(2):
        made.begin("another", 10)
    with pytest.raises(UploadRefusedError, match="too_many_uploads"):
        made.begin("a third", 10)
    now[0] = 25 * 3600
    with pytest.raises(UploadRefusedError, match="no_such_upload"):
        made.begun("somebody", tokens[0])
    assert made.begin("somebody", 10)


def test_complete_uploads_take_nobodys_place_and_the_oldest_are_forgotten(s3: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(portal_uploads, "MOST_OPEN", 2)
    made = uploads()
    tokens = []
    for _ in range(4):
        tokens.append(made.begin("somebody", 10).token)
        put(s3, 1, b"x" * 10)
        assert made.complete("somebody", tokens[-1])
    assert made.begun("somebody", tokens[-1])[2]
    with pytest.raises(UploadRefusedError, match="no_such_upload"):
        made.begun("somebody", tokens[0])


def test_a_slow_s3_holds_nobody_but_whom_it_is_slow_for():
    clients, reached, may_go_on, was_let = Clients("us-east-1"), threading.Event(), threading.Event(), list[bool]()

    def slow_once(**_: object) -> None:
        if not reached.is_set():
            reached.set()
            was_let.append(may_go_on.wait(20))

    made = Uploads(clients, BUCKET, 64 * MIB)
    known = made.begin("another", SIZE).token
    clients.s3.meta.events.register("before-call.s3.CreateMultipartUpload", slow_once)
    with ThreadPoolExecutor(1) as one:
        begun_slowly = one.submit(made.begin, "somebody", SIZE)
        assert reached.wait(20)
        assert made.begin("another", SIZE)
        assert made.addresses("another", known, [1])
        made.abort("another", known)
        may_go_on.set()
        assert made.addresses("somebody", begun_slowly.result().token, [1])
    assert was_let == [True], "they did not wait for it"


def test_an_upload_that_s3_begins_slowly_has_its_place_and_one_that_it_refuses_gives_it_back(s3: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(portal_uploads, "MOST_OF_ONE", 1)
    clients, meanwhile = Clients("us-east-1"), list[BaseException | None]()
    made = Uploads(clients, BUCKET, 64 * MIB)
    s3.delete_bucket(Bucket=BUCKET)
    with ThreadPoolExecutor(1) as another:
        clients.s3.meta.events.register(
            "before-call.s3.CreateMultipartUpload",
            lambda **_: meanwhile.append(another.submit(made.begin, "somebody", SIZE).exception(20)),
        )
        with pytest.raises(ClientError, match="NoSuchBucket"):
            made.begin("somebody", SIZE)
        assert [str(each) for each in meanwhile] == ["too_many_uploads"]
        s3.create_bucket(Bucket=BUCKET)
        assert made.begin("somebody", SIZE)


def test_a_large_upload_has_no_more_parts_than_s3_takes():
    made = Uploads(Clients("us-east-1"), BUCKET, 1 << 44)
    large = made.begin("somebody", 1 << 40)
    assert large.parts <= 10_000
    assert sum(large.size_of(number) for number in range(1, large.parts + 1)) == 1 << 40


# ------------------------------------------------------------------------------------------------------------------- who may ask


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**OURS, "origin": "https://evil.example"},
        {**OURS, "origin": "null"},
        {**OURS, "origin": "http://127.0.0.1:9999"},
        {**OURS, "sec-fetch-site": "cross-site"},
        {**OURS, "sec-fetch-site": "same-site"},
        {**OURS, "sec-fetch-site": "none"},
        {"origin": LINKS, "sec-fetch-site": "same-origin"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/uploads"), ("DELETE", "/api/uploads/x"), ("POST", "/")])
def test_a_page_of_another_origin_changes_nothing(browser: TestClient, s3: Any, headers: dict[str, str], method: str, path: str):
    browser.headers.pop(REQUEST_HEADER)
    answer = browser.request(method, path, json={"bytes": 10}, headers=headers)
    assert answer.status_code == 403
    assert "did not come from a page of this portal" in answer.text if path == "/" else answer.json() == {"error": "other_origin"}
    assert not open_at(s3)


def test_a_page_of_ours_does(browser: TestClient):
    assert browser.post("/api/uploads", json={"bytes": 10}, headers={"origin": LINKS, "sec-fetch-site": "same-origin"}).status_code == 201


def test_each_client_may_ask_so_often():
    made, rate = uploads(), Rate(burst=3, per_second=1, clock=lambda: 0.0)
    answers = [browser_of(made, rate).get("/api/uploads/x").status_code for _ in range(5)]
    assert answers == [404, 404, 404, 429, 429]
    assert browser_of(made, rate, client="192.0.2.1").get("/api/uploads/x").status_code == 404, "another client's"
    assert browser_of(made, rate).get("/").status_code == 200, "pages are not counted"


def test_a_client_that_was_too_fast_may_ask_again_later():
    now = [0.0]
    rate = Rate(burst=2, per_second=1, clock=lambda: now[0])
    assert [rate.takes("a") for _ in range(3)] == [True, True, False]
    now[0] = 1.0
    assert [rate.takes("a") for _ in range(2)] == [True, False]
    now[0] = 1000.0
    assert [rate.takes("a") for _ in range(3)] == [True, True, False], "no more are saved than may come at once"


# ----------------------------------------------------------------------------------------------------------------------- fuzzing

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["bytes", "numbers", "token", "x"]), inner, max_size=4),
    max_leaves=8,
)
BODIES = (
    JSON.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=200)
    | st.sampled_from([1_000, 15_000, 20_000]).map(lambda depth: b"[" * depth)
)
PARTS = st.sampled_from(
    ["api", "uploads", "jobs", "events", "studies", "again", "parts", "complete", "recent", "%00", "..", "%2e%2e", "", "ü", "a" * 300]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["content-type", "content-length", "accept-language", "cookie", "origin", "sec-fetch-site", "x-amzn-oidc-data", "range"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
    max_size=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH"]),
    parts=st.lists(PARTS, max_size=5),
    known=st.booleans(),
    body=BODIES,
    headers=HEADERS,
)
def test_nothing_that_is_sent_to_the_api_is_unhandled(
    browser: TestClient, method: str, parts: list[str], known: bool, body: bytes, headers: dict[str, str]
):
    token = begun(browser) if known else ""
    path = "/" + "/".join(["api", "uploads", token, *parts] if known else parts)
    # A whole address: a path that begins with two slashes would be the name of a host where an address is put together.
    answer = browser.request(method, f"{LINKS}{path}", content=body, headers=headers)
    assert answer.status_code < 500, answer.text
    if method != "HEAD" and answer.headers.get("content-type") == "application/json" and answer.status_code >= 400:
        assert answer.json()["error"] in TEXTS
    if known:
        browser.delete(f"/api/uploads/{token}")
