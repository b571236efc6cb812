#!/bin/sh
# SPDX-License-Identifier: MIT
# From a fresh clone to text: builds a release, converts the trained checkpoint to INT4 and lets it write.
set -eu
cd "$(dirname "$0")/.."
. tools/prepare.sh

say "building a release (the first time takes a minute or two)"
swift build -c release --product rwkv-quantize >/dev/null
swift build -c release --product rwkv-run >/dev/null
bin=$(swift build -c release --show-bin-path)

model=.build/demo.rwkv
say "converting examples/model/rwkv7-docs-5m.safetensors to INT4"
"$bin/rwkv-quantize" examples/model/rwkv7-docs-5m.safetensors "$model" --type int4 --force

say "writing text:"
printf 'The database'
"$bin/rwkv-run" "$model" -p "The database" -n 400 --temp 0.7 --top-p 0.8 --seed 1
