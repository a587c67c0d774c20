"""What is expected of a golden study: read strictly, carried as JSON without loss, and judged point by point."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.maps.download import ModelAlteredError
from monai_aws_pipeline.maps.golden import GoldenError, gather, read_expectation
from monai_aws_pipeline.maps.spec.expectation import (
    Expectation,
    ExpectationError,
    FileRule,
    Found,
    FoundFile,
    FoundSegment,
    Range,
    SegmentRule,
    judge,
    parse_expectation,
    read_json,
)
from monai_aws_pipeline.settings import PROJECT_ROOT, SettingsError, load_settings

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
WHOLE = """
files:
  - {kind: dicom-seg, sop-class: Segmentation Storage, count: 1}
  - {name: "stl/*.stl", count: {min: 1, max: 2}}
segments:
  Brain:
    volume-ml: {min: 1900, max: 2030}
    dice: {min: 0.9}
limits:
  seconds: 60
  memory-mib: 6000
"""
GOOD = Found(
    files=(FoundFile("seg.dcm", "dicom-seg", SEG), FoundFile("stl/brain.stl", "mesh")),
    segments=(FoundSegment("Brain", 1963.9, 0.934),),
    seconds=12.5,
    peak_bytes=3 * 2**30,
)


def parsed(text: str) -> Expectation:
    return parse_expectation(yaml.safe_load(text))


def test_a_whole_expectation_is_met_by_a_good_answer_and_says_each_point_in_words():
    verdict = judge(parsed(WHOLE), GOOD)
    assert verdict.passed, verdict.missed
    assert [(point.name, point.expected, point.found) for point in verdict.points] == [
        ("application", "answers the study", "answered in 12.5 s"),
        (f"files dicom-seg of SOP class {SEG}", "1", "1"),
        ("files stl/*.stl", "from 1 to 2", "1"),
        ("volume of Brain", "from 1900 to 2030 ml", "1963.9 ml"),
        ("Dice of Brain", "at least 0.9", "0.9340"),
        ("seconds", "at most 60 s", "12.5 s"),
        ("peak memory", "at most 6000 MiB", "3072 MiB"),
    ]


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (Found(failure="map_failed: exit code 3"), ["application"]),
        (Found((), GOOD.segments, 12.5, 1), [f"files dicom-seg of SOP class {SEG}", "files stl/*.stl"]),
        (Found(GOOD.files, (), 12.5, 1), ["volume of Brain", "Dice of Brain"]),
        (Found(GOOD.files, (FoundSegment("Brain", 1899, 0.89),), 12.5, 1), ["volume of Brain", "Dice of Brain"]),
        (Found(GOOD.files, (FoundSegment("Brain", 1963, None, "lies on another grid"),), 12.5, 1), ["Dice of Brain"]),
        (Found(GOOD.files, GOOD.segments * 2, 12.5, 1), ["volume of Brain", "Dice of Brain"]),
        (Found(GOOD.files, GOOD.segments, 61, 6001 * 2**20), ["seconds", "peak memory"]),
        (Found(GOOD.files, GOOD.segments, 12.5, 0), ["peak memory"]),
    ],
)
def test_each_miss_is_named_and_nothing_unmeasured_passes(found: Found, missed: list[str]):
    assert [point.name for point in judge(parsed(WHOLE), found).missed] == missed


def test_everything_wrong_is_said_at_once():
    with pytest.raises(ExpectationError) as caught:
        parsed(
            "files:\n  - {kind: seg, cuont: 1}\n  - {name: x, count: {min: 3, max: 1}}\n  - {sop-class: No Such, count: -1}\n"
            "segments:\n  Brain: {volume: 3}\n  Left: {dice: {min: 2}}\nlimits: {seconds: yes, memory: 4}\nfiels: []\n"
        )
    text = " | ".join(caught.value.findings)
    for each in (
        "the file: 'fiels' is not known; known are files, segments, limits", "files[1]: 'cuont' is not known",
        "files[1].kind must be one of", "files[1].count is missing", "files[2].count: min is larger than max",
        "files[3].sop-class", "files[3].count.min",
        "segments.Brain: 'volume' is not known", "segments.Left.dice.min must be a number from 0 to 1", "limits.seconds must be a number",
        "limits: 'memory' is not known",
    ):  # fmt: skip
        assert each in text, each


@pytest.mark.parametrize("data", [None, {}, [], "text", {"files": {}}, {"segments": []}, {"files": [1]}, {"limits": {1: 2}}])
def test_what_expects_nothing_or_is_no_mapping_is_refused(data: object):
    with pytest.raises(ExpectationError):
        parse_expectation(data)


numbers = st.integers(0, 1000)
ranges = (
    st.builds(lambda low, more: Range(low, low + more), numbers, numbers) | st.builds(Range, numbers) | st.builds(Range, st.none(), numbers)
)
labels = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=64)
names = labels | st.just("")
files = st.builds(FileRule, ranges, kind=st.sampled_from(["dicom-seg", "mesh"]), name=names, sop_class=st.sampled_from(["", SEG]))
segments = st.builds(SegmentRule, labels, ranges, st.none() | st.floats(0, 1))
expectations = st.builds(
    Expectation,
    files=st.lists(files, min_size=1, max_size=5).map(tuple),
    segments=st.lists(segments, max_size=5, unique_by=lambda rule: rule.label).map(
        lambda rules: tuple(sorted(rules, key=lambda rule: rule.label))
    ),
    seconds=st.none() | st.integers(1, 86400),
    memory_mib=st.none() | st.integers(1, 2**20),
)


@given(expectations)
def test_an_expectation_survives_its_journey_and_equal_ones_have_equal_bytes(expected: Expectation):
    again = read_json(expected.to_json())
    assert again == expected
    assert again.to_json() == expected.to_json()


@given(st.recursive(st.none() | st.booleans() | numbers | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_data_breaks_the_reader(data: object):
    try:
        parse_expectation(data)
    except ExpectationError as error:
        assert error.findings


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b'{"files": NaN}', b"\xff"])
def test_json_that_cannot_be_read_is_refused(text: bytes):
    with pytest.raises(ExpectationError):
        read_json(text)


# ---------------------------------------------------------------------------------------------------------------- on the control plane


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app" / "golden").mkdir(parents=True)
    (tmp_path / "study.zip").write_bytes(b"study")
    (tmp_path / "reference.dcm").write_bytes(b"reference")
    return tmp_path / "app"


def settings(app: Path, **changes: str):
    files = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("study", "reference")}
    given = {
        "golden_study": str(app.parent / "study.zip"), "golden_study_sha256": files["study"],
        "golden_reference": str(app.parent / "reference.dcm"), "golden_reference_sha256": files["reference"],
    }  # fmt: skip
    return load_settings(cache_dir=app.parent / "cache", **(given | changes))


def test_study_reference_and_expectation_come_together_under_their_hashes(app: Path):
    (app / "golden" / "expect.yaml").write_text(WHOLE)
    found = gather(settings(app), app)
    assert found is not None
    assert found.expectation == parsed(WHOLE)
    assert found.reference is not None
    content = {sha: body if isinstance(body, bytes) else body.read_bytes() for sha, body in found.objects().items()}
    assert all(hashlib.sha256(body).hexdigest() == sha for sha, body in content.items())
    assert set(found.labels.values()) == set(content)


def test_what_does_not_fit_together_is_named(app: Path):
    assert gather(settings(app, golden_study="", golden_reference=""), app) is None
    with pytest.raises(GoldenError, match=r"no golden/expect\.yaml"):
        gather(settings(app), app)
    (app / "golden" / "expect.yaml").write_text(WHOLE)
    with pytest.raises(GoldenError, match="MONAI_AWS_GOLDEN_REFERENCE"):
        gather(settings(app, golden_reference=""), app)
    with pytest.raises(ModelAlteredError, match="MONAI_AWS_GOLDEN_STUDY_SHA256"):
        gather(settings(app, golden_study_sha256="0" * 64), app)
    (app / "golden" / "expect.yaml").write_text("files: &a [*a]")
    with pytest.raises(ExpectationError, match="aliases"):
        gather(settings(app), app)


def test_a_golden_file_without_its_hash_or_a_reference_without_a_study_is_no_setting(app: Path):
    with pytest.raises(SettingsError, match="golden_study_sha256 is missing"):
        settings(app, golden_study_sha256="")
    with pytest.raises(SettingsError, match="golden_study is missing"):
        settings(app, golden_study="")


@pytest.mark.parametrize("folder", ["tests/apps/tiny", "examples/brain_mri/app"])
def test_the_projects_own_applications_say_what_they_answer(folder: str):
    expectation = read_expectation(PROJECT_ROOT / folder)
    assert expectation is not None
    assert expectation.files
    assert expectation.segments
