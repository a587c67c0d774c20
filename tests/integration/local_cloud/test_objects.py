"""The embedded S3 honours conditions as AWS does, and the host's words about objects live up to them there.

Sources: AWS, DeleteObject and "How to perform conditional deletes" (If-Match); CopyObject and UploadPartCopy (x-amz-copy-source-if-match,
x-amz-metadata-directive, x-amz-tagging-directive).
"""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from monai_aws_pipeline.host_agent.aws.bucket import Store
from tests.integration.local_cloud.conftest import Account, unique

pytestmark = pytest.mark.cloud

LARGE = 9 << 20
"""Bytes of an object that the SDK copies in two parts."""
PERSONAL: dict[str, Any] = {
    "Metadata": {"patientname": "Hans Mueller"},
    "ContentType": "application/x-mueller",
    "ContentDisposition": 'attachment; filename="Mueller.zip"',
    "CacheControl": "x-mueller",
    "Tagging": "patient=Mueller",
}


@pytest.fixture(params=["", "Enabled"], ids=["without versions", "with versions"])
def bucket(account: Account, request: pytest.FixtureRequest) -> str:
    name = unique("objects")
    account.client("s3").create_bucket(Bucket=name)
    if request.param:
        account.client("s3").put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": request.param})
    return name


def code_of(refused: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    return refused.value.response["Error"]["Code"], refused.value.response["ResponseMetadata"]["HTTPStatusCode"]


def body_of(s3: Any, bucket: str, key: str) -> bytes:
    return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())


def test_an_object_is_deleted_on_condition_of_its_etag(account: Account, bucket: str):
    s3 = account.client("s3")
    old = s3.put_object(Bucket=bucket, Key="a", Body=b"old")["ETag"]
    new = s3.put_object(Bucket=bucket, Key="a", Body=b"new")["ETag"]
    with pytest.raises(ClientError) as refused:
        s3.delete_object(Bucket=bucket, Key="a", IfMatch=old)
    assert code_of(refused) == ("PreconditionFailed", 412)
    assert body_of(s3, bucket, "a") == b"new"
    s3.delete_object(Bucket=bucket, Key="a", IfMatch=new)
    with pytest.raises(ClientError) as refused:
        s3.delete_object(Bucket=bucket, Key="a", IfMatch=new)
    assert code_of(refused) == ("NoSuchKey", 404)


def test_a_conditional_deletion_needs_the_right_to_read_and_the_hosts_role_has_both(account: Account, bucket: str):
    s3 = account.client("s3")
    etag = s3.put_object(Bucket=bucket, Key="input/a", Body=b"x")["ETag"]
    statements = [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:DeleteObject"], "Resource": f"arn:aws:s3:::{bucket}/input/*"}]
    account.client("s3", account.assume(statements)).delete_object(Bucket=bucket, Key="input/a", IfMatch=etag)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_an_object_is_copied_on_condition_of_its_etag_whole_and_in_parts(account: Account, bucket: str):
    s3 = account.client("s3")
    old = s3.put_object(Bucket=bucket, Key="a", Body=b"old" * 10)["ETag"]
    new = s3.put_object(Bucket=bucket, Key="a", Body=b"new" * 10)["ETag"]
    source = {"Bucket": bucket, "Key": "a"}
    with pytest.raises(ClientError) as refused:
        s3.copy_object(Bucket=bucket, Key="b", CopySource=source, CopySourceIfMatch=old)
    assert code_of(refused) == ("PreconditionFailed", 412)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="b")["UploadId"]
    part = {"Bucket": bucket, "Key": "b", "CopySource": source, "UploadId": upload, "PartNumber": 1, "CopySourceRange": "bytes=0-9"}
    with pytest.raises(ClientError) as refused:
        s3.upload_part_copy(**part, CopySourceIfMatch=old)
    assert code_of(refused) == ("PreconditionFailed", 412)
    s3.upload_part_copy(**part, CopySourceIfMatch=new)
    s3.copy_object(Bucket=bucket, Key="b", CopySource=source, CopySourceIfMatch=new)
    assert body_of(s3, bucket, "b") == b"new" * 10


def test_a_copy_carries_everything_along_unless_it_is_told_otherwise(account: Account, bucket: str):
    """So the embedded S3 would show it if a copy of ours forgot to."""
    s3 = account.client("s3")
    s3.put_object(Bucket=bucket, Key="a", Body=b"x", **PERSONAL)
    s3.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"})
    head = s3.head_object(Bucket=bucket, Key="b")
    assert (head["Metadata"], head["ContentType"]) == (PERSONAL["Metadata"], PERSONAL["ContentType"])
    assert head["ContentDisposition"] == PERSONAL["ContentDisposition"]
    assert s3.get_object_tagging(Bucket=bucket, Key="b")["TagSet"] == [{"Key": "patient", "Value": "Mueller"}]


@pytest.mark.parametrize("size", [10, LARGE], ids=["small", "large"])
def test_the_host_copies_the_bytes_and_nothing_that_lay_beside_them(account: Account, bucket: str, size: int):
    s3 = account.client("s3")
    put = s3.put_object(Bucket=bucket, Key="input/a", Body=b"x" * size, **PERSONAL)
    version, etag = put.get("VersionId", ""), put["ETag"].strip('"')
    assert Store(s3, bucket).copy("input/a", version, etag, size, "quarantine/a", "application/octet-stream")
    head = s3.head_object(Bucket=bucket, Key="quarantine/a")
    assert (head["ContentLength"], head["ContentType"], head["Metadata"]) == (size, "application/octet-stream", {})
    assert "mueller" not in str(head).lower()
    assert s3.get_object_tagging(Bucket=bucket, Key="quarantine/a")["TagSet"] == []


@pytest.mark.parametrize("size", [10, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("moment", ["before", "during"])
def test_the_host_copies_its_own_upload_or_nothing(account: Account, bucket: str, size: int, moment: str):
    s3, uploader = account.client("s3"), account.client("s3")
    put = s3.put_object(Bucket=bucket, Key="input/a", Body=b"x" * size)
    version, etag = put.get("VersionId", ""), put["ETag"].strip('"')

    def replace(**_: Any) -> None:
        uploader.put_object(Bucket=bucket, Key="input/a", Body=b"y" * size)

    if moment == "before":
        replace()
    else:
        call = "CopyObject" if size < LARGE else "UploadPartCopy"
        s3.meta.events.register_first(f"before-call.s3.{call}", replace)
    copied = Store(s3, bucket).copy("input/a", version, etag, size, "processed/a", "application/zip")
    assert copied is bool(version), "a version stays what it is whatever comes after it"
    if version:
        assert body_of(s3, bucket, "processed/a") == b"x" * size
    else:
        assert s3.list_objects_v2(Bucket=bucket, Prefix="processed/")["KeyCount"] == 0
        assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_the_host_removes_its_own_upload_or_nothing(account: Account, bucket: str):
    s3 = account.client("s3")
    put = s3.put_object(Bucket=bucket, Key="input/a", Body=b"old")
    version, etag = put.get("VersionId", ""), put["ETag"].strip('"')
    s3.put_object(Bucket=bucket, Key="input/a", Body=b"new")
    store = Store(s3, bucket)
    for _ in range(2):
        store.delete("input/a", version, etag)
        assert body_of(s3, bucket, "input/a") == b"new"
    versions = s3.list_object_versions(Bucket=bucket)
    assert [item["IsLatest"] for item in versions["Versions"]] == [True]
    store.delete("input/missing", etag=etag)
    assert not s3.list_object_versions(Bucket=bucket).get("DeleteMarkers")
