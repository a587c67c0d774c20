"""``python -m monai_aws_pipeline.local_cloud up|down|status|reset [--state-dir DIR] [--port N]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from monai_aws_pipeline.errors import NamedError

from .commands import down, reset, status, up
from .config import DEFAULT_PORT, configure


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 1 when it fails, and when ``status`` finds nothing running."""
    parser = argparse.ArgumentParser(prog="monai_aws_pipeline.local_cloud", description="The embedded AWS")
    parser.add_argument("command", choices=("up", "down", "status", "reset"))
    parser.add_argument("--state-dir", type=Path, default=None, help="folder of its data (default: .local-cloud here)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"port on 127.0.0.1 (default: {DEFAULT_PORT})")
    parser.add_argument("--profile", default="", help="kind of account, NAME[,NAME] (docs/local-cloud.md)")
    chosen = parser.parse_args(arguments)
    try:
        config = configure(chosen.state_dir, chosen.port, profiles=tuple(name for name in chosen.profile.split(",") if name))
        if chosen.command == "up":
            up(config, _say)
        elif chosen.command == "down":
            down(config, _say)
        elif chosen.command == "reset":
            reset(config, _say)
        else:
            found = status(config)
            _say(f"{'running' if found.running else 'not running'} at {found.endpoint}")
            _say(f"{found.memory_mib} MiB of memory, {found.disk_mib} MiB on disk in {found.state_dir}")
            for machine in found.machines:
                _say(f"  {machine['id']}  {machine['state']:<13} {machine['address']:<15} {machine['name']}")
            return 0 if found.running else 1
    except NamedError as error:
        sys.stderr.write(f"{error.cause}\n{error.remedy}".strip() + "\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
