"""Every run config that a page, a table or a check gives is whole: pasted into the launchpad as it stands, its job takes it."""

from __future__ import annotations

import re
import textwrap
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from dagster import JobDefinition, config_from_yaml_strings, validate_run_config

from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.studies.launchpad import rerun_link
from monai_aws_pipeline.studies.rerun_job import rerun_studies

PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").glob("*.md"), *(PROJECT_ROOT / "examples").rglob("*.md")])
_BLOCK = re.compile(r"^( +)ops:.*\n(?:\1 +.*\n)*", re.MULTILINE)
CONFIGS = [
    pytest.param(textwrap.dedent(block[0]), id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(_BLOCK.finditer(page.read_text()))
]


def jobs_of(config: dict[str, Any]) -> list[JobDefinition]:
    """The jobs that have every op which a config speaks of."""
    jobs = build_defs().get_repository_def().get_all_jobs()
    return [job for job in jobs if {node.name for node in job.nodes} >= config["ops"].keys()]


def test_the_pages_give_some():
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("text", CONFIGS)
def test_a_config_of_a_page_is_taken_by_a_job(text: str):
    config = config_from_yaml_strings([text])
    jobs = jobs_of(config)
    assert jobs
    for job in jobs:
        validate_run_config(job, config)


@pytest.mark.parametrize("which", [{"stale": {}}, {"failed": {"since": "2026-11-27", "code": "MAP_FAILED"}}])
def test_the_config_behind_a_link_of_a_table_is_taken_by_its_job(which: dict[str, Any]):
    address = rerun_link("words", which, dry_run=True).removeprefix("[words](").removesuffix(")")
    config = config_from_yaml_strings(parse_qs(urlsplit(address).query)["config"])
    taken = validate_run_config(rerun_studies, config)["ops"]["answer_studies_again"]["config"]
    assert (set(taken["which"]), taken["dry_run"]) == (set(which), True)
