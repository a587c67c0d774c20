"""Who this machine is: instance id, type and image from the instance metadata service, and how long ago it started.

Here belongs IMDSv2 and /proc, nothing else. Source: AWS, "Use the Instance Metadata Service to access instance metadata".
"""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

from monai_aws_pipeline.contract import ContractError, HostFacts, parse_utc

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT: Final = "http://169.254.169.254"
_SECONDS: Final = 2.0


def read_host(endpoint: str | None = None) -> HostFacts:
    """Facts of this machine. Empty, with a warning, where no metadata service answers: a study is worth more than its host's name."""
    try:
        return HostFacts(*_read(("instance-id", "instance-type", "ami-id"), endpoint))
    except (OSError, ValueError) as error:
        log.warning("the instance metadata service does not answer (%s); records will not name this host", error.__class__.__name__)
        return HostFacts()


def interruption(endpoint: str | None = None) -> datetime | None:
    """When AWS takes this machine back (UTC); None where it has not said so, or where no metadata service answers.

    Source: AWS, "Spot Instance interruption notices": ``spot/instance-action`` is 404 until then, two minutes before.
    """
    try:
        (said,) = _read(("spot/instance-action",), endpoint)
        return parse_utc(json.loads(said)["time"])
    except (OSError, ValueError, KeyError, TypeError, ContractError):
        return None


def target_lifecycle_state(endpoint: str | None = None) -> str | None:
    """Where this machine's Auto Scaling group wants it, for example ``InService``; empty where no group has it, None where nobody answers.

    Source: AWS, "Retrieve the target lifecycle state through instance metadata": 404 where there is none.
    """
    try:
        return _read(("autoscaling/target-lifecycle-state",), endpoint)[0]
    except urllib.error.HTTPError as error:
        return "" if error.code == HTTPStatus.NOT_FOUND else None
    except (OSError, ValueError):
        return None


def seconds_since_start(proc: Path = Path("/proc")) -> float:
    """Seconds since this machine's first process started, 0.0 where /proc does not say.

    Process 1 and not the kernel's uptime: the same on a virtual machine, and true as well for a machine that shares its kernel.
    """
    try:
        uptime = float((proc / "uptime").read_text().split()[0])
        # Field 22 is the start time in clock ticks after boot; the second field may hold spaces and ends with the last ')'.
        started = int((proc / "1" / "stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, uptime - started)


def _read(names: tuple[str, ...], endpoint: str | None) -> list[str]:
    base = (endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    # Without a proxy: credentials of the instance role are served beside these facts and must not leave the machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    token = _ask(opener, f"{base}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    return [_ask(opener, f"{base}/latest/meta-data/{name}", "GET", {"X-aws-ec2-metadata-token": token}) for name in names]


def _ask(opener: urllib.request.OpenerDirector, url: str, method: str, headers: dict[str, str]) -> str:
    with opener.open(urllib.request.Request(url, method=method, headers=headers), timeout=_SECONDS) as answer:  # noqa: S310
        text: str = answer.read(4096).decode("ascii").strip()
        return text
