"""The golden study on a machine: answered as any study is, measured, and judged; its files come from the bucket by an image's labels."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pydicom
import pytest
from moto import mock_aws
from pydicom.uid import SegmentationStorage, generate_uid

from monai_aws_pipeline.contract import golden_key
from monai_aws_pipeline.host_agent import golden
from monai_aws_pipeline.host_agent.aws.bucket import Store
from monai_aws_pipeline.host_agent.errors import Code, FailedError
from monai_aws_pipeline.host_agent.results import segmentation
from monai_aws_pipeline.host_agent.runtime.hosting import PerStudy
from monai_aws_pipeline.maps.spec.expectation import LABEL_EXPECT, LABEL_REFERENCE, LABEL_STUDY, Verdict, parse_expectation
from monai_aws_pipeline.maps.spec.run import Limits
from tests.unit.host_agent.bench import WELL, PretendedEngine
from tests.unit.host_agent.dicom_files import box_stl, write_seg, write_series
from tests.unit.host_agent.golden_bench import READY

EXPECTED = {
    "files": [{"kind": "dicom-seg", "sop-class": SegmentationStorage, "count": 1}, {"name": "stl/*.stl", "count": 1}],
    "segments": {"Brain": {"volume-ml": {"min": 0.57, "max": 0.58}, "dice": {"min": 0.9}}},
    "limits": {"seconds": 1, "memory-mib": 1},
}


def block(low: int = 2, high: int = 5) -> np.ndarray:
    mask = np.zeros((8, 16, 16), dtype=bool)
    mask[low:high, 4:8, 4:8] = True  # 3 x 4 x 4 voxels of 2 x 2 x 3 mm: 0.576 ml
    return mask


write_seg_of_answer = write_seg


@dataclass
class Place:
    """A golden study on disk, and a MAP that is a Python function."""

    folder: Path
    source: list[Path]
    given: golden.Given
    engine: PretendedEngine = field(default_factory=PretendedEngine)

    @staticmethod
    def surface(mask: np.ndarray) -> bytes:
        """The bounds of a mask of ``write_series``'s voxels, 2 x 2 x 3 mm from (-10, -20, 5) on."""
        low, high = np.argwhere(mask).min(axis=0)[::-1] - 0.5, np.argwhere(mask).max(axis=0)[::-1] + 0.5
        return box_stl(*(np.array([-10.0, -20.0, 5.0]) + np.array([2.0, 2.0, 3.0]) * index for index in (low, high)))

    def examine(self, mask: np.ndarray | None, unmeasured: int = 0, **end: Any) -> Verdict:
        def answer(source: Path, target: Path):
            if mask is not None:
                write_seg_of_answer(target / "seg.dcm", sorted(source.iterdir()), mask)
                (target / "stl").mkdir()
                (target / "stl" / "brain.stl").write_bytes(self.surface(mask))
            return replace(WELL, **({"peak_bytes": 0} if self.engine.runs <= unmeasured else {}), **end)

        work = self.folder / f"work{len(list(self.folder.iterdir()))}"
        work.mkdir()
        self.engine = PretendedEngine(answer)
        return golden.examine(PerStudy(self.engine), Limits(), threading.Event(), READY, self.given, work)  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    source = write_series(tmp_path / "source", generate_uid())
    reference = write_seg(tmp_path / "reference.dcm", source, block())
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in source:
            archive.write(path, path.name)
    return Place(tmp_path, source, golden.Given(tmp_path / "study.zip", parse_expectation(EXPECTED), reference))


def test_a_good_answer_passes_every_point_and_the_line_says_so(place: Place):
    verdict = place.examine(block())
    assert verdict.passed, verdict.missed
    line = json.loads(golden.report("map@sha256:0", "sha256:0", verdict, 0.0))
    assert (line["golden"], line["image"], line["digest"]) == ("passed", "map@sha256:0", "sha256:0")
    assert {"name": "Dice of Brain", "expected": "at least 0.9", "found": "1.0000", "ok": True} in line["points"]
    assert json.loads(golden.report("m", "", None, 0.0))["golden"] == "none"


