//! Dropout whose masks follow from the job alone: (seed, step, slice, site, element).

use super::Result;
use super::masks::{Masks, Place, Wanted};
use crate::numerics::generator::Stream;
use crate::numerics::masks::Factor;
use bytemuck::{Pod, cast_slice};
use half::bf16;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// Where a mask is applied. Each place has a number of its own within a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The embeddings' sum after its norm.
    Embeddings,
    /// The prefix.
    Prefix,
    /// The head's input.
    Head,
    /// A layer's attention probabilities.
    Attention(usize),
    /// A layer's attention output.
    AttentionOutput(usize),
    /// A layer's output.
    Output(usize),
    /// A layer's embeddings of distances.
    Distances(usize),
    /// The convolution beside the first layer.
    Convolution,
}

impl Site {
    fn number(self) -> u16 {
        let number = match self {
            Self::Embeddings => 0,
            Self::Prefix => 1,
            Self::Head => 2,
            Self::Attention(layer) => 3 + 3 * layer,
            Self::AttentionOutput(layer) => 4 + 3 * layer,
            Self::Output(layer) => 5 + 3 * layer,
            // Behind those of the most layers that a backbone may have.
            Self::Convolution => 0x8000,
            Self::Distances(layer) => 0x8001 + layer,
        };
        u16::try_from(number).unwrap_or(u16::MAX)
    }
}

/// The probabilities in effect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Hidden states: embeddings of words and distances, and the outputs of each layer's parts.
    pub hidden: f64,
    /// Attention probabilities.
    pub attention: f64,
    /// The prefix.
    pub prefix: f64,
    /// The head's input.
    pub head: f64,
}

/// The dropout of one slice of one step, or none at all.
#[derive(Debug, Clone)]
pub struct Dropout {
    keyed: Option<Keyed>,
    /// What computes factors on a device; without it, the host does.
    masks: Option<SharedMasks>,
}

#[derive(Debug, Clone, Copy)]
struct Keyed {
    rates: Rates,
    place: Place,
}

/// Computes factors on a device, and knows which to expect.
#[derive(Debug, Clone)]
pub struct SharedMasks(Arc<Mutex<Masks>>);

impl SharedMasks {
    /// Of a device; nothing is expected yet.
    pub fn new(device: Device) -> Self {
        Self(Arc::new(Mutex::new(Masks::new(device))))
    }

