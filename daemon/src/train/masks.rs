//! Dropout's factors by torch operators, where the host's would have to cross to a device: bit for bit
//! those of [`crate::numerics::masks`].
//!
//! A generator's block takes a hundred small operators, whatever the number of blocks. So the blocks of
//! many sites stand side by side in one tensor, which takes knowing early which sites there will be: those
//! that asked in the last slice of the same shape. A site that was not foreseen is computed on its own, to
//! the same bits.
//!
//! Operators: [`OPERATORS`] for each batch of blocks, and for each site 2 that say where it stands and 2
//! (fp32) or 4 (bf16) that make factors of words. A slice of BERT-large (75 sites, 8 rows, S = 128, P = 20:
//! 14 million blocks) takes 1,250 of them where each site alone would take 7,950.
//!
//! On a GPU one kernel makes a site's factors when they are asked for ([`Kernel`]); the operators are what it is
//! compared with, and the way where it cannot be had.

use super::Result;
use crate::cuda::masks::Kernel;
use crate::numerics::generator::{FACTORS, Purpose, ROUNDS, Stream, next_key};
use crate::numerics::masks::{Factor, GROUP, LANES, Levels};
use half::bf16;
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Device, Kind, TchError, Tensor};

/// Blocks that are computed side by side, unless a single site has more. They take eight words of 64 bits
/// each: 128 MiB.
const BLOCKS: i64 = 1 << 21;
/// The lower half of a word.
const LOW: i64 = 0xFFFF_FFFF;
/// The first bits of both 16-bit halves: with them flipped, the order of signed numbers is that of
/// unsigned ones.
const SIGNS: i64 = 0x8000_8000;
/// Operators for each batch of blocks: 4 of the first round, 10 of each other, 4 that put words in order
/// and 2 that make the buffers.
#[cfg(test)]
const OPERATORS: usize = 4 + 10 * (ROUNDS - 1) + 4 + 2;

/// Where dropout stands: all that its masks follow from, but for the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seed: u64,
    pub(super) step: u64,
    pub(super) slice: u16,
}

impl Place {
    /// The numbers of a site.
    pub(super) fn stream(self, site: u16) -> Stream {
        Stream::new(self.seed, Purpose::Dropout, self.step, self.slice, site)
    }
}

/// A site's factors, before they have a shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wanted {
    pub(super) site: u16,
    pub(super) rate: f64,
    pub(super) kind: Kind,
    pub(super) count: usize,
}

impl Wanted {
    /// Groups of blocks that hold as many numbers.
    fn groups(&self) -> i64 {
        signed(self.count.div_ceil(GROUP))
    }

    fn blocks(&self) -> i64 {
        self.groups() * signed(LANES)
    }
}

/// Factors of one slice after the other.
#[derive(Debug)]
pub(super) struct Masks {
    /// The slice at hand.
    place: Place,
    by: By,
}

/// What makes factors.
#[derive(Debug)]
enum By {
    /// Each site's when they are asked for.
    Kernel(Arc<Kernel>),
    Operators(Operators),
}

impl Masks {
    /// By the kernel, where it could be loaded.
    pub(super) fn new(device: Device) -> Self {
        Kernel::of(device).map_or_else(|| Self::by_operators(device), Self::by_kernel)
    }

    /// By operators, whatever the device.
    pub(super) fn by_operators(device: Device) -> Self {
        Self::by(By::Operators(Operators::new(device)))
    }

    fn by_kernel(kernel: Arc<Kernel>) -> Self {
        Self::by(By::Kernel(kernel))
    }

    fn by(by: By) -> Self {
        Self { place: Place { seed: 0, step: 0, slice: 0 }, by }
    }

    /// Computes what a slice of this shape (sequences, length) will ask for, as far as it is known and takes
    /// operators.
    pub(super) fn begin(&mut self, place: Place, shape: [i64; 2]) -> Result<()> {
        self.place = place;
        match &mut self.by {
            By::Kernel(_) => Ok(()),
            By::Operators(operators) => operators.begin(place, shape),
        }
    }

    /// One site's factors, flat.
    pub(super) fn take(&mut self, wanted: Wanted) -> Result<Tensor> {
        match &mut self.by {
            By::Kernel(kernel) => {
                let Wanted { site, rate, kind, count } = wanted;
                let made = kernel.factors(&self.place.stream(site), rate, kind, count);
                Ok(made.map_err(|error| TchError::Torch(error.to_string()))?)
            }
            By::Operators(operators) => operators.take(self.place, wanted),
        }
    }
}

