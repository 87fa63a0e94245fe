#!/usr/bin/env python3
"""Makes tests/goldens/bert-tiny: reference values that the Rust code is compared with.

    python3 -m venv V && V/bin/pip install -r tests/goldens/requirements.txt && V/bin/python tests/goldens/make.py

Not part of `make test`: the files are in the repository, and a second run writes the same bytes.
Each forward pass and gradient is that of transformers and PEFT, in eval mode (no dropout), in float64
on float32 weights, then rounded. The script fails unless PEFT in float32 and an independent forward
by the formulas of the method agree with it.

Folders (L=2 layers, H=32, 4 heads, 64 positions, 128 words; random weights, standard deviation 0.2,
so that a missing bias or a wrong position shows):
    backbone/         tensor names with `bert.`
    backbone-bare/    the same weights without `bert.`, with a left-over `embeddings.position_ids`
    backbone-legacy/  the same weights as old TensorFlow conversions name them: `LayerNorm.gamma` and
                      `LayerNorm.beta`, with left-over `cls.*` tensors
    backbone-sharded/ the weights of backbone/ in three files with an index, and a left-over `classifier.*`
    peft/             PEFT's own export of `prefix` and `head.*`
Each tokenizer.json asks for truncation to 40 and padding to 40, as MiniLM's does for 128; a reader
must override both, or tokens.json will not agree.

reference.safetensors (B=6, S=17, P=5, C=3; i64 and f32; losses are means and scalars are [1]):
    ids types mask [B,S], labels [B]
    prefix [P,2LH], head.weight [C,H], head.bias [C]
    logits [B,C], loss, grad.prefix, grad.head.weight, grad.head.bias
    zero_prefix.logits, plain.logits (no prefix) [B,C]
    choice.{ids,types,mask} [3,2,S], choice.labels [3], choice.head.weight [1,H], choice.head.bias [1],
        choice.logits [3,2], choice.loss, choice.grad.{prefix,head.weight}; head.bias has no gradient,
        since both choices share it
    edge.{ids,types,mask} [2,59], edge.logits [2,C]: P + S is 64, the last position
    trajectory.{loss,grad_norm,lr} [10], trajectory.{prefix,head.weight,head.bias}: 10 steps from
        `prefix` and `head.*`; batches are rows 0..4, 4..6, 0..4, …; lr 5e-3 falls linearly to 0;
        grad_norm is before clipping to 1 by min(1, 1 / (norm + 1e-6)); decay 0.01 except on the bias

adamw.safetensors: the optimizer alone, without clipping: initial [12], decayed [12] (1 where weight
decay 0.01 applies), grads [10,12], lr [10], params [10,12] (after each step). Some gradients are
near epsilon, where another convention for it gives other values.

bf16.safetensors: the same rows, prefix and head through PEFT in bfloat16: logits [B,C], loss, grad.prefix,
grad.head.weight, grad.head.bias. Made on a processor with AVX-512 BF16; elsewhere last bits differ.

tokens.json: rows of RTE, CB, BoolQ and COPA as in SuperGLUE's files, and their token ids and types,
unpadded. Each must be cut to `max_seq_length`, special tokens included.
"""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import PrefixTuningConfig, TaskType, get_peft_model
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

OUT = Path(__file__).resolve().parent / "bert-tiny"
LAYERS, HIDDEN, HEADS, POSITIONS, PREFIX, CLASSES = 2, 32, 4, 64, 5, 3
DEPTH = HIDDEN // HEADS
BETA1, BETA2, EPSILON, DECAY, CLIP, RATE, STEPS = 0.9, 0.999, 1e-8, 0.01, 1.0, 5e-3, 10
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """the a an is was are not and of in on to it he she they who what does do that this because so
for with by at did cat dog man woman river bridge water bread city train rain house garden old new
##s ##ed ##ing ##er ##ly ##ion 0 1 2 . , ? ! ' - :""".split()


def vocabulary():
    letters = [chr(ord("a") + i) for i in range(26)]
    words = SPECIAL + WORDS + letters + ["##" + letter for letter in letters]
    words = list(dict.fromkeys(words))
    words += [f"[unused{i}]" for i in range(128 - len(words))]
    assert len(words) == 128
    return {word: index for index, word in enumerate(words)}


def tokenizer():
    vocab = vocabulary()
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(SPECIAL)
    return made


def config():
    return {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 2 * HIDDEN,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "model_type": "bert",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": 128,
    }


