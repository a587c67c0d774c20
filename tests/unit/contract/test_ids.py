"""Names that others made, told from other texts, and digests that a person is shown."""

import pytest

from monai_aws_pipeline.contract import digest_in, is_digest, is_job, is_sha256, is_study, job_id, sha256_text, short_digest, study_id

STUDY, JOB, SHA256 = study_id(b"secret", "1.2.3"), job_id("bucket", "input/a.zip", "1"), sha256_text("input/a.zip")
DIGEST = f"sha256:{SHA256}"


def test_what_we_name_is_known_by_its_shape():
    assert is_study(STUDY) and is_job(JOB) and is_sha256(SHA256) and is_digest(DIGEST)


@pytest.mark.parametrize("known", [is_study, is_job, is_sha256, is_digest])
@pytest.mark.parametrize("change", [lambda name: name + "\n", lambda name: name[:-1], lambda name: name + "0", str.upper, lambda _: ""])
def test_nothing_else_is(known, change):
    for name in (STUDY, JOB, SHA256, DIGEST):
        assert not known(change(name)), "Doe^Jane may stand where a name of ours is asked for"


def test_a_digest_is_found_in_an_image_s_address():
    assert digest_in(f"1.dkr.ecr.eu-central-1.amazonaws.com/map@{DIGEST}") == DIGEST
    assert digest_in("1.dkr.ecr.eu-central-1.amazonaws.com/map:1.0.0") == digest_in("") == ""


def test_a_person_is_shown_the_digits_that_the_command_line_takes():
    assert short_digest(DIGEST) == short_digest(SHA256) == SHA256[:12]
    assert short_digest("") == ""
