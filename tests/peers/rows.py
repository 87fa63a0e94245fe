"""SuperGLUE rows as token ids, as ptv2's own tasks read them (daemon/src/tasks)."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

MAX_LENGTH = 128
# Folder, labels in the order of their index, choices of a row.
TASKS = {
    "rte": ("RTE", ["entailment", "not_entailment"], 1),
    "boolq": ("BoolQ", [False, True], 1),
    "copa": ("COPA", [0, 1], 2),
}


@dataclass
class Row:
    """One row: a sequence of (ids, types) for each choice, and the label's index."""

    sequences: list
    label: int

    @property
    def tokens(self):
        """Tokens of all its sequences, special ones included, padding excluded."""
        return sum(len(ids) for ids, _ in self.sequences)


def pairs(task, row):
    """The text pairs of a row, one for each choice."""
    if task == "rte":
        return [(row["premise"], row["hypothesis"])]
    if task == "boolq":
        return [(row["question"], row["passage"])]
    stem = row["premise"] + (" because" if row["question"] == "cause" else " so")
    return [(stem, row["choice1"]), (stem, row["choice2"])]


def read(backbone, data, task, split):
    """All rows of a split in their file's order, tokenized."""
    folder, labels, choices = TASKS[task]
    path = Path(data) / folder / f"{split}.jsonl"
    with path.open(encoding="utf-8") as lines:
        raw = [json.loads(line) for line in lines]
    tokenizer = Tokenizer.from_file(str(Path(backbone) / "tokenizer.json"))
    # The file may ask for other lengths, and for padding: MiniLM's does.
    tokenizer.enable_truncation(MAX_LENGTH, strategy="longest_first")
    tokenizer.no_padding()
    coded = tokenizer.encode_batch([pair for row in raw for pair in pairs(task, row)])
    rows = []
    for index, row in enumerate(raw):
        own = coded[index * choices : (index + 1) * choices]
        rows.append(Row([(one.ids, one.type_ids) for one in own], labels.index(row["label"])))
    return rows