def backbone_weights(rng):
    """Random weights under transformers' names, without `bert.`."""
    shapes = {"embeddings.word_embeddings": (128, HIDDEN)}
    shapes["embeddings.position_embeddings"] = (POSITIONS, HIDDEN)
    shapes["embeddings.token_type_embeddings"] = (2, HIDDEN)
    dense = {"embeddings.LayerNorm": (HIDDEN,)}
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            dense[f"{at}attention.self.{name}"] = (HIDDEN, HIDDEN)
        dense[at + "attention.output.dense"] = (HIDDEN, HIDDEN)
        dense[at + "attention.output.LayerNorm"] = (HIDDEN,)
        dense[at + "intermediate.dense"] = (2 * HIDDEN, HIDDEN)
        dense[at + "output.dense"] = (HIDDEN, 2 * HIDDEN)
        dense[at + "output.LayerNorm"] = (HIDDEN,)
    dense["pooler.dense"] = (HIDDEN, HIDDEN)
    weights = {name + ".weight": 0.2 * rng.standard_normal(shape) for name, shape in shapes.items()}
    for name, shape in dense.items():
        center = 1.0 if "LayerNorm" in name else 0.0
        weights[name + ".weight"] = center + 0.2 * rng.standard_normal(shape)
        weights[name + ".bias"] = 0.2 * rng.standard_normal(shape[0])
    return {name: value.astype(np.float32) for name, value in weights.items()}


def write_backbones(weights, rng):
    bare = weights | {"embeddings.position_ids": np.arange(POSITIONS, dtype=np.int64)[None]}
    legacy = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    legacy["cls.predictions.bias"] = rng.standard_normal(128).astype(np.float32)
    legacy["cls.seq_relationship.weight"] = rng.standard_normal((2, HIDDEN)).astype(np.float32)
    prefixed = {"bert." + name: value for name, value in weights.items()}
    text = json.loads(tokenizer().to_str())
    text["truncation"] = {"direction": "Right", "max_length": 40, "strategy": "LongestFirst", "stride": 0}
    text["padding"] = {
        "strategy": {"Fixed": 40},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    for folder, tensors in [("backbone", prefixed), ("backbone-bare", bare), ("backbone-legacy", legacy)]:
        (OUT / folder).mkdir(parents=True)
        write_json(OUT / folder / "config.json", config())
        write_json(OUT / folder / "tokenizer.json", text)
        save_file(tensors, OUT / folder / "model.safetensors", {"format": "pt"})
        (OUT / folder / "model.safetensors").chmod(0o644)
    write_sharded(prefixed | {"classifier.bias": np.zeros(CLASSES, np.float32)}, text)


def write_sharded(tensors, tokenizer_text):
    """The tensors in sorted order, cut into three files."""
    folder = OUT / "backbone-sharded"
    folder.mkdir()
    write_json(folder / "config.json", config())
    write_json(folder / "tokenizer.json", tokenizer_text)
    names, weight_map = sorted(tensors), {}
    for number, part in enumerate(np.array_split(names, 3), 1):
        file = f"model-{number:05}-of-00003.safetensors"
        save_file({str(name): tensors[name] for name in part}, folder / file, {"format": "pt"})
        (folder / file).chmod(0o644)
        weight_map |= {str(name): file for name in part}
    total = sum(value.nbytes for value in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def write_tensors(path, tensors):
    kept = {}
    for name, value in tensors.items():
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        array = np.atleast_1d(array)
        kept[name] = np.ascontiguousarray(array.astype(np.int64 if array.dtype.kind == "i" else np.float32))
    save_file(kept, path)
    path.chmod(0o644)


def inputs(rng, rows, width, lengths):
    """Rows that look like `[CLS] A [SEP] B [SEP]`, padded right to `width`."""
    ids = np.zeros((rows, width), np.int64)
    types, mask = ids.copy(), ids.copy()
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(len(SPECIAL), 128, length)
        middle = length // 2
        ids[row, 0], ids[row, middle], ids[row, length - 1] = 2, 3, 3
        types[row, middle + 1 : length] = 1
        mask[row, :length] = 1
    return {name: torch.tensor(value) for name, value in [("ids", ids), ("types", types), ("mask", mask)]}


def peft_model(folder, classes, dtype):
    """PEFT's prefix model over the backbone, in eval mode, with the prefix and head trainable."""
    base = BertForSequenceClassification.from_pretrained(folder, num_labels=classes, dtype=torch.float32)
    plan = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=PREFIX)
    return get_peft_model(base, plan).to(dtype).eval()


def tuned(model):
    """The prefix table and the head's weight and bias inside PEFT's model."""
    head = model.base_model.classifier.modules_to_save["default"]
    return [model.prompt_encoder["default"].embedding.weight, head.weight, head.bias]


def set_tuned(model, values):
    with torch.no_grad():
        for parameter, value in zip(tuned(model), values):
            parameter.copy_(value)


def run_peft(model, batch):
    return model(input_ids=batch["ids"], token_type_ids=batch["types"], attention_mask=batch["mask"]).logits


def run_formula(weights, batch, prefix, head):
    """The method's forward pass, written from its formulas; float64."""
    weights = {name: torch.tensor(value, dtype=torch.float64) for name, value in weights.items()}
    rows, width = batch["ids"].shape
    count = 0 if prefix is None else prefix.shape[0]

    def dense(name, x):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(name, x):
        centered = x - x.mean(-1, keepdim=True)
        scaled = centered / (centered.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    def split(x):
        return x.view(rows, width, HEADS, DEPTH).transpose(1, 2)

    x = weights["embeddings.word_embeddings.weight"][batch["ids"]]
    x = x + weights["embeddings.position_embeddings.weight"][count : count + width]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][batch["types"]])
    mask = torch.cat([torch.ones(rows, count), batch["mask"].double()], 1)
    mask = (1 - mask)[:, None, None, :] * -10000.0
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        query, key, value = (split(dense(f"{at}attention.self.{name}", x)) for name in ("query", "key", "value"))
        if count:
            own = prefix.double().view(count, LAYERS, 2, HEADS, DEPTH)[:, layer].permute(1, 2, 0, 3)
            key = torch.cat([own[0].expand(rows, -1, -1, -1), key], 2)
            value = torch.cat([own[1].expand(rows, -1, -1, -1), value], 2)
        attention = (query @ key.transpose(2, 3) / math.sqrt(DEPTH) + mask).softmax(-1) @ value
        attention = attention.transpose(1, 2).reshape(rows, width, HIDDEN)
        x = norm(at + "attention.output.LayerNorm", x + dense(at + "attention.output.dense", attention))
        inner = F.gelu(dense(at + "intermediate.dense", x))
        x = norm(at + "output.LayerNorm", x + dense(at + "output.dense", inner))
    return dense("pooler.dense", x[:, 0]).tanh() @ head[0].double().T + head[1].double()


