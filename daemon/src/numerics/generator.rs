//! The one source of chance: a counter-based generator, so that any number is computed from its
//! place alone, on any rank and thread, in any order.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
//! 2011). The key is the job's seed. The counter's four 32-bit words, least significant first:
//!
//! | word | content |
//! |---|---|
//! | 0 | block: each gives four 32-bit numbers |
//! | 1 | purpose · 2¹⁶ + site |
//! | 2 | bits 32 to 47 of the time · 2¹⁶ + slice |
//! | 3 | bits 0 to 31 of the time: a step for dropout, an epoch for shuffles |

/// Philox4x32-10's.
pub(crate) const ROUNDS: usize = 10;
/// The factors of its products.
pub(crate) const FACTORS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// What numbers are drawn for; each purpose has streams of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// First values of prefix and head.
    Initial = 1,
    /// Order of rows in an epoch.
    Shuffle = 2,
    /// Dropout masks.
    Dropout = 3,
}

/// One stream of numbers.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    key: [u32; 2],
    place: [u32; 3],
}

impl Stream {
    /// The stream of a place. `time` counts steps or epochs (48 bits are used); `site` tells apart
    /// what draws numbers within one slice.
    pub fn new(seed: u64, purpose: Purpose, time: u64, slice: u16, site: u16) -> Self {
        let [low, high] = halves(seed);
        let [time_low, time_high] = halves(time);
        Self {
            key: [low, high],
            place: [
                (purpose as u32) << 16 | u32::from(site),
                (time_high & 0xffff) << 16 | u32::from(slice),
                time_low,
            ],
        }
    }

    pub(crate) fn block(&self, block: u32) -> [u32; 4] {
        philox(self.counter(block), self.key)
    }

    /// Where a block stands.
    #[inline(always)]
    pub(crate) fn counter(&self, block: u32) -> [u32; 4] {
        [block, self.place[0], self.place[1], self.place[2]]
    }

    #[inline(always)]
    pub(crate) fn key(&self) -> [u32; 2] {
        self.key
    }

    /// Fills `out` with normal numbers of mean 0, by Box and Muller's transform in f64.
    pub fn normal(&self, deviation: f64, out: &mut [f32]) {
        for (block, two) in (0..).zip(out.chunks_mut(2)) {
            let [a, b, c, d] = self.block(block);
            // (0, 1], so that the logarithm is finite.
            let radius = (-2.0 * (1.0 - unit(a, b)).ln()).sqrt() * deviation;
            let angle = std::f64::consts::TAU * unit(c, d);
            for (value, wave) in two.iter_mut().zip([angle.cos(), angle.sin()]) {
                #[expect(clippy::cast_possible_truncation, reason = "the nearest fp32 value")]
                let number = (radius * wave) as f32;
                *value = number;
            }
        }
    }

    /// A permutation of `0..n`, each equally likely but for a bias below n·2⁻⁶⁴.
    pub fn permutation(&self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for last in (1..n).rev() {
            let [low, high, _, _] = self.block(last);
            let number = u64::from(high) << 32 | u64::from(low);
            // Multiplying instead of dividing: the high half of a 128-bit product.
            let product = u128::from(number) * u128::from(u64::from(last) + 1);
            let pick = usize::try_from(product >> 64).unwrap_or(0);
            order.swap(last as usize, pick);
        }
        order
    }
}

/// A number in [0, 1) from 53 of 64 bits.
fn unit(low: u32, high: u32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
    let bits = ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64;
    bits / 9_007_199_254_740_992.0
}

fn philox(counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mut words = counter.map(u64::from);
    for _ in 0..ROUNDS {
        words = philox_round(words, key);
        key = next_key(key);
    }
    words.map(|word| halves(word)[0])
}

/// One round on words of 32 bits that stand in 64, as the products want them; the upper halves are
/// of no meaning.
#[inline(always)]
pub(super) fn philox_round(words: [u64; 4], key: [u32; 2]) -> [u64; 4] {
    let low = u64::from(u32::MAX);
    let product0 = (words[0] & low) * u64::from(FACTORS[0]);
    let product1 = (words[2] & low) * u64::from(FACTORS[1]);
    [
        (product1 >> 32) ^ words[1] ^ u64::from(key[0]),
        product1,
        (product0 >> 32) ^ words[3] ^ u64::from(key[1]),
        product0,
    ]
}

/// The key of the round after.
#[inline(always)]
pub(crate) fn next_key(key: [u32; 2]) -> [u32; 2] {
    [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)]
}

/// The low and the high half.
#[expect(clippy::cast_possible_truncation, reason = "halves are what is meant")]
#[inline(always)]
fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123.
    #[test]
    fn philox_gives_the_published_numbers() {
        let check = |counter, key, expected| assert_eq!(philox(counter, key), expected);
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = u32::MAX;
        check([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let mut values = vec![0.0; 100_000];
        Stream::new(5, Purpose::Initial, 0, 0, 0).normal(0.02, &mut values);
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / 1e5;
        let variance = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 3e-4 && (variance.sqrt() - 0.02).abs() < 3e-4);
    }

    #[test]
    fn permutations_hold_each_row_once() {
        let stream = |epoch| Stream::new(1, Purpose::Shuffle, epoch, 0, 0);
        let order = stream(0).permutation(1000);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_ne!(order, stream(1).permutation(1000));
        assert_eq!(order, stream(0).permutation(1000));
        assert!(stream(0).permutation(0).is_empty());
    }

    #[test]
    fn every_coordinate_of_a_place_counts() {
        let first = |seed, time, slice, site| {
            Stream::new(seed, Purpose::Dropout, time, slice, site).block(0)
        };
        let base = first(1, 1, 1, 1);
        for other in [
            first(2, 1, 1, 1),
            first(1, 2, 1, 1),
            first(1, 1 + (1 << 32), 1, 1),
            first(1, 1, 2, 1),
            first(1, 1, 1, 2),
        ] {
            assert_ne!(base, other);
        }
    }
}
