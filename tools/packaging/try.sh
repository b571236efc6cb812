#!/bin/sh
# SPDX-License-Identifier: MIT
# Tries what tools/release.sh has made in a bare Debian, as root: tools/packaging/try.sh FOLDER [DEBIAN]
#
# lintian finds no error; rwkv-tools is installed with nothing but what it depends on and recommends, pulls a model from
# a hub on this machine, over TLS, talks to it, and leaves nothing when it is removed; a C program is built with
# librwkv-dev; the archive runs where it is unpacked, and so do the lines of its README. Takes lintian, openssl and
# debootstrap, or DEBIAN, a folder in which debootstrap has put a bare one, which is copied.
set -eu
folder=$(cd "$1" && pwd)
debian=${2:-}
cd "$(dirname "$0")/../.."
lintian --fail-on error "$folder"/*.deb

work=$(mktemp -d)
root=$work/root
hub=
# What debootstrap has mounted, if it was stopped, is not the Debian's own.
trap '[ -z "$hub" ] || kill "$hub"; umount "$root/proc" "$root/sys" 2>/dev/null || :; rm -rf --one-file-system "$work"' EXIT
if [ -n "$debian" ]; then
  cp -a "$debian" "$root"
else
  debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >"$work/log" ||
    { tail "$work/log" >&2; exit 1; }
fi
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"; }
bare() { inside chroot "$root" "$@"; }
install() { bare apt-get install -y -qq "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; }
# package NAME: its file, as the Debian inside sees it.
package() { (cd "$root" && echo tmp/"$1"_*.deb | sed 's|^|/|'); }
purge() { bare apt-get purge --auto-remove -y -qq "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; }
# Packages, and all files but those with which apt and dpkg keep account.
contents() {
  bare dpkg-query -W -f '${binary:Package}\n'
  bare find / -xdev \( -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/log \) \
    -prune -o -print | sort
}
bare apt-get update -qq
contents >"$work/before"

mkdir "$work/repository"
cp examples/model/rwkv7-docs-5m.safetensors "$work/repository/"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/key.pem" -out "$work/certificate.pem" -days 2 \
  -subj /CN=localhost -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" 2>/dev/null
python3 Tests/CommandTests/Programs/hub.py "$work/repository" none "$work/port" "$work/requests" \
  "$work/certificate.pem" "$work/key.pem" &
hub=$!
while [ ! -e "$work/port" ]; do sleep 0.1; done

echo "packages: the programs"
cp "$folder"/*.deb "$work/certificate.pem" "$root/tmp/"
install "$(package rwkv-tools)"
at_hub() { bare env SSL_CERT_FILE=/tmp/certificate.pem "HF_ENDPOINT=https://127.0.0.1:$(cat "$work/port")" "$@"; }
# answers COMMAND…: says something on standard output.
answers() { [ -n "$("$@")" ] || { echo "nothing comes of: $*" >&2; exit 1; }; }
for program in rwkv-run rwkv-quantize rwkv-serve; do
  [ -e "$root/usr/bin/$program" ] || continue
  answers bare "$program" --help
  zcat "$root/usr/share/man/man1/$program.1.gz" | grep -q "(default: "
done
bare rwkv-run --version
bare rwkv-run pull
at_hub rwkv-run pull hf:owner/r
bare rwkv-run list
answers bare rwkv-run chat r -p "The kernel" -n 20 --template none
bare rwkv-run rm r
[ -z "$(bare rwkv-run list)" ]
bare sh -c 'cd && rmdir -p .local/share/rwkv'
purge rwkv-tools
contents | grep -v '^/tmp/' >"$work/after"
diff "$work/before" "$work/after" || { echo "this is left, or lost" >&2; exit 1; }
rm "$root"/tmp/certificate.pem

echo "packages: the library"
install "$(package librwkv0)" "$(package librwkv-dev)" gcc libc6-dev pkgconf
cat >"$root/tmp/try.c" <<'C'
#include <rwkv.h>
#include <stdio.h>
int main(void) {
  printf("librwkv %d.%d\n", RWKV_VERSION_MAJOR, RWKV_VERSION_MINOR);
  return rwkv_get_system_info_string() == NULL;
}
C
# shellcheck disable=SC2016
bare sh -c 'gcc /tmp/try.c -o /tmp/try $(pkg-config --cflags --libs rwkv) && /tmp/try'
purge librwkv0 librwkv-dev
[ -z "$(bare find / -xdev -name '*rwkv*' -not -path '/tmp/*' -not -path '/var/*')" ]
rm "$root"/tmp/*

echo "the archive"
tar -xzf "$folder"/rwkv-*-linux-*.tar.gz -C "$root/opt"
archive=$(cd "$root" && echo opt/rwkv-*)
for program in "$root/$archive"/bin/*; do answers bare "/$archive/bin/$(basename "$program")" --help; done
# The lines of README that need neither a network nor Swift; a small model stands for a published one.
cp Tests/Fixtures/goldens/v7-pth/model.pth "$root/$archive/rwkv7-g1d-0.4b.pth"
awk '/^<!-- not run/ && !/takes long/ { skip = 1 }
  /^```/ { shell = !open && /sh$/; if (open) skip = 0; open = !open; next }
  shell && !skip' "$root/$archive/README.md" >"$root/tmp/lines"
[ "$(wc -l <"$root/tmp/lines")" -gt 5 ]
bare sh -c "cd /$archive && PATH=/$archive/bin:\$PATH && set -ex && . /tmp/lines" </dev/null >"$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }
grep '^+ ' "$work/log"
echo "the packages and the archive hold"
