//! The methods beside the deep prefix, and poolers, against references; see goldens/make_methods.py.

use crate::parity::{
    NO_DROPOUT, Reference, at, check, folder, largest_error, network, relative_error,
};
use ptv2_common::spec::{MethodKind, MethodSpec, PoolerKind, Precision};
use ptv2_daemon::backbone::Config;
use ptv2_daemon::numerics::state::{
    HEAD_BIAS, HEAD_WEIGHT, Layout, POOLER_BIAS, POOLER_WEIGHT, PREFIX_TABLE, PROMPT_TABLE,
};
use ptv2_daemon::train::backbones::Backbone;
use ptv2_daemon::train::batch::Slice;
use ptv2_daemon::train::dropout::{Dropout, Rates};
use ptv2_daemon::train::pool::Pool;
use ptv2_daemon::train::prefix;
use ptv2_daemon::train::step::{Network, Setting};
use std::sync::Arc;

const PROJECTION: [&str; 5] =
    ["embedding", "inner.weight", "inner.bias", "outer.weight", "outer.bias"];

/// A setting of three outputs on the tiny BERT, with five positions.
fn setting(method: &MethodSpec, rates: Rates) -> Arc<Setting> {
    let config = Config::read(&folder().join("backbone")).unwrap();
    let layout = Layout::of(method, &config, 3).unwrap();
    Arc::new(Setting {
        choices: 1,
        outputs: 3,
        prefix: method.prefix_length().into(),
        rates,
        layout,
        pooler: None,
    })
}

fn method(kind: MethodKind) -> MethodSpec {
    MethodSpec { kind, pre_seq_len: 5, prefix_hidden_size: 8, ..MethodSpec::default() }
}

fn projection() -> MethodSpec {
    MethodSpec { prefix_projection: true, ..method(MethodKind::Prefix) }
}

/// Values of a layout, of which the parts are given by name.
fn values(layout: &Layout, parts: &[(&str, Vec<f32>)]) -> Vec<f32> {
    let mut flat = vec![f32::NAN; layout.len()];
    for (name, part) in parts {
        flat[layout.tensor(name).unwrap().range.clone()].copy_from_slice(part);
    }
    assert!(flat.iter().all(|value| value.is_finite()), "a part is missing");
    flat
}

/// Logits, loss and gradients of what `parts` name, against those under `group` in the reference.
fn check_method(method: &MethodSpec, group: &str, parts: &[(&str, &str)]) {
    let (rows, reference) =
        (Reference::open("reference.safetensors"), Reference::open("methods.safetensors"));
    let setting = setting(method, NO_DROPOUT);
    let mut all =
        vec![(HEAD_BIAS, rows.floats("head.bias")), (HEAD_WEIGHT, rows.floats("head.weight"))];
    all.extend(parts.iter().map(|(name, of)| (*name, reference.floats(&format!("{group}.{of}")))));
    let tuned = values(&setting.layout, &all);
    let network = network("backbone", &setting);
    let slice = rows.slice("", 1, 0..6);
    let logits = network.logits(&tuned, &slice).unwrap();
    let expected = reference.floats(&format!("{group}.logits"));
    check(group, largest_error(&logits, &expected), 1e-4);
    let found = network.gradient(&tuned, at(0), &slice).unwrap();
    let loss = reference.floats(&format!("{group}.loss"))[0];
    check("loss", (found.loss / 6.0 - loss).abs(), 1e-5);
    for (name, of) in parts {
        let range = setting.layout.tensor(name).unwrap().range.clone();
        let mean: Vec<f32> = found.gradient[range].iter().map(|value| value / 6.0).collect();
        let expected = reference.floats(&format!("{group}.grad.{of}"));
        check(name, relative_error(&mean, &expected), 1e-3);
    }
}

#[test]
fn a_projected_prefix_agrees_with_peft() {
    let names = PROJECTION.map(|of| (format!("prefix.{of}"), of));
    let parts: Vec<_> = names.iter().map(|(name, of)| (name.as_str(), *of)).collect();
    check_method(&projection(), "projection", &parts);
}

