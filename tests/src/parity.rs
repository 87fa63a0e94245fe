//! The numerical core against references that transformers and PEFT made; see goldens/make.py.

use ptv2_common::spec::Precision;
use ptv2_daemon::features::Sequence;
use ptv2_daemon::numerics::adamw::{AdamW, clip_global_norm};
use ptv2_daemon::numerics::schedule::Schedule;
use ptv2_daemon::numerics::state::{
    HEAD_BIAS, HEAD_WEIGHT, Layout, PREFIX_TABLE, TunedState, fp32,
};
use ptv2_daemon::train::backbones::Backbone;
use ptv2_daemon::train::batch::Slice;
use ptv2_daemon::train::dropout::Rates;
use ptv2_daemon::train::pool::Pool;
use ptv2_daemon::train::step::{Network, RunStep, Setting, SliceGradient};
use safetensors::SafeTensors;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) const NO_DROPOUT: Rates = Rates { hidden: 0.0, attention: 0.0, prefix: 0.0, head: 0.0 };
const SOME_DROPOUT: Rates = Rates { hidden: 0.1, attention: 0.1, prefix: 0.1, head: 0.1 };

pub(crate) fn folder() -> PathBuf {
    crate::e2e::harness::root().join("tests/goldens/bert-tiny")
}

/// What is tuned, and what the goldens call it.
pub(crate) const TUNED: [(&str, &str); 3] =
    [(HEAD_BIAS, "head.bias"), (HEAD_WEIGHT, "head.weight"), (PREFIX_TABLE, "prefix")];

/// The reference file: every value as f32 or i64.
pub(crate) struct Reference {
    bytes: Vec<u8>,
}

impl Reference {
    pub(crate) fn open(name: &str) -> Self {
        Self { bytes: std::fs::read(folder().join(name)).unwrap() }
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let shape = file.tensor(name).unwrap().shape().to_vec();
        fp32(&file, name, &shape).unwrap()
    }

    /// The reference's prefix and head, in a layout's order.
    pub(crate) fn tuned(&self, layout: &Layout) -> Vec<f32> {
        let [bias, weight, table] = ["head.bias", "head.weight", "prefix"].map(|n| self.floats(n));
        values(layout, &bias, &weight, &table)
    }

    /// Holds values in the layout's order against the tensors of this group; gives the largest relative difference.
    pub(crate) fn holds(&self, layout: &Layout, group: &str, values: &[f32]) -> f32 {
        let errors = TUNED.map(|(name, golden)| {
            let golden = format!("{group}.{golden}");
            let found = &values[layout.tensor(name).unwrap().range.clone()];
            let error = relative_error(found, &self.floats(&golden));
            check(&golden, error, 1e-3);
            error
        });
        largest(errors)
    }

    /// Holds loss and gradient, as the sums over its six rows, against their means.
    pub(crate) fn holds_sums(&self, layout: &Layout, loss: f32, gradient: &[f32]) {
        check("loss", (loss / 6.0 - self.floats("loss")[0]).abs(), 1e-5);
        let mean: Vec<f32> = gradient.iter().map(|value| value / 6.0).collect();
        self.holds(layout, "grad", &mean);
    }

    fn whole(&self, name: &str) -> Vec<i64> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        view.data().as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word)).collect()
    }

    /// Rows `range` of a batch as one slice, without the padding of the reference.
    pub(crate) fn slice(
        &self,
        group: &str,
        choices: usize,
        range: std::ops::Range<usize>,
    ) -> Slice {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let shape = file.tensor(&format!("{group}ids")).unwrap().shape().to_vec();
        let width = *shape.last().unwrap();
        let (ids, types, mask) = (
            self.whole(&format!("{group}ids")),
            self.whole(&format!("{group}types")),
            self.whole(&format!("{group}mask")),
        );
        let labels = match file.tensor(&format!("{group}labels")) {
            Ok(_) => self.whole(&format!("{group}labels")),
            Err(_) => vec![0; shape[0]],
        };
        let mut sequences = Vec::new();
        for row in range.start * choices..range.end * choices {
            let length =
                mask[row * width..(row + 1) * width].iter().filter(|bit| **bit == 1).count();
            let cells = row * width..row * width + length;
            sequences.push((
                ids[cells.clone()].iter().map(|id| u32::try_from(*id).unwrap()).collect::<Vec<_>>(),
                types[cells].iter().map(|kind| u8::try_from(*kind).unwrap()).collect::<Vec<_>>(),
            ));
        }
        let views: Vec<_> = sequences.iter().map(|(ids, types)| Sequence { ids, types }).collect();
        let labels: Vec<i32> = labels[range].iter().map(|l| i32::try_from(*l).unwrap()).collect();
        Slice::new(0, &views, &labels)
    }
}

