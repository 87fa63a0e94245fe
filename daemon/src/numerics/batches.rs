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

/// What a slice is padded to whose longest sequence has `longest` tokens: up to an eighth more, in
/// eight steps between powers of two. So few shapes occur, which matters since libtorch compiles a
/// kernel for each new one.
pub fn padded(longest: usize) -> usize {
    longest.next_multiple_of((longest.next_power_of_two() / 16).max(1))
}

/// How far, in slices' mean sizes, an equal-cost cut may move from a cut by number of rows; and how
/// many places within a slice's mean size are tried. They bound the search for large batches.
const BAND: usize = 4;
const PLACES: usize = 8;

/// What a slice's time grows with: its tokens, padding included. `longest` is the most tokens of one
/// of its sequences.
pub fn cost(sequences: usize, longest: usize) -> u64 {
    sequences as u64 * padded(longest) as u64
}

/// Rows by rising length (ties by row number), so that neighbours need little padding.
fn sorted(rows: &[u32], length: impl Fn(u32) -> u32) -> Vec<u32> {
    let mut sorted = rows.to_vec();
    sorted.sort_unstable_by_key(|row| (length(*row), *row));
    sorted
}

/// Cuts rows, sorted by length, into slices of `size` rows. The last may hold fewer.
pub fn cut_by_rows(rows: &[u32], size: usize, length: impl Fn(u32) -> u32) -> Vec<Vec<u32>> {
    sorted(rows, length).chunks(size).map(<[u32]>::to_vec).collect()
}

/// Cuts a batch into `slices` slices (at least 1) of nearly equal cost and little padding: runs of
/// the rows sorted by length, whose squared costs have the least sum, or nearly so where slices hold
/// more than 8 rows. They are ordered so that contiguous runs of slices cost alike too. A partial
/// batch may leave some slices empty.
pub fn cut(rows: &[u32], slices: u32, length: impl Fn(u32) -> u32) -> Vec<Vec<u32>> {
    let sorted = sorted(rows, &length);
    let longest: Vec<usize> = sorted.iter().map(|row| length(*row) as usize).collect();
    let of_run = |start: usize, end: usize| {
        if start == end { 0 } else { cost(end - start, longest[end - 1]) }
    };
    let bounds = bounds(sorted.len(), slices as usize, of_run);
    let runs = bounds.windows(2).map(|pair| (of_run(pair[0], pair[1]), pair[0]..pair[1]));
    balanced(runs.collect()).into_iter().map(|(_, run)| sorted[run].to_vec()).collect()
}

/// Where to cut `count` rows into `parts` runs so that the sum of their squared costs is least, by
/// dynamic programming. Gives `parts + 1` bounds, the first 0 and the last `count`.
fn bounds(count: usize, parts: usize, cost: impl Fn(usize, usize) -> u64) -> Vec<usize> {
    let mean = count.div_ceil(parts).max(1);
    let places = |part: usize| {
        if part == parts {
            return vec![count];
        }
        let middle = part * count / parts;
        let (low, high) = (middle.saturating_sub(BAND * mean), (middle + BAND * mean).min(count));
        (low..=high).step_by(mean.div_ceil(PLACES)).collect()
    };
    // For each bound: its places, the least sum up to there, and which place before gave it.
    let mut table: Vec<Vec<(usize, u128, usize)>> = vec![vec![(0, 0, 0)]];
    for part in 1..=parts {
        let before = &table[part - 1];
        let best = |end: usize| {
            let sums = before.iter().enumerate().filter(|(_, (start, ..))| *start <= end).map(
                |(index, (start, sum, _))| (sum + u128::from(cost(*start, end)).pow(2), index),
            );
            sums.min().map(|(sum, index)| (end, sum, index))
        };
        let row = places(part).into_iter().filter_map(best).collect();
        table.push(row);
    }
    let mut found = Vec::with_capacity(table.len());
    let mut at = 0;
    for row in table.iter().rev() {
        let (place, _, before) = row[at];
        found.push(place);
        at = before;
    }
    found.reverse();
    found
}

