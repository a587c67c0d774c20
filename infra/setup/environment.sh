#!/bin/sh
# Makes the environment behind the link .venv: Python, this project, and the packages it needs. Run by make; does nothing when nothing
# changed (well under a second).
#
#   infra/setup/environment.sh use    what running the project and its embedded AWS takes
#   infra/setup/environment.sh dev    that, and what testing and linting takes
#   infra/setup/environment.sh any    whichever is whole, also an older one: enough to end a demo, and needs no network where there is one
#
# An environment is made under the name that it keeps, .cache/environments/HASH-LEVEL, because its scripts name their own place. It gets
# its stamp when it is whole, and .venv points to it from then on. So a set-up that is interrupted harms nothing that is there, what it
# leaves has no stamp and is made anew by the next one, and what runs keeps its packages: an environment is removed when it is not the one
# behind .venv and no process uses it.
#
# Packages come from wherever pip is configured to take them; constraints.txt says which versions. Here belongs nothing that is not
# about Python packages: container engines and images are installed by `monai-aws local up`, which says so.
set -eu

level=${1:-use}
root=$(cd "$(dirname "$0")/../.." && pwd -P)
cd "$root"
environments=.cache/environments
log=.cache/environment.log

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The folder is part of it: an environment that was moved or copied has scripts that point elsewhere.
wanted=$({ sha256sum pyproject.toml constraints.txt infra/setup/environment.sh; echo "$root"; } | sha256sum | cut -c1-12)
case $level in
  use) extras=local suits="$wanted-*" ;;
  dev) extras=local,dev suits="$wanted-dev" ;;
  any) extras=local suits="*" level=use ;;
  *) echo "usage: $0 use|dev|any" >&2; exit 2 ;;
esac

stamp_of() { echo "$1/installed-by-environment.sh"; }
is_whole() { [ -x "$1/bin/python" ] && grep -qsxF "$root" "$(stamp_of "$1")"; }
current() { readlink .venv || true; }
is_ready() {
  case $(basename "$(current)") in
    $suits) is_whole "$(current)" ;;
    *) return 1 ;;
  esac
}

# By a process's command line, which begins with the environment's Python, or by a library of it that a process has loaded. The pattern is
# not an argument, so that the search does not find itself.
is_used() {
  grep -qsF -f - /proc/[0-9]*/cmdline /proc/[0-9]*/maps <<PATTERN
$root/$1/
PATTERN
}

# Only by who holds the lock: a folder without a stamp may be one that is being made.
remove_unused() {
  for other in "$environments"/*; do
    if [ "$other" = "$(current)" ] || [ ! -d "$other" ] || is_used "$other"; then continue; fi
    say "Removing $other, which nothing uses"
    rm -f "$(stamp_of "$other")" # first: what is left of an interrupted removal is not whole
    rm -rf "$other"
  done
}

if is_ready; then
  set -- "$environments"/*
  if [ $# -gt 1 ] && [ -w .cache/environment.lock ]; then
    exec 9>.cache/environment.lock
    if flock -n 9; then remove_unused; fi
  fi
  exit 0
fi

[ "$(uname -s)" = Linux ] || die "this project runs on Linux; on another system use a Linux machine or virtual machine"

find_python() {
  for name in python3.11 python3 python3.12 python3.13; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else return 1
  fi
}

install_venv_module() {
  package=$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')
  say "Installing $package with apt: Debian's and Ubuntu's $python cannot make a virtual environment without it. Takes up to a minute."
  command -v apt-get >/dev/null || die "there is no apt-get here; install the venv module of $python by hand and run this again"
  { as_root apt-get update -qq \
    && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=600 --no-install-recommends "$package"
  } >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "apt could not install $package (root or sudo is needed)"; }
}

# Runs a program with its output in the log, and says every quarter of a minute that it is still at work. It keeps the lock: where this
# script is killed and it is not, the next set-up waits for its end and does not write into the same folder.
run() {
  "$@" >>"$log" 2>&1 &
  child=$!
  while kill -0 $child 2>/dev/null; do
    sleep 0.3
    seconds=$(elapsed)
    if [ "$seconds" -ge "$tell_at" ]; then
      say "  still installing after $seconds s ($(du -sm "$made" | cut -f1) MB)"
      tell_at=$((seconds + 15))
    fi
  done
  wait $child || { tail -n 30 "$log" >&2; die "the set-up of the environment failed; the whole log is $log"; }
  child=
}
elapsed() { echo $(($(date +%s) - began)); }
pip_install() {
  run "$root/$made/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --progress-bar off \
    --constraint constraints.txt "$@"
}

make_environment() {
  made=$environments/$wanted-$level
  say "Installing the project and its packages ($extras) into $made; the first time takes a minute or two, the log is $log"
  rm -rf "$made" # what an interrupted set-up left
  : >"$log"
  child= tell_at=15
  trap 'kill $child 2>/dev/null || true; wait; say "The set-up was interrupted; the next one begins anew." >&2; exit 130' INT TERM HUP
  run "$python" -m venv "$root/$made"
  # The pip that a new environment brings is often years old and needs twice the time to find the same versions.
  pip_install --upgrade pip
  # --no-compile: byte code is written when a module is first imported, which most of these never are.
  pip_install --no-compile --editable ".[$extras]"
  sync -f "$made" # a stamp must not be on the disk before what it vouches for
  printf '%s\n' "$root" >"$(stamp_of "$made")"
  trap - INT TERM HUP
  say "Environment ready after $(elapsed) s; the first start takes some seconds more, in which Python compiles what it loads"
}

mkdir -p "$environments"
exec 9>.cache/environment.lock
flock -n 9 || { say "Waiting for another set-up in this folder to end"; flock 9; }
if is_ready; then exit 0; fi
began=$(date +%s)
for made in "$environments"/$suits; do
  if is_whole "$made"; then break; fi
done
if ! is_whole "$made"; then
  python=$(find_python)
  [ -n "$python" ] || die "no Python 3.11, 3.12 or 3.13 found. On Debian 12 or Ubuntu 24.04: apt-get install python3"
  "$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv_module
  make_environment
fi
# A folder of this name is the environment of an older version of this script.
if [ -d .venv ] && [ ! -L .venv ]; then mv .venv "$environments/replaced-$$"; fi
ln -sfn "$made" .cache/environment.link
mv -fT .cache/environment.link .venv
remove_unused