    /// The same by torch's operators, though a kernel may be at hand.
    pub fn by_operators(device: Device) -> Self {
        Self(Arc::new(Mutex::new(Masks::by_operators(device))))
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Masks) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Dropout {
    /// No dropout, as in evaluation.
    pub const OFF: Self = Self { keyed: None, masks: None };

    /// The masks of a slice of a step.
    pub fn new(rates: Rates, seed: u64, step: u64, slice: u16) -> Self {
        Self { keyed: Some(Keyed { rates, place: Place { seed, step, slice } }), masks: None }
    }

    /// The same masks, computed on a device, for a slice of so many sequences of such a length.
    ///
    /// # Errors
    /// Those of torch.
    pub fn on_device(self, masks: &SharedMasks, shape: [i64; 2]) -> Result<Self> {
        if let Some(Keyed { place, .. }) = self.keyed {
            masks.with(|masks| masks.begin(place, shape))?;
        }
        Ok(Self { masks: Some(masks.clone()), ..self })
    }

    /// Applies inverted dropout: elements become 0, or are divided by the share that is kept.
    ///
    /// # Errors
    /// Those of torch.
    pub fn apply(&self, tensor: Tensor, site: Site) -> Result<Tensor> {
        match self.factors(&tensor, site)? {
            Some(factors) => Ok(tensor.f_mul(&factors)?),
            None => Ok(tensor),
        }
    }

    /// `residual` plus what [`Self::apply`] makes of `tensor`, in one pass over memory.
    ///
    /// # Errors
    /// Those of torch.
    pub fn add(&self, residual: &Tensor, tensor: &Tensor, site: Site) -> Result<Tensor> {
        Ok(match self.factors(tensor, site)? {
            Some(factors) => residual.f_addcmul(tensor, &factors)?,
            None => residual.f_add(tensor)?,
        })
    }

    /// What each element is multiplied by, in the tensor's own kind; none where nothing is dropped.
    ///
    /// # Errors
    /// Those of torch.
    pub fn factors(&self, tensor: &Tensor, site: Site) -> Result<Option<Tensor>> {
        let Some(Keyed { rates, place }) = self.keyed else { return Ok(None) };
        let rate = match site {
            Site::Embeddings
            | Site::AttentionOutput(_)
            | Site::Output(_)
            | Site::Distances(_)
            | Site::Convolution => rates.hidden,
            Site::Attention(_) => rates.attention,
            Site::Prefix => rates.prefix,
            Site::Head => rates.head,
        };
        if rate <= 0.0 {
            return Ok(None);
        }
        let (site, kind) = (site.number(), tensor.kind());
        if let Some(masks) = &self.masks {
            let wanted = Wanted { site, rate, kind, count: tensor.numel() };
            let flat = masks.with(|masks| masks.take(wanted))?;
            return Ok(Some(flat.f_view(&tensor.size()[..])?));
        }
        let stream = place.stream(site);
        Ok(Some(if tensor.kind() == Kind::BFloat16 {
            filled::<bf16>(&stream, rate, tensor)?
        } else {
            filled::<f32>(&stream, rate, tensor)?
        }))
    }
}

/// A tensor like `like` of numbers T, which its kind stands for.
fn filled<T: Factor + Pod>(stream: &Stream, rate: f64, like: &Tensor) -> Result<Tensor> {
    let mut factors = vec![T::ZERO; like.numel()];
    stream.dropout_factors(rate, &mut factors);
    // As bytes: tch takes a slice of `bf16` for one of IEEE halves.
    Ok(Tensor::f_from_data_size(cast_slice(&factors), &like.size(), like.kind())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { hidden: 0.3, attention: 0.2, prefix: 0.1, head: 0.5 };

    fn ones(kind: Kind) -> Tensor {
        Tensor::ones([8, 16, 384], (kind, Device::Cpu))
    }

    fn share_of_zeros(tensor: &Tensor) -> f64 {
        tensor.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
    }

    #[test]
    fn each_site_has_its_rate_and_keeps_the_mean() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let dropout = Dropout::new(RATES, 1, 2, 3);
            for (site, rate) in [
                (Site::Embeddings, 0.3),
                (Site::AttentionOutput(1), 0.3),
                (Site::Output(0), 0.3),
                (Site::Distances(1), 0.3),
                (Site::Convolution, 0.3),
                (Site::Attention(2), 0.2),
                (Site::Prefix, 0.1),
                (Site::Head, 0.5),
            ] {
                let found = dropout.apply(ones(kind), site).unwrap();
                assert_eq!(found.kind(), kind);
                // 49,152 elements: five standard deviations are at most 0.0113 and 0.0226.
                assert!((share_of_zeros(&found) - rate).abs() < 0.0113, "{site:?}");
                let mean = found.mean(Kind::Double).double_value(&[]);
                assert!((mean - 1.0).abs() < 0.0226, "{site:?}: {mean}");
            }
        }
    }

    /// No two of sites, steps, slices and a tensor's own rows share a mask.
    #[test]
    fn masks_of_different_places_differ() {
        let mask = |step, slice, site| {
            let dropout = Dropout::new(Rates { attention: 0.3, ..RATES }, 1, step, slice);
            dropout.apply(ones(Kind::Float), site).unwrap().eq(0.0)
        };
        let base = mask(2, 3, Site::Output(0));
        // Independent masks agree in 0.3² + 0.7² of their elements; deviation 0.0022.
        let agreement = |other: &Tensor, base: &Tensor| {
            base.eq_tensor(other).to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
        };
        let others = [
            mask(3, 3, Site::Output(0)),
            mask(2, 4, Site::Output(0)),
            mask(2, 3, Site::Output(1)),
            mask(2, 3, Site::AttentionOutput(0)),
            mask(2, 3, Site::Attention(0)),
            mask(2, 3, Site::Embeddings),
            mask(2, 3, Site::Distances(0)),
            mask(2, 3, Site::Convolution),
            base.roll([1], [0]),
            base.roll([1], [1]),
        ];
        for (index, other) in others.iter().enumerate() {
            let found = agreement(other, &base);
            assert!((found - 0.58).abs() < 0.015, "{index}: {found}");
        }
        assert!((agreement(&mask(2, 3, Site::Output(0)), &base) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn adding_is_applying_and_a_sum() {
        let dropout = Dropout::new(RATES, 1, 2, 3);
        let residual = ones(Kind::Float) * 3.0;
        let added = dropout.add(&residual, &ones(Kind::Float), Site::Output(0)).unwrap();
        let applied = dropout.apply(ones(Kind::Float), Site::Output(0)).unwrap();
        assert_eq!(added, applied + residual);
        let off =
            Dropout::OFF.add(&ones(Kind::Float), &ones(Kind::Float), Site::Output(0)).unwrap();
        assert_eq!(off, ones(Kind::Float) * 2.0);
    }
}
