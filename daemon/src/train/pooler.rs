//! The pooler: a dense layer and an activation between the first token and the head. It is the
//! backbone's, or the job's own, tuned or not.

use super::Result;
use super::backbones::Backbone;
use super::step::Tuned;
use crate::backbone::Pooling;
use crate::numerics::state::{POOLER_BIAS, POOLER_WEIGHT};
use tch::{TchError, Tensor};

/// What the head reads, fp32 `[B, H]`, of the first text position `[B, H]` of each sequence.
///
/// A DeBERTa's dropout before the dense layer is left out: its released configurations set it to 0.
///
/// # Errors
/// Those of torch; and where neither the job nor the backbone has a pooler, which means a defect.
pub(super) fn pool(first: &Tensor, tuned: &Tuned, backbone: &Backbone) -> Result<Tensor> {
    let own = tuned.get(POOLER_WEIGHT).zip(tuned.get(POOLER_BIAS));
    let (weight, bias) = own.or_else(|| backbone.pooler()).ok_or_else(|| {
        TchError::TensorNameNotFound(POOLER_WEIGHT.into(), "job and backbone".into())
    })?;
    let dense = first.f_linear(weight, Some(bias))?;
    Ok(match Pooling::of(&backbone.config) {
        Pooling::Pretrained | Pooling::Drawn => dense.f_tanh()?,
        Pooling::Context => dense.f_gelu("none")?,
    })
}

/// The values of the backbone's pooler, weight and bias, where its file has one: what a job's own
/// begins with.
///
/// # Errors
/// Those of torch.
pub(super) fn first_values(backbone: &Backbone) -> Result<Option<[Vec<f32>; 2]>> {
    let Some((weight, bias)) = backbone.pooler() else { return Ok(None) };
    let flat = |tensor: &Tensor| -> Result<Vec<f32>> {
        let mut values = vec![0.0; tensor.numel()];
        tensor.f_copy_data(&mut values, tensor.numel())?;
        Ok(values)
    };
    Ok(Some([flat(weight)?, flat(bias)?]))
}
