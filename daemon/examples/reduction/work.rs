//! What a reduction sends, counted as the daemon does it.

use ptv2_daemon::numerics::batches::deal;
use ptv2_daemon::numerics::tree::covering;

/// Kind, generation, step and length in front of each frame.
const HEADER: usize = 25;
/// A rank's stamp and its number of partial sums.
const STAMP: usize = 24 + 4;
/// The slices of a partial sum.
const NODE: usize = 8;
/// An fp32 value.
pub(crate) const VALUE: usize = 4;

/// One reduction in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    /// Values of a gradient.
    pub(crate) values: usize,
    /// Partial sums of each rank.
    pub(crate) parts: Vec<usize>,
}

impl Work {
    /// Slices of one cost, dealt to ranks of one speed.
    pub(crate) fn new(values: usize, slices: u32, world: usize) -> Self {
        let runs = deal(&vec![1.0; slices as usize], &vec![1.0; world]);
        Self { values, parts: runs.iter().map(|run| covering(slices, run).len()).collect() }
    }

    /// Number of ranks.
    pub(crate) fn world(&self) -> usize {
        self.parts.len()
    }

    /// Partial sums of a rank, on the average.
    pub(crate) fn parts_of_a_rank(&self) -> f64 {
        self.parts.iter().sum::<usize>() as f64 / self.world() as f64
    }

    /// Bytes of a gradient.
    pub(crate) fn gradient(&self) -> f64 {
        (self.values * VALUE) as f64
    }

    /// Values that a rank sums for all.
    fn range(&self, rank: usize) -> usize {
        (rank + 1) * self.values / self.world() - rank * self.values / self.world()
    }

    /// Messages of all ranks over TCP: to each peer partial sums, and then a range.
    pub(crate) fn messages(&self) -> usize {
        2 * self.world() * (self.world() - 1)
    }

    /// Bytes that a rank sends over TCP.
    pub(crate) fn sent_by(&self, rank: usize) -> usize {
        let (peers, own) = (self.world() - 1, self.range(rank));
        let parts = self.parts[rank] * (peers * NODE + (self.values - own) * VALUE);
        peers * (HEADER + STAMP) + parts + peers * (HEADER + own * VALUE)
    }

    /// Bytes that all ranks send over TCP.
    pub(crate) fn sent(&self) -> usize {
        (0..self.world()).map(|rank| self.sent_by(rank)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_sums_are_those_of_the_tree() {
        // As many slices as ranks, or a multiple of them where the tree divides evenly: one each.
        for world in [2, 6, 8, 24] {
            assert_eq!(Work::new(1, world, world as usize).parts, vec![1; world as usize]);
        }
        assert_eq!(Work::new(1, 64, 16).parts, [1; 16]);
        // 8 slices for 3 ranks: 0..3 is 0..2 and 2..3, 3..5 two leaves, 5..8 a leaf and 6..8.
        assert_eq!(Work::new(1, 8, 3).parts, [2, 2, 2]);
        // Half as many slices again as ranks: one or two each.
        assert!(Work::new(1, 96, 64).parts_of_a_rank() < 2.0);
    }

    #[test]
    fn bytes_of_two_ranks() {
        let work = Work { values: 5, parts: vec![1, 2] };
        // Rank 0 sums 2 values and sends a part of 3; rank 1 sums 3 and sends two parts of 2.
        assert_eq!(work.sent_by(0), (25 + 28 + 8 + 12) + (25 + 8));
        assert_eq!(work.sent_by(1), (25 + 28 + 2 * (8 + 8)) + (25 + 12));
        assert_eq!((work.messages(), work.sent()), (4, 106 + 122));
    }

    #[test]
    fn whatever_the_group_a_rank_sends_its_parts_and_one() {
        let work = Work::new(1_000_000, 1024, 1024);
        let most = (0..1024).map(|rank| work.sent_by(rank)).max().unwrap();
        assert!(most < 2 * 4_000_000 + 1024 * 100, "{most}");
    }
}
