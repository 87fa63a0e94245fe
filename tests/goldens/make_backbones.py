#!/usr/bin/env python3
"""Makes tests/goldens/{roberta,mpnet,deberta}-tiny and bert-prompt: the encoders beside BERT, and
prompts at the input layer, as transformers computes them. See make.py, whose environment and habits
these share: eval mode, float64 on float32 weights, then rounded; a second run writes the same bytes.

    V/bin/python tests/goldens/make_backbones.py

RoBERTa runs through PEFT, whose head of two layers is the pooler and the head of ours. MPNet and
DeBERTa take no past keys in transformers. Their modules run as they are, with hooks that put the
prefix before what the key and value maps give, and zeros before the scores by distance; with an empty
prefix the hooked model must give what the plain one gives.

Each folder has backbone/ (L=2, H=32, 4 heads, random weights; names with the architecture's prefix and
left-over tensors), tokens.json (the rows of bert-tiny's, cut to 24, by this backbone's tokenizer) and
reference.safetensors (B=6, S=17, P=5, C=3):
    ids types mask [B,S], labels [B], prefix [P,2LH], head.weight [C,H], head.bias [C]
    logits [B,C], loss, grad.prefix, grad.head.weight, grad.head.bias; plain.logits without a prefix
    edge.*: two long rows, which fill the position table where a prefix takes positions
    prompt [P,H], prompt.logits, prompt.loss, prompt.grad.prompt: where a prompt stands before the words
DeBERTa's reference has no pooler; deberta-tiny/backbone-v2 has what the first models had and
version 3 has not: the convolution, positions at the input, types, and no buckets (its values
stand under `v2.`). bert-prompt has the prompt's values only, of bert-tiny's backbone and rows.
"""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from make import CLASSES, HEADS, HIDDEN, LAYERS, PREFIX, WORDS, assemble, close, write_json, write_tensors
from peft import PrefixTuningConfig, TaskType, get_peft_model
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

HERE = Path(__file__).resolve().parent
POSITIONS = 144
LENGTHS = [17, 9, 12, 5, 15, 8]
TEXT = [
    "The old man who sells bread by the river did not see the new train because it was raining in the city.",
    "A café by the bridge is new, they say, but who does?",
    "The woman walked across the bridge to the garden, for she wanted to water it.",
    " ".join(word.removeprefix("##") for word in WORDS),
]


def common(**more):
    keys = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
    }
    return keys | more


def byte_level():
    """RoBERTa's kind: no word is unknown to it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def mpnet_words():
    """MPNet's kind: BERT's words and RoBERTa's marks."""
    letters = [chr(ord("a") + i) for i in range(26)]
    words = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"] + WORDS + letters + ["##" + letter for letter in letters]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
    return made


def pieces():
    """DeBERTa's kind: pieces of a sentence, with the logarithms of their probabilities."""
    words = ["\u2581" + word for word in WORDS if word.isalpha()]
    small = [word.removeprefix("##") for word in WORDS if word.startswith("##")]
    small += [chr(ord("a") + i) for i in range(26)] + ["\u2581"]
    small += [word for word in WORDS if not word.isalpha() and not word.startswith("##")]
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    vocab = [(word, 0.0) for word in special] + [(word, -5 - 0.01 * i) for i, word in enumerate(words)]
    vocab += [(word, -8 - 0.01 * i) for i, word in enumerate(dict.fromkeys(small))]
    made = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(special)
    return made


def random_weights(model, rng):
    weights = {}
    for name, value in model.state_dict().items():
        center = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        weights[name] = (center + 0.2 * rng.standard_normal(tuple(value.shape))).astype(np.float32)
    return weights


