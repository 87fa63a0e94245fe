//! How a group comes together: the lower rank is dialled, and both sides prove that they know the
//! generation's key before anything else is read.
//!
//! The dialler sends its greeting (job, generation, both ranks, a nonce) and an HMAC-SHA256 of it under the
//! generation's key; the other answers with a nonce and an HMAC over greeting and nonce; the dialler answers
//! with an HMAC of its own. The first shows at once that a stranger is one, so that a rank that waits for a
//! peer spends no time on him; it may be an old greeting that someone repeats, which the others show, since
//! each side proves its knowledge of a nonce that the other has drawn. Each of the three is of another kind,
//! so none can be sent back as another.
//!
//! A connection that arrives before its generation is known here waits, and gets a byte [`WAIT`] now and
//! then, so that whoever dialled can tell a busy worker from a dead one. What strangers can hold is bounded:
//! the time of a greeting as a whole, how many are at it, how many wait and for how long.

use super::greeting::{Greeting, NONCE, PROOF, Until, nonce, prove, verify};
use super::pings::{Pings, Writer};
use super::{Tcp, Waits};
use crate::clock;
use crate::collective::{AbortHandle, CollectiveError, Result};
use hmac::Mac;
use ptv2_common::ids::WorkerId;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections whose generation is not known here yet, at most; the oldest gives way.
const PENDING: usize = 256;
/// A connection waits for its generation to be known here no longer than this: its dialler has given up.
const WAITED: Duration = Duration::from_secs(180);
/// How long a stranger may take to say its greeting, and to prove itself.
const GREETING: Duration = Duration::from_secs(5);
/// Strangers that are at their greeting, at most; the oldest gives way.
const STRANGERS: usize = 64;
/// Sent to a connection whose generation is not known here yet.
const WAIT: u8 = 0;
/// How often.
const WAITING: Duration = Duration::from_millis(400);
/// Begins the answer to a greeting.
const ANSWER: u8 = 1;
/// Pause between attempts to reach a peer.
const RETRY: Duration = Duration::from_millis(50);

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The worker.
    pub worker: WorkerId,
    /// Where its listener is reached.
    pub address: SocketAddr,
}

/// A generation's group, as one rank needs it.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// The job's id.
    pub job: String,
    /// The generation.
    pub generation: u64,
    /// This rank.
    pub rank: u32,
    /// All members, by rank.
    pub peers: Vec<Peer>,
    /// The generation's key.
    pub key: Vec<u8>,
    /// Longest payload of a frame, in bytes.
    pub longest_frame: usize,
    /// Bounds on waits.
    pub waits: Waits,
}

impl GroupSpec {
    /// Number of ranks.
    pub fn world(&self) -> u32 {
        u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
    }
}

/// Connections that wait for their generation to be known here.
#[derive(Default)]
struct Mailbox {
    pending: Mutex<VecDeque<Pending>>,
    arrived: Condvar,
    /// Those who have not said their greeting yet, by number; to be cut off.
    strangers: Mutex<VecDeque<(u64, TcpStream)>>,
}

/// A connection that waits.
struct Pending {
    greeting: Greeting,
    socket: TcpStream,
    since: Instant,
}

impl Mailbox {
    /// Tells those who wait that this worker lives, as long as the process does.
    fn hold(&self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            pending.retain_mut(|Pending { socket, since, .. }| {
                clock::now().saturating_duration_since(*since) < WAITED
                    && socket.write_all(&[WAIT]).is_ok()
            });
            let waited = self.arrived.wait_timeout(pending, WAITING);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a stranger in; where there are too many, the oldest is cut off.
    fn enter(&self, number: u64, socket: &TcpStream) -> std::io::Result<()> {
        let copy = socket.try_clone()?;
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.len() >= STRANGERS
            && let Some((_, oldest)) = strangers.pop_front()
        {
            // Its thread ends with it.
            drop(oldest.shutdown(Shutdown::Both));
        }
        strangers.push_back((number, copy));
        Ok(())
    }

    fn leave(&self, number: u64) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.retain(|(other, _)| *other != number);
    }
}

/// A worker's listener for its peers. It lives as long as the process.
#[derive(Clone)]
pub struct Listener {
    mailbox: Arc<Mailbox>,
    address: SocketAddr,
}

