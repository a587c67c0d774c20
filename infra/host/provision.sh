#!/usr/bin/env bash
# Makes a machine an inference host: container engine, the agent with its Python environment, its systemd unit.
# Runs as root, on an image of AWS or on a plain Debian/Ubuntu; may be run again at any time. Needs beside it: agent.tar,
# monai-aws-agent.service, wheels/. Environment: MIN_DRIVER (oldest NVIDIA driver the MAP works with; empty: no GPU wanted).
# Nothing is fetched but distribution packages, and those only where they are missing. Prints one line a step; exit code 0 means done.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=/opt/monai-aws
export DEBIAN_FRONTEND=noninteractive

step() { printf 'provision: %s\n' "$*"; }
fail() { printf 'provision: FAILED: %s\n' "$*" >&2; exit 1; }

# A fresh Ubuntu runs its own upgrades for minutes; wait for the package lock instead of failing on it.
install_packages() {
  step "installing $*"
  apt-get -o DPkg::Lock::Timeout=600 -qq update
  apt-get -o DPkg::Lock::Timeout=600 -qq install --yes --no-install-recommends "$@" >/dev/null
}

[ "$(id -u)" = 0 ] || fail "must run as root (sudo)"
for needed in agent.tar monai-aws-agent.service wheels; do
  [ -e "$here/$needed" ] || fail "$needed is missing beside provision.sh"
done

# 1. GPU driver: brought along by the image, never installed here, because a driver change needs a reboot and belongs to the image
if [ -n "${MIN_DRIVER:-}" ]; then
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n1) || true
  [ -n "$driver" ] || fail "no NVIDIA driver answers; use a GPU base image, or set MONAI_AWS_GPUS= for machines without a GPU"
  oldest=$(printf '%s\n%s\n' "$MIN_DRIVER" "$driver" | sort -V | head -n1)
  [ "$oldest" = "$MIN_DRIVER" ] || fail "NVIDIA driver $driver is older than $MIN_DRIVER; use a newer base image"
  command -v nvidia-ctk >/dev/null || command -v nvidia-container-cli >/dev/null || fail "the NVIDIA container toolkit is missing on the base image"
  step "GPU driver $driver"
fi

# 2. container engine
if command -v docker >/dev/null && command -v dockerd >/dev/null; then
  step "container engine is there"
else
  install_packages docker.io
fi
systemctl enable --now docker >/dev/null 2>&1 || fail "the container engine does not start (journalctl -u docker)"
for _ in $(seq 150); do docker info >/dev/null 2>&1 && break; sleep 0.2; done
step "container engine $(docker version --format '{{.Server.Version}}' 2>/dev/null || fail 'the container engine does not answer')"

# 3. the agent's Python environment, from the wheels beside this script only
if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  install_packages python3 python3-venv
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is older than 3.11; use a newer base image"
wanted=$(cd "$here/wheels" && { python3 -V; sha256sum -- *.whl; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$root/venv/.wheels" 2>/dev/null || true)" = "$wanted" ]; then
  step "Python environment is up to date"
else
  rm -rf "$root/venv"
  install -d -m 755 "$root"
  python3 -m venv "$root/venv"
  "$root/venv/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$here/wheels" "$here"/wheels/*.whl
  "$root/venv/bin/pip" check >/dev/null || fail "the wheels do not fit together"
  printf '%s\n' "$wanted" > "$root/venv/.wheels"
  step "Python environment made from $(ls "$here/wheels" | wc -l) wheels"
fi

# 4. the agent: swapped in as a whole, so that a restart never sees half of it
rm -rf "$root/lib.new"
install -d -m 755 "$root/lib.new" "$root/bin"
tar -xf "$here/agent.tar" -C "$root/lib.new" --no-same-owner
"$root/venv/bin/python" -m compileall -q "$root/lib.new"
rm -rf "$root/lib.old"
[ ! -e "$root/lib" ] || mv "$root/lib" "$root/lib.old"
mv "$root/lib.new" "$root/lib"
rm -rf "$root/lib.old"
cat > "$root/bin/monai-aws-agent.new" <<'WRAPPER'
#!/bin/sh
# -P: nothing from the current folder is imported
export PYTHONPATH=/opt/monai-aws/lib PYTHONDONTWRITEBYTECODE=1
exec /opt/monai-aws/venv/bin/python -P -m monai_aws_pipeline.host_agent "$@"
WRAPPER
chmod 755 "$root/bin/monai-aws-agent.new"
mv "$root/bin/monai-aws-agent.new" "$root/bin/monai-aws-agent"
"$root/bin/monai-aws-agent" --help >/dev/null || fail "the agent does not start"
step "agent is in $root/lib"

# 5. its unit: enabled always, started only where user data wrote the host's settings
install -m 644 "$here/monai-aws-agent.service" /etc/systemd/system/monai-aws-agent.service
install -d -m 755 /etc/monai-aws
systemctl daemon-reload
systemctl enable monai-aws-agent.service >/dev/null 2>&1 || fail "the unit cannot be enabled"
if systemctl is-active --quiet monai-aws-agent.service; then
  systemctl restart --no-block monai-aws-agent.service
fi
step "done"
