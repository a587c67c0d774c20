"""The contract: keys, job ids, messages and records, for any upload a person can name and any text a stranger can send."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.contract import (
    Archive,
    ContractError,
    Cost,
    HostFacts,
    IndexEntry,
    InputFacts,
    JobMessage,
    MapFacts,
    OutputFile,
    Rerun,
    Resources,
    ResultError,
    ResultRecord,
    Status,
    Timings,
    commit_key,
    commit_keys,
    decisions_key,
    index_hour_prefix,
    index_key,
    job_done_key,
    job_id,
    output_key,
    parse_utc,
    processed_key,
    quarantine_key,
    sha256_text,
    study_id,
    utc_text,
)

ANY_TEXT = st.text(st.characters())  # surrogates, NUL, newlines, right-to-left: whatever a key may hold
HEX16 = st.text("0123456789abcdef", min_size=16, max_size=16)
HEX32 = st.text("0123456789abcdef", min_size=32, max_size=32)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  hypothesis adds the zone
NUMBERS = st.floats(0, 1e9, allow_nan=False)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

RECORDS = st.builds(
    ResultRecord,
    job=HEX32,
    study=HEX16 | st.just(""),
    status=st.sampled_from(Status),
    committed_at=MOMENTS.map(utc_text),
    input=st.builds(
        InputFacts,
        key_sha256=ANY_TEXT.map(sha256_text),
        etag=st.text(),
        bytes=st.integers(0),
        instances=st.integers(0),
        modalities=st.lists(st.text()).map(tuple),
        series=st.integers(0),
    ),
    map=st.builds(MapFacts, *[st.text()] * 6),
    host=st.builds(HostFacts, *[st.text()] * 3),
    timings=st.builds(Timings, *[NUMBERS] * 8),
    resources=st.builds(
        Resources, peak_rss=st.integers(0), peak_gpu_memory=st.none() | st.integers(0), cpu_seconds=NUMBERS, hosting=st.text()
    ),
    cost=st.builds(Cost, usd=NUMBERS, basis=st.text(), shares=st.dictionaries(st.text(max_size=8), NUMBERS, max_size=4)),
    outputs=st.lists(st.builds(OutputFile, key=st.text(), sha256=st.text(), bytes=st.integers(0), kind=st.text()), max_size=3).map(tuple),
    error=st.none() | st.builds(ResultError, code=st.text(), message=st.text()),
    archive=st.none()
    | st.builds(
        Archive, datastore=st.text(), job=st.text(), image_sets=st.lists(st.text(), max_size=2).map(tuple), failures=st.integers(0)
    ),
    request=st.text(),
)


# ---------------------------------------------------------------------------------------------------------------------- identities


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_job_id_is_32_hex_digits_for_any_key_and_the_same_for_every_duplicate(bucket: str, key: str, version: str, request: str) -> None:
    first = job_id(bucket, key, version, request)
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert job_id(bucket, key, version, request) == first
    assert job_id(bucket, key, f'"{version.strip(chr(34))}"', request) == first, "an ETag is the same with and without its quotes"


def test_what_a_rerun_asks_for_is_read_as_it_was_written_and_each_attempt_and_study_is_a_job_of_its_own() -> None:
    digest, study = "sha256:" + "d" * 64, "ab" * 8
    asked = [Rerun(digest), Rerun(digest, study), Rerun(digest, "cd" * 8), Rerun(digest, attempt=1), Rerun(digest, study, 12)]
    assert [Rerun.parse(one.text) for one in asked] == asked
    assert asked[0].text == digest, "as those before there were attempts"
    messages = [JobMessage.for_object(bucket="b", key="k", version="", etag="e", size=1, request=one.text) for one in asked]
    assert len({message.job for message in messages}) == len(asked)
    assert [JobMessage.from_json(message.to_json()).rerun for message in messages] == asked
    assert {message.map_digest for message in messages} == {digest}


@pytest.mark.parametrize(
    "text", ["", "latest", "sha256:d", "sha256:" + "d" * 64 + "#0", "sha256:" + "d" * 64 + "/ab", "sha256:" + "d" * 64 + "\n"]
)
def test_a_request_that_names_no_map_is_none(text: str) -> None:
    with pytest.raises(ContractError):
        Rerun.parse(text)


@given(st.lists(st.tuples(*[st.text(max_size=4).filter(lambda text: '"' not in text)] * 4), min_size=2, max_size=2, unique=True))
def test_two_different_uploads_or_requests_never_share_a_job_id(two: list[tuple[str, str, str, str]]) -> None:
    assert job_id(*two[0]) != job_id(*two[1])


@given(st.text(min_size=1), st.binary(min_size=16), st.binary(min_size=16))
def test_a_pseudonym_depends_on_the_secret_and_on_nothing_but_the_uid_without_padding(uid: str, one: bytes, other: bytes) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", study_id(one, "1.2.3"))
    assert study_id(one, "1.2.3") == study_id(one, "1.2.3\0") == study_id(one, " 1.2.3 ")
    if one != other:
        assert study_id(one, "1.2.3") != study_id(other, "1.2.3")


def test_a_pseudonym_without_a_secret_is_refused() -> None:
    with pytest.raises(ContractError):
        study_id(b"", "1.2.3")


@given(ANY_TEXT)
def test_any_key_has_a_hash(key: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", sha256_text(key))


# ---------------------------------------------------------------------------------------------------------------------------- keys


@given(HEX16, HEX32, ANY_TEXT)
def test_no_key_of_ours_can_carry_a_foreign_name(study: str, job: str, name: str) -> None:
    for make in (lambda: output_key(study, job, name), lambda: quarantine_key(job, name, study), lambda: processed_key(study, job, name)):
        try:
            key = make()
        except ContractError:
            continue
        assert re.fullmatch(r"(output|quarantine|processed)(/[A-Za-z0-9._-]+)+", key)
        assert not {"", ".", ".."} & set(key.split("/"))


@given(ANY_TEXT.filter(lambda text: not re.fullmatch(r"[0-9a-f]{32}", text)))
def test_a_key_is_never_made_from_something_that_is_no_job(text: str) -> None:
    for make in (job_done_key, decisions_key, lambda job: quarantine_key(job, "x"), lambda job: index_key(datetime.now(UTC), job)):
        with pytest.raises(ContractError):
            make(text)


@given(MOMENTS, HEX32, HEX16, st.integers(-12 * 60, 12 * 60))
def test_an_index_entry_lies_under_the_utc_hour_of_its_commit(moment: datetime, job: str, study: str, minutes: int) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(minutes=minutes)))
    assert index_key(elsewhere, job, study) == index_key(moment, job, study)
    assert index_key(moment, job, study).startswith(index_hour_prefix(moment))
    assert index_hour_prefix(moment) == moment.strftime("results-index/%Y/%m/%d/%H/")


@given(MOMENTS)
def test_times_survive_their_text_to_the_millisecond(moment: datetime) -> None:
    assert abs(parse_utc(utc_text(moment)) - moment) < timedelta(milliseconds=1)


@pytest.mark.parametrize("text", ["", "now", "2026-01-01", "2026-01-01T00:00:00", "20260101T00Zx"])
def test_a_time_without_an_offset_is_refused(text: str) -> None:
    with pytest.raises(ContractError):
        parse_utc(text)


# ------------------------------------------------------------------------------------------------------------------------ messages


@given(
    st.text(min_size=1), ANY_TEXT.filter(bool), st.text(), st.text(max_size=40).map(lambda etag: etag.strip('"')), st.integers(0), st.text()
)
def test_a_job_message_survives_any_transport(bucket: str, key: str, version: str, etag: str, size: int, request: str) -> None:
    message = JobMessage.for_object(bucket=bucket, key=key, version=version, etag=etag, size=size, request=request)
    text = message.to_json()
    assert text.isascii()
    assert "\n" not in text
    assert JobMessage.from_json(text) == message


@given(ANY_JSON)
def test_hostile_json_is_a_contract_error_and_nothing_else(value: object) -> None:
    for parse in (JobMessage.from_json, ResultRecord.from_json, IndexEntry.from_json):
        with pytest.raises(ContractError):
            parse(json.dumps(value))


@given(ANY_TEXT)
def test_a_text_that_is_no_json_is_a_contract_error(text: str) -> None:
    for parse in (JobMessage.from_json, ResultRecord.from_json, IndexEntry.from_json):
        with pytest.raises(ContractError):
            parse(text)


def test_deeply_nested_json_is_a_contract_error() -> None:
    for parse in (JobMessage.from_json, ResultRecord.from_json, IndexEntry.from_json):
        with pytest.raises(ContractError):
            parse("[" * 100_000)


@given(st.sampled_from(["job", "bucket", "key", "version", "etag", "size", "enqueued_at", "request", "schema"]), ANY_JSON)
def test_a_message_with_one_field_replaced_is_refused_or_still_names_its_own_job(field: str, value: object) -> None:
    message = JobMessage.for_object(bucket="b", key="input/a.zip", version="", etag="e", size=3)
    changed = json.loads(message.to_json()) | {field: value}
    try:
        parsed = JobMessage.from_json(json.dumps(changed))
    except ContractError as error:
        assert "input/a.zip" not in str(error)
        return
    assert parsed.job == job_id(parsed.bucket, parsed.key, parsed.version or parsed.etag, parsed.request)


def test_a_message_cannot_claim_the_job_of_another_upload() -> None:
    message = JobMessage.for_object(bucket="b", key="input/a.zip", version="", etag="e", size=3)
    with pytest.raises(ContractError, match="job does not follow"):
        JobMessage.from_json(replace(message, key="input/b.zip").to_json())


# ------------------------------------------------------------------------------------------------------------------------- records


@given(RECORDS)
def test_a_result_record_survives_its_round_trip(record: ResultRecord) -> None:
    assert ResultRecord.from_json(record.to_json()) == record


@given(RECORDS)
def test_a_record_of_a_later_version_with_unknown_fields_is_still_read(record: ResultRecord) -> None:
    data = json.loads(record.to_json())
    data["new"], data["input"]["new"], data["timings"]["new"] = 1, "x", 2.5
    assert ResultRecord.from_json(json.dumps(data)) == record


@given(RECORDS.filter(lambda record: bool(record.study) or record.status is not Status.SUCCEEDED))
def test_the_index_entry_follows_from_the_record_alone(record: ResultRecord) -> None:
    entry = IndexEntry.of(record)
    assert IndexEntry.from_json(entry.to_json()) == entry
    assert entry.key == record.commit_key == commit_key(record.status, record.study, record.job)
    assert record.index_key.startswith(index_hour_prefix(parse_utc(record.committed_at)))


@given(
    RECORDS,
    st.sampled_from(["job", "study", "status", "committed_at", "input", "map", "timings", "resources", "cost", "outputs", "error"]),
    ANY_JSON,
)
def test_a_record_with_one_field_replaced_is_refused_or_read_and_never_crashes(record: ResultRecord, field: str, value: object) -> None:
    changed = json.loads(record.to_json()) | {field: value}
    try:
        again = ResultRecord.from_json(json.dumps(changed))
    except ContractError:
        return
    assert again.schema == record.schema


@given(RECORDS)
def test_a_record_is_found_where_its_readers_look(record: ResultRecord) -> None:
    if record.study or record.status is not Status.SUCCEEDED:
        assert record.commit_key in commit_keys(record.study, record.job)


def test_a_failed_study_that_was_committed_without_a_folder_of_its_own_is_still_read() -> None:
    job, study = "a" * 32, "b" * 16
    older = IndexEntry(job, study, Status.FAILED, "2026-01-01T00:00:00.000Z", quarantine_key(job, "result.json"))
    assert IndexEntry.from_json(older.to_json()) == older
    assert older.key in commit_keys(study, job)


def test_an_index_entry_that_points_elsewhere_is_refused() -> None:
    entry = IndexEntry("a" * 32, "b" * 16, Status.SUCCEEDED, "2026-01-01T00:00:00.000Z", "output/x/y/result.json")
    with pytest.raises(ContractError, match="commit key"):
        IndexEntry.from_json(entry.to_json())
