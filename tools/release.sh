#!/bin/sh
# Makes what runs without Swift, in FOLDER (tools/release.sh [FOLDER], by default .build/release-files): an archive
# rwkv-VERSION-linux-ARCHITECTURE.tar.gz with the commands, the C library, man pages and shell completions; and a Python
# wheel.
#
# The Swift runtime and libzstd are linked in. The C and C++ libraries are the system's, so all of it runs on distributions as
# old as the one it was made on, or newer.
set -eu
cd "$(dirname "$0")/.."
. tools/prepare.sh
out=${1:-.build/release-files}
mkdir -p "$out"

# A folder in which the linker finds libzstd as an archive alone, so that it is linked statically.
archives=$PWD/.build/archives
mkdir -p "$archives"
ln -sf "$(clang -print-file-name=libzstd.a)" "$archives/libzstd.a"

build() {
  swift build -c release --scratch-path .build/static -Xswiftc -static-stdlib -Xlinker "-L$archives" "$@"
}

say "building the commands and the library (the first time takes some minutes)"
for product in rwkv-run rwkv-quantize rwkv; do
  build --product "$product" >.build/release.log 2>&1 || { cat .build/release.log >&2; exit 1; }
done
built=$(build --show-bin-path)

version=$("$built/rwkv-run" --version)
name=rwkv-$version-linux-$(uname -m)
stage=$out/$name
say "putting together $name"
rm -rf "$stage"
mkdir -p "$stage/bin" "$stage/include" "$stage/lib/pkgconfig" "$stage/share/man/man1" "$stage/share/doc/rwkv" \
  "$stage/share/bash-completion/completions" "$stage/share/zsh/site-functions" "$stage/share/fish/vendor_completions.d"
cp -r README.md LICENSE docs "$stage/"
cp Sources/CRWKVABI/include/rwkv.h "$stage/include/"
# The licence of what is linked in and asks for it.
if [ -e /usr/share/doc/libzstd-dev/copyright ]; then
  cp /usr/share/doc/libzstd-dev/copyright "$stage/share/doc/rwkv/libzstd.copyright"
fi

strip -o "$stage/lib/librwkv.so.0" "$built/librwkv.so"
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
parser=.build/static/checkouts/swift-argument-parser
swift build --package-path "$parser" --scratch-path .build/manual --product generate-manual >.build/release.log 2>&1 ||
  { cat .build/release.log >&2; exit 1; }
for command in rwkv-run rwkv-quantize; do
  tool=$stage/bin/$command
  strip -o "$tool" "$built/$command"
  .build/manual/debug/generate-manual "$tool" --multi-page --output-directory "$stage/share/man/man1"
  python3 tools/completions.py "$tool" bash >"$stage/share/bash-completion/completions/$command"
  python3 tools/completions.py "$tool" zsh >"$stage/share/zsh/site-functions/_$command"
  python3 tools/completions.py "$tool" fish >"$stage/share/fish/vendor_completions.d/$command.fish"
done

# What must hold on machines without Swift.
if readelf -d "$stage/bin/rwkv-run" "$stage/bin/rwkv-quantize" "$stage/lib/librwkv.so.0" |
  grep -E 'NEEDED.*(swift|Foundation|dispatch|zstd)' >&2; then
  say "these libraries should have been linked in" >&2
  exit 1
fi
[ "$(env -i "$stage/bin/rwkv-run" --version)" = "$version" ]

tar -C "$out" --sort=name --owner=0 --group=0 -czf "$out/$name.tar.gz" "$name"
python3 tools/wheel.py "$stage/lib/librwkv.so.0" "$out" >/dev/null
rm -rf "$stage"
ls -l "$out"
