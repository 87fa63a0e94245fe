#!/usr/bin/env python3
"""Measures ptv2 against transformers and PEFT on this machine: `make bench`.

    bench.py [--quick] [--only training,start] [--workloads copa] ...      (--help lists all)

Starts what it measures, lets all take turns, watches that nothing else runs, prints one table, and
writes it to docs/performance.md and the raw numbers to target/bench.json. What others disturbed each
time is not quoted. Exit codes: 0 measured; 1 not, or not all; 2 wrong usage; 130 Ctrl-C.

Where to read on: measure/plan.py says what is run, measure/training.py how turns are taken,
measure/figures.py what is computed of them and which targets there are.
"""

import dataclasses
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from measure import Problem, callgrind, figures, machine, plan, table
from measure.processes import Processes
from measure.rest import Rest
from measure.training import Training


def say(line):
    """Progress is for people: standard error."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def check(options):
    """Refuses, before anything starts, what cannot work."""
    needed = [(options.bin / name, "`make release` builds it") for name in ("ptv2d", "ptv2ctl")]
    needed += [(options.python, "`make bench` makes it")]
    for workload in plan.workloads(options):
        needed.append((workload.backbone / "model.safetensors", "`make bench` fetches and makes backbones"))
        folder = {"rte": "RTE", "boolq": "BoolQ", "copa": "COPA"}[workload.task]
        for split in ("train", "val"):
            file = options.data / folder / f"{split}.jsonl"
            needed.append((file, "--data names the folder that holds SuperGLUE's RTE, BoolQ and COPA"))
    for path, hint in needed:
        if not path.exists():
            raise Problem(f"{path} is missing", hint)
    table.place(options.docs)


def measure(options, folder, processes, watch):
    """Runs the chosen parts, one after the other."""
    counts = plan.QUICK if options.quick else plan.Counts()
    rest = Rest(options, counts, processes, watch, say, folder, plan.workloads(options)[0])
    training = Training(options, counts, processes, watch, say)
    parts = {
        "training": lambda: training.run(folder, plan.chosen(options)),
        "scaling": rest.scaling,
        "start": rest.start,
        "memory": rest.memory,
        "coordinator": rest.coordinator,
        "callgrind": lambda: callgrind.run(options, counts, folder, say),
    }
    results = {"machine": machine.describe(), "versions": machine.versions(options.root)}
    results |= {"threads": options.threads, "seconds": {}}
    for name, run in parts.items():
        if name in options.only:
            began = time.monotonic()
            results[name] = run()
            results["seconds"][name] = time.monotonic() - began
    if "training" in results:
        first = next(iter(results["training"]["workloads"].values()))
        results["versions"] |= first["versions"]
    results["disturbed"] = watch.disturbed
    return results


def report(options, results):
    """Prints the table, keeps the numbers; gives the exit status."""
    found = figures.all_of(results, options, plan.chosen(options))
    notes = table.footnotes(results, found)
    print(table.plain(found, notes))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    raw = results | {"figures": found}
    text = json.dumps(raw, indent=1, default=dataclasses.asdict)
    options.json.write_text(text + "\n", encoding="utf-8")
    say(f"raw numbers: {options.json}")
    chosen = (options.only, options.precisions, options.workloads)
    whole = chosen == (plan.PARTS, plan.PRECISIONS, plan.WORKLOADS)
    if options.quick or not whole or options.busy_limit > 0.05:
        say(f"{options.docs} stays as it was: that needs the whole run, with the default limit")
        return 0
    table.write(options.docs, table.document(results, found, notes))
    say(f"written: {options.docs}")
    return int(any(figure.disturbed for figure in found))


def main():
    options = plan.arguments(__doc__.splitlines()[0])
    # So that a terminated run ends what it started, as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="ptv2-bench-"))
    processes = Processes(folder)
    try:
        check(options)
        with machine.Watch(options.busy_limit, say) as watch:
            watch.quiet()
            results = measure(options, folder, processes, watch)
        return report(options, results)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    finally:
        # A second Ctrl-C would leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes.end_all()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
