"""ptv2 against PEFT with bf16 autocast on the same GPU, in turn, on a random backbone of BERT-large's shape.

    gpu.py --bin DIR --tokenizer DIR --work DIR [--device cuda:N|cpu] [--report FILE]

A part of `gpu-test.sh`, which knows the folders. Rows are random words, all of 128 tokens or more, so that each
sequence has 128. Prefixes of 20 and 128, batches of 32 and 128 rows; each turn's first steps are dropped; medians of all
others. Besides: the card's best bf16 product, as torch makes it, and from submit to the first step of a warm worker.
On the processor (`--device cpu`) shapes are small, and figures mean nothing: it shows that the program runs.
Needs torch; where transformers, peft or tokenizers are missing, ours alone is measured. What fails of one prefix and
batch, as for want of memory, is told in the table beside all others, and the exit code is 1. The rows of one prefix and
batch are in the report as soon as it was measured.
"""

import argparse
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import backbone
from measure import Problem, operations
from measure.ours import Daemon
from measure.processes import Processes, Talker

TOKENS, SEED = 128, 11
# What theirs needs.
PEERS = ("peft", "transformers", "tokenizers")
HEADER = ["| what | ptv2 bf16 | PEFT bf16 autocast | ratio | target | met? |", "|---|---|---|---|---|---|"]
TARGET_RATIO, TARGET_SHARE, TARGET_FIRST_S = 2.0, 0.5, 1.0
# Rows x inner x columns of the products by which the card's rate is measured.
PRODUCTS = [(8192, 8192, 8192), (16384, 4096, 4096), (4096, 1024, 4096), (16384, 1024, 4096)]


@dataclass
class Pair:
    """What was measured of one prefix and batch."""

    # Rows a second of ours and theirs.
    own: list = field(default_factory=list)
    theirs: list = field(default_factory=list)
    # The most that torch held for theirs.
    memory: int | None = None
    # PEFT's and its libraries'.
    versions: dict | None = None
    # Why there is no more.
    problems: list = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    config: dict
    prefixes: tuple
    batches: tuple
    rounds: int
    # Steps of a turn, and how many of them are dropped.
    steps: int
    dropped: int
    rows: int
    repeats: int


def large():
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    return Plan(backbone.CONFIG | sizes, (20, 128), (32, 128), 3, 14, 4, 2048, 50)


def small():
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    return Plan(backbone.CONFIG | sizes, (4,), (4, 8), 2, 3, 1, 64, 2)


