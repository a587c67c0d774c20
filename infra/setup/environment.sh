#!/bin/sh
# Makes .venv: Python, this project, and the packages it needs. Run by make; does nothing when nothing changed (well under a second).
#
#   infra/setup/environment.sh use    what running the project and its embedded AWS takes
#   infra/setup/environment.sh dev    that, and what testing and linting takes
#
# Packages come from wherever pip is configured to take them; constraints.txt says which versions. Here belongs nothing that is not
# about Python packages: container engines and images are installed by `monai-aws local up`, which says so.
set -eu

level=${1:-use}
case $level in
  use) extras=local ;;
  dev) extras=local,dev ;;
  *) echo "usage: $0 use|dev" >&2; exit 2 ;;
esac
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
venv=.venv
stamp=$venv/installed-by-environment.sh
log=.cache/environment.log

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The folder is part of it: an environment that was moved or copied has scripts that point elsewhere.
wanted=$({ sha256sum pyproject.toml constraints.txt "$0"; echo "$root"; } | sha256sum | cut -d' ' -f1)
up_to_date() { [ -x $venv/bin/python ] && grep -qsx "$wanted $1" $stamp; }
if up_to_date dev || { [ "$level" = use ] && up_to_date use; }; then exit 0; fi

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

mkdir -p .cache
# Two makes at once (a test beside a demo) must not write into one environment.
exec 9>.cache/environment.lock
flock 9
if up_to_date "$level"; then exit 0; fi

python=$(find_python)
[ -n "$python" ] || die "no Python 3.11, 3.12 or 3.13 found. On Debian 12 or Ubuntu 24.04: apt-get install python3"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  package=$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')
  say "Installing $package with apt: Debian's and Ubuntu's $python cannot make a virtual environment without it."
  command -v apt-get >/dev/null || die "there is no apt-get here; install the venv module of $python by hand and run this again"
  { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; } >"$log" 2>&1 \
    || { tail -n 20 "$log" >&2; die "apt could not install $package (root or sudo is needed)"; }
fi

began=$(date +%s)
elapsed() { echo $(($(date +%s) - began)); }

here=$($venv/bin/python -c 'import sys; print(sys.prefix)' 2>/dev/null || true)
if [ "$here" != "$root/$venv" ]; then
  rm -rf $venv
  "$python" -m venv $venv >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "could not make $venv"; }
fi
rm -f $stamp

say "Installing the project and its packages into $venv ($extras); the first time takes a minute or two, the log is $log"
# The pip that a new environment brings is often years old and needs twice the time to find the same versions.
$venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet --progress-bar off \
  --constraint constraints.txt --upgrade pip >"$log" 2>&1 9>&- || { tail -n 30 "$log" >&2; die "pip could not renew itself; see $log"; }
# --no-compile: byte code is written when a module is first imported, which most of these never are.
$venv/bin/python -m pip install --disable-pip-version-check --no-input --no-compile --quiet --progress-bar off \
  --constraint constraints.txt --editable ".[$extras]" >>"$log" 2>&1 9>&- &
pip=$!
trap 'kill $pip 2>/dev/null || true; exit 130' INT TERM
while kill -0 $pip 2>/dev/null; do
  sleep 1
  seconds=$(elapsed)
  if [ $((seconds % 15)) = 0 ] && kill -0 $pip 2>/dev/null; then say "  still installing after $seconds s ($(du -sm $venv | cut -f1) MB)"; fi
done
wait $pip || { tail -n 30 "$log" >&2; die "pip could not install the packages; the whole log is $log"; }
trap - INT TERM

printf '%s %s\n' "$wanted" "$level" >$stamp
say "Environment ready after $(elapsed) s"
