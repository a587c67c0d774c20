"""Who this machine is: instance id, type and image from the instance metadata service, and how long ago it started.

Here belongs IMDSv2 and /proc, nothing else. Source: AWS, "Use the Instance Metadata Service to access instance metadata".
"""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from monai_aws_pipeline.contract import HostFacts

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT: Final = "http://169.254.169.254"
_SECONDS: Final = 2.0


def read_host(endpoint: str | None = None) -> HostFacts:
    """Facts of this machine. Empty, with a warning, where no metadata service answers: a study is worth more than its host's name."""
    base = (endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    # Without a proxy: credentials of the instance role are served beside these facts and must not leave the machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        token = _ask(opener, f"{base}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        return HostFacts(*(_ask(opener, f"{base}/latest/meta-data/{name}", "GET", {"X-aws-ec2-metadata-token": token})
                           for name in ("instance-id", "instance-type", "ami-id")))  # fmt: skip
    except (OSError, urllib.error.URLError, ValueError) as wrong:
        log.warning("the instance metadata service does not answer (%s); records will not name this host", wrong.__class__.__name__)
        return HostFacts()


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


def _ask(opener: urllib.request.OpenerDirector, url: str, method: str, headers: dict[str, str]) -> str:
    with opener.open(urllib.request.Request(url, method=method, headers=headers), timeout=_SECONDS) as answer:  # noqa: S310
        text: str = answer.read(4096).decode("ascii").strip()
        return text
