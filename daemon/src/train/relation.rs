//! What attention's scores owe to the distance between query and key.

use super::Result;
use tch::Tensor;

/// Added to the scores of the text's keys. A prefix stands at no distance, so its keys get nothing.
pub enum Relation {
    /// MPNet's: the same for all rows, `[1, h, Q, S]`.
    Bias(Tensor),
    /// DeBERTa's: it depends on content too.
    Disentangled(Disentangled),
}

/// Distances as keys and as queries of a layer.
pub struct Disentangled {
    /// What the text's queries meet, `[h, R, d]`.
    pub keys: Tensor,
    /// What the text's keys meet, `[h, R, d]`.
    pub queries: Tensor,
    /// Which of the R distances each pair has, `[Q, S]`.
    pub ids: Tensor,
}

impl Relation {
    /// Products of a query and a key that make up a score.
    pub fn products(&self) -> u8 {
        match self {
            Self::Bias(_) => 1,
            // Of contents, content and distance, distance and content.
            Self::Disentangled(_) => 3,
        }
    }

    /// What is added to the text's scores, `[B, h, Q, S]` or the same for all rows. `query`
    /// `[B, h, Q, d]` is already multiplied by `scale`; `key` is `[B, h, S, d]`.
    ///
    /// # Errors
    /// Those of torch.
    pub fn scores(&self, query: &Tensor, key: &Tensor, scale: f64) -> Result<Tensor> {
        let Disentangled { keys, queries, ids } = match self {
            Self::Bias(bias) => return Ok(bias.shallow_clone()),
            Self::Disentangled(one) => one,
        };
        let (rows, heads, asking, _) = query.size4()?;
        let length = key.size()[2];
        // Scores of each content and each distance, then of those that a pair has.
        let by_query = query.f_matmul(&keys.f_transpose(1, 2)?)?; // [B, h, Q, R]
        let by_query =
            by_query.f_gather(3, &ids.f_expand([rows, heads, asking, length], false)?, false)?;
        let queries = queries.f_mul_scalar(scale)?;
        let by_key = key.f_matmul(&queries.f_transpose(1, 2)?)?; // [B, h, S, R]
        let ids = ids.f_transpose(0, 1)?.f_expand([rows, heads, length, asking], false)?;
        let by_key = by_key.f_gather(3, &ids, false)?.f_transpose(2, 3)?;
        Ok(by_query.f_add(&by_key)?)
    }
}