def write_backbone(folder, prefix, config, weights, tokenizer):
    folder.mkdir(parents=True)
    left_over = {"lm_head.bias": np.ones(3, np.float32), prefix + "embeddings.position_ids": np.arange(3)[None]}
    tensors = {prefix + name: value for name, value in weights.items()} | left_over
    write_json(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_tokens(path, tokenizer, marks):
    """The rows of bert-tiny's tokens.json; transformers does the cutting."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    cases = json.loads((HERE / "bert-tiny/tokens.json").read_text(encoding="utf-8"))
    for case in cases:
        pairs = assemble(case["task"], case["row"])
        pairs = pairs if isinstance(pairs, list) else [pairs]
        coded = [fast(a, b, truncation=True, max_length=24, return_token_type_ids=True) for a, b in pairs]
        case["sequences"] = [{"ids": c["input_ids"], "types": c["token_type_ids"]} for c in coded]
    lengths = [len(s["ids"]) for case in cases for s in case["sequences"]]
    assert max(lengths) == 24 and min(lengths) < 24, lengths
    lines = [json.dumps(case, ensure_ascii=False) for case in cases]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def batch_of(rng, lengths, vocab, start, end, pad, between):
    """Rows `start A end B end`, with `between` ends between A and B, padded right."""
    width = max(lengths)
    ids = np.full((len(lengths), width), pad, np.int64)
    types, mask = np.zeros_like(ids), np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(5, vocab, length)
        middle = length // 2
        ids[row, 0], ids[row, middle : middle + between], ids[row, length - 1] = start, end, end
        types[row, middle + between : length] = 1
        mask[row, :length] = 1
    return {name: torch.tensor(value) for name, value in [("ids", ids), ("types", types), ("mask", mask)]}


def normal(rng, *shape):
    return torch.tensor(0.5 * rng.standard_normal(shape), dtype=torch.float32)


@contextmanager
def changed():
    """Gives what replaces a method, or hooks a module, until the end."""
    undo = []

    def replace(owner, name, made):
        setattr(owner, name, made(getattr(owner, name)))
        undo.append(lambda: delattr(owner, name))

    def hook(module, change):
        undo.append(module.register_forward_hook(lambda _module, _args, output: change(output)).remove)

    try:
        yield replace, hook
    finally:
        for one in undo:
            one()


def parts(prefix):
    """A table as the key and value `[P, H]` of each layer: heads lie side by side."""
    return prefix.view(len(prefix), LAYERS, 2, HIDDEN).permute(1, 2, 0, 3)


def before(part, text):
    return torch.cat([part.expand(len(text), -1, -1), text], 1)


def mpnet_first(model, batch, prefix):
    """Attention runs over P more positions, whose keys and values the prefix replaces; what their
    queries give is dropped."""
    count, width = len(prefix), batch["ids"].shape[1]

    def wider(own):
        def forward(hidden, mask, bias, **more):
            wide = F.pad(hidden, (0, 0, count, 0))
            found = own(wide, mask, F.pad(bias, (count, 0, count, 0)), **more)
            return (found[0][:, count:], *found[1:])

        return forward

    allowed = torch.cat([torch.ones(len(batch["ids"]), count), batch["mask"]], 1).double()
    mask = ((1 - allowed) * torch.finfo(torch.float64).min)[:, None, None, :]
    positions = torch.where(batch["mask"] > 0, torch.arange(width) + 2 + count, 1)
    with changed() as (replace, hook):
        for layer, (key, value) in zip(model.encoder.layer, parts(prefix)):
            attention = layer.attention.attn
            replace(attention, "forward", wider)
            hook(attention.k, lambda output, part=key: before(part, output[:, count:]))
            hook(attention.v, lambda output, part=value: before(part, output[:, count:]))
        out = model(input_ids=batch["ids"], attention_mask=mask, position_ids=positions)
    return out.last_hidden_state[:, 0]


def deberta_first(model, batch, prefix):
    count, busy = len(prefix), []

    def of_text(own):
        def scores(query, key, *rest):
            # The key map sees the table of distances meanwhile.
            busy.append(True)
            found = own(query, key[:, count:], *rest)
            busy.pop()
            return F.pad(found, (count, 0))

        return scores

    # The outer product of the whole mask, without the rows of the prefix.
    wider = lambda own: lambda mask: F.pad(own(mask), (count, 0), value=1)
    with changed() as (replace, hook):
        replace(model.encoder, "get_attention_mask", wider)
        for layer, (key, value) in zip(model.encoder.layer, parts(prefix)):
            attention = layer.attention.self
            replace(attention, "disentangled_attention_bias", of_text)
            hook(attention.key_proj, lambda output, part=key: output if busy else before(part, output))
            hook(attention.value_proj, lambda output, part=value: before(part, output))
        return plain_first(model, batch)


def plain_first(model, batch):
    types = {"token_type_ids": batch["types"]} if getattr(model.config, "type_vocab_size", 0) > 1 else {}
    return model(input_ids=batch["ids"], attention_mask=batch["mask"], **types).last_hidden_state[:, 0]


def prompt_first(model, batch, prompt):
    """The prompt before the words; then positions, type 0 for the prompt, and the norm, once."""
    words = model.embeddings.word_embeddings(batch["ids"])
    count, rows = len(prompt), len(words)
    embedded = torch.cat([prompt.expand(rows, -1, -1), words], 1)
    mask = torch.cat([torch.ones(rows, count, dtype=torch.int64), batch["mask"]], 1)
    types = {"token_type_ids": F.pad(batch["types"], (count, 0))} if isinstance(model, BertModel) else {}
    return model(inputs_embeds=embedded, attention_mask=mask, **types).last_hidden_state[:, count]


def score(model, first, weight, bias):
    pooler = getattr(model, "pooler", None)
    pooled = pooler.dense(first).tanh() if pooler else first
    return F.linear(pooled, weight, bias)


def hooked_logits(model, first):
    return lambda batch, prefix, weight, bias: score(model, first(model, batch, prefix), weight, bias)


def peft_logits(model, folder):
    """RoBERTa through PEFT. What is tuned takes the place of PEFT's parameters."""
    plan = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=PREFIX)
    base = RobertaForSequenceClassification.from_pretrained(folder, num_labels=CLASSES, dtype=torch.float32)
    whole = get_peft_model(base, plan).double().eval()
    at = "base_model.classifier.modules_to_save.default."

    def logits(batch, prefix, weight, bias):
        tuned = {
            "prompt_encoder.default.embedding.weight": prefix,
            at + "dense.weight": model.pooler.dense.weight,
            at + "dense.bias": model.pooler.dense.bias,
            at + "out_proj.weight": weight,
            at + "out_proj.bias": bias,
        }
        assert set(tuned) <= set(whole.state_dict())
        inputs = {"input_ids": batch["ids"], "attention_mask": batch["mask"]}
        return torch.func.functional_call(whole, tuned, kwargs=inputs).logits

    return logits