def close(name, a, b, bound=1e-5):
    worst = (a.double() - b.double()).abs().max().item()
    assert worst <= bound, f"{name}: off by {worst}"
    print(f"{name}: agrees within {worst:.1e}")


class AdamW:
    """AdamW whose epsilon is added to the root of the uncorrected second moment; bias correction is
    part of the step size. Decay follows the update. (torch's own scales epsilon.)"""

    def __init__(self, parameters, decays):
        self.parameters, self.decays, self.step_count = parameters, decays, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, gradients, rate):
        self.step_count += 1
        size = rate * math.sqrt(1 - BETA2**self.step_count) / (1 - BETA1**self.step_count)
        for p, g, m, v, decay in zip(self.parameters, gradients, self.first, self.second, self.decays):
            m.mul_(BETA1).add_(g, alpha=1 - BETA1)
            v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            p.sub_(size * m / (v.sqrt() + EPSILON))
            p.sub_(rate * decay * p)


def rate_at(step):
    return RATE * (1 - step / STEPS)


def classification(weights, rng, out):
    batch = inputs(rng, 6, 17, [17, 9, 12, 5, 15, 8])
    labels = torch.tensor([1, 2, 0, 2, 0, 0])
    prefix = torch.tensor(0.5 * rng.standard_normal((PREFIX, 2 * LAYERS * HIDDEN)), dtype=torch.float32)
    head = [torch.tensor(0.5 * rng.standard_normal(shape), dtype=torch.float32) for shape in [(CLASSES, HIDDEN), (CLASSES,)]]
    model = peft_model("backbone", CLASSES, torch.float32)
    set_tuned(model, [prefix, *head])
    model.save_pretrained("peft")
    Path("peft/README.md").unlink(missing_ok=True)
    single = run_peft(model, batch)
    model = model.double()

    logits = run_peft(model, batch)
    close("logits, float32", single, logits)
    close("logits, formula", run_formula(weights, batch, prefix, head), logits)
    loss = F.cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, tuned(model))
    out |= batch | {"labels": labels, "prefix": prefix, "head.weight": head[0], "head.bias": head[1]}
    out |= {"logits": logits, "loss": loss}
    out |= {"grad." + name: g for name, g in zip(["prefix", "head.weight", "head.bias"], gradients)}

    set_tuned(model, [torch.zeros_like(prefix), *head])
    out["zero_prefix.logits"] = run_peft(model, batch)
    close("zero prefix, formula", run_formula(weights, batch, 0 * prefix, head), out["zero_prefix.logits"])
    for folder in ["backbone", "backbone-bare", "backbone-legacy", "backbone-sharded"]:
        plain = BertForSequenceClassification.from_pretrained(folder, num_labels=CLASSES, dtype=torch.float32)
        plain = plain.double().eval()
        with torch.no_grad():
            plain.classifier.weight.copy_(head[0])
            plain.classifier.bias.copy_(head[1])
        out["plain.logits"] = run_peft(plain, batch)
        close(f"plain {folder}, formula", run_formula(weights, batch, None, head), out["plain.logits"])
    assert (out["zero_prefix.logits"] - out["plain.logits"]).abs().max() > 1e-2

    set_tuned(model, [prefix, *head])
    edge = inputs(rng, 2, POSITIONS - PREFIX, [POSITIONS - PREFIX, 40])
    out |= {"edge." + name: value for name, value in edge.items()}
    out["edge.logits"] = run_peft(model, edge)
    close("edge, formula", run_formula(weights, edge, prefix, head), out["edge.logits"])
    trajectory(model, batch, labels, out)


