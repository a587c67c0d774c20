"""A deployment in the state that docs/walk.md shows, made on an embedded AWS of its own: ``python -m tests.walk.deployment STEP FOLDER``.

The steps, in the order of the walk, each a few minutes on two cores: ``up`` (the embedded AWS, bucket and roles, Dagster's UI), ``deploy``
(version 1 of a small application), ``night`` (studies, one that version 1 fails on, and one upload that is none), ``mend`` (version 2 is
built), ``promote``, ``rollback`` and ``down``. Needs root, and the example's volume (``make demo`` has fetched it).

The application is the tests' tiny one, made to look like one of radiology: it outlines a head by a threshold that its model names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import nibabel
import numpy as np

from examples.brain_mri.fetch import fetch
from examples.brain_mri.study import write_study_zip
from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.demo.dagster_processes import DagsterProcesses
from monai_aws_pipeline.demo.steps import become_operator
from monai_aws_pipeline.local_cloud.commands import reset, up
from monai_aws_pipeline.local_cloud.config import CloudConfig, configure
from monai_aws_pipeline.operations.results_store import ResultsStore
from monai_aws_pipeline.operations.upload import upload_study, wait_answer
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings

PORT: Final = 4776
UI_PORT: Final = 3976
LINKS: Final = "http://127.0.0.1:3977"
SCALES: Final = (1.0, 0.97, 1.04, 0.94, 1.06, 0.99)
"""Of the head in each of the night's good studies."""
THICK: Final = "thick"
"""The study with slices of 3 mm, which version 1 does not take."""

_MASK: Final = "    mask = volume > volume.mean()\n"
_MASK_BY_MODEL: Final = """\
    (model,) = Path(os.environ["HOLOSCAN_MODEL_PATH"]).rglob("*.json")
    mask = volume > volume.mean() * json.loads(model.read_text())["threshold"]
"""
_REFUSAL: Final = """\
    if slices[0].SliceThickness > 2 * slices[0].PixelSpacing[0]:
        raise ValueError(f"slices of {slices[0].SliceThickness:g} mm, and pixels of {slices[0].PixelSpacing[0]:g} mm: too thick to outline")
"""
_MANIFEST: Final = """\
application:
  title: Head outline from T1-weighted MR
  version: {version}
  input-formats: ["DICOM"]
  output-formats: ["DICOM", "STL"]

resources: {{cpu: 1, gpu: 0, memory: 1Gi}}

monai-aws:
  volumes-ml: {{Head: {{min: 1500, max: 5000}}}}
"""


