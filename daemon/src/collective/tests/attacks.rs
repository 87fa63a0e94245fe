//! Strangers at a group's door: each is refused before a frame is read, and the group forms in time.

use super::{listeners, spec};
use crate::collective::tcp::{GroupSpec, Listener, Waits};
use crate::collective::{AbortHandle, Collective, CollectiveError};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A group must have formed within this time, whoever else knocks.
const SOON: Duration = Duration::from_secs(8);

#[expect(clippy::disallowed_methods, reason = "a test takes the time")]
fn now() -> Instant {
    Instant::now()
}

/// Sends bytes and keeps the connection.
fn knock(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    // It may have been refused already.
    drop(socket.write_all(bytes));
    socket
}

/// All that is said to a stranger until it is refused, signs to wait left out.
fn said(mut socket: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(length @ 1..) = socket.read(&mut buffer) {
        all.extend(&buffer[..length]);
    }
    all.retain(|byte| *byte != 0);
    all
}

/// A greeting of rank 1 to rank 0, with this seal.
fn greeting(job: &str, generation: u64, seal: [u8; 32]) -> Vec<u8> {
    let mut bytes = b"ptv2tcp2".to_vec();
    bytes.push(u8::try_from(job.len()).unwrap());
    bytes.extend(job.as_bytes());
    bytes.extend(generation.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend([7; 32]);
    bytes.extend(seal);
    bytes
}

/// Both ranks join and pass a byte; how long that took.
fn forms(listeners: &[Listener], specs: &[GroupSpec; 2]) -> Duration {
    let began = now();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = specs
            .iter()
            .zip(listeners)
            .map(|(spec, listener)| {
                scope.spawn(move || {
                    let mut group = listener.join(spec, &AbortHandle::default()).unwrap();
                    group.all_gather_bytes(0, &[5]).unwrap()
                })
            })
            .collect();
        for rank in ranks {
            assert_eq!(rank.join().unwrap(), [[5], [5]]);
        }
    });
    began.elapsed()
}

fn both(listeners: &[Listener], generation: u64) -> [GroupSpec; 2] {
    [0, 1].map(|rank| GroupSpec { generation, ..spec(listeners, rank, b"key") })
}

/// Passes connections on to `target`, and gives what each dialler said.
fn recorder(target: SocketAddr) -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, recorded) = channel();
    std::thread::spawn(move || {
        for mut near in listener.incoming().flatten() {
            let mut far = TcpStream::connect(target).unwrap();
            let (mut back_from, mut back_to) =
                (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::spawn(move || {
                drop(std::io::copy(&mut back_from, &mut back_to));
                drop(back_to.shutdown(Shutdown::Both));
            });
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut all = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = near.read(&mut buffer) {
                    all.extend(&buffer[..length]);
                    if far.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                drop(far.shutdown(Shutdown::Both));
                drop(sender.send(all));
            });
        }
    });
    (address, recorded)
}

#[test]
fn what_was_recorded_is_of_no_use_again() {
    let listeners = listeners(2);
    let (through, recorded) = recorder(listeners[0].address());
    let mut specs = both(&listeners, 3);
    specs[1].peers[0].address = through;
    forms(&listeners, &specs);
    let recorded = recorded.recv().unwrap();
    // The greeting, its seal, and the proof; a frame may follow.
    let handshake = &recorded[..59 + 32 + 32];
    // To the same generation, which forms a second time, and to a later one.
    for generation in [3, 4] {
        let replays: Vec<_> = (0..4).map(|_| knock(listeners[0].address(), &recorded)).collect();
        let specs = both(&listeners, generation);
        let took = forms(&listeners, &specs);
        assert!(took < SOON, "{took:?}");
        let answers: Vec<Vec<u8>> = replays
            .into_iter()
            .map(|replay| {
                drop(replay.shutdown(Shutdown::Write));
                said(replay)
            })
            .collect();
        // The first replay of a generation's greeting is asked for a proof of this moment; it has none.
        let asked = answers.iter().filter(|answer| !answer.is_empty()).count();
        assert!(asked <= 1, "{generation}: {answers:?}");
    }
    assert_eq!(handshake.len(), 123);
}

#[test]
fn a_forged_greeting_is_refused_without_a_word() {
    let listeners = listeners(2);
    let address = listeners[0].address();
    let mut strangers = Vec::new();
    // Its seal is of no key, or is that of another job's generation; the name and the magic are wrong; a
    // frame, of a length that nobody should make room for, comes in place of a greeting.
    strangers.push(knock(address, &greeting("j1", 3, [0; 32])));
    strangers.push(knock(address, &greeting("j1", 2, [1; 32])));
    strangers.push(knock(address, &greeting("j2", 3, [2; 32])));
    strangers.push(knock(address, &[b"ptv2tcp1".as_slice(), &[0; 120]].concat()));
    strangers.push(knock(address, &[b"ptv2tcp2\xff".as_slice(), &[b'j'; 255]].concat()));
    let frame = [&[1][..], &3_u64.to_le_bytes(), &0_u64.to_le_bytes(), &u64::MAX.to_le_bytes()];
    strangers.push(knock(address, &frame.concat()));
    let took = forms(&listeners, &both(&listeners, 3));
    assert!(took < SOON, "{took:?}");
    for stranger in strangers {
        drop(stranger.shutdown(Shutdown::Write));
        assert_eq!(said(stranger), Vec::<u8>::new());
    }
}

/// Whoever dials a stranger in a peer's place learns that it has no key, and sends it no frame.
#[test]
fn a_reflected_proof_is_no_proof() {
    let listeners = listeners(2);
    let false_peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = spec(&listeners, 1, b"key");
    spec.peers[0].address = false_peer.local_addr().unwrap();
    spec.waits = Waits { join: Duration::from_secs(2), ..spec.waits };
    let (sender, heard) = channel();
    std::thread::spawn(move || {
        for mut socket in false_peer.incoming().flatten() {
            let mut greeting = [0; 59 + 32];
            if socket.read_exact(&mut greeting).is_err() {
                continue;
            }
            // Its own nonce and its own seal come back as the answer.
            drop(socket.write_all(&[&[1], &greeting[27..]].concat()));
            drop(sender.send(said(socket)));
        }
    });
    let error = listeners[1].join(&spec, &AbortHandle::default()).map(drop).unwrap_err();
    assert!(matches!(error, CollectiveError::PeerLost { rank: 0, .. }), "{error:?}");
    assert_eq!(heard.recv().unwrap(), Vec::<u8>::new());
}

#[test]
fn a_flood_of_connections_holds_up_no_group() {
    let listeners = listeners(2);
    let address = listeners[0].address();
    // More than are kept of either kind: silent ones, and well-formed ones without the key.
    let silent: Vec<_> = (0..100).map(|_| knock(address, b"ptv2")).collect();
    let forged: Vec<_> = (0..300).map(|_| knock(address, &greeting("j1", 3, [9; 32]))).collect();
    let took = forms(&listeners, &both(&listeners, 3));
    assert!(took < SOON, "{took:?}");
    drop((silent, forged));
}
