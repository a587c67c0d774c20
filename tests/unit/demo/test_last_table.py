"""The demo's last table leads a browser to the portal and to the study's answer."""

from __future__ import annotations

from monai_aws_pipeline.demo.steps import _rows, study_links
from tests.unit.studies.records import job_of, study_of, succeeded

PORTAL = "http://127.0.0.1:3071"
SUMMARY = {
    "study": study_of(1),
    "map_digest": "sha256:d",
    "image_bytes": 1,
    "model_sha256": "m",
    "commit": "c",
    "host": {"instance_id": "i-1", "type": "t", "ami": "ami-1"},
    "seconds": {"total": 1.0},
    "cost_usd": 0.1,
    "cost_basis": "on-demand",
    "brain_volume_ml": 1.0,
    "reference_volume_ml": 1.0,
    "dice": 1.0,
    "instances_left": {},
    "archived": {"kind": "healthimaging", "instances": 182, "seconds": 3.0},
    "seconds_total": 1.0,
    "peak_memory_bytes": 1,
}


def test_the_table_has_the_portal_where_it_runs_and_a_link_for_the_study():
    rows = dict(_rows({**SUMMARY, "portal": PORTAL, "study_links": study_links(PORTAL, succeeded(1))}))
    assert rows["portal"].startswith(f"{PORTAL}/ ")
    assert rows["its answer"] == f"{PORTAL}/studies/{study_of(1)}/{job_of(1)}/"
    assert rows["the viewer"] == f"{PORTAL}/viewer/{study_of(1)}/{job_of(1)}/"
    assert rows["in 3D"] == f"{PORTAL}/3d/{study_of(1)}/{job_of(1)}/"
    assert rows["archive"].startswith("182 instances")


def test_without_a_portal_there_is_no_link_and_the_table_says_why():
    rows = dict(_rows({**SUMMARY, "portal": "", "study_links": study_links("", succeeded(1))}))
    assert "MONAI_AWS_LINKS_URL" in rows["portal"]
    assert "its answer" not in rows
