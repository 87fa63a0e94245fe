//! Connections of strangers: they greet, and wait until a generation that is known here looks for them.
//! How many there are is bounded at each stage, and the oldest gives way: whoever is who it says is done
//! within a moment, or dials again.

use super::greeting::{Greeting, PROOF, Within};
use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sent to a connection whose generation is not known here yet.
pub(super) const WAIT: u8 = 0;
/// How often.
const WAITING: Duration = Duration::from_millis(400);
/// Connections whose generation is not known here yet, at most.
const PENDING: usize = 256;
/// Connections that have not said their greeting yet, at most.
const GREETING: usize = 64;
/// How long a stranger may take to say its greeting.
const GREETING_TIME: Duration = Duration::from_secs(5);

/// A connection that has greeted, and proven nothing.
pub(super) struct Caller {
    pub(super) greeting: Greeting,
    pub(super) seal: [u8; PROOF],
    pub(super) socket: TcpStream,
}

impl Caller {
    /// Tells it to wait. Whoever has gone meanwhile, or speaks before it is asked, does not.
    fn waits(&mut self) -> bool {
        let says_nothing = |error: Error| error.kind() == ErrorKind::WouldBlock;
        self.socket.peek(&mut [0]).is_err_and(says_nothing)
            && self.socket.write_all(&[WAIT]).is_ok()
    }
}

/// Connections that wait for their generation to be known here.
#[derive(Default)]
pub(super) struct Mailbox {
    pending: Mutex<VecDeque<Caller>>,
    arrived: Condvar,
    /// Those that are greeting, the oldest first, each with its number.
    greeting: Mutex<VecDeque<(u64, TcpStream)>>,
}

impl Mailbox {
    /// Takes connections, as long as the process lives.
    pub(super) fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for (number, socket) in (0..).zip(listener.incoming().flatten()) {
            let Ok(known) = socket.try_clone() else { continue };
            let mut greeting = self.greeting.lock().unwrap_or_else(PoisonError::into_inner);
            if greeting.len() >= GREETING
                && let Some((_, oldest)) = greeting.pop_front()
            {
                // It may have gone by itself.
                drop(oldest.shutdown(Shutdown::Both));
            }
            greeting.push_back((number, known));
            drop(greeting);
            let mailbox = Arc::clone(self);
            // A stranger that says nothing must not hold up the others.
            let greet = move || {
                mailbox.greet(socket);
                mailbox.has_greeted(number);
            };
            if let Err(error) = std::thread::Builder::new().name("greet-peer".into()).spawn(greet) {
                tracing::warn!(%error, "a peer's connection was dropped");
                self.has_greeted(number);
            }
        }
    }

    fn has_greeted(&self, number: u64) {
        let mut greeting = self.greeting.lock().unwrap_or_else(PoisonError::into_inner);
        greeting.retain(|(one, _)| *one != number);
    }

    /// Reads a stranger's greeting and puts its connection where its generation will look for it.
    fn greet(&self, mut socket: TcpStream) {
        let mut within = Within::new(&socket, GREETING_TIME);
        let mut seal = [0; PROOF];
        let said = Greeting::read(&mut within)
            .and_then(|greeting| within.read_exact(&mut seal).map(|()| greeting))
            // One that does not take a byte is dropped, and holds up nobody.
            .and_then(|greeting| socket.set_nonblocking(true).map(|()| greeting))
            .and_then(|greeting| socket.write_all(&[WAIT]).map(|()| greeting));
        match said {
            Ok(greeting) => {
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                if pending.len() >= PENDING {
                    pending.pop_front();
                }
                pending.push_back(Caller { greeting, seal, socket });
                self.arrived.notify_all();
            }
            Err(error) => tracing::debug!(%error, "a connection said no greeting"),
        }
    }

    /// Tells those who wait that this worker lives, as long as the process does.
    pub(super) fn hold(&self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = crate::clock::now() + WAITING;
        loop {
            let left = due.saturating_duration_since(crate::clock::now());
            if left.is_zero() {
                pending.retain_mut(Caller::waits);
                due = crate::clock::now() + WAITING;
                continue;
            }
            // Arrivals wake it, too, and are told on their own.
            let waited = self.arrived.wait_timeout(pending, left);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The first caller that is wanted, whose connection blocks again; waits for one until `deadline`, and
    /// looks at `is_over` every `pause`. What `is_old` will never be wanted, and is dropped.
    pub(super) fn take(
        &self,
        is_old: impl Fn(&Greeting) -> bool,
        mut is_wanted: impl FnMut(&Caller) -> bool,
        (deadline, pause): (Instant, Duration),
        is_over: impl Fn() -> bool,
    ) -> std::io::Result<Caller> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            pending.retain(|caller| !is_old(&caller.greeting));
            if let Some(at) = pending.iter().position(&mut is_wanted)
                && let Some(found) = pending.remove(at)
            {
                found.socket.set_nonblocking(false)?;
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(crate::clock::now());
            if left.is_zero() || is_over() {
                return Err(Error::other("it did not connect in time"));
            }
            let waited = self.arrived.wait_timeout(pending, left.min(pause));
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
