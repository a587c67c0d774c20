"""What is sent to a machine to make it a host of ours: the provisioning script, the agent's sources, its unit, its wheels,
and those of the official packager where that builds.

Collected on the control plane with the user's own pip configuration, so that a host needs no package index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monai_aws_pipeline.deployment.host_files import sources_content, write_bundle
from monai_aws_pipeline.maps import monai_deploy
from monai_aws_pipeline.maps.wheelhouse import collect
from monai_aws_pipeline.scratch import scratch
from monai_aws_pipeline.settings import PROJECT_ROOT, Settings

HOST_REQUIREMENTS = PROJECT_ROOT / "infra" / "host" / "requirements.txt"


@dataclass(frozen=True)
class Bundle:
    """A folder to send and the hash of all that is in it."""

    path: Path
    content: str


def make_bundle(settings: Settings, target: Path, report: Callable[[str], None], *, builds: bool) -> Bundle:
    """Write the bundle into an empty folder. ``builds``: for a machine that may build MAPs with the official packager."""
    wheels = collect(HOST_REQUIREMENTS, settings.cache_dir, settings.host_python, report)
    sdk = None
    if builds and _has_packager(settings):
        with scratch("monai-aws-packager") as folder:
            (wanted := folder / "requirements.txt").write_text(monai_deploy.REQUIREMENTS, "utf-8")
            sdk = collect(wanted, settings.cache_dir, settings.host_python, report)
    return Bundle(target, write_bundle(target, wheels, sdk))


def bundle_version(settings: Settings) -> str:
    """SHA-256 in hex over what the bundle of a machine that may build is made from: sources, script, unit and pins. Gathers no wheel."""
    pins = HOST_REQUIREMENTS.read_text("utf-8") + (monai_deploy.REQUIREMENTS if _has_packager(settings) else "")
    return hashlib.sha256("\0".join([sources_content(), settings.host_python, pins]).encode()).hexdigest()


def _has_packager(settings: Settings) -> bool:
    return settings.packager == "monai-deploy"