def trajectory(model, batch, labels, out):
    parameters = tuned(model)
    optimizer = AdamW(parameters, [DECAY, DECAY, 0.0])
    losses, norms = [], []
    for step in range(STEPS):
        rows = slice(0, 4) if step % 2 == 0 else slice(4, 6)
        loss = F.cross_entropy(run_peft(model, {k: v[rows] for k, v in batch.items()}), labels[rows])
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.sqrt(sum(g.pow(2).sum() for g in gradients))
        scale = min(1.0, CLIP / (norm.item() + 1e-6))
        optimizer.step([g * scale for g in gradients], rate_at(step))
        losses.append(loss.item())
        norms.append(norm.item())
    print("trajectory: loss", [f"{x:.3f}" for x in losses], "norm", [f"{x:.2f}" for x in norms])
    assert min(norms) < CLIP < max(norms), "both sides of the clipping bound must occur"
    out["trajectory.loss"], out["trajectory.grad_norm"] = np.array(losses), np.array(norms)
    out["trajectory.lr"] = np.array([rate_at(step) for step in range(STEPS)])
    out |= {"trajectory." + n: p for n, p in zip(["prefix", "head.weight", "head.bias"], parameters)}


def half_precision(out):
    """Everything in bfloat16, tuned values included; the loss is taken in float32."""
    model = peft_model("backbone", CLASSES, torch.float32)
    set_tuned(model, [out["prefix"], out["head.weight"], out["head.bias"]])
    model = model.to(torch.bfloat16)
    logits = run_peft(model, out).float()
    loss = F.cross_entropy(logits, out["labels"])
    gradients = torch.autograd.grad(loss, tuned(model))
    close("logits, bfloat16", logits, out["logits"], 0.1)
    found = {"logits": logits, "loss": loss}
    found |= {"grad." + name: g.float() for name, g in zip(["prefix", "head.weight", "head.bias"], gradients)}
    return found


def choice(weights, rng, out):
    """Two choices a row, one logit each. PEFT has no such task: a head with one output is scored."""
    batch = inputs(rng, 6, 17, [17, 11, 6, 16, 13, 13])
    labels = torch.tensor([1, 0, 1])
    head = [torch.tensor(rng.standard_normal(shape), dtype=torch.float32) for shape in [(1, HIDDEN), (1,)]]
    model = peft_model("backbone", 1, torch.float64)
    set_tuned(model, [out["prefix"], *head])
    logits = run_peft(model, batch).view(3, 2)
    close("choice, formula", run_formula(weights, batch, out["prefix"], head).view(3, 2), logits)
    loss = F.cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, tuned(model)[:2])
    out |= {"choice." + name: value.view(3, 2, -1) for name, value in batch.items()}
    out |= {"choice.labels": labels, "choice.head.weight": head[0], "choice.head.bias": head[1]}
    out |= {"choice.logits": logits, "choice.loss": loss}
    out |= {"choice.grad.prefix": gradients[0], "choice.grad.head.weight": gradients[1]}


