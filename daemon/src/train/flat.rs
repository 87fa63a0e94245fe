//! A tuned state that lies on a device, and what a step makes of it: mean, clipping and AdamW as
//! [`crate::numerics::adamw`] has them, by torch operators in the same order, none of which does two
//! roundings as one. So the bits are the host's, but for the norm, whose squares a device adds in an order of
//! its own: it may differ in the last of its 53 bits, and a clipped gradient by one rounding of fp32.
//!
//! Nothing here waits for the device but [`Flat::store`] and whoever copies what [`Flat::update`] gives.

use super::Result;
use super::batch::signed;
use super::step::{Setting, Tuned};
use crate::numerics::adamw::Settings;
use crate::numerics::state::TunedState;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Odd numbers: multiplying by them loses no bit of 64.
const MIXERS: [i64; 2] =
    [0x9E37_79B9_7F4A_7C15_u64.cast_signed(), 0xD1B5_4A32_D192_ED03_u64.cast_signed()];
/// How far a word's upper bits are brought down, and what is left of them then.
const SHIFT: i64 = 29;
const SHIFTED: i64 = (1 << (64 - SHIFT)) - 1;

/// Values, moments and sums, flat fp32 in the layout's order, reserved once.
pub(super) struct Flat {
    setting: Arc<Setting>,
    values: Tensor,
    /// Of the tuned values only, likewise the second.
    moment1: Tensor,
    moment2: Tensor,
    /// A step's summed gradient, loss sum and row count.
    pub(super) sums: Tensor,
    /// The values as the network reads them: they share its memory.
    pub(super) leaves: Tuned,
}

/// What a step's numbers were, and the hash of the state after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Report {
    pub(super) loss: f64,
    pub(super) rows: f64,
    pub(super) norm: f64,
    pub(super) hash: u64,
}

impl Report {
    /// Waits for the device and copies what [`Flat::update`] gave.
    pub(super) fn read(there: &Tensor) -> Result<Self> {
        let mut words = [0_i64; 4];
        there.f_copy_data(&mut words, 4)?;
        let [loss, rows, norm, hash] = words.map(i64::cast_unsigned);
        let [loss, rows, norm] = [loss, rows, norm].map(f64::from_bits);
        Ok(Self { loss, rows, norm, hash })
    }
}

impl Flat {
    /// Reserves what a job's state takes.
    pub(super) fn new(setting: &Arc<Setting>, device: Device) -> Result<Self> {
        let tuned = setting.layout.tuned_len();
        let zeros = |count: usize| Tensor::f_zeros([signed(count)], (Kind::Float, device));
        let values = zeros(setting.layout.len())?;
        Ok(Self {
            setting: Arc::clone(setting),
            leaves: Tuned::within(setting, &values)?,
            values,
            moment1: zeros(tuned)?,
            moment2: zeros(tuned)?,
            sums: zeros(tuned + 2)?,
        })
    }

    /// Takes a state over.
    pub(super) fn load(&mut self, state: &TunedState) -> Result<()> {
        let tuned = self.setting.layout.tuned_len();
        self.values.f_copy_(&Tensor::f_from_slice(&state.values)?)?;
        self.moment1.f_copy_(&Tensor::f_from_slice(&state.moment1[..tuned])?)?;
        self.moment2.f_copy_(&Tensor::f_from_slice(&state.moment2[..tuned])?)?;
        Ok(())
    }

    /// Writes values and moments into a state on the host.
    pub(super) fn store(&self, state: &mut TunedState) -> Result<()> {
        let tuned = self.setting.layout.tuned_len();
        let count = state.values.len();
        self.values.f_copy_data(&mut state.values, count)?;
        self.moment1.f_copy_data(&mut state.moment1[..tuned], tuned)?;
        self.moment2.f_copy_data(&mut state.moment2[..tuned], tuned)?;
        Ok(())
    }

    /// Makes a step of the sums, unless loss or norm are no finite numbers: then nothing changes. Gives, on
    /// the device, what [`Report::read`] reads.
    pub(super) fn update(&mut self, settings: &Settings, max_norm: f64) -> Result<Tensor> {
        let tuned = signed(self.setting.layout.tuned_len());
        let mut gradient = self.sums.f_narrow(0, 0, tuned)?;
        // The mean over the batch's true number of rows.
        drop(gradient.f_div_(&self.sums.f_select(0, tuned + 1)?)?);
        let norm = clip_global_norm(&mut gradient, max_norm)?;
        let loss = self.sums.f_select(0, tuned)?;
        let is_finite = loss.f_isfinite()?.f_logical_and(&norm.f_isfinite()?)?;
        self.adamw(gradient, settings, &is_finite)?;
        let behind = self.sums.f_narrow(0, tuned, 2)?.f_to_kind(Kind::Double)?;
        let numbers = Tensor::f_cat(&[behind, norm.f_view([1])?], 0)?.f_view_dtype(Kind::Int64)?;
        Ok(Tensor::f_cat(&[numbers, self.hash()?.f_view([1])?], 0)?)
    }

