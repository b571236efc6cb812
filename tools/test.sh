#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs what is missing, builds, and runs every test. Safe to run again.
set -eu
cd "$(dirname "$0")/.."
. tools/steps/prepare.sh
# formats/read_model.py, the independent reader, is compared with the runtime.
if ! python3 -c "import numpy, zstandard" 2>/dev/null; then
  install_packages python3 python3-numpy python3-zstandard
  PATH="/usr/bin:$PATH" # the Python that has them, if another one comes first
fi
# NEON kernels are compiled for ARM and run on an emulated processor; skipped where that cannot be had.
if ! command -v qemu-aarch64 >/dev/null 2>&1 || ! command -v aarch64-linux-gnu-gcc >/dev/null 2>&1; then
  install_packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user || say "no ARM tools: those tests are skipped"
fi
# Checkpoints are read from a hub of the tests' own; skipped where libcurl cannot be had.
if ! ldconfig -p | grep -qE 'libcurl(-gnutls)?\.so\.4' || ! command -v openssl >/dev/null 2>&1; then
  install_packages libcurl4 openssl || say "no libcurl: those tests are skipped"
fi

# Python's packages for tests of ours are apart from the system's; those tests are skipped where they cannot be had.
if [ ! -x .build/venv/bin/pip ] && ! python3 -m venv .build/venv 2>/dev/null; then
  { install_packages python3-venv && python3 -m venv .build/venv; } || true
fi
# What is fetched is fetched while the compilers work.
{
  for list in Tests/CABITests/requirements.txt server/Tests/requirements.txt; do
    .build/venv/bin/pip install -q -r $list || say "$list cannot be had: tests that need it are skipped"
  done
} &
packages=$!
swift package --package-path server resolve >/dev/null 2>&1 &
server=$!

echo "== style"
swift format lint -r -s Package.swift Sources Tests tools examples

echo "== build"
swift build --build-tests
wait $packages
echo "== test"
swift test --disable-xctest --skip-build

# The server is a package of its own, whose dependencies are many; without them its tests are skipped.
if wait $server; then
  echo "== server"
  swift build --package-path server --product rwkv-serve
  bin=$(swift build --show-bin-path)
  serve=$(swift build --package-path server --show-bin-path)/rwkv-serve
  "$bin/rwkv-quantize" examples/model/rwkv7-docs-5m.safetensors .build/server-test.rwkv --type int4 --no-measure --force
  python=python3
  [ ! -x .build/venv/bin/python ] || python=.build/venv/bin/python
  $python server/Tests/routes.py "$serve" .build/server-test.rwkv
  for part in emb rerank; do
    "$bin/rwkv-quantize" Tests/Fixtures/goldens/$part-std/model.pth .build/server-$part.rwkv --type fp32 --force \
      $([ $part = emb ] && echo --tokenizer bytes)
  done
  $python server/Tests/texts.py "$serve" .build/server-emb.rwkv .build/server-rerank.rwkv "$bin/rwkv-run"
  "$bin/rwkv-quantize" Tests/Fixtures/goldens/v7b-std/model.safetensors .build/server-7b.rwkv --tokenizer bytes --force
  $python server/Tests/starts.py "$serve" .build/server-7b.rwkv .build/server-rerank.rwkv \
    .build/server-test.rwkv
else
  say "the server's dependencies cannot be fetched: its tests are skipped"
fi
