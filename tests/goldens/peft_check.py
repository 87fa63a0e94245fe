"""Loads adapters that ptv2 trained into PEFT and compares logits: `make test-peft`.

    V/bin/python tests/goldens/peft_check.py target/peft-check
"""

import sys
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, RobertaForSequenceClassification

GOLDENS = Path(__file__).resolve().parent
BOUND = 1e-4


def difference(folder):
    architecture = folder.name.split("-")[0]
    golden = GOLDENS / f"{architecture}-tiny"
    ours = load_file(folder / "logits.safetensors")["logits"]
    kind = BertForSequenceClassification if architecture == "bert" else RobertaForSequenceClassification
    model = kind.from_pretrained(golden / "backbone", num_labels=ours.shape[1])
    model = PeftModel.from_pretrained(model, folder / "adapter").eval()
    rows = load_file(golden / "reference.safetensors")
    with torch.no_grad():
        logits = model(
            input_ids=rows["ids"],
            token_type_ids=rows["types"] if architecture == "bert" else None,
            attention_mask=rows["mask"],
        ).logits
    return (logits - ours).abs().max().item()


def main():
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/logits.safetensors"))
    assert folders, "no adapters there"
    is_near = True
    print(f"largest difference of a logit between ptv2 and PEFT {peft.__version__}, transformers {transformers.__version__}")
    for folder in folders:
        found = difference(folder)
        is_near &= found <= BOUND
        print(f"{folder.name:18} {found:.2e} (bound {BOUND:.0e})")
    sys.exit(not is_near)


if __name__ == "__main__":
    main()
