//! The conformance suite that every transport must pass, and what is TCP's own.

use super::tcp::{GroupSpec, Listener, Peer, Tcp, Waits};
use super::{AbortHandle, Collective, CollectiveError};
use crate::numerics::batches::deal;
use crate::numerics::tree::{Node, covering, sum};
use ptv2_common::ids::WorkerId;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

mod strangers;

/// What the suite runs on.
#[derive(Debug, Clone, Copy)]
enum Transport {
    Tcp,
    /// Through the stand-in for its library, with tensors on the host.
    #[cfg(feature = "torch")]
    Nccl,
}

const TRANSPORTS: &[Transport] = &[
    Transport::Tcp,
    #[cfg(feature = "torch")]
    Transport::Nccl,
];

impl Transport {
    /// What a rank uses that has met the others over TCP.
    fn over(self, tcp: Tcp) -> Box<dyn Collective> {
        match self {
            Self::Tcp => Box::new(tcp),
            #[cfg(feature = "torch")]
            Self::Nccl => super::nccl::tests::over(tcp),
        }
    }
}

pub(super) const SLICES: u32 = 7;
pub(super) const ELEMENTS: usize = 1003;

fn waits() -> Waits {
    Waits {
        join: Duration::from_secs(20),
        silence: Duration::from_secs(10),
        patience: Duration::from_secs(20),
    }
}

pub(crate) fn listeners(world: u32) -> Vec<Listener> {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    (0..world).map(|_| Listener::bind(local).unwrap()).collect()
}

pub(crate) fn spec(listeners: &[Listener], rank: u32, key: &[u8]) -> GroupSpec {
    let peer = |(rank, listener): (usize, &Listener)| Peer {
        worker: WorkerId(format!("w{rank}")),
        address: listener.address(),
    };
    GroupSpec {
        job: "j1".into(),
        generation: 3,
        rank,
        peers: listeners.iter().enumerate().map(peer).collect(),
        key: key.to_vec(),
        longest_frame: 1 << 24,
        waits: waits(),
    }
}

/// Where ranks wait for each other. Whoever panics is not waited for.
#[derive(Default)]
struct Meeting {
    awaited: Mutex<u32>,
    changed: Condvar,
}

/// One who is awaited at a meeting until it is dropped.
struct Guest<'a>(&'a Meeting);

impl Meeting {
    fn awaits(&self) -> Guest<'_> {
        *self.awaited.lock().unwrap() += 1;
        Guest(self)
    }
}

impl Guest<'_> {
    /// Has come, and waits for all others.
    fn meets(self) {
        let Meeting { awaited, changed } = self.0;
        drop(self);
        drop(changed.wait_while(awaited.lock().unwrap(), |awaited| *awaited > 0).unwrap());
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        *self.0.awaited.lock().unwrap() -= 1;
        self.0.changed.notify_all();
    }
}

/// Runs `each` on every rank of a group, each on a thread of its own. Nobody leaves before all have their result:
/// a rank that is gone is one that is lost.
fn on_all<T: Send>(
    transport: Transport,
    world: u32,
    each: impl Fn(u32, &mut dyn Collective, AbortHandle) -> T + Sync,
) -> Vec<T> {
    on_all_but(None, transport, world, each).into_iter().flatten().collect()
}

