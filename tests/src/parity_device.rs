//! The way of a GPU, walked on the processor: everything by torch operators, without compute threads. Where
//! it meets the host's way, bits are the same; where it meets the references, the same bounds hold.

use super::parity::{
    NO_DROPOUT, Reference, at, check, folder, largest_error, relative_error, setting,
};
use ptv2_common::ids::WorkerId;
use ptv2_common::spec::{MethodSpec, Precision};
use ptv2_daemon::collective::AbortHandle;
use ptv2_daemon::collective::tcp::{GroupSpec, Listener, Peer, Tcp, Waits};
use ptv2_daemon::numerics::adamw::AdamW;
use ptv2_daemon::numerics::schedule::Schedule;
use ptv2_daemon::numerics::state::{Layout, TunedState};
use ptv2_daemon::numerics::tree::{Node, covering};
use ptv2_daemon::train::backbones::Backbone;
use ptv2_daemon::train::batch::Slice;
use ptv2_daemon::train::dropout::Rates;
use ptv2_daemon::train::step::{Network, Setting};
use ptv2_daemon::train::stepper::{Parts, Stepper};
use std::sync::Arc;
use std::time::Duration;

const SOME_DROPOUT: Rates = Rates { hidden: 0.1, attention: 0.2, prefix: 0.3, head: 0.1 };
const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

fn backbone(name: &str, precision: Precision) -> Backbone {
    tch::set_num_threads(1);
    Backbone::load(&folder().join("..").join(name), precision).unwrap()
}

/// Both ways for a job: the host's, then the device's.
fn both(backbone: &Backbone, setting: &Arc<Setting>) -> [Stepper; 2] {
    [false, true].map(|on_device| Stepper::new(backbone, setting, 1, on_device).unwrap())
}

/// A group of one.
fn alone() -> Tcp {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let wait = Duration::from_secs(20);
    let spec = GroupSpec {
        job: "j1".into(),
        generation: 1,
        rank: 0,
        peers: vec![Peer { worker: WorkerId("w0".into()), address: listener.address() }],
        key: b"key".to_vec(),
        longest_frame: 1 << 20,
        waits: Waits { join: wait, silence: wait, patience: wait },
    };
    listener.join(&spec, &AbortHandle::default()).unwrap()
}

/// The rows of a batch as slices of so many rows.
fn slices(reference: &Reference, rows: usize) -> Vec<Slice> {
    let slice = |index: usize| {
        let mut slice = reference.slice("", 1, index * rows..(index + 1) * rows);
        slice.index = u16::try_from(index).unwrap();
        slice
    };
    (0..6 / rows).map(slice).collect()
}

type Sums = Vec<(Node, Vec<f32>)>;

