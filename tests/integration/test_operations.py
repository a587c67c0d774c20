"""What an operator does by hand, on a deployment with its trigger: dead letters come back, and a teardown leaves nothing.

No machine is needed: nobody answers the jobs, which is how they stay where a test puts them.
"""

from __future__ import annotations

import hashlib
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootVolume
from monai_aws_pipeline.cloud.queues import queue_policy
from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.cloud.stack import deploy_stack, stack_name
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.cloud.trigger import Trigger
from monai_aws_pipeline.contract import (
    ROLE_INFERENCE,
    ROLE_MAP_BUILD,
    IndexEntry,
    InputFacts,
    JobDone,
    JobMessage,
    OutputFile,
    ResultError,
    ResultRecord,
    Status,
    job_done_key,
    sha256_text,
)
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.hosts import starts_of
from monai_aws_pipeline.operations.live_maps import LiveMaps
from monai_aws_pipeline.operations.orphaned_outputs import sweep_outputs
from monai_aws_pipeline.operations.promotion import Kind
from monai_aws_pipeline.operations.retention import remove_old_maps
from monai_aws_pipeline.operations.teardown import Teardown
from monai_aws_pipeline.remote import KeyPair
from monai_aws_pipeline.settings import PROJECT_ROOT
from tests.support.platform import Platform, environment, platform
from tests.support.studies import text_zip, tiny_study_zip
from tests.unit.studies.records import refused, succeeded

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    chosen = {"MONAI_AWS_WAKE_EVERY_MINUTES": "60", "MONAI_AWS_RESULTS_EXPIRE_DAYS": "90", "MONAI_AWS_MAPS_KEPT": "1"}
    with platform(local_cloud, "operations", tmp_path_factory.mktemp("operations"), **chosen) as made:
        assert made.materialize("s3_trigger").success
        yield made


@pytest.fixture(autouse=True)
def empty_queues(place: Platform) -> None:
    """What a test before left in the queues."""
    for name in queues(place):
        if Trigger(place.clients, {}).find_queue(name) is None:  # after the teardown
            continue
        while letters := receive(place, name, hold=60):
            for letter in letters:
                place.clients.sqs.delete_message(QueueUrl=url(place, name), ReceiptHandle=letter["ReceiptHandle"])


def queues(place: Platform) -> list[str]:
    names = place.settings.names
    return [names.uploads_queue, names.jobs_queue, names.uploads_dead_letters, names.jobs_dead_letters]


def url(place: Platform, name: str) -> str:
    return place.clients.sqs.get_queue_url(QueueName=name)["QueueUrl"]


def receive(place: Platform, name: str, hold: int = 0) -> list[dict[str, str]]:
    found = place.clients.sqs.receive_message(QueueUrl=url(place, name), MaxNumberOfMessages=10, VisibilityTimeout=hold)
    return found.get("Messages", [])  # type: ignore[return-value]


def bodies(place: Platform, name: str) -> list[str]:
    return sorted(letter["Body"] for letter in receive(place, name))


def send(place: Platform, name: str, body: str) -> str:
    return place.clients.sqs.send_message(QueueUrl=url(place, name), MessageBody=body)["MessageId"]


def job(place: Platform, number: int) -> JobMessage:
    """The same message each time."""
    key, etag = f"input/Doe^Jane-{number}.zip", f"{number:032x}"
    return JobMessage.for_object(bucket=place.settings.bucket, key=key, version="", etag=etag, size=9, now=datetime(2026, 1, 1, tzinfo=UTC))


def run(place: Platform, *arguments: str, **options: object) -> Result:
    with environment(place.variables):
        return CliRunner().invoke(cli, [*arguments], **options)  # type: ignore[arg-type]


def test_every_dead_job_comes_back_and_one_that_cannot_be_read_stays_and_is_named(place: Platform):
    names = place.settings.names
    letters = [job(place, number).to_json() for number in range(12)]  # more than one receive brings
    for letter in letters:
        send(place, names.jobs_dead_letters, letter)
    broken = send(place, names.jobs_dead_letters, '{"schema": "of tomorrow"}')

    result = run(place, "replay", "--all")

    assert result.exit_code == 0, result.output
    assert f"{names.jobs_dead_letters}: 12 brought back, 1 left" in result.output
    assert broken in result.output
    assert "Jane" not in result.output
    assert bodies(place, names.jobs_dead_letters) == ['{"schema": "of tomorrow"}'], "it can be received at once"
    seen = {letter["Body"] for _ in range(3) for letter in receive(place, names.jobs_queue, hold=3600)}
    assert seen == set(letters)


