#!/usr/bin/env bash
# Makes a machine a host of ours: container engine, SSM agent, the agent with its Python environment, its systemd unit.
# Runs as root, on an image of AWS or on a plain Debian/Ubuntu; may be run again at any time, and then touches only what is not as it should be.
# Needs beside it: agent.tar, the units monai-aws-*, dead-man.sh, gpu.sh, wheels/. Takes sdk/ where it is there: wheels of the official packager, for the
# machines that run it. Environment: MIN_DRIVER (oldest NVIDIA driver the MAP works with; empty: no GPU wanted).
# Nothing is fetched but distribution packages and NVIDIA's toolkit, and those only where they are missing. Prints one line a step; exit code 0
# means done.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=/opt/monai-aws
APT_WAIT_S=${APT_WAIT_S:-600}
export DEBIAN_FRONTEND=noninteractive

step() { printf 'provision: %s\n' "$*"; }
fail() { printf 'provision: FAILED: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null; }

# A fresh Ubuntu runs its own upgrades for minutes; wait for the package lock instead of failing on it. The lock of the lists is another one, for
# which apt-get update does not wait whatever the option says (apt 2.6.1): it ends with 100 at once.
apt_get() { apt-get -o DPkg::Lock::Timeout="$APT_WAIT_S" -qq "$@"; }
lists_read=""
read_lists() {
  [ -z "$lists_read" ] || return 0
  local said waited=0
  until said=$(LC_ALL=C apt_get update 2>&1); do
    case $said in *"Could not get lock"*|*"Unable to lock"*) ;; *) fail "apt-get update: $(printf %s "$said" | tail -n3 | tr '\n' ' ')" ;; esac
    [ "$waited" -lt "$APT_WAIT_S" ] || fail "another program has held apt's lists for $waited s: $(printf %s "$said" | head -n1)"
    [ $((waited % 10)) != 0 ] || step "waiting for another program that holds apt's lists ($waited s)"
    sleep 2
    waited=$((waited + 2))
  done
  lists_read=yes
}
# The image's own upgrades: not while this script works, and never on a host, where one would restart the engine under a study, or hold a lock,
# in the middle of a night. A new image (scheduled_ami_refresh) is how our hosts are upgraded. What is at work is not cut off.
no_upgrades_of_its_own() {
  local unit waited=0
  for unit in apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service; do
    systemctl cat "$unit" >/dev/null 2>&1 || continue
    [ "$(systemctl is-enabled "$unit" 2>/dev/null || true)" = masked ] && continue
    systemctl mask --now "$unit" >/dev/null 2>&1 || fail "$unit cannot be switched off"
    step "$unit is switched off: a host is upgraded by a new image"
  done
  for unit in apt-daily.service apt-daily-upgrade.service; do
    while case $(systemctl is-active "$unit" 2>/dev/null || true) in active|activating|reloading) true ;; *) false ;; esac; do
      [ "$waited" -lt "$APT_WAIT_S" ] || fail "$unit has been at work for $waited s; try again later"
      [ $((waited % 10)) != 0 ] || step "waiting for $unit, which upgrades the machine ($waited s)"
      sleep 2
      waited=$((waited + 2))
    done
  done
}
install_packages() {
  step "installing $*"
  read_lists
  apt_get install --yes --no-install-recommends "$@" >/dev/null
}
# Installs the first of the named packages that the machine's package sources have; tells whether there was one.
install_first_of() {
  read_lists
  for package in "$@"; do
    if apt-cache show --no-all-versions "$package" 2>/dev/null | grep -q .; then install_packages "$package"; return; fi
  done
  return 1
}

[ "$(id -u)" = 0 ] || fail "must run as root (sudo)"
for needed in agent.tar monai-aws-agent.service monai-aws-dead-man.service monai-aws-dead-man.timer dead-man.sh gpu.sh wheels; do
  [ -e "$here/$needed" ] || fail "$needed is missing beside provision.sh"
done

# 0. nothing else installs packages from here on
no_upgrades_of_its_own

# 1. GPU driver and container toolkit. One that is there is never changed: that needs a reboot, and belongs to the image.
if [ -n "${MIN_DRIVER:-}" ]; then
  # shellcheck source=infra/host/gpu.sh
  . "$here/gpu.sh"
fi

# 2. container engine; with unpigz on PATH it unpacks layers of a pull on a thread of its own, which is faster than its own code
if have docker && have dockerd; then
  step "container engine is there"
else
  install_packages docker.io
fi
have unpigz || install_packages pigz
# From docker 23 on, every build needs the plugin; before, only the official packager does.
can_build() {
  docker buildx version >/dev/null 2>&1 && return
  [ ! -e "$here/sdk" ] && [ "$(docker --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')" -lt 23 ]
}
can_build || install_first_of docker-buildx-plugin docker-buildx || true
can_build || fail "docker buildx is missing and no package source of this machine has it; use a base image with Docker's own packages"
systemctl enable --now docker >/dev/null 2>&1 || fail "the container engine does not start (journalctl -u docker)"
if [ -n "${MIN_DRIVER:-}" ] && ! grep -qs nvidia-container-runtime /etc/docker/daemon.json; then
  nvidia-ctk runtime configure --runtime=docker >/dev/null 2>&1 || fail "the NVIDIA container toolkit could not be put into the engine's settings"
  systemctl restart docker || fail "the container engine does not start with the NVIDIA runtime (journalctl -u docker)"
  step "NVIDIA runtime is in the engine's settings"
