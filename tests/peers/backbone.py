"""Makes a backbone of BERT-base's shape with random weights, to measure on: backbone.py [FOLDER]

12 layers of 768 with 12 heads; every weight is drawn from N(0, 0.02), as BERT's own are at first. The
vocabulary is BERT's, so the tokenizer is that of the demo's backbone (`make backbone`). The same bytes
on every run. Nothing is learned from its accuracy; its steps cost what BERT-base's do.
"""

import ctypes
import json
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import torch
from measure.plan import CACHE

DONOR = CACHE / "backbones/all-MiniLM-L6-v2"
SEED, DEVIATION = 20240611, 0.02
CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": DEVIATION,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": 30522,
}


def shapes(config):
    """Each tensor's name and shape, as transformers names those of a BertModel."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    dense = {"pooler.dense": (hidden, hidden)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            dense[f"{at}attention.{name}"] = (hidden, hidden)
        dense[at + "intermediate.dense"] = (inner, hidden)
        dense[at + "output.dense"] = (hidden, inner)
        norms += [at + "attention.output.LayerNorm", at + "output.LayerNorm"]
    tables = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    found = {f"embeddings.{name}_embeddings.weight": (config[rows], hidden) for name, rows in tables.items()}
    for name, shape in dense.items():
        found |= {name + ".weight": shape, name + ".bias": shape[:1]}
    for name in norms:
        found |= {name + ".weight": (hidden,), name + ".bias": (hidden,)}
    return found


def weights(config):
    """Random weights; biases are 0 and norms the identity."""
    chance = torch.Generator().manual_seed(SEED)
    made = {}
    for name, shape in shapes(config).items():
        if name.endswith("bias"):
            made[name] = torch.zeros(shape)
        elif "LayerNorm" in name:
            made[name] = torch.ones(shape)
        else:
            made[name] = torch.randn(shape, generator=chance) * DEVIATION
    return made


def save(tensors, path):
    """Writes fp32 tensors as a safetensors file; that package is not needed for it."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    # The format's own packages write the tensors of one kind by name.
    for name in sorted(tensors):
        start, end = end, end + 4 * tensors[name].numel()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    # Data begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            values = tensors[name].to(torch.float32).contiguous()
            # As it lies in memory: torch gives bytes by way of numpy only, which is another package.
            file.write(ctypes.string_at(values.data_ptr(), 4 * values.numel()))


def make(folder, config, donor):
    """Makes the folder, with the donor's tokenizer, unless it is there."""
    # Renamed into place below, so what is there is whole.
    if folder.exists():
        print(f"backbone: {folder} is ready")
        return
    if not (donor / "tokenizer.json").exists():
        sys.exit(f"error: {donor}/tokenizer.json is missing; `make backbone` fetches it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name + ".part."))
    try:
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(donor / "tokenizer.json", part / "tokenizer.json")
        save(weights(config), part / "model.safetensors")
        (part / "model.safetensors").chmod(0o644)
        part.chmod(0o755)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"backbone: {folder} made")


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE / "backbones/bert-base-random"
    make(folder, CONFIG, DONOR)


if __name__ == "__main__":
    main()
