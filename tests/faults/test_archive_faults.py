"""What goes wrong between a host and the archive after a study is answered, made to go wrong on the embedded AWS: real machines and agents,
the embedded HealthImaging, and an Orthanc of Debian's.

One test a case, in docs/faults-inference.md under the same name. The cases share one host of a deployment of their own.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pydicom
import pytest
from dagster import AssetCheckEvaluation, AssetKey

from monai_aws_pipeline.archive.connection import HEALTHIMAGING
from monai_aws_pipeline.archive.dicomweb import DicomWebArchive
from monai_aws_pipeline.archive.record import ArchiveRecord
from monai_aws_pipeline.contract import ROLE_INFERENCE, ResultRecord, parse_utc
from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.local_cloud.commands import LocalCloud
from monai_aws_pipeline.operations.archive import StudyArchive
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.studies import archive_sensor, sensor
from monai_aws_pipeline.studies.archive_sensor import LATE, Look, Watch
from monai_aws_pipeline.studies.lineage import STUDIES
from monai_aws_pipeline.studies.results_index import Cursor
from tests.support.faults import Waking, eventually
from tests.support.orthanc import PASSWORD, USER, orthanc
from tests.support.platform import Platform, environment, platform

pytestmark = [pytest.mark.e2e, pytest.mark.cloud]

Tell = Callable[[str, object], None]
INSTANCES = 130
"""Of a study that takes two requests."""
BACKLOG, AWAY_S = 20, 300.0


@pytest.fixture(scope="module")
def place(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Instead of the deployment that the other faults share: one that archives."""
    with platform(local_cloud, "archiving", tmp_path_factory.mktemp("archiving"), HEALTHIMAGING) as made:
        assert made.materialize("gpu_ami", "map_image", "inference_host", "s3_trigger").success
        yield made


def stored(place: Platform, answer: ResultRecord) -> ArchiveRecord:
    """What the archive has answered for a study, once it has."""
    archive = StudyArchive(place.clients, place.settings)
    return eventually(lambda: archive.record(answer.study, answer.job), 90)


def instances_in(archive: DicomWebArchive, place: Platform, answer: ResultRecord) -> int:
    """How many of the study's own instances the archive has; its segmentation is among them, or the test fails."""
    (key,) = [output.key for output in answer.outputs if output.kind == "dicom-seg"]
    there = pydicom.dcmread(io.BytesIO(place.read(key)))
    assert archive.present(there.StudyInstanceUID, there.SeriesInstanceUID) == {there.SOPInstanceUID}
    return sum(len(archive.present(there.StudyInstanceUID, series)) for series in archive.series(there.StudyInstanceUID))


class TestKilledWhileStoring:
    @pytest.mark.parametrize("case", ["agent", "machine"])
    def test_killed_while_storing(self, place: Platform, waking: Waking, case: str, record_property: Tell):
        """The first request has arrived, the second is under way: the agent's arrives when nobody waits for its answer any more."""
        code = {"agent": "", "machine": "InternalServerException"}[case]
        place.cloud.order_fault(service="medical-imaging", action="StoreDICOM", delay_s=60, after=1, code=code)
        job = waking.upload(f"killed-{case}", instances=INSTANCES)
        host = waking.host()
        answer = waking.succeeded(job)
        waking.until_held("StoreDICOM")
        archive = StudyArchive(place.clients, place.settings)
        assert archive.record(answer.study, answer.job) is None
        if case == "agent":
            waking.kill_agent(host)
        else:
            place.cloud.lose_instance(host.id)
            eventually(lambda: all(machine.state == "stopped" for machine in place.machines(ROLE_INFERENCE)))
        place.cloud.clear_faults()
        waking.comes_back()
        place.wake()
        record = stored(place, answer)
        images, segmentation = record.series
        assert record.is_whole, record.troubles
        assert images.there == {"agent": INSTANCES, "machine": 100}[case], "what had arrived is not sent again"
        assert (images.there + images.stored, segmentation.there + segmentation.stored) == (INSTANCES, 1)
        assert instances_in(archive.connect(), place, answer) == INSTANCES + 1
        stores = {identity: versions(place, record.datastore, identity) for each in record.series for identity in each.image_sets}
        assert sorted(stores.values()) == [1, 2], "HealthImaging makes a version for each request that stores into a series"
        record_property("happened", f"{images.there} of {INSTANCES} images were there, {images.stored} stored by the next host")


def versions(place: Platform, datastore: str, image_set: str) -> int:
    """How often something was stored into an image set."""
    with environment(place.cloud.environment):
        client = boto3.client("medical-imaging")
        return int(client.get_image_set(datastoreId=datastore, imageSetId=image_set)["versionId"])


