"""Which changes make the machine image stale: those of its own base, script, pins and disk; those of the application make the MAP stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, AssetObservation, AssetSpec, DagsterInstance, DataVersion, MaterializeResult, materialize, multi_asset
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.deployment import host_bundle, host_files
from monai_aws_pipeline.settings import load_settings

SOURCE, IMAGE, MAP = AssetKey("map_source"), AssetKey("gpu_ami"), AssetKey("map_image")


class Lineage:
    """Source, machine image and MAP as they are defined by the settings, made without any cloud; Dagster judges what is stale."""

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance

    def observe(self, commit: str) -> None:
        self.instance.report_runless_asset_event(AssetObservation(SOURCE, tags={"dagster/data_version": commit}))

    def make(self, key: AssetKey, version: str, **settings: object) -> None:
        defined = build_defs(load_settings(**settings)).resolve_asset_graph().get(key)
        spec = AssetSpec(key, deps=sorted(defined.parent_keys), code_version=defined.code_version)

        @multi_asset(specs=[spec])
        def made() -> MaterializeResult:  # type: ignore[type-arg]
            return MaterializeResult(asset_key=key, data_version=DataVersion(version))

        assert materialize([made], instance=self.instance).success

    def stale(self, key: AssetKey, **settings: object) -> list[str]:
        graph = build_defs(load_settings(**settings)).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return [cause.reason for cause in resolver.get_stale_causes(key)]


@pytest.fixture
def lineage() -> Iterator[Lineage]:
    with DagsterInstance.ephemeral() as instance:
        lineage = Lineage(instance)
        lineage.observe("1" * 40)
        lineage.make(IMAGE, "ami-1")
        lineage.make(MAP, "sha256:1")
        yield lineage


def test_what_was_just_made_is_fresh(lineage: Lineage):
    assert (lineage.stale(IMAGE), lineage.stale(MAP)) == ([], [])


def test_a_changed_application_makes_the_map_stale_and_no_machine_image(lineage: Lineage):
    lineage.observe("2" * 40)
    assert lineage.stale(IMAGE) == []
    assert lineage.stale(MAP) == ["has a new dependency data version"]


@pytest.mark.parametrize(
    "change",
    [
        *({"base_ami": "ubuntu"}, {"base_ami": "ami-0123456789abcdef0"}, {"base_ami_owner": "self"}, {"ami_mode": "stock"}),
        *({"root_volume_gib": 160}, {"host_python": "3.11"}, {"packager": "monai-deploy"}, {"gpus": ""}),
    ],
    ids=str,
)
def test_each_setting_of_the_image_makes_it_stale(lineage: Lineage, change: dict[str, object]):
    assert lineage.stale(IMAGE, **change) == ["has a new code version"]


@pytest.mark.parametrize(
    "change", [{"app_source": "examples"}, {"app_ref": "main"}, {"model_uri": ""}, {"map_timeout_s": 60}, {"owner": "someone"}], ids=str
)
def test_what_does_not_go_into_the_image_leaves_it_fresh(lineage: Lineage, change: dict[str, object]):
    assert lineage.stale(IMAGE, **change) == []


def test_script_agent_and_pins_make_it_stale(lineage: Lineage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in host_files._HOST_FILES:
        (tmp_path / name).write_bytes((host_files._HOST_FOLDER / name).read_bytes())
    monkeypatch.setattr(host_files, "_HOST_FOLDER", tmp_path)
    assert lineage.stale(IMAGE) == []
    (tmp_path / "provision.sh").write_text("# another script")
    assert lineage.stale(IMAGE) == ["has a new code version"]
    monkeypatch.undo()
    with monkeypatch.context() as patched:
        patched.setattr(host_files, "_SOURCES", host_files._SOURCES[1:])
        assert lineage.stale(IMAGE) == ["has a new code version"], "the agent's sources"
    pins = tmp_path / "requirements.txt"
    pins.write_text("boto3==1.0\n")
    monkeypatch.setattr(host_bundle, "HOST_REQUIREMENTS", pins)
    assert lineage.stale(IMAGE) == ["has a new code version"]


def test_machines_that_are_provisioned_when_they_are_made_leave_the_base_alone(lineage: Lineage):
    lineage.make(IMAGE, "ami-base", ami_mode="stock")
    assert lineage.stale(IMAGE, ami_mode="stock", root_volume_gib=170) == []
    assert lineage.stale(IMAGE, ami_mode="stock", base_ami="ubuntu") == ["has a new code version"]
