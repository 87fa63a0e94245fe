//! What goes from worker to worker, counted on the wire.

use super::harness::{Cluster, superglue, tiny_cb};
use ptv2_daemon::numerics::tree::covering;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A rank that stood still for a while is dealt nothing until it is tried again; then the job is run again.
const TRIES: u32 = 3;

/// Passes every connection on and counts what it carries.
struct Proxy {
    address: SocketAddr,
    towards: Arc<AtomicU64>,
    back: Arc<AtomicU64>,
}

impl Proxy {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (towards, back) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counts = (Arc::clone(&towards), Arc::clone(&back));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(target) else { continue };
                carry(near.try_clone().unwrap(), far.try_clone().unwrap(), &counts.0);
                carry(far, near, &counts.1);
            }
        });
        Self { address, towards, back }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: &Arc<AtomicU64>) {
    let count = Arc::clone(count);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..length]).is_err() {
                return;
            }
            count.fetch_add(length as u64, Ordering::Relaxed);
        }
        drop(to.shutdown(std::net::Shutdown::Write));
    });
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The most partial sums that a rank of two can have, however the slices are dealt.
fn most_parts(slices: u32) -> u64 {
    (0..=slices)
        .flat_map(|cut| [covering(slices, &(0..cut)), covering(slices, &(cut..slices))])
        .map(|parts| parts.len() as u64)
        .max()
        .unwrap()
}

#[test]
fn a_step_sends_no_more_than_its_partial_sums_and_one() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::start(0, 1);
    let listen = free_port();
    let proxy = Proxy::to(listen);
    // The older worker is rank 0, which the other dials.
    cluster.worker(
        1,
        &["--reduce-listen", &listen.to_string(), "--reduce-advertise", &proxy.address.to_string()],
    );
    cluster.worker(1, &[]);
    let has_dealt_to_both = (0..TRIES).any(|_| sends_at_most_its_share(&cluster, &data, &proxy));
    assert!(has_dealt_to_both, "the proxy was not used");
}

/// Runs a job. No rank may send more than its partial sums and one; whether each has sent a gradient a step.
fn sends_at_most_its_share(cluster: &Cluster, data: &Path, proxy: &Proxy) -> bool {
    let more = ["--workers", "2", "--set", "training.epochs=10"];
    let status = cluster.run(&tiny_cb(data, "checkpoint.every = 1000"), &more);
    let plan = &status["plan"];
    let gradient = plan["gradient_bytes"].as_u64().unwrap();
    let steps = status["step"].as_u64().unwrap();
    let bound = (most_parts(5) + 1) * gradient + 256;
    // Once for a group: the handshake, and the first state, which rank 0 sends to the other.
    let once = plan["checkpoint_bytes"].as_u64().unwrap() + 8192;
    // Once for an evaluation: at most eight bytes a row.
    let evaluations = 10 * (plan["val_rows"].as_u64().unwrap() * 8 + 64);
    let sent = [&proxy.towards, &proxy.back].map(|count| count.swap(0, Ordering::Relaxed));
    println!(
        "bytes a step: {:?}; gradient {gradient}; bound {bound}",
        sent.map(|sent| sent / steps)
    );
    for sent in sent {
        assert!(sent <= steps * bound + once + evaluations, "{sent} over {steps} steps");
    }
    // A rank may have no rows in the last, small batch of each of the ten epochs.
    sent.into_iter().all(|sent| sent >= (steps - 10) * gradient)
}
