#!/bin/sh
# SPDX-License-Identifier: MIT
# Tries the packages of tools/release.sh in a bare Debian, as root: tools/packaging/try.sh FOLDER
#
# lintian finds no error; rwkv-tools is installed with nothing but what it depends on and recommends, pulls a model from a
# hub on this machine, talks to it, shows its manual, and leaves nothing when it is removed; a C program is built with
# librwkv-dev; the archive runs where it is unpacked. Takes lintian and debootstrap.
set -eu
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
lintian --fail-on error "$folder"/*.deb

work=$(mktemp -d)
root=$work/root
hub=
trap '[ -z "$hub" ] || kill "$hub"; rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >"$work/log" || { tail "$work/log" >&2; exit 1; }
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 chroot "$root" "$@"; }
inside sh -c 'dpkg-query -f "\${binary:Package}\n" -W; find / -xdev -type f | sort' >"$work/before"

mkdir "$work/repository"
cp examples/model/rwkv7-docs-5m.safetensors "$work/repository/model.safetensors"
python3 Tests/CommandTests/Programs/hub.py "$work/repository" none "$work/port" "$work/requests" &
hub=$!
while [ ! -e "$work/port" ]; do sleep 0.1; done

cp "$folder"/*.deb "$root/"
inside sh -c 'apt-get update -qq && apt-get install -y -qq /rwkv-tools_*.deb >/dev/null 2>&1'
inside rwkv-run --version
inside rwkv-run pull
inside env HF_ENDPOINT="http://127.0.0.1:$(cat "$work/port")" rwkv-run pull hf:owner/r
inside rwkv-run list
inside rwkv-run chat r -p "The kernel" -n 20 --template none
inside rwkv-run rm r
zcat "$root/usr/share/man/man1/rwkv-run.1.gz" | grep -q chat
inside sh -c 'apt-get purge -y -qq rwkv-tools >/dev/null 2>&1'
[ ! -e "$root/usr/bin/rwkv-run" ] && [ ! -e "$root/usr/share/doc/rwkv-tools" ]

inside sh -c 'apt-get install -y -qq /librwkv0_*.deb /librwkv-dev_*.deb gcc libc6-dev pkgconf >/dev/null 2>&1'
cat >"$root/try.c" <<'C'
#include <rwkv.h>
#include <stdio.h>
int main(void) { printf("librwkv %d.%d\n", RWKV_VERSION_MAJOR, RWKV_VERSION_MINOR); return rwkv_get_system_info_string() == NULL; }
C
# shellcheck disable=SC2016
inside sh -c 'gcc /try.c -o /try $(pkg-config --cflags --libs rwkv) && /try'
inside sh -c 'apt-get purge -y -qq librwkv0 librwkv-dev >/dev/null 2>&1'

tar -xzf "$folder"/rwkv-*-linux-*.tar.gz -C "$root/opt"
inside sh -c '/opt/rwkv-*/bin/rwkv-run --version && ls /opt/rwkv-*'
echo "the packages hold"
