#!/bin/sh
# Installs what is missing, builds, and runs every test. Safe to run again.
set -eu
cd "$(dirname "$0")/.."
. tools/prepare.sh
# formats/read_model.py, the independent reader, is compared with the runtime.
python_reader="import numpy, zstandard"
if ! python3 -c "$python_reader" 2>/dev/null; then
  install_packages python3 python3-numpy python3-zstandard
fi

echo "== style"
swift format lint -r -s Package.swift Sources Tests tools examples

echo "== build"
swift build --build-tests
echo "== test"
swift test --disable-xctest --skip-build
