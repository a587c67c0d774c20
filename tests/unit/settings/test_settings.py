"""A wrong setting is reported by name, value and remedy, all of them at once."""

import pytest

from monai_aws_pipeline.settings import Names, SettingsError, load_settings


def test_all_wrong_settings_are_reported_at_once():
    with pytest.raises(SettingsError) as error:
        load_settings(deployment="Not Valid", region="moon", rebuild_cron="whenever", instance_types="g4dn.xlarge,nonsense", ssh_port=0)
    text = str(error.value)
    for name in ("DEPLOYMENT", "REGION", "REBUILD_CRON", "INSTANCE_TYPES", "SSH_PORT"):
        assert f"MONAI_AWS_{name}" in text
    assert "nonsense" in text


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("MONAI_AWS_INSTANCE_TYPES", "g5.xlarge, g4dn.xlarge")
    monkeypatch.setenv("MONAI_AWS_DEPLOYMENT", "ward-3")
    settings = load_settings()
    assert settings.instance_types == ("g5.xlarge", "g4dn.xlarge")
    assert settings.names.jobs_queue == "monai-aws-ward-3-jobs"


def test_a_model_needs_its_hash():
    with pytest.raises(SettingsError, match="model_sha256"):
        load_settings(model_uri="model.ts")


def test_a_missing_bucket_is_named_where_it_is_needed():
    with pytest.raises(SettingsError, match="MONAI_AWS_BUCKET"):
        load_settings(bucket="").require_bucket()


def test_names_stay_within_the_64_characters_of_an_iam_role():
    longest = Names("a" * 20)
    assert max(len(longest.inference_profile), len(longest.jobs_dead_letters)) <= 64
