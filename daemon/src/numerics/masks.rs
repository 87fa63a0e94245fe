//! Dropout's factors, sixteen bits of chance each, many blocks of the generator at a time.
//!
//! A stream's numbers are taken in groups of [`LANES`] blocks. A group's 16-bit numbers stand in
//! the order (word of the block, block, low half before high half), so that whole vectors are
//! stored side by side. Which vectors a processor has changes nothing: these are integers.

use super::generator::{ROUNDS, Stream, next_key, philox_round};
use bytemuck::cast_slice;
use half::bf16;
use pulp::{Arch, NullaryFnOnce};

/// Blocks that are computed side by side.
pub(crate) const LANES: usize = 16;
/// Numbers of one group: each block holds eight of 16 bits.
pub(crate) const GROUP: usize = 8 * LANES;

/// A kind of number that a factor can be.
pub trait Factor: Copy {
    /// What is dropped.
    const ZERO: Self;
    /// The nearest number at or below, and the nearest at or above, a value.
    fn around(value: f64) -> [Self; 2];
    /// The number as f64, exactly.
    fn exact(self) -> f64;
}

impl Factor for f32 {
    const ZERO: Self = 0.0;

    fn around(value: f64) -> [Self; 2] {
        #[expect(clippy::cast_possible_truncation, reason = "the nearest fp32 value is meant")]
        let nearest = value as Self;
        // An error of 2^-24 of the value is no reason to mix two neighbours.
        [nearest; 2]
    }

    fn exact(self) -> f64 {
        f64::from(self)
    }
}

impl Factor for bf16 {
    const ZERO: Self = Self::ZERO;

    fn around(value: f64) -> [Self; 2] {
        let nearest = Self::from_f64(value);
        let below =
            if nearest.to_f64() > value { Self::from_bits(nearest.to_bits() - 1) } else { nearest };
        [below, Self::from_bits(below.to_bits() + 1)]
    }

    fn exact(self) -> f64 {
        self.to_f64()
    }
}

/// What a 16-bit number becomes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Levels<T> {
    /// Numbers below it become 0.
    pub(crate) kept_from: u16,
    /// Of the others, those up to it become `low`.
    pub(crate) low_to: u16,
    /// The lower factor of what is kept.
    pub(crate) low: T,
    /// The higher one: the same where the kind is fine enough.
    pub(crate) high: T,
}

impl<T: Factor> Levels<T> {
    /// Inverted dropout with probability p, which counts in steps of 2⁻¹⁶: what is kept becomes
    /// 1 / (1 - p). bf16 has eight bits, so there it becomes one of the two nearest numbers, in such
    /// shares that the mean over all 65536 numbers is 1 (to within 1e-5 / (1 - p)): the nearest
    /// number alone would shrink or stretch all activations by up to 0.4 %.
    pub(crate) fn new(p: f64) -> Self {
        let all = 65_536.0;
        let dropped = (p * all).round().clamp(0.0, all - 1.0);
        let kept = all - dropped;
        let [low, high] = T::around(all / kept);
        let gap = high.exact() - low.exact();
        let rounded_up = if gap > 0.0 { ((all - low.exact() * kept) / gap).round() } else { 0.0 };
        Self { kept_from: whole(dropped), low_to: whole(all - 1.0 - rounded_up), low, high }
    }

    #[inline(always)]
    fn of(&self, number: u16) -> T {
        let kept = if number <= self.low_to { self.low } else { self.high };
        if number < self.kept_from { T::ZERO } else { kept }
    }
}

/// A number of 0 to 65535.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 65535")]
fn whole(number: f64) -> u16 {
    number as u16
}

impl Stream {
    /// Fills `out` with inverted dropout's factors: 0 with probability `p`, else `1 / (1 - p)`.
    pub fn dropout_factors<T: Factor>(&self, p: f64, out: &mut [T]) {
        Arch::new().dispatch(Fill { stream: self, levels: Levels::new(p), out });
    }

