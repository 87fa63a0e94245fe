#!/usr/bin/env bash
# Packs what is to be run on a machine with a GPU: scripts/gpu-bundle.sh PROFILE
#
# target/gpu-bundle.tar.gz holds both programs, the daemon with faults on demand, the tests as a program, small data,
# and gpu-test.sh, which says how it is used. It has no libtorch: that of the other machine's PyTorch is used. 60 MB at most.
set -euo pipefail
profile=$1
cd "$(dirname "$0")/.."
bytes_max=60000000
target=${CARGO_TARGET_DIR:-target}
cache=${PTV2_CACHE:-$HOME/.cache/ptv2}
case $profile in
  release) flags=(--release) built=$target/release ;;
  dev) flags=() built=$target/debug ;;
  *) echo "error: PROFILE is \`$profile\`; expected release or dev" >&2; exit 1 ;;
esac
cargo build "${flags[@]}" --workspace --features ptv2-daemon/faults --bin ptv2d-faulty
cargo build "${flags[@]}" --workspace --bins --tests
tests=$(cargo test "${flags[@]}" --workspace --no-run --message-format=json | python3 -c '
import json, sys
found = [one["executable"] for one in map(json.loads, sys.stdin)
         if one.get("executable") and one.get("target", {}).get("name") == "ptv2_tests"]
print(found[-1])')

bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT
to=$bundle/ptv2-gpu
mkdir -p "$to/bin" "$to/tokenizer" "$to/repository/tests"
install -m 755 "$built/ptv2d" "$built/ptv2d-faulty" "$built/ptv2ctl" "$to/bin/"
install -m 755 "$tests" "$to/bin/ptv2-tests"
strip "$to"/bin/*
install -m 755 scripts/gpu-test.sh "$to/"
cp -r tests/goldens tests/peers "$to/repository/tests/"
find "$to/repository" -name __pycache__ -prune -exec rm -rf {} +
python3 -B scripts/gpu_rows.py "$to/data"
scripts/backbone.sh >/dev/null
cp "$cache/backbones/all-MiniLM-L6-v2/tokenizer.json" "$to/tokenizer/"
git describe --always --dirty >"$to/VERSION" 2>/dev/null || echo unknown >"$to/VERSION"
tar --create --gzip --owner=0 --group=0 --file "$target/gpu-bundle.tar.gz.part" -C "$bundle" ptv2-gpu
bytes=$(stat -c %s "$target/gpu-bundle.tar.gz.part")
[ "$bytes" -le "$bytes_max" ] || {
  echo "error: the bundle has $bytes bytes; expected $bytes_max at most ($target/gpu-bundle.tar.gz.part)" >&2
  exit 1
}
mv "$target/gpu-bundle.tar.gz.part" "$target/gpu-bundle.tar.gz"
echo "gpu-bundle: $target/gpu-bundle.tar.gz ($((bytes / 1000000)) MB); on a machine with a GPU: tar xf it, cd ptv2-gpu, ./gpu-test.sh"
