"""The embedded AWS is ended whole, also when its start was killed before its parts answered. Sleeping processes stand for the parts."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from monai_aws_pipeline.local_cloud import engine, registry
from monai_aws_pipeline.local_cloud.commands import down, server_daemon
from monai_aws_pipeline.local_cloud.config import configure
from tests.support.processes import wait_ended

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="an embedded AWS needs Linux and root")


def test_an_engine_that_does_not_answer_yet_keeps_nothing_from_being_ended(tmp_path: Path):
    config = configure(tmp_path / "state")
    config.state_dir.mkdir()
    (config.state_dir / "engine.json").write_text(json.dumps(asdict(engine.private_engine(config))))
    daemons = (server_daemon(config), registry.registry_daemon(config), engine.engine_daemon(config))
    pids = [daemon.start(["sleep", "infinity"], os.environ) for daemon in daemons]
    try:
        down(config)
        for pid in pids:
            wait_ended(pid)
    finally:
        for daemon in daemons:
            daemon.stop()
    assert not config.run_dir.exists()
    assert not list(config.state_dir.glob("*.pid"))
