//! The group over TCP, between CPU workers: one connection a pair, ranges of elements per rank.
//!
//! A reduction cuts the buffer into one range a rank. Each rank sends every other its partial sums of
//! that rank's range, adds what it got for its own range in tree order, and sends the sum to all. So
//! a rank sends at most (its partial sums + 1) times the buffer, whatever the number of ranks.
//!
//! A thread a peer reads all the time: two ranks that write 25 MB to each other would else wait for
//! each other for ever. Another thread sends signs of life, so that a peer that computes for long is told
//! from one that is stopped or cut off.

mod frame;
mod greeting;
mod join;
mod pings;

pub use join::{GroupSpec, Listener, Peer};

use super::{Collective, CollectiveError, Result, Stamp};
use crate::clock;
use crate::numerics::tree::{self, Node};
use frame::{Broken, Frame, Kind};
use pings::{Pings, Writer};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bounds on waits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Waits {
    /// A group must be complete after this long.
    #[serde(with = "crate::config::duration")]
    pub join: Duration,
    /// A peer from which nothing comes for this long, not even a sign of life, is lost.
    #[serde(with = "crate::config::duration")]
    pub silence: Duration,
    /// A peer may compute for this long before its frame begins. Dead processes are noticed at once, and
    /// dead hosts by their silence, so this bounds only a peer that lives and never sends.
    #[serde(with = "crate::config::duration")]
    pub patience: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            join: Duration::from_secs(60),
            silence: Duration::from_secs(2),
            patience: Duration::from_secs(600),
        }
    }
}

/// What an [`super::AbortHandle`] holds on to.
#[derive(Debug, Default)]
pub struct Shared {
    aborted: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Shared {
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in sockets.iter() {
            // An error means that the connection is gone already, which is what is wanted.
            drop(socket.shutdown(Shutdown::Both));
        }
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Has a socket shut when the group is aborted; at once if it is already.
    fn register(&self, socket: TcpStream) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        if self.is_aborted() {
            self.abort();
        }
    }
}

/// A connection to one peer.
struct Link {
    rank: u32,
    /// To end it, whoever is writing.
    socket: TcpStream,
    writer: Writer,
    frames: Receiver<std::result::Result<Frame, Broken>>,
    /// Why no frame comes any more, for those who do not wait for one.
    #[cfg(feature = "torch")]
    broken: Arc<OnceLock<Broken>>,
}

/// A group over TCP.
pub struct Tcp {
    rank: u32,
    world: u32,
    generation: u64,
    patience: Duration,
    /// By rank, without this one.
    links: Vec<Link>,
    abort: super::AbortHandle,
    /// Ends with the group.
    _pings: Pings,
}

/// Frames of one peer that may wait to be taken. A peer is at most one operation ahead, and no
/// operation sends more than two frames.
const FRAMES_WAITING: usize = 4;

impl Tcp {
    /// Starts the readers of authenticated connections, to which `pings` sends signs of life already.
    fn new(
        spec: &GroupSpec,
        sockets: Vec<(u32, TcpStream, Writer)>,
        pings: Pings,
        abort: super::AbortHandle,
    ) -> std::io::Result<Self> {
        let mut links = Vec::new();
        for (rank, socket, writer) in sockets {
            let (sender, frames) = sync_channel(FRAMES_WAITING);
            let (reading, longest) = (socket.try_clone()?, spec.longest_frame);
            let name = format!("read-rank-{rank}");
            let broken = Arc::new(OnceLock::new());
            let seen = Arc::clone(&broken);
            std::thread::Builder::new().name(name).spawn(move || {
                loop {
                    let frame = frame::read(&reading, longest);
                    if frame.as_ref().is_ok_and(|frame| frame.kind == Kind::Ping) {
                        continue;
                    }
                    let over = match &frame {
                        Ok(_) => false,
                        Err(broken) => seen.set(broken.clone()).is_ok(),
                    };
                    if sender.send(frame).is_err() || over {
                        return;
                    }
                }
            })?;
            links.push(Link {
                rank,
                socket,
                writer,
                frames,
                #[cfg(feature = "torch")]
                broken,
            });
        }
        links.sort_by_key(|link| link.rank);
        Ok(Self {
            rank: spec.rank,
            world: spec.world(),
            generation: spec.generation,
            patience: spec.waits.patience,
            links,
            abort,
            _pings: pings,
        })
    }

    fn lost(&self, rank: u32, silent: bool, detail: impl Into<String>) -> CollectiveError {
        if self.abort.shared.is_aborted() {
            return CollectiveError::Aborted;
        }
        CollectiveError::PeerLost { rank, silent, detail: detail.into() }
    }

    fn link(&self, rank: u32) -> Result<&Link> {
        self.links.iter().find(|link| link.rank == rank).ok_or_else(|| CollectiveError::Protocol {
            rank,
            detail: "it is no member of the group".into(),
        })
    }

    fn send(&self, rank: u32, kind: Kind, step: u64, payload: &[u8]) -> Result<()> {
        let link = self.link(rank)?;
        let header = frame::header(kind, self.generation, step, payload.len());
        pings::write(&link.writer, &[&header, payload]).map_err(|error| {
            let silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            self.lost(rank, silent, format!("writing to it failed: {error}"))
        })
    }

    fn receive(&self, rank: u32, kind: Kind, step: u64) -> Result<Vec<u8>> {
        self.receive_within((self.patience, clock::now()), rank, kind, step)
    }

