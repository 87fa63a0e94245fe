#!/usr/bin/env bash
# Builds the stand-in for libnccl.so that the tests use, where its sources have changed, and prints its path.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
sources=$here/tests/nccl-stand-in
folder=${CARGO_TARGET_DIR:-$here/target}/nccl-stand-in
library=$folder/libnccl.so

newest=$(ls -t "$sources"/*.[ch] | head -n 1)
if [ ! -e "$library" ] || [ "$newest" -nt "$library" ]; then
  mkdir -p "$folder"
  # Several tests may come here at once: each builds its own, and the last name stays.
  own=$(mktemp "$folder/XXXXXX.so")
  "${CC:-cc}" -std=c11 -O1 -g -Wall -Wextra -Werror -fPIC -fvisibility=hidden -shared -pthread \
    -o "$own" "$sources"/*.c
  mv "$own" "$library"
fi
echo "$library"
