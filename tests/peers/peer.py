"""What ptv2 is measured against: transformers' BERT under PEFT's prefix tuning, as a user would write it.

    peer.py BACKBONE rte|boolq|copa DATA [--precision fp32|bf16] [--padding longest|128] [--threads N]
        [--device cpu|cuda:N] [--prefix N] [--batch N]

One training step is done at once and its end is printed: {"ready": true, "first_step_at": UNIX_TIME}.
Then each line of standard input is a command, answered by one line; its end ends the process, and
while there is none the process waits without using the processor:

    {"do": "train", "steps": 5}     {"seconds": [..], "rows": [..], "tokens": [..]}, one of each a step
    {"do": "evaluate", "rows": 64}  {"seconds": 1.2, "rows": 64, "tokens": 4000}
    {"do": "lengths", "rows": 64}   {"train": [..], "val": [..]}: tokens of each sequence
    {"do": "memory"}                {"peak_bytes": N}
    {"do": "versions"}              {"torch": "2.11.0", ..}

Tokens exclude padding; of a GPU, `memory` tells the most that torch held on it. `--padding 128` pads every row to 128 tokens, as the reference's scripts do.
"""

import argparse
import json
import random
import sys
import time

import peft
import torch
import transformers
from peft import PrefixTuningConfig, TaskType, get_peft_model
from torch import nn
from transformers import BertForSequenceClassification, BertModel

import rows as superglue
from measure.plan import BATCH, PREFIX

CLIP, RATE, SEED, DROPOUT = 1.0, 5e-3, 11, 0.1


class Classifier(nn.Module):
    """Classification: PEFT over transformers' own model."""

    def __init__(self, backbone, prefix=PREFIX, labels=2):
        super().__init__()
        base = BertForSequenceClassification.from_pretrained(backbone, num_labels=labels)
        self.model = with_prefix(base, TaskType.SEQ_CLS, prefix)

    def forward(self, batch):
        return self.model(**batch).logits


class Chooser(nn.Module):
    """Multiple choice, for which PEFT has no task: each choice is scored alone by a head of one output."""

    def __init__(self, backbone, prefix=PREFIX):
        super().__init__()
        base = BertModel.from_pretrained(backbone)
        self.model = with_prefix(base, TaskType.FEATURE_EXTRACTION, prefix)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(base.config.hidden_size, 1)

    def forward(self, batch):
        pooled = self.model(**batch).pooler_output
        return self.head(self.dropout(pooled)).view(-1, 2)


def with_prefix(base, kind, length):
    """Freezes the backbone and puts a prefix in front of each layer's keys and values."""
    config = PrefixTuningConfig(task_type=kind, num_virtual_tokens=length, prefix_projection=False)
    return get_peft_model(base, config)


def collate(some, width=None):
    """Tensors of some rows, padded to a width or to the longest: choices become rows of their own."""
    sequences = [sequence for row in some for sequence in row.sequences]
    width = width or max(len(ids) for ids, _ in sequences)
    padded = lambda values: values + [0] * (width - len(values))
    batch = {
        "input_ids": torch.tensor([padded(ids) for ids, _ in sequences]),
        "token_type_ids": torch.tensor([padded(types) for _, types in sequences]),
        "attention_mask": torch.tensor([padded([1] * len(ids)) for ids, _ in sequences]),
    }
    return batch, torch.tensor([row.label for row in some])


class Trainer:
    """One model, its rows and its optimizer."""

    def __init__(self, args):
        self.args = args
        self.train_rows = superglue.read(args.backbone, args.data, args.task, "train")
        self.val_rows = superglue.read(args.backbone, args.data, args.task, "val")
        torch.manual_seed(SEED)
        kind = Chooser if args.task == "copa" else Classifier
        self.model = kind(args.backbone, args.prefix).to(args.device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=RATE, weight_decay=0.0)
        self.batches = self.shuffled(random.Random(SEED))

    def shuffled(self, chance):
        """Batches without end; each epoch has an order of its own, and ends with its last full batch."""
        while True:
            order = chance.sample(self.train_rows, len(self.train_rows))
            for start in range(0, len(order) - self.args.batch + 1, self.args.batch):
                yield order[start : start + self.args.batch]

    def collate(self, some):
        batch, labels = collate(some, superglue.MAX_LENGTH if self.args.padding == "128" else None)
        to = self.args.device
        return {name: values.to(to) for name, values in batch.items()}, labels.to(to)

    def autocast(self):
        on = self.args.precision == "bf16"
        return torch.autocast(self.args.device.split(":")[0], dtype=torch.bfloat16, enabled=on)

    def wait(self):
        """A GPU works on after it was told what to do."""
        if self.args.device != "cpu":
            torch.cuda.synchronize(self.args.device)

    def step(self, some):
        """One optimizer step, from rows to updated values."""
        batch, labels = self.collate(some)
        with self.autocast():
            loss = nn.functional.cross_entropy(self.model(batch), labels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()

    def train(self, command):
        self.model.train()
        found = {"seconds": [], "rows": [], "tokens": []}
        for _ in range(command["steps"]):
            some = next(self.batches)
            began = time.perf_counter()
            self.step(some)
            self.wait()
            found["seconds"].append(time.perf_counter() - began)
            found["rows"].append(len(some))
            found["tokens"].append(sum(row.tokens for row in some))
        return found

    def evaluate(self, command):
        """Scores the first validation rows, in their file's order."""
        some = self.val_rows[: command["rows"]]
        self.model.eval()
        right = 0
        began = time.perf_counter()
        with torch.inference_mode(), self.autocast():
            for start in range(0, len(some), self.args.batch):
                batch, labels = self.collate(some[start : start + self.args.batch])
                right += (self.model(batch).argmax(-1) == labels).sum().item()
        seconds = time.perf_counter() - began
        tokens = sum(row.tokens for row in some)
        return {"seconds": seconds, "rows": len(some), "tokens": tokens, "right": right}

    def lengths(self, command):
        of = lambda some: [len(ids) for row in some for ids, _ in row.sequences]
        return {"train": of(self.train_rows), "val": of(self.val_rows[: command["rows"]])}

    def memory(self, _command):
        if self.args.device != "cpu":
            return {"peak_bytes": torch.cuda.max_memory_allocated(self.args.device)}
        with open("/proc/self/status", encoding="ascii") as lines:
            peak = next(line for line in lines if line.startswith("VmHWM:"))
        return {"peak_bytes": int(peak.split()[1]) * 1024}

    def versions(self, _command):
        return {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone")
    parser.add_argument("task", choices=["rte", "boolq", "copa"])
    parser.add_argument("data")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--padding", choices=["longest", "128"], default="longest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prefix", type=int, default=PREFIX)
    parser.add_argument("--batch", type=int, default=BATCH)
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    trainer = Trainer(args)
    trainer.train({"steps": 1})
    print(json.dumps({"ready": True, "first_step_at": time.time()}), flush=True)
    commands = {
        "train": trainer.train,
        "evaluate": trainer.evaluate,
        "lengths": trainer.lengths,
        "memory": trainer.memory,
        "versions": trainer.versions,
    }
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(commands[command["do"]](command)), flush=True)


if __name__ == "__main__":
    main()