pub(crate) fn setting(prefix: usize, outputs: usize, choices: i64, rates: Rates) -> Arc<Setting> {
    Arc::new(Setting {
        choices,
        outputs: i64::try_from(outputs).unwrap(),
        prefix: i64::try_from(prefix).unwrap(),
        rates,
        layout: Layout::new(prefix, 2, 32, outputs),
        pooler: None,
    })
}

pub(crate) fn network(backbone: &str, setting: &Arc<Setting>) -> Network {
    network_of(backbone, Precision::Fp32, setting)
}

pub(crate) fn network_of(backbone: &str, precision: Precision, setting: &Arc<Setting>) -> Network {
    tch::set_num_threads(1);
    let backbone = Backbone::load(&folder().join(backbone), precision).unwrap();
    Network::new(backbone, Arc::clone(setting))
}

/// A step of a run of seed 11.
pub(crate) fn at(step: u64) -> RunStep {
    RunStep { seed: 11, step }
}

/// Values in the layout's order.
fn values(layout: &Layout, bias: &[f32], weight: &[f32], table: &[f32]) -> Vec<f32> {
    let mut flat = vec![0.0; layout.len()];
    for (name, part) in [(HEAD_BIAS, bias), (HEAD_WEIGHT, weight), (PREFIX_TABLE, table)] {
        if let Some(tensor) = layout.tensor(name) {
            flat[tensor.range.clone()].copy_from_slice(part);
        }
    }
    flat
}

/// The largest size of some numbers; not a number where one of them is none, which no bound holds for.
pub(crate) fn largest(values: impl IntoIterator<Item = f32>) -> f32 {
    values.into_iter().map(f32::abs).max_by(f32::total_cmp).unwrap_or(0.0)
}

pub(crate) fn largest_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    largest(found.iter().zip(expected).map(|(a, b)| a - b))
}

/// Largest difference as a share of the largest expected value.
pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    largest_error(found, expected) / largest(expected.iter().copied())
}

pub(crate) fn check(name: &str, error: f32, bound: f32) {
    println!("{name}: largest error {error:e} (bound {bound:e})");
    assert!(error <= bound, "{name}: {error:e} is above {bound:e}");
}

#[test]
fn what_is_no_number_is_within_no_bound() {
    assert_eq!(largest([1.0, -3.0, 2.0]), 3.0);
    for none in [f32::NAN, -f32::NAN] {
        assert!(largest([none, 1.0]).is_nan() && largest([1.0, none]).is_nan());
        assert!(largest_error(&[1.0, none], &[1.0, 1.0]).is_nan());
        assert!(relative_error(&[none; 2], &[1.0, 1.0]).is_nan());
        assert!(std::panic::catch_unwind(|| check("none", none, 1.0)).is_err());
    }
}

#[test]
fn logits_agree_with_peft_for_each_naming_of_tensors() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let tuned = reference.tuned(&setting.layout);
    for backbone in ["backbone", "backbone-bare", "backbone-legacy", "backbone-sharded"] {
        let network = network(backbone, &setting);
        let logits = network.logits(&tuned, &reference.slice("", 1, 0..6)).unwrap();
        check(backbone, largest_error(&logits, &reference.floats("logits")), 1e-4);
    }
}

#[test]
fn a_zero_prefix_is_no_absent_prefix() {
    let reference = Reference::open("reference.safetensors");
    let (bias, weight) = (reference.floats("head.bias"), reference.floats("head.weight"));
    let with = setting(5, 3, 1, NO_DROPOUT);
    let zero = values(&with.layout, &bias, &weight, &vec![0.0; 5 * 128]);
    let slice = reference.slice("", 1, 0..6);
    let zero = network("backbone", &with).logits(&zero, &slice).unwrap();
    check("zero prefix", largest_error(&zero, &reference.floats("zero_prefix.logits")), 1e-4);

    let without = setting(0, 3, 1, NO_DROPOUT);
    let plain = values(&without.layout, &bias, &weight, &[]);
    let plain = network("backbone", &without).logits(&plain, &slice).unwrap();
    check("no prefix", largest_error(&plain, &reference.floats("plain.logits")), 1e-4);
    assert!(largest_error(&zero, &plain) > 1e-2);
}

