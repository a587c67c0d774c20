"""The record of calls: what ministack judged, once for each kind, with its last word and without what an uploader has chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ministack.core import iam_evaluator
from ministack.core.iam_evaluator import EvalContext, parse_policy_document

from monai_aws_pipeline.local_cloud.call_record import CallRecord, without_upload

BUCKET = "arn:aws:s3:::studies"
ANY_PREFIX = {"StringLike": {"s3:prefix": "*"}}
DOCUMENT = {"Statement": [{"Sid": "It", "Effect": "Allow", "Action": "s3:*", "Resource": "*", "Condition": ANY_PREFIX}]}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CallRecord:
    monkeypatch.setattr(iam_evaluator, "evaluate", iam_evaluator.evaluate)  # as it was, afterwards
    made = CallRecord(tmp_path / "calls.jsonl")
    made.install()
    return made


def context_of(resource: str, **keys: str) -> EvalContext:
    return EvalContext(
        principal_arn="arn:aws:sts::123456789012:assumed-role/monai-aws-dev-operator/x",
        principal_type="AssumedRole",
        principal_account="123456789012",
        action="s3:GetObject",
        resource_arn=resource,
        region="us-east-1",
        service_context={name.replace("_", ":"): value for name, value in keys.items()},
    )


def call(record: CallRecord, resource: str, refusal: object = None, **keys: str) -> None:
    """A call as ministack judges it: the caller's policies, then those of a resource."""
    context = context_of(resource, **keys)

    def enforce() -> object:
        iam_evaluator.evaluate(context, [parse_policy_document(DOCUMENT)])
        iam_evaluator.evaluate(context, [])
        return refusal

    assert record.watch(enforce) is refusal


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


def test_a_kind_of_call_and_the_policies_are_written_once(record: CallRecord, tmp_path: Path):
    for number in range(3):
        call(record, f"{BUCKET}/jobs/{number:032x}.json", s3_prefix="jobs/")
    policies, one = lines(tmp_path)
    assert [each["Sid"] for each in policies["policies"]] == ["It"], "those of the caller, not of a resource"
    assert (one["role"], one["action"], one["allowed"]) == ("monai-aws-dev-operator", "s3:GetObject", True)


def test_what_the_bucket_refuses_is_no_decision_of_the_role(record: CallRecord, tmp_path: Path):
    call(record, f"{BUCKET}/output/a", refusal="denied by the bucket", s3_prefix="output/")
    assert lines(tmp_path)[-1]["allowed"] is True
    call(record, f"{BUCKET}/output/b", refusal="denied by the role")
    assert lines(tmp_path)[-1]["allowed"] is False, "the role's statement asks for a prefix"


def test_a_question_about_a_call_is_none(record: CallRecord, tmp_path: Path):
    iam_evaluator.evaluate(context_of(BUCKET), [parse_policy_document(DOCUMENT)])
    assert not (tmp_path / "calls.jsonl").exists()


def test_no_name_of_an_upload_is_written(record: CallRecord, tmp_path: Path):
    for key in ("input/Zqplant^Hans.zip", "input/Zqplant Hans/_READY", "input/Zqplant/1\n.dcm"):
        call(record, f"{BUCKET}/{key}")
    call(record, BUCKET, s3_prefix="input/Zqplant/")
    assert "plant" not in (tmp_path / "calls.jsonl").read_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{BUCKET}/input/a.zip", f"{BUCKET}/input/*"),
        (f"{BUCKET}/input/a/b/1.dcm", f"{BUCKET}/input/*"),
        (f"{BUCKET}/input/a/_READY", f"{BUCKET}/input/*/_READY"),
        (f"{BUCKET}/input/_READY", f"{BUCKET}/input/_READY"),
        (f"{BUCKET}/input/", f"{BUCKET}/input/"),
        ("input/a/", "input/*"),
        ("input/", "input/"),
        (f"{BUCKET}/output/a/input/b", f"{BUCKET}/output/a/input/b"),
        ("inference", "inference"),
    ],
)
def test_what_an_uploader_has_chosen_becomes_a_star(text: str, shown: str):
    assert without_upload(text) == shown
