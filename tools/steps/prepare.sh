# SPDX-License-Identifier: MIT
# Sourced by the other scripts: installs the system packages that the build needs, where they are missing.

say() { printf '%s\n' "$*"; }

if ! command -v swift >/dev/null 2>&1; then
  say "Swift 6.2 or newer is needed: see https://www.swift.org/install/linux/" >&2
  exit 1
fi
# Installs Debian packages, as root or through sudo. Where there is no apt, says what is to be installed.
install_packages() {
  if ! command -v apt-get >/dev/null 2>&1; then
    say "libzstd with its headers and pkg-config are needed, and cannot be installed from here without apt:" >&2
    say "  Fedora, RHEL:  sudo dnf install libzstd-devel pkgconf-pkg-config" >&2
    say "  Arch:          sudo pacman -S zstd pkgconf" >&2
    say "  openSUSE:      sudo zypper install libzstd-devel pkg-config" >&2
    exit 1
  fi
  say "installing $*"
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo"
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

if ! pkg-config --exists libzstd 2>/dev/null; then install_packages libzstd-dev pkg-config; fi
