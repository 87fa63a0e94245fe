//! DeBERTa-v2's convolution beside the first layer: neighbouring tokens meet.

use super::parts::{Linear, Norm};
use super::weights::Weights;
use crate::backbone::Config;
use crate::backbone::tensors::{CONVOLUTION, CONVOLUTION_NORM};
use crate::train::Result;
use crate::train::batch::Inputs;
use crate::train::dropout::{Dropout, Site};
use ptv2_common::error::Explained;
use tch::{Kind, Tensor};

pub(super) struct Convolution {
    /// Weight `[H, H, width]`, bias `[H]`.
    map: Linear,
    norm: Norm,
    /// tanh instead of GELU.
    tanh: bool,
}

impl Convolution {
    pub(super) fn take(
        weights: &Weights<'_>,
        config: &Config,
        kind: Kind,
    ) -> std::result::Result<Option<Self>, Explained> {
        let Some(deberta) = config.deberta.as_ref().filter(|one| one.conv_kernel_size > 0) else {
            return Ok(None);
        };
        Ok(Some(Self {
            map: Linear::take(weights, CONVOLUTION, kind)?,
            norm: Norm::take(weights, CONVOLUTION_NORM, config)?,
            tanh: deberta.conv_act == "tanh",
        }))
    }

    pub(super) fn share(&self) -> Self {
        Self { map: self.map.share(), norm: self.norm.share(), tanh: self.tanh }
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.map.tensors().into_iter().chain(self.norm.tensors())
    }

    /// Adds what the layer's input `[B, S, H]` gives to its output `[B, Q, H]`, of all positions or
    /// of the first only.
    pub(super) fn add(
        &self,
        output: &Tensor,
        input: &Tensor,
        inputs: &Inputs,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let length = input.size()[1];
        // The last token's neighbour is nothing, as at the end of an unpadded sequence.
        let text = match &inputs.mask {
            Some(mask) => {
                let kept = mask.f_narrow(3, inputs.prefix, length)?.f_eq(0.0)?;
                input.f_mul(&kept.f_view([-1, length, 1])?)?
            }
            None => input.shallow_clone(),
        };
        let width = self.map.weight.size()[2];
        let mixed = text
            .f_transpose(1, 2)?
            .f_conv1d(&self.map.weight, Some(&self.map.bias), 1, width / 2, 1, 1)?
            .f_transpose(1, 2)?
            .f_narrow(1, 0, output.size()[1])?;
        let mixed = dropout.apply(mixed, Site::Convolution)?;
        let mixed = if self.tanh { mixed.f_tanh()? } else { mixed.f_gelu("none")? };
        self.norm.apply(&output.f_add(&mixed)?)
    }
}
