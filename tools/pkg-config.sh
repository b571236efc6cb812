#!/bin/sh
# Writes rwkv.pc and the library's names into FOLDER, for programs that use this build without installing it:
#   tools/pkg-config.sh FOLDER [LIBRARY]        LIBRARY: by default .build/release/librwkv.so
set -eu
folder=$1
root=$(cd "$(dirname "$0")/.." && pwd)
library=$(realpath "${2:-$root/.build/release/librwkv.so}")
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
ln -sf "$library" "$folder/librwkv.so"
ln -sf "$library" "$folder/librwkv.so.0"
cat > "$folder/rwkv.pc" <<END
Name: rwkv
Description: RWKV language models on CPUs
Version: 0.1.0
Cflags: -I$root/Sources/CRWKVABI/include
Libs: -L$folder -Wl,-rpath,$folder -lrwkv
END
