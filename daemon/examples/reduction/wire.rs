//! Whether what is counted is what goes over the wire.

use crate::measure::{parts, spec};
use crate::work::Work;
use ptv2_daemon::collective::tcp::Listener;
use ptv2_daemon::collective::{AbortHandle, Collective};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Passes connections to an address on and counts what they carry, both ways.
fn counted(target: SocketAddr, count: &Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::clone(count));
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(target).unwrap();
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            for (from, to) in [(near, far), back] {
                let count = Arc::clone(&count);
                std::thread::spawn(move || carry(from, to, &count));
            }
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        // Before it goes on: whoever has it has it counted.
        count.fetch_add(length as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// Bytes of all connections of a group of three after so many reductions.
fn bytes(values: usize, reductions: u64) -> u64 {
    let count = Arc::default();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners: Vec<_> = (0..3).map(|_| Listener::bind(local).unwrap()).collect();
    let mut peers = spec(&listeners, 0).peers;
    peers.iter_mut().for_each(|peer| peer.address = counted(peer.address, &count));
    std::thread::scope(|scope| {
        for (rank, listener) in listeners.iter().enumerate() {
            let mut spec = spec(&listeners, rank);
            spec.peers.clone_from(&peers);
            scope.spawn(move || {
                let mut group = listener.join(&spec, &AbortHandle::default()).unwrap();
                let (parts, mut sum) = (parts(values, rank, 3), vec![0.0; values]);
                for step in 0..reductions {
                    group.reduce(step, 8, &parts, &[0; 24], &mut sum).unwrap();
                }
                assert_eq!(sum, vec![parts_of_all(3); values]);
                // Nobody leaves before all have everything.
                group.all_gather_bytes(reductions, &[]).unwrap();
            });
        }
    });
    count.load(Ordering::SeqCst)
}

/// Each partial sum of the measurement is 1.
fn parts_of_all(world: usize) -> f32 {
    Work::new(1, 8, world).parts.iter().map(|parts| *parts as f32).sum()
}

#[test]
fn what_is_counted_is_what_is_sent() {
    let values = 1003;
    // Handshakes and the last message are in both, but for a byte now and then to who waits to be met; signs of
    // life would take five seconds to begin.
    let found = bytes(values, 3) - bytes(values, 1);
    let expected = 2 * Work::new(values, 8, 3).sent() as u64;
    assert!(found.abs_diff(expected) < 20, "{found}, counted {expected}");
}
