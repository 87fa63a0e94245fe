//! How a group comes together: the lower rank is dialled, and both sides prove that they know the
//! generation's key before anything else is read (see `greeting`).
//!
//! A connection that arrives before its generation is known here waits in the `mailbox`, and gets a byte
//! [`WAIT`] now and then, so that whoever dialled can tell a busy worker from a dead one.

use super::greeting::{Greeting, NONCE, PROOF, Proof, Within, nonce};
use super::mailbox::{Caller, Mailbox, WAIT};
use super::pings::{Pings, Writer};
use super::{Tcp, Waits};
use crate::clock;
use crate::collective::{AbortHandle, CollectiveError, Result};
use ptv2_common::ids::WorkerId;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
        let accept = move || arrivals.accept(&listener);
        std::thread::Builder::new().name("accept-peers".into()).spawn(accept)?;
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
        // What waits for an older generation of this job will never be taken.
        let is_old =
            |greeting: &Greeting| greeting.job == spec.job && greeting.generation < spec.generation;
        let is_ours = |caller: &Caller| {
            let Greeting { job, generation, from, to, nonce: _ } = &caller.greeting;
            *job == spec.job && *generation == spec.generation && (*from, *to) == (rank, spec.rank)
        };
        // A recorded greeting has its seal, and is heard once.
        let mut heard: Vec<[u8; NONCE]> = Vec::new();
        let mut strangers = 0_u32;
        loop {
            let is_over = || abort.shared.is_aborted();
            let waits = (deadline, RETRY);
            let caller = self.mailbox.take(is_old, is_ours, waits, is_over)?;
            let sealed = caller.greeting.verify(&spec.key, Proof::Seal, &caller.seal);
            if sealed.is_err() || heard.contains(&caller.greeting.nonce) {
                strangers = strangers.saturating_add(1);
                if strangers == 1 {
                    tracing::warn!(rank, "a connection without the generation's key was refused");
                }
                continue;
            }
            heard.push(caller.greeting.nonce);
            match answer(spec, &caller) {
                Ok(()) => return Ok(caller.socket),
                Err(error) => tracing::warn!(rank, %error, "a connection was refused"),
            }
        }
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
    let seal = greeting.prove(&spec.key, Proof::Seal)?;
    socket.write_all(&[&greeting.bytes()[..], &seal].concat())?;
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
    socket.read_exact(&mut answer)?;
    let (theirs, proof) = answer.split_at(NONCE);
    greeting.verify(&spec.key, Proof::Accept(theirs), proof)?;
    socket.write_all(&greeting.prove(&spec.key, Proof::Dial(theirs))?)
}

fn answer(spec: &GroupSpec, Caller { greeting, socket, .. }: &Caller) -> std::io::Result<()> {
    let ours = nonce()?;
    let mut message = vec![ANSWER];
    message.extend(ours);
    message.extend(greeting.prove(&spec.key, Proof::Accept(&ours))?);
    socket.set_write_timeout(Some(spec.waits.silence))?;
    (&mut &*socket).write_all(&message)?;
    let mut proof = [0; PROOF];
    Within::new(socket, spec.waits.silence).read_exact(&mut proof)?;
    greeting.verify(&spec.key, Proof::Dial(&ours), &proof)
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