    /// The words of a group of blocks, word by word.
    #[inline(always)]
    fn group(&self, group: usize) -> [[u32; LANES]; 4] {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a mask has far less than 2^35 elements"
        )]
        let first = (group * LANES) as u32;
        // Words in 64-bit lanes, as the products want them.
        let mut counter = self.counter(first).map(|word| [u64::from(word); LANES]);
        for (word, lane) in counter[0].iter_mut().zip(0..) {
            *word += lane;
        }
        let mut key = self.key();
        for _ in 0..ROUNDS {
            for lane in 0..LANES {
                let now = [counter[0][lane], counter[1][lane], counter[2][lane], counter[3][lane]];
                let next = philox_round(now, key);
                for (word, next) in counter.iter_mut().zip(next) {
                    word[lane] = next;
                }
            }
            key = next_key(key);
        }
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is the word")]
        counter.map(|word| word.map(|word| word as u32))
    }
}

/// The work, so that it can be compiled once for each set of vector instructions.
struct Fill<'a, T> {
    stream: &'a Stream,
    levels: Levels<T>,
    out: &'a mut [T],
}

impl<T: Factor> NullaryFnOnce for Fill<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { stream, levels, out } = self;
        for (group, out) in out.chunks_mut(GROUP).enumerate() {
            let words = stream.group(group);
            for (word, out) in words.iter().zip(out.chunks_mut(2 * LANES)) {
                let numbers: &[u16] = cast_slice(word);
                for (out, number) in out.iter_mut().zip(numbers) {
                    *out = levels.of(*number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::generator::Purpose;

    const COUNT: usize = 1 << 20;

    fn stream(seed: u64, step: u64, slice: u16, site: u16) -> Stream {
        Stream::new(seed, Purpose::Dropout, step, slice, site)
    }

    /// Which elements of a mask are dropped.
    fn dropped(stream: &Stream, p: f64) -> Vec<bool> {
        let mut factors = vec![0.0_f32; COUNT];
        stream.dropout_factors(p, &mut factors);
        factors.into_iter().map(|factor| factor == 0.0).collect()
    }

    /// Correlation of two rows of chances, in standard deviations of independent ones.
    fn correlation(a: &[bool], b: &[bool], p: f64) -> f64 {
        let of = |dropped: bool| if dropped { 1.0 - p } else { -p };
        let sum: f64 = a.iter().zip(b).map(|(a, b)| of(*a) * of(*b)).sum();
        let count = a.len().min(b.len()) as f64;
        sum / (count.sqrt() * p * (1.0 - p))
    }

    #[test]
    fn a_group_holds_the_generator_s_blocks() {
        let stream = stream(7, 5, 3, 2);
        for group in [0, 1, 77] {
            let words = stream.group(group);
            for lane in 0..LANES {
                let block = stream.block(u32::try_from(group * LANES + lane).unwrap());
                assert_eq!(words.map(|word| word[lane]), block);
            }
        }
    }

    #[test]
    fn the_rate_and_the_scale_are_right() {
        for p in [0.01, 0.1, 0.3, 0.5, 0.9] {
            let mut factors = vec![0.0_f32; COUNT];
            stream(1, 2, 3, 4).dropout_factors(p, &mut factors);
            let count = COUNT as f64;
            let zeros = factors.iter().filter(|factor| **factor == 0.0).count() as f64;
            let deviation = (count * p * (1.0 - p)).sqrt();
            assert!((zeros - count * p).abs() < 5.0 * deviation, "{p}: {zeros}");
            let kept = f64::from(factors.iter().copied().fold(0.0, f32::max));
            assert!((kept * (1.0 - p) - 1.0).abs() < 2e-4, "{p}: {kept}");
            assert!(factors.iter().all(|factor| *factor == 0.0 || f64::from(*factor) == kept));
        }
    }

    /// Over all chances a factor's mean is 1, so that an activation keeps its expectation.
    #[test]
    fn the_mean_is_one_in_both_precisions() {
        fn mean<T: Factor>(p: f64) -> f64 {
            let levels = Levels::<T>::new(p);
            (0..=u16::MAX).map(|number| levels.of(number).exact()).sum::<f64>() / 65_536.0
        }
        for p in [0.01, 0.1, 0.15, 0.25, 0.3, 0.5, 0.75, 0.999] {
            assert!((mean::<f32>(p) - 1.0).abs() < 1e-6, "{p}");
            assert!((mean::<bf16>(p) - 1.0).abs() < 1e-5 / (1.0 - p), "{p}: {}", mean::<bf16>(p));
        }
    }

    #[test]
    fn both_precisions_drop_the_same_elements() {
        let stream = stream(9, 8, 7, 6);
        let (mut wide, mut narrow) = (vec![0.0_f32; 5000], vec![bf16::ZERO; 5000]);
        stream.dropout_factors(0.1, &mut wide);
        stream.dropout_factors(0.1, &mut narrow);
        for (wide, narrow) in wide.iter().zip(&narrow) {
            assert_eq!(*wide == 0.0, *narrow == bf16::ZERO);
            assert!((wide - narrow.to_f32()).abs() < 0.01, "{wide} {narrow}");
        }
    }

    #[test]
    fn a_mask_does_not_depend_on_its_length() {
        let (mut short, mut long) = (vec![0.0_f32; 1001], vec![0.0_f32; 5000]);
        stream(1, 1, 1, 1).dropout_factors(0.5, &mut short);
        stream(1, 1, 1, 1).dropout_factors(0.5, &mut long);
        assert_eq!(short, long[..1001]);
    }

    /// Neighbours, the same place of other lanes, words and groups, and the rows of usual widths.
    #[test]
    fn elements_and_rows_are_independent() {
        for p in [0.1, 0.5] {
            let mask = dropped(&stream(1, 2, 3, 4), p);
            let widths =
                [2 * LANES - 1, 2 * LANES, GROUP - 1, GROUP, GROUP + 1, 84, 384, 768, 1024];
            for lag in (1..=40).chain(widths) {
                let found = correlation(&mask, &mask[lag..], p);
                assert!(found.abs() < 5.0, "p {p}, lag {lag}: {found} standard deviations");
            }
        }
    }

    #[test]
    fn sites_slices_steps_and_seeds_are_independent() {
        let p = 0.3;
        let mask = dropped(&stream(1, 2, 3, 4), p);
        let others = [
            stream(2, 2, 3, 4),
            stream(1, 3, 3, 4),
            stream(1, 2 + (1 << 32), 3, 4),
            stream(1, 2, 4, 4),
            stream(1, 2, 3, 5),
            // One coordinate up and another down.
            stream(1, 3, 2, 4),
            stream(1, 2, 4, 3),
        ];
        for (index, other) in others.iter().enumerate() {
            let found = correlation(&mask, &dropped(other, p), p);
            assert!(found.abs() < 5.0, "{index}: {found} standard deviations");
        }
    }

    /// How many of eight neighbours are dropped follows the binomial distribution (Pearson's
    /// chi-squared, 8 degrees of freedom: above 40 once in 300,000 times).
    #[test]
    fn runs_of_eight_follow_the_binomial_distribution() {
        let mut counts = [0.0; 9];
        for eight in dropped(&stream(3, 2, 1, 0), 0.5).chunks_exact(8) {
            counts[eight.iter().filter(|dropped| **dropped).count()] += 1.0;
        }
        let ways = [1.0, 8.0, 28.0, 56.0, 70.0, 56.0, 28.0, 8.0, 1.0];
        let chi_squared: f64 = counts
            .iter()
            .zip(ways)
            .map(|(count, ways)| {
                let expected = ways / 256.0 * (COUNT / 8) as f64;
                (count - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_squared < 40.0, "{chi_squared}");
    }
}
