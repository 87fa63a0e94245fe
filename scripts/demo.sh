#!/usr/bin/env bash
# The main job, from submit to pulled adapter; `make demo` has built and fetched what it needs.
#
# Two jobs on one daemon: the frozen backbone with a trained head only, and with a prefix. Without TASK
# the rows are scripts/demo_data.py's own.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
bin=$target/release
demo=target/demo
mkdir -p "$demo"

ln -sfn "${PTV2_CACHE:-$HOME/.cache/ptv2}/backbones/all-MiniLM-L6-v2" "$demo/backbone"
backbone=$(readlink -f "$demo/backbone")
more=()
if [ -n "${TASK:-}" ]; then
  job=configs/superglue/$TASK-bert-large.toml
  [ -f "$job" ] || {
    echo "error: TASK is \`$TASK\`; expected one of: $(ls configs/superglue | sed -n 's/-bert-large\.toml//p' | xargs)" >&2
    exit 1
  }
  [ -d "${DATA:-}" ] || {
    echo "error: DATA is \`${DATA:-}\`; expected the folder that holds SuperGLUE's folders, as BoolQ and CB" >&2
    exit 1
  }
  data=$(readlink -f "$DATA")
  # The recipe's own backbone is BERT-large; here it runs on the demo's small one, and not for long.
  more=(--set "backbone.path=$backbone" --set "data.root=$data" --set training.epochs=5
    --set training.batch_size=16 --set method.pre_seq_len=8 --set training.learning_rate=1e-2
    --set method.prefix_projection=false)
else
  data=$demo/data
  python3 scripts/demo_data.py "$data" >/dev/null
  job=configs/demo.toml
fi

"$bin/ptv2d" local --workers 2 --state "$demo/state" --listen 127.0.0.1:0 \
  --allow "$backbone" --allow "$data" 2>"$demo/daemon.log" &
daemon=$!
trap 'kill $daemon 2>/dev/null; wait $daemon 2>/dev/null || true' EXIT
rm -f "$demo/state/address"
for _ in $(seq 300); do
  [ -s "$demo/state/address" ] && break
  kill -0 $daemon 2>/dev/null || { cat "$demo/daemon.log" >&2; exit 1; }
  sleep 0.1
done
PTV2_COORDINATOR=$(cat "$demo/state/address")
export PTV2_COORDINATOR PTV2_TOKEN_FILE=$demo/state/token
ptv2ctl=$bin/ptv2ctl

began=$(date +%s)
echo "1/3  the head alone, on the frozen backbone (two workers)"
head=$("$ptv2ctl" submit "$job" "${more[@]}" --name head-only --set method.kind=head \
  --set training.learning_rate=1e-2 --follow --output json)
echo "2/3  the prefix: P-tuning v2"
prefix=$("$ptv2ctl" submit "$job" "${more[@]}" --follow --output json)
echo "3/3  the best adapter"
id=$(python3 -c 'import json,sys; print(json.loads(sys.argv[1])["id"])' "$prefix")
adapter=$("$ptv2ctl" pull "$id" --checkpoint best --to "$demo/adapter" --force)
seconds=$(($(date +%s) - began))

python3 - "$head" "$prefix" "$adapter" "$demo" "$seconds" <<'PY'
import json, sys
head, prefix, adapter, demo, seconds = sys.argv[1:]
head, prefix = json.loads(head), json.loads(prefix)
best = lambda job: f"{100 * job['best']['value']:.1f} %"
rows = [
    ("majority class", f"{100 * prefix['majority_class']:.1f} %", "-"),
    ("head only", best(head), f"{head['plan']['trainable_parameters']:,}"),
    ("prefix and head", best(prefix), f"{prefix['plan']['trainable_parameters']:,}"),
]
print(f"\n{prefix['task']}, {prefix['plan']['val_rows']} validation rows, best epoch:\n")
print(f"  {'what is trained':<18}{'accuracy':>10}{'trained values':>18}")
for name, accuracy, count in rows:
    print(f"  {name:<18}{accuracy:>10}{count:>18}")
print(f"""
adapter (PEFT)  {adapter}
checkpoints     {demo}/state/store
daemon's log    {demo}/daemon.log
tuned state     {prefix['tuned_sha256']}
both jobs took  {seconds} s""")
PY