    /// The update of `numerics::adamw`. Where not `is_finite`, each factor is the one that changes nothing.
    fn adamw(&mut self, mut gradient: Tensor, at: &Settings, is_finite: &Tensor) -> Result<()> {
        let (is_bad, options) = (is_finite.f_logical_not()?, (Kind::Float, self.values.device()));
        // Not by `where`, which copies numbers of the host's to the device, and waits for that.
        let either = |number: f32, otherwise: f64| -> Result<Tensor> {
            let mut one = Tensor::f_full([0_i64; 0], f64::from(number), options)?;
            Ok(one.f_masked_fill_(&is_bad, otherwise)?)
        };
        let add = |moment: &Tensor, factor: Tensor, new: &Tensor| -> Result<()> {
            let mut moment = moment.shallow_clone();
            drop(moment.f_mul_(&factor)?.f_add_(new)?);
            Ok(())
        };
        drop(gradient.f_masked_fill_(&is_bad, 0.0)?);
        let new = gradient.f_mul_scalar(f64::from(at.rest1))?;
        add(&self.moment1, either(at.beta1, 1.0)?, &new)?;
        let same = gradient.shallow_clone();
        let new = gradient.f_mul_(&same)?.f_mul_scalar_(f64::from(at.rest2))?;
        add(&self.moment2, either(at.beta2, 1.0)?, &new)?;
        // By way of f64: torch's root of fp32 is not the nearest number on every device.
        let root = self.moment2.f_to_kind(Kind::Double)?.f_sqrt_()?.f_to_kind(Kind::Float)?;
        let root = root.shallow_clone().f_add_scalar_(f64::from(at.epsilon))?;
        let change = self.moment1.f_div(&root)?.f_mul_(&either(at.step_size, 0.0)?)?;
        drop(self.values.f_narrow(0, 0, signed(root.numel()))?.f_sub_(&change)?);
        // After the Adam update, on the updated value. A bias, too: without decay its -0 becomes 0.
        let (decay, none) = (either(at.decay, 0.0)?, either(0.0, 0.0)?);
        for tensor in self.setting.layout.tensors() {
            let (start, length) = (signed(tensor.range.start), signed(tensor.range.len()));
            let mut part = self.values.f_narrow(0, start, length)?;
            let change = part.f_mul(if tensor.decay { &decay } else { &none })?;
            drop(part.f_sub_(&change)?);
        }
        Ok(())
    }

    /// A 64-bit hash of values and moments, `[]`. Each word's mixing, by its place, loses nothing, and sums of
    /// integers have no order: any single difference shows, and equal states have equal hashes.
    pub(super) fn hash(&self) -> Result<Tensor> {
        let mut first = 0;
        let mut total = Tensor::f_zeros([0_i64; 0], (Kind::Int64, self.values.device()))?;
        for buffer in [&self.values, &self.moment1, &self.moment2] {
            let end = first + signed(buffer.numel());
            let bits = buffer.f_view_dtype(Kind::Int)?.f_to_kind(Kind::Int64)?;
            let mut words = Tensor::f_arange_start(first, end, (Kind::Int64, buffer.device()))?
                .f_mul_scalar_(MIXERS[0])?
                .f_bitwise_xor_tensor_(&bits)?
                .f_mul_scalar_(MIXERS[1])?;
            let upper =
                words.f_bitwise_right_shift_tensor_scalar(SHIFT)?.f_bitwise_and_(SHIFTED)?;
            let sum = words.f_bitwise_xor_tensor_(&upper)?.f_mul_scalar_(MIXERS[0])?;
            drop(total.f_add_(&sum.f_sum(Kind::Int64)?)?);
            first = end;
        }
        Ok(total)
    }
}

