#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs a wheel of librwkv where nothing else is, and runs the lines of python/README.md word by word:
#   tools/develop/try-wheel.sh WHEEL [SUITE [MIRROR]]
#
# SUITE: a release of Debian, by default bookworm, or of what MIRROR has: `jammy http://archive.ubuntu.com/ubuntu`.
# Needs root and debootstrap, and fetches some 100 MB of that system's and NumPy's packages. The checkpoint is the one
# in examples/model.
set -eu
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "usage: tools/develop/try-wheel.sh WHEEL [SUITE [MIRROR]]" >&2
  exit 64
fi
wheel=$(realpath "$1")
cd "$(dirname "$0")/../.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
suite=${2:-bookworm}
mirror=${3:-http://deb.debian.org/debian}
components=main
case $mirror in *ubuntu*) components=main,universe ;; esac
debootstrap --variant=minbase --components=$components --include=python3,python3-venv,ca-certificates \
  "$suite" "$place" "$mirror" >"$place.log" 2>&1 || { cat "$place.log" >&2; exit 1; }
rm "$place.log"
mkdir "$place/trial"
cp "$wheel" "$place/trial/"
sed -n '/^```python$/,/^```$/{/^```/d;p}' python/README.md >"$place/trial/readme.py"
cp examples/model/rwkv7-docs-5m.safetensors "$place/trial/rwkv7-g1.safetensors"
python=$(chroot "$place" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python3 -m pip download -q --no-deps --only-binary :all: --python-version "$python" -d "$place/trial" numpy
chroot "$place" /bin/sh -ec '
  cd /trial
  ! command -v swift
  python3 -m venv venv
  venv/bin/pip install -q --no-index --find-links . ./librwkv-*.whl
  # The licences of all that is linked in.
  for name in LICENSE NOTICES.md licenses/swift.txt licenses/zstd.txt; do
    test -s venv/lib/python3*/site-packages/librwkv-*.dist-info/licenses/$name
  done
  venv/bin/python readme.py'
echo "$(basename "$wheel") runs on $suite ($mirror) with Python $python"
