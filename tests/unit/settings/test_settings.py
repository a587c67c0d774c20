"""A wrong setting is reported by name, value and remedy, all of them at once."""

import pytest

from monai_aws_pipeline.settings import Names, Settings, SettingsError, load_settings


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


def test_several_models_have_several_hashes():
    both = "1" * 64 + "," + "2" * 64
    assert load_settings(model_uri="a=net.ts,b=net.pt", model_sha256=both).model_sha256 == both
    with pytest.raises(SettingsError, match="MODEL_SHA256"):
        load_settings(model_uri="a=net.ts", model_sha256="1" * 63)


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name.endswith("_sha256")])
def test_a_hash_may_be_in_capitals(name: str):
    place = {name.removesuffix("_sha256") + ("_uri" if name == "model_sha256" else ""): "file"}
    others = {"golden_study": "file", "golden_study_sha256": "1" * 64} if name == "golden_reference_sha256" else {}
    assert getattr(load_settings(**others, **place, **{name: "AB" * 32}), name) == "ab" * 32


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name.endswith("_sha256")])
@pytest.mark.parametrize("value", ["1" * 63, "g" * 64, "sha256:" + "1" * 64, "md5"])
def test_what_is_no_hash_is_refused_in_words(name: str, value: str):
    with pytest.raises(SettingsError, match=rf"MONAI_AWS_{name.upper()} = .*expected 64 hex digits, as `sha256sum FILE` prints them"):
        load_settings(**{name: value})


def test_several_hashes_may_be_spaced_and_one_file_has_one():
    spaced = load_settings(model_uri="a=net.ts,b=net.pt", model_sha256=f" {'A' * 64}, {'2' * 64} ").model_sha256
    assert spaced == f"{'a' * 64},{'2' * 64}"
    with pytest.raises(SettingsError, match=r"GOLDEN_STUDY_SHA256.*expected one hash"):
        load_settings(golden_study="study.zip", golden_study_sha256=f"{'1' * 64},{'2' * 64}")


PATTERNED = [name for name, field in Settings.model_fields.items() if any(getattr(each, "pattern", None) for each in field.metadata)]


@pytest.mark.parametrize("name", PATTERNED)
def test_a_value_of_another_form_is_refused_with_one_that_is_taken_instead_of_a_pattern(name: str):
    with pytest.raises(SettingsError) as raised:
        load_settings(**{name: "§ of no form"})
    (line,) = [line for line in str(raised.value).splitlines() if f"MONAI_AWS_{name.upper()}" in line]
    example = line.partition("expected a value such as ")[2]
    assert example, line
    assert getattr(load_settings(**{name: example}), name) == example
    assert "^" not in line


def test_a_missing_bucket_is_named_where_it_is_needed():
    with pytest.raises(SettingsError, match="MONAI_AWS_BUCKET"):
        load_settings(bucket="").require_bucket()


def test_names_stay_within_the_64_characters_of_an_iam_role():
    longest = Names("a" * 20)
    assert max(len(longest.inference_profile), len(longest.jobs_dead_letters)) <= 64


@pytest.mark.parametrize("base", ["ami-0123456789abcdef0", "ssm:/aws/service/x/ami-id", "name:Deep Learning Base OSS * (Ubuntu 24.04)*"])
def test_a_base_image_is_an_id_a_parameter_or_a_name(base: str):
    assert load_settings(base_ami=base).base_ami == base


def test_short_names_of_base_images_lead_to_awss_public_parameters_of_2404():
    assert load_settings(base_ami="deep-learning").base_ami == load_settings().base_ami
    plain = load_settings(base_ami="ubuntu").base_ami
    assert plain == "ssm:/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"


@pytest.mark.parametrize("base", ["", "debian", "ami-xyz", "ssm:relative/path", "name:", "name:**", "name:a`b;c", "https://example.org"])
def test_another_base_image_is_refused_with_what_is_expected(base: str):
    with pytest.raises(SettingsError, match=r"MONAI_AWS_BASE_AMI.*expected"):
        load_settings(base_ami=base)


def test_regions_are_split_and_a_key_without_encryption_is_refused():
    assert load_settings(ami_regions="eu-central-1, us-west-2").ami_regions == ("eu-central-1", "us-west-2")
    with pytest.raises(SettingsError, match="not a region: moon"):
        load_settings(ami_regions="moon")
    with pytest.raises(SettingsError, match="root_volume_kms_key is set"):
        load_settings(root_volume_kms_key="alias/ours", root_volume_encrypted=False)


@pytest.mark.parametrize("policy", ["reject", "quarantine", "deidentify"])
def test_a_policy_that_nothing_applies_is_refused(policy: str):
    with pytest.raises(SettingsError, match="set allow"):
        load_settings(phi_policy=policy)


def test_subnets_are_ids_and_a_disk_holds_aws_own_image_by_default():
    assert load_settings(subnets="subnet-0123456789abcdef0, subnet-12345678").subnets == ("subnet-0123456789abcdef0", "subnet-12345678")
    with pytest.raises(SettingsError, match=r"MONAI_AWS_SUBNETS.*not a subnet: private"):
        load_settings(subnets="private")
    assert load_settings().root_volume_gib == 150


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"archive": "healthimaging"}, "datastore_id is empty"), ({"archive": "dicomweb"}, "archive_address is empty")],
)
def test_an_archive_needs_its_place(given: dict[str, str], missing: str):
    with pytest.raises(SettingsError, match=missing):
        load_settings(**given)
    load_settings(**given, datastore_id="0" * 32, archive_address="https://orthanc.example.org:8042/dicom-web")


def test_an_archives_address_holds_no_password_and_shows_none():
    with pytest.raises(SettingsError, match="such as https://") as caught:
        load_settings(archive="dicomweb", archive_address="https://user:hunter2@orthanc.example.org/dicom-web")
    assert "hunter2" not in str(caught.value)
