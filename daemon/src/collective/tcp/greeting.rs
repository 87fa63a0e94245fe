//! What is said on a connection before anything else: who dials, and that both sides know the generation's
//! key.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `ptv2tcp2` |
//! | 1 | length n of the job's name |
//! | n | the job's name |
//! | 8 | generation, little-endian |
//! | 4, 4 | the dialler's rank, the other's |
//! | 32 | a nonce |
//! | 32 | HMAC-SHA256 of `greet` and the above under the generation's key |

use super::join::GroupSpec;
use crate::clock;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"ptv2tcp2";
pub(super) const NONCE: usize = 32;
pub(super) const PROOF: usize = 32;
/// Longest name of a job in a greeting.
const LONGEST_NAME: usize = 64;

/// Who dials, as its greeting says, before anything is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) job: String,
    pub(super) generation: u64,
    pub(super) from: u32,
    pub(super) to: u32,
    nonce: [u8; NONCE],
    /// Shows that whoever wrote the rest knows the generation's key.
    pub(super) proof: [u8; PROOF],
}

impl Greeting {
    /// The greeting of a rank, with its proof.
    pub(super) fn new(spec: &GroupSpec, to: u32) -> std::io::Result<Self> {
        let mut greeting = Self {
            job: spec.job.clone(),
            generation: spec.generation,
            from: spec.rank,
            to,
            nonce: nonce()?,
            proof: [0; PROOF],
        };
        greeting.proof = prove(&spec.key, b"greet", &greeting, &[])?.finalize().into_bytes().into();
        Ok(greeting)
    }

    /// All but the proof.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(u8::try_from(self.job.len()).unwrap_or(u8::MAX));
        bytes.extend(self.job.as_bytes());
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.from.to_le_bytes());
        bytes.extend(self.to.to_le_bytes());
        bytes.extend(self.nonce);
        bytes
    }

    pub(super) fn read(mut socket: impl Read) -> std::io::Result<Self> {
        let refused = |what: &str| std::io::Error::other(what.to_owned());
        let mut start = [0; 9];
        socket.read_exact(&mut start)?;
        if start[..8] != *MAGIC {
            return Err(refused("no greeting of ptv2"));
        }
        let length = usize::from(start[8]);
        if length > LONGEST_NAME {
            return Err(refused("the job's name is too long"));
        }
        let mut name = vec![0; length];
        socket.read_exact(&mut name)?;
        let mut rest = [0; 16 + NONCE];
        socket.read_exact(&mut rest)?;
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&rest[16..]);
        let mut proof = [0; PROOF];
        socket.read_exact(&mut proof)?;
        let word = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&rest[at..at + 4]);
            u32::from_le_bytes(four)
        };
        Ok(Self {
            job: String::from_utf8(name).map_err(|_| refused("the job's name is no text"))?,
            generation: u64::from(word(0)) | u64::from(word(4)) << 32,
            from: word(8),
            to: word(12),
            nonce,
            proof,
        })
    }
}

pub(super) fn prove(
    key: &[u8],
    side: &[u8],
    greeting: &Greeting,
    nonce: &[u8],
) -> std::io::Result<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(std::io::Error::other)?;
    mac.update(side);
    mac.update(&greeting.bytes());
    mac.update(nonce);
    Ok(mac)
}

pub(super) fn verify(
    key: &[u8],
    side: &[u8],
    greeting: &Greeting,
    nonce: &[u8],
    proof: &[u8],
) -> std::io::Result<()> {
    prove(key, side, greeting, nonce)?
        .verify_slice(proof)
        .map_err(|_| std::io::Error::other("it does not know the generation's key"))
}

pub(super) fn nonce() -> std::io::Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
    Ok(nonce)
}

/// Reads from a connection until a moment, however slowly the bytes come.
pub(super) struct Until<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Until<'a> {
    pub(super) fn after(time: Duration, socket: &'a TcpStream) -> Self {
        Self { socket, deadline: clock::now() + time }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let left = self.deadline.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.read(bytes)
    }
}
