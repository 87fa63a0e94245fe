#!/usr/bin/env bash
# Says what is missing for a build, all at once.
set -euo pipefail
missing=()
command -v cargo >/dev/null || missing+=("cargo: install Rust 1.95 or newer, https://rustup.rs")
command -v g++ >/dev/null || missing+=("g++: Debian package g++")
command -v python3 >/dev/null || missing+=("python3: Debian package python3")
python3 -m pip --version >/dev/null 2>&1 || missing+=("pip for python3: Debian package python3-pip")
[ ${#missing[@]} -eq 0 ] || {
  echo "error: this machine lacks what ptv2 is built with:" >&2
  printf '  %s\n' "${missing[@]}" >&2
  exit 1
}
