//! The encoders beside BERT, and prompts at the input layer, against references that transformers and
//! PEFT made; see goldens/make_backbones.py. Methods stand apart: here it is the encoder that counts.

use super::parity::{Reference, check, folder, largest_error, relative_error};
use ptv2_common::spec::Precision;
use ptv2_daemon::backbone::Architecture;
use ptv2_daemon::train::backbones::Backbone;
use ptv2_daemon::train::batch::Slice;
use ptv2_daemon::train::dropout::{Dropout, Rates};
use ptv2_daemon::train::prefix;
use std::fs;
use std::path::Path;
use tch::{Kind, Reduction, Tensor};

const ROWS: i64 = 6;
const CLASSES: i64 = 3;
const PREFIX: i64 = 5;
const HIDDEN: i64 = 32;
const LAYERS: i64 = 2;
const HEADS: i64 = 4;

/// A backbone, with the reference's values of it that stand under `group`.
struct Golden {
    backbone: Backbone,
    reference: Reference,
    group: &'static str,
}

impl Golden {
    fn open(name: &str, backbone: &str, group: &'static str) -> Self {
        tch::set_num_threads(1);
        let place = folder().join("..").join(name).join(backbone);
        Self {
            backbone: Backbone::load(&place, Precision::Fp32).unwrap(),
            reference: Reference::open(&format!("../{name}/reference.safetensors")),
            group,
        }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.reference.floats(&format!("{}{name}", self.group))
    }

    fn tensor(&self, name: &str, shape: &[i64]) -> Tensor {
        Tensor::from_slice(&self.floats(name)).view(shape).set_requires_grad(true)
    }

    fn slice(&self, batch: &str, rows: std::ops::Range<usize>) -> Slice {
        self.reference.slice(&format!("{}{batch}", self.group), 1, rows)
    }

    /// Prefix table, head's weight and bias.
    fn tuned(&self) -> [Tensor; 3] {
        [
            self.tensor("prefix", &[PREFIX, 2 * LAYERS * HIDDEN]),
            self.tensor("head.weight", &[CLASSES, HIDDEN]),
            self.tensor("head.bias", &[CLASSES]),
        ]
    }

    fn logits(&self, slice: &Slice, tuned: &[Tensor; 3], dropout: &Dropout) -> Tensor {
        let inputs = slice.inputs(PREFIX).unwrap();
        let rows = inputs.ids.size()[0];
        let kind = self.backbone.kind();
        let keys = prefix::keys(&tuned[0], rows, LAYERS, HEADS, kind, dropout).unwrap();
        let first = self.backbone.encode(&inputs, &keys, None, dropout).unwrap();
        self.head(&first, &tuned[1], &tuned[2])
    }

    fn prompted(&self, slice: &Slice, prompt: &Tensor, head: [&Tensor; 2]) -> Tensor {
        let inputs = slice.inputs(PREFIX).unwrap();
        let first = self.backbone.encode(&inputs, &[], Some(prompt), &Dropout::OFF).unwrap();
        self.head(&first, head[0], head[1])
    }

    fn head(&self, first: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
        let pooled = match self.backbone.pooler() {
            Some((weight, bias)) => first.linear(weight, Some(bias)).tanh(),
            None => first.shallow_clone(),
        };
        pooled.linear(weight, Some(bias))
    }

    fn check(&self, name: &str, found: &Tensor) {
        check(name, largest_error(&values(found), &self.floats(name)), 1e-4);
    }

    fn check_relative(&self, name: &str, found: &Tensor) {
        check(name, relative_error(&values(found), &self.floats(name)), 1e-3);
    }

    /// Mean loss and its gradients.
    fn check_gradients(&self, logits: &Tensor, loss: &str, leaves: &[(&str, &Tensor)]) {
        let labels = self.slice("", 0..6).labels().unwrap();
        let found = mean_loss(logits, &labels);
        check(loss, (value(&found) - self.floats(loss)[0]).abs(), 1e-5);
        let tensors: Vec<&Tensor> = leaves.iter().map(|(_, leaf)| *leaf).collect();
        let gradients = Tensor::run_backward(&[&found], &tensors, false, false);
        for ((name, _), gradient) in leaves.iter().zip(&gradients) {
            self.check_relative(name, gradient);
        }
    }
}

