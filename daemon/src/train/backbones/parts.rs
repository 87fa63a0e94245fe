//! What layers are made of: linear maps and norms, frozen.

use super::weights::Weights;
use crate::backbone::Config;
use crate::train::Result;
use ptv2_common::error::Explained;
use tch::{Device, Kind, Tensor};

pub(super) struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Linear {
    pub(super) fn take(
        weights: &Weights<'_>,
        name: &str,
        kind: Kind,
    ) -> std::result::Result<Self, Explained> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), kind)?,
            bias: weights.take(&format!("{name}.bias"), kind)?,
        })
    }

    pub(super) fn apply(&self, input: &Tensor) -> Result<Tensor> {
        Ok(input.f_linear(&self.weight, Some(&self.bias))?)
    }

    /// `count` of the outputs from `start` on; nothing is copied.
    pub(super) fn narrow(&self, start: i64, count: i64) -> Result<Self> {
        Ok(Self {
            weight: self.weight.f_narrow(0, start, count)?,
            bias: self.bias.f_narrow(0, start, count)?,
        })
    }

    pub(super) fn share(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() }
    }

    pub(super) fn tensors(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }
}

/// A layer's norm. It takes little memory and time, so it is fp32 in any precision.
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl Norm {
    pub(super) fn take(
        weights: &Weights<'_>,
        name: &str,
        config: &Config,
    ) -> std::result::Result<Self, Explained> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), Kind::Float)?,
            bias: weights.take(&format!("{name}.bias"), Kind::Float)?,
            epsilon: config.layer_norm_eps,
        })
    }

    pub(super) fn apply(&self, input: &Tensor) -> Result<Tensor> {
        if input.kind() == Kind::Float || input.device() == Device::Cpu {
            return self.normed(input);
        }
        // A GPU's kernels want one kind of number. The processor's compute in fp32 as well.
        Ok(self.normed(&input.f_to_kind(Kind::Float)?)?.f_to_kind(input.kind())?)
    }

    fn normed(&self, input: &Tensor) -> Result<Tensor> {
        let shape = self.weight.size();
        Ok(input.f_layer_norm(shape, Some(&self.weight), Some(&self.bias), self.epsilon, false)?)
    }

    pub(super) fn share(&self) -> Self {
        let Self { weight, bias, epsilon } = self;
        Self { weight: weight.shallow_clone(), bias: bias.shallow_clone(), epsilon: *epsilon }
    }

    pub(super) fn tensors(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }
}
