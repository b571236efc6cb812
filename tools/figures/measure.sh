#!/bin/sh
# Measures what plot.py draws, with the programs of this project in PATH, and nothing else running:
#   tools/figures/measure.sh OUT quality               types of the trained model in examples/model
#   tools/figures/measure.sh OUT speed MODEL.rwkv…     decoding, of one model in several types
#   tools/figures/measure.sh OUT depth MODEL.rwkv      decoding after texts of many lengths
set -eu
out=$1
what=$2
shift 2
mkdir -p "$out"
case $what in
quality)
  examples=$(cd "$(dirname "$0")/../../examples/model" && pwd)
  rwkv-quantize "$examples/rwkv7-docs-5m.safetensors" "$out/exact.rwkv" --type fp32 --force
  : >"$out/quality.jsonl"
  for type in int4 int5 int8 fp16; do
    rwkv-quantize "$examples/rwkv7-docs-5m.safetensors" "$out/$type.rwkv" --type $type --force
    # Two objects a line: what the file is, what it lost.
    printf '[%s,%s]\n' "$(rwkv-quantize show "$out/$type.rwkv" --json)" \
      "$(rwkv-quantize compare "$out/exact.rwkv" "$out/$type.rwkv" --text "$examples/heldout.txt" --json)" \
      >>"$out/quality.jsonl"
  done
  ;;
speed) rwkv-run bench "$@" -p 0 -n 64 -r 5 -o json >"$out/speed.jsonl" ;;
depth) rwkv-run bench "$1" -p 0 -n 64 -r 9 -d 0,1000,4000,16000,32000 -o json >"$out/depth.jsonl" ;;
esac
