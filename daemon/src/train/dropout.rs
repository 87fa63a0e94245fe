//! Dropout whose masks follow from the job alone: (seed, step, slice, site, element).

use super::Result;
use crate::numerics::generator::{Purpose, Stream};
use tch::Tensor;

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
        };
        u16::try_from(number).unwrap_or(u16::MAX)
    }
}

/// The probabilities in effect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Hidden states: embeddings and both outputs of each layer.
    pub hidden: f64,
    /// Attention probabilities.
    pub attention: f64,
    /// The prefix.
    pub prefix: f64,
    /// The head's input.
    pub head: f64,
}

/// The dropout of one slice of one step, or none at all.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    keyed: Option<Keyed>,
}

#[derive(Debug, Clone, Copy)]
struct Keyed {
    rates: Rates,
    seed: u64,
    step: u64,
    slice: u16,
}

impl Dropout {
    /// No dropout, as in evaluation.
    pub const OFF: Self = Self { keyed: None };

    /// The masks of a slice of a step.
    pub fn new(rates: Rates, seed: u64, step: u64, slice: u16) -> Self {
        Self { keyed: Some(Keyed { rates, seed, step, slice }) }
    }

    /// Applies inverted dropout: elements become 0, or are divided by the share that is kept.
    ///
    /// # Errors
    /// Those of torch.
    pub fn apply(&self, tensor: Tensor, site: Site) -> Result<Tensor> {
        let Some(Keyed { rates, seed, step, slice }) = self.keyed else { return Ok(tensor) };
        let rate = match site {
            Site::Embeddings | Site::AttentionOutput(_) | Site::Output(_) => rates.hidden,
            Site::Attention(_) => rates.attention,
            Site::Prefix => rates.prefix,
            Site::Head => rates.head,
        };
        if rate <= 0.0 {
            return Ok(tensor);
        }
        let mut factors = vec![0.0_f32; tensor.numel()];
        Stream::new(seed, Purpose::Dropout, step, slice, site.number())
            .dropout_factors(rate, &mut factors);
        let factors = Tensor::f_from_slice(&factors)?.f_view(tensor.size().as_slice())?;
        Ok(tensor.f_mul(&factors)?)
    }
}
