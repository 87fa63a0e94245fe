#!/usr/bin/env bash
# Installs both programs and the libraries they need: scripts/install.sh PROFILE PREFIX
#
# PREFIX/bin/{ptv2d,ptv2ctl} find PREFIX/lib/ptv2 beside them, so PREFIX may be copied to other
# machines as it is. PREFIX/share has ptv2ctl's manual pages and completions, which it makes itself.
set -euo pipefail
profile=$1 prefix=$2
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
libtorch=${LIBTORCH:-target/libtorch}
case $profile in
  release) cargo build --release --workspace --bins && built=$target/release ;;
  # As the tests build it.
  dev) cargo build --workspace --bins --tests && built=$target/debug ;;
  *) echo "error: PROFILE is \`$profile\`; expected release or dev" >&2; exit 1 ;;
esac
mkdir -p "$prefix/bin" "$prefix/lib/ptv2" 2>/dev/null || {
  echo "error: $prefix cannot be written; choose another with PREFIX=…, or run as its owner" >&2
  exit 1
}
install -m 755 "$built/ptv2d" "$built/ptv2ctl" "$prefix/bin/"
cp -f "$libtorch"/lib/*.so* "$prefix/lib/ptv2/"
# Torch's libraries for GPUs, where `make libtorch CUDA=1` made them.
[ ! -d "$libtorch/lib/cuda" ] || cp -rf "$libtorch/lib/cuda" "$prefix/lib/ptv2/"
share=$prefix/share
"$prefix/bin/ptv2ctl" man --to "$share/man/man1" >/dev/null
while read -r shell place; do
  mkdir -p "$share/$(dirname "$place")"
  "$prefix/bin/ptv2ctl" completions "$shell" >"$share/$place"
done <<'PLACES'
bash bash-completion/completions/ptv2ctl
zsh zsh/site-functions/_ptv2ctl
fish fish/vendor_completions.d/ptv2ctl.fish
PLACES
echo "installed $prefix/bin/ptv2d, $prefix/bin/ptv2ctl, and their libraries in $prefix/lib/ptv2"
echo "manual pages and completions are in $share"
