//! Signs of life on a group's connections, beside what the device thread sends.

use super::frame::{self, Kind};
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

/// The writing side of a connection. Frames and signs of life must not mix.
pub(super) type Writer = Arc<Mutex<TcpStream>>;

/// Sends signs of life until it is dropped.
pub(super) struct Pings {
    writers: Arc<Mutex<Vec<Writer>>>,
    _alive: Sender<()>,
}

impl Pings {
    /// Starts the thread. Four signs fall into `silence`, after which a peer gives up.
    pub(super) fn start(generation: u64, silence: Duration) -> std::io::Result<Self> {
        let writers: Arc<Mutex<Vec<Writer>>> = Arc::default();
        let (alive, over) = channel();
        let all = Arc::clone(&writers);
        std::thread::Builder::new().name("pings".into()).spawn(move || {
            let ping = frame::header(Kind::Ping, generation, 0, 0);
            while over.recv_timeout(silence / 4) == Err(RecvTimeoutError::Timeout) {
                let all = all.lock().unwrap_or_else(PoisonError::into_inner).clone();
                all.iter().for_each(|writer| ping_one(writer, &ping));
            }
        })?;
        Ok(Self { writers, _alive: alive })
    }

    /// Takes a connection in.
    pub(super) fn add(&self, writer: Writer) {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
    }
}

fn ping_one(writer: &Writer, ping: &[u8]) {
    let mut socket = match writer.try_lock() {
        Ok(socket) => socket,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // A frame is being written, which is a sign of life itself.
        Err(TryLockError::WouldBlock) => return,
    };
    // A connection that failed is seen by the reader.
    drop(socket.write_all(ping));
}

/// Writes the parts of a frame. The socket's write timeout bounds every wait.
pub(super) fn write(writer: &Writer, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut socket = writer.lock().unwrap_or_else(PoisonError::into_inner);
    for part in parts {
        socket.write_all(part)?;
    }
    Ok(())
}