#[test]
fn gradients_agree_with_the_reference() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let tuned = reference.tuned(&setting.layout);
    let network = network("backbone", &setting);
    let found = network.gradient(&tuned, at(0), &reference.slice("", 1, 0..6)).unwrap();
    reference.holds_sums(&setting.layout, found.loss, &found.gradient);
}

#[test]
fn multiple_choice_agrees_with_the_reference() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 1, 2, NO_DROPOUT);
    let tuned = values(
        &setting.layout,
        &reference.floats("choice.head.bias"),
        &reference.floats("choice.head.weight"),
        &reference.floats("prefix"),
    );
    let network = network("backbone", &setting);
    let slice = reference.slice("choice.", 2, 0..3);
    let logits = network.logits(&tuned, &slice).unwrap();
    check("logits", largest_error(&logits, &reference.floats("choice.logits")), 1e-4);
    let found = network.gradient(&tuned, at(0), &slice).unwrap();
    check("loss", (found.loss / 3.0 - reference.floats("choice.loss")[0]).abs(), 1e-5);
    let mean: Vec<f32> = found.gradient.iter().map(|value| value / 3.0).collect();
    let layout = &setting.layout;
    let table = &mean[layout.tensor(PREFIX_TABLE).unwrap().range.clone()];
    check("prefix", relative_error(table, &reference.floats("choice.grad.prefix")), 1e-3);
    let weight = &mean[layout.tensor(HEAD_WEIGHT).unwrap().range.clone()];
    check("head", relative_error(weight, &reference.floats("choice.grad.head.weight")), 1e-3);
}

#[test]
fn prefix_and_text_may_fill_the_position_table_and_not_more() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let tuned = reference.tuned(&setting.layout);
    let network = network("backbone", &setting);
    let logits = network.logits(&tuned, &reference.slice("edge.", 1, 0..2)).unwrap();
    check("edge", largest_error(&logits, &reference.floats("edge.logits")), 1e-4);
    let (ids, types) = (vec![7; 60], vec![0; 60]);
    let beyond = Slice::new(0, &[Sequence { ids: &ids, types: &types }], &[0]);
    assert!(network.logits(&tuned, &beyond).is_err());
}

#[test]
fn padding_and_company_change_no_more_than_rounding() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let tuned = setting.initial_values(11);
    let network = network("backbone", &setting);
    let together = network.logits(&tuned, &reference.slice("", 1, 0..6)).unwrap();
    for row in 0..6 {
        let alone = network.logits(&tuned, &reference.slice("", 1, row..row + 1)).unwrap();
        check("row", largest_error(&alone, &together[row * 3..row * 3 + 3]), 1e-5);
    }
}

/// Ten steps from the reference's start, in batches of four and two rows.
#[test]
fn ten_steps_follow_the_reference() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let layout = &setting.layout;
    let network = network("backbone", &setting);
    let mut state = TunedState::new(values(
        layout,
        &reference.floats("head.bias"),
        &reference.floats("head.weight"),
        &reference.floats("prefix"),
    ));
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let kind = ptv2_common::spec::Schedule::Linear;
    let schedule = Schedule { rate: 5e-3, total_steps: 10, warmup_steps: 0, kind };
    let (losses, norms) =
        (reference.floats("trajectory.loss"), reference.floats("trajectory.grad_norm"));
    for step in 0..10_usize {
        let rows = if step % 2 == 0 { 0..4 } else { 4..6 };
        let count = if step % 2 == 0 { 4.0 } else { 2.0 };
        let found = network
            .gradient(&state.values, at(step as u64), &reference.slice("", 1, rows))
            .unwrap();
        let mut mean: Vec<f32> = found.gradient.iter().map(|value| value / count).collect();
        let norm = clip_global_norm(&mut mean, 1.0);
        check("loss", (found.loss / count - losses[step]).abs() / losses[step], 1e-3);
        let expected = f64::from(norms[step]);
        assert!((norm - expected).abs() / expected < 1e-3, "step {step}: {norm} {expected}");
        adamw.update(layout, &mut state, &mean, schedule.at(step as u64));
    }
    reference.holds(layout, "trajectory", &state.values);
}

