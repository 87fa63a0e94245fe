#!/usr/bin/env python3
"""Writes the demo's rows: OUT_DIR/RTE/{train,val,test}.jsonl in SuperGLUE's RTE format.

    python3 scripts/demo_data.py OUT_DIR [--seed N]

The task. The premise names a thing and its colour; the hypothesis says that the same thing is, or is
not, some colour. A thing has one colour, so

    The old car is red.    The old car is red.         entailment
                           The old car is not blue.    entailment
                           The old car is not red.     not_entailment
                           The old car is blue.        not_entailment

The label is an exclusive or of two facts: whether the two colours differ, and whether the hypothesis
says "not". Each of the four cases has a quarter of the rows, and every colour is as likely in each.
So neither the hypothesis alone nor the overlap of words says anything about the label.

Why a linear head does not solve it. Of two facts that a frozen vector holds as directions, a linear
layer can weigh and add, and no weights make an exclusive or: the least loss is that of a coin. The
pooled vector would have to hold the combination itself, and a frozen sentence encoder has no reason
to. A prefix steers the attention of every layer, so the layers between can combine the two facts
before the head reads them.

The splits share no premise. The same seed gives the same bytes.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

ROWS = {"train": 480, "val": 160, "test": 8}
KINDS = "old new big small cheap heavy broken wooden".split()
THINGS = "car bike house door boat chair table lamp cup box book bag bed clock".split()
COLOURS = "red blue green yellow black white brown pink".split()


def pair(rng, premise, differs, negated):
    """The two sentences and the label of one of the four cases."""
    kind, thing, colour = premise
    claimed = rng.choice([other for other in COLOURS if other != colour]) if differs else colour
    return {
        "premise": f"The {kind} {thing} is {colour}.",
        "hypothesis": f"The {kind} {thing} is {'not ' if negated else ''}{claimed}.",
        "label": "entailment" if differs == negated else "not_entailment",
    }


def splits(seed):
    """The rows of each split: premises without repetition, the four cases in equal shares."""
    rng = random.Random(seed)
    premises = list(itertools.product(KINDS, THINGS, COLOURS))
    rng.shuffle(premises)
    cases = list(itertools.product([False, True], repeat=2))
    for split, count in ROWS.items():
        rows = [pair(rng, premises.pop(), *cases[n % len(cases)]) for n in range(count)]
        rng.shuffle(rows)
        yield split, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path, help="the folder RTE/ is made in it")
    parser.add_argument("--seed", type=int, default=11, help="of the rows (default: 11)")
    arguments = parser.parse_args()
    folder = arguments.out_dir / "RTE"
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits(arguments.seed):
        lines = []
        for idx, row in enumerate(rows):
            if split == "test":
                del row["label"]
            lines.append(json.dumps({**row, "idx": idx}) + "\n")
        path = folder / f"{split}.jsonl"
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
