//! The control of an attack: as much processor time, spent on bytes that go past the coordinator. An attack takes
//! the processors' time from a job that trains on the same ones; beyond that, it may slow nothing.

use super::Target;
use super::probe::{Seen, Spent, Watch, now};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Senders, each with its sink: more threads than processors, as most attacks have.
const PAIRS: usize = 4;
/// It takes no longer, however long the attack took.
const LONGEST: Duration = Duration::from_secs(2);

/// What is seen while as much processor time is spent as during an attack.
pub(super) fn beside(target: &Target, attack: &Seen) -> Seen {
    let watch = Watch::begin(target);
    let time = attack.time.min(LONGEST);
    let spent = Spent::begin(target);
    std::thread::scope(|scope| {
        for _ in 0..PAIRS {
            let (sender, mut sink) = pair();
            scope.spawn(move || std::io::copy(&mut sink, &mut std::io::sink()).unwrap());
            scope.spawn(|| send(sender, &spent, (attack.cores, time)));
        }
    });
    watch.end()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (sender, listener.accept().unwrap().0)
}

/// Sends bytes for so long, as many as it takes to keep so many processors busy.
fn send(mut socket: TcpStream, spent: &Spent, (cores, time): (f64, Duration)) {
    let began = now();
    let part = vec![b'x'; 1 << 20];
    while began.elapsed() < time {
        match spent.cores() < cores {
            true => socket.write_all(&part).unwrap(),
            false => rest(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it is ahead of the attack")]
fn rest() {
    std::thread::sleep(Duration::from_millis(1));
}
