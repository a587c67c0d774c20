"""infra/host/dead-man.sh: a host on which nothing works any more is switched off, and no other."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from pathlib import Path

import pytest

from monai_aws_pipeline.host_agent.agent import Preparing, SignOfLife
from monai_aws_pipeline.settings import PROJECT_ROOT

HOST = PROJECT_ROOT / "infra" / "host"


def stays_on(folder: Path, uptime: int, limit: int = 3600) -> bool:
    (folder / "uptime").write_text(f"{uptime}.25 17.00\n")
    done = subprocess.run([HOST / "dead-man.sh", folder, folder / "uptime", str(limit)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert (done.returncode == 3) == ("to be switched off" in done.stdout)
    return done.returncode == 0


def test_a_host_whose_agent_goes_round_stays_on(tmp_path: Path):
    (tmp_path / "alive").write_text("99990\n")
    assert stays_on(tmp_path, 100_000)


def test_a_host_whose_agent_hangs_is_switched_off(tmp_path: Path):
    (tmp_path / "alive").write_text("5000\n")
    assert stays_on(tmp_path, 8_599)
    assert not stays_on(tmp_path, 8_600)


def test_a_host_whose_agent_never_started_is_switched_off_after_its_boot(tmp_path: Path):
    assert stays_on(tmp_path, 3_599)
    assert not stays_on(tmp_path, 3_600)


def test_a_machine_that_shares_an_old_kernel_has_its_time_from_its_own_start(tmp_path: Path):
    """One that had not begun to give signs was switched off at the first look, on a kernel that was up for an hour."""
    (tmp_path / "1").mkdir()
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "1" / "stat").write_text(f"1 (a (b) init) S {' '.join('0' * 18)} {90_000 * ticks} 7 8\n")
    assert stays_on(tmp_path, 90_100)
    assert stays_on(tmp_path, 93_599)
    assert not stays_on(tmp_path, 93_600)
    (tmp_path / "alive").write_text("92000\n")
    assert stays_on(tmp_path, 95_599)
    assert not stays_on(tmp_path, 95_600)


@pytest.mark.parametrize("sign", ["", "soon", "-5", "12.5", "1; rm -rf /"])
def test_a_sign_that_cannot_be_read_is_none(tmp_path: Path, sign: str):
    (tmp_path / "alive").write_text(sign)
    assert not stays_on(tmp_path, 4_000)


def test_a_host_that_prepares_a_map_stays_on_and_one_that_has_prepared_does_not(tmp_path: Path):
    with Preparing(tmp_path)():
        assert stays_on(tmp_path, 100_000)
    assert not stays_on(tmp_path, 100_000)
    with (tmp_path / "preparing.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert stays_on(tmp_path, 100_000), "whoever holds it"


def test_the_agents_sign_is_one_that_is_understood(tmp_path: Path):
    SignOfLife(tmp_path)()
    now = float(Path("/proc/uptime").read_text().split()[0])
    left = int((tmp_path / "alive").read_text())
    # The two clocks count the same unless the machine was suspended.
    assert left >= int(now) - 60
    assert stays_on(tmp_path, left + 10)


@pytest.mark.parametrize(("said", "off"), [(0, False), (3, True), (1, False), (127, False)])
def test_only_the_scripts_own_word_switches_a_host_off(tmp_path: Path, said: int, off: bool):
    for name, text in (("dead-man.sh", f"exit {said}"), ("systemctl", f"echo $* >> {tmp_path}/called")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    unit = (HOST / "monai-aws-dead-man.service").read_text()
    command = re.search(r"^ExecStart=/bin/sh -c '([^']+)'$", unit, re.MULTILINE)
    assert command is not None
    script = command[1].replace("/opt/monai-aws/bin", str(tmp_path))
    subprocess.run(["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "called").exists() == off


def test_the_unit_needs_nothing_that_may_be_broken_and_is_for_hosts_alone():
    unit = (HOST / "monai-aws-dead-man.service").read_text()
    assert "ConditionPathExists=/etc/monai-aws/agent.json" in unit
    assert not re.search(r"^(Requires|Wants|After)=", unit, re.MULTILINE)
