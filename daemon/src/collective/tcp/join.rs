//! How a group comes together: the lower rank is dialled, and both sides prove that they know the
//! generation's key before anything else is read.
//!
//! The dialler sends its greeting (job, generation, both ranks, a nonce); the other answers with a
//! nonce and an HMAC-SHA256 under the generation's key over greeting and nonce; the dialler answers
//! with an HMAC of its own. A connection that arrives before its generation is known here waits, and
//! gets a byte [`WAIT`] now and then, so that whoever dialled can tell a busy worker from a dead one.

use super::pings::{Pings, Writer};
use super::{Tcp, Waits};
use crate::clock;
use crate::collective::{AbortHandle, CollectiveError, Result};
use hmac::{Hmac, KeyInit, Mac};
use ptv2_common::ids::WorkerId;
use sha2::Sha256;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"ptv2tcp1";
const NONCE: usize = 32;
/// Longest name of a job in a greeting.
const LONGEST_NAME: usize = 64;
/// Connections whose generation is not known here yet, at most; the oldest gives way.
const PENDING: usize = 256;
/// How long a stranger may take to say its greeting.
const GREETING: Duration = Duration::from_secs(5);
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

/// Who dials, as its greeting says, before anything is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Greeting {
    job: String,
    generation: u64,
    from: u32,
    to: u32,
    nonce: [u8; NONCE],
}

impl Greeting {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(u8::try_from(self.job.len()).unwrap_or(u8::MAX));
        bytes.extend(self.job.as_bytes());
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.from.to_le_bytes());
        bytes.extend(self.to.to_le_bytes());
        bytes.extend(self.nonce);
        bytes
    }

    fn read(mut socket: &TcpStream) -> std::io::Result<Self> {
        let refused = |what: &str| std::io::Error::other(what.to_owned());
        let mut start = [0; 9];
        socket.read_exact(&mut start)?;
        if start[..8] != *MAGIC {
            return Err(refused("no greeting of ptv2"));
        }
        let length = usize::from(start[8]);
        if length > LONGEST_NAME {
            return Err(refused("the job's name is too long"));
        }
        let mut name = vec![0; length];
        socket.read_exact(&mut name)?;
        let mut rest = [0; 16 + NONCE];
        socket.read_exact(&mut rest)?;
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&rest[16..]);
        let word = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&rest[at..at + 4]);
            u32::from_le_bytes(four)
        };
        Ok(Self {
            job: String::from_utf8(name).map_err(|_| refused("the job's name is no text"))?,
            generation: u64::from(word(0)) | u64::from(word(4)) << 32,
            from: word(8),
            to: word(12),
            nonce,
        })
    }
}

/// Connections that wait for their generation to be known here.
#[derive(Default)]
struct Mailbox {
    pending: Mutex<VecDeque<(Greeting, TcpStream)>>,
    arrived: Condvar,
}

impl Mailbox {
    /// Tells those who wait that this worker lives, as long as the process does.
    fn hold(&self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            pending.retain_mut(|(_, socket)| socket.write_all(&[WAIT]).is_ok());
            let waited = self.arrived.wait_timeout(pending, WAITING);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
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
            for socket in listener.incoming().flatten() {
                let arrivals = Arc::clone(&arrivals);
                // A stranger that says nothing must not hold up the others.
                let greet = move || greet(socket, &arrivals);
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
        loop {
            let (greeting, socket) = self.take(spec, rank, abort, deadline)?;
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
            pending.retain(|(greeting, _)| {
                greeting.job != spec.job || greeting.generation >= spec.generation
            });
            let ours = |greeting: &Greeting| {
                greeting.job == spec.job
                    && greeting.generation == spec.generation
                    && (greeting.from, greeting.to) == (rank, spec.rank)
            };
            if let Some(at) = pending.iter().position(|(greeting, _)| ours(greeting))
                && let Some(found) = pending.remove(at)
            {
                return Ok(found);
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
        .set_read_timeout(Some(GREETING))
        .and_then(|()| socket.set_write_timeout(Some(GREETING)))
        .and_then(|()| Greeting::read(&socket));
    match greeting {
        Ok(greeting) => {
            let mut pending = mailbox.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.len() >= PENDING {
                pending.pop_front();
            }
            pending.push_back((greeting, socket));
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
    let greeting = Greeting {
        job: spec.job.clone(),
        generation: spec.generation,
        from: spec.rank,
        to,
        nonce: nonce()?,
    };
    socket.write_all(&greeting.bytes())?;
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
    let mut answer = [0; NONCE + 32];
    socket.read_exact(&mut answer)?;
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
    let mut proof = [0; 32];
    socket.read_exact(&mut proof)?;
    verify(&spec.key, b"dial", greeting, &ours, &proof)
}

fn prove(
    key: &[u8],
    side: &[u8],
    greeting: &Greeting,
    nonce: &[u8],
) -> std::io::Result<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(std::io::Error::other)?;
    mac.update(side);
    mac.update(&greeting.bytes());
    mac.update(nonce);
    Ok(mac)
}

fn verify(
    key: &[u8],
    side: &[u8],
    greeting: &Greeting,
    nonce: &[u8],
    proof: &[u8],
) -> std::io::Result<()> {
    prove(key, side, greeting, nonce)?
        .verify_slice(proof)
        .map_err(|_| std::io::Error::other("it does not know the generation's key"))
}

fn nonce() -> std::io::Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
    Ok(nonce)
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