def test_one_job_comes_back_alone(place: Platform):
    names = place.settings.names
    for number in (1, 2):
        send(place, names.jobs_dead_letters, job(place, number).to_json())
    assert run(place, "replay", "--job", job(place, 2).job).exit_code == 0
    assert bodies(place, names.jobs_queue) == [job(place, 2).to_json()]
    assert bodies(place, names.jobs_dead_letters) == [job(place, 1).to_json()]


def test_only_what_was_sent_since_then_comes_back(place: Platform):
    names = place.settings.names
    send(place, names.jobs_dead_letters, job(place, 1).to_json())
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert "0 brought back, 1 left" in run(place, "replay", "--since", later).output
    earlier = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    assert run(place, "replay", "--since", earlier).exit_code == 0
    assert bodies(place, names.jobs_queue) == [job(place, 1).to_json()]


def test_a_dead_upload_event_comes_back_and_becomes_its_job(place: Platform):
    names = place.settings.names
    event = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": place.settings.bucket}, "object": {"key": "input/Doe%5EJane.zip", "eTag": "1" * 32, "size": 9}},
    }
    send(place, names.uploads_dead_letters, json.dumps({"Records": [event]}))
    result = run(place, "replay", "--all")
    assert f"{names.uploads_dead_letters}: 1 brought back, 0 left" in result.output
    deadline = time.monotonic() + 60
    while not (found := bodies(place, names.jobs_queue)):
        assert time.monotonic() < deadline, "the wake function did not take the event"
        time.sleep(0.5)
    assert JobMessage.from_json(found[0]).etag == "1" * 32


def test_status_tells_everything_and_no_name(place: Platform):
    send(place, place.settings.names.jobs_dead_letters, job(place, 1).to_json())
    result = run(place, "status", "--json")
    state = json.loads(result.output)
    assert state["dead_letters"] == 1
    assert set(state) == {"deployment", "machines", "queues", "dead_letters", "live_map", "results", "fleet"}
    assert set(state["queues"]) == set(queues(place))
    assert "Jane" not in result.output
    assert "replay" in run(place, "status").output


def test_an_upload_without_an_answer_says_so_in_bounded_time(place: Platform, tmp_path):
    study = tmp_path / "Doe^Jane"
    study.mkdir()
    (study / "Jane.dcm").write_bytes(b"x" * 1000)
    archive = tmp_path / "Jane.zip"
    archive.write_bytes(tiny_study_zip(instances=2))
    result = run(place, "upload", str(study), str(archive), "--wait", "--timeout", "1")
    assert type(result.exception).__name__ == "NotAnsweredError"
    assert "Jane" not in result.output
    assert len(place.keys("input/")) == 2
    assert all("Jane" not in key for key in place.keys("input/"))
    again = run(place, "upload", str(archive), "--again").output
    assert again.split(":")[0] in place.keys("input/")
    assert len(place.keys("input/")) == 3, "the same content is another job when that is asked for"


def lifecycle(place: Platform) -> set[str]:
    rules = place.clients.s3.get_bucket_lifecycle_configuration(Bucket=place.settings.bucket)["Rules"]
    return {rule["ID"].rpartition("-expire-")[2] for rule in rules}


def test_results_expire_by_rules_beside_those_of_others(place: Platform):
    assert lifecycle(place) == {"output", "jobs", "results-index"}
    rules = place.clients.s3.get_bucket_lifecycle_configuration(Bucket=place.settings.bucket)["Rules"]
    theirs: Any = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "reports/"}, "Expiration": {"Days": 9}}
    place.clients.s3.put_bucket_lifecycle_configuration(
        Bucket=place.settings.bucket,
        LifecycleConfiguration={"Rules": [*rules[1:], theirs]},  # type: ignore[list-item]
    )
    assert place.materialize("s3_trigger").success
    assert lifecycle(place) == {"output", "jobs", "results-index", "theirs"}