/// Makes the factors of all known sites of a slice together.
#[derive(Debug)]
struct Operators {
    device: Device,
    /// Which factors slices of a shape ask for.
    known: BTreeMap<[i64; 2], Vec<Wanted>>,
    /// That of the slice at hand.
    shape: [i64; 2],
    ready: Vec<(Wanted, Tensor)>,
    /// What chances become, by rate and kind.
    levels: Vec<((f64, Kind), Factors)>,
}

impl Operators {
    fn new(device: Device) -> Self {
        let (known, ready, levels) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { device, known, shape: [0; 2], ready, levels }
    }

    fn begin(&mut self, place: Place, shape: [i64; 2]) -> Result<()> {
        self.shape = shape;
        self.ready.clear();
        let known = self.known.get(&shape).cloned().unwrap_or_default();
        let mut rest = known.as_slice();
        while !rest.is_empty() {
            let mut blocks = 0;
            let fits = |wanted: &&Wanted| {
                blocks += wanted.blocks();
                blocks <= BLOCKS
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            for (wanted, factors) in now.iter().zip(self.computed(place, now)?) {
                self.ready.push((*wanted, factors));
            }
            rest = later;
        }
        Ok(())
    }

    fn take(&mut self, place: Place, wanted: Wanted) -> Result<Tensor> {
        if let Some(at) = self.ready.iter().position(|(known, _)| *known == wanted) {
            return Ok(self.ready.swap_remove(at).1);
        }
        let known = self.known.entry(self.shape).or_default();
        // What changed its count or kind takes the place of what it was.
        known.retain(|other| other.site != wanted.site);
        known.push(wanted);
        let mut alone = self.computed(place, &[wanted])?;
        Ok(alone.remove(0))
    }

    /// The factors of some sites, in one batch.
    fn computed(&mut self, place: Place, sites: &[Wanted]) -> Result<Vec<Tensor>> {
        let numbers = numbers(place, sites, self.device)?; // [groups, 4, LANES, 2]
        let mut first = 0;
        let mut all = Vec::with_capacity(sites.len());
        for site in sites {
            let own = numbers.f_narrow(0, first, site.groups())?;
            first += site.groups();
            let factors = self.levels(site.rate, site.kind)?.of(&own)?;
            all.push(factors.f_view([-1])?.f_narrow(0, 0, signed(site.count))?);
        }
        Ok(all)
    }

    fn levels(&mut self, rate: f64, kind: Kind) -> Result<&Factors> {
        let at = match self.levels.iter().position(|(known, _)| *known == (rate, kind)) {
            Some(at) => at,
            None => {
                self.levels.push(((rate, kind), Factors::new(rate, kind, self.device)?));
                self.levels.len() - 1
            }
        };
        Ok(&self.levels[at].1)
    }
}

/// What a 16-bit number of chance becomes, as [`Levels`] on a device.
#[derive(Debug)]
struct Factors {
    kept_from: i64,
    /// None where both factors of what is kept are the same.
    high_above: Option<i64>,
    /// `[]`, each.
    zero: Tensor,
    low: Tensor,
    high: Tensor,
}

impl Factors {
    fn new(rate: f64, kind: Kind, device: Device) -> Result<Self> {
        let (kept_from, low_to, low, high) = if kind == Kind::BFloat16 {
            exact(&Levels::<bf16>::new(rate))
        } else {
            exact(&Levels::<f32>::new(rate))
        };
        // Numbers come with their first bit flipped, so bounds do too.
        let flipped = |bound: u16| i64::from(bound) - 0x8000;
        let value = |number: f64| Tensor::f_full([0_i64; 0], number, (kind, device));
        Ok(Self {
            kept_from: flipped(kept_from),
            high_above: (low < high).then(|| flipped(low_to)),
            zero: value(0.0)?,
            low: value(low)?,
            high: value(high)?,
        })
    }

