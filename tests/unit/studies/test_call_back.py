"""``call_back_studies``: what has left the window is a partition again, and nothing else becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult
from dagster_aws.s3 import S3Resource

from monai_aws_pipeline.resources import SettingsResource
from monai_aws_pipeline.studies.call_back import call_back_studies
from tests.unit.studies.records import Bucket, refused, study_of, succeeded
from tests.unit.studies.test_rerun_job import failure, rows, shown
from tests.unit.studies.test_study_window import TODAY, TOMORROW, Site, studies

OP = "add_partitions_again"


@pytest.fixture
def site(instance: DagsterInstance, bucket: Bucket) -> Site:
    """Studies 1 to 3 have left: the first two were answered, the third was refused. The fourth is in the window."""
    site = Site(instance, bucket)
    site.ends(succeeded(1), succeeded(2), refused(3, study=study_of(3)), succeeded(4))
    site.step(size=1)
    site.step(size=1)
    assert site.partitions == studies(4)
    return site


def run(site: Site, which: Mapping[str, Any], **config: Any) -> ExecuteInProcessResult:
    return call_back_studies.execute_in_process(
        instance=site.instance,
        run_config={"ops": {OP: {"config": {"which": which, **config}}}},
        resources={"s3": S3Resource(region_name="us-east-1"), "settings": SettingsResource(overrides={"bucket": site.bucket.name})},
        raise_on_error=False,
    )


def test_these_come_back_as_the_newest_and_leave_again_by_the_same_rule(site: Site):
    done = run(site, {"these": {"studies": studies(3, 1)}})
    assert site.partitions == studies(4, 3, 1)
    assert [(row["study"], row["partition"]) for row in rows(done, "studies")] == [(study_of(3), "is back"), (study_of(1), "is back")]
    assert rows(done, "studies")[0]["last end"] == "NOT_A_ZIP at 2026-03-14 12:30 UTC"
    assert shown(done)["called_back"].value == 2
    site.step(size=2, now=TOMORROW)
    assert site.partitions == studies(3, 1)
    site.ends(succeeded(5, TOMORROW), now=TOMORROW)
    site.step(size=2, now=TOMORROW)
    assert site.partitions == studies(1, 5)


def test_all_of_a_day_come_back(site: Site):
    done = run(site, {"of_day": {"day": TODAY.isoformat()}})
    assert sorted(site.partitions) == sorted(studies(1, 2, 3, 4))
    assert {row["study"]: row["partition"] for row in rows(done, "studies")}[study_of(4)] == "is there already"


def test_a_dry_run_lists_them_and_changes_nothing(site: Site):
    done = run(site, {"these": {"studies": studies(1, 4)}}, dry_run=True)
    assert site.partitions == studies(4)
    assert [row["partition"] for row in rows(done, "studies")] == ["is to come back", "is there already"]
    assert shown(done)["called_back"].value == 0


def test_of_what_nothing_is_recorded_becomes_no_partition(site: Site):
    done = run(site, {"these": {"studies": ["0123456789abcdef"]}})
    assert site.partitions == studies(4)
    assert rows(done, "studies")[0]["partition"] == "unknown"


@pytest.mark.parametrize(
    ("which", "config", "said"),
    [
        ({"these": {"studies": ["Doe^Jane"]}}, {}, "names are no studies"),
        ({"of_day": {"day": "yesterday"}}, {}, "'day' is no date"),
        ({"of_day": {"day": "2026-03-13"}}, {}, "Materialise that day"),
        ({"of_day": {"day": TODAY.isoformat()}}, {"at_most": 3}, "More than 3 studies"),
    ],
    ids=["no study", "no date", "no table", "too many"],
)
def test_what_cannot_be_called_back_is_refused_by_name(site: Site, which: Mapping[str, Any], config: Mapping[str, Any], said: str):
    error = failure(run(site, which, **config))
    assert said in error.description
    assert "Doe" not in error.description
    assert site.partitions == studies(4)


def test_a_called_back_study_that_ended_again_stays_until_a_table_names_it(site: Site):
    run(site, {"these": {"studies": studies(1)}})
    site.ends(refused(11, TOMORROW, study=study_of(1)), now=TOMORROW)
    assert site.step(size=0, now=TOMORROW).leaving == tuple(studies(4))
    assert site.partitions == studies(1)
