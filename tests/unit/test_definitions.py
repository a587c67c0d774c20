"""What Dagster loads: the graph as it is pinned, loaded without any network, the same through both doors.

When the graph is meant to change: UPDATE_SNAPSHOTS=1 make test TESTS=tests/unit/test_definitions.py, and look at the difference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).parent / "snapshots" / "graph.json"

LOAD_WITHOUT_NETWORK = """
import socket

def refuse(*_, **__):
    raise AssertionError("something reached for the network while definitions were loaded")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from monai_aws_pipeline.definitions import defs
repository = defs.get_repository_def()
print("loaded", len(repository.asset_graph.get_all_asset_keys()))
"""


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    from monai_aws_pipeline.definitions import build_defs  # settings are read when it is imported

    repository = build_defs().get_repository_def()
    assets = repository.asset_graph
    return {
        "assets": {
            key.to_user_string(): {
                "deps": sorted(parent.to_user_string() for parent in assets.get(key).parent_keys),
                "group": assets.get(key).group_name,
                "partitions": getattr(assets.get(key).partitions_def, "name", None),
                "executable": assets.get(key).is_executable,
            }
            for key in sorted(assets.get_all_asset_keys())
        },
        "checks": sorted(key.to_user_string() for key in assets.asset_check_keys),
        "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    }


def test_the_graph_is_the_one_that_was_agreed(graph: dict[str, Any]):
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(graph, indent=2, sort_keys=True) + "\n")
    assert graph == json.loads(SNAPSHOT.read_text())


def test_the_way_from_the_source_to_a_result_is_unbroken(graph: dict[str, Any]):
    machines = ["gpu_ami", "map_image", "inference_host", "s3_trigger", "inference_result"]
    model = ["map_source", "map_image", "live_map", "inference_result"]
    assert graph["assets"]["gpu_ami"]["deps"] == [], "no application decides what a machine image holds"
    missing = [f"{a} → {b}" for chain in (machines, model) for a, b in pairwise(chain) if a not in graph["assets"][b]["deps"]]
    assert not missing


def test_loading_touches_no_network():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MONAI_AWS_"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_NETWORK], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("loaded")


def test_dg_and_workspace_open_the_same_door():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    (location,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"]["module_name"] == project["code_location_target_module"] == "monai_aws_pipeline.definitions"


def test_dg_lists_what_the_code_defines(graph: dict[str, Any]):
    dg = Path(sys.executable).with_name("dg")
    done = subprocess.run([dg, "list", "defs", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    listed = {asset["asset_key"] for asset in json.loads(done.stdout)["assets"]}
    assert listed == set(graph["assets"])