fn mean_loss(logits: &Tensor, labels: &Tensor) -> Tensor {
    logits.cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0)
}

fn value(tensor: &Tensor) -> f32 {
    values(tensor)[0]
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().contiguous().view([-1])).unwrap()
}

fn all() -> [Golden; 4] {
    [
        Golden::open("roberta-tiny", "backbone", ""),
        Golden::open("mpnet-tiny", "backbone", ""),
        Golden::open("deberta-tiny", "backbone", ""),
        Golden::open("deberta-tiny", "backbone-v2", "v2."),
    ]
}

#[test]
fn logits_and_gradients_of_a_prefix_agree_with_transformers() {
    for golden in all() {
        println!("{:?} {}", golden.backbone.config.architecture, golden.group);
        let tuned = golden.tuned();
        let logits = golden.logits(&golden.slice("", 0..6), &tuned, &Dropout::OFF);
        assert_eq!(logits.size(), [ROWS, CLASSES]);
        golden.check("logits", &logits);
        let names = ["grad.prefix", "grad.head.weight", "grad.head.bias"];
        let leaves: Vec<_> = names.into_iter().zip(&tuned).collect();
        golden.check_gradients(&logits, "loss", &leaves);
        // Long rows: each bucket of distance occurs, and the position table is used to its end.
        let edge = golden.logits(&golden.slice("edge.", 0..2), &tuned, &Dropout::OFF);
        golden.check("edge.logits", &edge);
    }
}

#[test]
fn without_a_prefix_each_backbone_is_that_of_transformers() {
    for golden in all() {
        let inputs = golden.slice("", 0..6).inputs(0).unwrap();
        let first = golden.backbone.encode(&inputs, &[], None, &Dropout::OFF).unwrap();
        let [_, weight, bias] = golden.tuned();
        golden.check("plain.logits", &golden.head(&first, &weight, &bias));
    }
}

#[test]
fn rows_alone_and_in_company_agree() {
    for golden in all() {
        let tuned = golden.tuned();
        let together = golden.logits(&golden.slice("", 0..6), &tuned, &Dropout::OFF);
        for row in 0..6_usize {
            let alone = golden.logits(&golden.slice("", row..row + 1), &tuned, &Dropout::OFF);
            let expected = values(&together.get(i64::try_from(row).unwrap()));
            check("row", largest_error(&values(&alone), &expected), 1e-5);
        }
    }
}

#[test]
fn prompts_agree_with_transformers() {
    let bert = Golden {
        backbone: Backbone::load(&folder().join("backbone"), Precision::Fp32).unwrap(),
        reference: Reference::open("reference.safetensors"),
        group: "",
    };
    let of_bert = Reference::open("../bert-prompt/reference.safetensors");
    let prompt =
        |values: &[f32]| Tensor::from_slice(values).view([PREFIX, HIDDEN]).set_requires_grad(true);
    let [_, weight, bias] = bert.tuned();
    let leaf = prompt(&of_bert.floats("prompt"));
    let logits = bert.prompted(&bert.slice("", 0..6), &leaf, [&weight, &bias]);
    check("bert", largest_error(&values(&logits), &of_bert.floats("prompt.logits")), 1e-4);
    let loss = mean_loss(&logits, &bert.slice("", 0..6).labels().unwrap());
    let gradient = Tensor::run_backward(&[&loss], &[&leaf], false, false);
    let expected = of_bert.floats("prompt.grad.prompt");
    check("bert", relative_error(&values(&gradient[0]), &expected), 1e-3);

    for golden in all().into_iter().filter(|golden| golden.backbone.config.supports_prompt()) {
        let leaf = prompt(&golden.floats("prompt"));
        let [_, weight, bias] = golden.tuned();
        let logits = golden.prompted(&golden.slice("", 0..6), &leaf, [&weight, &bias]);
        golden.check("prompt.logits", &logits);
        golden.check_gradients(&logits, "prompt.loss", &[("prompt.grad.prompt", &leaf)]);
    }
}

