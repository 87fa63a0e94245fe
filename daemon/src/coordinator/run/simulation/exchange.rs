//! What the ranks of a generation have sent each other. A frame is seen where the path from its sender
//! is open.

use super::worker::Standing;
use crate::protocol::level;
use crate::protocol::vote::Vote;
use std::collections::BTreeMap;
use std::ops::Range;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// How far a rank is, before the first step.
    Hello,
    /// The state that all go on from.
    State,
    /// Partial sums and a vote.
    Parts,
    /// A sum of a range.
    Range,
    /// Predictions of an evaluation.
    Scores,
    /// The last hash.
    Last,
}

/// What is in a frame.
#[derive(Debug, Clone)]
pub(super) enum Frame {
    Hello(level::Standing),
    State(Standing),
    Parts(Vote, Range<u32>),
    Last(Vote),
    Nothing,
}

/// All frames of a generation.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    frames: BTreeMap<(Kind, u64), BTreeMap<u32, Frame>>,
}

impl Exchange {
    /// A rank sends a frame to all.
    pub(super) fn send(&mut self, kind: Kind, step: u64, rank: u32, frame: Frame) {
        self.frames.entry((kind, step)).or_default().entry(rank).or_insert(frame);
    }

    /// What a rank has sent, if it has.
    pub(super) fn sent(&self, kind: Kind, step: u64, rank: u32) -> Option<&Frame> {
        self.frames.get(&(kind, step))?.get(&rank)
    }
}
