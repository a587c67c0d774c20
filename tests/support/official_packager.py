"""The official packager, run for real with a ``docker`` that only writes down how it was called and keeps the folder it was to build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from monai_aws_pipeline.maps import monai_deploy
from monai_aws_pipeline.maps.build_context import BuildContext, write_context
from monai_aws_pipeline.maps.golden import Golden
from monai_aws_pipeline.maps.models import Model
from monai_aws_pipeline.maps.source import checkout

_DOCKER = """\
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


@dataclass(frozen=True)
class Packaged:
    """What came of one run: the folder it read, our plan, docker's calls, its output, and the folder that docker was to build."""

    folder: Path
    plan: BuildContext
    calls: list[list[str]]
    output: str
    rendered: Path


def package(place: Path, application: str, base: str, model: Path | None = None, golden: Golden | None = None) -> Packaged:
    """Run ``monai-deploy package`` on an application, in an empty folder."""
    source = checkout(application, "HEAD", ".", place / "source")
    models = (Model(model.stem, model, "0" * 64),) if model else ()
    plan = write_context(source, place / "plan", base_image=base, models=models, golden=golden)
    folder = place / "folder"
    monai_deploy.write_folder(plan, source, folder, base_image=base)
    programs = place / "bin"
    programs.mkdir()
    (programs / "docker").write_text(_DOCKER.format(python=sys.executable))
    (programs / "docker").chmod(0o755)
    _, *arguments = monai_deploy.package_command(
        str(folder), plan, name="monai-aws/map", base_image=base, timeout_s=600, has_model=model is not None
    )
    here = Path(sys.executable).parent  # this project's environment holds the packager as the machine's does
    variables = {**os.environ, "PATH": f"{programs}:{here}:{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run([here / Path(monai_deploy.PROGRAM).name, *arguments], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = [json.loads(line) for line in (programs / "calls").read_text().splitlines()]
    return Packaged(folder, plan, calls, done.stdout, programs / "context")