/// Orders runs so that each half, quarter, … of the order costs alike: from the dearest on, each run
/// goes to the half that is cheaper so far and not yet full.
fn balanced(mut runs: Vec<(u64, Range<usize>)>) -> Vec<(u64, Range<usize>)> {
    if runs.len() < 2 {
        return runs;
    }
    runs.sort_by_key(|(cost, run)| (std::cmp::Reverse(*cost), run.start));
    let room = runs.len().div_ceil(2);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let (mut left_cost, mut right_cost) = (0, 0);
    let last = runs.len() - room;
    for (cost, run) in runs {
        if right.len() == last || (left.len() < room && left_cost <= right_cost) {
            left_cost += cost;
            left.push((cost, run));
        } else {
            right_cost += cost;
            right.push((cost, run));
        }
    }
    let mut all = balanced(left);
    all.extend(balanced(right));
    all
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
        fn a_cut_keeps_each_row_once(count in 0_u32..80, slices in 1_u32..20) {
            let rows: Vec<u32> = (0..count).rev().collect();
            let length = |row: u32| 3 + row * row % 97;
            let cut = cut(&rows, slices, length);
            prop_assert_eq!(cut.len(), slices as usize);
            prop_assert!(cut.iter().all(|slice| slice.is_sorted_by_key(|row| (length(*row), *row))));
            let mut flat = cut.concat();
            flat.sort_unstable();
            prop_assert!(flat.into_iter().eq(0..count));
        }

        /// No other cut of the sorted rows has a smaller sum of squared costs.
        #[test]
        fn a_cut_is_the_best(lengths in proptest::collection::vec(1_u32..130, 1..10), slices in 1_u32..5) {
            let rows: Vec<u32> = (0..).take(lengths.len()).collect();
            let length = |row: u32| lengths[row as usize];
            let slice_cost = |slice: &[u32]| {
                let longest = slice.iter().map(|row| length(*row)).max().unwrap_or(0);
                cost(slice.len(), longest as usize).pow(2)
            };
            let found: u64 = cut(&rows, slices, length).iter().map(|slice| slice_cost(slice)).sum();
            let sorted = sorted(&rows, length);
            fn least(rows: &[u32], slices: u32, cost: &dyn Fn(&[u32]) -> u64) -> u64 {
                if slices == 1 {
                    return cost(rows);
                }
                let ways = (0..=rows.len()).map(|end| {
                    cost(&rows[..end]) + least(&rows[end..], slices - 1, cost)
                });
                ways.min().unwrap()
            }
            prop_assert_eq!(found, least(&sorted, slices, &slice_cost));
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

    /// Lengths like those of RTE: two ranks are dealt nearly the same, and so are four.
    #[test]
    fn ranks_get_like_costs() {
        let rows: Vec<u32> = (0..32).collect();
        let length = |row: u32| 20 + row * row / 10;
        let longest = |slice: &Vec<u32>| slice.iter().map(|row| length(*row)).max().unwrap_or(0);
        let slices = cut(&rows, 8, length);
        let costs: Vec<f64> =
            slices.iter().map(|slice| cost(slice.len(), longest(slice) as usize) as f64).collect();
        for (ranks, least) in [(2, 1.9), (4, 3.4)] {
            let runs = deal(&costs, &vec![1.0; ranks]);
            let dearest = runs
                .iter()
                .map(|run| costs[run.start as usize..run.end as usize].iter().sum::<f64>())
                .fold(0.0, f64::max);
            let speed_up = costs.iter().sum::<f64>() / dearest;
            assert!(speed_up > least, "{ranks} ranks: {speed_up} in {costs:?}");
        }
    }

    #[test]
    fn padding_is_at_most_an_eighth() {
        assert_eq!(
            [0, 1, 16, 17, 30, 33, 64, 65, 128, 129].map(padded),
            [0, 1, 16, 18, 30, 36, 64, 72, 128, 144]
        );
        assert!((1..5000).all(|longest| 8 * (padded(longest) - longest) < longest));
    }

    #[test]
    fn a_large_batch_is_cut() {
        let rows: Vec<u32> = (0..65_536).collect();
        for slices in [1, 7, 256, 4096, 16_384] {
            let sizes = cut(&rows, slices, |row| row % 500).iter().map(Vec::len).sum::<usize>();
            assert_eq!(sizes, rows.len());
        }
    }

    #[test]
    fn rows_of_a_split_are_cut_by_number() {
        let slices = cut_by_rows(&[0, 1, 2, 3, 4], 2, |row| 9 - row);
        assert_eq!(slices, [vec![4, 3], vec![2, 1], vec![0]]);
    }

    #[test]
    fn equal_ranks_get_equal_shares() {
        assert_eq!(deal(&[1.0; 8], &[1.0, 1.0]), [0..4, 4..8]);
        assert_eq!(deal(&[1.0; 8], &[3.0, 1.0]), [0..6, 6..8]);
    }
}
