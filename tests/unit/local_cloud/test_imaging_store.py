"""Image sets of the embedded HealthImaging: how instances are grouped, versions, what is hidden, and what survives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from monai_aws_pipeline.local_cloud.imaging_files import read_instance
from monai_aws_pipeline.local_cloud.imaging_store import ImageStore, Stored
from tests.unit.local_cloud.dicom import write


class Shelf:
    """A store with one data store, and files to put into it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.store = ImageStore(folder / "store")
        self.id = self.store.create_datastore("us-east-1", "main", "token")["id"]

    def add(self, *changes: dict[str, Any]) -> list[Stored]:
        received = []
        for each in changes:
            self.count += 1
            path = write(self.folder / f"{self.count}.dcm", **each)
            received.append((read_instance(path), path))
        return self.store.add(self.id, received)

    def shown(self, **asked: Any) -> list[str]:
        return sorted(each.sop_instance for each in self.store.instances(self.id, **asked))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_instances_of_a_series_make_one_primary_set_in_one_import_and_a_version_an_import(shelf: Shelf):
    first = shelf.add({"SOPInstanceUID": "1.1"}, {"SOPInstanceUID": "1.2"})
    later = shelf.add({"SOPInstanceUID": "1.3"})
    assert {(each.image_set, each.version, each.is_primary) for each in first} == {(first[0].image_set, 1, True)}
    assert (later[0].image_set, later[0].version) == (first[0].image_set, 2)
    assert shelf.shown() == ["1.1", "1.2", "1.3"]
    assert shelf.shown(image_set=first[0].image_set, version=1) == ["1.1", "1.2"]


def test_an_instance_that_comes_again_replaces_itself_and_both_stay_stored(shelf: Shelf):
    (first,) = shelf.add({"SOPInstanceUID": "1.1", "StudyTime": "1"})
    (again,) = shelf.add({"SOPInstanceUID": "1.1", "StudyTime": "2"})
    assert (again.image_set, again.version, shelf.shown()) == (first.image_set, 2, ["1.1"])
    shown = [shelf.store.instances(shelf.id, first.image_set, version=version)[0].attributes["StudyTime"]["Value"] for version in (1, 2)]
    assert shown == [["1"], ["2"]]
    assert len(list((shelf.folder / "store" / "instances").iterdir())) == 2


@pytest.mark.parametrize(
    "conflict",
    [{"AccessionNumber": "B"}, {"AccessionNumber": ""}, {"StudyDate": "20200102"}, {"PatientID": "INV-1a"}, {"StudyID": None}],
)
def test_a_series_that_contradicts_its_study_is_stored_but_hidden(shelf: Shelf, conflict: dict[str, Any]):
    shelf.add({"SOPInstanceUID": "1.1"})
    result = {"SOPInstanceUID": "2.1", "SeriesInstanceUID": "1.2.3.9", "SeriesNumber": 9}
    (hidden,) = shelf.add({**result, **conflict})
    assert (hidden.is_primary, shelf.shown()) == (False, ["1.1"])
    assert shelf.shown(image_set=hidden.image_set) == ["2.1"]
    assert shelf.add({**result, "SOPInstanceUID": "2.2"})[0].is_primary


def test_the_same_series_with_another_number_or_in_another_study_is_hidden_and_an_own_series_is_not(shelf: Shelf):
    shelf.add({"SOPInstanceUID": "1.1"})
    assert not shelf.add({"SOPInstanceUID": "1.2", "SeriesNumber": 2})[0].is_primary
    assert not shelf.add({"SOPInstanceUID": "1.3", "StudyInstanceUID": "1.2.4"})[0].is_primary
    assert not shelf.add({"SOPInstanceUID": "1.1", "SeriesInstanceUID": "1.2.3.5"})[0].is_primary
    assert shelf.add({"SOPInstanceUID": "1.4", "SeriesInstanceUID": "1.2.3.6", "SeriesNumber": 1})[0].is_primary


def test_nothing_of_a_deleted_set_is_left_but_that_it_was_there(shelf: Shelf):
    (stored,) = shelf.add({"SOPInstanceUID": "1.1"})
    assert not shelf.store.is_empty(shelf.id)
    shelf.store.delete_image_set(stored.image_set)
    assert shelf.store.is_empty(shelf.id)
    assert shelf.store.image_set(shelf.id, stored.image_set)["state"] == "DELETED"
    assert not list((shelf.folder / "store" / "instances").iterdir())
    assert shelf.add({"SOPInstanceUID": "1.1"})[0].image_set != stored.image_set


def test_all_of_it_survives_the_end_of_the_process_and_half_received_files_do_not(shelf: Shelf, tmp_path: Path):
    (stored,) = shelf.add({"SOPInstanceUID": "1.1"})
    (shelf.store.incoming / "half.dcm").write_bytes(b"half")
    (tmp_path / "store" / "instances" / "orphan.dcm").write_bytes(b"left by a crash")
    again = ImageStore(tmp_path / "store")
    (found,) = again.instances(shelf.id)
    assert (found.image_set, found.file.exists()) == (stored.image_set, True)
    assert read_instance(found.file).sop_instance == "1.1"
    assert not list(again.incoming.iterdir())
    assert not (tmp_path / "store" / "instances" / "orphan.dcm").exists()


def test_an_import_that_fails_in_the_middle_leaves_the_index_as_it_was(shelf: Shelf):
    path = write(shelf.folder / "a.dcm")
    lost = shelf.folder / "lost.dcm"
    shutil.copy(path, lost)
    received = [(read_instance(path), path), (read_instance(lost), lost)]
    lost.unlink()
    with pytest.raises(FileNotFoundError):
        shelf.store.add(shelf.id, received)
    assert (shelf.shown(), shelf.store.is_empty(shelf.id)) == ([], True)


def test_what_is_asked_for_twice_with_one_token_is_made_once(shelf: Shelf):
    assert shelf.store.create_datastore("us-east-1", "main", "token")["id"] == shelf.id
    assert shelf.store.create_datastore("us-east-1", "main", "other")["id"] != shelf.id
    first, made = shelf.store.create_job(shelf.id, "t", {"outputS3Uri": "s3://b/out"})
    again, made_again = shelf.store.create_job(shelf.id, "t", {"outputS3Uri": "s3://b/out"})
    assert (made, made_again, again["id"]) == (True, False, first["id"])
