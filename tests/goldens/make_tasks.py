#!/usr/bin/env python3
"""Makes tests/goldens/tasks: what transformers' tokenizers and scikit-learn's metrics give.

    python3 -m venv V && V/bin/pip install -r tests/goldens/requirements.txt && V/bin/python tests/goldens/make_tasks.py

Not part of `make test`: the files are in the repository, and a second run writes the same bytes. It reads
the tokenizers of the small backbones, which make.py and make_backbones.py make.

tokens.json: made-up rows of the tasks that make.py has none of, with the token ids and types of each of
their sequences, unpadded, cut to `max_seq_length`; `truncated` counts the examples (one an answer or an
entity) of which something was cut off. The texts are put together here, by the specification.

metrics.json: random labels and predictions of `classes` classes, with scikit-learn's accuracy, F1 of class
1, macro-F1 and Matthews correlation; and answers of questions, with exact match, F1 over all answers and
the mean of the questions' macro-F1.
"""

import json
import random
import warnings
from pathlib import Path

from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
OUT = HERE / "tasks"
BACKBONES = ["bert-tiny", "roberta-tiny", "mpnet-tiny", "deberta-tiny"]
LONGEST = 24
LONG = "The old man who sells bread by the river did not see the new train because it was raining in the city."


def span(text, part, after=0):
    start = text.index(part, after)
    return {"start": start, "end": start + len(part) - 1}


def rows():
    """Task, template and row."""
    wic = [
        {"word": "bank", "sentence1": "It is on the bank.", "sentence2": "A bank.", "idx": 0, "label": True,
         "start1": 13, "end1": 17, "start2": 2, "end2": 6, "version": 1.1},
        {"word": "see", "sentence1": LONG, "sentence2": "I see.", "idx": 1, "label": False,
         "start1": 49, "end1": 52, "start2": 2, "end2": 5, "version": 1.1},
    ]
    wsc = [
        {"text": "The cat saw a dog  and it ran.", "idx": 0, "label": False,
         "target": {"span1_text": "A dog", "span1_index": 3, "span2_text": "it", "span2_index": 6}},
        {"text": LONG, "idx": 1, "label": True,
         "target": {"span1_text": "the old man", "span1_index": 0, "span2_text": "it", "span2_index": 17}},
    ]
    question = {"question": "Who saw it?", "idx": 4, "answers": [
        {"text": "The man", "idx": 9, "label": 1}, {"text": LONG, "idx": 10, "label": 0}]}
    multirc = {"idx": 2, "version": 1.1, "passage": {"text": "The man saw it. It was new.", "questions": [question]}}
    text = "Zoé saw Bo in Old City.\n@highlight\nBo was in Old City\n@highlight\nZoé was not"
    spans = [span(text, "Zoé"), span(text, "Bo"), span(text, "Old City"), span(text, "Bo", 12)]
    record = {"source": "made up", "idx": 3, "passage": {"text": text, "entities": spans}, "qas": [
        {"query": "@placeholder is where Bo was.", "idx": 7, "answers": [{**span(text, "Old City"), "text": "Old City"}]}]}
    axb = {"sentence1": "The cat sat.", "sentence2": "The cat did not sit.", "idx": "5", "label": "not_entailment", "logic": "Negation"}
    axg = {"premise": "The man saw the woman as he was old.", "hypothesis": "The man was old.", "idx": 6,
           "label": "entailment", "pair_id": 1}
    for template in 0, 1:
        yield from (("superglue/wic", template, row) for row in wic)
        yield from (("superglue/wsc", template, row) for row in wsc)
    yield "superglue/multirc", 0, multirc
    yield "superglue/record", 0, record
    yield "superglue/axb", 0, axb
    yield "superglue/axg", 0, axg


