"""infra/host/gpu.sh: what is installed where a plain Ubuntu has a GPU, and that nothing is where there is none or the image brings it.

No machine of a test has a GPU: its device, its driver and the package sources are played, the script and its decisions are the real ones.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "host" / "gpu.sh"
NVIDIAS = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
OTHERS = "0" * 40
KERNEL = "6.14.0-1011-aws"
PREBUILT = f"linux-modules-nvidia-580-server-open-{KERNEL}"
BY_DKMS = ("nvidia-dkms-580-server-open", f"linux-headers-{KERNEL}")
# What provision.sh has defined before it reads the script. What is installed is there afterwards.
HARNESS = """\
set -euo pipefail
step() { printf 'provision: %s\\n' "$*"; }
fail() { printf 'provision: FAILED: %s\\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null; }
lists_read=""
read_lists() { [ -n "$lists_read" ] || echo lists >> "$WORLD/log"; lists_read=yes; }
install_packages() {
  read_lists
  echo "install $*" >> "$WORLD/log"
  case " $* " in *" nvidia-utils-580-server "*) cp "$WORLD/smi" "$WORLD/bin/nvidia-smi" ;; esac
  case " $* " in *" nvidia-container-toolkit "*) cp "$WORLD/true" "$WORLD/bin/nvidia-ctk" ;; esac
}
. "$SCRIPT"
"""


@dataclass
class Machine:
    """A played machine. ``keys``: fingerprints of the primary keys that the package source offers."""

    world: Path
    gpu: bool = True
    driver: str = ""
    toolkit: bool = False
    packages: tuple[str, ...] = (PREBUILT, *BY_DKMS)
    keys: tuple[str, ...] = (NVIDIAS,)
    loads: bool = True
    log: list[str] = field(default_factory=list)

    def provision(self) -> subprocess.CompletedProcess[str]:
        """Run the script on it."""
        self._program("smi", "echo 580.95.05")
        self._program("true", "true")
        self._program("bin/uname", f"echo {KERNEL}")
        self._program("bin/dpkg", "echo amd64")
        self._program("bin/modprobe", "true" if self.loads else "false")
        self._program("bin/apt-cache", f"case ' {' '.join(self.packages)} ' in *\" $3 \"*) echo Package: $3 ;; esac")
        self._program("bin/curl", 'while [ "$1" != -o ]; do shift; done; echo key > "$2"')
        records = "\n".join(
            f"pub:-:4096:1:{key[-16:]}:::::\nfpr:::::::::{key}:\nsub:-:4096:1::\nfpr:::::::::{'1' * 40}:" for key in self.keys
        )
        (self.world / "records").write_text(f"{records}\n")
        self._program("bin/gpg", f"cat {self.world}/records")
        if self.driver:
            self._program("bin/nvidia-smi", f"echo {self.driver}")
        if self.toolkit:
            self._program("bin/nvidia-ctk", "true")
        device = self.world / "pci" / "0000:00:1e.0"
        device.mkdir(parents=True, exist_ok=True)
        (device / "vendor").write_text("0x10de\n" if self.gpu else "0x1d0f\n")
        for folder in ("keyrings", "sources"):
            (self.world / folder).mkdir(exist_ok=True)
        place = {"PCI_DEVICES": "pci", "KEYRINGS": "keyrings", "APT_SOURCES": "sources"}
        environment = {
            "PATH": f"{self.world}/bin:{os.environ['PATH']}",
            "WORLD": str(self.world),
            "SCRIPT": str(SCRIPT),
            "MIN_DRIVER": "580",
            **{name: str(self.world / folder) for name, folder in place.items()},
        }
        done = subprocess.run(["bash", "-c", HARNESS], env=environment, capture_output=True, text=True, check=False)
        log = self.world / "log"
        self.log = log.read_text().splitlines() if log.exists() else []
        return done

    def _program(self, name: str, text: str) -> None:
        path = self.world / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


def test_a_plain_ubuntu_with_a_gpu_gets_modules_of_its_kernel_and_nvidias_toolkit(tmp_path: Path):
    machine = Machine(tmp_path)
    done = machine.provision()
    assert done.returncode == 0, done.stderr
    assert "GPU driver 580.95.05" in done.stdout
    assert machine.log == [
        "lists",
        f"install {PREBUILT} nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server",
        "lists",
        "install nvidia-container-toolkit",
    ], "the lists are read again when a source was added"
    (source,) = (tmp_path / "sources").iterdir()
    assert f"signed-by={tmp_path}/keyrings/nvidia-container-toolkit.asc" in source.read_text()
    assert source.read_text().endswith("/stable/deb/amd64 /\n")


def test_a_second_run_installs_nothing(tmp_path: Path):
    machine = Machine(tmp_path)
    machine.provision()
    (tmp_path / "log").unlink()
    assert machine.provision().returncode == 0
    assert machine.log == []


def test_modules_are_built_where_ubuntu_has_none_for_the_kernel(tmp_path: Path):
    machine = Machine(tmp_path, packages=BY_DKMS)
    assert machine.provision().returncode == 0
    assert f"install linux-headers-{KERNEL} nvidia-dkms-580-server-open" in machine.log[1]


def test_an_image_that_brings_driver_and_toolkit_is_left_as_it_is(tmp_path: Path):
    machine = Machine(tmp_path, driver="580.65.06", toolkit=True)
    done = machine.provision()
    assert (done.returncode, machine.log) == (0, [])
    assert "GPU driver 580.65.06" in done.stdout


@pytest.mark.parametrize("driver", ["", "580.65.06"])
def test_without_an_nvidia_device_nothing_is_installed_and_what_is_missing_is_named(tmp_path: Path, driver: str):
    machine = Machine(tmp_path, gpu=False, driver=driver)
    done = machine.provision()
    assert (done.returncode, machine.log) == (1, [])
    assert ("nvidia-ctk" if driver else "no NVIDIA driver answers") in done.stderr


def test_an_older_driver_of_the_image_is_named_and_not_changed(tmp_path: Path):
    machine = Machine(tmp_path, driver="570.133.20")
    done = machine.provision()
    assert (done.returncode, machine.log) == (1, [])
    assert "570.133.20 is older than 580" in done.stderr


@pytest.mark.parametrize("keys", [(), (OTHERS,), (NVIDIAS, OTHERS), (OTHERS, NVIDIAS)])
def test_nothing_is_installed_from_a_source_with_another_key(tmp_path: Path, keys: tuple[str, ...]):
    machine = Machine(tmp_path, driver="580.65.06", keys=keys)
    done = machine.provision()
    assert done.returncode == 1
    assert "nothing is installed from there" in done.stderr
    assert not list((tmp_path / "sources").iterdir())
    assert not list((tmp_path / "keyrings").iterdir())
    assert not any("nvidia" in line for line in machine.log)


def test_a_machine_whose_sources_have_no_driver_for_its_kernel_says_so(tmp_path: Path):
    machine = Machine(tmp_path, packages=("nvidia-dkms-580-server-open",))
    done = machine.provision()
    assert done.returncode == 1
    assert f"no NVIDIA driver 580-server-open for the kernel {KERNEL}" in done.stderr


def test_modules_that_do_not_load_are_named(tmp_path: Path):
    done = Machine(tmp_path, loads=False).provision()
    assert done.returncode == 1
    assert "does not load" in done.stderr