def push(place: Platform, tag: str) -> str:
    """Push an image of one small layer, as who may; its digest."""
    name, layer = place.settings.ecr_repository, tag.encode()
    with environment(place.cloud.environment):
        ecr = Clients(place.settings.region).ecr
    login = ecr.get_authorization_token()["authorizationData"][0]
    header = {"Authorization": f"Basic {login['authorizationToken']}", "Content-Type": "application/octet-stream"}

    def ask(method: str, url: str, body: bytes = b"") -> str:
        request = urllib.request.Request(url, body, header, method=method)  # noqa: S310  # the embedded AWS's own
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return urllib.parse.urljoin(url, answer.headers["Location"])

    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    upload = ask("POST", f"{login['proxyEndpoint']}/v2/{name}/blobs/uploads/")
    ask("PUT", f"{upload}{'&' if '?' in upload else '?'}digest={digest}", layer)
    blob = {"digest": digest, "size": len(layer), "mediaType": "application/octet-stream"}
    media = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": media, "config": blob, "layers": [blob]})
    made = ecr.put_image(repositoryName=name, imageManifest=manifest, imageManifestMediaType=media, imageTag=tag)["image"]
    return made["imageId"]["imageDigest"]


def test_the_operator_removes_old_maps_and_neither_the_live_one_nor_the_newest(place: Platform):
    clients, settings = place.clients, place.settings
    registry = Registry(clients.ecr, settings.ecr_repository)
    registry.ensure(settings.deployment, settings.owner)
    live, stage = push(place, "1.0.0"), push(place, f"dependencies-{'0a' * 16}")
    for tag in ("2.0.0", "3.0.0"):
        push(place, tag)
    LiveMaps(clients, settings, place.log.append).switch(Kind.DEPLOY, registry.require(digest=live), "test", "")
    assert run(place, "sweep").exit_code == 0
    assert len(registry.images()) == 4, "nothing is a day old"

    removed = remove_old_maps(clients, settings, place.log.append, now=datetime.now(UTC) + timedelta(days=2))

    assert removed == ["image 2.0.0", f"image dependencies-{'0a' * 16}"]
    assert {image.tags[0] for image in registry.images()} == {"1.0.0", "3.0.0"}
    assert registry.find(digest=stage) is None
    assert registry.layers(live) == {f"sha256:{hashlib.sha256(b'1.0.0').hexdigest()}"}
    assert clients.ecr.get_lifecycle_policy(repositoryName=registry.name)["lifecyclePolicyText"]
    registry.keep_untagged()
    with pytest.raises(clients.ecr.exceptions.LifecyclePolicyNotFoundException):
        clients.ecr.get_lifecycle_policy(repositoryName=registry.name)


def test_a_sweep_removes_the_disk_of_a_launch_that_broke_off_and_outputs_that_no_result_names(place: Platform):
    settings, now = place.settings, datetime.now(UTC)
    tags = Tags(settings.deployment, ROLE_MAP_BUILD, "test", "broken-off", "disk", expires_at=now - timedelta(days=1))
    with environment(place.cloud.environment):
        ec2 = Clients(settings.region).ec2
        disk = ec2.create_volume(
            AvailabilityZone="us-east-1a", Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": tags.as_list()}]
        )["VolumeId"]
    assert f"removed volume {disk}" in run(place, "sweep").output

    study, failed = "0b" * 8, "0c" * 16
    left = f"output/{study}/{failed}/dicom/1.dcm"
    for key in (f"quarantine/{failed}/{study}/result.json", left):
        place.clients.s3.put_object(Bucket=settings.bucket, Key=key, Body=b"{}")
    assert sweep_outputs(place.clients.s3, settings.require_bucket(), place.log.append) == [], "nothing is a day old"
    assert sweep_outputs(place.clients.s3, settings.require_bucket(), place.log.append, now + timedelta(days=2)) == [left]


def test_what_somebody_changed_of_the_wake_function_is_put_right(place: Platform):
    name = place.settings.names.wake_function
    before = place.clients.functions.get_function_configuration(FunctionName=name)
    with environment(place.cloud.environment):
        functions = Clients(place.settings.region).functions
        functions.update_function_code(FunctionName=name, ZipFile=text_zip())
        settled = functions.get_waiter("function_updated_v2")
        settled.wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        functions.update_function_configuration(FunctionName=name, Timeout=1)
        settled.wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    assert place.materialize("s3_trigger").success
    after = place.clients.functions.get_function_configuration(FunctionName=name)
    assert (after["CodeSha256"], after["Timeout"]) == (before["CodeSha256"], before["Timeout"])


