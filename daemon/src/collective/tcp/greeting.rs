//! What two ranks say before a frame: who they are, and that both know the generation's key.
//!
//! The dialler sends its greeting (job, generation, both ranks, a nonce) under a seal: an HMAC-SHA256 of
//! it. The other answers with a nonce of its own and an HMAC over greeting and nonce; the dialler answers
//! with another. The seal keeps strangers from costing the other side any wait; the two nonces keep what
//! was recorded from being of use again.

use crate::clock;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::io::{Error, ErrorKind, Read, Result};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"ptv2tcp2";
/// Longest name of a job in a greeting.
const LONGEST_NAME: usize = 64;
/// Bytes of a nonce.
pub(super) const NONCE: usize = 32;
/// Bytes of a seal or a proof.
pub(super) const PROOF: usize = 32;

/// Who dials, as its greeting says, before anything is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) job: String,
    pub(super) generation: u64,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) nonce: [u8; NONCE],
}

/// What a proof is for: one side's is none of the other's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof<'a> {
    /// The greeting is of one who knows the key.
    Seal,
    /// The acceptor knows it now, by its own nonce.
    Accept(&'a [u8]),
    /// The dialler knows it now, by the acceptor's nonce.
    Dial(&'a [u8]),
}

impl Greeting {
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

    /// Reads a greeting; no more than its bytes are taken.
    pub(super) fn read(mut from: impl Read) -> Result<Self> {
        let refused = |what: &str| Error::other(what.to_owned());
        let mut start = [0; 9];
        from.read_exact(&mut start)?;
        if start[..8] != *MAGIC {
            return Err(refused("no greeting of ptv2"));
        }
        let length = usize::from(start[8]);
        if length > LONGEST_NAME {
            return Err(refused("the job's name is too long"));
        }
        let mut name = vec![0; length];
        from.read_exact(&mut name)?;
        let mut rest = [0; 16 + NONCE];
        from.read_exact(&mut rest)?;
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&rest[16..]);
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
        })
    }

    /// Proves that this side knows the key.
    pub(super) fn prove(&self, key: &[u8], proof: Proof<'_>) -> Result<[u8; PROOF]> {
        Ok(self.mac(key, proof)?.finalize().into_bytes().into())
    }

    /// Whether the other side has proven that it knows the key. Constant in time.
    pub(super) fn verify(&self, key: &[u8], proof: Proof<'_>, given: &[u8]) -> Result<()> {
        let verified = self.mac(key, proof)?.verify_slice(given);
        verified.map_err(|_| Error::other("it does not know the generation's key"))
    }

    fn mac(&self, key: &[u8], proof: Proof<'_>) -> Result<Hmac<Sha256>> {
        let (side, nonce): (&[u8], &[u8]) = match proof {
            Proof::Seal => (b"greet", &[]),
            Proof::Accept(nonce) => (b"accept", nonce),
            Proof::Dial(nonce) => (b"dial", nonce),
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(Error::other)?;
        mac.update(side);
        mac.update(&self.bytes());
        mac.update(nonce);
        Ok(mac)
    }
}

/// A nonce.
pub(super) fn nonce() -> Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(Error::other)?;
    Ok(nonce)
}

/// A connection of which all that is read must come within one time, however slowly it drips.
pub(super) struct Within<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Within<'a> {
    pub(super) fn new(socket: &'a TcpStream, time: Duration) -> Self {
        Self { socket, deadline: clock::now() + time }
    }
}

impl Read for Within<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.deadline.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, "it did not say it in time"));
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting() -> impl Strategy<Value = Greeting> {
        ("[a-z0-9]{0,64}", any::<u64>(), any::<[u32; 2]>(), any::<[u8; NONCE]>()).prop_map(
            |(job, generation, [from, to], nonce)| Greeting { job, generation, from, to, nonce },
        )
    }

    proptest! {
        #[test]
        fn a_greeting_survives_the_wire(greeting in greeting()) {
            prop_assert_eq!(Greeting::read(&*greeting.bytes()).unwrap(), greeting);
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            begins_well in any::<bool>(),
        ) {
            if begins_well {
                bytes.splice(0..0, *MAGIC);
            }
            drop(Greeting::read(&*bytes));
        }

        #[test]
        fn a_proof_is_for_one_greeting_one_side_and_one_nonce(
            greeting in greeting(),
            other in greeting(),
            nonces in any::<[[u8; NONCE]; 2]>(),
        ) {
            let [first, second] = &nonces;
            let proofs = [
                Proof::Seal,
                Proof::Accept(first),
                Proof::Dial(first),
                Proof::Accept(second),
                Proof::Dial(second),
            ];
            for (at, proof) in proofs.into_iter().enumerate() {
                let given = greeting.prove(b"key", proof).unwrap();
                for (wanted, one) in proofs.into_iter().enumerate() {
                    prop_assert_eq!(greeting.verify(b"key", one, &given).is_ok(), at == wanted);
                    prop_assert!(other.verify(b"key", one, &given).is_err());
                    prop_assert!(greeting.verify(b"another key", one, &given).is_err());
                }
            }
        }
    }
}
