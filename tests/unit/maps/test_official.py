"""The official packager runs for real; only ``docker`` is replaced, by a program that writes down how it was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_aws_pipeline.maps import official
from monai_aws_pipeline.maps.build_context import BuildContext, write_context
from monai_aws_pipeline.maps.manifest import parse_app_manifest, parse_package_manifest
from monai_aws_pipeline.maps.official import OfficialPackagerError, tag_in
from monai_aws_pipeline.maps.source import checkout

BASE = "nvidia/cuda:13.0.0-runtime-ubuntu24.04"
DOCKER = """\
#!{python}
import json, os, shutil, sys
folder, arguments = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]
with open(f"{{folder}}/calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if arguments[:2] == ["image", "inspect"]:
    print("[{{}}]")
elif arguments[:2] == ["buildx", "create"]:
    open(f"{{folder}}/builder", "w").close()
    print("holoscan_app_builder")
elif arguments[:2] == ["buildx", "ls"] and os.path.exists(f"{{folder}}/builder"):
    print(json.dumps({{"Name": "holoscan_app_builder", "Driver": "docker-container"}}))
elif arguments[:2] == ["buildx", "inspect"]:
    print("Name:   holoscan_app_builder\\nDriver: docker-container\\n\\nNodes:\\nName:      holoscan_app_builder0\\n"
          "Endpoint:  unix:///var/run/docker.sock\\nStatus:    running\\nPlatforms: linux/amd64")
elif arguments[:2] == ["buildx", "build"]:
    shutil.copytree(arguments[-1], f"{{folder}}/context")
"""


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildContext, list[list[str]], str]:
    """The folder, the plan, docker's calls and the packager's output, of one run of the real command."""
    place = tmp_path_factory.mktemp("official")
    source = checkout("examples/brain_mri/app", "HEAD", ".", place / "source")
    model = place / "net.ts"
    model.write_bytes(b"weights")
    context = write_context(source, place / "plan", base_image=BASE, model_file=model, model_sha256="0" * 64)
    folder = place / "folder"
    official.write_folder(context, source, folder, base_image=BASE, model_file=model)
    programs = place / "bin"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER.format(python=sys.executable))
    (programs / "docker").chmod(0o755)
    _, *arguments = official.package_command(str(folder), context, name="monai-aws/map", base_image=BASE, timeout_s=600, has_model=True)
    here = Path(sys.executable).parent  # this project's environment holds the packager as the machine's does
    variables = {**os.environ, "PATH": f"{programs}:{here}:{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run([here / Path(official.PROGRAM).name, *arguments], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = [json.loads(line) for line in (programs / "calls").read_text().splitlines()]
    return folder, context, calls, done.stdout


def test_docker_is_called_exactly_so(packaged: tuple[Path, BuildContext, list[list[str]], str]):
    folder, context, calls, _ = packaged
    (build,) = [call for call in calls if call[:2] == ["buildx", "build"]]
    scratch = build[-1]
    tag = f"monai-aws-map-x64-workstation-dgpu-linux-amd64:{context.tag}"
    assert build[2:-1] == [
        *("--build-arg", "UID=1000", "--build-arg", "GID=1000", "--build-arg", "UNAME=holoscan", "--build-arg", "GPU_TYPE=dgpu"),
        *("--builder", "holoscan_app_builder", "--pull", "--load", "--file", f"{scratch}/Dockerfile"),
        *("--cache-from", f"type=local,src={folder}/cache", "--cache-from", f"type=registry,ref={BASE}"),
        *("--cache-to", f"type=local,dest={folder}/cache", "--platform", "linux/amd64", "--tag", tag),
    ]
    assert {call[0] for call in calls} == {"image", "buildx"}


def test_the_tag_is_read_from_the_packagers_answer(packaged: tuple[Path, BuildContext, list[list[str]], str]):
    _, context, _, output = packaged
    assert tag_in(output.splitlines()) == f"monai-aws-map-x64-workstation-dgpu-linux-amd64:{context.tag}"


def test_the_context_is_a_map_of_the_application(packaged: tuple[Path, BuildContext, list[list[str]], str]):
    folder, context, _, _ = packaged
    rendered = next(path for path in (folder.parent / "bin").iterdir() if path.name == "context")
    manifest = parse_app_manifest((rendered / "map" / "app.json").read_text())
    ours = parse_app_manifest(context.app_json)
    assert (manifest.run.command, manifest.run.timeout_s, manifest.sdk) == (ours.run.command, 600, "monai-deploy")
    assert parse_package_manifest((rendered / "map" / "pkg.json").read_text()).models == {"net": "/opt/holoscan/models/net"}
    assert (rendered / "models" / "net" / "net.ts").read_bytes() == b"weights"
    dockerfile = (rendered / "Dockerfile").read_text()
    assert f"FROM {BASE}" in dockerfile


@pytest.mark.parametrize(
    "lines", [[], ["Status: Failure"], ["    Docker Tag: N/A"], ["    Docker Tag: a:1", "    Docker Tag: b:1"], ["Docker Tag: $(id):1"]]
)
def test_an_answer_without_one_image_is_an_error(lines: list[str]):
    with pytest.raises(OfficialPackagerError, match="holoscan-cli"):
        tag_in(lines)
