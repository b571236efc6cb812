# Sourced by the other scripts: installs the system packages that the build needs, where they are missing.

say() { printf '%s\n' "$*"; }

if ! command -v swift >/dev/null 2>&1; then
  say "Swift 6.2 or newer is needed: see https://www.swift.org/install/linux/" >&2
  exit 1
fi
if ! pkg-config --exists libzstd 2>/dev/null; then
  say "installing libzstd-dev and pkg-config"
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo"
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq libzstd-dev pkg-config >/dev/null
fi