def test_an_answer_that_was_there_before_its_memory_was_measured_is_asked_for_again(place: Place):
    assert place.examine(block(), unmeasured=2).passed
    assert len({each.name for each in place.engine.wanted}) == 3, "the engine may still be removing the one before"
    assert [str(point) for point in place.examine(block(), unmeasured=3).missed] == [
        "peak memory: expected at most 1 MiB, found not measured"
    ]
    place.given = replace(place.given, expectation=replace(place.given.expectation, memory_mib=None))
    assert place.examine(block(), unmeasured=1).passed
    assert place.engine.runs == 1, "nobody asked how much memory it takes"


def test_a_shifted_answer_has_the_volume_and_not_the_dice(place: Place):
    verdict = place.examine(block(3, 6))
    assert [str(point) for point in verdict.missed] == ["Dice of Brain: expected at least 0.9, found 0.6667"]


def test_an_application_that_fails_writes_nothing_or_never_ends_is_a_miss_with_its_code(place: Place, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    for verdict, code in (
        (place.examine(None, exit_code=3), "map_failed"),
        (place.examine(None), "no_output"),
        (place.examine(block(), timed_out=True), "map_timeout"),
        (place.examine(block(), out_of_memory=True), "map_out_of_memory"),
    ):
        (point,) = verdict.missed
        assert (point.name, point.found.partition(":")[0]) == ("application", code)
    assert "the application said: hello" in caplog.text


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("[2026-11-28 10:00:00,000] [INFO] (root) - Parsed args", "INFO"),
        ("DEBUG:app:details", "INFO"),
        ("2026-11-28 WARNING no series", "WARNING"),
        ("[error] - INFORMATION about ERRORS", "INFO"),
        ("ValueError: no such file", "INFO"),
        ("[ERROR] (app) - failed after INFO", "ERROR"),
    ],
)
def test_a_line_of_the_application_has_the_level_that_it_gave_itself(place: Place, caplog: pytest.LogCaptureFixture, line: str, level: str):
    caplog.set_level("INFO")
    place.examine(None, exit_code=3, log_tail=(line,))
    (shown,) = [record for record in caplog.records if record.getMessage().startswith("the application said: ")]
    assert (shown.levelname, shown.getMessage()) == (level, f"the application said: {line}")


def test_a_surface_that_does_not_lie_on_its_segmentation_is_a_miss_before_anything_is_measured(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Place, "surface", staticmethod(lambda _: box_stl((0.0, 0.0, 0.0), (9.0, 8.0, 90.0))))
    (point,) = place.examine(block()).missed
    assert (point.name, point.found.partition(":")[0]) == ("application", "output_geometry")
    assert "A surface measures 9 x 8 x 90 mm along x, y and z, and its segmentation 8 x 8 x 9 mm" in point.found


