#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes what runs without Swift, in FOLDER (tools/release.sh [FOLDER], by default .build/release-files): an archive
# rwkv-VERSION-linux-ARCHITECTURE.tar.gz of what tools/build.sh installs, with the documents; and a Python wheel.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${1:-.build/release-files}"
out=$(cd "${1:-.build/release-files}" && pwd)
stage=$out/stage
rm -rf "$stage"
tools/build.sh "$stage"

version=$("$stage/bin/rwkv-run" --version)
name=rwkv-$version-linux-$(uname -m)
echo "putting together $name"
cp -r README.md LICENSE docs "$stage/"
mkdir -p "$stage/share/doc/rwkv"
# The licence of what is linked in and asks for it.
if [ -e /usr/share/doc/libzstd-dev/copyright ]; then
  cp /usr/share/doc/libzstd-dev/copyright "$stage/share/doc/rwkv/libzstd.copyright"
fi

# What must hold on machines without Swift.
if readelf -d "$stage"/bin/* "$stage/lib/librwkv.so.0" | grep -E 'NEEDED.*(swift|Foundation|dispatch|zstd)' >&2; then
  echo "these libraries should have been linked in" >&2
  exit 1
fi
[ "$(env -i "$stage/bin/rwkv-run" --version)" = "$version" ]

rm -rf "${out:?}/$name"
mv "$stage" "$out/$name"
tar -C "$out" --sort=name --owner=0 --group=0 -czf "$out/$name.tar.gz" "$name"
RWKV_LIBRARY=$out/$name/lib/librwkv.so.0 python3 -m pip wheel -q --no-deps -w "$out" ./python
rm -rf "${out:?}/$name"
ls -l "$out"
