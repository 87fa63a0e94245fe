#!/usr/bin/env bash
# Checks ptv2 on a GPU, and measures it against PEFT: ./gpu-test.sh, in the folder of `make gpu-bundle`
#
# Needs NVIDIA's driver 580 or newer, glibc 2.34 or newer (Debian 12, Ubuntu 22.04, RHEL 9), and a python3 with
# PyTorch 2.11.0 for CUDA 13; for the comparison also its packages transformers, peft and tokenizers.
# Nothing is installed, nothing is fetched. The report is report.md in the current folder. Each check adds its line as it
# ends, so that what is interrupted leaves what it had.
#
# PYTHON    the Python whose PyTorch is used (default: python3)
# DEVICE    cuda:0 (default), another one, or cpu: all that a processor can do, in small shapes
# REPORT    where the report goes (default: report.md)
# ONLY      checks whose names have this in them, for example ONLY=t1 or ONLY=hash
# COMPARE   whether to compare with PEFT: yes, no, or only, without any check (default: yes, and no where ONLY is given)
# SLICES    of each of our batches in the comparison (default: 1)
#
# In parts, where no one command may take long: ONLY=t0, …, ONLY=t9, then COMPARE=only, each with a REPORT of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3} device=${DEVICE:-cuda:0} report=$(realpath "${REPORT:-report.md}")
compares=${COMPARE:-$([ -n "${ONLY:-}" ] && echo no || echo yes)}
fail() { printf 'error: %s\n' "$1" >&2; exit 1; }

[[ $device =~ ^(cpu|cuda:[0-9]+)$ ]] || fail "DEVICE is \`$device\`; expected cpu or cuda:N"
case $compares in
  yes | no) ;;
  only) [ -z "${ONLY:-}" ] || fail "COMPARE=only runs no check; expected no ONLY beside it" ;;
  *) fail "COMPARE is \`$compares\`; expected yes, no or only" ;;
esac
command -v "$python" >/dev/null || fail "$python is missing; name a Python with PyTorch 2.11.0 by PYTHON=…"
# Where PyTorch lies, without importing it.
torch=$("$python" -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")')
[ -e "$torch/lib/libtorch_cpu.so" ] || fail "$python has no PyTorch; install it: $python -m pip install torch==2.11.0"
version=$(sed -n "s/^__version__ = '\(.*\)'/\1/p" "$torch/version.py")
case $version in
  2.11.*) ;;
  *) fail "$python has PyTorch $version; these programs are made for 2.11.0: $python -m pip install torch==2.11.0" ;;
esac
# The programs' libtorch is PyTorch's own, with its part for GPUs beside it.
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PTV2_LIBTORCH_CUDA=$torch/lib
found=$("$here/bin/ptv2d" devices) || fail "the programs do not run beside PyTorch $version in $torch"
# The driver shows it, without a reason against it, and torch sees as many.
can_compute() {
  local line count
  line=$(grep "^$device " <<<"$found") || return 1
  count=$(sed -n 's/^torch .* GPUs that it can compute on: \([0-9]*\).*/\1/p' <<<"$found")
  [[ $line != "$device "*"of no use:"* ]] && [ "${count:-0}" -gt "${device#cuda:}" ]
}
if [ "$device" != cpu ] && ! can_compute; then
  printf '%s\n' "$found" >&2
  fail "$device cannot be computed on, for the reason above; DEVICE=cpu runs what a processor can"
fi

# The programs' names of what is to be checked.
checks=
if [ "$compares" != only ]; then
  checks=$("$here/bin/ptv2-tests" "gpu::${ONLY:-}" --ignored --list | sed -n 's/^\(gpu::t[0-9].*\): test$/\1/p')
  [ -n "$checks" ] || fail "no check is named like that: ONLY=${ONLY:-}"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The tests see the bundle as their repository, with their data and the large backbone in it.
cp -r "$here/repository" "$work/repository"
# As a worker has it.
export CUBLAS_WORKSPACE_CONFIG=:4096:8
export PTV2_TEST_DEVICE=$device PTV2_TEST_BIN=$here/bin PTV2_TEST_ROOT=$work/repository
export PTV2_TEST_DATA=$here/data PTV2_TEST_REPORT=$report
compare() {
  "$python" "$here/repository/tests/peers/gpu.py" --bin "$here/bin" --tokenizer "$here/tokenizer" \
    --work "$work/repository/large" --device "$device" --slices "${SLICES:-1}" "$@"
}
status=0
# Runs the checks of some groups, each group in a process of its own: one that ends early leaves the others theirs.
check() {
  local group names before missing header=$'\n| check | result | figures | time |\n|---|---|---|---|\n'
  for group in "$@"; do
    mapfile -t names < <(grep "^gpu::t$group" <<<"$checks")
    [ ${#names[@]} -gt 0 ] || continue
    printf '%s' "$header" >>"$report"
    header=
    before=$(wc -l <"$report")
    "$here/bin/ptv2-tests" --exact "${names[@]}" --ignored --test-threads 1 || status=1
    missing=$((before + ${#names[@]} - $(wc -l <"$report")))
    if [ "$missing" -ne 0 ]; then
      echo "| group t$group | FAIL | $missing of its ${#names[@]} checks did not come to an end | |" >>"$report"
      status=1
    fi
  done
}

{
  echo "# ptv2 on $device"
  echo
  echo "$(date -u +%Y-%m-%d), ptv2 $(cat "$here/VERSION"), PyTorch $version, $(uname -m), $(nproc) processors."
  echo
  echo '```'
  printf '%s\n' "$found"
  echo '```'
} >"$report"
can_compare=yes
compare --backbone-only || can_compare=
check 0 1 2 3 4 5 6 7 8
{
  echo
  echo "## Against PEFT with bf16 autocast, in turn"
  echo
} >>"$report"
if [ "$compares" = no ]; then
  echo "Not measured: it was not asked for." >>"$report"
elif [ -z "$can_compare" ]; then
  echo "Not measured: the backbone could not be made; why stands in the terminal." >>"$report"
  status=1
elif ! compare --report "$report"; then
  printf '\n%s\n' "Not all of it could be measured; what was said stands in the terminal." >>"$report"
  status=1
fi
# It takes the longest.
check 9
echo
cat "$report"
echo "gpu-test: the report is $report"
exit $status