def test_the_wake_function_counts_failed_starts_and_gives_the_grant_for_the_key_of_a_hosts_disk(place: Platform):
    """A start is a call of the wake function's role: so are the tag that counts it and, with a customer's key, EC2's grant."""
    clients, settings, names = place.clients, place.settings, place.settings.names
    with environment(place.cloud.environment):
        administrator = Clients(settings.region)
        key = administrator.kms.create_key(Description="disks")["KeyMetadata"]["Arn"]
        template = PROJECT_ROOT / "infra" / "bootstrap.yaml"
        deploy_stack(administrator.cloudformation, stack_name(settings.deployment), template, {"KmsKeyArns": key}, place.log.append)
    machines = Machines(clients.ec2, settings.deployment, clients.ec2_launches)
    tags = Tags(settings.deployment, ROLE_INFERENCE, "test", "keyed", names.machine(ROLE_INFERENCE))
    image = clients.ssm.get_parameter(Name=settings.base_ami.removeprefix("ssm:"))["Parameter"]["Value"]
    group, disk = machines.security_group(tags, "no way in"), RootVolume(150, kms_key=key)
    host = machines.launch(LaunchSpec(image, ("g4dn.xlarge",), names.inference_profile, tags, "", disk, group), place.log.append).id
    try:
        machines.stop(host)
        machines.wait(host, "stopped", 120)
        # More than the five times that the SDK tries: an event of a test before may wake too.
        place.cloud.order_fault(service="ec2", action="StartInstances", code="InsufficientInstanceCapacity", status=500, times=20)
        send(place, names.jobs_queue, job(place, 1).to_json())
        place.wake()
        (stopped,) = place.machines(ROLE_INFERENCE)
        assert (starts_of(stopped).count, starts_of(stopped).code) == (1, "InsufficientInstanceCapacity")
        place.cloud.clear_faults()
        place.wake()
        assert machines.wait(host, "running", 120).state == "running", "not Client.InternalError"
    finally:
        place.cloud.clear_faults()
        machines.terminate(host)
        machines.wait(host, "terminated", 120)


def commit(place: Platform, record: ResultRecord, key: str, **bodies: bytes) -> ResultRecord:
    """A job that ended, as an agent leaves it in the bucket."""
    folder = record.commit_key.removesuffix("result.json")
    outputs = tuple(OutputFile(f"{folder}{name}.log", hashlib.sha256(body).hexdigest(), len(body), "log") for name, body in bodies.items())
    record = replace(record, outputs=outputs, input=InputFacts(sha256_text(key), "e", 1))
    objects = {output.key: bodies[output.key.rpartition("/")[2].removesuffix(".log")] for output in outputs}
    objects |= {
        record.commit_key: record.to_json().encode(),
        record.index_key: IndexEntry.of(record).to_json().encode(),
        job_done_key(record.job): JobDone(record.job, (record.commit_key,), record.committed_at).to_json().encode(),
    }
    for name, body in objects.items():
        place.clients.s3.put_object(Bucket=place.settings.bucket, Key=name, Body=body)
    return record


def test_what_became_of_an_upload_its_results_and_its_failure_are_had_with_the_operators_role(place: Platform, tmp_path: Path):
    now = datetime.now(UTC)
    good = commit(place, succeeded(1, now), "input/Doe^Jane-good.zip", map=b"all is well")
    error = ResultError("map_failed", "The application ended with exit code 1.", "ValueError: no volume")
    bad = commit(
        place, replace(refused(2, now, study="b" * 16, status=Status.FAILED), error=error), "input/Doe^Jane-bad.zip", map=b"no volume"
    )
    other = commit(place, refused(3, now), "input/Doe^Jane-other.zip")
    dead = job(place, 7)
    send(place, place.settings.names.jobs_dead_letters, dead.to_json())

    for record, key, says in ((good, "good", "succeeded"), (bad, "bad", "ValueError: no volume"), (other, "other", "NOT_A_ZIP: ")):
        found = run(place, "find", f"input/Doe^Jane-{key}.zip")
        assert (found.exit_code, says in found.output, record.job in found.output) == (0, True, True), found.output
        assert says in run(place, "status", "--job", record.job).output
        got = run(place, "get", record.job, "--to", str(tmp_path / "to"))
        assert got.exit_code == 0, got.output
        for output in record.outputs:
            name = output.key.rpartition("/")[2]
            assert hashlib.sha256((tmp_path / "to" / record.study / record.job / name).read_bytes()).hexdigest() == output.sha256
        assert "Jane" not in found.output + got.output
    assert "there already" in run(place, "get", good.study, "--to", str(tmp_path / "to")).output
    assert f"dead letter: job {dead.job}" in run(place, "find", dead.key).output
    assert f"dead letter: job {dead.job}" in run(place, "status", "--job", dead.job).output
    assert bodies(place, place.settings.names.jobs_dead_letters) == [dead.to_json()], "a look leaves it where it is"
    listed = json.loads(run(place, "failures", "--json").stdout)
    assert {row["job"] for row in listed["rows"]} == {bad.job, other.job}
    assert listed["counts"] == {"NOT_A_ZIP": 1, "map_failed": 1}
    assert run(place, "find", "input/nobody.zip").exit_code == 1


