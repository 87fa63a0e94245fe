//! What a rank says of itself beside each step's gradients, and what all ranks conclude from it.
//! Every rank gets the same votes, so every rank concludes the same, without another round.

/// Length of a vote on the wire, in bytes.
pub const LENGTH: usize = 24;

/// A rank's word, sent with its partial sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vote {
    /// Hash of the state that the rank computed this step's gradients with.
    pub hash: u64,
    /// Whether the rank wants all to leave after this step: a change of the group is planned.
    pub leaving: bool,
    /// Expected cost of the slices that the rank computed in this step.
    pub cost: f32,
    /// What computing them took, in seconds.
    pub seconds: f32,
}

impl Vote {
    /// As it goes over the wire, little-endian.
    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8] = u8::from(self.leaving);
        bytes[16..20].copy_from_slice(&self.cost.to_le_bytes());
        bytes[20..].copy_from_slice(&self.seconds.to_le_bytes());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; LENGTH]) -> Self {
        let (mut hash, mut cost, mut seconds) = ([0; 8], [0; 4], [0; 4]);
        hash.copy_from_slice(&bytes[..8]);
        cost.copy_from_slice(&bytes[16..20]);
        seconds.copy_from_slice(&bytes[20..]);
        Self {
            hash: u64::from_le_bytes(hash),
            leaving: bytes[8] != 0,
            cost: f32::from_le_bytes(cost),
            seconds: f32::from_le_bytes(seconds),
        }
    }
}

/// What the votes of a step say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All began with the same state: the step counts.
    Agreed {
        /// Whether all leave after it.
        leaving: bool,
    },
    /// The states differ: the step is done again, without what differs.
    Diverged {
        /// Whether this rank's state is to be forgotten: it is not of the majority, or there is none
        /// and all go back to the last checkpoint.
        own: bool,
        /// Whether most ranks hold the same state.
        majority: bool,
    },
}

/// Judges the votes, by rank, for this rank.
pub fn judge(rank: u32, votes: &[Vote]) -> Verdict {
    let own = votes.get(rank as usize).map(|vote| vote.hash);
    if votes.iter().all(|vote| Some(vote.hash) == own) {
        return Verdict::Agreed { leaving: votes.iter().any(|vote| vote.leaving) };
    }
    let count = |hash: u64| votes.iter().filter(|vote| vote.hash == hash).count();
    let majority = votes.iter().map(|vote| vote.hash).find(|hash| 2 * count(*hash) > votes.len());
    Verdict::Diverged { own: majority != own, majority: majority.is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(hash: u64, leaving: bool) -> Vote {
        Vote { hash, leaving, cost: 1.5, seconds: 0.25 }
    }

    #[test]
    fn a_vote_survives_the_wire() {
        for leaving in [true, false] {
            let vote = vote(u64::MAX - 3, leaving);
            assert_eq!(Vote::from_bytes(&vote.to_bytes()), vote);
        }
    }

    #[test]
    fn one_who_wants_to_leave_takes_all_along() {
        let votes = [vote(1, false), vote(1, true)];
        assert_eq!(judge(0, &votes), Verdict::Agreed { leaving: true });
    }

    #[test]
    fn the_majority_wins_and_a_tie_is_nobodys() {
        let votes = [vote(1, false), vote(2, false), vote(1, false)];
        assert_eq!(judge(0, &votes), Verdict::Diverged { own: false, majority: true });
        assert_eq!(judge(1, &votes), Verdict::Diverged { own: true, majority: true });
        for rank in [0, 1] {
            let tie = judge(rank, &votes[..2]);
            assert_eq!(tie, Verdict::Diverged { own: true, majority: false });
        }
    }
}
