"""The agent's command line: what may not reach its log, whoever says it."""

from __future__ import annotations

import logging

import pytest

from monai_aws_pipeline.host_agent import __main__ as agent_main


@pytest.mark.parametrize("library", ["botocore.httpsession", "s3transfer.tasks", "urllib3.connectionpool"])
def test_no_library_quotes_an_address_in_a_warning(library: str, caplog: pytest.LogCaptureFixture) -> None:
    agent_main.main(["at-work"])
    logging.getLogger(library).warning("Failed to parse headers (url=%s)", "https://bucket/input/Erika Mustermann.zip")
    assert "Mustermann" not in caplog.text