def with_gradients(logits, labels, names, leaves):
    """What `logits` makes of leaves of float64, the mean loss, and its gradients."""
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    found = logits(*leaves)
    loss = F.cross_entropy(found, labels)
    gradients = torch.autograd.grad(loss, leaves)
    return {"logits": found, "loss": loss} | {"grad." + name: g for name, g in zip(names, gradients)}


def prefix_values(model, logits, batch, edge, rng):
    labels = torch.tensor([1, 2, 0, 2, 0, 0])
    tuned = [normal(rng, PREFIX, 2 * LAYERS * HIDDEN), normal(rng, CLASSES, HIDDEN), normal(rng, CLASSES)]
    names = ["prefix", "head.weight", "head.bias"]
    out = batch | {"labels": labels} | dict(zip(names, tuned))
    out |= with_gradients(lambda *leaves: logits(batch, *leaves), labels, names, tuned)
    prefix, *head = (value.double() for value in tuned)
    out["plain.logits"] = score(model, plain_first(model, batch), *head)
    if edge is not None:
        out |= {"edge." + name: value for name, value in edge.items()}
        out["edge.logits"] = logits(edge, prefix, *head)
    return out


def prompt_values(model, batch, labels, head, rng):
    prompt = normal(rng, PREFIX, HIDDEN)
    head = [value.double() for value in head]
    run = lambda leaf: score(model, prompt_first(model, batch, leaf), *head)
    found = with_gradients(run, labels, ["prompt"], [prompt])
    return {"prompt": prompt} | {"prompt." + name: value for name, value in found.items()}


def check_hooks(model, first, batch):
    """Without a prefix the hooks change nothing."""
    none = torch.zeros(0, 2 * LAYERS * HIDDEN, dtype=torch.float64)
    close("empty prefix", first(model, batch, none), plain_first(model, batch), 1e-12)


