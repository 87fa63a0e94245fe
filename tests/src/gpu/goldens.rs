//! The goldens on the device, with bounds for another order of sums; and what no golden has, dropout and the other
//! architectures, against the processor's way.

use super::{device, nccl};
use crate::parity::{
    NO_DROPOUT, Reference, TUNED, at, check, folder, largest_error, relative_error, setting,
};
use crate::parity_bf16::{ROUNDING, distance};
use ptv2_common::spec::{MethodSpec, Precision};
use ptv2_daemon::inputs::Folder;
use ptv2_daemon::numerics::adamw::AdamW;
use ptv2_daemon::numerics::schedule::Schedule;
use ptv2_daemon::numerics::state::{Layout, TunedState};
use ptv2_daemon::numerics::tree::Node;
use ptv2_daemon::train::backbones::Backbone;
use ptv2_daemon::train::dropout::Rates;
use ptv2_daemon::train::step::{Network, Setting};
use ptv2_daemon::train::stepper::Stepper;
use std::sync::Arc;
use tch::Device;

/// fp32 without TF32.
const BOUND: f32 = 1e-3;

fn backbone(name: &str, precision: Precision, device: Device) -> Backbone {
    tch::set_num_threads(1);
    let place = folder().join("..").join(name).join("backbone");
    Backbone::of(&Folder::at(&place), precision, device).unwrap()
}

fn network(name: &str, precision: Precision, setting: &Arc<Setting>, device: Device) -> Network {
    Network::new(backbone(name, precision, device), Arc::clone(setting))
}

/// Scores, loss and gradients of BERT, and ten steps, against transformers and PEFT.
pub(super) fn fp32() -> String {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let tuned = reference.tuned(&setting.layout);
    let network = network("bert-tiny", Precision::Fp32, &setting, device());
    let slice = reference.slice("", 1, 0..6);
    let logits = network.logits(&tuned, &slice).unwrap();
    let of_logits = largest_error(&logits, &reference.floats("logits"));
    check("logits", of_logits, BOUND);
    let found = network.gradient(&tuned, at(0), &slice).unwrap();
    check("loss", (found.loss / 6.0 - reference.floats("loss")[0]).abs(), BOUND);
    let mean: Vec<f32> = found.gradient.iter().map(|value| value / 6.0).collect();
    let of_gradients = reference.holds(&setting.layout, "grad", &mean);
    let of_steps = ten_steps(&reference, &setting);
    format!(
        "largest differences: logits {of_logits:.1e}; relative, gradients {of_gradients:.1e}, after ten steps \
         {of_steps:.1e}"
    )
}

/// Along the reference's trajectory, as a worker makes steps; the largest relative difference at its end.
fn ten_steps(reference: &Reference, setting: &Arc<Setting>) -> f32 {
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let kind = ptv2_common::spec::Schedule::Linear;
    let schedule = Schedule { rate: 5e-3, total_steps: 10, warmup_steps: 0, kind };
    let backbone = backbone("bert-tiny", Precision::Fp32, device());
    let mut stepper = Stepper::new(&backbone, setting, 1, device() != Device::Cpu).unwrap();
    let mut state = TunedState::new(reference.tuned(&setting.layout));
    stepper.load(&state).unwrap();
    let (_listener, mut group) = nccl::over_tcp();
    for step in 0..10 {
        let rows = if step % 2 == 0 { 0..4 } else { 4..6 };
        let slices = vec![reference.slice("", 1, rows)];
        let parts = stepper.parts(&state, at(step), &[Node::root(1)], slices).unwrap();
        stepper.reduce(&mut group, (step, 1), parts, &[0; 24]).unwrap();
        stepper.update(&mut state, &adamw, (schedule.at(step), 1.0)).unwrap().unwrap();
    }
    stepper.settle(&mut state).unwrap();
    reference.holds(&setting.layout, "trajectory", &state.values)
}

/// As near to the exact values as transformers in bf16 is on a processor, within as much again.
pub(super) fn bf16() -> String {
    let exact = Reference::open("reference.safetensors");
    let rounded = Reference::open("bf16.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let tuned = exact.tuned(&setting.layout);
    let network = network("bert-tiny", Precision::Bf16, &setting, device());
    let slice = exact.slice("", 1, 0..6);
    let found = network.gradient(&tuned, at(0), &slice).unwrap();
    let mean: Vec<f32> = found.gradient.iter().map(|value| value / 6.0).collect();
    let mut all = vec![("logits".to_owned(), network.logits(&tuned, &slice).unwrap())];
    for (name, golden) in TUNED {
        let range = setting.layout.tensor(name).unwrap().range.clone();
        all.push((format!("grad.{golden}"), mean[range].to_vec()));
    }
    let mut said = Vec::new();
    for (name, found) in all {
        let (exact, rounded) = (exact.floats(&name), rounded.floats(&name));
        let (ours, theirs) = (distance(&found, &exact), distance(&rounded, &exact));
        check(&name, ours, 2.0 * theirs.max(ROUNDING));
        said.push(format!("{name} {ours:.1e} (transformers {theirs:.1e})"));
    }
    format!("distance from exact values: {}", said.join(", "))
}

/// Gradients with dropout of every architecture: the device's against the processor's.
pub(super) fn architectures() -> String {
    let rates = Rates { hidden: 0.1, attention: 0.2, prefix: 0.3, head: 0.1 };
    let method = MethodSpec { pre_seq_len: 5, ..MethodSpec::default() };
    let mut said = Vec::new();
    for name in ["bert-tiny", "roberta-tiny", "mpnet-tiny", "deberta-tiny"] {
        // Each has words of its own.
        let reference = Reference::open(&format!("../{name}/reference.safetensors"));
        let gradient = |device| {
            let backbone = backbone(name, Precision::Fp32, device);
            let layout = Layout::of(&method, &backbone.config, 3).unwrap();
            let setting =
                Setting { choices: 1, outputs: 3, prefix: 5, rates, layout, pooler: None };
            let tuned = setting.initial_values(11);
            let network = Network::new(backbone, Arc::new(setting));
            network.gradient(&tuned, at(3), &reference.slice("", 1, 0..6)).unwrap().gradient
        };
        let error = relative_error(&gradient(device()), &gradient(Device::Cpu));
        check(name, error, BOUND);
        said.push(format!("{name} {error:.1e}"));
    }
    format!("largest relative differences: {}", said.join(", "))
}
