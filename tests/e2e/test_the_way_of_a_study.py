"""The whole way on the tiny application: from nothing to answered, refused and re-run studies, by the product's own code alone."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pydicom
import pytest
from click.testing import CliRunner
from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetRecordsFilter,
    ExecuteInProcessResult,
    RunRequest,
    SensorResult,
    SkipReason,
    TableMetadataValue,
    build_sensor_context,
)

from monai_aws_pipeline.archive.connection import HEALTHIMAGING
from monai_aws_pipeline.automation import hosts_to_replace
from monai_aws_pipeline.cli import cli
from monai_aws_pipeline.cloud.instances import LaunchSpec, Machines, RootVolume, cloud_config
from monai_aws_pipeline.cloud.run_command import Commands
from monai_aws_pipeline.cloud.tags import Tags
from monai_aws_pipeline.contract import ROLE_AMI_BAKE, ROLE_INFERENCE, ROLE_MAP_BUILD, ResultRecord, Status, quarantine_key, sha256_text
from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.archive import StudyArchive
from monai_aws_pipeline.resources import CloudResource, SettingsResource
from tests.support.faults import eventually
from tests.support.orthanc import PASSWORD, USER, orthanc
from tests.support.platform import TINY_APP, Platform, environment, platform
from tests.support.studies import corrupt_zip, empty_zip, text_zip, tiny_study_zip, traversal_zip, two_studies_zip

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]

ODD_NAME = 'input/Doe, Jane\'s "scan"; rm -rf *\n Größe 脳.zip'


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(local_cloud, "way", tmp_path_factory.mktemp("way"), HEALTHIMAGING) as made:
        made.adopt_image()
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


def on_host(place: Platform, machine_id: str, script: str) -> tuple[int, str]:
    commands = Commands(place.clients.ssm)
    commands.wait_online(machine_id)
    ended = commands.run(machine_id, f"systemctl start docker\n{script}", seconds=120)
    return ended.exit_code, ended.stdout + ended.stderr


def test_what_is_left_after_deployment_is_one_stopped_host(place: Platform):
    assert [(machine.tags["monai-aws:role"], machine.state) for machine in place.machines()] == [(ROLE_INFERENCE, "stopped")]
    assert place.machines(ROLE_AMI_BAKE) == place.machines(ROLE_MAP_BUILD) == []


def test_the_pushed_image_was_checked_in_the_registry_and_is_a_map(place: Platform):
    with environment(place.variables):
        (checked,) = place.instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(AssetKey("map_image"), "map_conformance"), limit=5
        )
    evaluation = checked.evaluation
    assert evaluation is not None
    assert evaluation.passed, evaluation.description
    version = place.instance.get_latest_data_version_record(AssetKey("map_image"))
    assert version is not None
    assert evaluation.metadata["digest"].value in str(version.event_log_entry.dagster_event)
    assert "| app.json | the application manifest is there and complete | kept |" in str(evaluation.metadata["points"].value)


def test_a_second_deployment_with_nothing_changed_changes_nothing(place: Platform):
    before = place.machines()
    result = place.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger")
    assert [machine.id for machine in place.machines()] == [machine.id for machine in before]
    for name in ("gpu_ami", "inference_host"):
        assert result.asset_materializations_for_node(name)[0].metadata["reused"].value is True


def test_every_upload_is_answered_or_kept_aside_in_one_waking_of_the_host(place: Platform):
    good = place.upload("input/first.zip", tiny_study_zip())
    refused = {
        place.upload("input/corrupt.zip", corrupt_zip()): "corrupt",
        place.upload("input/empty.zip", empty_zip()): "empty",
        place.upload("input/texts.zip", text_zip()): "texts",
        place.upload("input/traversal.zip", traversal_zip()): "traversal",
    }
    odd = place.upload(ODD_NAME, tiny_study_zip(instances=5))
    several = place.upload("input/two.zip", two_studies_zip())
    answers = place.answers([good, odd, several, *refused], seconds=240)

    for job in (good, odd):
        (record,) = answers[job]
        assert record.status is Status.SUCCEEDED
        assert {"dicom-seg", "mesh", "preview", "measurements", "log"} <= {output.kind for output in record.outputs}
    assert len({record.study for record in answers[several]}) == 2
    for job, name in refused.items():
        (record,) = answers[job]
        assert record.status is Status.QUARANTINED, name
        error = json.loads(place.read(quarantine_key(job, "error.json")))
        assert error["code"]
        assert error["cause"]
        assert error["remedy"]
        assert record.error is not None
        assert record.error.code == error["code"]
    place.wait_stopped()
    assert place.keys("input/") == []  # originals are moved after the answer: only a host that has stopped has moved them all

    after = place.upload("input/after.zip", tiny_study_zip(instances=7))
    assert place.answers([after])[after][0].status is Status.SUCCEEDED
    place.wait_stopped()


def test_the_outputs_refer_to_the_study_they_were_made_from(place: Platform):
    uid = "2.25.77001"
    job = place.upload("input/referred.zip", tiny_study_zip(study_uid=uid))
    (record,) = place.answers([job])[job]
    segmentation = next(output for output in record.outputs if output.kind == "dicom-seg")
    dataset = pydicom.dcmread(io.BytesIO(place.read(segmentation.key)))
    assert dataset.StudyInstanceUID == uid
    assert record.input.key_sha256 == sha256_text("input/referred.zip")
    assert (
        record.map.digest
        == place.clients.ssm.get_parameter(Name=place.settings.names.live_map_parameter)["Parameter"]["Value"].rpartition("@")[2]
    )
    assert record.host.instance_id == place.machines(ROLE_INFERENCE)[0].id
    assert record.host.ami == place.machines(ROLE_INFERENCE)[0].image
    assert record.cost.usd > 0
    place.wait_stopped()


def test_later_studies_are_answered_warm_and_meet_nothing_of_each_other(place: Platform):
    found = []
    for number, wish in enumerate(("tiny", "tiny:litter", "tiny:look", "tiny:fail", "tiny:look")):
        job = place.upload(f"input/warm-{number}.zip", tiny_study_zip(wish=wish))
        if wish == "tiny:fail":
            continue
        (record,) = place.answers([job])[job]
        assert record.status is Status.SUCCEEDED, (wish, record.error)
        assert {"dicom-seg", "mesh"} <= {output.kind for output in record.outputs}
        assert record.resources.cpu_seconds > 0
        assert record.resources.peak_rss > 0
        found.append(record.resources.hosting)
    assert found[1:] == ["warm"] * 3
    place.wait_stopped()


def test_from_the_shell_an_answer_a_failure_and_a_refusal_are_found_fetched_and_listed(place: Platform, tmp_path: Path):
    bodies = {"good": tiny_study_zip(instances=8), "failing": tiny_study_zip(wish="tiny:fail"), "corrupt": corrupt_zip()}
    jobs = {name: place.upload(f"input/Jane-{name}.zip", body) for name, body in bodies.items()}
    records = {name: records[0] for name, job in jobs.items() for records in [place.answers([job])[job]]}

    def run(*arguments: str, code: int = 0) -> str:
        with environment(place.variables):
            done = CliRunner().invoke(cli, [*arguments])
        assert done.exit_code == code, done.output
        assert "Jane" not in done.output
        return done.stdout

    for name, record in records.items():
        (tmp_path / "Jane.zip").write_bytes(bodies[name])
        for wanted in (f"input/Jane-{name}.zip", record.input.key_sha256, str(tmp_path / "Jane.zip")):
            assert f"{record.status}: job {record.job}" in run("find", wanted), wanted
        told = run("status", "--job", record.job)
        assert record.error is None or f"{record.error.text}" in told
        run("get", record.job, "--to", str(tmp_path / "to"))
        for output in record.outputs:
            inner = output.key.removeprefix(record.commit_key.removesuffix("result.json"))
            assert (tmp_path / "to" / record.study / record.job / inner).stat().st_size == output.bytes
    assert "there already" in run("get", records["good"].study, "--to", str(tmp_path / "to"))
    failing = records["failing"]
    assert failing.error is not None
    assert (failing.error.code, failing.error.last_line) == ("map_failed", "tiny: failing as the study asks")
    listed = json.loads(run("failures", "--json", "--since", "1h"))
    row = next(each for each in listed["rows"] if each["job"] == failing.job)
    assert (row["study"], row["last_line"]) == (failing.study, failing.error.last_line)
    assert jobs["corrupt"] in {each["job"] for each in listed["rows"]}
    assert failing.error.last_line in run("status")

    (tmp_path / "Jane.zip").write_bytes(bodies["failing"])
    said = run("upload", str(tmp_path / "Jane.zip"), "--wait", "--again", code=1)
    assert "waiting for job" in said
    assert failing.error.text in said
    place.wait_stopped()


def test_studies_in_containers_of_their_own_meet_nothing_of_each_other(place: Platform):
    alone = place.changed(MONAI_AWS_MAP_HOSTING="per_study")
    assert alone.materialize("inference_host").success
    wishes = ("tiny", "tiny:litter", "tiny:look", "tiny:sleep=6", "tiny:look")
    jobs = [alone.upload(f"input/alone-{number}.zip", tiny_study_zip(wish=wish)) for number, wish in enumerate(wishes)]
    (host,) = (machine for machine in alone.machines(ROLE_INFERENCE) if machine.state != "terminated")
    networks: set[str] = set()
    deadline = time.monotonic() + 120
    while len(networks) < 2 and time.monotonic() < deadline:
        # A container can end between the list and the look at it, which is no error here.
        look = "docker inspect --format '{{.HostConfig.NetworkMode}}'"
        _, said = on_host(alone, host.id, f"docker ps --quiet | xargs --no-run-if-empty {look} 2>/dev/null || true")
        networks = {line.partition(":")[0] for line in said.split()}
    assert networks == {"none", "container"}, "one container has no network, and the others are in its namespace"
    for wish, job in zip(wishes, jobs, strict=True):
        (record,) = alone.answers([job])[job]
        assert record.status is Status.SUCCEEDED, (wish, record.error)
        assert record.resources.hosting == "per_study"
    alone.wait_stopped()
    assert place.materialize("inference_host").success


def test_no_name_of_an_upload_reaches_a_key_record_or_log_of_ours(place: Platform):
    for key in place.keys(""):
        assert "Jane" not in key
        body = place.read(key)
        if key.endswith(("json", "log")):
            assert b"Jane" not in body, key


def tick(place: Platform, cursor: str | None = None) -> SensorResult:
    """What the sensor does with all that has ended."""
    definitions = build_defs(place.settings)
    resources = {"cloud": CloudResource(region=place.settings.region), "settings": SettingsResource()}
    with build_sensor_context(instance=place.instance, cursor=cursor, resources=resources, definitions=definitions) as context:
        result = definitions.get_sensor_def("study_results")(context)
    assert isinstance(result, SensorResult)
    for event in result.asset_events:
        place.instance.report_runless_asset_event(event)
    return result


def test_the_sensor_records_each_answered_study_once(place: Platform):
    first = tick(place)
    studies = {event.partition for event in first.asset_events if type(event).__name__ == "AssetMaterialization"}
    assert len(studies) >= 6
    assert tick(place, first.cursor).asset_events == []
    assert tick(place).asset_events == []  # a lost cursor repeats the look, not the record

    wanted = AssetRecordsFilter(asset_key=AssetKey("inference_result"), asset_partitions=[sorted(studies)[0]])
    (recorded,) = place.instance.fetch_materializations(wanted, limit=5).records
    assert recorded.asset_materialization is not None
    assert {"map_digest", "preview"} <= {name.lower().replace(" ", "_") for name in recorded.asset_materialization.metadata}


def test_every_answered_study_is_in_the_archive_with_its_segmentation_and_what_that_refers_to(place: Platform):
    archive = StudyArchive(place.clients, place.settings)
    records = [ResultRecord.from_json(place.read(key).decode()) for key in place.keys("output/") if key.endswith("/result.json")]
    assert len(records) >= 8
    for record in records:
        eventually(lambda record=record: archive.record(record.study, record.job), 60)
        stored = archive.record(record.study, record.job)
        assert stored
        assert stored.is_whole, stored.troubles
    segmentation = next(output for output in records[0].outputs if output.kind == "dicom-seg")
    there = pydicom.dcmread(io.BytesIO(place.read(segmentation.key)))
    asked, source = archive.connect(), there.ReferencedSeriesSequence[0]
    assert asked.present(there.StudyInstanceUID, there.SeriesInstanceUID) == {there.SOPInstanceUID}
    referred = {item.ReferencedSOPInstanceUID for item in source.ReferencedInstanceSequence}
    assert referred <= asked.present(there.StudyInstanceUID, source.SeriesInstanceUID)


def test_a_study_that_was_answered_while_the_archive_was_away_is_stored_from_the_bucket(place: Platform):
    place.cloud.order_fault(service="medical-imaging", action="SearchDICOMInstances", code="InternalServerException", times=1000)
    job = place.upload("input/away.zip", tiny_study_zip(instances=6))
    (record,) = place.answers([job])[job]
    place.wait_stopped(240, at_work_minutes=1)
    place.cloud.clear_faults()
    archive = StudyArchive(place.clients, place.settings)
    assert archive.record(record.study, record.job) is None
    place.instance.add_dynamic_partitions("study", [record.study])
    with environment(place.variables):
        run = build_defs(place.settings).resolve_implicit_global_asset_job_def()
        done = run.execute_in_process(instance=place.instance, asset_selection=[AssetKey("archived_study")], partition_key=record.study)
    assert done.success
    stored = archive.record(record.study, record.job)
    assert stored
    assert stored.is_whole


def test_materialising_a_partition_answers_that_study_again(place: Platform):
    job = place.upload("input/again.zip", tiny_study_zip(instances=4))
    (record,) = place.answers([job])[job]
    place.instance.add_dynamic_partitions("study", [record.study])
    result = place.rerun(record.study)
    assert result.success
    answers = [entry for entries in place.entries().values() for entry in entries if entry.study == record.study]
    assert {entry.request for entry in answers} == {"", record.map.digest}
    assert any(key.startswith(f"processed/{record.study}/") for key in place.keys("processed/"))
    place.wait_stopped()


def test_the_host_has_the_map_by_pulling_it_and_no_other_way(place: Platform, local_cloud: LocalCloud):
    reference = place.clients.ssm.get_parameter(Name=place.settings.names.live_map_parameter)["Parameter"]["Value"]
    machines = Machines(place.clients.ec2, place.settings.deployment)
    host = place.machines(ROLE_INFERENCE)[0]
    tags = Tags(place.settings.deployment, ROLE_MAP_BUILD, "test", "never-pulled", "never-pulled", expires_at=datetime.now(UTC))
    group = machines.security_group(tags, "no way in")
    spec = LaunchSpec(host.image, ("g4dn.xlarge",), place.settings.names.inference_profile, tags, cloud_config(), RootVolume(20), group)
    fresh = machines.launch(spec, lambda _: None)
    try:
        machines.wait(fresh.id, "running", 300)
        code, output = on_host(place, fresh.id, f"docker run --rm --pull never {reference} true")
        assert code != 0
        assert "No such image" in output
    finally:
        machines.terminate(fresh.id)
        machines.wait(fresh.id, "terminated", 300)
        machines.delete_security_group(group)
    folder = local_cloud.config.machines_dir
    assert not (folder / fresh.id).exists(), "a terminated machine's images are gone with it"
    assert (folder / host.id).exists()


def test_a_study_named_by_a_redelivered_event_has_one_result(place: Platform):
    body = tiny_study_zip(instances=3)
    job = place.upload("input/twice.zip", body)
    place.answers([job])
    assert place.upload("input/twice.zip", body) == job
    time.sleep(5)
    assert len(place.entries()[job]) == 1
    place.wait_stopped()


@pytest.mark.long
def test_a_host_that_cannot_start_is_replaced_by_another_which_answers(place: Platform):
    (old,) = place.machines(ROLE_INFERENCE)
    strict = place.changed(MONAI_AWS_REPLACE_HOST_AFTER="1")

    def look() -> RunRequest | SkipReason | None:
        with environment(strict.variables):
            resources = {"settings": SettingsResource(), "cloud": CloudResource(region=place.settings.region)}
            found = hosts_to_replace(build_sensor_context(instance=place.instance, resources=resources))
        assert found is None or isinstance(found, (RunRequest, SkipReason))
        return found

    assert isinstance(look(), SkipReason)
    place.cloud.order_fault(service="ec2", action="StartInstances", code="InsufficientInstanceCapacity", times=1000, match=old.id)
    try:
        job = place.upload("input/waits.zip", tiny_study_zip(instances=5))
        request = eventually(lambda: place.wake() or (found if isinstance(found := look(), RunRequest) else None))
        assert old.id in str(request.run_key)
        made = strict.materialize("inference_host")
        assert made.success
        (record,) = place.answers([job])[job]
    finally:
        place.cloud.clear_faults()
    (new,) = place.machines(ROLE_INFERENCE)
    assert (record.status, record.host.instance_id) == (Status.SUCCEEDED, new.id)
    assert (new.id != old.id, new.zone != old.zone) == (True, True), "AWS had no such machine in the old one's zone"
    assert isinstance(look(), SkipReason)
    place.wait_stopped()


@pytest.fixture(scope="module", autouse=True)
def no_person_in_dagster(place: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    for file in Path(place.instance.root_directory).rglob("*"):
        if file.is_file():
            assert b"Jane" not in file.read_bytes(), f"{file.name} holds a part of an uploader's file name"


@pytest.mark.long
def test_an_orthanc_with_a_password_receives_original_and_segmentation_from_a_host(place: Platform):
    secret = f"monai-aws/{place.settings.deployment}/archive"
    with environment(place.cloud.environment):
        boto3.client("secretsmanager").create_secret(Name=secret, SecretString=f"{USER}:{PASSWORD}")
    with orthanc() as pacs:
        chosen = {"MONAI_AWS_ARCHIVE": "dicomweb", "MONAI_AWS_ARCHIVE_ADDRESS": pacs.address, "MONAI_AWS_ARCHIVE_SECRET": secret}
        there = place.changed(**chosen)
        assert there.materialize("inference_host").success
        job = there.upload("input/orthanc.zip", tiny_study_zip(instances=9, study_uid="2.25.77009"))
        (record,) = there.answers([job])[job]
        archive = StudyArchive(there.clients, there.settings)
        eventually(lambda: archive.record(record.study, record.job), 60)
        stored = archive.record(record.study, record.job)
        assert stored
        assert [(each.modality, each.is_result, each.stored) for each in stored.series] == [("MR", False, 9), ("SEG", True, 1)]
        written = next(output for output in record.outputs if output.kind == "dicom-seg")
        segmentation = pydicom.dcmread(io.BytesIO(there.read(written.key)))
        assert archive.connect().present("2.25.77009", segmentation.SeriesInstanceUID) == {segmentation.SOPInstanceUID}
        there.wait_stopped()


def mended(place: Platform, folder: Path) -> Platform:
    """The application without what it failed on, built and live."""
    source = shutil.copytree(TINY_APP, folder / "app")
    main = source / "__main__.py"
    text = main.read_text()
    assert 'if wish == "tiny:fail":' in text
    main.write_text(text.replace('if wish == "tiny:fail":', 'if wish == "tiny:never":'))
    changed = place.changed(MONAI_AWS_APP_SOURCE=str(source))
    assert changed.materialize("map_image", "inference_host").success
    return changed


def said_by(result: ExecuteInProcessResult) -> Mapping[str, Any]:
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    return event.step_output_data.metadata


def changes(result: ExecuteInProcessResult) -> dict[Any, dict[str, Any]]:
    """The table of a re-run, by study."""
    table = said_by(result)["changes"]
    assert isinstance(table, TableMetadataValue)
    return {row.data["study"]: dict(row.data) for row in table.records}


def test_a_failed_study_is_retried_in_vain_and_answered_by_the_mended_map(place: Platform, tmp_path: Path):
    jobs = [place.upload("input/good.zip", tiny_study_zip()), place.upload("input/bad.zip", tiny_study_zip(wish="tiny:fail"))]
    found = place.answers(jobs, seconds=240)
    (good,), (bad,) = found[jobs[0]], found[jobs[1]]
    assert (good.status, bad.status) == (Status.SUCCEEDED, Status.FAILED)
    tick(place)

    failed = place.rerun(bad.study, raise_on_error=False)
    (failure,) = [event for event in failed.all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert "map_failed" in str(told.description)
    assert "tiny: failing as the study asks" in str(told.description)
    tick(place)
    entries = [entry for entries in place.entries().values() for entry in entries if entry.study == bad.study]
    assert {entry.request for entry in entries} == {"", f"{good.map.digest}/{bad.study}"}

    after = mended(place, tmp_path)
    again = changes(after.rerun_studies({"which": {"failed": {"since": bad.committed_at, "code": "map_failed"}}}))
    assert [(row["study"], row["end"], row["note"]) for row in again.values()] == [(bad.study, "answered", "never answered before")]
    tick(after)

    stale = changes(after.rerun_studies({"which": {"stale": {}}}))
    row = stale[good.study]
    assert (row["end"], row["Dice"], row["before (ml)"]) == ("answered", "1.0000", row["after (ml)"])
    assert row["MAP before"] != row["MAP after"]
    assert {row["end"] for row in stale.values()} == {"answered"}
    assert bad.study not in stale
    tick(after)
    listed = said_by(after.rerun_studies({"which": {"stale": {}}, "dry_run": True}))
    assert str(listed["meant"].value) == "0 studies are meant"
    after.wait_stopped()
