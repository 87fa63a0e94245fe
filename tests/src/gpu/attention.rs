//! Attention without dropout, written out and by torch's own kernels, in turn: which is faster, and whether each gives
//! the same bits twice.

use super::device;
use crate::parity::{check, largest};
use ptv2_daemon::cuda::settings::{self, Settings};
use ptv2_daemon::train::attention::{Keys, Projected, Surroundings, attend};
use std::time::Instant;
use tch::{Device, Kind, TchError, Tensor};

/// Of each row; half of the rows have padding where there is a mask.
const TOKENS: i64 = 128;
const ROUNDS: usize = 9;
/// Allows one kernel.
type Allow = fn(&mut Settings);
/// Torch's kernels, each the only one that it may take.
const KERNELS: [(&str, Allow); 3] = [
    ("plain", |settings| settings.plain = 1),
    ("memory-efficient", |settings| settings.memory_efficient = 1),
    ("flash", |settings| settings.flash = 1),
];

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    name: &'static str,
    size: i64,
    heads: i64,
    rows: i64,
    prefix: i64,
    kind: Kind,
    /// Calls that are timed together.
    calls: u32,
}

impl Shape {
    const BERT_LARGE: Self = Self {
        name: "BERT-large",
        size: 1024,
        heads: 16,
        rows: 32,
        prefix: 20,
        kind: Kind::BFloat16,
        calls: 20,
    };
    /// A slice as a processor has it.
    const BERT_BASE: Self = Self {
        name: "BERT-base",
        size: 768,
        heads: 12,
        rows: 8,
        prefix: 20,
        kind: Kind::Float,
        calls: 1,
    };
    const MINILM: Self = Self { name: "MiniLM", size: 384, ..Self::BERT_BASE };

    /// One of four, by the device.
    pub(super) fn of(device: Device, index: usize) -> Self {
        let (large, base, bf16) = (Self::BERT_LARGE, Self::BERT_BASE, Kind::BFloat16);
        let gpu = [(32, 20), (32, 128), (128, 20), (128, 128)];
        let on_gpu = gpu.map(|(rows, prefix)| Self { rows, prefix, ..large });
        let on_cpu =
            [Self::MINILM, Self { kind: bf16, ..Self::MINILM }, base, Self { kind: bf16, ..base }];
        if device == Device::Cpu { on_cpu[index] } else { on_gpu[index] }
    }

    /// For the report.
    pub(super) fn title(self) -> String {
        let Self { name, rows, prefix, kind, .. } = self;
        format!(
            "attention of {name}, {rows} rows, P = {prefix}, {kind:?}: written out, and torch's against it"
        )
    }

    /// How far torch's results may be from ours, as a share of the largest.
    fn bound(self) -> f32 {
        if self.kind == Kind::Float { 1e-4 } else { 3e-2 }
    }
}

/// A layer's projections and prefix, all of which gradients are wanted for.
struct Inputs {
    shape: Shape,
    /// Queries, keys and values of the text; the prefix's keys and values.
    leaves: [Tensor; 5],
    mask: Option<Tensor>,
    /// The gradient of the context.
    direction: Tensor,
}

impl Inputs {
    fn new(shape: Shape, device: Device, is_padded: bool) -> Self {
        let Shape { size, heads, rows, prefix, kind, .. } = shape;
        let text = [rows, TOKENS, size];
        let before = [rows, heads, prefix, size / heads];
        tch::manual_seed(11);
        let leaf = |like: &[i64]| {
            Tensor::randn(like, (Kind::Float, device)).to_kind(kind).set_requires_grad(true)
        };
        let leaves = [leaf(&text), leaf(&text), leaf(&text), leaf(&before[..]), leaf(&before[..])];
        let direction = Tensor::randn(text, (Kind::Float, device)).to_kind(kind);
        let mask = is_padded.then(|| {
            let mask = Tensor::zeros([rows, 1, 1, prefix + TOKENS], (Kind::Float, device));
            let mut padding =
                mask.narrow(0, 0, rows / 2).narrow(3, prefix + TOKENS / 2, TOKENS / 2);
            drop(padding.fill_(f64::from(f32::MIN)));
            mask
        });
        Self { shape, leaves, mask, direction }
    }

    /// As a step has it.
    fn ours(&self) -> Tensor {
        let [query, key, value, prefix_key, prefix_value] =
            self.leaves.each_ref().map(Tensor::shallow_clone);
        let (text, keys) =
            (Projected { query, key, value }, Keys { key: prefix_key, value: prefix_value });
        let surroundings =
            Surroundings { mask: self.mask.as_ref(), prefix: Some(&keys), relation: None };
        attend(&text, self.shape.heads, &surroundings, Ok).unwrap()
    }

    /// By the kernel that torch may take.
    fn torchs(&self) -> Result<Tensor, TchError> {
        let Shape { size, heads, rows, kind, .. } = self.shape;
        let [query, key, value, prefix_key, prefix_value] = &self.leaves;
        let split =
            |tensor: &Tensor| tensor.f_view([rows, TOKENS, heads, size / heads])?.f_transpose(1, 2);
        let key = Tensor::f_cat(&[prefix_key, &split(key)?], 2)?;
        let value = Tensor::f_cat(&[prefix_value, &split(value)?], 2)?;
        let mask = self.mask.as_ref().map(|mask| mask.f_to_kind(kind)).transpose()?;
        let query = split(query)?;
        let context = Tensor::f_scaled_dot_product_attention(
            &query,
            &key,
            &value,
            mask,
            0.0,
            false,
            None::<f64>,
            false,
        )?;
        context.f_transpose(1, 2)?.f_reshape([rows, TOKENS, size])
    }