# ------------------------------------------------------------------------------------------------- last: it removes the deployment


def test_a_teardown_leaves_nothing_of_ours_and_everything_of_others(place: Platform):
    names, clients, settings = place.settings.names, place.clients, place.settings
    theirs = {"Id": "theirs", "Events": ["s3:ObjectRemoved:*"], "QueueArn": _queue_of_others(place)}
    with environment(place.cloud.environment):
        _add_notification(place, theirs)
    machines = Machines(clients.ec2, settings.deployment)
    tags = Tags(settings.deployment, ROLE_MAP_BUILD, "test", "left-behind", names.machine(ROLE_MAP_BUILD))
    machines.security_group(tags, "left behind")
    machines.import_key(tags, KeyPair.fresh().public)
    Registry(clients.ecr, settings.ecr_repository).ensure(settings.deployment, settings.owner)
    Commands(clients.ssm).set_parameter(names.live_map_parameter, f"repository@sha256:{'0' * 64}", "test")
    objects = place.keys("")

    shown = run(place, "teardown", input="n\n")
    assert shown.exit_code == 1
    assert names.wake_function in shown.output
    assert Trigger(clients, {}).has_function(names.wake_function), "what was not confirmed is not done"

    result = run(place, "teardown", "--yes")

    assert result.exit_code == 0, result.output
    assert "nothing is left" in result.output
    assert Teardown(clients, settings, lambda _: None).inventory() == []
    configuration = clients.s3.get_bucket_notification_configuration(Bucket=settings.bucket)
    assert [entry["Id"] for entry in configuration["QueueConfigurations"]] == ["theirs"]
    assert lifecycle(place) == {"theirs"}
    assert place.keys("") == objects, "the bucket's objects stay"
    assert "nothing of deployment" in run(place, "teardown", "--yes").output


def test_after_a_teardown_the_job_of_the_same_name_has_nothing_to_do_and_wants_the_name(place: Platform):
    from monai_aws_pipeline.definitions import build_defs

    with environment(place.variables):
        taken_down = build_defs(place.settings).get_repository_def().get_job("teardown")
        for name, success in (("another", False), (place.settings.deployment, True)):
            config = {"ops": {"remove_deployment": {"config": {"confirm": name}}}}
            assert taken_down.execute_in_process(instance=place.instance, raise_on_error=False, run_config=config).success is success


def test_what_was_taken_down_can_be_deployed_again(place: Platform):
    assert place.materialize("s3_trigger").success
    assert Trigger(place.clients, {}).has_function(place.settings.names.wake_function)


def _queue_of_others(place: Platform) -> str:
    with environment(place.cloud.environment):
        sqs = Clients(place.settings.region).sqs
        queue = sqs.create_queue(QueueName="of-others")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = queue_policy(arn, place.settings.bucket, place.clients.account())
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
        return arn


def _add_notification(place: Platform, theirs: dict[str, object]) -> None:
    existing = place.clients.s3.get_bucket_notification_configuration(Bucket=place.settings.bucket)
    queue_configurations = [*existing["QueueConfigurations"], theirs]
    place.clients.s3.put_bucket_notification_configuration(
        Bucket=place.settings.bucket,
        NotificationConfiguration={"QueueConfigurations": queue_configurations},  # type: ignore[typeddict-item]
        SkipDestinationValidation=True,  # S3 does not see the queue's policy yet
    )
