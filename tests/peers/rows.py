"""SuperGLUE rows as token ids, as ptv2's own tasks read them (daemon/src/tasks)."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MAX_LENGTH = 128
# Folder, labels in the order of their index, choices of a row.
TASKS = {
    "boolq": ("BoolQ", [False, True], 1),
    "cb": ("CB", ["entailment", "contradiction", "neutral"], 1),
    "copa": ("COPA", [0, 1], 2),
    "rte": ("RTE", ["entailment", "not_entailment"], 1),
    "wic": ("WiC", [False, True], 1),
    "wsc": ("WSC", [False, True], 1),
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


def texts(task, row, template=0):
    """What is encoded of a row, one for each choice: a pair of texts, or a single one."""
    if task in ("cb", "rte"):
        return [(row["premise"], row["hypothesis"])]
    if task == "boolq":
        return [(row["question"], row["passage"])]
    if task == "copa":
        stem = row["premise"] + (" because" if row["question"] == "cause" else " so")
        return [(stem, row["choice1"]), (stem, row["choice2"])]
    if task == "wic":
        word, first, second = row["word"], row["sentence1"], row["sentence2"]
        if template == 1:
            return [(f"{word}: {first}", f"{word}: {second}")]
        return [f"{first} {second} Does {word} have the same meaning in both sentences?"]
    target = row["target"]
    return [(f"{target['span2_text']}: {row['text']}", target["span1_text"])]


def raw(data, task, split, limit=None):
    """The first rows of a split (all, without a limit) in their file's order, as the file has them."""
    path = Path(data) / TASKS[task][0] / f"{split}.jsonl"
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, limit)]


def majority(data, task, split, limit=None):
    """Share of the most frequent label."""
    labels = Counter(row["label"] for row in raw(data, task, split, limit))
    return max(labels.values()) / labels.total()


def read(backbone, data, task, split, *, limit=None, template=0, max_length=MAX_LENGTH):
    """The first rows of a split, tokenized."""
    # Not needed by those who only look at labels, and no part of Python.
    from tokenizers import Tokenizer

    _, labels, choices = TASKS[task]
    rows = raw(data, task, split, limit)
    tokenizer = Tokenizer.from_file(str(Path(backbone) / "tokenizer.json"))
    # The file may ask for other lengths, and for padding: MiniLM's does.
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    tokenizer.no_padding()
    coded = tokenizer.encode_batch([text for row in rows for text in texts(task, row, template)])
    found = []
    for index, row in enumerate(rows):
        own = coded[index * choices : (index + 1) * choices]
        found.append(Row([(one.ids, one.type_ids) for one in own], labels.index(row["label"])))
    return found
