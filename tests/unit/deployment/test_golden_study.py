"""What the doctor finds out about a golden study before any machine is started."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from monai_aws_pipeline.deployment.golden_study import examine
from monai_aws_pipeline.maps.findings import Finding, Severity
from monai_aws_pipeline.maps.spec.series_rules import UndecidedError, matches, series_rules
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings
from tests.support.studies import corrupt_zip, dicom_bytes, tiny_study, tiny_study_zip, two_studies_zip, zip_of
from tests.unit.host_agent.dicom_files import write_seg

EXPECT = "segments:\n  Brain: {volume-ml: {min: 1}}\n"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app" / "golden").mkdir(parents=True)
    (tmp_path / "app" / "golden" / "expect.yaml").write_text(EXPECT)
    return tmp_path / "app"


def found(app: Path, study: bytes, reference: Path | None = None, **changes: str) -> list[Finding]:
    (app.parent / "study.zip").write_bytes(study)
    given = {"golden_study": str(app.parent / "study.zip"), "golden_study_sha256": hashlib.sha256(study).hexdigest(), "bucket": "studies"}
    if reference:
        given |= {"golden_reference": str(reference), "golden_reference_sha256": hashlib.sha256(reference.read_bytes()).hexdigest()}
    return examine(load_settings(cache_dir=app.parent / "cache", **(given | changes)), app)


def rules(app: Path, **conditions: object) -> None:
    text = json.dumps({"selections": [{"name": "one", "conditions": conditions}]})
    (app / "application.py").write_text(f"RULES = '''\n{text}\n'''\n")


def test_a_sound_study_has_no_finding(app: Path):
    rules(app, Modality="(?i)^MR$", ImageType=["PRIMARY", "ORIGINAL"])
    assert found(app, tiny_study_zip()) == []


def test_no_study_is_a_warning_and_no_more(app: Path):
    (finding,) = examine(load_settings(), app)
    assert finding.severity is Severity.WARNING
    assert "no study to judge by it" in finding.message
    (app / "golden" / "expect.yaml").unlink()
    assert "there is no golden study" in examine(load_settings(), app)[0].message


@pytest.mark.parametrize(
    ("study", "changes", "words"),
    [
        (corrupt_zip(), {}, "would be refused"),
        (two_studies_zip(), {}, "holds 2 studies"),
        (tiny_study_zip(), {"golden_study_sha256": "0" * 64}, "MONAI_AWS_GOLDEN_STUDY_SHA256"),
        (tiny_study_zip(), {"golden_study": "/nowhere/study.zip"}, "no golden study file"),
        (tiny_study_zip(), {"bucket": ""}, "no bucket"),
    ],
)
def test_what_a_host_would_refuse_is_an_error_here(app: Path, study: bytes, changes: dict[str, str], words: str):
    (finding,) = found(app, study, **changes)
    assert finding.severity is Severity.ERROR
    assert words in finding.message


def test_every_mistake_in_the_expectation_is_a_finding_of_its_own(app: Path):
    (app / "golden" / "expect.yaml").write_text("files: [{kind: mash, count: 1}]\nlimit: {}\n")
    assert len(found(app, tiny_study_zip())) == 2


def test_rules_that_select_nothing_of_the_study_are_an_error_and_undecided_ones_a_warning(app: Path):
    rules(app, Modality="^CT$")
    (finding,) = found(app, tiny_study_zip())
    assert (finding.severity, "application.py select none of the 1 series" in finding.message) == (Severity.ERROR, True)
    rules(app, Modality=["MR"])
    (finding,) = found(app, tiny_study_zip())
    assert finding.severity is Severity.WARNING


def test_a_gap_between_slices_is_a_warning(app: Path):
    items = tiny_study(8)
    del items[3:5]
    (finding,) = found(app, zip_of({f"{n}.dcm": dicom_bytes(item) for n, item in enumerate(items)}))
    assert finding.severity is Severity.WARNING
    assert "a gap of 12.0 mm where 4.0 mm is its step" in finding.message


def test_a_reference_is_a_seg_with_the_labels_that_are_asked_for(app: Path, tmp_path: Path):
    items = tiny_study()
    study = zip_of({f"{n}.dcm": dicom_bytes(item) for n, item in enumerate(items)})
    for number, item in enumerate(items):
        (tmp_path / f"{number}.dcm").write_bytes(dicom_bytes(item))
    seg = write_seg(tmp_path / "seg.dcm", [tmp_path / f"{n}.dcm" for n in range(6)], np.ones((6, 24, 24), bool))
    (app / "golden" / "expect.yaml").write_text("segments:\n  Brain: {dice: {min: 0.5}}\n")
    assert found(app, study, seg) == []
    (app / "golden" / "expect.yaml").write_text("segments:\n  Liver: {dice: {min: 0.5}}\n")
    assert "no segment of that label" in found(app, study, seg)[0].message
    assert "cannot be read as a DICOM SEG" in found(app, study, tmp_path / "0.dcm")[0].message
    (app / "golden" / "expect.yaml").write_text("segments:\n  Brain: {dice: {min: 0.5}}\n")
    assert "another study" in found(app, tiny_study_zip(), seg)[0].message


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"Modality": "mr"}, True),
        ({"Modality": "(?i)CT"}, False),
        ({"SeriesDescription": "tin"}, True),
        ({"ImageType": ["PRIMARY", "!SECONDARY"]}, True),
        ({"ImageType": ["PRIMARY", "!ORIGINAL"]}, False),
        ({"ImageType": "!ORIGINAL"}, False),
        ({"SliceThickness": [3, 5]}, True),
        ({"SliceThickness": [5, 9]}, False),
        ({"SliceThickness": [2, ">"]}, True),
        ({"SliceThickness": [4, "!="]}, False),
        ({"SliceThickness": 4}, True),
        ({"SeriesNumber": "[0-9]"}, True),
        ({"ImageOrientationPatient": "Axial"}, True),
        ({"ImageOrientationPatient": "Coronal"}, False),
        ({"NoSuchKeyword": "x"}, False),
        ({"StationName": "x"}, False),
        ({"Modality": None}, True),
    ],
)
def test_conditions_decide_as_the_sdk_does(conditions: dict[str, object], expected: bool):
    assert matches(conditions, tiny_study(1)[0]) is expected


@pytest.mark.parametrize("conditions", [{"Modality": "("}, {"SliceThickness": {"min": 3}}, {"Modality": 3}])
def test_what_is_not_evaluated_is_said(conditions: dict[str, object]):
    with pytest.raises(UndecidedError):
        matches(conditions, tiny_study(1)[0])


def test_the_examples_own_rules_are_found():
    ((where, ((name, conditions),)),) = series_rules(PROJECT_ROOT / "examples/brain_mri/app")
    assert (where, name) == ("application.py", "MR")
    other = tiny_study(1, modality="CT")[0]
    assert matches(conditions, tiny_study(1)[0])
    assert not matches(conditions, other)


def test_a_broken_or_misleading_file_holds_no_rules(tmp_path: Path):
    (tmp_path / "a.py").write_text("def (")
    (tmp_path / "b.py").write_text('"""A docstring about "selections" of rules."""')
    (tmp_path / "c.json").write_text('{"selections": 3}')
    (tmp_path / "d.json").write_text('{"selections": [{"name": "x"}]}')
    assert list(series_rules(tmp_path)) == []
