#!/bin/sh
# Fuzzes one parser, or all in turn, with libFuzzer and AddressSanitizer.
#
#   tools/fuzz/run.sh TARGET|all SECONDS [libFuzzer options]
#
# Targets: see tools/fuzz/targets/FuzzTarget.swift. The corpus grows in .build/fuzz-corpus/TARGET; findings are written
# to .build/fuzz-findings/TARGET-…. A target stops at its first finding; `run.sh TARGET 0 FILE` runs one input.
set -eu
cd "$(dirname "$0")/../.."
target=$1 seconds=$2
shift 2
targets=$target
[ "$target" != all ] ||
  targets="rwkv state safetensors index config pth rwkvcpp gguf tuned vocabulary tokenizer-json tokenizer-blob template"

export RWKV_FUZZ=1
build() {
  swift build -c release --build-path .build/fuzz --product rwkv-fuzz --sanitize fuzzer --sanitize address "$@"
}
build >&2
fuzz=$(build --show-bin-path)/rwkv-fuzz

# Leaks are looked for elsewhere: the Swift runtime keeps metadata alive on purpose.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_segv=1
seeds=.build/fuzz-seeds
if [ ! -d $seeds ]; then
  python3 tools/fuzz/seeds.py $seeds
  RWKV_FUZZ_SEEDS=$seeds "$fuzz"
fi
mkdir -p .build/fuzz-findings
status=0
for target in $targets; do
  export RWKV_FUZZ_TARGET="$target"
  corpus=.build/fuzz-corpus/$target committed=Tests/Fixtures/fuzz/$target
  mkdir -p "$corpus"
  [ -d "$committed" ] || committed=
  if [ "$seconds" = 0 ]; then
    "$fuzz" "$@"
    continue
  fi
  # Inputs longer than the seeds find nothing new; 64 MB is more than any of them may make a parser allocate at once.
  # The harness itself traps after one second of CPU; the clock on the wall is only against endless loops.
  "$fuzz" -max_total_time="$seconds" -timeout=900 -malloc_limit_mb=64 -rss_limit_mb=2048 -max_len=40000 \
    -print_final_stats=1 -artifact_prefix=".build/fuzz-findings/$target-" "$@" "$corpus" $seeds/"$target" $committed ||
    status=1
done
exit $status
