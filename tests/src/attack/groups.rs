//! Strangers at the listener of a group that trains: recorded and forged handshakes, floods, and frames
//! before any proof. A real handshake is recorded on its way between two workers.

use super::Effort;
use super::probe;
use crate::e2e::harness::{Cluster, hash, poll, superglue, tiny_cb};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What waits for its generation is told so by this byte, which says nothing else.
const WAIT: u8 = 0;
/// Whatever is answered comes within this time.
const SOON: Duration = Duration::from_secs(3);

/// What came back, by attack.
#[derive(Default)]
pub(crate) struct Table(String);

impl Table {
    fn row(&mut self, attack: &str, back: &str) {
        println!("| {attack} | {back} |");
        writeln!(self.0, "| {attack} | {back} |").unwrap();
    }

    /// In Markdown.
    pub(crate) fn text(&self) -> String {
        format!("| attack on a group | what came back |\n|---|---|\n{}", self.0)
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
    let said = |bytes: &[u8], attack: &str, table: &mut Table| {
        let back = knock(listen, bytes);
        assert_eq!(back, Vec::<u8>::new(), "{attack}: {back:?}");
        table.row(attack, "not a word");
    };
    // Magic, the name and its length, generation, ranks, nonce; then the seal, and the proof.
    let name = usize::from(recorded[8]);
    let greeting = 8 + 1 + name + 8 + 4 + 4 + 32;
    assert_eq!(&recorded[9..9 + name], id.as_bytes());
    let (sealed, handshake) = (greeting + 32, greeting + 64);
    said(&recorded, "the whole handshake and what followed it, recorded", &mut table);
    said(&recorded[..handshake], "the handshake alone", &mut table);
    said(&recorded[..sealed], "the greeting with its seal", &mut table);
    said(&recorded[..greeting], "the greeting without its seal", &mut table);
    said(&former[..handshake], "a handshake of another job", &mut table);
    let changed = |at: usize, to: u8| {
        let mut bytes = recorded.clone();
        bytes[at] ^= to;
        bytes
    };
    said(&changed(9 + name, 3), "a later generation under the seal of this one", &mut table);
    said(&changed(9 + name + 8, 2), "another rank", &mut table);
    said(&changed(greeting, 1), "a wrong seal", &mut table);
    said(&changed(7, 3), "an older protocol", &mut table);
    said(&[&recorded[..8], &[255], &[b'j'; 255]].concat(), "a name that is too long", &mut table);
    let frame = [&[1][..], &1_u64.to_le_bytes(), &[0; 8], &u64::MAX.to_le_bytes()].concat();
    said(&frame, "a frame of 2^64 bytes, before any proof", &mut table);
    said(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "an HTTP request", &mut table);

    let later = changed(9 + name, 3)[..sealed].to_vec();
    let flood = flood(listen, &later, effort.of(300, 1000));
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    assert_eq!(status["generation"], 1, "a worker was lost: {status:#}");
    let attack = format!("{} silent or forged connections", flood.len());
    table.row(&attack, "the job ends as ever");

    // A group forms while the flood stands before its door.
    let began = probe::now();
    let third = cluster.submit(&job, &more);
    cluster.reaches(&third, 1);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    let text = format!("a group forms and trains within {:.1} s", took.as_secs_f64());
    table.row("the same, before a group forms", &text);
    cluster.ctl(&["cancel", &third]);
    drop(flood);
    poll("the end", || (cluster.json(&["status", &third])["state"] == "cancelled").then_some(()));
    table
}
