"""Keys; the connection itself is tested against real machines in tests/integration, redaction in test_redaction.py."""

from monai_aws_pipeline.remote import KeyPair


def test_each_key_pair_is_new_and_its_private_half_is_not_shown():
    first, second = KeyPair.fresh(), KeyPair.fresh()
    assert first.public != second.public
    assert first.private not in repr(first)
    assert "PRIVATE" not in repr(first)