def assemble(task, template, row):
    """Each example's sequences: a pair, or one text and None."""
    if task == "superglue/wic":
        word, one, other = row["word"], row["sentence1"], row["sentence2"]
        if template == 0:
            return [(f"{one} {other} Does {word} have the same meaning in both sentences?", None)]
        return [(f"{word}: {one}", f"{word}: {other}")]
    if task == "superglue/wsc":
        target = row["target"]
        if template == 0:
            return [(f"{target['span2_text']}: {row['text']}", target["span1_text"])]
        words = row["text"].split()
        words[target["span2_index"]] = "*" + words[target["span2_index"]] + "*"
        return [(" ".join(words), target["span1_text"])]
    if task == "superglue/multirc":
        passage = row["passage"]
        return [(passage["text"], q["question"] + " " + a["text"]) for q in passage["questions"] for a in q["answers"]]
    if task == "superglue/record":
        text = row["passage"]["text"]
        entities = sorted({text[e["start"] : e["end"] + 1] for e in row["passage"]["entities"]})
        text = text.replace("@highlight\n", "- ")
        return [(text, q["query"].replace("@placeholder", entity)) for q in row["qas"] for entity in entities]
    if task == "superglue/axb":
        return [(row["sentence1"], row["sentence2"])]
    return [(row["premise"], row["hypothesis"])]


def tokens():
    for backbone in BACKBONES:
        fast = PreTrainedTokenizerFast(tokenizer_file=str(HERE / backbone / "backbone/tokenizer.json"))
        for task, template, row in rows():
            sequences, truncated = [], 0
            for one, other in assemble(task, template, row):
                whole = fast(one, other, truncation=False, padding=False)
                coded = fast(one, other, truncation=True, max_length=LONGEST, padding=False, return_token_type_ids=True)
                sequences.append({"ids": coded["input_ids"], "types": coded["token_type_ids"]})
                truncated += len(whole["input_ids"]) > LONGEST
            yield {"backbone": backbone, "task": task, "template": template, "max_seq_length": LONGEST, "row": row,
                   "sequences": sequences, "truncated": truncated}


def macro(labels, predictions):
    return f1_score(labels, predictions, average="macro", zero_division=0)


def flat(chance, classes, count, share):
    """Predictions that are right in a share of the rows, and chance elsewhere."""
    labels = [chance.randrange(classes) for _ in range(count)]
    predictions = [label if chance.random() < share else chance.randrange(classes) for label in labels]
    return {
        "classes": classes, "labels": labels, "predictions": predictions,
        "accuracy": accuracy_score(labels, predictions),
        "f1": f1_score([label == 1 for label in labels], [p == 1 for p in predictions], zero_division=0),
        "macro_f1": macro(labels, predictions),
        "matthews_correlation": matthews_corrcoef(labels, predictions),
    }


def questions(chance, count, share):
    cells = []
    for question in range(count):
        for _ in range(chance.randrange(1, 8)):
            label = chance.randrange(2)
            cells.append([question, label if chance.random() < share else 1 - label, label])
    groups = [[cell for cell in cells if cell[0] == question] for question in range(count)]
    labels, predictions = [cell[2] for cell in cells], [cell[1] for cell in cells]
    return {
        "cells": cells,
        "em": sum(all(p == label for _, p, label in group) for group in groups) / count,
        "f1a": f1_score(labels, predictions),
        "f1m": sum(macro([c[2] for c in group], [c[1] for c in group]) for group in groups) / count,
    }


def metrics():
    chance = random.Random(20240611)
    shapes = [(2, 40, 0.6), (2, 7, 0.0), (3, 56, 0.7), (4, 30, 0.3), (2, 1, 1.0), (3, 5, 1.0)]
    return {
        "flat": [flat(chance, *shape) for shape in shapes],
        "questions": [questions(chance, count, share) for count, share in [(12, 0.8), (5, 0.4)]],
    }


def main():
    # A class that is never predicted, and labels of one class, are asked for here.
    warnings.filterwarnings("ignore")
    OUT.mkdir(exist_ok=True)
    lines = [json.dumps(case, ensure_ascii=False) for case in tokens()]
    assert any('"truncated": 0' in line for line in lines) and any('"truncated": 1' in line for line in lines)
    (OUT / "tokens.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    (OUT / "metrics.json").write_text(json.dumps(metrics(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
