#!/usr/bin/env python3
"""Makes tests/goldens/bert-tiny/methods.safetensors: references of the methods beside the deep prefix.

    V/bin/python tests/goldens/make_methods.py

Run after make.py, in the same environment. Rows, labels and head are those of reference.safetensors.
Each forward pass and gradient is that of transformers and PEFT in float64, in eval mode, then rounded
(B=6, S=17, P=5, C=3, H=32, L=2, M=8):

    projection.{embedding [P,H], inner.weight [M,H], inner.bias, outer.weight [2LH,M], outer.bias}
    projection.{table [P,2LH], logits, loss, grad.<each of the five>}: PEFT's prefix with projection;
        the table is what PEFT saves of it
    prompt.{table [P,H], logits, loss, grad.table}: the prompt before transformers' word embeddings, [CLS]
        pooled
    pooler.{grad.weight, grad.bias}: with the prefix of reference.safetensors
"""

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import PrefixTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

HERE = Path(__file__).resolve().parent / "bert-tiny"
PREFIX, CLASSES, INNER = 5, 3, 8
NAMES = ["embedding", "inner.weight", "inner.bias", "outer.weight", "outer.bias"]


def base():
    return BertForSequenceClassification.from_pretrained("backbone", num_labels=CLASSES, dtype=torch.float32)


def peft_model(head, **more):
    plan = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=PREFIX, **more)
    model = get_peft_model(base(), plan).double().eval()
    with torch.no_grad():
        module = model.base_model.classifier.modules_to_save["default"]
        module.weight.copy_(head[0])
        module.bias.copy_(head[1])
    return model


def run(model, rows):
    return model(input_ids=rows["ids"], token_type_ids=rows["types"], attention_mask=rows["mask"]).logits


def projection(rows, head, rng, out):
    model = peft_model(head, prefix_projection=True, encoder_hidden_size=INNER)
    encoder = model.prompt_encoder["default"]
    parts = [encoder.embedding.weight, *encoder.transform[0].parameters(), *encoder.transform[2].parameters()]
    with torch.no_grad():
        for part in parts:
            part.copy_(torch.tensor(0.5 * rng.standard_normal(part.shape), dtype=torch.float32))
    logits = run(model, rows)
    loss = F.cross_entropy(logits, rows["labels"])
    gradients = torch.autograd.grad(loss, parts)
    out |= {f"projection.{name}": part for name, part in zip(NAMES, parts)}
    out |= {f"projection.grad.{name}": gradient for name, gradient in zip(NAMES, gradients)}
    out |= {"projection.table": model.get_prompt_embedding_to_save("default")}
    out |= {"projection.logits": logits, "projection.loss": loss}


def prompt(rows, head, rng, out):
    model = base().double().eval()
    table = torch.tensor(0.5 * rng.standard_normal((PREFIX, 32)), dtype=torch.float32).double().requires_grad_()
    count = rows["ids"].shape[0]
    words = model.bert.embeddings.word_embeddings(rows["ids"])
    hidden = model.bert(
        inputs_embeds=torch.cat([table.expand(count, -1, -1), words], 1),
        token_type_ids=F.pad(rows["types"], (PREFIX, 0)),
        attention_mask=F.pad(rows["mask"], (PREFIX, 0), value=1),
    ).last_hidden_state
    pooled = model.bert.pooler(hidden[:, PREFIX:])
    logits = pooled @ head[0].double().T + head[1].double()
    loss = F.cross_entropy(logits, rows["labels"])
    out |= {"prompt.table": table, "prompt.logits": logits, "prompt.loss": loss}
    out["prompt.grad.table"] = torch.autograd.grad(loss, table)[0]


def pooler(rows, head, out):
    model = peft_model(head)
    dense = model.base_model.bert.pooler.dense
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(rows["prefix"])
    parameters = [dense.weight.requires_grad_(), dense.bias.requires_grad_()]
    gradients = torch.autograd.grad(F.cross_entropy(run(model, rows), rows["labels"]), parameters)
    out |= {f"pooler.grad.{name}": gradient for name, gradient in zip(["weight", "bias"], gradients)}


def main():
    torch.set_num_threads(1)
    os.chdir(HERE)
    rng = np.random.default_rng(20250507)
    rows = load_file("reference.safetensors")
    head = [rows["head.weight"], rows["head.bias"]]
    out = {}
    projection(rows, head, rng, out)
    prompt(rows, head, rng, out)
    pooler(rows, head, out)
    kept = {name: torch.atleast_1d(value.detach().float()).contiguous().clone() for name, value in out.items()}
    save_file(kept, "methods.safetensors")
    Path("methods.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
