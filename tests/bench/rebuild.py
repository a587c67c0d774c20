"""A full build of the example against a rebuild after a change of its model or its application, and against a plain Dockerfile.

Each build is the product's own, on a build machine that was launched for it; seconds are those of the machine's whole life and of what
was prepared for it. Bytes are counted by the registry. Takes about a quarter of an hour.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.brain_mri.fetch import fetch
from monai_aws_pipeline.cloud.registry import Registry
from monai_aws_pipeline.contract import ROLE_MAP_BUILD
from monai_aws_pipeline.deployment import packaging
from monai_aws_pipeline.deployment.build_machine import build_machine
from monai_aws_pipeline.deployment.lineage import materialized_version
from monai_aws_pipeline.local_cloud.commands import up
from monai_aws_pipeline.maps import wheelhouse
from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings
from tests.support.cloud import own_cloud
from tests.support.platform import Platform, environment, platform

APP: Final = PROJECT_ROOT / "examples" / "brain_mri" / "app"
PLAIN: Final = """\
FROM {base}
COPY app /opt/app
COPY model /opt/model
RUN --mount=type=bind,source=wheels,target=/wheels python3 -m venv /opt/venv \\
 && /opt/venv/bin/pip install -q --no-index --find-links /wheels -r /opt/app/requirements.txt -c /opt/app/constraints.txt \\
 && /opt/venv/bin/python -c 'import sys'
ENTRYPOINT ["/opt/venv/bin/python", "/opt/app"]
"""
"""What one would write without more thought. The wheels are mounted, not copied, so that the comparison is in its favour."""


@dataclass(frozen=True)
class _Build:
    """One build. ``phases``: seconds of its parts."""

    seconds: float
    bytes_pushed: int
    changed_bytes: int
    layers: tuple[str, ...] = ()
    phases: tuple[tuple[str, float], ...] = ()

    def figures(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "bytes_pushed": self.bytes_pushed,
            "changed_bytes": self.changed_bytes,
            **({"phases": dict(self.phases)} if self.phases else {}),
        }


def measure() -> dict[str, Any]:
    """All builds, one after the other, on one embedded AWS."""
    files = fetch(load_settings().cache_dir, lambda _: None)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch_name, own_cloud("bench-rebuild") as config:
        scratch = Path(scratch_name)
        app = _own_copy(scratch)
        variables = {
            "MONAI_AWS_APP_SOURCE": str(app),
            "MONAI_AWS_MODEL_URI": str(files.model),
            "MONAI_AWS_MODEL_SHA256": files.model_sha256,
        }
        with platform(up(config), "bench", scratch, **variables) as place:
            place.materialize("gpu_ami")
            return _measure(place, app, files.model, scratch)


def _measure(place: Platform, app: Path, model: Path, scratch: Path) -> dict[str, Any]:
    # Gathered beforehand: how fast a package index answers is not our subject.
    wheels = wheelhouse.collect(app / "requirements.txt", place.settings.cache_dir, place.settings.map_python, place.log.append)
    everything = _bytes(app) + model.stat().st_size + _bytes(wheels)
    full = _ours(place, everything)

    other_model = _changed_model(model, scratch / "changed" / model.name)
    digest = hashlib.sha256(other_model.read_bytes()).hexdigest()
    model_only = _ours(place.changed(MONAI_AWS_MODEL_URI=str(other_model), MONAI_AWS_MODEL_SHA256=digest), other_model.stat().st_size)
    changed_file = app / "application.py"
    before = changed_file.read_text()
    changed_file.write_text(f"{before}\n# changed\n")
    app_only = _ours(place, changed_file.stat().st_size)
    plain_after_change = _plain(place, app, model, wheels, changed_file.stat().st_size)

    changed_file.write_text(before)
    _forget_images(place)
    again = _ours(place, everything)
    return {
        "full": full.figures(),
        "model_only": model_only.figures(),
        "app_only": app_only.figures(),
        "plain_dockerfile": plain_after_change.figures(),
        "full_again": again.figures(),
        "same_layers": full.layers == again.layers and bool(full.layers),
    }


def _ours(place: Platform, changed_bytes: int) -> _Build:
    """One run of map_image, from the decision to build until the machine is gone."""
    before = place.cloud.received_bytes(place.settings.ecr_repository)
    began = time.monotonic()
    result = place.materialize("map_image")
    seconds = time.monotonic() - began
    metadata = {name: value.value for name, value in result.asset_materializations_for_node("map_image")[0].metadata.items()}
    assert metadata["reused"] is False, "nothing was built"
    with environment(place.variables):
        parts = Registry(place.clients.ecr, place.settings.ecr_repository).parts(str(metadata["digest"]))
    return _Build(
        seconds,
        place.cloud.received_bytes(place.settings.ecr_repository) - before,
        changed_bytes,
        tuple(layer.digest for layer in parts.layers),
        tuple((name.removeprefix("seconds_"), value) for name, value in metadata.items() if name.startswith("seconds_")),
    )


def _plain(place: Platform, app: Path, model: Path, wheels: Path, changed_bytes: int) -> _Build:
    """The same application by a plain Dockerfile, on a machine and with a push like ours."""
    before = place.cloud.received_bytes(place.settings.ecr_repository)
    began = time.monotonic()
    settings, report = place.settings, place.log.append
    with tempfile.TemporaryDirectory(prefix="plain-", dir=settings.cache_dir) as folder_name, environment(place.variables):
        folder = Path(folder_name)
        shutil.copytree(app, folder / "app")
        (folder / "model").mkdir()
        shutil.copyfile(model, folder / "model" / model.name)
        shutil.copytree(wheels, folder / "wheels", copy_function=os.link)  # beside the cache, so that nothing is copied
        (folder / "Dockerfile").write_text(PLAIN.format(base=settings.base_image))
        repository = Registry(place.clients.ecr, settings.ecr_repository).ensure(settings.deployment, settings.owner)
        image = materialized_version(place.instance, "gpu_ami")
        with build_machine(place.clients, settings, role=ROLE_MAP_BUILD, image=image, run_id="bench", report=report) as built:
            built.remote.send_folder(folder, packaging.CONTEXT_FOLDER, report, what="Sending")
            build_host = packaging.BuildHost(built.remote, repository, settings.region, 3600, report)
            packaging.log_in(build_host)
            reference = f"{repository}:plain-{time.time_ns():x}"
            command = f"sudo env DOCKER_BUILDKIT=1 DOCKER_CONFIG={packaging.DOCKER_CONFIG} docker build --network none --tag {reference} ."
            built.remote.run(f"cd {packaging.CONTEXT_FOLDER} && {command}", report, what="Building")
            packaging.push_by_engine(build_host, [reference])
    seconds = time.monotonic() - began
    return _Build(seconds, place.cloud.received_bytes(settings.ecr_repository) - before, changed_bytes)


def _forget_images(place: Platform) -> None:
    """An empty repository, as before the first build."""
    with environment(place.variables):
        Registry(place.clients.ecr, place.settings.ecr_repository).remove()


def _own_copy(scratch: Path) -> Path:
    app = scratch / "app"
    shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
    return app


def _changed_model(model: Path, target: Path) -> Path:
    """The same network with another note in its archive: another file of about the same size, as after a training."""
    target.parent.mkdir(parents=True)
    shutil.copyfile(model, target)
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/extra/note", "another training")
    return target


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
