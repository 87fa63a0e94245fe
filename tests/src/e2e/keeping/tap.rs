//! A proxy in front of a coordinator that cuts, holds or spoils what comes back, at a byte of its choice.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// What happens at a byte.
pub(super) enum At {
    /// The connection is cut off in front of it.
    Cut,
    /// The test is told, and does something; then the connection is cut off.
    Hold(Sender<()>, Receiver<()>),
    /// It is another byte.
    Flip,
}

/// Counted over all connections, from the coordinator to the client.
#[derive(Default)]
struct Script {
    carried: AtomicU64,
    next: Mutex<VecDeque<(u64, At)>>,
}

/// The proxy.
pub(super) struct Tap {
    address: SocketAddr,
    script: Arc<Script>,
    ends: Arc<AtomicBool>,
}

/// Both ends of a hold.
pub(super) fn hold() -> (At, Receiver<()>, Sender<()>) {
    let ((tell, told), (go, gone)) = (channel(), channel());
    (At::Hold(tell, gone), told, go)
}

impl Tap {
    /// Listens in front of an address; what happens stands in order of its byte.
    pub(super) fn new(target: &str, script: Vec<(u64, At)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script =
            Arc::new(Script { next: Mutex::new(script.into()), carried: AtomicU64::new(0) });
        let ends = Arc::new(AtomicBool::new(false));
        let (target, shared, ending) = (target.to_owned(), Arc::clone(&script), Arc::clone(&ends));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                // Whoever is not there is refused: the connection is closed.
                let Ok(far) = TcpStream::connect(&target) else { continue };
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || forth(near_too, far_too));
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || back(&shared, &far, &near));
            }
        });
        Self { address, script, ends }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that came back.
    pub(super) fn carried(&self) -> u64 {
        self.script.carried.load(Ordering::SeqCst)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the thread, which waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

fn forth(mut near: TcpStream, mut far: TcpStream) {
    drop(std::io::copy(&mut near, &mut far));
    drop(far.shutdown(Shutdown::Write));
}

fn back(script: &Script, mut far: &TcpStream, mut near: &TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = far.read(&mut buffer) {
        let part = &mut buffer[..count];
        let before = script.carried.load(Ordering::SeqCst);
        let mut next = script.next.lock().unwrap();
        let due = next.pop_front_if(|(at, _)| *at < before + count as u64);
        drop(next);
        let mut length = count;
        match &due {
            None => {}
            Some((at, At::Flip)) => part[usize::try_from(at - before).unwrap()] ^= 1,
            Some((at, At::Cut | At::Hold(..))) => {
                length = usize::try_from(at.saturating_sub(before)).unwrap();
            }
        }
        script.carried.fetch_add(length as u64, Ordering::SeqCst);
        if near.write_all(&part[..length]).is_err() {
            break;
        }
        match due {
            None | Some((_, At::Flip)) => {}
            Some((_, At::Cut)) => break,
            Some((_, At::Hold(tell, go))) => {
                let _ = tell.send(());
                let _ = go.recv();
                break;
            }
        }
    }
    for socket in [near, far] {
        drop(socket.shutdown(Shutdown::Both));
    }
}