#[test]
fn a_prompt_agrees_with_transformers() {
    check_method(&method(MethodKind::Prompt), "prompt", &[(PROMPT_TABLE, "table")]);
}

/// Position P + S is the last one for a prompt, too.
#[test]
fn prompt_and_text_may_fill_the_position_table_and_not_more() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(&method(MethodKind::Prompt), NO_DROPOUT);
    let network = network("backbone", &setting);
    let tuned = setting.initial_values(11);
    assert!(network.logits(&tuned, &reference.slice("edge.", 1, 0..2)).is_ok());
    let longer = MethodSpec { pre_seq_len: 6, ..method(MethodKind::Prompt) };
    let setting = self::setting(&longer, NO_DROPOUT);
    let network = self::network("backbone", &setting);
    let tuned = setting.initial_values(11);
    assert!(network.logits(&tuned, &reference.slice("edge.", 1, 0..2)).is_err());
}

/// A pooler of the job's own computes what the backbone's does, and only where it is tuned has it a
/// gradient: that of transformers.
#[test]
fn a_trained_pooler_agrees_with_transformers() {
    let (rows, reference) =
        (Reference::open("reference.safetensors"), Reference::open("methods.safetensors"));
    let trained = MethodSpec { pooler: Some(PoolerKind::Trained), ..method(MethodKind::Prefix) };
    let setting = setting(&trained, NO_DROPOUT);
    let backbone = Backbone::load(&folder().join("backbone"), Precision::Fp32).unwrap();
    let (weight, bias) = backbone.pooler().unwrap();
    let flat = |tensor: &tch::Tensor| Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap();
    let tuned = values(
        &setting.layout,
        &[
            (HEAD_BIAS, rows.floats("head.bias")),
            (HEAD_WEIGHT, rows.floats("head.weight")),
            (PREFIX_TABLE, rows.floats("prefix")),
            (POOLER_WEIGHT, flat(weight)),
            (POOLER_BIAS, flat(bias)),
        ],
    );
    let network = network("backbone", &setting);
    let found = network.gradient(&tuned, at(0), &rows.slice("", 1, 0..6)).unwrap();
    check("loss", (found.loss / 6.0 - rows.floats("loss")[0]).abs(), 1e-5);
    for (name, of) in [(POOLER_WEIGHT, "pooler.grad.weight"), (POOLER_BIAS, "pooler.grad.bias")] {
        let range = setting.layout.tensor(name).unwrap().range.clone();
        let mean: Vec<f32> = found.gradient[range].iter().map(|value| value / 6.0).collect();
        check(name, relative_error(&mean, &reference.floats(of)), 1e-3);
    }
}

/// A DeBERTa's pooler ends with GELU, and its head reads that.
#[test]
fn a_deberta_s_pooler_ends_with_gelu() {
    let place = folder().join("../deberta-tiny/backbone");
    let backbone = Backbone::load(&place, Precision::Fp32).unwrap();
    let spec = method(MethodKind::Prefix);
    let layout = Layout::of(&spec, &backbone.config, 3).unwrap();
    assert!(layout.tensors().iter().any(|tensor| tensor.name == POOLER_WEIGHT), "it is trained");
    let setting = Setting { layout, ..(*setting(&spec, NO_DROPOUT)).clone() };
    let tuned: Vec<f32> = setting.initial_values(11).iter().map(|value| 20.0 * value).collect();
    let part = |name: &str, shape: &[i64]| {
        let range = setting.layout.tensor(name).unwrap().range.clone();
        tch::Tensor::from_slice(&tuned[range]).view(shape)
    };
    let slice = Reference::open("../deberta-tiny/reference.safetensors").slice("", 1, 0..6);
    let table = part(PREFIX_TABLE, &[5, 128]);
    let keys = prefix::keys(&table, 6, 2, 4, tch::Kind::Float, &Dropout::OFF).unwrap();
    let inputs = slice.inputs(5).unwrap();
    let first = backbone.encode(&inputs, &keys, None, &Dropout::OFF).unwrap();
    let dense = first.linear(&part(POOLER_WEIGHT, &[32, 32]), Some(part(POOLER_BIAS, &[32])));
    let logits =
        dense.gelu("none").linear(&part(HEAD_WEIGHT, &[3, 32]), Some(part(HEAD_BIAS, &[3])));
    let expected = Vec::<f32>::try_from(logits.flatten(0, -1)).unwrap();
    let found = Network::new(backbone, Arc::new(setting)).logits(&tuned, &slice).unwrap();
    check("logits", largest_error(&found, &expected), 1e-6);
}

