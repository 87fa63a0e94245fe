#!/usr/bin/env python3
"""Writes rows for the checks on a GPU: OUT_DIR/CB/{train,val,test}.jsonl, made of the demo's sentences.

They have CB's form and all of its labels; nothing is to be learned from them.
"""

import json
import sys
from pathlib import Path

from demo_data import splits

LABELS = {"entailment": "entailment", "not_entailment": "contradiction"}


def main():
    folder = Path(sys.argv[1]) / "CB"
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits(seed=11):
        lines = []
        for idx, row in enumerate(rows):
            label = "neutral" if idx % 3 == 2 else LABELS[row.pop("label")]
            row = {"premise": row["premise"], "hypothesis": row["hypothesis"], "idx": idx}
            lines.append(json.dumps(row if split == "test" else {**row, "label": label}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
