"""Every run config that a page, a table or a check gives is whole: pasted into the launchpad as it stands, its job takes it."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest
from dagster import JobDefinition, config_from_yaml_strings, validate_run_config

from monai_aws_pipeline.definitions import build_defs
from monai_aws_pipeline.settings import PROJECT_ROOT
from monai_aws_pipeline.studies.check_window import CheckWindow, RecordedResult, finding
from monai_aws_pipeline.studies.rerun_job import rerun_studies
from monai_aws_pipeline.studies.result_checks import BY_LIVE_MAP
from monai_aws_pipeline.studies.studies_by_map import counts_metadata
from tests.unit.studies.records import DIGEST, NOON, OTHER_DIGEST, job_of, study_of

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
    assert len(CONFIGS) >= 5


@pytest.mark.parametrize("text", CONFIGS)
def test_a_config_of_a_page_is_taken_by_a_job(text: str):
    config = config_from_yaml_strings([text])
    jobs = jobs_of(config)
    assert jobs
    for job in jobs:
        validate_run_config(job, config)


def stale_by_the_table() -> str:
    return str(counts_metadata({OTHER_DIGEST: 1}, DIGEST, 1, complete=True)["what_to_do"].value)


def stale_by_the_check() -> str:
    result = RecordedResult(1, NOON.isoformat(), study_of(1), job_of(1), True, OTHER_DIGEST, ())
    return finding(BY_LIVE_MAP, CheckWindow().fold(BY_LIVE_MAP, [result], NOON), DIGEST).next


@pytest.mark.parametrize("said", [stale_by_the_table, stale_by_the_check])
def test_what_is_to_be_done_about_stale_studies_can_be_pasted(said: Any):
    config = config_from_yaml_strings([said().partition("launchpad: ")[2]])
    assert validate_run_config(rerun_studies, config)["ops"]["answer_studies_again"]["config"]["which"] == {"stale": {}}
