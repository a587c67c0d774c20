"""Clients of a deployment: which of them are made before threads use them."""

from __future__ import annotations

import pytest

from monai_aws_pipeline.cloud.session import Clients


@pytest.mark.parametrize("imaging", [True, False])
def test_all_clients_are_made_at_once_and_that_of_an_archive_only_where_there_is_one(imaging: bool):
    clients = Clients("us-east-1")
    clients.make_all(imaging=imaging)
    assert {"s3", "sqs", "secrets"} <= set(vars(clients))
    assert ("imaging" in vars(clients)) is imaging
