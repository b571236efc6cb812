# SPDX-License-Identifier: MIT
# Sourced by the other scripts: installs the system packages that the build needs, where they are missing.

say() { printf '%s\n' "$*"; }

if ! command -v swift >/dev/null 2>&1; then
  say "Swift 6.2 or newer is needed: see https://www.swift.org/install/linux/" >&2
  exit 1
fi
# Installs Debian packages, as root or through sudo.
install_packages() {
  say "installing $*"
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo"
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

if ! pkg-config --exists libzstd 2>/dev/null; then install_packages libzstd-dev pkg-config; fi
