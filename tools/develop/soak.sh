#!/bin/sh
# SPDX-License-Identifier: MIT
# Hours of mixed work from eight threads through the C interface (Tests/CABITests/Programs/soak.c): nothing may grow,
# leak or differ from what one thread computes.
#
#     tools/develop/soak.sh [SECONDS]    an hour if not said otherwise; one closing line, exit 1 if it found something
set -eu
cd "$(dirname "$0")/../.."
. tools/steps/prepare.sh
seconds=${1:-3600}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

swift build -c release --product rwkv >&2
swift build -c release --product rwkv-quantize >&2
built=$(swift build -c release --show-bin-path)
# Copies, so that the tree may be built again meanwhile.
cp "$built/librwkv.so" "$place/librwkv.so.0"
ln -s librwkv.so.0 "$place/librwkv.so"
convert() { "$built/rwkv-quantize" "Tests/Fixtures/goldens/$1" "$place/$2.rwkv" --type "$3" --tokenizer bytes >&2; }
convert v7-std/model.safetensors v7 int4
convert v6-hf v6 int8
convert x-one/model.pth x int4
convert v4-hf v4 int5
cc -std=c11 -O1 -g -Wall -Wextra -Werror -ISources/CRWKVABI/include Tests/CABITests/Programs/soak.c \
  -o "$place/soak" -L"$place" -lrwkv -lpthread
LD_LIBRARY_PATH="$place" "$place/soak" "$seconds" "$place" \
  "$place/v7.rwkv" "$place/v6.rwkv" "$place/x.rwkv" "$place/v4.rwkv"
