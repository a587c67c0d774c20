"""A browser's upload against an S3 that verifies signatures, as the operator role: another size than the signed one is refused, and so is
another origin.

Source: Amazon S3 User Guide, "Sharing objects with presigned URLs" and "Using cross-origin resource sharing".
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.demo.steps import become_operator
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.preflight.answers import State, answer
from monai_aws_pipeline.operations.preflight.portal import portal_probes
from monai_aws_pipeline.portal.study_files import StudyFiles
from monai_aws_pipeline.portal.uploads import LEAST_PART_BYTES, MIB, UploadRefusedError, Uploads
from monai_aws_pipeline.settings import load_settings
from tests.support.platform import environment

pytestmark = pytest.mark.cloud

PORTAL = "http://127.0.0.1:3070"
SIZE = LEAST_PART_BYTES + 100


@pytest.fixture(scope="module")
def operator(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Clients, str]]:
    """Clients with the operator role's permissions, and the bucket that the administrator's stack has made."""
    with environment(local_cloud.environment):
        variables = become_operator(local_cloud.environment, "portal", tmp_path_factory.mktemp("portal") / "aws-config", lambda _: None)
    with environment(variables):
        yield Clients(variables["AWS_DEFAULT_REGION"]), variables["MONAI_AWS_BUCKET"]


@pytest.fixture
def uploads(operator: tuple[Clients, str]) -> Uploads:
    return Uploads(*operator, 64 * MIB)


@dataclass(frozen=True)
class Answer:
    """What S3 said."""

    status: int
    data: bytes
    headers: Mapping[str, str]


def ask(method: str, address: str, body: bytes | None = None, **headers: str) -> Answer:
    request = urllib.request.Request(address, body, headers, method=method)  # noqa: S310  # an address that was signed here
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return Answer(answer.status, answer.read(), answer.headers)
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code, refused.read(), refused.headers)


def put(address: str, size: int) -> Answer:
    return ask("PUT", address, b"x" * size, **{"Content-Type": ""})


def preflight(address: str, origin: str, method: str = "PUT") -> Answer:
    return ask("OPTIONS", address, Origin=origin, **{"Access-Control-Request-Method": method})


def test_s3_refuses_a_part_of_another_size_than_was_signed(uploads: Uploads):
    token = uploads.begin("somebody", SIZE).token
    address = uploads.addresses("somebody", token, [2])[2]
    for size in (99, 101, 0):
        answer = put(address, size)
        assert answer.status == 403
        assert b"SignatureDoesNotMatch" in answer.data
    assert uploads.begun("somebody", token)[1] == ()
    assert put(address, 100).status == 200
    assert uploads.begun("somebody", token)[1] == (2,)
    uploads.abort("somebody", token)


def test_s3_refuses_a_part_of_another_upload_or_number_than_was_signed(uploads: Uploads):
    token = uploads.begin("somebody", SIZE).token
    address = uploads.addresses("somebody", token, [2])[2]
    for changed in (address.replace("partNumber=2", "partNumber=1"), address.replace("/input/", "/output/")):
        assert put(changed, 100).status == 403
    uploads.abort("somebody", token)


def test_the_operator_completes_what_is_there_as_declared_and_nothing_else(uploads: Uploads, operator: tuple[Clients, str]):
    token = uploads.begin("somebody", SIZE).token
    addresses = uploads.addresses("somebody", token, [1, 2])
    assert put(addresses[2], 100).status == 200
    with pytest.raises(UploadRefusedError, match="parts_missing"):
        uploads.complete("somebody", token)
    assert put(addresses[1], LEAST_PART_BYTES).status == 200
    job = uploads.complete("somebody", token)
    assert len(job) == 32
    clients, bucket = operator
    assert sum(item["Size"] for item in clients.s3.list_objects_v2(Bucket=bucket, Prefix="input/")["Contents"]) == SIZE


@pytest.mark.parametrize(("origin", "status"), [(PORTAL, 200), ("http://127.0.0.1:45678", 200), ("http://evil.example", 403)])
def test_the_bucket_takes_parts_from_the_portals_pages_alone(uploads: Uploads, origin: str, status: int):
    token = uploads.begin("somebody", 100).token
    address = uploads.addresses("somebody", token, [1])[1]
    asked = preflight(address, origin)
    assert asked.status == status
    assert asked.headers.get("Access-Control-Allow-Origin") == (origin if status == 200 else None)
    assert preflight(address, origin, "GET").status == 403
    uploads.abort("somebody", token)


def test_the_pages_may_send_where_the_addresses_lead(uploads: Uploads, operator: tuple[Clients, str]):
    clients, bucket = operator
    token = uploads.begin("somebody", 100).token
    address = uploads.addresses("somebody", token, [1])[1]
    assert address.startswith(StudyFiles(clients, bucket).address + "/")
    uploads.abort("somebody", token)


@pytest.mark.parametrize(("address", "state"), [(PORTAL, State.OK), ("https://portal.example.org", State.WARNING), ("", State.SKIPPED)])
def test_the_doctor_asks_the_bucket_as_a_browser_does(operator: tuple[Clients, str], address: str, state: State):
    clients, bucket = operator
    (probe,) = portal_probes(clients, load_settings(bucket=bucket, links_url=address))
    assert answer(probe).state is state
