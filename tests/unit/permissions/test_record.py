"""What is kept of a test run: evidence for a role as long as its statements are the same, and which test files ran whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_aws_pipeline.local_cloud.call_record import FILE
from monai_aws_pipeline.local_cloud.config import configure
from tests.permissions import record
from tests.permissions.calls import read
from tests.permissions.policies import TEMPLATE, Role, roles
from tests.permissions.record import begin, files, keep, not_passed, note_passed, versions

POLICIES = [{"Sid": "It", "Effect": "Allow", "Action": ["sqs:SendMessage"], "Resource": ["*"], "Condition": {}}]
CALL = {"action": "sqs:SendMessage", "resource": "arn:aws:sqs:us-east-1:123456789012:q", "keys": {}, "allowed": True}


def written(name: str, text: str, folder: Path) -> Role:
    template = folder / "template.yaml"
    template.write_text(text)
    return roles(template)[name]


def keep_calls(folder: Path, *names: str) -> None:
    """Keep the record of a cloud in which each of the roles made one call."""
    config = configure(folder / "shared-1", 4566)
    config.state_dir.mkdir(exist_ok=True)
    lines = [line for name in names for line in ({"role": name, "policies": POLICIES}, {"role": name, **CALL})]
    (config.state_dir / FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    keep(config, folder / "kept")


def test_a_reason_or_a_comment_makes_no_other_version_and_a_statement_does(tmp_path: Path):
    text, now = TEMPLATE.read_text(), roles()["wake"].version
    reason = '"Log logs:PutLogEvents": Lambda writes'
    assert text.count(reason) == 1
    assert written("wake", text.replace(reason, f"{reason} by itself and"), tmp_path).version == now
    assert written("wake", f"# more words\n{text}", tmp_path).version == now
    action = '"s3:ListBucketMultipartUploads"'
    assert text.count(action) == 1
    assert written("wake", text.replace(action, '"s3:ListBucketVersions"'), tmp_path).version != now
    assert written("operator", text.replace(action, '"s3:ListBucketVersions"'), tmp_path).version == roles()["operator"].version


def test_calls_are_evidence_for_the_roles_that_are_as_they_were(tmp_path: Path):
    keep_calls(tmp_path, "monai-aws-dev-wake", "monai-aws-dev-operator", "somebody-else")
    kept = files(tmp_path / "kept")
    assert {name: len(calls) for name, calls in read(kept, versions()).items()} == {"wake": 1, "operator": 1}
    assert set(read(kept, {**versions(), "wake": "another"})) == {"operator"}


def test_a_run_drops_what_is_evidence_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keep_calls(tmp_path, "monai-aws-dev-wake")
    note_passed(["tests/e2e/test_one.py"], tmp_path / "kept")
    begin(whole=False, folder=tmp_path / "kept")
    assert len(files(tmp_path / "kept")) == 1
    begin(whole=True, folder=tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
    keep_calls(tmp_path, "monai-aws-dev-wake")
    monkeypatch.setattr(record, "versions", lambda: dict.fromkeys(versions(), "another"))
    begin(whole=False, folder=tmp_path / "kept")
    assert files(tmp_path / "kept") == []


def test_what_has_not_passed_since_a_role_is_as_it_is_is_missing(tmp_path: Path):
    for name in ("tests/e2e/test_one.py", "tests/integration/local_cloud/test_two.py", "tests/unit/test_three.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "tests/e2e/test_long.py").write_text("import pytest\n\npytestmark = [pytest.mark.cloud, pytest.mark.long]\n")
    now = versions()["wake"]

    def missing(version: str) -> list[str]:
        return not_passed("wake", version, tmp_path / "kept", tmp_path)

    long = "tests/e2e/test_long.py -m long"
    assert missing(now) == [long, "tests/e2e/test_one.py", "tests/integration/local_cloud/test_two.py"]
    note_passed(["tests/e2e/test_one.py", long], tmp_path / "kept")
    note_passed(["tests/integration/local_cloud/test_two.py"], tmp_path / "kept")
    assert missing(now) == []
    assert missing("another") == [long, "tests/e2e/test_one.py", "tests/integration/local_cloud/test_two.py"]
