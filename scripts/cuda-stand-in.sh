#!/usr/bin/env bash
# Builds the stand-in for libcuda and libnvrtc that the tests use, and prints the folder of both.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
folder=${CARGO_TARGET_DIR:-$here/target}/cuda-stand-in
mkdir -p "$folder"
# Several tests may come here at once: each builds its own, and the last name stays.
own=$(mktemp "$folder/XXXXXX.so")
"${CC:-cc}" -std=gnu11 -O1 -g -Wall -Wextra -Werror -fPIC -shared -o "$own" "$here/tests/cuda-stand-in/stand_in.c"
for name in libcuda.so.1 libcuda.so libnvrtc.so.13; do
  ln -f "$own" "$own.$name"
  mv "$own.$name" "$folder/$name"
done
rm "$own"
echo "$folder"
