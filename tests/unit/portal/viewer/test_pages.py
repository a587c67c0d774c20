"""The viewers' pages: reached by pseudonym and job, with no identifier in any address, and as strict a policy as each can run with."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from monai_aws_pipeline.portal.viewer.packages import NIIVUE, OHIF, PackageFiles
from monai_aws_pipeline.portal.viewer.veil import study_uid_of
from tests.support.viewed_study import NAMED, ViewedStudy, answered
from tests.unit.portal.viewer.conftest import Looking
from tests.unit.studies.records import Bucket, job_of, refused, study_of, succeeded

S, J = study_of(1), job_of(1)


@pytest.fixture
def study(bucket: Bucket) -> ViewedStudy:
    return answered(bucket)


@pytest.fixture
def looking(looking: Looking) -> Looking:
    """With files in place of the viewers' own."""
    for package, name in ((OHIF, "app.bundle.1.js"), (NIIVUE, "index.js")):
        folder = looking.kept.parent / package.archive
        folder.mkdir()
        (folder / name).write_text("//")
        looking.packages._ready[package.address] = PackageFiles(folder)
    return looking


def test_the_viewer_opens_by_pseudonym_with_the_segmentation_laid_over(looking: Looking, study: ViewedStudy):
    opened = looking.browser.get(f"/viewer/{S}/{J}/")
    address = urlsplit(opened.headers["location"])
    assert opened.status_code == 302
    assert address.path == f"/viewer/{S}/{J}/viewer"
    assert parse_qs(address.query) == {"StudyInstanceUIDs": [study_uid_of(S)], "hangingprotocolid": ["@ohif/seg"]}
    page = looking.browser.get(opened.headers["location"])
    assert page.status_code == 200
    assert 'data-bundle="app.bundle.1.js"' in page.text
    for value in (*NAMED, *study.uids):
        assert value not in opened.headers["location"] + page.text


def test_an_answer_without_a_segmentation_opens_with_its_images(looking: Looking, study: ViewedStudy, bucket: Bucket):
    answer = succeeded(7, outputs=())
    bucket.commit(answer)
    upload = bucket.s3.get_object(Bucket=bucket.name, Key=f"processed/{S}/{J}/upload.zip")["Body"].read()
    bucket.put(f"processed/{answer.study}/{answer.job}/upload.zip", upload)
    assert "hangingprotocolid" not in looking.browser.get(f"/viewer/{answer.study}/{answer.job}/").headers["location"]


def test_a_study_alone_leads_to_its_newest_answer(looking: Looking, study: ViewedStudy):
    for page in ("viewer", "3d"):
        answer = looking.browser.get(f"/{page}/{S}/")
        assert (answer.status_code, answer.headers["location"]) == (302, f"/{page}/{S}/{J}/")
        assert looking.browser.get(f"/{page}/{study_of(9)}/").status_code == 404


def test_pages_run_nothing_inline_and_load_nothing_from_elsewhere(looking: Looking, study: ViewedStudy):
    for page in (f"/viewer/{S}/{J}/viewer", f"/3d/{S}/{J}/"):
        answer = looking.browser.get(page)
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert "'unsafe-inline'" not in policy["script-src"]
        assert policy["connect-src"] == "'self'"
        assert not [value for value in policy.values() if "http" in value or "*" in value or "blob" in value]
        assert answer.headers["x-frame-options"] == "DENY"
    assert "unsafe" not in looking.browser.get(f"/3d/{S}/{J}/").headers["content-security-policy"]
    assert "unsafe" not in looking.browser.get("/").headers["content-security-policy"], "and no other page is loosened"


def test_what_cannot_be_shown_says_why_as_a_page(looking: Looking, study: ViewedStudy, bucket: Bucket):
    bucket.commit(refused(3, study=study_of(3)))
    answer = looking.browser.get(f"/viewer/{study_of(3)}/{job_of(3)}/")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "was not answered" in answer.text
    spanish = looking.browser.get(f"/viewer/{study_of(3)}/{job_of(3)}/", headers={"accept-language": "es"})
    assert (spanish.status_code, "no tiene respuesta" in spanish.text, "No se muestra" in spanish.text) == (404, True, True)
    part = looking.browser.get(f"/3d/{S}/{J}/mask-9.nii.gz", headers={"accept-language": "es"})
    assert (part.status_code, part.json()) == (404, {"error": "Esta respuesta no tiene esa parte."}), "which the 3D page shows"
    for page in ("viewer", "3d"):
        for path in (f"/{page}/{S}/{job_of(9)}/", f"/{page}/x/{J}/", f"/{page}/{S}/..%2f/", f"/{page}/"):
            assert looking.browser.get(path).status_code == 404


def test_until_a_viewer_is_there_its_page_says_so_and_looks_again(looking: Looking, study: ViewedStudy, monkeypatch: pytest.MonkeyPatch):
    looking.packages._ready.clear()
    monkeypatch.setattr(looking.packages, "_fetch", lambda _: None)
    for page in (f"/viewer/{S}/{J}/viewer", f"/3d/{S}/{J}/"):
        answer = looking.browser.get(page)
        assert (answer.status_code, "being fetched" in answer.text, answer.headers["refresh"]) == (503, True, "3")
        assert "Se está descargando" in looking.browser.get(page, headers={"accept-language": "es"}).text