    /// Receives a frame that begins within so long of a moment.
    fn receive_within(
        &self,
        (patience, since): (Duration, Instant),
        rank: u32,
        kind: Kind,
        step: u64,
    ) -> Result<Vec<u8>> {
        let left = (since + patience).saturating_duration_since(clock::now());
        let frame = match self.link(rank)?.frames.recv_timeout(left) {
            Ok(Ok(frame)) => frame,
            Ok(Err(broken)) => return Err(self.lost(rank, broken.silent, broken.detail)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(self.lost(rank, false, "its connection had ended"));
            }
            Err(RecvTimeoutError::Timeout) => {
                let waited = humantime::format_duration(patience);
                return Err(self.lost(rank, true, format!("it sent nothing for {waited}")));
            }
        };
        if (frame.kind, frame.generation, frame.step) != (kind, self.generation, step) {
            let (generation, found) = (frame.generation, frame.step);
            return Err(CollectiveError::Protocol {
                rank,
                detail: format!(
                    "expected {kind:?} of generation {} and step {step}, got {:?} of generation \
                     {generation} and step {found}",
                    self.generation, frame.kind
                ),
            });
        }
        Ok(frame.payload)
    }

    fn peers(&self) -> Vec<u32> {
        self.links.iter().map(|link| link.rank).collect()
    }

    fn gather(
        &self,
        patience: Duration,
        kind: Kind,
        step: u64,
        own: &[u8],
    ) -> Result<Vec<Vec<u8>>> {
        for peer in self.peers() {
            self.send(peer, kind, step, own)?;
        }
        let mut all = vec![own.to_vec(); self.world as usize];
        let since = clock::now();
        for peer in self.peers() {
            all[peer as usize] = self.receive_within((patience, since), peer, kind, step)?;
        }
        Ok(all)
    }
}

/// For a transport beside this one.
#[cfg(feature = "torch")]
impl Tcp {
    /// Gives each rank what all ranks have for a reduction that goes another way.
    pub(super) fn plans(&self, step: u64, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.gather(self.patience, Kind::Plan, step, own)
    }

    /// Waits so long until all ranks are here.
    pub(super) fn all_here(&self, step: u64, patience: Duration) -> Result<()> {
        self.gather(patience, Kind::Plan, step, &[]).map(drop)
    }

    /// The first peer that is known to be lost, if any is.
    pub(super) fn lost_peer(&self) -> Option<CollectiveError> {
        let lost = self.links.iter().find_map(|link| Some((link.rank, link.broken.get()?)));
        lost.map(|(rank, broken)| self.lost(rank, broken.silent, broken.detail.clone()))
    }

    /// How long a peer may take before it has done its part.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn abort_handle(&self) -> &super::AbortHandle {
        &self.abort
    }
}

/// The elements that a rank sums for all.
fn range_of(rank: u32, world: u32, elements: usize) -> Range<usize> {
    let (rank, world) = (rank as usize, world as usize);
    rank * elements / world..(rank + 1) * elements / world
}

impl Collective for Tcp {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world(&self) -> u32 {
        self.world
    }

    fn reduce(
        &mut self,
        step: u64,
        slices: u32,
        parts: &[(Node, Vec<f32>)],
        stamp: &Stamp,
        out: &mut [f32],
    ) -> Result<Vec<Stamp>> {
        let elements = out.len();
        for peer in self.peers() {
            let range = range_of(peer, self.world, elements);
            self.send(peer, Kind::Parts, step, &frame::encode_parts(stamp, parts, range))?;
        }
        let own = range_of(self.rank, self.world, elements);
        let mut all: BTreeMap<Node, Vec<f32>> =
            parts.iter().map(|(node, values)| (*node, values[own.clone()].to_vec())).collect();
        let mut stamps = vec![*stamp; self.world as usize];
        for peer in self.peers() {
            let payload = self.receive(peer, Kind::Parts, step)?;
            let (stamp, found) = frame::decode_parts(&payload, own.len())
                .ok_or_else(|| protocol(peer, "its partial sums cannot be read"))?;
            stamps[peer as usize] = stamp;
            all.extend(found);
        }
        let sum = tree::combine(slices, &all)
            .ok_or_else(|| protocol(self.rank, "the ranks' partial sums do not tile the slices"))?;
        let payload = crate::numerics::state::le_bytes(&sum);
        for peer in self.peers() {
            self.send(peer, Kind::Range, step, &payload)?;
        }
        out[own].copy_from_slice(&sum);
        for peer in self.peers() {
            let range = range_of(peer, self.world, elements);
            let payload = self.receive(peer, Kind::Range, step)?;
            frame::read_floats(&payload, &mut out[range])
                .ok_or_else(|| protocol(peer, "its range of sums has another length"))?;
        }
        Ok(stamps)
    }

    fn all_gather_bytes(&mut self, step: u64, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.gather(self.patience, Kind::Gather, step, own)
    }

    fn transfer_state(
        &mut self,
        step: u64,
        source: u32,
        receivers: &[u32],
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        if self.rank == source {
            for receiver in receivers.iter().filter(|receiver| **receiver != source) {
                self.send(*receiver, Kind::State, step, bytes)?;
            }
            return Ok(None);
        }
        if receivers.contains(&self.rank) {
            return self.receive(source, Kind::State, step).map(Some);
        }
        Ok(None)
    }

    fn is_aborted(&self) -> bool {
        self.abort.shared.is_aborted()
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Its reader threads end when their sockets do.
        for link in &self.links {
            drop(link.socket.shutdown(Shutdown::Both));
        }
    }
}

fn protocol(rank: u32, detail: &str) -> CollectiveError {
    CollectiveError::Protocol { rank, detail: detail.into() }
}
