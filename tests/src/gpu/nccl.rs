//! The real NCCL, in a group of one: through connecting, reducing, an abort from another thread, and all of it again.

use super::device;
use ptv2_common::ids::WorkerId;
use ptv2_daemon::collective::nccl::{Library, Nccl, Setting};
use ptv2_daemon::collective::tcp::{GroupSpec, Listener, Peer, Tcp, Waits};
use ptv2_daemon::collective::{AbortHandle, Collective, CollectiveError};
use ptv2_daemon::numerics::tree::{Node, covering};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Values of a gradient: those of BERT-large with a prefix of 128.
const LENGTH: i64 = 24 * 2 * 128 * 1024;
const WAIT: Duration = Duration::from_secs(60);
/// Groups, one after the other.
const GENERATIONS: u64 = 3;

pub(super) fn a_group_of_one() -> String {
    let device = device();
    let library = Library::find(None).unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    for generation in 1..=GENERATIONS {
        let abort = AbortHandle::default();
        let tcp = alone(&listener, generation, &abort);
        let setting = Setting {
            library: &library,
            id: library.unique_id().unwrap(),
            device,
            reduction: ptv2_common::spec::Reduction::Ordered,
            within: WAIT,
        };
        let mut group = Nccl::join(tcp, &setting).unwrap();
        reduce(&mut group, device);
        std::thread::spawn(move || abort.abort()).join().unwrap();
        let mut out = Tensor::zeros([LENGTH], (Kind::Float, device));
        let parts = [(Node::root(2), out.ones_like())];
        let refused = group.reduce_tensors(9, 2, &parts, &[0; 24], &mut out);
        assert_eq!(refused, Err(CollectiveError::Aborted), "generation {generation}");
    }
    format!("NCCL {}, {GENERATIONS} generations of {LENGTH} values", library.version())
}

/// Two slices' sums become one, to the bit; some steps, as buffers are used again.
fn reduce(group: &mut Nccl, device: Device) {
    for step in 0..4 {
        let values = |seed: i64| {
            let whole = Tensor::arange(LENGTH, (Kind::Float, device)) + seed;
            whole.sin()
        };
        let parts: Vec<_> = (0..2_u32)
            .map(|slice| {
                let node = covering(2, &(slice..slice + 1))[0];
                (node, values(i64::from(slice) + i64::try_from(step).unwrap()))
            })
            .collect();
        let mut out = Tensor::zeros([LENGTH], (Kind::Float, device));
        let stamps = group.reduce_tensors(step, 2, &parts, &[7; 24], &mut out).unwrap();
        assert_eq!(stamps, [[7; 24]]);
        assert!(out.equal(&(&parts[0].1 + &parts[1].1)), "step {step}");
    }
}

/// A group of one over TCP, and its listener.
pub(super) fn over_tcp() -> (Listener, Tcp) {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let group = alone(&listener, 1, &AbortHandle::default());
    (listener, group)
}

fn alone(listener: &Listener, generation: u64, abort: &AbortHandle) -> Tcp {
    let spec = GroupSpec {
        job: "j1".into(),
        generation,
        rank: 0,
        peers: vec![Peer { worker: WorkerId("w0".into()), address: listener.address() }],
        key: b"key".to_vec(),
        longest_frame: 1 << 26,
        waits: Waits { join: WAIT, silence: WAIT, patience: WAIT },
    };
    listener.join(&spec, abort).unwrap()
}
