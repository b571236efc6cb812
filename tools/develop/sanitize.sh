#!/bin/sh
# SPDX-License-Identifier: MIT
# The C kernels, the C interface and the threads under sanitizers, the C example under valgrind. Zero findings, or
# exit 1.
#
#     tools/develop/sanitize.sh [kernels] [address] [thread] [valgrind]        all of them if none is named
#
#   kernels    every kernel test with AddressSanitizer and UndefinedBehaviorSanitizer
#   address    all of rwkv.h and eight threads of mixed work, with both
#   thread     eight threads of mixed work, with ThreadSanitizer
#   valgrind   examples/c-embed: no invalid access, nothing lost
#
# Builds are kept in .build/sanitize-*. One closing line.
set -eu
cd "$(dirname "$0")/../.."
. tools/steps/prepare.sh
wanted=${*:-kernels address thread valgrind}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
findings=0
checks=0
toolchain=$(dirname "$(readlink -f "$(command -v swift)")")
clang=$toolchain/clang
runtime=$(readlink -f "$toolchain/../lib/swift/linux")

# check NAME COMMAND...: runs it and counts what it reports.
check() {
  name=$1
  shift
  checks=$((checks + 1))
  status=0
  "$@" >"$place/log" 2>&1 || status=$?
  reports=$(grep -cE "(ERROR|WARNING|SUMMARY): (Address|Thread|Leak)|runtime error:|ERROR SUMMARY: [1-9]" \
    "$place/log" || true)
  if [ "$status" != 0 ] || [ "$reports" != 0 ]; then
    findings=$((findings + (reports > 0 ? reports : 1)))
    echo "== $name: exit $status, $reports reports"
    tail -60 "$place/log"
  else
    echo "== $name: nothing found"
  fi
}

# build SANITIZER FOLDER ARGUMENTS...
build() {
  sanitizer=$1
  scratch=.build/sanitize-$2
  shift 2
  undefined=""
  [ "$sanitizer" = thread ] || undefined="-Xcc -fsanitize=undefined -Xcc -fno-sanitize-recover=undefined"
  # shellcheck disable=SC2086
  swift build --scratch-path "$scratch" --sanitize "$sanitizer" $undefined "$@" >"$place/build" 2>&1 || {
    tail -30 "$place/build"
    exit 1
  }
}

# convert SCRATCH: models of every kind of state, made by the sanitized converter.
convert() {
  for pair in v7-std/model.safetensors:v7:int4 v6-hf:v6:int8 x-one/model.pth:x:int4 v4-hf:v4:int5; do
    name=${pair#*:}
    check "convert $name ($1)" "$1/debug/rwkv-quantize" "Tests/Fixtures/goldens/${pair%%:*}" "$place/${name%:*}.rwkv" \
      --type "${name#*:}" --tokenizer bytes --force
  done
}

# program SCRATCH SANITIZERS NAME: compiles one of the test programs against the sanitized library.
program() {
  ln -sf "$PWD/$1/debug/librwkv.so" "$place/librwkv.so"
  ln -sf "$PWD/$1/debug/librwkv.so" "$place/librwkv.so.0"
  "$clang" -std=gnu11 -g -O1 -fsanitize="$2" -ISources/CRWKVABI/include "Tests/CABITests/Programs/$3.c" -o "$place/$3" \
    -L"$place" -lrwkv -lm -lpthread -L"$runtime" -ldispatch -lBlocksRuntime -Wl,-rpath,"$place:$runtime"
}

soak() {
  check "soak ($1)" "$place/soak" 0 "$place" "$place/v7.rwkv" "$place/v6.rwkv" "$place/x.rwkv" "$place/v4.rwkv"
}

export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS="suppressions=$PWD/tools/develop/sanitize-leaks.txt"
export TSAN_OPTIONS="suppressions=$PWD/tools/develop/sanitize-threads.txt"

for kind in $wanted; do
  case $kind in
    kernels)
      build address address --build-tests
      check "kernel tests" swift test --scratch-path .build/sanitize-address --sanitize address --disable-xctest \
        --skip-build --filter KernelTests
      ;;
    address)
      build address address --product rwkv
      build address address --product rwkv-quantize
      convert .build/sanitize-address
      program .build/sanitize-address address,undefined every_function
      mkdir -p "$place/out"
      check "every function (address)" "$place/every_function" "$place/v7.rwkv" "$place/v6.rwkv" "$place/x.rwkv" \
        Tests/Fixtures/goldens/v7-std/model.safetensors "$place/out"
      for name in generation scheduler; do
        program .build/sanitize-address address,undefined $name
      done
      check "generation (address)" "$place/generation" "$place/v7.rwkv"
      check "scheduler (address)" "$place/scheduler" "$place/v7.rwkv" "$place/v6.rwkv"
      program .build/sanitize-address address,undefined soak
      soak address
      ;;
    thread)
      build thread thread --product rwkv
      build thread thread --product rwkv-quantize
      convert .build/sanitize-thread
      program .build/sanitize-thread thread scheduler
      check "scheduler (thread)" "$place/scheduler" "$place/v7.rwkv" "$place/v6.rwkv"
      program .build/sanitize-thread thread soak
      soak thread
      ;;
    valgrind)
      if ! command -v valgrind >/dev/null; then
        echo "== valgrind: skipped, it is not installed"
        continue
      fi
      swift build --product rwkv >/dev/null
      swift build --product rwkv-quantize >/dev/null
      convert .build
      # Older valgrinds give up on debug information of this kind.
      strip --strip-debug .build/debug/librwkv.so -o "$place/librwkv-plain.so"
      tools/steps/install-library.sh "$place/librwkv-plain.so" "$place/installed"
      PKG_CONFIG_PATH="$place/installed/lib/pkgconfig" make -C examples/c-embed -s --always-make
      check "examples/c-embed (valgrind)" \
        valgrind --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite \
        examples/c-embed/embed "$place/v7.rwkv" "hello world" 20
      make -C examples/c-embed -s clean
      ;;
    *)
      echo "unknown: $kind" >&2
      exit 64
      ;;
  esac
done
echo "sanitize: $wanted: $checks checks, $findings findings"
[ "$findings" = 0 ]