/// The optimizer alone, some gradients as small as epsilon.
#[test]
fn adamw_follows_the_reference_s_trace() {
    let reference = Reference::open("adamw.safetensors");
    let decayed = reference.whole("decayed");
    // The layout decays the weight and not the bias; the trace tells which element is which.
    let order: Vec<usize> = (0..12)
        .filter(|index| decayed[*index] == 0)
        .chain((0..12).filter(|index| decayed[*index] != 0))
        .collect();
    let biases = decayed.iter().filter(|value| **value == 0).count();
    let layout = two_part_layout(biases, 12 - biases);
    let pick = |all: &[f32]| order.iter().map(|index| all[*index]).collect::<Vec<_>>();
    let mut state = TunedState::new(pick(&reference.floats("initial")));
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let (grads, rates, params) =
        (reference.floats("grads"), reference.floats("lr"), reference.floats("params"));
    for (step, rate) in rates.iter().take(10).enumerate() {
        let row = step * 12..(step + 1) * 12;
        adamw.update(&layout, &mut state, &pick(&grads[row.clone()]), f64::from(*rate));
        check("trace", largest_error(&state.values, &pick(&params[row])), 2e-6);
    }
}

/// A head of `bias` outputs over as many inputs as make `weight` elements.
fn two_part_layout(bias: usize, weight: usize) -> Layout {
    assert_eq!(weight % bias, 0, "the trace's parts make a head");
    Layout::new(0, 1, weight / bias, bias)
}

#[test]
fn gradients_agree_with_differences() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let network = network("backbone", &setting);
    let slice = reference.slice("", 1, 0..6);
    let tuned = setting.initial_values(11);
    let found = network.gradient(&tuned, at(0), &slice).unwrap().gradient;
    for tensor in setting.layout.tensors() {
        let index = tensor.range.start + tensor.range.len() / 3;
        let at = |offset: f32| {
            let mut moved = tuned.clone();
            moved[index] += offset;
            network.gradient(&moved, at(0), &slice).unwrap().loss
        };
        let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
        let error = (difference - found[index]).abs();
        assert!(error < 2e-3, "{}: {difference} {}", tensor.name, found[index]);
    }
}

/// Bits do not depend on threads, and frozen tensors neither change nor want a gradient.
#[test]
fn threads_change_no_bit_and_the_backbone_stays() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        threads_change_no_bit(precision);
    }
}

fn threads_change_no_bit(precision: Precision) {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, SOME_DROPOUT);
    let backbone = Backbone::load(&folder().join("backbone"), precision).unwrap();
    let before: Vec<_> = backbone.tensors().into_iter().map(tch::Tensor::copy).collect();
    let tuned = Arc::new(setting.initial_values(11));
    let slices: Vec<Slice> = (0..6)
        .map(|row| {
            let mut slice = reference.slice("", 1, row..row + 1);
            slice.index = u16::try_from(row).unwrap();
            slice
        })
        .collect();
    let runs: Vec<Vec<SliceGradient>> = [1, 2, 3]
        .into_iter()
        .map(|threads| {
            let pool = Pool::new(&backbone, &setting, threads).unwrap();
            pool.gradients(&tuned, at(7), slices.clone()).unwrap()
        })
        .collect();
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
    assert_ne!(runs[0][0].gradient, runs[0][1].gradient);
    for (before, after) in before.iter().zip(backbone.tensors()) {
        assert_eq!(before, after);
        assert!(!after.requires_grad() && !after.grad().defined());
    }
}

/// Dropout follows step and slice, and nothing that ran before.
#[test]
fn dropout_is_a_function_of_step_and_slice() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, SOME_DROPOUT);
    let network = network("backbone", &setting);
    let tuned = setting.initial_values(11);
    let slice = reference.slice("", 1, 0..3);
    let first = network.gradient(&tuned, at(4), &slice).unwrap();
    assert_eq!(first, network.gradient(&tuned, at(4), &slice).unwrap());
    assert_ne!(first, network.gradient(&tuned, at(5), &slice).unwrap());
    let mut other = slice;
    other.index = 1;
    assert_ne!(first.loss, network.gradient(&tuned, at(4), &other).unwrap().loss);
}
