#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs a wheel of librwkv where nothing else is, and runs the lines of python/README.md word by word:
#   tools/develop/try-wheel.sh WHEEL [SUITE]
#
# SUITE: a release of Debian, by default bookworm. Needs root and debootstrap, and fetches some 100 MB of Debian's and
# NumPy's packages. The checkpoint is the one in examples/model.
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: tools/develop/try-wheel.sh WHEEL [SUITE]" >&2
  exit 64
fi
wheel=$(realpath "$1")
cd "$(dirname "$0")/../.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "${2:-bookworm}" "$place" \
  http://deb.debian.org/debian >"$place.log" 2>&1 || { cat "$place.log" >&2; exit 1; }
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
  venv/bin/python readme.py'
echo "$(basename "$wheel") runs on Debian ${2:-bookworm} with Python $python"
