//! The deep prefix (specification section 4): a table `[P, 2·L·H]`, tuned itself or made by a small
//! network, becomes a key and a value for each layer.

use super::Result;
use super::attention::Keys;
use super::dropout::{Dropout, Site};
use tch::{Kind, Tensor};

/// The network that makes the table where the prefix is projected (letter M: its inner size).
pub struct Projection<'a> {
    /// `[P, H]`.
    pub embedding: &'a Tensor,
    /// Weight `[M, H]` and bias `[M]`.
    pub inner: [&'a Tensor; 2],
    /// Weight `[2·L·H, M]` and bias `[2·L·H]`.
    pub outer: [&'a Tensor; 2],
}

impl Projection<'_> {
    /// The table, of which all sequences of a slice have the same.
    ///
    /// # Errors
    /// Those of torch.
    pub fn table(&self) -> Result<Tensor> {
        let inner = self.embedding.f_linear(self.inner[0], Some(self.inner[1]))?.f_tanh()?; // [P, M]
        Ok(inner.f_linear(self.outer[0], Some(self.outer[1]))?)
    }
}

/// Expands the table (fp32) over B sequences, drops out with a mask of each sequence's own, and
/// splits it into keys and values of `kind`.
///
/// The last axis of the table is layer-major, key before value, head-major inside: index
/// `((2·layer + kv)·h + head)·d + j`.
///
/// # Errors
/// Those of torch.
pub fn keys(
    table: &Tensor,
    sequences: i64,
    layers: i64,
    heads: i64,
    kind: Kind,
    dropout: &Dropout,
) -> Result<Vec<Keys>> {
    let (length, width) = table.size2()?;
    let head_size = width / (2 * layers * heads);
    let split = table
        .f_view([length, 2 * layers, heads, head_size])?
        .f_permute([1, 2, 0, 3])?
        .f_unsqueeze(1)?
        .f_expand([2 * layers, sequences, heads, length, head_size], false)?; // [2L, B, h, P, d]
    // To `kind` after the expansion, so that the gradient's sum over sequences is one of fp32.
    let dropped = dropout.apply(split, Site::Prefix)?.f_to_kind(kind)?;
    // One unbind: its backward makes one tensor, where 2L narrows would make 2L full ones.
    let split = dropped.f_unbind(0)?;
    let mut parts = split.into_iter();
    let mut all = Vec::new();
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        all.push(Keys { key, value });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Conformance test 1: an entry that encodes (layer, kv, head, j) lands where it should.
    #[test]
    fn entries_land_where_the_specification_says() {
        let (length, layers, heads, size) = (3, 2, 4, 5);
        let width = 2 * layers * heads * size;
        let table =
            Tensor::arange(length * width, (Kind::Float, tch::Device::Cpu)).view([length, width]);
        let keys = keys(&table, 2, layers, heads, Kind::Float, &Dropout::OFF).unwrap();
        for layer in 0..layers {
            for (kv, head, position, j) in [(0, 0, 0, 0), (1, 3, 2, 4), (0, 2, 1, 3), (1, 0, 2, 0)]
            {
                let index = ((2 * layer + kv) * heads + head) * size + j;
                let pair = &keys[usize::try_from(layer).unwrap()];
                let tensor = if kv == 0 { &pair.key } else { &pair.value };
                let found = tensor.double_value(&[1, head, position, j]);
                let expected = f64::from(i32::try_from(position * width + index).unwrap());
                assert!((found - expected).abs() < 0.5, "{found} {expected}");
            }
        }
    }
}