    fn of(&self, numbers: &Tensor) -> Result<Tensor> {
        let is_kept = numbers.f_ge(self.kept_from)?;
        Ok(match self.high_above {
            None => self.low.f_where_self(&is_kept, &self.zero)?,
            Some(bound) => self
                .high
                .f_where_self(&numbers.f_gt(bound)?, &self.low)?
                .f_where_self(&is_kept, &self.zero)?,
        })
    }
}

fn exact<T: Factor>(levels: &Levels<T>) -> (u16, u16, f64, f64) {
    (levels.kept_from, levels.low_to, levels.low.exact(), levels.high.exact())
}

/// The 16-bit numbers of some sites' groups, one site behind the other, in the order that
/// [`crate::numerics::masks`] says, their first bits flipped: `[groups, 4, LANES, 2]`.
///
/// Words of 32 bits stand in the lower halves of 64; the upper ones are of no meaning. Products are meant
/// modulo 2⁶⁴.
fn numbers(place: Place, sites: &[Wanted], device: Device) -> Result<Tensor> {
    let lanes = signed(LANES);
    let most = sites.iter().map(Wanted::blocks).max().unwrap_or(0);
    let total: i64 = sites.iter().map(Wanted::blocks).sum();
    let counted = Tensor::f_arange(most, (Kind::Int64, device))?;
    let options = (Kind::Int64, device);
    let (blocks, mut words0) = (Tensor::f_empty(total, options)?, Tensor::f_empty(total, options)?);
    let [factor0, factor1] = FACTORS.map(i64::from);
    let mut key = place.stream(0).key();
    let mut start = 0;
    for site in sites {
        // Of the first round half depends on no block: it is the same for all of a site.
        let [_, word1, word2, _] = place.stream(site.site).counter(0);
        let first = halves(word2)[1] ^ i64::from(word1) ^ i64::from(key[0]);
        let own = |all: &Tensor| all.f_narrow(0, start, site.blocks());
        own(&blocks)?.f_copy_(&counted.f_narrow(0, 0, site.blocks())?)?;
        drop(own(&words0)?.f_fill_(first)?);
        start += site.blocks();
    }
    let [_, _, word2, word3] = place.stream(0).counter(0);
    let mut blocks = blocks;
    let mut words3 = blocks.f_mul_scalar_(factor0)?;
    let mut words2 = words3
        .f_bitwise_right_shift_tensor_scalar(32)?
        .f_bitwise_xor_(i64::from(word3) ^ i64::from(key[1]))?;
    let mut words1 = Tensor::f_full([0_i64; 0], halves(word2)[0], options)?;
    for _ in 1..ROUNDS {
        key = next_key(key);
        let product0 = words0.f_bitwise_and_(LOW)?.f_mul_scalar_(factor0)?;
        let product1 = words2.f_bitwise_and_(LOW)?.f_mul_scalar_(factor1)?;
        words0 = mixed(&product1, &words1, key[0])?;
        words2 = mixed(&product0, &words3, key[1])?;
        (words1, words3) = (product1, product0);
    }
    let words = [words0, words1, words2, words3];
    let words: Vec<Tensor> = words
        .iter()
        .map(|words| words.f_view([-1, lanes]))
        .collect::<std::result::Result<_, _>>()?;
    let mut stacked = Tensor::f_stack(&words, 1)?; // [groups, 4, LANES]
    let flipped = stacked.f_bitwise_xor_(SIGNS)?.f_view_dtype(Kind::Int16)?; // [groups, 4, 4·LANES]
    // Of each 64 bits the lower two numbers, the low half first: so they lie in memory.
    Ok(flipped.f_view([-1, 4, lanes, 4])?.f_narrow(3, 0, 2)?)
}

/// The next word of a product's upper half.
fn mixed(product: &Tensor, other: &Tensor, key: u32) -> Result<Tensor> {
    Ok(product
        .f_bitwise_right_shift_tensor_scalar(32)?
        .f_bitwise_xor_tensor_(other)?
        .f_bitwise_xor_(i64::from(key))?)
}

/// Both halves of a word's product with the second factor, the lower first.
fn halves(word: u32) -> [i64; 2] {
    let product = u64::from(word) * u64::from(FACTORS[1]);
    [product & u64::from(u32::MAX), product >> 32].map(|half| i64::try_from(half).unwrap_or(0))
}

fn signed(size: usize) -> i64 {
    super::batch::signed(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { seed: 0xD00D_FEED_1234_5678, step: (5 << 32) + 77, slice: 0xBEEF };

    /// The host's factors, as exact numbers.
    fn host(place: Place, wanted: &Wanted) -> Vec<f64> {
        let count = wanted.count;
        let stream = place.stream(wanted.site);
        if wanted.kind == Kind::BFloat16 {
            let mut factors = vec![bf16::ZERO; count];
            stream.dropout_factors(wanted.rate, &mut factors);
            return factors.into_iter().map(Factor::exact).collect();
        }
        let mut factors = vec![0.0_f32; count];
        stream.dropout_factors(wanted.rate, &mut factors);
        factors.into_iter().map(Factor::exact).collect()
    }

    fn same(place: Place, wanted: &Wanted, found: &Tensor) {
        assert_eq!((found.kind(), found.numel()), (wanted.kind, wanted.count));
        let found = Vec::<f64>::try_from(found.to_kind(Kind::Double)).unwrap();
        assert!(found == host(place, wanted), "{wanted:?}");
    }

    fn sites() -> Vec<Wanted> {
        let counts = [1, 31, 127, 128, 129, 1000, 4096, 50_001];
        let kinds = [
            (Kind::Float, 0.1),
            (Kind::BFloat16, 0.1),
            (Kind::Float, 0.5),
            (Kind::BFloat16, 0.3),
            (Kind::BFloat16, 0.999),
        ];
        let all =
            counts.into_iter().flat_map(|count| kinds.map(|(kind, rate)| (count, kind, rate)));
        (0x7FF0..)
            .step_by(3)
            .zip(all)
            .map(|(site, (count, kind, rate))| Wanted { site, rate, kind, count })
            .collect()
    }

    #[test]
    fn factors_are_the_hosts_alone_and_in_a_batch() {
        let sites = sites();
        for place in [PLACE, Place { seed: 0, step: 0, slice: 0 }] {
            let mut operators = Operators::new(Device::Cpu);
            operators.begin(place, [2, 3]).unwrap();
            for wanted in &sites {
                same(place, wanted, &operators.take(place, *wanted).unwrap());
            }
            // Known by now, so they are computed together.
            let next = Place { step: place.step + 1, ..place };
            operators.begin(next, [2, 3]).unwrap();
            assert_eq!(operators.ready.len(), sites.len());
            for wanted in sites.iter().rev() {
                same(next, wanted, &operators.take(next, *wanted).unwrap());
            }
            assert!(operators.ready.is_empty());
        }
    }

    #[test]
    fn the_kernels_factors_are_the_hosts() {
        crate::cuda::masks::tests::with_stand_in("train::masks::tests::by_the_stand_in", "");
    }

    #[test]
    #[ignore = "run by the test above"]
    fn by_the_stand_in() {
        let kernel = Kernel::load(0, Device::Cpu).unwrap();
        let mut masks = Masks::by_kernel(Arc::new(kernel));
        for place in [PLACE, Place { seed: 0, step: 0, slice: 0 }] {
            masks.begin(place, [2, 3]).unwrap();
            for wanted in sites() {
                same(place, &wanted, &masks.take(wanted).unwrap());
            }
        }
        let wrong = Wanted { site: 1, rate: 0.1, kind: Kind::Half, count: 8 };
        let error = masks.take(wrong).unwrap_err().to_string();
        assert!(error.contains("8 factors of Half: expected fp32 or bf16"), "{error}");
    }

    #[test]
    fn a_site_that_changes_is_known_anew() {
        let mut operators = Operators::new(Device::Cpu);
        let wanted = Wanted { site: 3, rate: 0.1, kind: Kind::Float, count: 100 };
        let longer = Wanted { count: 300, ..wanted };
        for (shape, asked) in [([1, 1], wanted), ([1, 1], longer), ([1, 2], wanted)] {
            operators.begin(PLACE, shape).unwrap();
            same(PLACE, &asked, &operators.take(PLACE, asked).unwrap());
            assert_eq!(operators.known[&shape], [asked]);
        }
        // Asked twice, it is computed twice.
        operators.begin(PLACE, [1, 2]).unwrap();
        same(PLACE, &wanted, &operators.take(PLACE, wanted).unwrap());
        same(PLACE, &wanted, &operators.take(PLACE, wanted).unwrap());
    }

    /// The number that the module's head gives.
    #[test]
    fn operators_are_counted() {
        assert_eq!(OPERATORS, 100);
        let rows = 8;
        let site = |count: usize| Wanted { site: 0, rate: 0.1, kind: Kind::BFloat16, count };
        let (attention, hidden) = (rows * 16 * 128 * 148, rows * 128 * 1024);
        let mut sites = vec![site(hidden), site(48 * rows * 20 * 1024), site(rows * 1024)];
        for _ in 0..24 {
            sites.extend([site(attention), site(hidden), site(hidden)]);
        }
        let blocks: i64 = sites.iter().map(Wanted::blocks).sum();
        assert_eq!((sites.len(), blocks / 1_000_000), (75, 14));
        let batches = usize::try_from((blocks + BLOCKS - 1) / BLOCKS).unwrap();
        assert_eq!(batches * OPERATORS + sites.len() * 6, 1250);
        assert_eq!(sites.len() * (OPERATORS + 6), 7950);
    }
}
