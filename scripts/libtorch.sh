#!/usr/bin/env bash
# Makes a CPU libtorch folder from PyPI's wheels: scripts/libtorch.sh FOLDER
#
# Only the headers and the five libraries that libtorch_cpu.so needs are kept (460 MB). A stub
# libtorch.so stands where the wheel's would pull 3 GB of CUDA libraries into the link.
set -euo pipefail

folder=${1:?usage: scripts/libtorch.sh FOLDER}
cache=${PTV2_CACHE:-$HOME/.cache/ptv2}/wheels
here=$(cd "$(dirname "$0")" && pwd)
. "$here/fetch.sh"

# A finished folder carries the versions that made it.
versions="torch 2.11.0, cupti 13.0.85, cudart 13.0.96"
if [ "$(cat "$folder/ptv2-versions" 2>/dev/null)" = "$versions" ]; then
  echo "libtorch: $folder is ready ($versions)"
  exit 0
fi
need python3 "Debian package python3"
need g++ "Debian package g++"

python_tag=cp311
torch=torch-2.11.0-$python_tag-$python_tag-manylinux_2_28_x86_64.whl
cupti=nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl
cudart=nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
fetch_wheel torch==2.11.0 "$torch" 7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
fetch_wheel nvidia-cuda-cupti==13.0.85 "$cupti" 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
fetch_wheel nvidia-cuda-runtime==13.0.96 "$cudart" 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548

mkdir -p "$(dirname "$folder")"
part=$(mktemp -d "$folder.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
echo "libtorch: unpacking into $folder"
python3 - "$part" "$cache/$torch" "$cache/$cupti" "$cache/$cudart" <<'PY'
import os, shutil, sys, zipfile
out, *wheels = sys.argv[1:]
libraries = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libcupti.so.13", "libcudart.so.13"}
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            base = os.path.basename(name)
            if base in libraries:
                target = os.path.join(out, "lib", base)
            elif name.startswith("torch/include/") and base:
                target = os.path.join(out, name.removeprefix("torch/"))
            elif name == "torch/version.py":
                target = os.path.join(out, "version.py")
            else:
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with archive.open(name) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
missing = libraries - set(os.listdir(os.path.join(out, "lib")))
sys.exit(f"libtorch: the wheels lack {sorted(missing)}" if missing else 0)
PY
echo 2.11.0 > "$part/build-version"
# --no-as-needed: the stub refers to no symbol, yet must pull both libraries in.
g++ -shared -o "$part/lib/libtorch.so" -Wl,-soname,libtorch.so -Wl,--no-as-needed \
  -L"$part/lib" -ltorch_cpu -lc10 -Wl,-rpath,'$ORIGIN' -Wl,--allow-shlib-undefined
echo "$versions" > "$part/ptv2-versions"
rm -rf "$folder"
mv "$part" "$folder"
chmod 755 "$folder"
trap - EXIT
echo "libtorch: $folder made ($(du -sh "$folder" | cut -f1))"
