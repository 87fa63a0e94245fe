"""What is measured, how often, and with which options. The counts are meant for 25 minutes on 2 cores."""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

CACHE = Path(os.environ.get("PTV2_CACHE", Path.home() / ".cache/ptv2"))
PRECISIONS = ["fp32", "bf16"]
WORKLOADS = ["rte", "boolq", "copa", "rte-base"]
PARTS = ["training", "scaling", "start", "memory", "coordinator", "callgrind"]
BATCH, PREFIX = 32, 20


@dataclass(frozen=True)
class Workload:
    """A task on a backbone, and how much of it is run in one turn."""

    key: str
    name: str
    task: str
    backbone: Path
    rounds: int
    # Steps of a turn, of which the first is dropped.
    steps: int
    val_rows: int


@dataclass(frozen=True)
class Counts:
    """How often the rest is repeated."""

    limit_s: float = 6.0
    scaling_rounds: int = 4
    scaling_steps: int = 6
    starts: int = 3
    memory_steps: int = 20
    memory_val_rows: int = 64
    coordinator_steps: int = 50
    callgrind_steps: tuple = (2, 6)


QUICK = Counts(
    limit_s=0.5,
    scaling_rounds=1,
    scaling_steps=2,
    starts=1,
    memory_steps=2,
    memory_val_rows=16,
    coordinator_steps=4,
    callgrind_steps=(1, 2),
)


def workloads(options):
    """The four of the table. RTE on MiniLM-L6 stands first: the parts besides training use it."""
    small, base = options.small, options.base
    found = [
        Workload("rte", "RTE, MiniLM-L6", "rte", small, rounds=3, steps=6, val_rows=160),
        Workload("boolq", "BoolQ, MiniLM-L6", "boolq", small, rounds=2, steps=6, val_rows=128),
        Workload("copa", "COPA, MiniLM-L6", "copa", small, rounds=3, steps=6, val_rows=64),
        Workload("rte-base", "RTE, BERT-base shape", "rte", base, rounds=1, steps=3, val_rows=32),
    ]
    if options.quick:
        found = [replace(one, rounds=1, steps=2, val_rows=16) for one in found]
    return found


def chosen(options):
    """The workloads that training is measured on."""
    return [one for one in workloads(options) if one.key in options.workloads]


def arguments(description):
    """The command line."""
    root = Path(__file__).resolve().parents[3]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--data", type=Path, default=root / "../shared/superglue", help="folder of SuperGLUE's RTE, BoolQ, COPA")
    add("--bin", type=Path, default=target / "release", help="folder of ptv2d and ptv2ctl")
    add("--python", type=Path, default=CACHE / "venv/bin/python", help="Python with torch, transformers, PEFT")
    add("--small", type=Path, default=CACHE / "backbones/all-MiniLM-L6-v2", help="the smaller backbone")
    add("--base", type=Path, default=CACHE / "backbones/bert-base-random", help="the one of BERT-base's shape")
    add("--threads", type=int, default=2, help="compute threads of ptv2's worker and of the peers")
    add("--precisions", default=",".join(PRECISIONS), help="of ptv2 and of the peers")
    add("--only", default=",".join(PARTS), help="parts to run: " + ", ".join(PARTS))
    add("--workloads", default=",".join(WORKLOADS), help="what is trained: " + ", ".join(WORKLOADS))
    add("--quick", action="store_true", help="tiny counts, to check this program itself; writes no docs")
    add("--busy-limit", type=float, default=0.05, help="share of all cores that others may use")
    add("--json", type=Path, default=target / "bench.json", help="where the raw numbers go")
    add("--docs", type=Path, default=root / "docs/performance.md", help="where the tables go")
    options = parser.parse_args()
    options.root = root
    for name, allowed in [("only", PARTS), ("precisions", PRECISIONS), ("workloads", WORKLOADS)]:
        chosen = getattr(options, name).split(",")
        setattr(options, name, chosen)
        if unknown := [one for one in chosen if one not in allowed]:
            parser.error(f"--{name} is `{unknown[0]}`; expected some of: {','.join(allowed)}")
    return options
