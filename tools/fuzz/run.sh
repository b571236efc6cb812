#!/bin/sh
# SPDX-License-Identifier: MIT
# Fuzzes one parser, or all in turn, with libFuzzer and AddressSanitizer.
#
#   tools/fuzz/run.sh TARGET|"TARGET ..."|all SECONDS [libFuzzer options]
#
# SECONDS of CPU for each target: see tools/fuzz/targets/FuzzTarget.swift. The corpus grows in
# .build/fuzz-corpus/TARGET; findings are written to .build/fuzz-findings/TARGET-…, what libFuzzer says to
# .build/fuzz-logs/TARGET. A target stops at its first finding; `run.sh TARGET 0 FILE` runs one input. A line for each
# target, one closing line.
set -eu
cd "$(dirname "$0")/../.."
target=$1 seconds=$2
shift 2
targets=$target
if [ "$target" = all ]; then
  targets="rwkv forged state safetensors index config pth rwkvcpp gguf tuned http"
  targets="$targets vocabulary tokenizer-json tokenizer-blob template"
fi

export RWKV_FUZZ=1
build() {
  # Of several such options the Swift compiler takes the last alone, so that one must name both.
  swift build -c release --build-path .build/fuzz --product rwkv-fuzz --sanitize fuzzer \
    -Xswiftc -sanitize=fuzzer,address -Xcc -fsanitize=address -Xswiftc -DGUARDED_ARENAS "$@"
}
build >&2
fuzz=$(build --show-bin-path)/rwkv-fuzz

# Leaks are looked for elsewhere: the Swift runtime keeps metadata alive on purpose. Swift's backtracer never ends in
# these builds; AddressSanitizer writes where it happened, too.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_segv=1 SWIFT_BACKTRACE=enable=no
seeds=.build/fuzz-seeds
if [ ! -d $seeds ]; then
  python3 tools/fuzz/seeds.py $seeds
  RWKV_FUZZ_SEEDS=$seeds "$fuzz"
fi
mkdir -p .build/fuzz-findings .build/fuzz-logs
executions=0 findings=0
for target in $targets; do
  export RWKV_FUZZ_TARGET="$target"
  corpus=.build/fuzz-corpus/$target committed=Tests/Fixtures/fuzz/$target log=.build/fuzz-logs/$target
  mkdir -p "$corpus"
  [ -d "$committed" ] || committed=
  if [ "$seconds" = 0 ]; then
    "$fuzz" "$@"
    continue
  fi
  # Inputs longer than the seeds find nothing new; 64 MB is more than any of them may make a parser allocate at once.
  # The harness counts CPU time itself and traps after one second of it; the clock on the wall is only against endless
  # loops.
  RWKV_FUZZ_SECONDS="$seconds" "$fuzz" -timeout=900 -malloc_limit_mb=64 -rss_limit_mb=2048 -max_len=40000 \
    -print_final_stats=1 -artifact_prefix=".build/fuzz-findings/$target-" "$@" "$corpus" $seeds/"$target" $committed \
    >"$log" 2>&1 || findings=$((findings + 1))
  done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
  executions=$((executions + ${done:-0}))
  echo "$target: ${done:-0} executions, ${edges:-0} edges, $(find "$corpus" -type f | wc -l) inputs"
  if grep -q "no interesting inputs were found" "$log"; then
    echo "$target: the code is not instrumented" && findings=$((findings + 1))
  fi
  grep -E "^(SUMMARY|==[0-9]+== ?ERROR|Fatal error)" "$log" || true
done
[ "$seconds" = 0 ] ||
  echo "fuzz: $(echo "$targets" | wc -w) targets, $seconds s of CPU each, $executions executions, $findings findings"
[ "$findings" = 0 ]
