# NVIDIA driver and container toolkit: taken as the image brings them, installed where a plain Ubuntu has a GPU and neither of them.
# Sourced by provision.sh with MIN_DRIVER, and uses its functions. The driver (open kernel modules) comes from Ubuntu's own archive, the toolkit
# from NVIDIA's, whose key is known here by its fingerprint. Source: Ubuntu Server documentation, "NVIDIA drivers installation";
# NVIDIA Container Toolkit, "Installing with apt".

PCI_DEVICES=${PCI_DEVICES:-/sys/bus/pci/devices}
KEYRINGS=${KEYRINGS:-/usr/share/keyrings}
APT_SOURCES=${APT_SOURCES:-/etc/apt/sources.list.d}
TOOLKIT_REPOSITORY=https://nvidia.github.io/libnvidia-container
TOOLKIT_KEY=C95B321B61E88C1809C4F759DDCAE044F796ECB0

driver_version() {
  local said
  said=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n1) || true
  case $said in [0-9]*) printf %s "$said" ;; esac
}
has_gpu() { grep -qsx 0x10de "$PCI_DEVICES"/*/vendor; }
has_package() { apt-cache show --no-all-versions "$1" 2>/dev/null | grep . >/dev/null; }

# Modules that Ubuntu has built for the running kernel, or else built here. A host's kernel stays: nothing upgrades it but a new image.
install_driver() {
  local kernel branch=$MIN_DRIVER-server
  kernel=$(uname -r)
  read_lists
  if has_package "linux-modules-nvidia-$branch-open-$kernel"; then
    install_packages "linux-modules-nvidia-$branch-open-$kernel" "nvidia-headless-no-dkms-$branch-open" "nvidia-utils-$branch"
  elif has_package "nvidia-dkms-$branch-open" && has_package "linux-headers-$kernel"; then
    install_packages "linux-headers-$kernel" "nvidia-dkms-$branch-open" "nvidia-headless-no-dkms-$branch-open" "nvidia-utils-$branch"
  else
    fail "the machine has a GPU, and its package sources have no NVIDIA driver $branch-open for the kernel $kernel; use a GPU base image"
  fi
  modprobe nvidia || fail "the NVIDIA kernel module does not load (dmesg says why)"
}

install_toolkit() {
  local key="$KEYRINGS/nvidia-container-toolkit.asc" fetched found
  { have curl && have gpg; } || install_packages ca-certificates curl gpg
  fetched=$(mktemp -d)
  curl -fsSL --retry 3 --max-time 60 -o "$fetched/key" "$TOOLKIT_REPOSITORY/gpgkey" \
    || fail "the key of NVIDIA's package source cannot be fetched; let the machine reach it, or use a GPU base image"
  # Of primary keys, exactly this one: apt would trust every key in the file.
  found=$(GNUPGHOME="$fetched" gpg --show-keys --with-colons "$fetched/key" 2>/dev/null \
    | awk -F: '$1 == "pub" { due = 1 } $1 == "sub" { due = 0 } $1 == "fpr" && due { print $10; due = 0 }') || true
  [ "$found" = "$TOOLKIT_KEY" ] || fail "the key of NVIDIA's package source is ${found:-none}, not $TOOLKIT_KEY: nothing is installed from there"
  install -m 644 "$fetched/key" "$key"
  rm -rf "$fetched"
  printf 'deb [signed-by=%s] %s/stable/deb/%s /\n' "$key" "$TOOLKIT_REPOSITORY" "$(dpkg --print-architecture)" \
    > "$APT_SOURCES/nvidia-container-toolkit.list"
  lists_read=""
  install_packages nvidia-container-toolkit
}

driver=$(driver_version)
if [ -z "$driver" ] && has_gpu; then
  install_driver
  driver=$(driver_version)
fi
[ -n "$driver" ] || fail "no NVIDIA driver answers; use a type with a GPU and a base image for it, or set MONAI_AWS_GPUS= for machines without a GPU"
oldest=$(printf '%s\n%s\n' "$MIN_DRIVER" "$driver" | sort -V | head -n1)
[ "$oldest" = "$MIN_DRIVER" ] || fail "NVIDIA driver $driver is older than $MIN_DRIVER; use a newer base image"
if ! have nvidia-ctk && has_gpu; then
  install_toolkit
fi
have nvidia-ctk || fail "the NVIDIA container toolkit (nvidia-ctk) is missing on the base image; use a GPU base image"
step "GPU driver $driver"