def test_volumes_count_with_the_planes_of_the_study_and_not_with_what_the_segmentation_declares(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    def as_if_a_millimetre(path: Path, source: list[Path], mask: np.ndarray) -> Path:
        data = pydicom.dcmread(write_seg(path, source, mask))
        measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = measures.SliceThickness = 1
        data.save_as(path)
        return path

    monkeypatch.setitem(globals(), "write_seg_of_answer", as_if_a_millimetre)
    assert place.examine(block()).passed, "3 x 4 x 4 voxels of 2 x 2 x 3 mm"
    given = replace(place.given, expectation=parse_expectation({"segments": {"Brain": {"volume-ml": {"min": 0.19, "max": 0.20}}}}))
    assert replace(place, given=given).examine(block(2, 3)).passed, "one frame of 16 voxels"


def test_a_machine_that_fails_is_not_the_applications_fault(place: Place):
    class Broken(PretendedEngine):
        def run(self, arguments: list[str], **_: Any):
            raise FailedError(Code.ENGINE_FAILED, "The container did not start.")

    (place.folder / "work").mkdir()
    with pytest.raises(FailedError):
        golden.examine(PerStudy(Broken()), Limits(), threading.Event(), READY, place.given, place.folder / "work")  # type: ignore[arg-type]


def test_a_golden_upload_of_two_studies_or_none_is_said_as_such(place: Place):
    with zipfile.ZipFile(place.given.study, "a") as archive:
        for path in write_series(place.folder / "other", generate_uid()):
            archive.write(path, f"other-{path.name}")
    (point,) = place.examine(block()).points
    assert "holds 2 studies instead of one" in point.found


def test_dice_is_counted_by_place_not_by_order_and_only_on_one_grid(place: Place, tmp_path: Path):
    def seg(name: str, mask: np.ndarray, source: list[Path]) -> segmentation.Segmentation:
        return segmentation.read_segmentation(write_seg(tmp_path / name, source, mask))

    reference = seg("a.dcm", block(), place.source)
    assert golden.dice(seg("b.dcm", block(), place.source), 1, reference, 1) == 1.0
    assert golden.dice(seg("c.dcm", block(4, 7), place.source), 1, reference, 1) == pytest.approx(2 * 1 / 6)
    assert golden.dice(seg("d.dcm", block(5, 8), place.source), 1, reference, 1) == 0.0
    for elsewhere in (write_series(tmp_path / "gap", "1.2.3", gap=3.7), write_series(tmp_path / "wide", "1.2.3", spacing=2.1)):
        with pytest.raises(segmentation.SegmentationError, match="another grid"):
            golden.dice(seg("e.dcm", block(), elsewhere), 1, reference, 1)


# ----------------------------------------------------------------------------------------------------------------- by the image's labels


@pytest.fixture
def store() -> Iterator[Store]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="studies")
        yield Store(client, "studies")


def put(store: Store, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    store._s3.put_object(Bucket="studies", Key=golden_key(sha256), Body=content)
    return sha256


def test_what_the_labels_name_is_fetched_and_checked(place: Place, store: Store, tmp_path: Path):
    assert place.given.reference is not None
    (tmp_path / "fetched").mkdir()
    labels = {
        LABEL_STUDY: put(store, place.given.study.read_bytes()),
        LABEL_EXPECT: put(store, place.given.expectation.to_json()),
        LABEL_REFERENCE: put(store, place.given.reference.read_bytes()),
    }
    given = golden.from_labels(labels, store, tmp_path / "fetched")
    assert given is not None
    assert given.expectation == place.given.expectation
    assert replace(place, given=given).examine(block()).passed
    assert golden.from_labels({}, store, tmp_path) is None
    assert golden.from_labels({LABEL_STUDY: ""}, store, tmp_path) is None


def test_a_missing_altered_or_unreadable_object_is_named(store: Store, tmp_path: Path):
    study = put(store, b"study")
    with pytest.raises(FailedError, match="no object golden/"):
        golden.from_labels({LABEL_STUDY: "0" * 64}, store, tmp_path)
    with pytest.raises(FailedError, match="no object golden/"):
        golden.from_labels({LABEL_STUDY: study}, store, tmp_path)
    with pytest.raises(FailedError, match="cannot be read"):
        golden.from_labels({LABEL_STUDY: study, LABEL_EXPECT: put(store, b"{}")}, store, tmp_path)
    store._s3.put_object(Bucket="studies", Key=golden_key(study), Body=b"another")
    with pytest.raises(FailedError, match="was altered"):
        golden.from_labels({LABEL_STUDY: study}, store, tmp_path)


def test_an_application_that_prints_the_patient_is_shown_without(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    verdict = place.examine(None, exit_code=3, log_tail=("hello Nobody Invented, INV-1", "2.25.329800735698586629295641978511506172918"))
    assert not verdict.passed
    assert "the application said: hello [removed]" in caplog.text
    assert not [secret for secret in ("Nobody", "Invented", "INV-1", "2.25") if secret in caplog.text]


def test_a_foreign_exception_about_a_file_is_a_missed_point_and_quotes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def quotes(*_: object) -> None:
        raise ValueError("cannot convert 'Invented^Nobody'")

    monkeypatch.setattr(golden, "measure", quotes)
    (point,) = place.examine(block()).missed
    assert point.found.startswith("internal: Unexpected ValueError")
    assert "Invented" not in point.found
