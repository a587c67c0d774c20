"""Where one embedded AWS lives and what it is called: folders, port, loopback subnet. Values only, no action.

Several run side by side when their state folders and ports differ: everything else (container names, socket folder, loopback
addresses) is derived from the state folder. docs/local-cloud.md explains the layout.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from monai_aws_pipeline.settings import PROJECT_ROOT, load_settings

ACCOUNT: Final = "123456789012"
"""The emulated account. moto knows one account unless it is told otherwise, so ministack takes moto's."""
DEFAULT_PORT: Final = 4566
METADATA_PORT: Final = 1338
"""Port of each machine's metadata service on the machine's own address (AWS: port 80 of 169.254.169.254)."""
BASE_REPOSITORY: Final = "monai-aws/base"
DEEP_LEARNING_AMI_PARAMETERS: Final = tuple(
    f"/aws/service/deeplearning/ami/x86_64/{name}/latest/ami-id"
    for name in ("base-oss-nvidia-driver-gpu-ubuntu-24.04", "base-oss-nvidia-driver-gpu-ubuntu-22.04")
)
"""SSM public parameters that AWS publishes for its GPU images; here they name the local base image."""
UBUNTU_AMI_PARAMETER: Final = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
"""The one that Canonical publishes for its plain image; here it names the same root without a container engine."""


@dataclass(frozen=True)
class CloudConfig:
    """One embedded AWS. ``state_dir`` absolute; ``agent_delay_s`` seconds between boot and the SSM agent's registration."""

    state_dir: Path
    port: int = DEFAULT_PORT
    cache_dir: Path = PROJECT_ROOT / ".cache" / "local-cloud"
    region: str = "us-east-1"
    agent_delay_s: float = 2.0
    profiles: tuple[str, ...] = ()
    """Names of profiles.PROFILES: which kind of account it is."""

    @property
    def identity(self) -> str:
        """Ten hex digits that name this cloud on the machine."""
        return hashlib.sha256(str(self.state_dir).encode()).hexdigest()[:10]

    @property
    def run_dir(self) -> Path:
        """Folder of sockets. Unix socket paths are limited to 108 characters, so it cannot lie in the state folder."""
        return Path(f"/run/monai-aws-{self.identity}")

    @property
    def subnet(self) -> str:
        """First three numbers of this cloud's loopback addresses, within 127.64.0.0/10."""
        first, second = bytes.fromhex(self.identity[:4])
        return f"127.{64 + first % 64}.{second}"

    @property
    def endpoint_address(self) -> str:
        """From where an EC2 Instance Connect Endpoint connects to machines."""
        return f"{self.subnet}.2"

    def has_address(self, address: str) -> bool:
        """Whether this is an address that a machine of this cloud may have."""
        return address.rpartition(".")[0] == self.subnet

    @property
    def endpoint(self) -> str:
        """Address of the front door."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def registry_host(self) -> str:
        """Host and port that image references of the local ECR start with."""
        return f"127.0.0.1:{self.port}"

    @property
    def container_prefix(self) -> str:
        """Start of the names of this cloud's containers."""
        return f"monai-aws-{self.identity}-"

    @property
    def image_repository(self) -> str:
        """Engine-side name under which AMIs are kept, one tag an AMI."""
        return f"monai-aws-{self.identity}/ami"

    @property
    def machines_dir(self) -> Path:
        """One folder an instance: its disk beside the root file system, its seed, its network settings."""
        return self.state_dir / "machines"

    @property
    def logs_dir(self) -> Path:
        """Logs of engine, registry and front door."""
        return self.state_dir / "logs"

    @property
    def env_file(self) -> Path:
        """``KEY=VALUE`` lines that make any AWS SDK talk to this cloud."""
        return self.state_dir / "env"

    def to_json(self) -> str:
        """Text that ``from_json`` reads back."""
        return json.dumps({**asdict(self), "state_dir": str(self.state_dir), "cache_dir": str(self.cache_dir)})

    @classmethod
    def from_json(cls, text: str) -> CloudConfig:
        """The configuration that ``to_json`` wrote."""
        data: dict[str, Any] = json.loads(text)
        places = {name: Path(data[name]) for name in ("state_dir", "cache_dir")}
        return cls(**{**data, **places, "profiles": tuple(data.get("profiles", ()))})


def configure(
    state_dir: Path | None = None, port: int = DEFAULT_PORT, *, agent_delay_s: float = 2.0, profiles: tuple[str, ...] = ()
) -> CloudConfig:
    """The configuration for a state folder (default ``.local-cloud`` here); caches lie under the setting ``cache_dir``.

    Without ``profiles`` the setting ``local_profile`` names them.
    """
    # Resolved: the kernel lists a mount under its real path, and what is not found there is not unmounted.
    state = (state_dir or Path(".local-cloud")).resolve()
    settings = load_settings()
    cache = settings.cache_dir.resolve() / "local-cloud"
    named = tuple(dict.fromkeys(profiles or settings.local_profile))
    return CloudConfig(state_dir=state, port=port, cache_dir=cache, agent_delay_s=agent_delay_s, profiles=named)