/// Clips a gradient to a global norm and gives the norm before, f64 `[]`. `max_norm` 0 leaves it alone.
fn clip_global_norm(gradient: &mut Tensor, max_norm: f64) -> Result<Tensor> {
    let wide = gradient.f_to_kind(Kind::Double)?;
    let norm = wide.f_mul(&wide)?.f_sum(Kind::Double)?.f_sqrt()?;
    if max_norm > 0.0 {
        let most = Tensor::f_full([0_i64; 0], max_norm, (Kind::Double, norm.device()))?;
        let coefficient = most.f_div(&norm.f_add_scalar(1e-6)?)?.f_clamp_max(1.0)?;
        drop(gradient.f_mul_(&coefficient.f_to_kind(Kind::Float)?)?);
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::adamw::{self, AdamW};
    use crate::numerics::generator::{Purpose, Stream};
    use crate::numerics::state::Layout;
    use crate::train::dropout::Rates;

    const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

    fn setting() -> Arc<Setting> {
        Arc::new(Setting {
            choices: 1,
            outputs: 3,
            prefix: 5,
            rates: Rates { hidden: 0.0, attention: 0.0, prefix: 0.0, head: 0.0 },
            layout: Layout::new(5, 2, 32, 3),
            pooler: None,
            #[cfg(feature = "faults")]
            process: 0,
        })
    }

    /// Sums of a step: a gradient of any size, loss sum, row count.
    fn sums(setting: &Setting, step: u64, size: f64) -> Vec<f32> {
        let mut sums = vec![0.0; setting.layout.tuned_len()];
        Stream::new(3, Purpose::Initial, step, 0, 0).normal(size, &mut sums);
        // Zeros, and numbers as small as epsilon.
        sums[7] = 0.0;
        sums[11] *= 1e-7;
        sums.extend([25.0, 12.0]);
        sums
    }

    fn made(flat: &mut Flat, sums: &[f32], settings: &Settings, max_norm: f64) -> Report {
        flat.sums.copy_(&Tensor::from_slice(sums));
        Report::read(&flat.update(settings, max_norm).unwrap()).unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn same(flat: &Flat, host: &TunedState) {
        let mut found = TunedState::new(vec![0.0; host.values.len()]);
        flat.store(&mut found).unwrap();
        assert_eq!(bits(&found.moment1), bits(&host.moment1));
        assert_eq!(bits(&found.moment2), bits(&host.moment2));
        assert_eq!(bits(&found.values), bits(&host.values));
    }

    /// Twenty steps, clipped and not, with and without decay: the host's bits.
    #[test]
    fn steps_are_the_hosts() {
        let setting = setting();
        for (adamw, max_norm, size) in [
            (ADAMW, 0.0, 1.0),
            (ADAMW, 1.0, 1.0),
            (ADAMW, 1.0, 1e-4),
            (AdamW { weight_decay: 0.0, ..ADAMW }, 2.5, 3.0),
        ] {
            let mut host = TunedState::new(setting.initial_values(11));
            host.values[3] = -0.0;
            let mut flat = Flat::new(&setting, Device::Cpu).unwrap();
            flat.load(&host).unwrap();
            for step in 0..20 {
                let mut sums = sums(&setting, step, size);
                let rate = 5e-3 / (1.0 + step as f64);
                let settings = adamw.settings(step + 1, rate);
                let report = made(&mut flat, &sums, &settings, max_norm);
                let elements = sums.len() - 2;
                let gradient = &mut sums[..elements];
                gradient.iter_mut().for_each(|value| *value /= 12.0);
                let norm = adamw::clip_global_norm(gradient, max_norm);
                adamw.update(&setting.layout, &mut host, gradient, rate);
                assert!((report.norm / norm - 1.0).abs() < 1e-12, "{report:?} {norm}");
                assert_eq!((report.loss, report.rows), (25.0, 12.0));
                same(&flat, &host);
            }
        }
    }

    #[test]
    fn what_is_not_finite_changes_nothing() {
        let setting = setting();
        let state = TunedState::new(setting.initial_values(11));
        let mut flat = Flat::new(&setting, Device::Cpu).unwrap();
        flat.load(&state).unwrap();
        let settings = ADAMW.settings(1, 1e-2);
        let good = sums(&setting, 0, 1.0);
        let before = made(&mut flat, &good, &settings, 1.0);
        let mut kept = state;
        flat.store(&mut kept).unwrap();
        let loss = good.len() - 2;
        for (at, number) in [(0, f32::NAN), (5, f32::INFINITY), (loss, f32::NAN)] {
            for max_norm in [0.0, 1.0] {
                let mut bad = good.clone();
                bad[at] = number;
                let report = made(&mut flat, &bad, &settings, max_norm);
                assert!(!report.loss.is_finite() || !report.norm.is_finite(), "{report:?}");
                assert_eq!(report.hash, before.hash);
                same(&flat, &kept);
            }
        }
    }

    #[test]
    fn every_bit_shows_in_the_hash() {
        let setting = setting();
        let mut state = TunedState::new(setting.initial_values(11));
        let mut flat = Flat::new(&setting, Device::Cpu).unwrap();
        let mut hash = |state: &TunedState| {
            flat.load(state).unwrap();
            flat.hash().unwrap().int64_value(&[])
        };
        let first = hash(&state);
        assert_eq!(first, hash(&state));
        let mut seen = std::collections::BTreeSet::from([first]);
        for (at, bit) in [(0, 0), (0, 31), (1, 31), (17, 15), (state.values.len() - 1, 3)] {
            for which in 0..3 {
                let flip = |state: &mut TunedState| {
                    let buffers = [&mut state.values, &mut state.moment1, &mut state.moment2];
                    let [one, two, three] = buffers;
                    let value = &mut [one, two, three][which][at];
                    *value = f32::from_bits(value.to_bits() ^ 1 << bit);
                };
                flip(&mut state);
                assert!(seen.insert(hash(&state)), "{at} {bit} {which}");
                flip(&mut state);
            }
        }
        state.values.swap(3 + 40, 3 + 41);
        assert!(seen.insert(hash(&state)));
    }
}
