#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes Debian packages of what tools/build.sh has installed:
#   tools/packaging/deb.sh PREFIX FOLDER
#
#   rwkv-tools    the programs, man pages, completions; where PREFIX has a server, its systemd unit
#   librwkv0      the library
#   librwkv-dev   header, pkg-config and CMake files
#
# SOURCE_DATE_EPOCH is the time of everything in them. Takes dpkg-dev.
set -eu
prefix=$(cd "$1" && pwd)
out=$(cd "$2" && pwd)
cd "$(dirname "$0")/../.."
version=$("$prefix/bin/rwkv-run" --version | cut -d, -f1)
architecture=$(dpkg --print-architecture)
triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
maintainer=$(git log -1 --format='%an <%ae>')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# documents PACKAGE: what every package must have.
documents() {
  folder=$work/$1/usr/share/doc/$1
  mkdir -p "$folder"
  {
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: rwkv\n\n'
    printf 'Files: *\nCopyright: %s\nLicense: MIT\n' "$(sed -n 's/^Copyright (c) //p' LICENSE)"
    sed -e '1,/^Copyright/d' -e '/^$/d' -e 's/^/ /' LICENSE
    printf '\nFiles: statically-linked-parts\n'
    printf 'Copyright: Apple Inc. and the Swift project authors (Swift runtime); Meta Platforms, Inc. (libzstd)\n'
    printf 'License: Apache-2.0 with Runtime Library Exception, and BSD-3-Clause\n'
    printf ' On Debian systems the Apache License is in /usr/share/common-licenses/Apache-2.0. NOTICES.md beside this\n'
    printf ' file has the rest. That of libzstd:\n .\n'
    sed -e 's/^$/./' -e 's/^/ /' licenses/zstd.txt
  } >"$folder/copyright"
  cp -r NOTICES.md licenses "$folder/"
  printf 'rwkv (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md of the sources.\n\n -- %s  %s\n' "$version" \
    "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$folder/changelog.gz"
}

# dependencies FILE...: the packages that have the libraries it needs.
dependencies() {
  mkdir -p "$work/shlibs/debian"
  printf 'Source: rwkv\n\nPackage: any\nArchitecture: any\n' >"$work/shlibs/debian/control"
  (cd "$work/shlibs" && dpkg-shlibdeps -O "$@" 2>/dev/null) | sed 's/^shlibs:Depends=//'
}

# package NAME SECTION SUMMARY FIELDS: builds it; the description is on standard input.
package() {
  documents "$1"
  mkdir -p "$work/$1/DEBIAN"
  find "$work/$1/usr" -type f -printf '%P\n' | LC_ALL=C sort |
    (cd "$work/$1/usr" && while read -r file; do md5sum "$file" | sed 's|  |  usr/|'; done) >"$work/$1/DEBIAN/md5sums"
  size=$(du -k -s --apparent-size "$work/$1/usr" | cut -f1)
  {
    printf 'Package: %s\nSource: rwkv\nVersion: %s\nArchitecture: %s\n' "$1" "$version" "$architecture"
    printf 'Maintainer: %s\nInstalled-Size: %s\nSection: %s\nPriority: optional\n' "$maintainer" "$size" "$2"
    printf '%s\nDescription: %s\n' "$4" "$3"
    sed 's/^/ /'
  } >"$work/$1/DEBIAN/control"
  find "$work/$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz --build "$work/$1" "$out/$1_${version}_$architecture.deb" >/dev/null
}

# The library.
tools/steps/install-library.sh "$prefix/lib/librwkv.so.0" "$work/librwkv-dev/usr" "lib/$triplet"
libraries=usr/lib/$triplet
mkdir -p "$work/librwkv0/$libraries" "$work/librwkv0/DEBIAN"
mv "$work/librwkv-dev/$libraries/librwkv.so.0" "$work/librwkv0/$libraries/"
chmod 644 "$work/librwkv0/$libraries/librwkv.so.0"
echo "librwkv 0 librwkv0 (>= $version)" >"$work/librwkv0/DEBIAN/shlibs"
echo "activate-noawait ldconfig" >"$work/librwkv0/DEBIAN/triggers"
package librwkv0 libs "RWKV language models on CPUs (library)" "Multi-Arch: same
Depends: $(dependencies "$work/librwkv0/$libraries/librwkv.so.0")" <<'D'
Runs language models of the RWKV family, versions 4 to 7 and RWKV-X, on the
CPU: one compact file for each model, memory and time per token that do not
grow with the text.
.
This package has the library that programs written in C link.
D
package librwkv-dev libdevel "RWKV language models on CPUs (header)" "Multi-Arch: same
Depends: librwkv0 (= $version)" <<'D'
Header, pkg-config and CMake files of librwkv, which runs language models of
the RWKV family on the CPU.
D

# The programs.
tools=$work/rwkv-tools/usr
mkdir -p "$tools/share/man/man1"
cp -r "$prefix/bin" "$tools/"
cp -r "$prefix/share/bash-completion" "$prefix/share/zsh" "$prefix/share/fish" "$tools/share/"
mv "$tools/share/zsh/site-functions" "$tools/share/zsh/vendor-completions"
for page in "$prefix"/share/man/man1/*; do gzip -9nc "$page" >"$tools/share/man/man1/$(basename "$page").gz"; done
if [ -e "$tools/bin/rwkv-serve" ] && [ -e server/rwkv-serve.service ]; then
  install -D -m 644 server/rwkv-serve.service "$tools/lib/systemd/system/rwkv-serve.service"
fi
if [ -e "$prefix/licenses/server" ]; then
  mkdir -p "$tools/share/doc/rwkv-tools/licenses"
  cp -r "$prefix/licenses/server" "$tools/share/doc/rwkv-tools/licenses/"
fi
package rwkv-tools science "run RWKV language models on CPUs" "Depends: $(dependencies "$tools"/bin/*)
Recommends: ca-certificates, libcurl4t64 | libcurl4 | libcurl3t64-gnutls | libcurl3-gnutls
Suggests: libedit2" <<'D'
Converts checkpoints of the RWKV family, versions 4 to 7 and RWKV-X, to
compact files, and runs them on the CPU: rwkv-run pull gets a model over the
network, rwkv-run chat talks to it.
.
Memory and time per token do not grow with the text. Models are quantized to
4, 5 or 8 bits, or kept in 16.
D
