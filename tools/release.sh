#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes what runs without Swift, in FOLDER: tools/release.sh [--no-serve] [FOLDER], by default .build/release-files
#
#   rwkv-VERSION-linux-ARCHITECTURE.tar.gz   what tools/build.sh installs, with the documents
#   rwkv-tools_*.deb librwkv0_*.deb librwkv-dev_*.deb       where dpkg-dev is installed
#   librwkv-*.whl                            the Python package, with the library
#   rwkv-VERSION-source.tar.gz, rwkv.rb      the sources, and a Homebrew formula that builds them
#   rwkv-VERSION.spdx.json, SHA256SUMS       what all of this consists of, and its checksums
#
# Built twice from one commit, with the same compiler, it is the same but for some instructions
# (docs/hub-and-packages.md): times are the commit's.
set -eu
serve=
folder=.build/release-files
for argument; do
  case $argument in
    --no-serve) serve=--no-serve ;;
    -*) echo "usage: tools/release.sh [--no-serve] [FOLDER]" >&2; exit 64 ;;
    *) folder=$argument ;;
  esac
done
mkdir -p "$folder"
out=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
stage=$out/stage
rm -rf "$stage" "$out"/rwkv* "$out"/librwkv* "$out/SHA256SUMS"
tools/build.sh $serve "$stage"

version=$("$stage/bin/rwkv-run" --version | cut -d, -f1)
name=rwkv-$version-linux-$(uname -m)
echo "putting together $name"

# What must hold on machines without Swift.
if readelf -d "$stage"/bin/* "$stage/lib/librwkv.so.0" | grep -E 'NEEDED.*(swift|Foundation|dispatch|zstd)' >&2; then
  echo "these libraries should have been linked in" >&2
  exit 1
fi
[ "$(env -i "$stage/bin/rwkv-run" --version | cut -d, -f1)" = "$version" ]

# packed FOLDER: as an archive with nothing of this machine in it.
packed() {
  tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw --mtime="@$SOURCE_DATE_EPOCH" \
    -cf - "$1" | gzip -9n >"$out/$1.tar.gz"
}

# The licences and notices of what is linked in, a file for each.
cp -r licenses "$stage/"
if [ -z "$serve" ]; then
  mkdir "$stage/licenses/server"
  for package in $(python3 tools/packaging/linked.py); do
    cat "$package"/LICENSE* $(ls "$package"/NOTICE* 2>/dev/null) >"$stage/licenses/server/$(basename "$package").txt"
  done
fi

if command -v dpkg-shlibdeps >/dev/null 2>&1; then
  tools/packaging/deb.sh "$stage" "$out"
else
  echo "no dpkg-dev: Debian packages are left out"
fi

# The documents, without what is for those who have the sources alone; the header is where it is installed.
git ls-files docs formats examples '*.md' ':!Tests' ':!tools' ':!CONTRIBUTING.md' ':!.github' ':!python/[!R]*' |
  tar -c -T - | tar -x -C "$stage"
cp LICENSE "$stage/"
sed -i -e '/^<!-- sources -->/,/^<!-- \/sources -->/d' -e '/^| \[CONTRIBUTING/d' \
  -e 's|\.\./Sources/CRWKVABI/include/rwkv\.h|../include/rwkv.h|g' -e 's|\[\([^]]*\)\](\.\./tools/[^)]*)|\1|g' \
  "$stage"/README.md "$stage"/docs/*.md
echo "
Documents that name a script, a test or a file of the program mean the sources, rwkv-$version-source.tar.gz." \
  >>"$stage/README.md"
python3 tools/packaging/links.py "$stage"
mv "$stage" "$out/$name"
packed "$name"
RWKV_LIBRARY=$out/$name/lib/librwkv.so.0 python3 -m pip wheel -q --no-deps -w "$out" ./python
rm -rf "${out:?}/$name"

mkdir "$out/rwkv-$version-source"
git archive HEAD | tar -x -C "$out/rwkv-$version-source"
packed "rwkv-$version-source"
rm -rf "${out:?}/rwkv-$version-source"
tools/packaging/formula.sh "$version" "$out/rwkv-$version-source.tar.gz" >"$out/rwkv.rb"

python3 tools/packaging/sbom.py "$version" "$out"/*.gz "$out"/*.whl $(ls "$out"/*.deb 2>/dev/null) \
  >"$out/rwkv-$version.spdx.json"
(cd "$out" && sha256sum -- *.gz *.whl *.rb *.json $(ls -- *.deb 2>/dev/null) >SHA256SUMS)
ls -l "$out"