fi
for _ in $(seq 150); do docker info >/dev/null 2>&1 && break; sleep 0.2; done
step "container engine $(docker version --format '{{.Server.Version}}' 2>/dev/null || fail 'the container engine does not answer')"

# 3. how the machine is reached: commands come through SSM, whose agent AWS's images bring along; the AWS CLI is for who looks after it
ssm=""
for unit in amazon-ssm-agent.service snap.amazon-ssm-agent.amazon-ssm-agent.service; do
  if systemctl cat "$unit" >/dev/null 2>&1; then ssm=$unit; break; fi
done
[ -n "$ssm" ] || fail "the SSM agent is not installed; use a base image that brings it, as those of AWS do"
systemctl enable --now "$ssm" >/dev/null 2>&1 || true
systemctl is-active --quiet "$ssm" || fail "the SSM agent does not run (journalctl -u $ssm)"
step "SSM agent runs"
if have aws || install_first_of awscli; then
  step "AWS CLI is there"
else
  step "no AWS CLI: neither the image nor its package sources have it; nothing of ours needs it"
fi

# 4. Python environments, each from a folder of wheels beside this script only
if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  install_packages python3 python3-venv
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is older than 3.11; use a newer base image"
changed=""
make_environment() { # NAME WHEELS
  local wanted
  wanted=$(cd "$here/$2" && { python3 -V; sha256sum -- *.whl; } | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$root/$1/.wheels" 2>/dev/null || true)" = "$wanted" ]; then
    step "Python environment $1 is up to date"
    return
  fi
  rm -rf "${root:?}/$1"
  install -d -m 755 "$root"
  python3 -m venv "$root/$1"
  "$root/$1/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$here/$2" "$here/$2"/*.whl
  "$root/$1/bin/pip" check >/dev/null || fail "the wheels in $2 do not fit together"
  printf '%s\n' "$wanted" > "$root/$1/.wheels"
  changed=yes
  step "Python environment $1 made from $(find "$here/$2" -name '*.whl' | wc -l) wheels"
}
make_environment venv wheels
[ ! -e "$here/sdk" ] || make_environment sdk sdk

# 5. the agent: swapped in as a whole, so that a restart never sees half of it
agent=$(sha256sum < "$here/agent.tar")
if [ "$(cat "$root/lib/.agent" 2>/dev/null || true)" = "$agent" ]; then
  step "agent is up to date"
else
  changed=yes
  rm -rf "$root/lib.new"
  install -d -m 755 "$root/lib.new" "$root/bin"
  tar -xf "$here/agent.tar" -C "$root/lib.new" --no-same-owner
  "$root/venv/bin/python" -m compileall -q "$root/lib.new"
  printf '%s\n' "$agent" > "$root/lib.new/.agent"
  rm -rf "$root/lib.old"
  [ ! -e "$root/lib" ] || mv "$root/lib" "$root/lib.old"
  mv "$root/lib.new" "$root/lib"
  rm -rf "$root/lib.old"
fi
wrapper=$(mktemp)
cat > "$wrapper" <<'WRAPPER'
#!/bin/sh
# -P: nothing from the current folder is imported
export PYTHONPATH=/opt/monai-aws/lib PYTHONDONTWRITEBYTECODE=1
exec /opt/monai-aws/venv/bin/python -P -m monai_aws_pipeline.host_agent "$@"
WRAPPER
# Puts a file in its place in one step, with these permissions, unless the same one lies there.
place() { # FILE TARGET MODE
  cmp -s "$1" "$2" && return
  changed=yes
  install -m "$3" "$1" "$2.placed"
  mv "$2.placed" "$2"
}
place "$wrapper" "$root/bin/monai-aws-agent" 755
rm "$wrapper"
"$root/bin/monai-aws-agent" --help >/dev/null || fail "the agent does not start"
step "agent is in $root/lib"

# 6. its units: enabled always, started only where user data wrote the host's settings
install -d -m 755 /etc/monai-aws
for unit in monai-aws-agent.service monai-aws-dead-man.service monai-aws-dead-man.timer; do
  place "$here/$unit" "/etc/systemd/system/$unit" 644
done
place "$here/dead-man.sh" "$root/bin/dead-man.sh" 755
systemctl daemon-reload
systemctl enable monai-aws-agent.service >/dev/null 2>&1 || fail "the agent's unit cannot be enabled"
systemctl enable --now monai-aws-dead-man.timer >/dev/null 2>&1 || fail "the dead man's timer cannot be enabled"
if [ -n "$changed" ] && systemctl is-active --quiet monai-aws-agent.service; then
  systemctl restart --no-block monai-aws-agent.service
fi
step "done"
