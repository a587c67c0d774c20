"""The demo as a new user runs it, on the real model and the real head, and what radiology tools say of its outputs.

Takes some minutes: it builds a MAP with torch. It runs beside a demo of the user's own: other folder, other port.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import trimesh

from examples.brain_mri.evaluate import expected_volume_ml, read_segment
from examples.brain_mri.fetch import fetch
from examples.brain_mri.study import study_datasets
from monai_aws_pipeline.demo import steps
from monai_aws_pipeline.settings import load_settings
from monai_aws_pipeline.terminal import literal_console
from tests.support.cloud import own_cloud
from tests.support.platform import environment
from tests.support.runs import dagster_ended

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[steps.Workplace]:
    with own_cloud("demo") as config:
        made = steps.Workplace(tmp_path_factory.mktemp("demo"), config.state_dir, config.port)
        with dagster_ended(made.home):
            yield made
            steps.down(made)


@pytest.fixture(scope="module")
def summary(place: steps.Workplace) -> Iterator[dict[str, Any]]:
    with environment({}):
        done = steps.run(place, literal_console(width=160))
        assert json.loads(place.summary.read_text()) == done
        yield done


@pytest.fixture(scope="module")
def segmentation(place: steps.Workplace, summary: dict[str, Any]) -> Path:
    return next(path for path in sorted((place.root / "results").glob("*.dcm")) if pydicom.dcmread(path).Modality == "SEG")


def test_the_demo_ends_with_everything_it_promises(summary: dict[str, Any]):
    assert summary["status"] == "succeeded"
    assert summary["instances_left"] == {"inference": {"stopped": 1}}
    assert summary["map_digest"].startswith("sha256:")
    assert summary["image_bytes"] > 100e6
    assert summary["peak_memory_bytes"] < 8e9
    assert summary["seconds"]["inference"] > 0
    assert summary["archived"]["instances"] > 100
    assert {"local_cloud", "bootstrap", "ui", "deploy_all", "study", "lineage", "archive", "idle_stop", "evaluate"} <= set(
        summary["phases"]
    )


def test_the_brain_is_found_where_the_reference_has_it(summary: dict[str, Any]):
    assert summary["dice"] >= 0.90
    assert summary["brain_volume_ml"] == pytest.approx(expected_volume_ml(), rel=0.05)


def test_the_segmentation_passes_the_standards_validator(segmentation: Path):
    if not shutil.which("dciodvfy"):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "dicom3tools"], check=True, capture_output=True)
    checked = subprocess.run(["dciodvfy", str(segmentation)], capture_output=True, text=True, check=False)
    assert [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")] == []


def test_the_segmentation_refers_to_the_study_and_lies_on_its_geometry(segmentation: Path):
    files = fetch(load_settings().cache_dir, lambda _: None)
    source = study_datasets(files.volume, seed="monai-aws-demo")
    seg = highdicom.seg.segread(segmentation)
    assert seg.SegmentationType == "BINARY"
    assert seg.StudyInstanceUID == source[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == source[0].FrameOfReferenceUID
    referred = {sop for _, _, sop in seg.get_source_image_uids()}
    assert referred <= {dataset.SOPInstanceUID for dataset in source}
    assert len(referred) > 100
    assert list(seg.segment_numbers) == [1]
    described = seg.get_segment_description(1)
    assert described.segmented_property_type.meaning == "Brain"
    assert described.segmented_property_type.scheme_designator == "SCT"

    _, affine = read_segment(segmentation)
    first = source[0]
    spacing = [float(value) for value in first.PixelSpacing]
    assert sorted(np.linalg.norm(affine[:3, :3], axis=0)) == pytest.approx(sorted([*spacing, 1.0]), abs=0.01)


def test_the_surface_is_closed_and_lies_in_the_patient_in_millimetres(place: steps.Workplace, summary: dict[str, Any], segmentation: Path):
    (path,) = (place.root / "results").glob("*.stl")
    surface = trimesh.load_mesh(path)
    assert surface.is_watertight
    assert surface.volume / 1000 == pytest.approx(summary["brain_volume_ml"], rel=0.05)
    mask, affine = read_segment(segmentation)
    voxels = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    assert surface.bounds[0] == pytest.approx(voxels.min(axis=0), abs=4)
    assert surface.bounds[1] == pytest.approx(voxels.max(axis=0), abs=4)


def test_a_second_demo_uses_what_did_not_change(place: steps.Workplace, summary: dict[str, Any]):
    with environment({}):
        again = steps.run(place, literal_console(width=160))
    assert again["status"] == "succeeded"
    assert again["study_reused"] is True
    assert again["map_digest"] == summary["map_digest"]
    assert again["host"] == summary["host"]
