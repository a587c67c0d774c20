"""app.yaml, app.json and pkg.json are read strictly, and everything wrong is said at once."""

from __future__ import annotations

import contextlib
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.maps.manifest import (
    AppYamlMissingError,
    ManifestError,
    parse_app_config,
    parse_app_manifest,
    parse_package_manifest,
    read_app_config,
)

GOOD = """
application:
  title: Liver
  version: 1.2.0
  input-formats: ["DICOM"]
  output-formats: ["DICOM", "STL"]
resources: {cpu: 4, gpu: 1, memory: 8Gi}
"""


def test_a_good_app_yaml_is_read_whole():
    config = parse_app_config(GOOD)
    assert (config.title, config.version, config.output_formats) == ("Liver", "1.2.0", ("DICOM", "STL"))
    assert config.resources == {"cpu": 4, "gpu": 1, "memory": "8Gi"}


def test_every_finding_is_reported_at_once():
    with pytest.raises(ManifestError) as caught:
        parse_app_config("application:\n  version: [1]\n  input_formats: DICOM\n")
    text = " | ".join(caught.value.findings)
    for part in ("resources", "input-formats", "title", "version"):
        assert part in text


@pytest.mark.parametrize(("written", "read"), [("1.0", "1.0"), ("1.10", "1.10"), ("2", "2"), ("2024-05-01", "2024-05-01"), ("1e3", "1e3")])
def test_a_version_that_yaml_takes_for_something_else_is_its_text(written, read):
    config = parse_app_config(GOOD.replace("1.2.0", written))
    assert config.version == read
    assert parse_app_config(config.for_packager or GOOD.replace("1.2.0", written)).version == read


@pytest.mark.parametrize("names", [("inputFormats", "outputFormats"), ("input_formats", "output_formats")])
def test_other_spellings_are_read_and_told_to_the_packager_in_its_own(names):
    text = GOOD.replace("input-formats", names[0]).replace("output-formats", names[1])
    config = parse_app_config(text)
    assert (config.input_formats, config.output_formats) == (("DICOM",), ("DICOM", "STL"))
    told = yaml.safe_load(config.for_packager)
    assert told["application"]["output-formats"] == ["DICOM", "STL"]
    assert names[0] not in told["application"]
    assert parse_app_config(GOOD).for_packager == "", "where nothing is spelled otherwise the file itself is read"


def test_what_the_image_needs_of_its_distribution_is_a_list_of_names():
    config = parse_app_config(GOOD + "monai-aws: {system-packages: [libgl1, libglib2.0-0, libgl1], require-volume: true}")
    assert config.system_packages == ("libgl1", "libglib2.0-0")
    assert config.study.volume is True
    for wrong in ("libgl1", "[libgl1; id]", "['-o=x']", "[1]", "[Libgl1]", "['a b']", "[x]"):
        with pytest.raises(ManifestError, match="system-packages"):
            parse_app_config(GOOD + f"monai-aws: {{system-packages: {wrong}}}")
    with pytest.raises(ManifestError, match="unpack-models"):
        parse_app_config(GOOD + "monai-aws: {unpack-models: 1}")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("- a\n- b\n", "mapping"),
        ("application: [unclosed", "not valid YAML"),
        ("application: !!python/object/apply:os.system ['true']\nresources: {}\n", "not valid YAML"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "aliases"),
        (GOOD.replace("1.2.0", '"1.2.0; rm -rf /"'), "version"),
        (GOOD.replace("1.2.0", '"' + "9" * 60 + '"'), "version"),
        (GOOD + "monai-aws: {require-volume: 1}", "require-volume"),
        (GOOD + "monai-aws: {require-volumes: true}", "require-volume"),
        (GOOD + "monai-aws: true", "require-volume"),
        (GOOD.replace("Liver", '"two\\nlines"'), "title"),
        (GOOD.replace("8Gi", "2020-01-01"), "JSON cannot hold"),
        (GOOD.replace('["DICOM"]', "DICOM"), "list of texts"),
    ],
)
def test_a_hostile_or_careless_app_yaml_is_refused_by_name(text, part):
    with pytest.raises(ManifestError) as caught:
        parse_app_config(text)
    assert part in str(caught.value)


@given(st.text(max_size=200))
def test_no_text_makes_the_parsers_fail_in_another_way(text):
    for parse in (parse_app_config, parse_app_manifest, parse_package_manifest):
        with contextlib.suppress(ManifestError):
            parse(text)


def test_a_missing_app_yaml_names_the_settings(tmp_path):
    with pytest.raises(AppYamlMissingError, match="MONAI_AWS_APP_DIR"):
        read_app_config(tmp_path)


def test_a_huge_or_binary_app_yaml_is_refused(tmp_path):
    (tmp_path / "app.yaml").write_bytes(b"x" * 70_000)
    with pytest.raises(ManifestError, match="larger"):
        read_app_config(tmp_path)
    (tmp_path / "app.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="UTF-8"):
        read_app_config(tmp_path)


def test_pkg_json_with_a_path_out_of_the_image_is_refused():
    data = {"apiVersion": "1.0.0", "applicationRoot": "/opt/../etc", "modelRoot": "models", "models": {"a": "b"}, "version": "1"}
    with pytest.raises(ManifestError) as caught:
        parse_package_manifest(json.dumps(data))
    assert len(caught.value.findings) == 3


def test_deeply_nested_json_is_not_json_to_us():
    with pytest.raises(ManifestError):
        parse_package_manifest("[" * 60_000)
