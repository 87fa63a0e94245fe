#!/usr/bin/env bash
# Makes a libtorch folder from PyPI's wheels: [CUDA=1] scripts/libtorch.sh FOLDER
#
# Only the headers and the five libraries that libtorch_cpu.so needs are kept (460 MB). A stub
# libtorch.so stands where the wheel's would pull 3 GB of CUDA libraries into the link. With CUDA=1 these
# lie in FOLDER/lib/cuda besides (3 GB), where a worker that is to compute on a GPU loads them from.
set -euo pipefail

folder=${1:?usage: scripts/libtorch.sh FOLDER}
cache=${PTV2_CACHE:-$HOME/.cache/ptv2}/wheels
here=$(cd "$(dirname "$0")" && pwd)
. "$here/fetch.sh"

versions="torch 2.11.0, cupti 13.0.85, cudart 13.0.96"
torch=torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl
fetch_torch() {
  fetch_wheel torch==2.11.0 "$torch" 7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
}

# A finished folder carries the versions that made it.
is_ready() {
  [ "$(cat "$1/ptv2-versions" 2>/dev/null)" = "$versions" ]
}

begin() {
  begin_folder "$1"
  echo "libtorch: unpacking into $1"
}
finish() {
  echo "$versions" > "$part/ptv2-versions"
  end_folder libtorch "$1"
}

make_cpu() {
  need g++ "Debian package g++"
  local cupti=nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl
  local cudart=nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
  fetch_torch
  fetch_wheel nvidia-cuda-cupti==13.0.85 "$cupti" 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
  fetch_wheel nvidia-cuda-runtime==13.0.96 "$cudart" 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
  begin "$folder"
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
  finish "$folder"
}

# What torch 2.11.0 asks for, in the versions that its metadata and cuda-toolkit 13.0.2 name. All lie in one
# folder: each library looks for the others beside itself.
make_cuda() {
  local wheels=() requirement file sha256
  fetch_torch
  while read -r requirement file sha256; do
    fetch_wheel "$requirement" "$file" "$sha256" </dev/null
    wheels+=("$cache/$file")
  done <<'WHEELS'
nvidia-cublas==13.1.0.3 nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171
nvidia-cudnn-cu13==9.19.0.56 nvidia_cudnn_cu13-9.19.0.56-py3-none-manylinux_2_27_x86_64.whl d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf
nvidia-cufft==12.0.0.61 nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3
nvidia-cufile==1.15.1.6 nvidia_cufile-1.15.1.6-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44
nvidia-curand==10.4.0.35 nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl 1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc
nvidia-cusolver==12.0.4.66 nvidia_cusolver-12.0.4.66-py3-none-manylinux_2_27_x86_64.whl 0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112
nvidia-cusparse==12.6.3.3 nvidia_cusparse-12.6.3.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b
nvidia-cusparselt-cu13==0.8.0 nvidia_cusparselt_cu13-0.8.0-py3-none-manylinux2014_x86_64.whl 25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd
nvidia-nccl-cu13==2.28.9 nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42
nvidia-nvjitlink==13.0.88 nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl 13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b
nvidia-nvshmem-cu13==3.4.5 nvidia_nvshmem_cu13-3.4.5-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80
nvidia-cuda-nvrtc==13.0.88 nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
WHEELS
  begin "$folder/lib/cuda"
  python3 - "$part" "$cache/$torch" "${wheels[@]}" <<'PY'
import os, shutil, sys, zipfile
out, *wheels = sys.argv[1:]
torch = {"libtorch_cuda.so", "libc10_cuda.so", "libtorch_nvshmem.so", "libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so"}
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            base = os.path.basename(name)
            is_nvidias = name.startswith("nvidia/") and "/lib/" in name and ".so" in base
            if not (base in torch or is_nvidias or name == "torch/version.py"):
                continue
            with archive.open(name) as source, open(os.path.join(out, base), "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
missing = (torch | {"libcublas.so.13", "libcudnn.so.9", "libnccl.so.2"}) - set(os.listdir(out))
sys.exit(f"libtorch: the wheels lack {sorted(missing)}" if missing else 0)
PY
  finish "$folder/lib/cuda"
}

need python3 "Debian package python3"
if is_ready "$folder"; then
  echo "libtorch: $folder is ready ($versions)"
else
  make_cpu
fi
versions="torch 2.11.0, cuda-toolkit 13.0.2, cudnn 9.19.0.56, nccl 2.28.9"
if [ "${CUDA:-}" = 1 ] && ! is_ready "$folder/lib/cuda"; then
  make_cuda
fi
