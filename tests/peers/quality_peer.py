"""Trains and evaluates with transformers and PEFT, one run a line; quality.py starts it.

    quality_peer.py THREADS

Prints {"ready": true, "versions": {..}}. Then each line of standard input is a run (the fields of
compare/plan.py's Setting, with backbone, data, template_id, seed, precision and near_zero) and is answered by

    {"evaluations": [{"accuracy": 0.7}, ..], "trainable": 46851, "seconds": 61.0}    one of each epoch
    {"refused": "ValueError: .."}                                                 where PEFT cannot

AdamW, a linear schedule without warm-up, gradients clipped to 1: ptv2's defaults. The backbone is in
training mode, so its dropout is active; PEFT itself has none on the prefix.
"""

import json
import random
import sys
import time

import peft
import torch
import transformers
from peft import TaskType
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

import rows as superglue
from compare.metrics import scores
from peer import CLIP, Chooser, Classifier, collate, with_prefix


class AnyClassifier(Classifier):
    """The same over a backbone of another architecture."""

    def __init__(self, backbone, prefix, labels):
        nn.Module.__init__(self)
        base = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=labels)
        self.model = with_prefix(base, TaskType.SEQ_CLS, prefix)


def model_of(run, choices, labels):
    """The model of a run, with first values of the run's seed."""
    torch.manual_seed(run["seed"])
    backbone, prefix = run["backbone"], run["pre_seq_len"]
    if AutoConfig.from_pretrained(backbone).model_type != "bert":
        return AnyClassifier(backbone, prefix, labels)
    made = Chooser(backbone, prefix) if choices > 1 else Classifier(backbone, prefix, labels)
    if run["near_zero"]:
        # PEFT itself draws from N(0, 1); the method's authors from N(0, 0.02²).
        nn.init.normal_(made.model.prompt_encoder["default"].embedding.weight, std=0.02)
    return made


def autocast(run):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=run["precision"] == "bf16")


def evaluate(model, rows, run):
    """The metrics of all rows, in their file's order."""
    model.eval()
    predictions = []
    with torch.inference_mode(), autocast(run):
        for start in range(0, len(rows), run["batch_size"]):
            batch, _ = collate(rows[start : start + run["batch_size"]])
            predictions += model(batch).argmax(-1).tolist()
    return scores(run["task"], predictions, [row.label for row in rows])


def read(run, split):
    """The rows of a split that a run uses."""
    limit, template = run[f"max_{split}_rows"], run["template_id"]
    length = run["max_seq_length"]
    return superglue.read(
        run["backbone"], run["data"], run["task"], split, limit=limit, template=template, max_length=length
    )


def train(run):
    """One run from first values to the last epoch's evaluation."""
    _, labels, choices = superglue.TASKS[run["task"]]
    train_rows, val_rows = read(run, "train"), read(run, "val")
    model = model_of(run, choices, len(labels))
    trained = [values for values in model.parameters() if values.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=run["learning_rate"], weight_decay=0.0)
    size = run["batch_size"]
    total = run["epochs"] * -(-len(train_rows) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / total)
    chance = random.Random(run["seed"])
    evaluations = []
    for _ in range(run["epochs"]):
        model.train()
        order = chance.sample(train_rows, len(train_rows))
        # The last batch of an epoch may hold fewer rows, as in ptv2.
        for start in range(0, len(order), size):
            batch, truth = collate(order[start : start + size])
            with autocast(run):
                loss = nn.functional.cross_entropy(model(batch), truth)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
            schedule.step()
        evaluations.append(evaluate(model, val_rows, run))
    return {"evaluations": evaluations, "trainable": sum(values.numel() for values in trained)}


def answer(run):
    began = time.monotonic()
    try:
        return train(run) | {"seconds": time.monotonic() - began}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        # That PEFT cannot do something is a result here.
        return {"refused": f"{type(error).__name__}: {error}"}


def main():
    torch.set_num_threads(int(sys.argv[1]))
    versions = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    print(json.dumps({"ready": True, "versions": versions}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
