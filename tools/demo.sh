#!/bin/sh
# SPDX-License-Identifier: MIT
# From a fresh clone to text: builds a release, converts the trained checkpoint to INT4 and lets it write.
#   tools/demo.sh --serve [--port N]    then serves it, with a page for browsers, until Ctrl-C
set -eu
serve=no
port=8080
while [ $# -gt 0 ]; do
  case $1 in
    --serve) serve=yes ;;
    --port) port=${2:?--port needs a number}; shift ;;
    *) echo "usage: tools/demo.sh [--serve [--port N]]" >&2; exit 64 ;;
  esac
  shift
done
cd "$(dirname "$0")/.."
. tools/steps/prepare.sh

say "building a release (the first time takes a minute or two)"
mkdir -p .build
for product in rwkv-quantize rwkv-run; do
  # Quiet unless something goes wrong: the compiler's errors are shown then.
  swift build -c release --product "$product" >.build/demo.log 2>&1 || { cat .build/demo.log >&2; exit 1; }
done
bin=$(swift build -c release --show-bin-path)

model=.build/demo.rwkv
say "converting examples/text/rwkv7-docs-8m.safetensors to INT4"
"$bin/rwkv-quantize" examples/text/rwkv7-docs-8m.safetensors "$model" --type int4 --force

say "writing text:"
printf 'The database'
"$bin/rwkv-run" "$model" -p "The database" -n 120 --temp 1 --top-p 0.7 --seed 1

if [ $serve = yes ]; then
  say "building the server (the first time takes some minutes)"
  swift build -c release --package-path server --product rwkv-serve >/dev/null
  say "the page is at http://127.0.0.1:$port; Ctrl-C ends it"
  programs=$(swift build -c release --package-path server --show-bin-path)
  exec "$programs/rwkv-serve" "$model" --port "$port" --template none
fi
