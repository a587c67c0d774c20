"""What is sent to a host: all of the agent, the same bytes each time, and nothing it does not need."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from monai_aws_pipeline.deployment.host_files import agent_sources, write_bundle

ROOT = Path(__file__).resolve().parents[3]


def wheels(folder: Path) -> Path:
    folder.mkdir()
    (folder / "one-1-py3-none-any.whl").write_bytes(b"wheel")
    return folder


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            yield ".".join([*above, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_bundle_is_the_same_each_time_and_its_hash_covers_the_wheels(tmp_path: Path) -> None:
    found = wheels(tmp_path / "wheels")
    first = write_bundle(tmp_path / "a", found)
    assert write_bundle(tmp_path / "b", found) == first
    assert sorted(item.name for item in (tmp_path / "a").iterdir()) == [
        "agent.tar", "dead-man.sh", "gpu.sh", "monai-aws-agent.service", "monai-aws-dead-man.service", "monai-aws-dead-man.timer",
        "provision.sh", "wheels",
    ]  # fmt: skip
    (found / "two-1-py3-none-any.whl").write_bytes(b"another")
    assert write_bundle(tmp_path / "a", found) != first


def test_the_packagers_wheels_are_sent_to_the_machines_that_run_it_alone(tmp_path: Path) -> None:
    found, target = wheels(tmp_path / "wheels"), tmp_path / "a"
    without = write_bundle(target, found)
    assert write_bundle(target, found, wheels(tmp_path / "packager")) != without
    assert [item.name for item in (target / "sdk").iterdir()] == ["one-1-py3-none-any.whl"]
    assert write_bundle(target, found) == without
    assert not (target / "sdk").exists()


def test_the_agent_in_the_bundle_starts_without_the_rest_of_the_project(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", wheels(tmp_path / "wheels"))
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "bundle" / "agent.tar").read_bytes())) as archive:
        archive.extractall(tmp_path / "lib", filter="data")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "monai_aws_pipeline.host_agent", "--help"],
        env={"PYTHONPATH": str(tmp_path / "lib")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "prepare" in done.stdout


def test_the_agent_imports_nothing_that_a_host_does_not_have() -> None:
    allowed = sys.stdlib_module_names | {"boto3", "botocore", "s3transfer", "pydicom", "numpy", "PIL"}
    ours = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in agent_sources()}
    for path in agent_sources():
        for name in imported(path):
            fine = name.partition(".")[0] in allowed or name in ours or name.startswith("mypy_boto3_")
            assert fine, f"{path.name} imports {name}"


def test_the_hosts_requirements_are_the_projects_host_extra() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["host"]
    lines = (ROOT / "infra/host/requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted


def test_the_provisioning_script_is_valid_bash() -> None:
    for script in ("provision.sh", "gpu.sh", "dead-man.sh"):
        subprocess.run(["bash", "-n", ROOT / "infra/host" / script], check=True)
