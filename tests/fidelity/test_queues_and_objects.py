"""SQS's limits, and how S3 dates, lists and deletes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

import monai_aws_pipeline
from lambda_fn import folders
from lambda_fn.folders import Folders
from monai_aws_pipeline.contract import JobMessage
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.aws.job_queue import VISIBILITY_S, Heartbeat, JobsQueue
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.settings import load_settings
from tests.fidelity.conftest import refusal
from tests.integration.local_cloud.conftest import Account, eventually, unique

pytestmark = pytest.mark.cloud
behaviour = pytest.mark.behaviour
MIB = 1 << 20


@pytest.fixture
def sqs(account: Account) -> Any:
    return account.client("sqs")


@pytest.fixture
def queue(sqs: Any) -> str:
    return str(sqs.create_queue(QueueName=unique("limits"))["QueueUrl"])


@pytest.fixture
def s3(account: Account) -> Any:
    return account.client("s3")


@pytest.fixture
def bucket(s3: Any) -> str:
    name = unique("objects")
    s3.create_bucket(Bucket=name)
    return name


def received(sqs: Any, queue: str, wait: int = 1) -> list[dict[str, Any]]:
    return list(sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=wait).get("Messages", []))


# -------------------------------------------------------------------------------------------------------------------------- queues


@behaviour("queue-12-hours")
def test_a_message_is_out_of_sight_for_12_hours_at_most_embedded(sqs: Any, queue: str):
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    (message,) = received(sqs, queue)
    hold = {"QueueUrl": queue, "ReceiptHandle": message["ReceiptHandle"]}
    sqs.change_message_visibility(**hold, VisibilityTimeout=11 * 3600)
    with pytest.raises(ClientError) as error:
        sqs.change_message_visibility(**hold, VisibilityTimeout=12 * 3600)
    assert refusal(error)[:2] == ("InvalidParameterValue", 400)
    assert "beyond the limit [43200 seconds]" in refusal(error)[2]


@behaviour("queue-12-hours")
def test_a_job_goes_on_when_its_message_can_be_kept_no_longer_handled(
    sqs: Any, queue: str, local_cloud: LocalCloud, caplog: pytest.LogCaptureFixture
):
    jobs = JobsQueue(sqs, queue.rpartition("/")[2])
    sqs.send_message(QueueUrl=queue, MessageBody="job")
    delivery = jobs.take()
    assert delivery is not None
    local_cloud.order_fault(account={"in_flight_s": VISIBILITY_S})
    with Heartbeat(jobs, delivery, every_s=0.01):
        eventually(lambda: "could not be kept (InvalidParameterValue)" in caplog.text)
    jobs.done(delivery)
    assert jobs.waiting() == 0


@behaviour("queue-12-hours")
def test_no_study_may_take_longer_than_its_message_is_kept_handled():
    hours = max(each.le for each in type(load_settings()).model_fields["map_timeout_s"].metadata if hasattr(each, "le")) / 3600
    assert 2 * hours <= 10, "it may run twice within one receipt"


@behaviour("queue-in-flight")
def test_at_the_limit_of_messages_in_flight_who_waits_gets_none_and_who_does_not_an_error_embedded(
    sqs: Any, queue: str, local_cloud: LocalCloud
):
    for _ in range(3):
        sqs.send_message(QueueUrl=queue, MessageBody="x")
    local_cloud.order_fault(account={"in_flight": 2})
    sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=2)
    assert received(sqs, queue) == []
    with pytest.raises(ClientError) as error:
        sqs.receive_message(QueueUrl=queue)
    assert refusal(error)[:2] == ("OverLimit", 403)


@behaviour("queue-in-flight")
def test_the_agent_waits_and_knows_that_there_is_work_handled(sqs: Any, queue: str, local_cloud: LocalCloud):
    jobs = JobsQueue(sqs, queue.rpartition("/")[2])
    for _ in range(2):
        sqs.send_message(QueueUrl=queue, MessageBody="job")
    first = jobs.take()
    local_cloud.order_fault(account={"in_flight": 1})
    assert jobs.take(1) is None
    assert jobs.waiting() == 1, "so the host does not stop"
    assert first is not None
    jobs.done(first)
    assert jobs.take() is not None


@behaviour("queue-purge")
def test_a_queue_is_purged_once_a_minute_embedded(sqs: Any, queue: str):
    sqs.purge_queue(QueueUrl=queue)
    with pytest.raises(ClientError) as error:
        sqs.purge_queue(QueueUrl=queue)
    code, status, message = refusal(error)
    assert (code.rpartition(".")[2], status) == ("PurgeQueueInProgress", 403)
    assert "allowed every 60 seconds" in message


@behaviour("queue-purge")
def test_nothing_of_the_system_purges_a_queue_handled():
    root = Path(monai_aws_pipeline.__file__).parents[1]
    sources = [*(root / "monai_aws_pipeline").rglob("*.py"), *(root / "lambda_fn").rglob("*.py"), *(root / "infra").rglob("*.yaml")]
    found = [
        path.name
        for path in sources
        if "local_cloud" not in path.parts and ("purge_queue" in path.read_text() or "PurgeQueue" in path.read_text())
    ]
    assert found == []


# ------------------------------------------------------------------------------------------------------------------------- objects


def begin(s3: Any, bucket: str, key: str) -> dict[str, Any]:
    return {"Bucket": bucket, "Key": key, "UploadId": s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]}


def finish(s3: Any, upload: dict[str, Any]) -> None:
    etag = s3.upload_part(**upload, PartNumber=1, Body=b"x" * MIB)["ETag"]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})


@behaviour("multipart-dates")
def test_an_object_sent_in_parts_is_listed_when_complete_and_dated_at_its_start_embedded(s3: Any, bucket: str):
    upload = begin(s3, bucket, "large")
    started = s3.list_multipart_uploads(Bucket=bucket)["Uploads"][0]["Initiated"]
    eventually(
        lambda: s3.put_object(Bucket=bucket, Key="small", Body=b"x") and date_of(s3, bucket, "small") > started + timedelta(seconds=1)
    )
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["small"]
    finish(s3, upload)
    assert abs(date_of(s3, bucket, "large") - started) < timedelta(seconds=1)
    assert date_of(s3, bucket, "large") < date_of(s3, bucket, "small")


def date_of(s3: Any, bucket: str, key: str) -> Any:
    return next(each["LastModified"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"] if each["Key"] == key)


@pytest.fixture
def wake_s3(cloud_environment: LocalCloud) -> Iterator[None]:
    folders.s3.cache_clear()
    yield
    folders.s3.cache_clear()


@behaviour("multipart-dates")
def test_a_folder_is_not_complete_while_a_file_is_on_its_way_handled(s3: Any, bucket: str, wake_s3: None):
    at_once = Folders(bucket, timedelta(0), Logger(service="test"))
    s3.put_object(Bucket=bucket, Key="input/study/1.dcm", Body=b"x")
    upload = begin(s3, bucket, "input/study/2.dcm")
    assert at_once.complete() == 0
    finish(s3, upload)
    eventually(at_once.complete)  # a date of S3 has whole seconds
    assert "input/study/_READY" in [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]]


@pytest.fixture
def suspended(s3: Any, bucket: str) -> str:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=bucket, Key="input/a", Body=b"old")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    return bucket


@behaviour("versioning-suspended")
def test_a_deletion_where_versioning_is_suspended_leaves_a_null_marker_embedded(s3: Any, suspended: str):
    s3.put_object(Bucket=suspended, Key="input/a", Body=b"new")
    assert s3.delete_object(Bucket=suspended, Key="input/a")["VersionId"] == "null"
    found = s3.list_object_versions(Bucket=suspended)
    assert [(each["Key"], each["VersionId"], each["IsLatest"]) for each in found["DeleteMarkers"]] == [("input/a", "null", True)]
    assert [each["VersionId"] for each in found["Versions"]] != ["null"], "the version from before is still there"


@behaviour("versioning-suspended")
def test_an_upload_where_versioning_is_suspended_is_removed_and_no_older_one_comes_back_handled(s3: Any, suspended: str):
    put = s3.put_object(Bucket=suspended, Key="input/a", Body=b"new")
    job = JobMessage.for_object(bucket=suspended, key="input/a", version=put.get("VersionId", "null"), etag=put["ETag"], size=3)
    Store(s3, suspended).delete(job.key, job.version, job.etag)
    assert s3.list_objects_v2(Bucket=suspended)["KeyCount"] == 0


@behaviour("delete-if-match")
def test_a_deletion_on_condition_of_another_etag_is_refused_embedded(s3: Any, bucket: str):
    old = s3.put_object(Bucket=bucket, Key="a", Body=b"old")["ETag"]
    s3.put_object(Bucket=bucket, Key="a", Body=b"new")
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=bucket, Key="a", IfMatch=old)
    assert refusal(error)[:2] == ("PreconditionFailed", 412)


@behaviour("delete-if-match")
def test_what_is_newer_than_the_job_stays_handled(s3: Any, bucket: str):
    old = s3.put_object(Bucket=bucket, Key="input/a", Body=b"old")["ETag"].strip('"')
    s3.put_object(Bucket=bucket, Key="input/a", Body=b"new")
    Store(s3, bucket).delete("input/a", etag=old)
    assert s3.get_object(Bucket=bucket, Key="input/a")["Body"].read() == b"new"