/// What a job's own pooler begins with: the backbone's where it has one, and else numbers of the seed
/// that move no other tensor's.
#[test]
fn first_values_of_a_tensor_depend_on_no_other_tensor() {
    let first = |spec: &MethodSpec, own: Option<[Vec<f32>; 2]>| {
        let setting = setting(spec, NO_DROPOUT);
        let setting = Setting { pooler: own, ..(*setting).clone() };
        (setting.initial_values(11), setting.layout)
    };
    let part = |(values, layout): &(Vec<f32>, Layout), name: &str| {
        values[layout.tensor(name).unwrap().range.clone()].to_vec()
    };
    let spec = method(MethodKind::Prefix);
    let trained = MethodSpec { pooler: Some(PoolerKind::Trained), ..spec.clone() };
    let (plain, drawn) = (first(&spec, None), first(&trained, None));
    let given = first(&trained, Some([vec![0.5; 32 * 32], vec![0.25; 32]]));
    for name in [HEAD_WEIGHT, PREFIX_TABLE] {
        assert_eq!(part(&plain, name), part(&drawn, name), "{name}");
        assert_eq!(part(&plain, name), part(&given, name), "{name}");
    }
    assert_eq!(part(&given, POOLER_WEIGHT), vec![0.5; 32 * 32]);
    assert_eq!(part(&given, POOLER_BIAS), vec![0.25; 32]);
    assert_eq!(part(&drawn, POOLER_BIAS), vec![0.0; 32]);
    let weight = part(&drawn, POOLER_WEIGHT);
    let square: f32 = weight.iter().map(|value| value * value).sum();
    assert!(((square / 1024.0).sqrt() - 0.02).abs() < 2e-3);
    let projected = first(&projection(), None);
    assert_eq!(part(&plain, HEAD_WEIGHT), part(&projected, HEAD_WEIGHT));
    assert_ne!(part(&projected, "prefix.embedding")[..8], part(&plain, PREFIX_TABLE)[..8]);
}

/// Bits do not depend on threads, whatever is tuned.
#[test]
fn threads_change_no_bit_of_any_method() {
    let reference = Reference::open("reference.safetensors");
    let rates = Rates { hidden: 0.1, attention: 0.1, prefix: 0.1, head: 0.1 };
    let backbone = Backbone::load(&folder().join("backbone"), Precision::Fp32).unwrap();
    for spec in [
        projection(),
        method(MethodKind::Prompt),
        MethodSpec { pooler: Some(PoolerKind::Trained), ..method(MethodKind::Head) },
    ] {
        let setting = setting(&spec, rates);
        let tuned = Arc::new(setting.initial_values(11));
        let numbered = |index: u16| {
            let row = usize::from(index);
            let mut slice = reference.slice("", 1, row..row + 1);
            slice.index = index;
            slice
        };
        let slices: Vec<Slice> = (0..6).map(numbered).collect();
        let run = |threads| {
            let pool = Pool::new(&backbone, &setting, threads).unwrap();
            pool.gradients(&tuned, at(7), slices.clone()).unwrap()
        };
        let once = run(1);
        assert!(once == run(3), "{spec:?}");
        assert!(once.iter().all(|one| one.gradient.len() == setting.layout.tuned_len()));
    }
}
