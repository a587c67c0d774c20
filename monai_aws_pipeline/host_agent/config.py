"""The host's settings, written by user data to ``/etc/monai-aws/agent.json``.

Here belongs reading and checking them, all errors at once. The file is hostile until parsed: a wrong value must stop the agent with a
sentence instead of failing the first study of the night.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from monai_aws_pipeline.archive.connection import ArchivePlace
from monai_aws_pipeline.contract import AGENT_SETTINGS
from monai_aws_pipeline.errors import NamedError
from monai_aws_pipeline.host_agent.intake.unpack import IntakeLimits
from monai_aws_pipeline.maps.spec.run import Limits

DEFAULT_PATH: Final = Path(AGENT_SETTINGS)


class ConfigError(NamedError):
    """agent.json cannot be used. Lists every wrong field with what is expected."""


@dataclass(frozen=True)
class AgentConfig:
    """One host's settings. ``map_timeout_s`` in seconds, ``map_memory_mib`` in MiB, ``usd_per_hour`` in US dollars by instance type.

    ``price_basis`` says in one line whose prices they are, for example ``on-demand, us-east-1``.
    """

    deployment: str
    region: str
    bucket: str
    jobs_queue: str
    live_map_parameter: str
    study_key_secret: str
    gpus: str
    map_network: str
    map_hosting: str
    studies_at_once: str
    fleet_group: str
    map_timeout_s: int
    map_memory_mib: int
    idle_stop_minutes: float
    upload_max_mib: int
    unpacked_max_mib: int
    upload_max_files: int
    unpack_max_ratio: int
    unpack_max_depth: int
    unpack_max_seconds: int
    require_volume: bool
    archive: str
    archive_address: str
    archive_secret: str
    archive_correct: bool
    datastore_id: str
    usd_per_hour: Mapping[str, float]
    price_basis: str

    @property
    def limits(self) -> Limits:
        """What one run of the MAP may use."""
        return Limits(timeout_s=self.map_timeout_s, memory_mib=self.map_memory_mib, gpus=self.gpus, network=self.map_network)

    @property
    def archive_place(self) -> ArchivePlace:
        """Where answered studies are stored."""
        return ArchivePlace(self.archive, self.archive_address, self.datastore_id, self.archive_secret, self.archive_correct)

    @property
    def intake(self) -> IntakeLimits:
        """What one upload may be."""
        return IntakeLimits.of(self)


_TEXTS: Final = {
    "deployment": (r"[a-z][a-z0-9-]{0,18}[a-z0-9]", "a short name such as dev"),
    "region": (r"[a-z]{2}(-[a-z]+)+-\d", "an AWS region such as us-east-1"),
    "bucket": (r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket name"),
    "jobs_queue": (r"[A-Za-z0-9_-]{1,80}", "an SQS queue name"),
    "live_map_parameter": (r"/[A-Za-z0-9_./-]{1,500}", "an SSM parameter name that starts with /"),
    "study_key_secret": (r"[\w/+=.@:-]{1,600}", "a Secrets Manager name or ARN"),
    "gpus": (r"|all|\d{1,2}", "empty, all or a number"),
    "map_network": (r"none|host|bridge", "none, host or bridge"),
    "map_hosting": (r"warm|per_study", "warm or per_study"),
    "studies_at_once": (r"auto|[1-8]", "auto or a number from 1 to 8"),
    "fleet_group": (r"|[A-Za-z0-9_-]{1,80}", "the name of an Auto Scaling group or nothing"),
    "archive": (r"none|healthimaging|dicomweb", "none, healthimaging or dicomweb"),
    "archive_address": (r"|https?://[\w.:/~-]{1,500}", "an archive's address or nothing"),
    "archive_secret": (r"[\w/+=.@:-]{0,600}", "a Secrets Manager name or ARN, or nothing"),
    "datastore_id": (r"|[0-9a-f]{32}", "the id of a data store or nothing"),
    "price_basis": (r"[^\x00-\x1f]{0,200}", "one line of text"),
}
_NUMBERS: Final[dict[str, tuple[float, float, bool]]] = {
    "map_timeout_s": (10, 18000, True),
    "map_memory_mib": (64, 1048576, True),
    "idle_stop_minutes": (0.01, 1440, False),
    "upload_max_mib": (1, 1048576, True),
    "unpacked_max_mib": (1, 4194304, True),
    "upload_max_files": (1, 1000000, True),
    "unpack_max_ratio": (2, 10000, True),
    "unpack_max_depth": (0, 3, True),
    "unpack_max_seconds": (10, 7200, True),
}


_SWITCHES: Final = frozenset({"require_volume", "archive_correct"})


def load_config(path: Path = DEFAULT_PATH) -> AgentConfig:
    """Read and check the file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error.__class__.__name__}); user data writes it when the host is created") from error
    return parse_config(text)


def parse_config(text: str) -> AgentConfig:
    """Check the text of agent.json. Raises ConfigError listing everything that is wrong; unknown fields are ignored."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("agent.json is not JSON") from error
    if not isinstance(data, dict):
        raise ConfigError("agent.json is not a JSON object")
    problems = [problem for spec in fields(AgentConfig) if (problem := _problem(spec.name, data))]
    if problems:
        raise ConfigError("agent.json is wrong:\n  " + "\n  ".join(problems))
    given: dict[str, Any] = {spec.name: data[spec.name] for spec in fields(AgentConfig)}
    return AgentConfig(**{**given, "idle_stop_minutes": float(given["idle_stop_minutes"])})


def _problem(name: str, data: dict[str, Any]) -> str | None:
    if name not in data:
        return f"{name} is missing"
    value = data[name]
    if name in _TEXTS:
        pattern, expected = _TEXTS[name]
        return None if isinstance(value, str) and re.fullmatch(pattern, value) else f"{name}: expected {expected}"
    if name in _SWITCHES:
        return None if isinstance(value, bool) else f"{name}: expected true or false"
    if name == "usd_per_hour":
        good = isinstance(value, dict) and all(
            re.fullmatch(r"[a-z0-9.-]{1,40}", key) and _is_number(of, 0, 1000) for key, of in value.items()
        )
        return None if good else "usd_per_hour: expected numbers from 0 to 1000 by instance type"
    low, high, whole = _NUMBERS[name]
    if _is_number(value, low, high) and not (whole and isinstance(value, float)):
        return None
    return f"{name}: expected a {'whole ' if whole else ''}number from {low} to {high}"


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
