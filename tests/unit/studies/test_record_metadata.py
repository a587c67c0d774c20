"""What the lineage says about a result has names with units, the right types, links, and never more than 4 KiB."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    FloatMetadataValue,
    MarkdownMetadataValue,
    MetadataValue,
    PathMetadataValue,
    TableRecord,
    TextMetadataValue,
    TimestampMetadataValue,
    UrlMetadataValue,
)
from dagster._serdes import serialize_value

from monai_aws_pipeline.contract import (
    ContractError,
    Measurements,
    OutputFile,
    ResultError,
    ResultRecord,
    SegmentVolume,
    Status,
    output_key,
)
from monai_aws_pipeline.contract.outputs import DICOM_SEG, LOG, MEASUREMENTS, PREVIEW
from monai_aws_pipeline.portal.addresses import Addresses
from monai_aws_pipeline.settings import Settings
from monai_aws_pipeline.studies.compared import Earlier, volumes_by_name
from monai_aws_pipeline.studies.record_metadata import MAX_STORED_BYTES, record_metadata
from tests.unit.studies.records import DIGEST, NOON, OTHER_DIGEST, refused, succeeded

WHERE = Addresses("studies", "eu-central-1", "http://127.0.0.1:3070", "https://eu-central-1.console.aws.amazon.com")
NOWHERE = Addresses("studies")
LONGEST = Addresses("b" * 63, "ap-southeast-99", f"https://{'links.' * 10}example.org:65535", f"https://{'console.' * 8}example.org")


def stored_bytes(metadata: dict[str, MetadataValue]) -> int:
    """What Dagster's event log holds of an event's metadata."""
    with DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(AssetMaterialization("inference_result", metadata=metadata))
        (record,) = instance.fetch_materializations(AssetKey("inference_result"), limit=1).records
    event = json.loads(serialize_value(record.event_log_entry))
    return len(json.dumps(event["dagster_event"]["event_specific_data"]["materialization"]["metadata_entries"]))


def fattest() -> ResultRecord:
    """A record with more of everything than any has had."""
    record = succeeded(1)
    files = [("dicom/seg.dcm", DICOM_SEG), ("preview.png", PREVIEW), ("measurements.json", MEASUREMENTS), ("map.log", LOG)]
    files += [(f"dicom/{'n' * 80}-{number}.dcm", "dicom") for number in range(500)]
    return replace(
        record,
        outputs=tuple(OutputFile(output_key(record.study, record.job, name), "f" * 64, 10**12, kind) for name, kind in files),
        input=replace(
            record.input,
            selection=tuple(f'series {number}: "MR" | given *because* of ü{"." * 300}' for number in range(200)),
            passed_over={f"kind {number}": 10**6 for number in range(100)},
            repairs=("a repair; " * 40,) * 40,
            modalities=("MR", "CT", "PT", "SR"),
        ),
        map=replace(record.map, image=f"{'r' * 200}@{DIGEST}", app_version="1.0.0-" + "v" * 60),
        cost=replace(record.cost, basis="b" * 400),
        resources=replace(record.resources, peak_gpu_memory=2**34, hosting="h" * 200),
    )


def test_a_result_is_shown_with_units_and_types():
    record = succeeded(1)
    metadata = record_metadata(record, (SegmentVolume("Brain", 1437.2512), SegmentVolume("Left Kidney!", 0.5)), WHERE)
    page = f"http://127.0.0.1:3070/studies/{record.study}/{record.job}/"
    assert metadata["inference_s"] == FloatMetadataValue(9.25)
    assert metadata["total_s"] == FloatMetadataValue(44.4)
    assert metadata["cost_usd"] == FloatMetadataValue(0.0065)
    assert metadata["volume_brain_ml"] == FloatMetadataValue(1437.251)
    assert metadata["volume_left_kidney_ml"] == FloatMetadataValue(0.5)
    assert metadata["map_digest"] == TextMetadataValue(DIGEST)
    assert isinstance(metadata["committed_at"], TimestampMetadataValue)
    assert metadata["preview"] == MarkdownMetadataValue(f"[![preview]({page}preview-600.png)]({page})")
    links = str(metadata["links"].value)
    assert f"[original]({page}original/)" in links
    assert f"[record]({page}result.json)" in links
    assert f"[all answers](http://127.0.0.1:3070/studies/{record.study}/)" in links
    details = str(metadata["details"].value)
    assert "| host | g4dn.xlarge i-0123456789abcdef0 ami-0123456789abcdef0 |" in details
    assert "0.526 USD/h g4dn.xlarge for 44.4 s" in details
    assert "MR, 181 images in 1 series" in details
    assert "| peak memory | 1536 MiB |" in details, "no GPU, no figure of it"


def test_what_dagster_is_to_show_openly_is_short_enough_for_it():
    """Dagster shows Markdown of 1,000 characters or more behind a click."""
    for measured in ((), SEGMENTS[:1], SEGMENTS):
        metadata = record_metadata(fattest(), measured, WHERE, BEFORE)
        openly = {name: len(value.value) for name, value in metadata.items() if isinstance(value, MarkdownMetadataValue)}
        assert {"preview", "links", "compared_with_before"} <= openly.keys()
        assert max(openly.values()) < 1000
    usual = record_metadata(succeeded(1), (SegmentVolume("Brain", 1437.25),), WHERE, replace(BEFORE, volumes={"brain": 1400.0}))
    assert {"preview", "volume_brain_ml", "links", "compared_with_before", "details"} <= usual.keys()


SEGMENTS = tuple(SegmentVolume(f"Segment {number} with a very long name indeed", 123456.789) for number in range(64))
BEFORE = Earlier(NOON - timedelta(days=1), "0.9.0", OTHER_DIGEST, "a" * 64, dict.fromkeys(volumes_by_name(SEGMENTS), 100.5))


@pytest.mark.parametrize("where", [WHERE, NOWHERE, LONGEST], ids=["pages", "no pages", "long names"])
@pytest.mark.parametrize("before", [None, BEFORE], ids=["first", "again"])
def test_the_fattest_record_takes_no_more_than_4_kib_of_the_event_log(where: Addresses, before: Earlier | None):
    metadata = record_metadata(fattest(), SEGMENTS, where, before)
    assert 3000 < stored_bytes(metadata) <= MAX_STORED_BYTES == 4096
    assert {"status", "preview", "map_digest", "model_sha256", "job", "committed_at", "cost_usd"} <= metadata.keys()


def test_segments_of_one_name_do_not_hide_each_other():
    metadata = record_metadata(
        succeeded(1), tuple(SegmentVolume(label, ml) for ml, label in enumerate(("Lesion", "lesion", "LESION", "?"))), WHERE
    )
    assert {name: value.value for name, value in metadata.items() if name.startswith("volume_")} == {
        "volume_lesion_ml": 0.0,
        "volume_lesion_no2_ml": 1.0,
        "volume_lesion_no3_ml": 2.0,
        "volume_other_ml": 3.0,
    }


def test_segments_beyond_what_fits_are_counted():
    metadata = record_metadata(fattest(), tuple(SegmentVolume(f"Segment {number}", 1.5) for number in range(64)), NOWHERE)
    shown = [name for name in metadata if name.startswith("volume_segment")]
    assert 4 <= len(shown) < 64
    assert metadata["volumes_left_out"] == TextMetadataValue(f"{64 - len(shown)} more segments: on the study's page")


def test_a_failed_study_with_much_to_say_stays_within_it_too():
    error = ResultError("map_failed", "The application failed. " * 200, "\u00fc" * 5000)
    metadata = record_metadata(replace(fattest(), status=Status.FAILED, error=error), (), LONGEST)
    assert stored_bytes(metadata) <= MAX_STORED_BYTES
    assert metadata["error_code"] == TextMetadataValue("map_failed")
    assert str(metadata["error"].value).startswith("The application failed.")


def test_without_pages_the_places_in_s3_are_shown():
    record = succeeded(1)
    metadata = record_metadata(record, (), NOWHERE)
    folder = f"s3://studies/output/{record.study}/{record.job}"
    assert metadata["record"] == PathMetadataValue(f"{folder}/result.json")
    assert metadata["preview"] == PathMetadataValue(f"{folder}/preview.png")
    assert "links" not in metadata
    assert "s3_console" not in metadata
    console = record_metadata(record, (), replace(WHERE, links=""))["s3_console"]
    folder = f"output/{record.study}/{record.job}/"
    address = f"https://eu-central-1.console.aws.amazon.com/s3/buckets/studies?region=eu-central-1&prefix={folder}&showversions=false"
    assert console == UrlMetadataValue(address)


def test_what_a_record_says_is_not_read_as_markdown():
    record = replace(succeeded(1), input=replace(succeeded(1).input, selection=("a|b [c](http://d) <e> `f`\n| g | h |",)))
    details = str(record_metadata(record, (), WHERE)["details"].value)
    assert "| series | a\\|b \\[c\\](http://d) \\<e\\> \\`f\\` \\| g \\| h \\| |" in details.splitlines()


def test_an_answer_stands_beside_the_one_before():
    first = record_metadata(succeeded(1, NOON - timedelta(days=1)), (SegmentVolume("Brain", 1400.0), SegmentVolume("Gone", 1.0)), WHERE)
    before = Earlier.recorded(first)
    assert before is not None
    again = record_metadata(succeeded(1, digest=OTHER_DIGEST), (SegmentVolume("Brain", 1407.0),), WHERE, before)
    assert str(again["compared_with_before"].value).splitlines() == [
        "| | this answer | the one before | change |",
        "|---|---|---|---|",
        "| answered | 2026-03-14 12:30 | 2026-03-13 12:30 |  |",
        "| MAP | 1.0.0 | 1.0.0 | same |",
        f"| digest | {'e' * 12} | {'d' * 12} | other |",
        f"| model | {'b' * 12} | {'b' * 12} | same |",
        "| brain, ml | 1407.0 | 1400.0 | +7.0 (+0.5%) |",
    ]
    assert "compared_with_before" not in first


def test_an_event_of_an_older_version_can_stand_before_too():
    older = {
        "preview": MetadataValue.md("![preview](data:image/png;base64,AAAA)"),
        "committed_at": MetadataValue.timestamp(NOON),
        "map_app_version": MetadataValue.text("0.9.0"),
        "map_digest": MetadataValue.text(DIGEST),
        "volume_brain_ml": MetadataValue.float(1400.0),
        "outputs": MetadataValue.table([TableRecord({"kind": "mesh"})]),
    }
    assert Earlier.recorded(older) == Earlier(NOON, "0.9.0", DIGEST, "", {"brain": 1400.0})
    assert Earlier.recorded({"job": MetadataValue.text("expired")}) is None


def test_a_refused_upload_is_shown_with_its_reason():
    record = refused(1)
    metadata = record_metadata(record, (), WHERE)
    assert metadata["status"] == TextMetadataValue("quarantined")
    assert metadata["error_code"] == TextMetadataValue("NOT_A_ZIP")
    assert "preview" not in metadata
    assert f"[page](http://127.0.0.1:3070/jobs/{record.job}/)" in str(metadata["links"].value)
    assert "all answers" not in str(metadata["links"].value)


@pytest.mark.parametrize(
    ("region", "console"),
    [
        ("eu-central-1", "https://eu-central-1.console.aws.amazon.com"),
        ("us-gov-west-1", "https://console.amazonaws-us-gov.com"),
        ("cn-north-1", "https://console.amazonaws.cn"),
    ],
)
def test_the_console_is_that_of_the_region(region: str, console: str):
    assert Addresses.of(Settings(_env_file=None, region=region)).console == console  # type: ignore[call-arg]
    assert Addresses.of(Settings(_env_file=None, region=region, console_url="")).in_console("output/") == ""  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"segments": 1}',
        '{"segments": [{}]}',
        '{"segments": [{"label": 1, "volume_ml": 1}]}',
        '{"segments": [{"label": "a", "volume_ml": NaN}]}',
    ],
)
def test_measurements_of_another_shape_are_refused(text: str):
    with pytest.raises(ContractError, match="measurements"):
        Measurements.from_json(text)