    /// The context, and the leaves' gradients.
    fn results(&self, way: &Way) -> Result<Vec<Tensor>, TchError> {
        let context = way.context(self)?;
        let loss = context.f_mul(&self.direction)?.f_sum(Kind::Float)?;
        let mut all = Tensor::f_run_backward(&[loss], &self.leaves, false, false)?;
        all.push(context.detach());
        Ok(all)
    }
}

/// Who computes.
struct Way {
    name: &'static str,
    settings: Settings,
    is_ours: bool,
}

impl Way {
    fn context(&self, inputs: &Inputs) -> Result<Tensor, TchError> {
        if self.is_ours { Ok(inputs.ours()) } else { inputs.torchs() }
    }
}

/// Gives the process its settings back.
struct Restored(Settings);

impl Drop for Restored {
    fn drop(&mut self) {
        settings::apply(&self.0).unwrap();
    }
}

/// Milliseconds of ours, and how many times as fast each of torch's kernels is: forwards, and with gradients.
pub(super) fn kernels(shape: Shape) -> String {
    let device = device();
    if device == Device::Cpu {
        tch::set_num_threads(1);
    }
    let told = [true, false].map(|is_padded| {
        let inputs = Inputs::new(shape, device, is_padded);
        let name = if is_padded { "with padding" } else { "without" };
        format!("{name}: {}", compared(&inputs, device))
    });
    told.join("; ")
}

fn compared(inputs: &Inputs, device: Device) -> String {
    let before = settings::read().unwrap();
    let _restored = Restored(before);
    let off = Settings { flash: 0, memory_efficient: 0, plain: 0, cudnn_attention: 0, ..before };
    let mut ways = vec![Way { name: "ours", settings: before, is_ours: true }];
    ways.extend(KERNELS.map(|(name, allow)| {
        let mut settings = off;
        allow(&mut settings);
        Way { name, settings, is_ours: false }
    }));
    let (mut able, mut said, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for way in ways {
        settings::apply(&way.settings).unwrap();
        let Ok(found) = inputs.results(&way) else {
            said.push(format!("{} cannot", way.name));
            continue;
        };
        let again = inputs.results(&way).unwrap();
        let is_same = found.iter().zip(&again).all(|(one, other)| one.equal(other));
        if way.is_ours {
            assert!(is_same, "ours gives other bits the second time");
            expected = found;
        } else {
            let error = largest(found.iter().zip(&expected).map(apart));
            check(way.name, error, inputs.shape.bound());
        }
        able.push((way, if is_same { "" } else { ", other bits each time" }));
    }
    let times = times(inputs, &able, device);
    let ours = times[0];
    let mut all = vec![format!("{:.2} and {:.2} ms", ours[0] * 1e3, ours[1] * 1e3)];
    all.extend(able.iter().zip(&times).skip(1).map(|((way, bits), own)| {
        let [forward, both] = [0, 1].map(|which| ours[which] / own[which]);
        format!("{} {forward:.2} and {both:.2} ×{bits}", way.name)
    }));
    all.extend(said);
    all.join(", ")
}

/// The largest difference, as a share of the largest number.
fn apart((found, expected): (&Tensor, &Tensor)) -> f32 {
    let [found, expected] = [found, expected].map(|tensor| tensor.to_kind(Kind::Float));
    let share = (&found - &expected).abs().max() / expected.abs().max();
    f32::try_from(share).unwrap()
}

/// Medians in seconds of each way, forwards alone and with gradients; all take turns.
fn times(inputs: &Inputs, able: &[(Way, &str)], device: Device) -> Vec<[f64; 2]> {
    let mut found = vec![[const { Vec::new() }; 2]; able.len()];
    for _ in 0..ROUNDS {
        for ((way, _), [forward, both]) in able.iter().zip(&mut found) {
            settings::apply(&way.settings).unwrap();
            let calls = inputs.shape.calls;
            forward.push(seconds(device, calls, || {
                tch::no_grad(|| drop(way.context(inputs).unwrap()));
            }));
            both.push(seconds(device, calls, || drop(inputs.results(way).unwrap())));
        }
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    found.into_iter().map(|both| both.map(median)).collect()
}

/// Of one call, when the device has done all.
#[expect(clippy::disallowed_methods, reason = "a test measures how long it takes")]
fn seconds(device: Device, calls: u32, body: impl Fn()) -> f64 {
    let wait = || {
        if let Device::Cuda(index) = device {
            tch::Cuda::synchronize(i64::try_from(index).unwrap());
        }
    };
    wait();
    let began = Instant::now();
    for _ in 0..calls {
        body();
    }
    wait();
    began.elapsed().as_secs_f64() / f64::from(calls)
}

#[test]
fn what_is_no_number_agrees_with_nothing() {
    let expected = Tensor::from_slice(&[1.0_f32, 2.0]);
    assert_eq!(apart((&expected, &expected)), 0.0);
    for found in [[f32::NAN, 2.0], [1.0, f32::NAN], [f32::NAN; 2]] {
        assert!(largest([0.0, apart((&Tensor::from_slice(&found), &expected)), 0.0]).is_nan());
    }
}
