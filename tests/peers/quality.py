#!/usr/bin/env python3
"""Compares what ptv2 learns with what PEFT's prefix tuning learns, on SuperGLUE: docs/quality.md.

    quality.py run --who ptv2|peft|peft-near-zero [--backbone minilm|mpnet] [--tasks cb,rte] [--seeds 11]
    quality.py table                                                        (--help lists all)

`run` trains each task with each seed, one after the other, and adds each result at once to a file of
JSON lines, ~/.cache/ptv2/quality.jsonl: what is there already is not run again. `table` writes the
tables of docs/quality.md from it. Hours on two cores; exit codes: 0 done; 1 not; 2 wrong usage; 130 Ctrl-C.

Where to read on: compare/plan.py says what is trained and how, compare/ours.py and quality_peer.py
train it, compare/report.py writes the tables.
"""

import argparse
import datetime
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from compare import plan, report
from compare.ours import Ours
from compare.peft import Peer
from compare.results import Results, last_and_best
from measure import Problem, machine
from measure.processes import Processes

ROOT = Path(__file__).resolve().parents[2]


def say(line):
    """Progress is for people: standard error."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def run_all(options):
    """Runs what has no result yet."""
    results = Results(options.results)
    left = [run for run in plan.runs(options) if results.of(run) is None]
    folder = Path(tempfile.mkdtemp(prefix="ptv2-quality-"))
    processes = Processes(folder)
    try:
        side = (Ours if options.who == plan.OURS else Peer)(options, processes) if left else None
        for run in left:
            name = f"{run.who}, {run.backbone}, {run.setting.task}, seed {run.seed}"
            began = time.monotonic()
            found = side.run(run)
            more = {
                "seconds": time.monotonic() - began,
                "finished": datetime.datetime.now().isoformat(timespec="seconds"),
                "machine": machine.describe(),
                "threads": options.threads,
            }
            results.add(run, found | more)
            if "refused" in found:
                say(f"{name}: refused: {found['refused']}")
                continue
            last, best = last_and_best(found)
            say(f"{name}: last {last:.3f}, best {best:.3f}, {more['seconds']:.0f} s")
    finally:
        # A second Ctrl-C would leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes.end_all()
        shutil.rmtree(folder, ignore_errors=True)


def arguments():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=plan.CACHE / "quality.jsonl", help="file of results")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/superglue", help="folder of SuperGLUE")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="train and add to the results").add_argument
    run("--who", choices=list(plan.NAMES), required=True, help="what trains")
    run("--backbone", choices=list(plan.BACKBONES), default="minilm", help="what is tuned")
    tasks = [one.task for one in plan.SETTINGS]
    run("--tasks", default=",".join(tasks), help="some of them")
    run("--seeds", default=",".join(map(str, plan.SEEDS)), help="some of them")
    run("--precision", choices=["fp32", "bf16"], default="bf16", help="of the frozen backbone")
    run("--threads", type=int, default=1, help="compute threads")
    run("--bin", type=Path, default=target / "release", help="folder of ptv2d and ptv2ctl")
    run("--python", type=Path, default=plan.CACHE / "venv/bin/python", help="Python with torch and PEFT")
    table = verbs.add_parser("table", help="write the tables").add_argument
    table("--docs", type=Path, default=ROOT / "docs/quality.md", help="where the tables go")
    options = parser.parse_args()
    options.root, options.data = ROOT, options.data.resolve()
    if options.verb == "run":
        options.tasks = options.tasks.split(",")
        options.seeds = [int(seed) for seed in options.seeds.split(",")]
        options.backbone_folder = (plan.CACHE / "backbones" / plan.BACKBONES[options.backbone][1]).resolve()
        if unknown := [one for one in options.tasks if one not in tasks]:
            parser.error(f"--tasks has `{unknown[0]}`; expected some of: {','.join(tasks)}")
        if not (options.backbone_folder / "model.safetensors").exists():
            parser.error(f"{options.backbone_folder} is missing; `make backbone backbone-mpnet` fetches it")
    return options


def main():
    options = arguments()
    # So that a terminated run ends what it started, as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.verb == "run":
            run_all(options)
        else:
            report.write(options)
            say(f"written: {options.docs}")
        return 0
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
