//! Attention with a prefix, written out (specification section 5).

use super::Result;
use tch::{Kind, Tensor};

/// A layer's prefix: key and value, each `[B, h, P, d]`, used as they are.
pub struct Keys {
    /// Stands before the text's keys.
    pub key: Tensor,
    /// Stands before the text's values.
    pub value: Tensor,
}

/// Attends from each text position to prefix and text.
///
/// `mixed` is `[B, S, 3H]`: query, key, value. `mask` is `[B, 1, 1, P+S]`, added to the scores. Gives
/// `[B, S, H]`.
///
/// # Errors
/// Those of torch.
pub fn attend(
    mixed: &Tensor,
    heads: i64,
    mask: &Tensor,
    prefix: Option<&Keys>,
    dropout: impl FnOnce(Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (rows, length, triple) = mixed.size3()?;
    let head_size = triple / 3 / heads;
    let parts = mixed
        .f_view([rows, length, 3, heads, head_size])?
        .f_permute([2, 0, 3, 1, 4])?
        .f_unbind(0)?; // 3 of [B, h, S, d]
    let [query, key, value] = &parts[..] else {
        unreachable!("the first axis holds query, key and value");
    };
    let (joined_key, joined_value);
    let (key, value) = match prefix {
        Some(prefix) => {
            joined_key = Tensor::f_cat(&[&prefix.key, key], 2)?;
            joined_value = Tensor::f_cat(&[&prefix.value, value], 2)?;
            (&joined_key, &joined_value)
        }
        None => (key, value),
    };
    #[expect(clippy::cast_precision_loss, reason = "a head has few hundred elements")]
    let scale = 1.0 / (head_size as f64).sqrt();
    let scores = query
        .f_mul_scalar(scale)?
        .f_matmul(&key.f_transpose(2, 3)?)? // [B, h, S, P+S]
        .f_add(mask)?;
    let probabilities = dropout(scores.f_softmax(3, Kind::Float)?)?;
    let context = probabilities.f_matmul(value)?; // [B, h, S, d]
    Ok(context.f_transpose(1, 2)?.f_reshape([rows, length, heads * head_size])?)
}