impl Listener {
    /// Listens and starts the thread that accepts.
    ///
    /// # Errors
    /// When the address is taken or is not this machine's.
    pub fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let mailbox = Arc::new(Mailbox::default());
        let arrivals = Arc::clone(&mailbox);
        std::thread::Builder::new().name("accept-peers".into()).spawn(move || {
            for (number, socket) in (0..).zip(listener.incoming().flatten()) {
                if arrivals.enter(number, &socket).is_err() {
                    continue;
                }
                let arrivals = Arc::clone(&arrivals);
                // A stranger that says nothing must not hold up the others.
                let greet = move || {
                    greet(socket, &arrivals);
                    arrivals.leave(number);
                };
                if let Err(error) =
                    std::thread::Builder::new().name("greet-peer".into()).spawn(greet)
                {
                    tracing::warn!(%error, "a peer's connection was dropped");
                }
            }
        })?;
        let waiting = Arc::clone(&mailbox);
        std::thread::Builder::new().name("hold-peers".into()).spawn(move || waiting.hold())?;
        Ok(Self { mailbox, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Meets the other ranks of a generation.
    ///
    /// # Errors
    /// [`CollectiveError::PeerLost`] names a rank that was not met in time.
    pub fn join(&self, spec: &GroupSpec, abort: &AbortHandle) -> Result<Tcp> {
        let deadline = clock::now() + spec.waits.join;
        let lost = |rank: u32, silent: bool, detail: String| {
            if abort.shared.is_aborted() {
                return CollectiveError::Aborted;
            }
            CollectiveError::PeerLost { rank, silent, detail }
        };
        let broken = |rank: u32| move |error: std::io::Error| lost(rank, false, error.to_string());
        let pings = Pings::start(spec.generation, spec.waits.silence).map_err(broken(spec.rank))?;
        let mut sockets = Vec::new();
        for (rank, peer) in (0..).zip(&spec.peers) {
            let met = match rank.cmp(&spec.rank) {
                std::cmp::Ordering::Less => dial(spec, (rank, peer), abort, deadline),
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Greater => self.await_peer(spec, rank, abort, deadline),
            };
            let socket =
                met.map_err(|error| lost(rank, true, format!("it was not met: {error}")))?;
            let writer = settle(&socket, &spec.waits, abort).map_err(broken(rank))?;
            // From now on: the peer may have to wait for others whom this rank has not met yet.
            pings.add(Arc::clone(&writer));
            sockets.push((rank, socket, writer));
        }
        Tcp::new(spec, sockets, pings, abort.clone()).map_err(broken(spec.rank))
    }

    /// Waits for a higher rank's connection and lets it prove itself. One that cannot is dropped, and
    /// the wait goes on.
    fn await_peer(
        &self,
        spec: &GroupSpec,
        rank: u32,
        abort: &AbortHandle,
        deadline: Instant,
    ) -> std::io::Result<TcpStream> {
        let mut heard = Vec::new();
        loop {
            let (greeting, socket) = self.take(spec, rank, abort, deadline)?;
            // A greeting that someone has recorded costs one wait, however often it is repeated.
            if heard.contains(&greeting.proof) {
                continue;
            }
            heard.push(greeting.proof);
            match answer(spec, &greeting, &socket) {
                Ok(()) => return Ok(socket),
                Err(error) => tracing::warn!(rank, %error, "a connection was refused"),
            }
        }
    }

    fn take(
        &self,
        spec: &GroupSpec,
        rank: u32,
        abort: &AbortHandle,
        deadline: Instant,
    ) -> std::io::Result<(Greeting, TcpStream)> {
        let mut pending = self.mailbox.pending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // What waits for an older generation of this job will never be taken.
            pending.retain(|Pending { greeting, .. }| {
                greeting.job != spec.job || greeting.generation >= spec.generation
            });
            let of_group = |greeting: &Greeting| {
                greeting.job == spec.job && greeting.generation == spec.generation
            };
            // Nor will a stranger's, who does not know the key.
            pending.retain(|Pending { greeting, .. }| {
                !of_group(greeting)
                    || verify(&spec.key, b"greet", greeting, &[], &greeting.proof).is_ok()
            });
            let ours = |Pending { greeting, .. }: &Pending| {
                of_group(greeting) && (greeting.from, greeting.to) == (rank, spec.rank)
            };
            if let Some(at) = pending.iter().position(ours)
                && let Some(Pending { greeting, socket, .. }) = pending.remove(at)
            {
                socket.set_nonblocking(false)?;
                return Ok((greeting, socket));
            }
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() || abort.shared.is_aborted() {
                return Err(std::io::Error::other("it did not connect in time"));
            }
            // Woken by arrivals; the short wait lets an abort be seen.
            let waited = self.mailbox.arrived.wait_timeout(pending, left.min(RETRY));
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Reads a stranger's greeting and puts its connection where its generation will look for it.
fn greet(socket: TcpStream, mailbox: &Mailbox) {
    let greeting = socket
        .set_write_timeout(Some(GREETING))
        .and_then(|()| Greeting::read(Until::after(GREETING, &socket)))
        // While it waits: one that takes no byte holds up none of the others.
        .and_then(|greeting| socket.set_nonblocking(true).map(|()| greeting));
    match greeting {
        Ok(greeting) => {
            let mut pending = mailbox.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.len() >= PENDING {
                pending.pop_front();
            }
            pending.push_back(Pending { greeting, socket, since: clock::now() });
            mailbox.arrived.notify_all();
        }
        Err(error) => tracing::debug!(%error, "a connection said no greeting"),
    }
}

/// Reaches a peer and proves itself. One that is not reached within the bound of silence is lost; one
/// that says to wait may take as long as the join.
fn dial(
    spec: &GroupSpec,
    (to, peer): (u32, &Peer),
    abort: &AbortHandle,
    deadline: Instant,
) -> std::io::Result<TcpStream> {
    let mut heard = clock::now();
    loop {
        let reached = deadline.min(heard + spec.waits.silence);
        let left = reached.saturating_duration_since(clock::now());
        if left.is_zero() || abort.shared.is_aborted() {
            return Err(std::io::Error::other(format!("{} did not answer in time", peer.address)));
        }
        let met = TcpStream::connect_timeout(&peer.address, left).and_then(|socket| {
            socket.set_read_timeout(Some(left))?;
            socket.set_write_timeout(Some(left))?;
            abort.shared.register(socket.try_clone()?);
            introduce(spec, to, &socket, deadline, &mut heard)?;
            Ok(socket)
        });
        match met {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                tracing::debug!(peer = %peer.address, %error, "a peer was not met; trying again");
                pause();
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a refused connection has no event to wait for")]
fn pause() {
    std::thread::sleep(RETRY);
}

fn introduce(
    spec: &GroupSpec,
    to: u32,
    mut socket: &TcpStream,
    deadline: Instant,
    heard: &mut Instant,
) -> std::io::Result<()> {
    let greeting = Greeting::new(spec, to)?;
    socket.write_all(&[greeting.bytes().as_slice(), &greeting.proof].concat())?;
    loop {
        let mut first = [WAIT];
        socket.read_exact(&mut first)?;
        *heard = clock::now();
        socket.set_read_timeout(Some(spec.waits.silence))?;
        match first {
            [WAIT] if *heard < deadline => {}
            [ANSWER] => break,
            _ => return Err(std::io::Error::other("it did not answer in time")),
        }
    }
    let mut answer = [0; NONCE + PROOF];
    Until::after(spec.waits.silence, socket).read_exact(&mut answer)?;
    let (theirs, proof) = answer.split_at(NONCE);
    verify(&spec.key, b"accept", &greeting, theirs, proof)?;
    socket.write_all(&prove(&spec.key, b"dial", &greeting, theirs)?.finalize().into_bytes())
}

fn answer(spec: &GroupSpec, greeting: &Greeting, mut socket: &TcpStream) -> std::io::Result<()> {
    let ours = nonce()?;
    let mut message = vec![ANSWER];
    message.extend(ours);
    message.extend(prove(&spec.key, b"accept", greeting, &ours)?.finalize().into_bytes());
    socket.write_all(&message)?;
    let mut proof = [0; PROOF];
    Until::after(GREETING, socket).read_exact(&mut proof)?;
    verify(&spec.key, b"dial", greeting, &ours, &proof)
}

/// A met connection's options: small frames at once, and every wait bounded. Gives its writing side.
fn settle(socket: &TcpStream, waits: &Waits, abort: &AbortHandle) -> std::io::Result<Writer> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(waits.silence))?;
    socket.set_write_timeout(Some(waits.silence))?;
    SockRef::from(socket).set_tcp_user_timeout(Some(waits.silence))?;
    abort.shared.register(socket.try_clone()?);
    Ok(Arc::new(Mutex::new(socket.try_clone()?)))
}