def application(folder: Path, version: str, *, takes_thick: bool) -> None:
    """Write a version of the application and commit it."""
    source = PROJECT_ROOT / "tests" / "apps" / "tiny"
    text = (source / "__main__.py").read_text().replace('"Bright"', '"Head"').replace("import ctypes\n", "import ctypes\nimport json\n")
    assert _MASK in text
    text = text.replace(_MASK, ("" if takes_thick else _REFUSAL) + _MASK_BY_MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__main__.py").write_text(text)
    for name in ("hostile.py", "requirements.txt"):
        shutil.copyfile(source / name, folder / name)
    (folder / "app.yaml").write_text(_MANIFEST.format(version=version))
    who = ("-c", "user.name=walk", "-c", "user.email=walk@example.org")
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-q", "--allow-empty", "-m", version]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def model(folder: Path, threshold: float) -> dict[str, str]:
    """Write a model, and the settings that name it."""
    path = folder / f"threshold-{threshold:g}.json"
    path.write_text(json.dumps({"threshold": threshold}))
    return {"MONAI_AWS_MODEL_URI": str(path), "MONAI_AWS_MODEL_SHA256": hashlib.sha256(path.read_bytes()).hexdigest()}


def studies(folder: Path) -> dict[str, Path]:
    """The night's studies by name: heads of several sizes, and one in slices of 3 mm."""
    source = nibabel.load(fetch(load_settings().cache_dir, say).volume)
    folder.mkdir(parents=True, exist_ok=True)
    made = {f"head-{number}": (1, scale) for number, scale in enumerate(SCALES, 1)} | {THICK: (3, 1.0)}
    for name, (step, scale) in made.items():
        affine = source.affine @ np.diag([1, 1, step, 1])
        affine[:3, :3] *= scale
        nibabel.save(nibabel.Nifti1Image(np.asarray(source.dataobj)[:, :, ::step], affine), folder / f"{name}.nii.gz")
        write_study_zip(folder / f"{name}.nii.gz", folder / f"{name}.zip", seed=f"walk {name}")
    return {name: folder / f"{name}.zip" for name in made}


class Walk:
    """The folder of one walk, and what runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.config: CloudConfig = configure(self.folder / "cloud", PORT)
        self.dagster = DagsterProcesses(self.folder / "dagster")
        self._variables = self.folder / "env.json"

    @property
    def variables(self) -> dict[str, str]:
        """What makes a process the operator of the deployment."""
        found: dict[str, str] = json.loads(self._variables.read_text())
        return found

    def up(self) -> None:
        """The embedded AWS, bucket and roles, Dagster."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cloud = up(self.config, say)
        operator = become_operator(cloud.environment, "walk", self.folder / "aws-config", say)
        application(self.folder / "app", "1.0.0", takes_thick=False)
        chosen = {
            **operator,
            **model(self.folder, 1.0),
            "DAGSTER_HOME": str(self.dagster.home),
            "PYTHONPATH": str(PROJECT_ROOT),
            "MONAI_AWS_APP_SOURCE": str(self.folder / "app"),
            "MONAI_AWS_IDLE_STOP_MINUTES": "0.5",
            "MONAI_AWS_WAKE_EVERY_MINUTES": "1",
            "MONAI_AWS_AMI_CHECK": "false",
            "MONAI_AWS_RESULTS_INTERVAL_S": "5",
            "MONAI_AWS_LINKS_URL": LINKS,
        }
        self._start(chosen)

    def _start(self, variables: Mapping[str, str]) -> None:
        self._variables.write_text(json.dumps(dict(variables)))
        say(self.dagster.start(variables, UI_PORT, say))

    def run(self, *arguments: str) -> None:
        """A program of ours, or a module, as the operator."""
        subprocess.run([sys.executable, *arguments], cwd=PROJECT_ROOT, env={**os.environ, **self.variables}, check=True)

    def job(self, name: str) -> None:
        """A job of Dagster in a process of its own."""
        self.run("-m", "dagster", "job", "execute", "-m", "monai_aws_pipeline.definitions", "-j", name)

    def command(self, *arguments: str) -> None:
        """``monai-aws``."""
        self.run("-c", "from monai_aws_pipeline.cli import main; main()", *arguments)

    def night(self) -> None:
        """Studies one after the other; their names are left in night.json."""
        os.environ.update(self.variables)
        settings = load_settings()
        clients = Clients(settings.region)
        store = ResultsStore(clients.s3, settings.bucket)
        clients.s3.put_object(Bucket=settings.bucket, Key="input/report.zip", Body=b"%PDF-1.7 a report that somebody named .zip")
        answered = {}
        for name, path in studies(self.folder / "studies").items():
            (record,) = wait_answer(store, upload_study(clients, settings.bucket, path, again=True).job, 600)
            answered[name] = record.study
            say(f"{name}: {record.study} {record.status}")
            time.sleep(5)  # so that the plots over time show one after the other
        (self.folder / "night.json").write_text(json.dumps(answered))

    def mend(self) -> None:
        """Version 2 with another model; the UI is started with the settings of it."""
        application(self.folder / "app", "1.1.0", takes_thick=True)
        self._start(self.variables | model(self.folder, 0.9))
        self.job("build_map")

    def promote(self) -> None:
        """By hand, from the command line."""
        self.command("promote", "--built", "--why", "takes slices of 3 mm")

    def rollback(self) -> None:
        """Likewise."""
        self.command("rollback", "--why", "outlines air around the head")

    def down(self) -> None:
        """End and remove all of it."""
        self.dagster.stop()
        reset(self.config, say)
        shutil.rmtree(self.folder)


def say(line: str) -> None:
    """Show progress."""
    sys.stderr.write(f"{line}\n")


def main(step: str, folder: str) -> None:
    """One step."""
    walk = Walk(Path(folder))
    steps = {
        "up": walk.up,
        "deploy": lambda: walk.job("deploy_all"),
        "night": walk.night,
        "mend": walk.mend,
        "promote": walk.promote,
        "rollback": walk.rollback,
        "down": walk.down,
    }
    steps[step]()


if __name__ == "__main__":
    main(*sys.argv[1:])
