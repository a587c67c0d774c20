"""Redaction and keys; the connection itself is tested against real machines in tests/integration."""

import pytest

from monai_aws_pipeline.remote import KeyPair, Redactor


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "password=hunter22secret",
        "aws_secret_access_key = wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "Authorization: Bearer abcdefghijklmnop",
        "https://user:pass1234@host.example/repo.git",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "planted-secret-value",
    ],
)
def test_a_secret_in_a_line_of_output_is_redacted(secret):
    line = Redactor(["planted-secret-value"])(f"before {secret} after")
    value = secret.rpartition("=")[2].rpartition(" ")[2] if "://" not in secret else "pass1234"
    assert value.strip() not in line
    assert "before" in line
    assert "after" in line


def test_ordinary_build_output_is_left_as_it_is():
    line = "#7 12.34 Processing ./wheels/torch-2.13.0-cp311-cp311-linux_x86_64.whl (token embeddings 512)"
    assert Redactor()(line) == line


def test_each_key_pair_is_new_and_its_private_half_is_not_shown():
    first, second = KeyPair.fresh(), KeyPair.fresh()
    assert first.public != second.public
    assert first.private not in repr(first)
    assert "PRIVATE" not in repr(first)