/// bf16 rounds, and nothing else: the same function, within its own precision.
#[test]
fn bf16_is_near_and_frozen_tensors_want_no_gradient() {
    for (name, backbone, group) in [
        ("roberta-tiny", "backbone", ""),
        ("mpnet-tiny", "backbone", ""),
        ("deberta-tiny", "backbone", ""),
        ("deberta-tiny", "backbone-v2", "v2."),
    ] {
        let mut golden = Golden::open(name, backbone, group);
        let place = folder().join("..").join(name).join(backbone);
        golden.backbone = Backbone::load(&place, Precision::Bf16).unwrap();
        assert_eq!(golden.backbone.kind(), Kind::BFloat16);
        let tuned = golden.tuned();
        let logits = golden.logits(&golden.slice("", 0..6), &tuned, &Dropout::OFF);
        check(name, relative_error(&values(&logits), &golden.floats("logits")), 0.1);
        let loss = mean_loss(&logits, &golden.slice("", 0..6).labels().unwrap());
        let gradient = Tensor::run_backward(&[&loss], &[&tuned[0]], false, false);
        check(name, relative_error(&values(&gradient[0]), &golden.floats("grad.prefix")), 0.1);
        for tensor in golden.backbone.tensors() {
            assert!(!tensor.requires_grad() && !tensor.grad().defined());
        }
        assert_eq!(golden.backbone.share().bytes(), golden.backbone.bytes());
    }
}

/// Dropout reaches the scores by distance and the convolution too, and is a function of its key.
#[test]
fn dropout_follows_its_key() {
    let rates = Rates { hidden: 0.3, attention: 0.0, prefix: 0.0, head: 0.0 };
    for golden in all() {
        let slice = golden.slice("", 0..2);
        let at = |step| {
            let dropout = Dropout::new(rates, 1, step, 0);
            values(&golden.logits(&slice, &golden.tuned(), &dropout))
        };
        assert_eq!(at(4), at(4));
        assert_ne!(at(4), at(5));
    }
}

/// The file of a bare encoder, and one that was saved without a pooler.
#[test]
fn names_without_the_architecture_and_files_without_a_pooler_load() {
    for (name, prefix) in
        [("roberta-tiny", "roberta."), ("mpnet-tiny", "mpnet."), ("deberta-tiny", "deberta.")]
    {
        let from = folder().join("..").join(name).join("backbone");
        let named = Golden::open(name, "backbone", "");
        let place = tempfile::tempdir().unwrap();
        fs::copy(from.join("config.json"), place.path().join("config.json")).unwrap();
        let write = |has_pooler: bool| {
            rename(&from, place.path(), |old| {
                let bare = old.strip_prefix(prefix).unwrap_or(old);
                (has_pooler || !bare.starts_with("pooler.")).then(|| bare.to_owned())
            });
            Backbone::load(place.path(), Precision::Fp32).unwrap()
        };
        let has_one = named.backbone.config.architecture != Architecture::DebertaV2;
        assert_eq!(named.backbone.pooler().is_some(), has_one);
        let bare = write(true);
        assert_eq!(bare.tensors(), named.backbone.tensors());
        assert!(write(false).pooler().is_none());
    }
}

/// Copies a weight file under new names; without one, a tensor stays behind.
fn rename(from: &Path, to: &Path, name: impl Fn(&str) -> Option<String>) {
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let renamed: Vec<_> = file
        .tensors()
        .into_iter()
        .filter_map(|(old, view)| name(&old).map(|new| (new, view)))
        .collect();
    let bytes = safetensors::serialize(renamed, None).unwrap();
    fs::write(to.join("model.safetensors"), bytes).unwrap();
}