fn values(parts: &Parts) -> Sums {
    match parts {
        Parts::Host(parts) => parts.clone(),
        Parts::Device(parts) => {
            let flat = |tensor: &tch::Tensor| Vec::<f32>::try_from(tensor).unwrap();
            parts.iter().map(|(node, tensor)| (*node, flat(tensor))).collect()
        }
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// Of sums of the same nodes, as a share of the largest.
fn largest_difference(host: &Sums, device: &Sums) -> f32 {
    let mut most = 0.0_f32;
    for ((node, host), (same, device)) in host.iter().zip(device) {
        assert_eq!(node, same);
        most = most.max(largest_error(host, device) / largest(host));
    }
    most
}

/// What the device's way may differ by: leaves lie elsewhere in memory, and a product's last bits follow that.
const TOLERANCE: f32 = 1e-5;

/// Dropout, gradients, and their sums in the order of the tree, of every architecture.
#[test]
fn gradients_on_a_device_are_the_hosts() {
    for name in ["bert-tiny", "roberta-tiny", "mpnet-tiny", "deberta-tiny"] {
        let reference = Reference::open(&format!("../{name}/reference.safetensors"));
        for precision in [Precision::Fp32, Precision::Bf16] {
            let backbone = backbone(&format!("{name}/backbone"), precision);
            let method = MethodSpec { pre_seq_len: 5, ..MethodSpec::default() };
            let layout = Layout::of(&method, &backbone.config, 3).unwrap();
            let plain = setting(5, 3, 1, SOME_DROPOUT);
            let setting = Arc::new(Setting { layout, ..Setting::clone(&plain) });
            let state = TunedState::new(setting.initial_values(11));
            let [host, mut device] = both(&backbone, &setting);
            device.load(&state).unwrap();
            // The third step knows which masks to expect; a slice is missing, as in a partial batch.
            let nodes = covering(7, &(0..7));
            for step in 0..3 {
                for rows in [1, 2] {
                    let slices = slices(&reference, rows);
                    let found = |stepper: &Stepper| {
                        values(&stepper.parts(&state, at(step), &nodes, slices.clone()).unwrap())
                    };
                    let error = largest_difference(&found(&host), &found(&device));
                    check(&format!("{name} {precision:?} {step} {rows}"), error, TOLERANCE);
                }
            }
            let direct = Network::on_device(backbone, Arc::clone(&setting));
            let found = direct.gradient(&state.values, at(1), &slices(&reference, 2)[1]).unwrap();
            let expected = host.parts(
                &state,
                at(1),
                &covering(3, &(1..2)),
                slices(&reference, 2)[1..2].to_vec(),
            );
            let expected = values(&expected.unwrap()).remove(0).1;
            let error = largest_error(&found.gradient, &expected[..found.gradient.len()]);
            check(name, error / largest(&expected), TOLERANCE);
        }
    }
}

#[test]
fn scores_and_gradients_on_a_device_agree_with_peft() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let backbone = backbone("bert-tiny/backbone", Precision::Fp32);
    let mut device = Stepper::new(&backbone, &setting, 1, true).unwrap();
    let state = TunedState::new(reference.tuned(&setting.layout));
    device.load(&state).unwrap();
    let whole = || vec![reference.slice("", 1, 0..6)];
    let logits = device.logits(&device.values(&state), whole()).unwrap();
    check("logits", largest_error(&logits[0], &reference.floats("logits")), 1e-4);
    let apart = device.logits(&device.values(&state), slices(&reference, 2)).unwrap().concat();
    check("apart", largest_error(&apart, &reference.floats("logits")), 1e-4);
    let parts = device.parts(&state, at(0), &[Node::root(1)], whole()).unwrap();
    let sums = &values(&parts)[0].1;
    let elements = setting.layout.tuned_len();
    assert_eq!(sums[elements + 1], 6.0);
    reference.holds_sums(&setting.layout, sums[elements], &sums[..elements]);
}

/// Ten steps, clipped, from the reference's start: along the reference, and along the host.
#[test]
fn ten_steps_on_a_device_follow_the_reference() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let backbone = backbone("bert-tiny/backbone", Precision::Fp32);
    let kind = ptv2_common::spec::Schedule::Linear;
    let schedule = Schedule { rate: 5e-3, total_steps: 10, warmup_steps: 0, kind };
    let (losses, norms) =
        (reference.floats("trajectory.loss"), reference.floats("trajectory.grad_norm"));
    let states = both(&backbone, &setting).map(|mut stepper| {
        let mut state = TunedState::new(reference.tuned(&setting.layout));
        stepper.load(&state).unwrap();
        let mut group = alone();
        for (step, (loss, norm)) in (0..).zip(losses.iter().zip(&norms)) {
            let rows = if step % 2 == 0 { 0..4 } else { 4..6 };
            let slices = vec![reference.slice("", 1, rows)];
            let parts = stepper.parts(&state, at(step), &[Node::root(1)], slices).unwrap();
            stepper.reduce(&mut group, (step, 1), parts, &[0; 24]).unwrap();
            let rates = (schedule.at(step), 1.0);
            let made = stepper.update(&mut state, &ADAMW, rates).unwrap().unwrap();
            let apart = |found: f64, expected: f32| (found / f64::from(expected) - 1.0).abs();
            assert!(apart(made.loss, *loss) < 1e-3 && apart(made.norm, *norm) < 1e-3, "{made:?}");
        }
        assert_eq!((state.step, stepper.waits()), (10, true));
        stepper.settle(&mut state).unwrap();
        state
    });
    reference.holds(&setting.layout, "trajectory", &states[1].values);
    // The norm may differ in its last bit, and with it each clipped gradient by one rounding.
    check("host", relative_error(&states[1].values, &states[0].values), 1e-6);
}

/// Unclipped, a device's steps are the host's, bit for bit, and its state comes back when it is asked for.
#[test]
fn unclipped_steps_on_a_device_are_the_hosts() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, SOME_DROPOUT);
    let backbone = backbone("bert-tiny/backbone", Precision::Bf16);
    let [host, device] = both(&backbone, &setting).map(|mut stepper| {
        let mut state = TunedState::new(setting.initial_values(11));
        let first = state.values.clone();
        stepper.load(&state).unwrap();
        let mut group = alone();
        let mut hashes = vec![stepper.hash(&state)];
        for step in 0..6 {
            let (nodes, slices) = (covering(4, &(0..4)), slices(&reference, 2));
            let parts = stepper.parts(&state, at(step), &nodes, slices).unwrap();
            stepper.reduce(&mut group, (step, 4), parts, &[0; 24]).unwrap();
            stepper.update(&mut state, &ADAMW, (1e-2, 0.0)).unwrap().unwrap();
            hashes.push(stepper.hash(&state));
        }
        if matches!(stepper, Stepper::Device(_)) {
            assert_eq!(state.values, first, "nothing is copied before it is asked for");
        }
        stepper.settle(&mut state).unwrap();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 7, "every state has a hash of its own");
        state
    });
    assert!(host == device);
}

/// Slices of no finite loss are found, and make no step.
#[test]
fn a_device_finds_the_slices_that_are_not_finite() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let backbone = backbone("bert-tiny/backbone", Precision::Fp32);
    for mut stepper in both(&backbone, &setting) {
        let mut state = TunedState::new(setting.initial_values(11));
        stepper.load(&state).unwrap();
        assert!(stepper.bad(&state, at(0), slices(&reference, 2)).unwrap().is_empty());
        state.values[0] = f32::INFINITY;
        stepper.load(&state).unwrap();
        let hash = stepper.hash(&state);
        assert_eq!(stepper.bad(&state, at(0), slices(&reference, 2)).unwrap(), [0, 1, 2]);
        let parts = stepper.parts(&state, at(0), &[Node::root(3)], slices(&reference, 2)).unwrap();
        stepper.reduce(&mut alone(), (0, 3), parts, &[0; 24]).unwrap();
        assert_eq!(stepper.update(&mut state, &ADAMW, (1e-2, 1.0)).unwrap(), None);
        assert_eq!((state.step, stepper.hash(&state)), (0, hash));
    }
}
