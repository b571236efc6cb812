#!/bin/sh
# Installs what is missing, builds, and runs every test. Safe to run again.
set -eu
cd "$(dirname "$0")/.."
. tools/prepare.sh

echo "== style"
swift format lint -r -s Package.swift Sources Tests tools examples

echo "== build"
swift build --build-tests
echo "== test"
swift test --disable-xctest --skip-build