/// The same where one rank only joins, and leaves when all have joined.
fn on_all_but<T: Send>(
    leaves: Option<u32>,
    transport: Transport,
    world: u32,
    each: impl Fn(u32, &mut dyn Collective, AbortHandle) -> T + Sync,
) -> Vec<Option<T>> {
    let listeners = listeners(world);
    let (joined, done) = (Meeting::default(), Meeting::default());
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let (listeners, each) = (&listeners, &each);
                let (joined, done) = (joined.awaits(), done.awaits());
                scope.spawn(move || {
                    let abort = AbortHandle::default();
                    let spec = spec(listeners, rank, b"key");
                    let group = listeners[rank as usize].join(&spec, &abort).unwrap();
                    let mut group = transport.over(group);
                    joined.meets();
                    if leaves == Some(rank) {
                        return None; // Dropping the group closes its connections, as a dead process does.
                    }
                    let found = each(rank, &mut *group, abort);
                    done.meets();
                    Some(found)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

pub(super) fn values(slice: u32) -> Vec<f32> {
    (0..ELEMENTS).map(|at| 1.0 / (1.0 + at as f32) + 0.37_f32.powi(slice as i32)).collect()
}

pub(super) fn parts(rank: u32, weights: &[f64]) -> Vec<(Node, Vec<f32>)> {
    let run = deal(&[1.0; SLICES as usize], weights)[rank as usize].clone();
    covering(SLICES, &run).into_iter().map(|node| (node, sum(node, &mut values))).collect()
}

const WEIGHTS: [&[f64]; 5] =
    [&[1.0], &[1.0; 2], &[3.0, 1.0, 1.0], &[1.0; 4], &[9.0, 1.0, 1.0, 1.0, 1.0]];

#[test]
fn a_reduction_gives_the_trees_bits_on_every_world() {
    let expected = sum(Node::root(SLICES), &mut values);
    for (transport, weights) in TRANSPORTS.iter().flat_map(|t| WEIGHTS.map(|w| (*t, w))) {
        let world = u32::try_from(weights.len()).unwrap();
        let found = on_all(transport, world, |rank, group, _| {
            let mut out = vec![0.0; ELEMENTS];
            let mut stamps = Vec::new();
            for step in 0..3 {
                let stamp = [u8::try_from(step * 10 + u64::from(rank)).unwrap(); 24];
                stamps =
                    group.reduce(step, SLICES, &parts(rank, weights), &stamp, &mut out).unwrap();
            }
            (out, stamps)
        });
        for (out, stamps) in found {
            let is_equal = out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(is_equal, "{transport:?}, {world} ranks");
            let expected: Vec<_> =
                (0..u8::try_from(world).unwrap()).map(|rank| [20 + rank; 24]).collect();
            assert_eq!(stamps, expected);
        }
    }
}

/// What lies on a device is summed to the same bits, whether it crosses through host memory or not.
#[cfg(feature = "torch")]
#[test]
fn tensors_are_summed_to_the_same_bits() {
    use tch::{Device, Kind, Tensor};
    let expected = sum(Node::root(SLICES), &mut values);
    for (transport, weights) in TRANSPORTS.iter().flat_map(|t| WEIGHTS.map(|w| (*t, w))) {
        let world = u32::try_from(weights.len()).unwrap();
        let found = on_all(transport, world, |rank, group, _| {
            let own: Vec<_> = parts(rank, weights)
                .iter()
                .map(|(node, values)| (*node, Tensor::from_slice(values)))
                .collect();
            let mut out = Tensor::zeros([ELEMENTS as i64], (Kind::Float, Device::Cpu));
            for step in 0..2 {
                group.reduce_tensors(step, SLICES, &own, &[0; 24], &mut out).unwrap();
            }
            Vec::<f32>::try_from(out).unwrap()
        });
        let is_equal =
            |out: &Vec<f32>| out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(found.iter().all(is_equal), "{transport:?}, {world} ranks");
    }
}

/// A rank alone sums where the tensors lie, and changes none of its own.
#[cfg(feature = "torch")]
#[test]
fn a_rank_alone_keeps_its_parts_and_refuses_a_hole() {
    use tch::{Device, Kind, Tensor};
    let found = on_all(Transport::Tcp, 1, |_, group, _| {
        let whole = [(0..3, 1.0), (3..SLICES, 2.0)];
        let own: Vec<_> = whole
            .iter()
            .flat_map(|(run, value)| {
                covering(SLICES, run).into_iter().map(move |node| (node, *value))
            })
            .map(|(node, value)| (node, Tensor::full([9], value, (Kind::Float, Device::Cpu))))
            .collect();
        let mut out = Tensor::zeros([9], (Kind::Float, Device::Cpu));
        let before: Vec<_> = own.iter().map(|(_, tensor)| tensor.copy()).collect();
        let stamps = group.reduce_tensors(0, SLICES, &own, &[5; 24], &mut out);
        assert_eq!(stamps, Ok(vec![[5; 24]]));
        assert!(own.iter().zip(&before).all(|((_, after), before)| after == before));
        let expected: f64 = before.iter().map(|tensor| tensor.double_value(&[0])).sum();
        assert_eq!(out, Tensor::full([9], expected, (Kind::Float, Device::Cpu)));
        group.reduce_tensors(1, SLICES, &own[1..], &[5; 24], &mut out)
    });
    assert!(matches!(found[0], Err(CollectiveError::Protocol { rank: 0, .. })), "{found:?}");
}

#[test]
fn bytes_and_states_reach_whom_they_are_for() {
    for (transport, world) in TRANSPORTS.iter().flat_map(|t| (1..=5_u32).map(|world| (*t, world))) {
        let found = on_all(transport, world, |rank, group, _| {
            let own = vec![u8::try_from(rank).unwrap(); rank as usize];
            let all = group.all_gather_bytes(1, &own).unwrap();
            let receivers: Vec<u32> = (1..world).filter(|rank| rank % 2 == 0).collect();
            let state = group.transfer_state(2, world - 1, &receivers, b"state").unwrap();
            (all, state)
        });
        for (rank, (all, state)) in (0..).zip(found) {
            for (of, bytes) in (0..).zip(all) {
                assert_eq!(bytes, vec![of; usize::from(of)]);
            }
            let receives = rank > 0 && rank % 2 == 0 && rank != world - 1;
            assert_eq!(state.is_some(), receives, "rank {rank} of {world}");
        }
    }
}

/// Two ranks that write more than any socket buffer holds to each other.
#[test]
fn large_buffers_cross_without_a_deadlock() {
    const LARGE: usize = 6_000_000 / 4;
    for transport in TRANSPORTS {
        let found = on_all(*transport, 2, |rank, group, _| {
            let own = vec![(Node { start: rank, end: rank + 1 }, vec![1.0 + rank as f32; LARGE])];
            let mut out = vec![0.0; LARGE];
            group.reduce(0, 2, &own, &[0; 24], &mut out).unwrap();
            out
        });
        assert!(found.iter().flatten().all(|value| *value == 3.0), "{transport:?}");
    }
}

#[test]
fn a_lost_peer_is_named() {
    for transport in TRANSPORTS {
        let found = on_all_but(Some(1), *transport, 3, |rank, group, _| {
            let mut out = vec![0.0; ELEMENTS];
            group.reduce(0, SLICES, &parts(rank, &[1.0; 3]), &[0; 24], &mut out).unwrap_err()
        });
        let named = |error: &CollectiveError| matches!(error, CollectiveError::PeerLost { .. });
        assert!(found.iter().flatten().all(named), "{found:?}");
        let first = found[0].clone().unwrap();
        assert!(matches!(first, CollectiveError::PeerLost { rank: 1 | 2, .. }), "{first:?}");
    }
}

/// Runs a group of two whose connection goes through `wire`, which may hold back what passes.
fn over(
    silence: Duration,
    wire: impl Fn(TcpStream, TcpStream) + Send + Copy + 'static,
    each: impl Fn(u32, &mut Tcp) -> Result<(), CollectiveError> + Sync,
) -> Vec<Result<(), CollectiveError>> {
    let listeners = listeners(2);
    let through = TcpListener::bind("127.0.0.1:0").unwrap();
    let (target, address) = (listeners[0].address(), through.local_addr().unwrap());
    std::thread::spawn(move || {
        for near in through.incoming().flatten() {
            let far = TcpStream::connect(target).unwrap();
            let (back_from, back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::spawn(move || wire(near, far));
            std::thread::spawn(move || pass(back_from, back_to, usize::MAX));
        }
    });
    // Nobody leaves before both have their result.
    let both = Meeting::default();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = [0, 1]
            .map(|rank| {
                let mut spec = spec(&listeners, rank, b"key");
                spec.peers[0].address = address;
                spec.waits.silence = silence;
                let (listener, each, both) = (&listeners[rank as usize], &each, both.awaits());
                scope.spawn(move || {
                    let mut group = listener.join(&spec, &AbortHandle::default()).unwrap();
                    let found = each(rank, &mut group);
                    both.meets();
                    found
                })
            })
            .into();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Passes so many bytes on, then keeps the connection and passes nothing.
fn pass(mut from: TcpStream, mut to: TcpStream, most: usize) {
    let (mut passed, mut buffer) = (0, [0; 4096]);
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if passed < most && to.write_all(&buffer[..length]).is_err() {
            break;
        }
        passed += length;
    }
    drop(to.shutdown(Shutdown::Both));
}

/// A connection that stays and carries nothing any more, as through a firewall that drops.
#[test]
fn a_peer_that_is_cut_off_is_silent() {
    // Both sides' proofs pass, and nothing after them.
    let greeting = 112;
    let found = over(
        Duration::from_secs(3),
        move |near, far| pass(near, far, greeting),
        |_, group| group.all_gather_bytes(0, &[0; 4096]).map(drop),
    );
    let lost = &found[0];
    assert!(
        matches!(lost, Err(CollectiveError::PeerLost { rank: 1, silent: true, .. })),
        "{found:?}"
    );
}

#[test]
fn a_peer_that_computes_is_not_silent() {
    let silence = Duration::from_secs(3);
    let patient = over(
        silence,
        |near, far| pass(near, far, usize::MAX),
        |rank, group| {
            if rank == 1 {
                let (_computing, computed) = std::sync::mpsc::channel::<()>();
                assert!(computed.recv_timeout(silence * 2).is_err());
            }
            group.all_gather_bytes(0, b"here").map(drop)
        },
    );
    assert_eq!(patient, [Ok(()), Ok(())]);
}

#[test]
fn an_abort_ends_a_wait() {
    for transport in TRANSPORTS {
        let found = on_all(*transport, 2, |rank, group, abort| {
            if rank == 1 {
                // Keeps its side open until rank 0 has given up.
                return group.transfer_state(0, 0, &[1], b"").map(drop);
            }
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| group.transfer_state(0, 1, &[0], b"").map(drop));
                abort.abort();
                waiting.join().unwrap()
            })
        });
        assert_eq!(found[0], Err(CollectiveError::Aborted), "{transport:?}");
    }
}

#[test]
fn operations_out_of_step_are_refused() {
    for transport in TRANSPORTS {
        let found = on_all(*transport, 2, |rank, group, _| {
            let mut out = vec![0.0; ELEMENTS];
            let own = parts(rank, &[1.0; 2]);
            group.reduce(u64::from(rank), SLICES, &own, &[0; 24], &mut out).map(drop).unwrap_err()
        });
        let refused = |error: &CollectiveError| matches!(error, CollectiveError::Protocol { .. });
        assert!(found.iter().any(refused), "{found:?}");
    }
}

/// Partial sums that leave a slice out, or buffers of unlike length.
#[test]
fn sums_that_do_not_fit_are_refused() {
    for transport in TRANSPORTS {
        let found = on_all(*transport, 2, |_, group, _| {
            let mut out = vec![0.0; ELEMENTS];
            // Both bring the first half.
            let own = parts(0, &[1.0; 2]);
            group.reduce(0, SLICES, &own, &[0; 24], &mut out).map(drop).unwrap_err()
        });
        let refused = |error: &CollectiveError| {
            matches!(error, CollectiveError::Protocol { .. } | CollectiveError::PeerLost { .. })
        };
        assert!(found.iter().all(refused), "{found:?}");
    }
}

#[test]
fn a_member_without_the_key_is_not_met() {
    let listeners = listeners(2);
    let short = Waits { join: Duration::from_secs(2), ..waits() };
    let join = |rank: u32, key: &[u8]| {
        let spec = GroupSpec { waits: short.clone(), ..spec(&listeners, rank, key) };
        listeners[rank as usize].join(&spec, &AbortHandle::default()).map(drop)
    };
    std::thread::scope(|scope| {
        let honest = scope.spawn(|| join(0, b"key"));
        let stranger = scope.spawn(|| join(1, b"other"));
        let lost = |rank: u32, found: Result<(), CollectiveError>| {
            assert!(
                matches!(&found, Err(CollectiveError::PeerLost { rank: named, .. }) if *named == rank),
                "{found:?}"
            );
        };
        lost(1, honest.join().unwrap());
        lost(0, stranger.join().unwrap());
    });
}
