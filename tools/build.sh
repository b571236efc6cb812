#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds a release of everything that people run or link, and installs it into PREFIX, by default build/:
#   tools/build.sh [--no-serve] [PREFIX]
#
#   bin/        rwkv-run, rwkv-quantize, rwkv-serve (--no-serve leaves it out)
#   lib/        librwkv.so with pkg-config and CMake files
#   include/    rwkv.h
#   share/      man pages, completions for bash, zsh and fish
#
# The Swift runtime and libzstd are linked in: what is made runs on machines without Swift, with this one's C library or
# a newer one. PREFIX may be moved. Safe to run again: only what has changed is built.
set -eu
serve=yes
prefix=build
for argument; do
  case $argument in
    --no-serve) serve=no ;;
    -*) echo "usage: tools/build.sh [--no-serve] [PREFIX]" >&2; exit 64 ;;
    *) prefix=$argument ;;
  esac
done
mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
cd "$(dirname "$0")/.."
. tools/steps/prepare.sh

# A folder in which the linker finds libzstd as an archive alone, so that it is linked statically.
archives=$PWD/.build/archives
mkdir -p "$archives"
archive=$(clang -print-file-name=libzstd.a)
if [ -e "$archive" ]; then ln -sf "$archive" "$archives/libzstd.a"; fi

build() {
  swift build -c release --scratch-path .build/static -Xswiftc -static-stdlib -Xlinker "-L$archives" "$@"
}
# Quiet unless something goes wrong: the compiler's errors are shown then.
# Without what differs from folder to folder: debug information, and the number that is computed from it.
stripped() { strip -R .note.gnu.build-id -o "$2" "$1"; }
quietly() { "$@" >.build/build.log 2>&1 || { cat .build/build.log >&2; exit 1; }; }

say "building the programs and the library (the first time takes some minutes)"
programs="rwkv-run rwkv-quantize"
for product in rwkv $programs; do quietly build --product "$product"; done
built=$(build --show-bin-path)
if [ "$serve" = yes ]; then
  # A package of its own, with dependencies of its own.
  say "building the server"
  build_server() { swift build -c release --package-path server --scratch-path .build/static-server \
    --static-swift-stdlib -Xlinker "-L$archives" -Xcc "-ffile-prefix-map=$PWD/=" "$@"; }
  quietly build_server --product rwkv-serve
  ln -sf "$(build_server --show-bin-path)/rwkv-serve" "$built/rwkv-serve"
  programs="$programs rwkv-serve"
fi

say "installing into $prefix"
stripped "$built/librwkv.so" .build/librwkv.so.0
tools/steps/install-library.sh .build/librwkv.so.0 "$prefix"
share=$prefix/share
mkdir -p "$prefix/bin" "$share/man/man1" "$share/bash-completion/completions" "$share/zsh/site-functions" \
  "$share/fish/vendor_completions.d"
for command in $programs; do
  program=$prefix/bin/$command
  rm -f "$program"
  stripped "$built/$command" "$program"
  python3 tools/steps/manual.py "$program" >"$share/man/man1/$command.1"
  python3 tools/steps/completions.py "$program" bash | sed "1{/^#!/d}" >"$share/bash-completion/completions/$command"
  python3 tools/steps/completions.py "$program" zsh >"$share/zsh/site-functions/_$command"
  python3 tools/steps/completions.py "$program" fish >"$share/fish/vendor_completions.d/$command.fish"
done