def make_rows(folder, tokenizer, count):
    """Rows of RTE's form out of whole words of the vocabulary, longer than what is read of them."""
    words = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(word for word in words if word.isascii() and word.isalpha() and len(word) > 2)
    chance = random.Random(SEED)
    said = lambda: " ".join(chance.choices(words, k=TOKENS))
    (folder / "RTE").mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", count), ("val", 32)):
        lines = []
        for idx in range(rows):
            label = chance.choice(["entailment", "not_entailment"])
            lines.append(json.dumps({"premise": said(), "hypothesis": said(), "label": label, "idx": idx}))
        (folder / "RTE" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def product_rate(device, repeats):
    """Prints the best rate of a bf16 product in operations a second, and its shape: a process of its own."""
    import torch

    wait = lambda: torch.cuda.synchronize(device) if device != "cpu" else None
    best = (0.0, "")
    for shape in PRODUCTS if device != "cpu" else [(512, 512, 512)]:
        rows, inner, columns = shape
        left = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
        right = torch.randn(inner, columns, device=device, dtype=torch.bfloat16)
        for _ in range(3):
            left @ right
        wait()
        began = time.perf_counter()
        for _ in range(repeats):
            left @ right
        wait()
        rate = 2 * rows * inner * columns * repeats / (time.perf_counter() - began)
        best = max(best, (rate, "x".join(map(str, shape))))
    print(json.dumps(best))


class Ours:
    """Jobs of one shape on a daemon that stays."""

    def __init__(self, daemon, plan, folders):
        self.daemon, self.plan, self.folders = daemon, plan, folders
        self.first_step_s = None
        # Of the jobs of each prefix and batch, which are the same job each time.
        self.hashes = {}

    def rates(self, prefix, batch, slices):
        """Rows a second of each step of a job, without the first ones."""
        settings = {
            "task": "superglue/rte",
            "backbone.path": self.folders.backbone.resolve(),
            "backbone.precision": "bf16",
            "data.root": self.folders.data.resolve(),
            "method.pre_seq_len": prefix,
            "training.batch_size": batch,
            "training.slices": slices,
            "training.max_steps": self.plan.steps,
        }
        status, rows, self.first_step_s = self.daemon.follow(settings)
        self.hashes.setdefault((prefix, batch), set()).add(status["tuned_sha256"])
        return [row["rows_per_s"] for row in rows if "loss" in row][self.plan.dropped :]


def peer_rates(peer, plan, batch):
    """The same of PEFT."""
    found = peer.ask(do="train", steps=plan.steps)["seconds"]
    return [batch / seconds for seconds in found][plan.dropped :]


def start_peer(options, folders, processes, prefix, batch):
    """PEFT with the same shape; None where it is not installed."""
    if not all(importlib.util.find_spec(name) for name in PEERS):
        return None
    command = [sys.executable, Path(__file__).with_name("peer.py"), folders.backbone, "rte", folders.data]
    command += ["--precision", "bf16", "--padding", "128", "--device", options.device]
    return Talker(processes, [*command, "--prefix", str(prefix), "--batch", str(batch)])


def take_turns(pair, rounds, own, theirs):
    """Rates of both in turn; who fails takes no more turns, and why is noted."""
    turns = [("ptv2", pair.own, own)] + ([("PEFT", pair.theirs, theirs)] if theirs else [])
    for _ in range(rounds):
        for turn in turns[:]:
            who, rates, rates_of_turn = turn
            # A peer that is gone takes no more commands: a broken pipe.
            try:
                rates += rates_of_turn()
            except (Problem, OSError) as problem:
                pair.problems.append(f"{who}: {problem}")
                turns.remove(turn)


def measured(options, plan, folders, processes, ours, shape):
    """One prefix and batch."""
    (prefix, batch), pair, peer = shape, Pair(), None
    try:
        peer = start_peer(options, folders, processes, prefix, batch)
        pair.versions = peer and peer.ask(do="versions")
    except (Problem, OSError) as problem:
        pair.problems.append(f"PEFT: {problem}")
    theirs = peer and (lambda: peer_rates(peer, plan, batch))
    take_turns(pair, plan.rounds, lambda: ours.rates(prefix, batch, options.slices), theirs)
    if peer:
        if len(pair.theirs) == plan.rounds * (plan.steps - plan.dropped):
            pair.memory = peer.ask(do="memory")["peak_bytes"]
        peer.end()
    return pair


def measure(options, plan, folders, processes, tell):
    """Measures each prefix and batch, and tells the table's lines; whether nothing failed."""
    tell(HEADER)
    command = [sys.executable, __file__, "--device", options.device, "--product-rate", str(plan.repeats)]
    rate = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    paths = SimpleNamespace(bin=options.bin, data=folders.data, small=folders.backbone, base=folders.backbone)
    daemon = Daemon(paths, processes, folders.state, 1, 1, ("--device", options.device))
    ours, found = Ours(daemon, plan, folders), {}
    for shape in [(prefix, batch) for prefix in plan.prefixes for batch in plan.batches]:
        found[shape] = measured(options, plan, folders, processes, ours, shape)
        tell(rows_of(options, plan, shape, found[shape], ours.hashes, rate))
    daemon.end()
    tell(last_rows(options, found, ours.first_step_s, rate))
    return not any(one.problems for one in found.values()), all(len(one) == 1 for one in ours.hashes.values())


def median(rates):
    return statistics.median(rates) if rates else None


def cell(text):
    """A few words of what may be a log: of several lines the first and the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = " … ".join(lines if len(lines) < 3 else [lines[0], lines[-1]])
    return said.replace("|", "/")[:300]


def row(what, own, theirs, ratio, target, is_met):
    met = "" if is_met is None else ("yes" if is_met else "no")
    return f"| {what} | {own} | {theirs} | {ratio} | {target} | {met} |"


def rows_of(options, plan, shape, one, hashes, rate):
    """The figures of one prefix and batch, as lines of Markdown."""
    (prefix, batch), is_real, lines = shape, options.device != "cpu", []
    mine, peers, named = median(one.own), median(one.theirs), f"P = {prefix}, batch {batch}"
    own = f"{mine:.1f}" if mine else "none"
    said = f"{peers:.1f}" if peers else ("none" if one.problems else "not installed")
    if one.memory:
        said += f", at most {one.memory / 2**30:.1f} GiB"
    ratio = mine / peers if mine and peers else None
    # Asked for at the smaller batch.
    asked = is_real and ratio and batch == min(plan.batches)
    goal = (f"≥ {TARGET_RATIO}", ratio >= TARGET_RATIO) if asked else ("", None)
    what = f"{named}: rows/s (median of {len(one.own)} steps)"
    lines.append(row(what, own, said, f"{ratio:.2f}" if ratio else "", *goal))
    if mine:
        of_backbone = operations.Shape.of(plan.config)
        share = mine * operations.plain(of_backbone, prefix, TOKENS, training=True) / rate[0]
        asked = is_real and batch == max(plan.batches)
        goal = (f"≥ {TARGET_SHARE:.0%}", share >= TARGET_SHARE) if asked else ("", None)
        lines.append(row(f"{named}: share of the card's bf16 product rate", f"{share:.0%}", "", "", *goal))
        count, runs = len(hashes[shape]), len(one.own) // (plan.steps - plan.dropped)
        lines.append(row(f"{named}: hashes of {runs} runs", count, "", "", "1", count == 1))
    for problem in one.problems:
        lines.append(row(f"{named}: not measured to the end", cell(problem), "", "", "", None))
    return lines


def last_rows(options, found, first_step_s, rate):
    """What belongs to no prefix and batch."""
    is_real, lines = options.device != "cpu", []
    if first_step_s is not None:
        goal = (f"< {TARGET_FIRST_S} s", first_step_s < TARGET_FIRST_S) if is_real else ("", None)
        lines.append(row("submit to first step, warm", f"{first_step_s:.2f} s", "", "", *goal))
    lines.append(row(f"the card's bf16 product, {rate[1]}", f"{rate[0] / 1e12:.1f} TFLOP/s", "", "", "", None))
    versions = next((one.versions for one in found.values() if one.versions), None)
    if versions:
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(row("versions", "", said, "", "", None))
    return lines


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, help="folder of ptv2d and ptv2ctl")
    parser.add_argument("--tokenizer", type=Path, help="folder with BERT's tokenizer.json")
    parser.add_argument("--work", type=Path, help="folder for backbone, rows and state")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--slices", type=int, default=1, help="of each of our batches")
    parser.add_argument("--report", type=Path, help="file that the table is added to")
    parser.add_argument("--backbone-only", action="store_true", help="make the backbone, measure nothing")
    parser.add_argument("--product-rate", type=int, metavar="REPEATS", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = arguments()
    if options.product_rate:
        product_rate(options.device, options.product_rate)
        return
    plan = small() if options.device == "cpu" else large()
    work = options.work.resolve()
    folders = SimpleNamespace(backbone=work / "backbone", data=work / "data", state=work / "state")
    backbone.make(folders.backbone, plan.config, options.tokenizer)
    if options.backbone_only:
        return
    make_rows(folders.data, options.tokenizer, plan.rows)

    def tell(lines):
        text = "\n".join(lines) + "\n"
        print(text, end="", flush=True)
        if options.report:
            with options.report.open("a", encoding="utf-8") as report:
                report.write(text)

    processes = Processes(work)
    try:
        is_whole, is_same = measure(options, plan, folders, processes, tell)
    except Problem as problem:
        sys.exit(f"error: {problem}")
    finally:
        processes.end_all()
    if not is_whole:
        sys.exit("error: not all was measured: see the table")
    if not is_same:
        sys.exit("error: the same job ended with several hashes: see the table")


if __name__ == "__main__":
    main()