def optimizer_trace(rng):
    initial = torch.tensor(rng.standard_normal(12), dtype=torch.float32).double()
    sizes = np.array([1, 1e-1, 1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-9, 0, 1, 1e-3, 1e-7])
    grads = torch.tensor(sizes * rng.standard_normal((STEPS, 12)), dtype=torch.float32).double()
    weight, bias = initial[:9].clone(), initial[9:].clone()
    optimizer = AdamW([weight, bias], [DECAY, 0.0])
    params = []
    for step in range(STEPS):
        optimizer.step([grads[step, :9], grads[step, 9:]], rate_at(step))
        params.append(torch.cat([weight, bias]))
    return {
        "initial": initial,
        "decayed": np.array([1] * 9 + [0] * 3),
        "grads": grads,
        "lr": np.array([rate_at(step) for step in range(STEPS)]),
        "params": torch.stack(params),
    }


def tokens():
    """Made-up rows; each task's first needs no cut, the others do."""
    long = "The old man who sells bread by the river did not see the new train because it was raining in the city."
    rows = {
        "superglue/rte": [
            {"premise": "The cat is on it.", "hypothesis": "A cat is on it.", "label": "entailment", "idx": 0},
            {"premise": long, "hypothesis": "It was raining.", "label": "entailment", "idx": 1},
            {"premise": "He did not.", "hypothesis": long, "label": "not_entailment", "idx": 2},
            {"premise": long, "hypothesis": long, "label": "entailment", "idx": 3},
        ],
        "superglue/cb": [
            {"premise": "A: Is it new? B: It is old.", "hypothesis": "it is new", "label": "contradiction", "idx": 0},
            {"premise": "B: They say that a café by the bridge is new, but who does?", "hypothesis": "a café is new", "label": "neutral", "idx": 1},
        ],
        "superglue/boolq": [
            {"question": "is the cat old", "passage": "Cat - The cat is old.", "label": True, "idx": 0},
            {"question": "does the train to the city stop at the old bridge", "passage": "The train (est. 1902) -- " + long, "label": False, "idx": 1},
        ],
        "superglue/copa": [
            {"premise": "The dog was in the rain.", "choice1": "It was old.", "choice2": "It ate it.", "question": "effect", "label": 1, "idx": 0},
            {"premise": "The woman walked across the bridge to the garden.", "choice1": "She wanted to water it.", "choice2": "The river was so new that it did not have any water in it.", "question": "cause", "label": 0, "idx": 1},
        ],
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    cases = []
    for task, task_rows in rows.items():
        for row in task_rows:
            pairs = [assemble(task, row)] if task != "superglue/copa" else assemble(task, row)
            coded = [fast(a, b, truncation=True, max_length=24, return_token_type_ids=True) for a, b in pairs]
            sequences = [{"ids": c["input_ids"], "types": c["token_type_ids"]} for c in coded]
            cases.append({"task": task, "max_seq_length": 24, "row": row, "sequences": sequences})
    lengths = [len(s["ids"]) for case in cases for s in case["sequences"]]
    print("token lengths", lengths)
    assert max(lengths) == 24 and min(lengths) < 24
    return cases


def assemble(task, row):
    if task == "superglue/boolq":
        return row["question"], row["passage"]
    if task == "superglue/copa":
        stem = row["premise"] + " " + ("because" if row["question"] == "cause" else "so")
        return [(stem, row["choice1"]), (stem, row["choice2"])]
    return row["premise"], row["hypothesis"]


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    # Relative names from here keep this machine's paths out of PEFT's files.
    os.chdir(OUT)
    rng = np.random.default_rng(20240611)
    weights = backbone_weights(rng)
    expected = BertForSequenceClassification(BertConfig(**config())).bert.state_dict()
    assert {n: tuple(t.shape) for n, t in expected.items()} == {n: w.shape for n, w in weights.items()}
    write_backbones(weights, rng)
    out = {}
    classification(weights, rng, out)
    choice(weights, rng, out)
    write_tensors(OUT / "reference.safetensors", out)
    write_tensors(OUT / "bf16.safetensors", half_precision(out))
    write_tensors(OUT / "adamw.safetensors", optimizer_trace(rng))
    lines = [json.dumps(case, ensure_ascii=False) for case in tokens()]
    (OUT / "tokens.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{OUT}: {size} bytes")
    assert size < 1_000_000


if __name__ == "__main__":
    main()
