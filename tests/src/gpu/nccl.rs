//! The real NCCL, in a group of one: all that one GPU can show of connecting, of each operation, and of an abort. A rank's
//! sends to itself are kernels. Its all-reduce and all-gather in place are none: only their calls are tried here. What needs
//! no GPU runs through the stand-in for NCCL's library, too.

use super::device;
use crate::e2e::{harness, nccl::stand_in};
use ptv2_common::ids::WorkerId;
use ptv2_common::spec::Reduction;
use ptv2_daemon::collective::nccl::{
    Communicator, Library, Nccl, NcclError, Piece, Setting, State, Transfer,
};
use ptv2_daemon::collective::tcp::{GroupSpec, Listener, Peer, Tcp, Waits};
use ptv2_daemon::collective::{AbortHandle, Collective, CollectiveError};
use ptv2_daemon::numerics::tree::{Node, covering};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Values of a gradient: those of BERT-large with a prefix of 128.
const LENGTH: i64 = 24 * 2 * 128 * 1024;
const WAIT: Duration = Duration::from_secs(60);
/// Groups, one after the other.
const GENERATIONS: u64 = 3;

/// The real library, and the GPU.
pub(super) fn real() -> (Library, Device) {
    let device = device();
    (Library::find(None).unwrap(), device)
}

/// A group over NCCL, of this rank alone, and what aborts it.
fn group(
    (library, device): (&Library, Device),
    listener: &Listener,
    generation: u64,
    reduction: Reduction,
) -> (Nccl, AbortHandle) {
    let abort = AbortHandle::default();
    let tcp = alone(listener, generation, &abort);
    let id = library.unique_id().unwrap();
    let group = Nccl::join(tcp, &Setting { library, id, device, reduction, within: WAIT });
    (group.unwrap(), abort)
}

pub(super) fn a_group_of_one(library: &Library, device: Device) -> String {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    for generation in 1..=GENERATIONS {
        let (mut group, abort) =
            group((library, device), &listener, generation, Reduction::Ordered);
        reduce(&mut group, device);
        std::thread::spawn(move || abort.abort()).join().unwrap();
        let mut out = Tensor::zeros([LENGTH], (Kind::Float, device));
        let parts = [(Node::root(2), out.ones_like())];
        let refused = group.reduce_tensors(9, 2, &parts, &[0; 24], &mut out);
        assert_eq!(refused, Err(CollectiveError::Aborted), "generation {generation}");
    }
    format!("NCCL {}, {GENERATIONS} generations of {LENGTH} values", library.version())
}

/// Sums by NCCL's own all-reduce, which starts no kernel for one rank.
pub(super) fn a_ring_of_one(library: &Library, device: Device) -> String {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let (mut group, _) = group((library, device), &listener, 1, Reduction::Ring);
    reduce(&mut group, device);
    format!("{LENGTH} values, to the bit; calls only, no kernel")
}

/// A communicator of one rank, which is connected.
fn communicator(library: &Library, device: Device) -> Communicator {
    if let Device::Cuda(index) = device {
        ptv2_daemon::cuda::enter(u32::try_from(index).unwrap()).unwrap();
    }
    let id = library.unique_id().unwrap();
    let one = Communicator::begin(library, &id, (0, 1), device).unwrap();
    begun(&one);
    one
}

/// Waits until what was told has begun; on the host it is also done then, on a GPU it is in its stream, before all that
/// torch is told later.
fn begun(one: &Communicator) {
    harness::poll("NCCL's operation", || (one.state().unwrap() == State::Ready).then_some(()));
}

/// A whole tensor, to or from the rank itself.
fn whole(tensor: &Tensor) -> Transfer<'_> {
    Transfer { peer: 0, piece: Piece::all(tensor) }
}

/// Two tensors go out and come back, as one group.
pub(super) fn to_itself(library: &Library, device: Device) -> String {
    let one = communicator(library, device);
    let sent = [1, 2].map(|seed| values(seed, device));
    let got = [0, 1].map(|_| Tensor::zeros([LENGTH], (Kind::Float, device)));
    one.exchange(&[0, 1].map(|at| whole(&sent[at])), &[0, 1].map(|at| whole(&got[at]))).unwrap();
    begun(&one);
    assert!(got[0].equal(&sent[0]) && got[1].equal(&sent[1]), "other values came back");
    // What would wait for ever is not begun.
    let alone = one.exchange(&[whole(&sent[0])], &[]);
    assert!(matches!(alone, Err(NcclError::Argument { .. })), "{alone:?}");
    end(&one);
    format!("two times {LENGTH} values in one group")
}

