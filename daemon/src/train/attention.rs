//! Attention with a prefix, written out (specification section 5).

use super::Result;
use super::relation::Relation;
use tch::{Kind, Tensor};

/// A layer's prefix: key and value, each `[B, h, P, d]`, used as they are.
pub struct Keys {
    /// Stands before the text's keys.
    pub key: Tensor,
    /// Stands before the text's values.
    pub value: Tensor,
}

/// The text's part of attention.
pub struct Projected {
    /// `[B, Q, H]`, of the positions that ask: all, or the first only.
    pub query: Tensor,
    /// `[B, S, H]`.
    pub key: Tensor,
    /// `[B, S, H]`.
    pub value: Tensor,
}

/// What attention meets besides the text.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// fp32 `[B, 1, 1, P+S]`, added to the scores; without one, nothing is padded.
    pub mask: Option<&'a Tensor>,
    /// Keys and values before the text's.
    pub prefix: Option<&'a Keys>,
    /// What the text's scores owe to distance.
    pub relation: Option<&'a Relation>,
}

/// Attends from each query to prefix and text. Gives `[B, Q, H]`.
///
/// # Errors
/// Those of torch.
pub fn attend(
    text: &Projected,
    heads: i64,
    surroundings: &Surroundings<'_>,
    dropout: impl FnOnce(Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let Surroundings { mask, prefix, relation } = *surroundings;
    let (rows, queries, size) = text.query.size3()?;
    let head_size = size / heads;
    let split = |tensor: &Tensor| {
        tensor.f_view([rows, -1, heads, head_size])?.f_transpose(1, 2) // [B, h, ·, d]
    };
    let behind = |prefix: Option<&Tensor>, text: &Tensor| match prefix {
        Some(prefix) => Tensor::f_cat(&[prefix, text], 2),
        None => Ok(text.shallow_clone()),
    };
    let text_key = split(&text.key)?;
    let key = behind(prefix.map(|prefix| &prefix.key), &text_key)?; // [B, h, P+S, d]
    let value = behind(prefix.map(|prefix| &prefix.value), &split(&text.value)?)?;
    let products = relation.map_or(1, Relation::products);
    #[expect(clippy::cast_precision_loss, reason = "a head has few hundred elements")]
    let scale = 1.0 / (head_size as f64 * f64::from(products)).sqrt();
    let query = split(&text.query)?.f_mul_scalar(scale)?;
    let scores = query.f_matmul(&key.f_transpose(2, 3)?)?;
    let scores = match relation {
        Some(relation) => {
            let before = prefix.map_or(0, |prefix| prefix.key.size()[2]);
            let own = relation.scores(&query, &text_key, scale)?;
            scores.f_add(&own.f_constant_pad_nd([before, 0])?)?
        }
        None => scores,
    };
    let scores = match mask {
        Some(mask) => scores.f_add(mask)?,
        None => scores,
    }; // [B, h, Q, P+S]
    // Softmax in fp32, which scores of bf16 become by it: libtorch's softmax of bf16 takes longer.
    let probabilities = scores.f_softmax(3, Kind::Float)?.f_to_kind(value.kind())?;
    let context = dropout(probabilities)?.f_matmul(&value)?; // [B, h, Q, d]
    Ok(context.f_transpose(1, 2)?.f_reshape([rows, queries, size])?)
}
