//! Which rows a step holds and how they are cut into slices: a function of job and step alone.

use super::generator::{Purpose, Stream};
use std::ops::Range;

/// A job's order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlan {
    /// Training rows.
    pub rows: u32,
    /// Rows of a global batch; the last of an epoch may hold fewer.
    pub batch_size: u32,
    /// Slices that each batch is cut into.
    pub slices: u32,
    /// The job's seed.
    pub seed: u64,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
}

impl BatchPlan {
    /// Steps of one pass over the rows.
    pub fn steps_per_epoch(&self) -> u64 {
        u64::from(self.rows.div_ceil(self.batch_size))
    }

    /// The epoch that a step (counted from 0) belongs to.
    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// Whether a number of applied steps completes an epoch.
    pub fn completes_epoch(&self, applied: u64) -> bool {
        applied.is_multiple_of(self.steps_per_epoch())
    }

    /// An epoch's order of rows.
    pub fn order(&self, epoch: u64) -> Vec<u32> {
        if self.shuffle {
            Stream::new(self.seed, Purpose::Shuffle, epoch, 0, 0).permutation(self.rows)
        } else {
            (0..self.rows).collect()
        }
    }

    /// Where a step's rows stand in its epoch's order.
    pub fn range(&self, step: u64) -> Range<usize> {
        let within = step % self.steps_per_epoch();
        let start = usize::try_from(within * u64::from(self.batch_size)).unwrap_or(usize::MAX);
        start..(start + self.batch_size as usize).min(self.rows as usize)
    }
}

/// Cuts rows into slices: sorted by length so that rows of a slice need little padding (ties by row
/// number), then cut into `slices` runs whose sizes differ by one at most. A partial batch may leave
/// some runs empty.
pub fn cut(rows: &[u32], slices: u32, length: impl Fn(u32) -> u32) -> Vec<Vec<u32>> {
    let mut sorted = rows.to_vec();
    sorted.sort_unstable_by_key(|row| (length(*row), *row));
    let (count, parts) = (sorted.len(), slices as usize);
    (0..parts)
        .map(|part| sorted[part * count / parts..(part + 1) * count / parts].to_vec())
        .collect()
}

/// Deals a contiguous run of slices to each rank, so that the dearest rank's cost by its weight is
/// small. A run may be empty. Any deal gives the same result; this only balances time.
pub fn deal(costs: &[f64], weights: &[f64]) -> Vec<Range<u32>> {
    let total: f64 = costs.iter().sum();
    let speed: f64 = weights.iter().sum();
    let mut runs = Vec::with_capacity(weights.len());
    let (mut next, mut spent, mut due) = (0_usize, 0.0, 0.0);
    for (rank, weight) in weights.iter().enumerate() {
        let start = next;
        due += total * weight / speed;
        let last = rank + 1 == weights.len();
        // A slice goes to the rank in whose share its middle lies.
        while next < costs.len() && (last || spent + costs[next] / 2.0 < due) {
            spent += costs[next];
            next += 1;
        }
        let index = |slice: usize| u32::try_from(slice).unwrap_or(u32::MAX);
        runs.push(index(start)..index(next));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAN: BatchPlan =
        BatchPlan { rows: 10, batch_size: 4, slices: 3, seed: 1, shuffle: true };

    #[test]
    fn an_epoch_holds_each_row_once() {
        for epoch in 0..3 {
            let order = PLAN.order(epoch);
            let mut seen: Vec<u32> = (0..PLAN.steps_per_epoch())
                .flat_map(|step| order[PLAN.range(epoch * 3 + step)].to_vec())
                .collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..10));
        }
        assert_eq!(PLAN.range(2), 8..10, "the last batch is partial");
        assert!(PLAN.completes_epoch(3) && !PLAN.completes_epoch(4));
        assert_eq!(BatchPlan { shuffle: false, ..PLAN }.order(4), (0..10).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn a_cut_keeps_each_row_and_sorts_by_length(count in 0_u32..40, slices in 1_u32..12) {
            let rows: Vec<u32> = (0..count).rev().collect();
            let length = |row: u32| row % 7;
            let cut = cut(&rows, slices, length);
            prop_assert_eq!(cut.len(), slices as usize);
            let flat: Vec<u32> = cut.concat();
            prop_assert!(flat.is_sorted_by_key(|row| (length(*row), *row)));
            prop_assert_eq!(flat.len(), rows.len());
            let sizes: Vec<usize> = cut.iter().map(Vec::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }

        #[test]
        fn a_deal_covers_all_slices_in_order(
            costs in proptest::collection::vec(0.0..9.0_f64, 0..20),
            weights in proptest::collection::vec(0.1..4.0_f64, 1..6),
        ) {
            let runs = deal(&costs, &weights);
            prop_assert_eq!(runs.len(), weights.len());
            let mut next = 0;
            for run in runs {
                prop_assert_eq!(run.start, next);
                next = run.end;
            }
            prop_assert_eq!(next as usize, costs.len());
        }
    }

    #[test]
    fn equal_ranks_get_equal_shares() {
        assert_eq!(deal(&[1.0; 8], &[1.0, 1.0]), [0..4, 4..8]);
        assert_eq!(deal(&[1.0; 8], &[3.0, 1.0]), [0..6, 6..8]);
    }
}
