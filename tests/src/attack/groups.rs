//! Strangers at the listener of a group that trains: recorded and forged handshakes, floods, and frames
//! before any proof. A real handshake is recorded on its way between two workers.

use super::{Effort, GROWTH_MAX, probe};
use crate::e2e::harness::usage::{Growth, mib};
use crate::e2e::harness::{Cluster, Process, hash, poll, superglue, tiny_cb};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What waits for its generation is told so by this byte, which says nothing else.
const WAIT: u8 = 0;
/// Whatever is answered comes within this time.
const SOON: Duration = Duration::from_secs(3);

/// What came back, by attack, and what memory the workers took more.
#[derive(Default)]
pub(crate) struct Table(String);

impl Table {
    /// What came back, while the workers grew by no more than they may.
    fn row(&mut self, attack: &str, back: &str, memory: &Growth) {
        let grown = memory.most();
        let line = format!("| {attack} | {back} | {:.1} MiB |", mib(grown));
        println!("{line}");
        assert!(grown < GROWTH_MAX, "{attack}: a worker took {} KiB more", grown >> 10);
        writeln!(self.0, "{line}").unwrap();
    }

    /// In Markdown.
    pub(crate) fn text(&self) -> String {
        let head = "| attack on a group | what came back | a worker's memory |\n|---|---|---|\n";
        format!("{head}{}", self.0)
    }
}

/// A port that was free a moment ago.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Passes connections on, and gives the first bytes that each dialler said: all of its handshake.
fn recorder(target: SocketAddr) -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, recorded) = channel();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(target) else { continue };
            let (from, to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::spawn(move || pass(from, to, None));
            let sender = sender.clone();
            std::thread::spawn(move || pass(near, far, Some(&|bytes| drop(sender.send(bytes)))));
        }
    });
    (address, recorded)
}

/// Passes bytes on; the first thousand are told once they are there.
fn pass(mut from: TcpStream, mut to: TcpStream, mut tell: Option<&dyn Fn(Vec<u8>)>) {
    let mut first = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if let Some(told) = tell {
            first.extend(&buffer[..length]);
            if first.len() >= 1000 {
                told(first.split_off(0));
                tell = None;
            }
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// Sends bytes to a listener; what it says but that one waits, until it ends the connection or is silent.
fn knock(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    drop(socket.write_all(bytes));
    let began = probe::now();
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    while began.elapsed() < SOON {
        match socket.read(&mut buffer) {
            Ok(length @ 1..) => said.extend(buffer[..length].iter().filter(|byte| **byte != WAIT)),
            Ok(0) | Err(_) => break,
        }
    }
    said
}

/// So many connections that say nothing, and as many with a greeting that is forged: its last byte before the
/// seal, of which there are 32, is another each time.
fn flood(listen: SocketAddr, greeting: &[u8], count: usize) -> Vec<TcpStream> {
    let open = || TcpStream::connect(listen).ok();
    let silent = (0..count).map_while(|_| open());
    let forged = (0..count).map_while(|number| {
        let (mut socket, mut bytes) = (open()?, greeting.to_vec());
        bytes[greeting.len() - 33] = number.to_le_bytes()[0];
        socket.write_all(&bytes).ok()?;
        Some(socket)
    });
    silent.chain(forged).collect()
}

/// What a dialler said first. Magic, its group's name behind its length, generation, ranks, nonce; then the seal of
/// that greeting, and the proof.
struct Recorded {
    bytes: Vec<u8>,
    generation: usize,
    greeting: usize,
    sealed: usize,
    handshake: usize,
}

impl Recorded {
    fn new(bytes: Vec<u8>) -> Self {
        let generation = 9 + usize::from(bytes[8]);
        let greeting = generation + 8 + 4 + 4 + 32;
        Self { bytes, generation, greeting, sealed: greeting + 32, handshake: greeting + 64 }
    }

    fn name(&self) -> &[u8] {
        &self.bytes[9..self.generation]
    }

    fn changed(&self, at: usize, to: u8) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[at] ^= to;
        bytes
    }

    /// Of a later generation, under the seal of this one.
    fn later(&self) -> Vec<u8> {
        self.changed(self.generation, 3)
    }

    fn later_greeting(&self) -> Vec<u8> {
        self.later()[..self.sealed].to_vec()
    }

    /// What a stranger makes of it, and of one of a former job.
    fn forgeries(&self, former: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let whole = &self.bytes;
        let frame = [&[1][..], &1_u64.to_le_bytes(), &[0; 8], &u64::MAX.to_le_bytes()].concat();
        vec![
            ("the whole handshake and what followed it, recorded", whole.clone()),
            ("the handshake alone", whole[..self.handshake].to_vec()),
            ("the greeting with its seal", whole[..self.sealed].to_vec()),
            ("the greeting without its seal", whole[..self.greeting].to_vec()),
            ("a handshake of another job", former[..self.handshake].to_vec()),
            ("a later generation under the seal of this one", self.later()),
            ("another rank", self.changed(self.generation + 8, 2)),
            ("a wrong seal", self.changed(self.greeting, 1)),
            ("an older protocol", self.changed(7, 3)),
            ("a name that is too long", [&whole[..8], &[255], &[b'j'; 255]].concat()),
            ("a frame of 2^64 bytes, before any proof", frame),
            ("an HTTP request", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ]
    }
}

/// All of this file, against a job of two workers, whose result is the same as ever.
pub(super) fn all(effort: Effort) -> Table {
    let mut table = Table::default();
    let Some(data) = superglue() else { return table };
    let mut cluster = Cluster::start(0, 1);
    let listen = free_port();
    let (through, recorded) = recorder(listen);
    // The older worker is rank 0, which the other dials, through the recorder.
    let options =
        ["--reduce-listen", &listen.to_string(), "--reduce-advertise", &through.to_string()];
    cluster.worker(1, &options);
    cluster.worker(1, &[]);
    let job = tiny_cb(&data, "");
    let epochs = format!("training.epochs={}", effort.of(60, 150));
    let more = ["--workers", "2", "--set", &epochs];
    let calm = cluster.run(&job, &more);
    let former = recorded.recv().unwrap();

    let id = cluster.submit(&job, &more);
    cluster.reaches(&id, 1);
    let recorded = recorded.recv().unwrap();
    let memory = || Growth::of(cluster.workers.iter().map(Process::pid));
    let forged = Recorded::new(recorded);
    assert_eq!(forged.name(), id.as_bytes());
    for (attack, bytes) in forged.forgeries(&former) {
        let grown = memory();
        let back = knock(listen, &bytes);
        assert_eq!(back, Vec::<u8>::new(), "{attack}: {back:?}");
        table.row(attack, "not a word", &grown);
    }

    let grown = memory();
    let flood = flood(listen, &forged.later_greeting(), effort.of(300, 1000));
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    assert_eq!(status["generation"], 1, "a worker was lost: {status:#}");
    let attack = format!("{} silent or forged connections", flood.len());
    table.row(&attack, "the job ends as ever", &grown);

    // A group forms while the flood stands before its door.
    let (began, grown) = (probe::now(), memory());
    let third = cluster.submit(&job, &more);
    cluster.reaches(&third, 1);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    let text = format!("a group forms and trains within {:.1} s", took.as_secs_f64());
    table.row("the same, before a group forms", &text, &grown);
    cluster.ctl(&["cancel", &third]);
    drop(flood);
    poll("the end", || (cluster.json(&["status", &third])["state"] == "cancelled").then_some(()));
    table
}
