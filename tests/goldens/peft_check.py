"""Loads an adapter that ptv2 trained and pulled into PEFT, and compares logits: `make test-peft`."""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

here = Path(__file__).parent / "bert-tiny"
out = Path(sys.argv[1])

model = BertForSequenceClassification.from_pretrained(here / "backbone", num_labels=3)
model = PeftModel.from_pretrained(model, out / "adapter").eval()
rows = load_file(here / "reference.safetensors")
with torch.no_grad():
    logits = model(
        input_ids=rows["ids"], token_type_ids=rows["types"], attention_mask=rows["mask"]
    ).logits
ours = load_file(out / "logits.safetensors")["logits"]
error = (logits - ours).abs().max().item()
print(f"largest difference of a logit between PEFT and ptv2: {error:.2e} (bound 1e-4)")
sys.exit(error > 1e-4)