def roberta(out, rng):
    tokenizer = byte_level()
    vocab = tokenizer.get_vocab_size()
    config = common(
        model_type="roberta", layer_norm_eps=1e-5, max_position_embeddings=POSITIONS + 2, pad_token_id=1,
        type_vocab_size=1, vocab_size=vocab,
    )
    weights = random_weights(RobertaModel(RobertaConfig(**config)), rng)
    write_backbone(out / "backbone", "roberta.", config, weights, tokenizer)
    write_tokens(out / "tokens.json", tokenizer, {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"})
    model = load(RobertaModel, out / "backbone")
    marks = (vocab, 0, 2, 1, 2)
    batch, edge = batch_of(rng, LENGTHS, *marks), batch_of(rng, [POSITIONS - PREFIX, 40], *marks)
    values = prefix_values(model, peft_logits(model, out / "backbone"), batch, edge, rng)
    head = [values["head.weight"], values["head.bias"]]
    values |= prompt_values(model, batch, values["labels"], head, rng)
    write_tensors(out / "reference.safetensors", values)


def mpnet(out, rng):
    tokenizer = mpnet_words()
    vocab = tokenizer.get_vocab_size()
    config = common(
        model_type="mpnet", layer_norm_eps=1e-5, max_position_embeddings=POSITIONS + 2, pad_token_id=1,
        relative_attention_num_buckets=32, vocab_size=vocab,
    )
    weights = random_weights(MPNetModel(MPNetConfig(**config)), rng)
    # Biases of other sizes would show less.
    weights["encoder.relative_attention_bias.weight"] *= 5
    write_backbone(out / "backbone", "mpnet.", config, weights, tokenizer)
    write_tokens(out / "tokens.json", tokenizer, {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"})
    model = load(MPNetModel, out / "backbone")
    marks = (vocab, 0, 2, 1, 2)
    batch, edge = batch_of(rng, LENGTHS, *marks), batch_of(rng, [POSITIONS - PREFIX, 40], *marks)
    check_hooks(model, mpnet_first, edge)
    values = prefix_values(model, hooked_logits(model, mpnet_first), batch, edge, rng)
    head = [values["head.weight"], values["head.bias"]]
    values |= prompt_values(model, batch, values["labels"], head, rng)
    write_tensors(out / "reference.safetensors", values)


def deberta(out, rng):
    tokenizer = pieces()
    vocab = tokenizer.get_vocab_size()
    shared = common(
        model_type="deberta-v2", layer_norm_eps=1e-7, max_position_embeddings=POSITIONS, pad_token_id=0,
        relative_attention=True, share_att_key=True, vocab_size=vocab,
    )
    third = shared | {
        "max_relative_positions": -1, "norm_rel_ebd": "layer_norm", "pos_att_type": "p2c|c2p",
        "position_biased_input": False, "position_buckets": 16, "type_vocab_size": 0,
    }
    second = shared | {
        "conv_act": "gelu", "conv_kernel_size": 3, "max_relative_positions": 20, "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": True, "type_vocab_size": 2,
    }
    values = {}
    for folder, config, group in [("backbone", third, ""), ("backbone-v2", second, "v2.")]:
        weights = random_weights(DebertaV2Model(DebertaV2Config(**config)), rng)
        write_backbone(out / folder, "deberta.", config, weights, tokenizer)
        model = load(DebertaV2Model, out / folder)
        marks = (vocab, 1, 2, 0, 1)
        batch, edge = batch_of(rng, LENGTHS, *marks), batch_of(rng, [POSITIONS, 40], *marks)
        check_hooks(model, deberta_first, edge)
        found = prefix_values(model, hooked_logits(model, deberta_first), batch, edge, rng)
        values |= {group + name: value for name, value in found.items()}
    write_tokens(out / "tokens.json", tokenizer, {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"})
    write_tensors(out / "reference.safetensors", values)


def bert_prompt(out, rng):
    rows = load_file(HERE / "bert-tiny/reference.safetensors")
    model = load(BertModel, HERE / "bert-tiny/backbone")
    head = [rows["head.weight"], rows["head.bias"]]
    write_tensors(out / "reference.safetensors", prompt_values(model, rows, rows["labels"], head, rng))


def load(kind, folder):
    return kind.from_pretrained(folder, dtype=torch.float32).double().eval()


def main():
    torch.set_num_threads(1)
    for seed, (name, make) in enumerate(
        [("roberta-tiny", roberta), ("mpnet-tiny", mpnet), ("deberta-tiny", deberta), ("bert-prompt", bert_prompt)]
    ):
        out = HERE / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        make(out, np.random.default_rng(20240612 + seed))
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        print(f"{out}: {size} bytes")
        assert size < 500_000


if __name__ == "__main__":
    main()