class Desk:
    """What Dagster's daemon does with the two sensors of a study's way: their events are recorded, their runs are run."""

    def __init__(self, place: Platform) -> None:
        self.place, self.archive = place, StudyArchive(place.clients, place.settings)
        self._watch: Watch | None = None

    def record_answers(self) -> None:
        """As ``study_results`` does."""
        store = ResultsStore(self.place.clients.s3, self.place.settings.require_bucket())
        found, _ = sensor.tick(self.place.instance, store, Cursor(), datetime.now(UTC))
        self._report(found.events)
        self.place.instance.add_dynamic_partitions(str(STUDIES.name), list(found.studies))

    def look(self, later: timedelta) -> Look:
        """As ``archived_studies`` will, so much later."""
        look = archive_sensor.tick(self.place.instance, self.archive.record, self.archive.answers, self._watch, datetime.now(UTC) + later)
        self._watch = look.watch
        self._report(look.events)
        return look

    def run(self, study: str) -> bool:
        """The run that the sensor asks for."""
        with environment(self.place.variables):
            job = build_defs(self.place.settings).resolve_implicit_global_asset_job_def()
            selected = [AssetKey("archived_study")]
            return job.execute_in_process(instance=self.place.instance, asset_selection=selected, partition_key=study).success

    def _report(self, events: Sequence[Any]) -> None:
        for event in events:
            self.place.instance.report_runless_asset_event(event)


def failing(look: Look) -> list[bool]:
    """Of each evaluation of the check ``archived``, whether it is red."""
    return [not event.passed for event in look.events if isinstance(event, AssetCheckEvaluation)]


class TestArchiveAway:
    @pytest.mark.timeout(1500)  # of which it waits 300
    def test_archive_away_for_5_minutes_with_a_backlog_of_20(self, place: Platform, waking: Waking, record_property: Tell):
        secret = f"monai-aws/{place.settings.deployment}/archive"
        with environment(place.cloud.environment):
            boto3.client("secretsmanager").create_secret(Name=secret, SecretString=f"{USER}:{PASSWORD}")
        with orthanc() as pacs:
            chosen = {"MONAI_AWS_ARCHIVE": "dicomweb", "MONAI_AWS_ARCHIVE_ADDRESS": pacs.address, "MONAI_AWS_ARCHIVE_SECRET": secret}
            there = place.changed(**chosen)
            assert there.materialize("inference_host").success
            pacs.stop()
            away, stopped_at = datetime.now(UTC), time.monotonic()
            jobs = [waking.upload(f"away-{number:02d}") for number in range(BACKLOG)]
            answers = [record for records in there.answers(jobs, AWAY_S - 120).values() for record in records]
            there.wait_stopped(AWAY_S - (time.monotonic() - stopped_at))
            off_after = time.monotonic() - stopped_at
            answered_after = max((parse_utc(record.committed_at) - away).total_seconds() for record in answers)
            assert len(answers) == BACKLOG

            desk = Desk(there)
            desk.record_answers()
            look = desk.look(LATE + timedelta(minutes=1))
            assert (look.wanted, failing(look)) == ((), [True]), "shown as not archived, and not asked for while nobody answers"
            assert [desk.archive.record(answer.study, answer.job) for answer in answers] == [None] * BACKLOG
            time.sleep(max(0.0, AWAY_S - (time.monotonic() - stopped_at)))
            pacs.start()

            before = [(host.id, host.launched) for host in there.machines(ROLE_INFERENCE)]
            asked = list[str]()
            while wanted := desk.look(LATE + timedelta(minutes=1)).wanted:
                asked += [each.study for each in wanted]
                assert all(desk.run(each.study) for each in wanted)
            assert sorted(asked) == sorted(answer.study for answer in answers), "each study is asked for once"
            assert failing(desk.look(timedelta(hours=1))) == [False]
            for answer in answers:
                record = desk.archive.record(answer.study, answer.job)
                assert record
                assert (record.is_whole, [each.stored for each in record.series]) == (True, [3, 1])
                assert instances_in(desk.archive.connect(), there, answer) == 4
            hosts = there.machines(ROLE_INFERENCE)
            assert ([(host.id, host.launched) for host in hosts], {host.state for host in hosts}) == (before, {"stopped"})
        record_property(
            "happened",
            f"{BACKLOG} answered in {answered_after:.0f} s, host off after {off_after:.0f} s; {len(asked)} stored by runs",
        )
