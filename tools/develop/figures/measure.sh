#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures what plot.py draws, with the programs of this project in PATH, and nothing else running:
#   tools/develop/figures/measure.sh OUT quality               types of the trained model in examples/model
#   tools/develop/figures/measure.sh OUT answers LIBGGML-BASE  docs/quality.md's tables beside ggml's types and of whole
#                                                              answers, of examples/model and examples/tasks or of
#     [MODEL TEXT TASKS]                                       models of their kinds; needs what answers.py needs
#   tools/develop/figures/measure.sh OUT speed MODEL.rwkv…     decoding, of one model in several types
#   tools/develop/figures/measure.sh OUT depth MODEL.rwkv      decoding after texts of many lengths
#   tools/develop/figures/measure.sh OUT picture               not measured: the terminal in README.md, OUT/run.svg
set -eu
out=$1
what=$2
shift 2
mkdir -p "$out"
case $what in
quality)
  examples=$(cd "$(dirname "$0")/../../../examples/model" && pwd)
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
answers)
  here=$(cd "$(dirname "$0")" && pwd)
  examples=$here/../../../examples
  model=${2:-$examples/model/rwkv7-docs-5m.safetensors}
  text=${3:-$examples/model/heldout.txt}
  programs=$(dirname "$(command -v rwkv-quantize)")
  head -c 60000 "$text" >"$out/text.txt"
  tail -c 65536 "$text" >"$out/other.txt"
  python3 "$here/../compare-ggml.py" "$model" --text "$out/text.txt" --calibrate "$out/other.txt" --ggml "$1" \
    --bin "$programs" >"$out/ggml.md"
  python3 "$here/../../train/answers.py" "${4:-$examples/tasks/rwkv7-tasks.safetensors}" --other "$out/other.txt" \
    --ggml "$1" --bin "$programs" --raw "$out/answers.jsonl" >"$out/answers.md"
  ;;
speed) rwkv-run bench "$@" -p 0 -n 64 -r 5 -o json >"$out/speed.jsonl" ;;
picture)
  here=$(cd "$(dirname "$0")" && pwd)
  out=$(cd "$out" && pwd)
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  cd "$folder"
  cp "$here/../../../examples/text/rwkv7-docs-8m.safetensors" "$here/../../../examples/text/vocabulary.txt" .
  python3 "$here/record.py" "$out/run.svg" --width 110 \
    --title 'A checkpoint is converted, writes a text, its state is saved, and the text goes on from there' \
    'rwkv-quantize rwkv7-docs-8m.safetensors model.rwkv --no-measure' \
    'rwkv-run model.rwkv -p "The database" -n 80 --temp 1 --top-p 0.7 --seed 1 --save-state db.state' \
    'rwkv-run state show db.state' \
    "rwkv-run model.rwkv --load-state db.state -p ' An index' -n 60 --temp 1 --top-p 0.7 --seed 2"
  ;;
depth) rwkv-run bench "$1" -p 0 -n 64 -r 9 -d 0,1000,4000,16000,32000 -o json >"$out/depth.jsonl" ;;
esac
