//! Frames on a connection: a header of 25 bytes, little-endian, then the payload.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | kind |
//! | 1..9 | generation |
//! | 9..17 | step |
//! | 17..25 | length of the payload |

use crate::collective::Stamp;
use crate::numerics::tree::Node;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::ops::Range;

const HEADER: usize = 25;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A rank's partial sums of the receiver's range.
    Parts = 1,
    /// The sum of the sender's range.
    Range = 2,
    /// Bytes for all.
    Gather = 3,
    /// A tuned state.
    State = 4,
    /// Nothing: a sign of life.
    Ping = 5,
    /// What a rank has for a reduction that goes another way.
    #[cfg(feature = "torch")]
    Plan = 6,
}

/// Why no frame comes any more.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    /// Nothing came for too long.
    pub silent: bool,
    /// What was seen.
    pub detail: String,
}

impl Broken {
    fn ended(detail: impl Into<String>) -> Self {
        Self { silent: false, detail: detail.into() }
    }
}

#[derive(Debug)]
pub(super) struct Frame {
    pub kind: Kind,
    pub generation: u64,
    pub step: u64,
    pub payload: Vec<u8>,
}

pub(super) fn header(kind: Kind, generation: u64, step: u64, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = kind as u8;
    header[1..9].copy_from_slice(&generation.to_le_bytes());
    header[9..17].copy_from_slice(&step.to_le_bytes());
    header[17..].copy_from_slice(&(length as u64).to_le_bytes());
    header
}

/// Reads the next frame. The socket's read timeout bounds every wait: a peer that computes for long
/// still sends its signs of life.
pub(super) fn read(socket: &TcpStream, longest: usize) -> Result<Frame, Broken> {
    let mut header = [0; HEADER];
    fill(socket, &mut header)?;
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let kind = match header[0] {
        1 => Kind::Parts,
        2 => Kind::Range,
        3 => Kind::Gather,
        4 => Kind::State,
        5 => Kind::Ping,
        #[cfg(feature = "torch")]
        6 => Kind::Plan,
        other => return Err(Broken::ended(format!("it sent a frame of unknown kind {other}"))),
    };
    let length = usize::try_from(word(17)).unwrap_or(usize::MAX);
    if length > longest {
        let detail = format!("it announced {length} bytes, more than the {longest} that can be");
        return Err(Broken::ended(detail));
    }
    let mut payload = vec![0; length];
    fill(socket, &mut payload)?;
    Ok(Frame { kind, generation: word(1), step: word(9), payload })
}

fn fill(mut socket: &TcpStream, mut rest: &mut [u8]) -> Result<(), Broken> {
    while !rest.is_empty() {
        match socket.read(rest) {
            Ok(0) => return Err(Broken::ended("its connection was closed")),
            Ok(count) => rest = &mut rest[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(Broken { silent: true, detail: "it gave no sign of life".into() });
            }
            Err(error) => return Err(Broken::ended(format!("its connection failed: {error}"))),
        }
    }
    Ok(())
}

/// Stamp, number of parts, then each part's node and values within `range`.
pub(super) fn encode_parts(
    stamp: &Stamp,
    parts: &[(Node, Vec<f32>)],
    range: Range<usize>,
) -> Vec<u8> {
    let length = stamp.len() + 4 + parts.len() * (8 + 4 * range.len());
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(stamp);
    bytes.extend(u32::try_from(parts.len()).unwrap_or(u32::MAX).to_le_bytes());
    for (node, values) in parts {
        bytes.extend(node.start.to_le_bytes());
        bytes.extend(node.end.to_le_bytes());
        bytes.extend(values[range.clone()].iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

/// A rank's stamp and its partial sums.
type Parts = (Stamp, Vec<(Node, Vec<f32>)>);

/// Reads what [`encode_parts`] wrote, each part of `elements` values; `None` if it does not fit.
pub(super) fn decode_parts(bytes: &[u8], elements: usize) -> Option<Parts> {
    let (stamp, rest) = bytes.split_first_chunk::<24>()?;
    let (count, mut rest) = rest.split_first_chunk()?;
    let mut parts = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (start, after) = rest.split_first_chunk()?;
        let (end, after) = after.split_first_chunk()?;
        let (data, after) = after.split_at_checked(elements.checked_mul(4)?)?;
        let mut values = vec![0.0; elements];
        read_floats(data, &mut values)?;
        let node = Node { start: u32::from_le_bytes(*start), end: u32::from_le_bytes(*end) };
        parts.push((node, values));
        rest = after;
    }
    rest.is_empty().then_some((*stamp, parts))
}

/// Reads little-endian fp32 values into a buffer of the same length.
pub(super) fn read_floats(bytes: &[u8], out: &mut [f32]) -> Option<()> {
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || words.len() != out.len() {
        return None;
    }
    for (value, word) in out.iter_mut().zip(words) {
        *value = f32::from_le_bytes(*word);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_survive_the_wire() {
        let node = |start, end| Node { start, end };
        let parts = [(node(0, 2), vec![1.0, 2.0, 3.0]), (node(2, 3), vec![4.0, 5.0, 6.0])];
        let bytes = encode_parts(&[9; 24], &parts, 1..3);
        let (stamp, found) = decode_parts(&bytes, 2).unwrap();
        assert_eq!(stamp, [9; 24]);
        assert_eq!(found, [(node(0, 2), vec![2.0, 3.0]), (node(2, 3), vec![5.0, 6.0])]);
        assert!(decode_parts(&bytes, 3).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(decode_parts(&bytes, 2));
        }
    }
}
