//! Who does not know a generation's key is not met, whatever it says, and holds up nobody who does.
//!
//! The bytes are made here anew, so that a change of what goes over the wire is noticed.

use super::*;
use crate::clock;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Rank 0 waits so long where nobody comes whom it would meet; and where somebody does.
const JOIN: Duration = Duration::from_secs(1);
const LONG_JOIN: Duration = Duration::from_secs(20);
const KEY: &[u8] = b"key";
const NONCE: [u8; 32] = [7; 32];

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// A greeting of rank 1 for rank 0, without its proof.
fn plain(job: &str, generation: u64) -> Vec<u8> {
    let mut bytes = b"ptv2tcp2".to_vec();
    bytes.push(u8::try_from(job.len()).unwrap());
    bytes.extend(job.as_bytes());
    bytes.extend(generation.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(NONCE);
    bytes
}

fn greeting(job: &str, generation: u64, key: &[u8]) -> Vec<u8> {
    let plain = plain(job, generation);
    [plain.as_slice(), &mac(key, &[b"greet", &plain])].concat()
}

/// Dials and says something; what comes back of an answer within this time, without the bytes that say to wait.
fn say_for(within: Duration, to: SocketAddr, bytes: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(within)).unwrap();
    socket.write_all(bytes).unwrap();
    let (mut first, until) = ([0], clock::now() + within);
    while first == [0] {
        if !matches!(socket.read(&mut first), Ok(1)) || clock::now() > until {
            return (socket, Vec::new());
        }
    }
    let mut answer = vec![0; 64];
    socket.read_exact(&mut answer).unwrap();
    (socket, answer)
}

/// The same of one that is answered.
fn say(to: SocketAddr, bytes: &[u8]) -> (TcpStream, Vec<u8>) {
    say_for(LONG_JOIN, to, bytes)
}

/// What rank 0 of a group of two makes of whoever comes as rank 1, within this time.
fn met_in(time: Duration, attack: impl FnOnce(SocketAddr) + Send) -> Result<(), CollectiveError> {
    let listeners = listeners(2);
    let mut spec = spec(&listeners, 0, KEY);
    spec.waits.join = time;
    std::thread::scope(|scope| {
        let rank = scope.spawn(|| listeners[0].join(&spec, &AbortHandle::default()).map(drop));
        attack(listeners[0].address());
        rank.join().unwrap()
    })
}

fn is_refused(what: &str, time: Duration, attack: impl FnOnce(SocketAddr) + Send) {
    let found = met_in(time, attack);
    let lost = matches!(&found, Err(CollectiveError::PeerLost { rank: 1, .. }));
    assert!(lost, "{what}: {found:?}");
}

#[test]
fn whoever_knows_the_key_is_met() {
    let found = met_in(LONG_JOIN, |to| {
        let (mut socket, answer) = say(to, &greeting("j1", 3, KEY));
        let (nonce, proof) = answer.split_at(32);
        assert_eq!(proof, mac(KEY, &[b"accept", &plain("j1", 3), nonce]), "it proves itself, too");
        socket.write_all(&mac(KEY, &[b"dial", &plain("j1", 3), nonce])).unwrap();
    });
    assert_eq!(found, Ok(()));
}

#[test]
fn a_stranger_gets_no_answer() {
    let mut other_rank = greeting("j1", 3, KEY);
    other_rank[19] = 2; // Of a proven greeting another rank is made.
    let cases = [
        ("another key", greeting("j1", 3, b"other")),
        ("no proof", [plain("j1", 3), vec![0; 32]].concat()),
        ("another job", greeting("j2", 3, KEY)),
        ("a worker of another job", greeting("j1", 3, b"key of j2")),
        ("a generation that is over", greeting("j1", 2, KEY)),
        ("one that is not yet", greeting("j1", 4, KEY)),
        ("a changed rank", other_rank),
    ];
    std::thread::scope(|scope| {
        for (what, bytes) in cases {
            let unanswered = move |to| assert_eq!(say_for(JOIN, to, &bytes).1, [0; 0], "{what}");
            scope.spawn(move || is_refused(what, JOIN, unanswered));
        }
    });
}

#[test]
fn an_old_greeting_is_of_no_use() {
    let old = &greeting("j1", 3, KEY);
    let mut recorded = Vec::new();
    let found = met_in(LONG_JOIN, |to| {
        let (mut socket, answer) = say(to, old);
        recorded = mac(KEY, &[b"dial", &plain("j1", 3), &answer[..32]]);
        socket.write_all(&recorded).unwrap();
    });
    assert_eq!(found, Ok(()));
    let recorded = &recorded;
    // Long enough for the answer to come.
    let time = Duration::from_secs(5);
    std::thread::scope(|scope| {
        scope.spawn(|| is_refused("the greeting alone", time, |to| drop(say(to, old))));
        scope.spawn(|| {
            is_refused("all that was said", time, |to| say(to, old).0.write_all(recorded).unwrap());
        });
        scope.spawn(|| {
            is_refused("the answer, sent back", time, |to| {
                let (mut socket, answer) = say(to, old);
                socket.write_all(&answer[32..]).unwrap();
            });
        });
        scope.spawn(|| {
            is_refused("its own proof, sent again", time, |to| {
                let (mut socket, _) = say(to, old);
                socket.write_all(&old[old.len() - 32..]).unwrap();
            });
        });
    });
}

/// A listener that is not the peer's, and sends back what it got.
#[test]
fn a_dialler_is_not_taken_in_by_its_own_words() {
    let mirror = TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = listeners(2);
    let mut spec = spec(&listeners, 1, KEY);
    spec.peers[0].address = mirror.local_addr().unwrap();
    spec.waits.join = JOIN;
    std::thread::spawn(move || {
        for mut socket in mirror.incoming().flatten() {
            let mut greeting = [0; 91];
            socket.read_exact(&mut greeting).unwrap();
            let (nonce, proof) = (&greeting[27..59], &greeting[59..]);
            // The dialler may have hung up.
            drop(socket.write_all(&[&[1], nonce, proof].concat()));
        }
    });
    let found = listeners[1].join(&spec, &AbortHandle::default()).map(drop);
    assert!(matches!(found, Err(CollectiveError::PeerLost { rank: 0, .. })), "{found:?}");
}

#[test]
fn strangers_hold_up_nobody() {
    let listeners = listeners(2);
    let to = listeners[0].address();
    let mut held = Vec::new();
    let mut stranger = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(to).unwrap();
        // It may be cut off already.
        drop(socket.write_all(bytes));
        held.push(socket);
    };
    for _ in 0..100 {
        stranger(b"");
        stranger(b"ptv2tcp2");
        stranger(&greeting("j1", 3, b"other"));
    }
    stranger(b"GET / HTTP/1.1\r\n\r\n");
    stranger(&[b"ptv2tcp2".as_slice(), &[255; 400]].concat());
    stranger(&greeting("j1", 3, KEY)[..60]);
    stranger(&vec![0; 1 << 20]);
    let began = clock::now();
    std::thread::scope(|scope| {
        let join = |rank: u32| {
            let listener = &listeners[rank as usize];
            let mut spec = spec(&listeners, rank, KEY);
            spec.waits.join = Duration::from_secs(60);
            scope.spawn(move || listener.join(&spec, &AbortHandle::default()).map(drop))
        };
        let ranks = [join(0), join(1)];
        for rank in ranks {
            assert_eq!(rank.join().unwrap(), Ok(()));
        }
    });
    // One after the other, the hundred that say nothing would be waited for by five seconds each.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