/// An all-reduce and an all-gather, of one rank: each leaves the values as they are, and on a GPU starts no kernel.
pub(super) fn sums_and_gathers(library: &Library, device: Device) -> String {
    let one = communicator(library, device);
    let expected = values(3, device);
    let tensor = expected.copy();
    one.all_reduce(&tensor).unwrap();
    begun(&one);
    assert!(tensor.equal(&expected), "a sum of one is another");
    one.all_gather(&tensor, tensor.numel()).unwrap();
    begun(&one);
    assert!(tensor.equal(&expected), "what was gathered is another");
    end(&one);
    format!("{LENGTH} values, to the bit; calls only, no kernel")
}

/// The orderly end.
fn end(one: &Communicator) {
    one.finalize().unwrap();
    begun(one);
    one.destroy().unwrap();
}

/// How long the GPU is to be busy, more or less, before it comes to the transfer.
const BUSY: Duration = Duration::from_secs(3);
/// An abort may take so long beside that.
const ABORT: Duration = Duration::from_secs(10);

/// An abort of a transfer that the GPU has not come to yet, since it multiplies matrices; and a communicator after it.
#[expect(clippy::disallowed_methods, reason = "a test measures how long it takes")]
pub(super) fn an_abort_behind_work(library: &Library, device: Device) -> String {
    let one = communicator(library, device);
    let (sent, got) = (values(4, device), Tensor::zeros([LENGTH], (Kind::Float, device)));
    let said = if let Device::Cuda(index) = device {
        let matrix = Tensor::zeros([8192, 8192], (Kind::Float, device));
        let index = i64::try_from(index).unwrap();
        // The first takes longer: it loads what multiplies.
        drop(matrix.matmul(&matrix));
        tch::Cuda::synchronize(index);
        let began = Instant::now();
        drop(matrix.matmul(&matrix));
        tch::Cuda::synchronize(index);
        let each = began.elapsed();
        let count = (BUSY.as_nanos() / each.as_nanos().max(1)).clamp(1, 1000);
        let (began, mut product) = (Instant::now(), matrix.shallow_clone());
        for _ in 0..count {
            product = matrix.matmul(&product);
        }
        let queued = began.elapsed();
        let is_idle = ptv2_daemon::cuda::is_idle();
        assert!(matches!(is_idle, Ok(false)), "nothing is queued any more: {is_idle:?}");
        format!("{count} products of {each:.1?}, queued in {queued:.1?}; ")
    } else {
        String::new()
    };
    // Between two buffers, a kernel of NCCL's behind the products.
    one.exchange(&[whole(&sent)], &[whole(&got)]).unwrap();
    let one = Arc::new(one);
    let (aborting, (say, ended)) = (Arc::clone(&one), channel());
    let began = Instant::now();
    std::thread::spawn(move || say.send(aborting.abort()).unwrap());
    // Whoever looks is told soon, whether the abort has returned or not.
    harness::poll("the end", || one.state().is_err().then_some(()));
    let (told, found) = (began.elapsed(), one.state());
    assert!(matches!(found, Err(NcclError::Ended { .. })), "{found:?}");
    let aborted = ended.recv_timeout(BUSY + ABORT);
    let took = began.elapsed();
    assert_eq!(aborted, Ok(Ok(())), "an abort behind queued work, after {took:.1?}");
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(i64::try_from(index).unwrap());
    }
    let idle = began.elapsed();
    to_itself(library, device);
    format!(
        "{said}told after {told:.1?}, aborted after {took:.1?}, the device idle after {idle:.1?}"
    )
}

/// Some values of a gradient.
fn values(seed: i64, device: Device) -> Tensor {
    (Tensor::arange(LENGTH, (Kind::Float, device)) + seed).sin()
}

/// Two slices' sums become one, to the bit; some steps, as buffers are used again.
fn reduce(group: &mut Nccl, device: Device) {
    for step in 0..4 {
        let parts: Vec<_> = (0..2_u32)
            .map(|slice| {
                let node = covering(2, &(slice..slice + 1))[0];
                (node, values(i64::from(slice) + i64::try_from(step).unwrap(), device))
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

/// What a GPU is to show, as far as the stand-in can.
#[test]
fn what_is_checked_on_a_gpu_holds_through_the_stand_in() {
    let library = Library::find(Some(&stand_in())).unwrap();
    let checks = [a_group_of_one, a_ring_of_one, to_itself, sums_and_gathers, an_abort_behind_work];
    for check in checks {
        println!("{}", check(&library, Device::Cpu));
    }
}
