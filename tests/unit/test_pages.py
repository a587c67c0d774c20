"""The page of each definition in Dagster: what it makes, when to run it, how long it takes, what it costs, whose it is, where to read on.

Whoever adds an asset, a check, a job, a schedule or a sensor writes its description where it is defined and gives it a line in
``monai_aws_pipeline/pages.py``.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from dagster import (
    AssetCheckResult,
    AssetKey,
    DagsterInstance,
    Definitions,
    LocalFileCodeReference,
    PathMetadataValue,
    RepositoryDefinition,
    UrlCodeReference,
    UrlMetadataValue,
    asset,
    asset_check,
)

from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.deployment.map_source import map_source
from monai_aws_pipeline.pages import PAGES, code_of, heading_of, with_pages
from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.settings import PROJECT_ROOT, SettingsError, load_settings

SECONDS = r"\b(seconds?|minutes?|hours?|Mondays|first of a month)\b|\d s\b"
COST = r"\b(USD|costs?|free)\b"


@cache
def repository(code_url: str = "", owner: str = "imaging team") -> RepositoryDefinition:
    return build_defs(load_settings(code_url=code_url, owner=owner)).get_repository_def()


def described() -> dict[str, tuple[str, str]]:
    """Kind and description of every definition of ours, by name."""
    graph = repository().asset_graph
    jobs = {job.name: ("job", job.description) for job in repository().get_all_jobs() if not job.name.startswith("__")}
    return {
        **{key.to_user_string(): ("asset", graph.get(key).description or "") for key in graph.get_all_asset_keys()},
        **{key.name: ("check", graph.get_check_spec(key).description or "") for key in graph.asset_check_keys},
        **{name: (kind, text or "") for name, (kind, text) in jobs.items()},
        **{schedule.name: ("schedule", schedule.description or "") for schedule in repository().schedule_defs},
        **{sensor.name: ("sensor", sensor.description or "") for sensor in repository().sensor_defs},
    }


NAMES = sorted(described())


@pytest.mark.parametrize("name", NAMES)
def test_a_description_says_in_some_sentences_what_when_how_long_and_at_what_cost(name: str):
    kind, text = described()[name]
    sentences = re.findall(r"[^.]+(?:\.(?=\d|\w)[^.]+)*\.(?=\s|$)", text)
    assert 2 <= len(sentences) <= 4, f"the {kind} {name}: {text!r}"
    assert len(text) <= 600
    assert re.search(SECONDS, text), f"the {kind} {name} says nothing about how long it takes"
    assert re.search(COST, text), f"the {kind} {name} says nothing about what it costs"


def test_every_definition_has_a_page_and_every_page_a_definition():
    assert set(PAGES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_a_definition_is_found_and_its_guide_is_a_heading_that_is_there(name: str):
    place, heading = code_of(name), heading_of(PAGES[name].guide)
    assert place
    line = place.file.read_text().splitlines()[place.line - 1]
    assert name in line
    assert "(self" not in line, "a method that has the same name defines nothing"
    assert heading, f"docs/{PAGES[name].guide} leads nowhere"


@pytest.mark.parametrize("key", sorted(repository().asset_graph.get_all_asset_keys()), ids=AssetKey.to_user_string)
def test_an_asset_has_group_owner_kinds_tags_links_and_the_meaning_of_its_metadata(key: AssetKey):
    node = repository().asset_graph.get(key)
    assert node.group_name in ("platform", "studies")
    assert node.owners == ["team:imaging team"]
    assert node.kinds
    assert node.tags["monai-aws/costs"] == PAGES[key.to_user_string()].costs
    assert node.metadata["metadata_keys"].value.records
    references = {each.label: each for each in node.metadata["dagster/code_references"].value.code_references}
    assert {"code", "guide"} == set(references)
    for reference in references.values():
        assert isinstance(reference, LocalFileCodeReference)
        assert reference.line_number


def linked(given: RepositoryDefinition) -> dict[str, Any]:
    """Metadata of everything that is no asset."""
    graph = given.asset_graph
    jobs = {job.name: job.metadata for job in given.get_all_jobs() if not job.name.startswith("__")}
    return {
        **{key.name: graph.get_check_spec(key).metadata or {} for key in graph.asset_check_keys},
        **jobs,
        **{schedule.name: schedule.metadata for schedule in given.schedule_defs},
        **{sensor.name: sensor.metadata for sensor in given.sensor_defs},
    }


@pytest.mark.parametrize("name", sorted(linked(repository())))
def test_a_check_job_schedule_or_sensor_names_owner_cost_code_and_guide(name: str):
    metadata = linked(repository())[name]
    assert "team:imaging team" in str(metadata["owner"])
    assert PAGES[name].costs.value in str(metadata["monai-aws/costs"])
    for link in ("code", "guide"):
        assert isinstance(metadata[link], PathMetadataValue)
        file, _, line = str(metadata[link].path).rpartition(":")
        assert file.startswith(str(PROJECT_ROOT))
        assert int(line) > 0


def test_links_lead_to_the_web_where_the_code_lies_there_too():
    web = "https://git.example.org/imaging/maps/blob/main"
    given = repository(web)
    for metadata in linked(given).values():
        assert isinstance(metadata["guide"], UrlMetadataValue)
        assert metadata["guide"].url.startswith(f"{web}/docs/")
        assert "#" in metadata["code"].url
    references = given.asset_graph.get(AssetKey("gpu_ami")).metadata["dagster/code_references"].value.code_references
    assert all(isinstance(each, UrlCodeReference) and each.url.startswith(web) for each in references)


@pytest.mark.parametrize(("owner", "shown"), [("jane@example.org", "jane@example.org"), ("ward 7", "team:ward 7")])
def test_an_owner_is_an_address_or_a_team(owner: str, shown: str):
    assert repository(owner=owner).asset_graph.get(AssetKey("map_image")).owners == [shown]


@pytest.mark.parametrize("wrong", ["https://user:secret@git.example.org/x", "git@git.example.org:x", "https://git.example.org/x/"])
def test_an_address_of_the_code_with_credentials_or_of_another_kind_is_no_setting(wrong: str):
    with pytest.raises(SettingsError, match="MONAI_AWS_CODE_URL") as error:
        load_settings(code_url=wrong)
    assert "secret" not in str(error.value)


def test_what_has_a_page_still_runs():
    @asset(name="map_image")
    def made() -> None:
        pass

    @asset_check(asset="map_image", name="map_conformance")
    def checked() -> AssetCheckResult:
        return AssetCheckResult(passed=True)

    folder = str(PROJECT_ROOT / "examples" / "brain_mri" / "app")
    settings = {"settings": SettingsResource(overrides={"app_source": folder, "app_ref": "HEAD"})}
    defined = with_pages(Definitions(assets=[made, map_source], asset_checks=[checked], resources=settings), load_settings())
    with DagsterInstance.ephemeral() as instance:
        job = defined.resolve_implicit_global_asset_job_def()
        built = job.execute_in_process(instance=instance, asset_selection=[AssetKey("map_image")])
        assert [each.passed for each in built.get_asset_check_evaluations()] == [True]
        looked = job.execute_in_process(instance=instance, asset_selection=[AssetKey("map_source")])
        (seen,) = looked.asset_observations_for_node("map_source")
    assert seen.metadata["application"].value
    assert seen.metadata["repository"].value == folder
