#!/usr/bin/env python3
"""Saves adapters with the PEFT that is installed, and the logits that it computes with them.

    V/bin/python tests/goldens/make_adapters.py tests/goldens/adapters

Makes OUT/<version of PEFT>/<name>/{adapter_config.json, adapter_model.safetensors, logits.safetensors}, of
the tiny backbones and the rows of their references (P=5). The recorded ones are of 0.12.0 with transformers
4.44.2 and 0.21.2 with transformers 5.23.0; `make test-peft` makes them anew. A second run writes the same
bytes.

    bert, roberta                 three labels
    bert-choice, roberta-choice   one label, as multiple choice is exchanged: each choice a sequence
    bert-projection               PEFT's own projection, of which it saves the table
"""

import os
import sys
from pathlib import Path

import numpy as np
import peft
import torch
from peft import PrefixTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, RobertaForSequenceClassification

GOLDENS = Path(__file__).resolve().parent
CASES = {
    "bert": (3, {}),
    "bert-choice": (1, {}),
    "bert-projection": (3, {"prefix_projection": True, "encoder_hidden_size": 8}),
    "roberta": (3, {}),
    "roberta-choice": (1, {}),
}


def made(name, out):
    architecture = name.split("-")[0]
    labels, more = CASES[name]
    kind = BertForSequenceClassification if architecture == "bert" else RobertaForSequenceClassification
    model = kind.from_pretrained(f"{architecture}-tiny/backbone", num_labels=labels)
    plan = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=5, **more)
    model = get_peft_model(model, plan).eval()
    rng = np.random.default_rng(len(name))
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                values = 0.5 * rng.standard_normal(tuple(parameter.shape))
                parameter.copy_(torch.tensor(values, dtype=torch.float32))
        rows = load_file(f"{architecture}-tiny/reference.safetensors")
        logits = model(
            input_ids=rows["ids"],
            token_type_ids=rows["types"] if architecture == "bert" else None,
            attention_mask=rows["mask"],
        ).logits
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    save_file({"logits": logits}, out / "logits.safetensors")
    for file in out.iterdir():
        file.chmod(0o644)


def main():
    torch.set_num_threads(1)
    out = Path(sys.argv[1]).resolve() / peft.__version__
    # Relative names keep this machine's paths out of PEFT's files.
    os.chdir(GOLDENS)
    for name in CASES:
        made(name, out / name)
    print(f"adapters of PEFT {peft.__version__}: {out}")


if __name__ == "__main__":
    main()
