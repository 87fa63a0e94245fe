//! The numerical core in bf16, against transformers and PEFT in bf16.

use super::parity::{NO_DROPOUT, Reference, at, check, network_of, setting};
use ptv2_common::spec::Precision;
use ptv2_daemon::numerics::state::{HEAD_BIAS, HEAD_WEIGHT, PREFIX_TABLE};

/// bf16's unit of rounding. Any one number may be this near to the exact one by luck.
pub(crate) const ROUNDING: f32 = 0.003_906_25;

/// Both are off the exact values. We must be as near to those as transformers is, within half as
/// much again, and near to transformers.
#[test]
fn bf16_is_as_near_to_the_truth_as_transformers_in_bf16() {
    let exact = Reference::open("reference.safetensors");
    let rounded = Reference::open("bf16.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let tuned = exact.tuned(&setting.layout);
    let network = network_of("backbone", Precision::Bf16, &setting);
    let slice = exact.slice("", 1, 0..6);
    let logits = network.logits(&tuned, &slice).unwrap();
    let found = network.gradient(&tuned, at(0), &slice).unwrap();
    let mean: Vec<f32> = found.gradient.iter().map(|value| value / 6.0).collect();
    let part = |name| mean[setting.layout.tensor(name).unwrap().range.clone()].to_vec();
    for (name, found) in [
        ("logits", logits),
        ("loss", vec![found.loss / 6.0]),
        ("grad.head.bias", part(HEAD_BIAS)),
        ("grad.head.weight", part(HEAD_WEIGHT)),
        ("grad.prefix", part(PREFIX_TABLE)),
    ] {
        let (exact, rounded) = (exact.floats(name), rounded.floats(name));
        let theirs = distance(&rounded, &exact).max(ROUNDING);
        check(name, distance(&found, &exact), 1.5 * theirs);
        check(name, distance(&found, &rounded), 2.5 * theirs);
    }
}

/// Euclidean distance as a share of the expected values' length.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let length = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    let apart = length(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    apart / length(&mut expected.iter().copied())
}
