#!/bin/sh
# Makes what runs without Swift, in FOLDER (tools/release.sh [FOLDER], by default .build/release-files): an archive
# rwkv-VERSION-linux-ARCHITECTURE.tar.gz with the commands, the C library, man pages and shell completions; and a Python
# wheel.
#
# The commands need nothing but a Linux kernel: no shared library of any kind. librwkv.so needs the C and C++ libraries of a
# distribution as old as this one, or newer.
set -eu
cd "$(dirname "$0")/.."
. tools/prepare.sh
out=${1:-.build/release-files}
mkdir -p "$out"

# A folder in which the linker finds libzstd as an archive alone, so that it is linked statically.
archives=$PWD/.build/archives
mkdir -p "$archives"
ln -sf "$(pkg-config --variable=libdir libzstd)/libzstd.a" "$archives/libzstd.a"

# build PRODUCT HOW: prints the path of what was built. What is compiled for one way of linking is no use for the other.
build() {
  set -- --product "$1" -c release --scratch-path ".build/$2" -Xswiftc "-$2" -Xlinker "-L$archives"
  swift build "$@" >.build/release.log 2>&1 || { cat .build/release.log >&2; exit 1; }
  swift build "$@" --show-bin-path
}

say "building the commands and the library (the first time takes some minutes)"
commands=$(build rwkv-run static-executable)
build rwkv-quantize static-executable >/dev/null
library=$(build rwkv static-stdlib)

version=$("$commands/rwkv-run" --version)
name=rwkv-$version-linux-$(uname -m)
stage=$out/$name
say "putting together $name"
rm -rf "$stage"
mkdir -p "$stage/bin" "$stage/include" "$stage/lib/pkgconfig" "$stage/share/man/man1" "$stage/share/doc/rwkv" \
  "$stage/share/bash-completion/completions" "$stage/share/zsh/site-functions" "$stage/share/fish/vendor_completions.d"
cp -r README.md LICENSE docs "$stage/"
cp Sources/CRWKVABI/include/rwkv.h "$stage/include/"
# The licences of what is linked in.
for package in libzstd-dev libc6-dev; do
  if [ -e "/usr/share/doc/$package/copyright" ]; then
    cp "/usr/share/doc/$package/copyright" "$stage/share/doc/rwkv/$package.copyright"
  fi
done

strip -o "$stage/lib/librwkv.so.0" "$library/librwkv.so"
ln -s librwkv.so.0 "$stage/lib/librwkv.so"
cat >"$stage/lib/pkgconfig/rwkv.pc" <<PC
prefix=\${pcfiledir}/../..
Name: rwkv
Description: RWKV language models on CPUs
Version: $version
Cflags: -I\${prefix}/include
Libs: -L\${prefix}/lib -lrwkv
PC

# The argument parser's own generator of man pages.
parser=.build/checkouts/swift-argument-parser
swift build --package-path "$parser" --scratch-path .build/manual --product generate-manual >.build/release.log 2>&1 ||
  { cat .build/release.log >&2; exit 1; }
for command in rwkv-run rwkv-quantize; do
  tool=$stage/bin/$command
  strip -o "$tool" "$commands/$command"
  .build/manual/debug/generate-manual "$tool" --multi-page --output-directory "$stage/share/man/man1"
  "$tool" --generate-completion-script bash >"$stage/share/bash-completion/completions/$command"
  "$tool" --generate-completion-script zsh >"$stage/share/zsh/site-functions/_$command"
  "$tool" --generate-completion-script fish >"$stage/share/fish/vendor_completions.d/$command.fish"
done

# What must hold on machines without Swift.
if readelf -d "$stage/bin/rwkv-run" "$stage/bin/rwkv-quantize" "$stage/lib/librwkv.so.0" |
  grep -E 'NEEDED.*(swift|Foundation|dispatch|zstd)|RUNPATH|RPATH' >&2; then
  say "these libraries should have been linked in" >&2
  exit 1
fi
[ "$(env -i "$stage/bin/rwkv-run" --version)" = "$version" ]

tar -C "$out" --sort=name --owner=0 --group=0 -czf "$out/$name.tar.gz" "$name"
python3 tools/wheel.py "$stage/lib/librwkv.so.0" "$out" >/dev/null
rm -rf "$stage"
ls -l "$out"
