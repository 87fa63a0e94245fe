//! A slice's rows as padded buffers, and as tensors.

use super::Result;
use crate::features::{Rows, Sequence};
use crate::numerics::batches::{cost, padded};
use tch::Tensor;

/// A slice, ready to be computed by any thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Its number within the batch: a part of its dropout's key.
    pub index: u16,
    /// Rows.
    pub rows: usize,
    /// S: what all are [`padded`] to.
    length: usize,
    /// Token ids, `[B, S]`, where B is rows times choices.
    ids: Vec<i64>,
    /// Token types, `[B, S]`.
    types: Vec<i64>,
    /// Tokens of each sequence, `[B]`.
    lengths: Vec<usize>,
    /// The rows' labels.
    labels: Vec<i64>,
}

impl Slice {
    /// A slice of some rows of a split.
    pub fn of(data: &Rows, index: u32, rows: &[u32]) -> Self {
        let sequences: Vec<Sequence<'_>> =
            rows.iter().flat_map(|row| data.sequences(*row as usize)).collect();
        let labels: Vec<i32> = rows.iter().map(|row| data.labels()[*row as usize]).collect();
        Self::new(u16::try_from(index).unwrap_or(u16::MAX), &sequences, &labels)
    }

    /// Pads sequences (each row's choices in a row) to one length.
    pub fn new(index: u16, sequences: &[Sequence<'_>], labels: &[i32]) -> Self {
        let longest = sequences.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        let length = padded(longest);
        let count = sequences.len() * length;
        let (mut ids, mut types) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (row, sequence) in (1..).zip(sequences) {
            ids.extend(sequence.ids.iter().map(|id| i64::from(*id)));
            types.extend(sequence.types.iter().map(|kind| i64::from(*kind)));
            // Padding is masked, so its id matters to nothing.
            ids.resize(row * length, 0);
            types.resize(row * length, 0);
        }
        Self {
            index,
            rows: labels.len(),
            length,
            ids,
            types,
            lengths: sequences.iter().map(|sequence| sequence.ids.len()).collect(),
            labels: labels.iter().map(|label| i64::from(*label)).collect(),
        }
    }

    /// Tokens, padding excluded.
    pub fn tokens(&self) -> u64 {
        self.lengths.iter().map(|length| *length as u64).sum()
    }

    /// Tokens, padding included: what its time grows with.
    pub fn cost(&self) -> usize {
        self.ids.len()
    }

    /// The tensors of the forward pass behind a prefix of P positions.
    ///
    /// # Errors
    /// Those of torch.
    pub fn inputs(&self, prefix: i64) -> Result<Inputs> {
        let before = usize::try_from(prefix).unwrap_or(0);
        let width = before + self.length;
        let size = [signed(self.lengths.len()), signed(self.length)];
        let any_padding = self.lengths.iter().any(|length| *length < self.length);
        let mask = any_padding.then(|| {
            let mut mask = vec![0.0_f32; self.lengths.len() * width];
            for (row, length) in mask.chunks_mut(width).zip(&self.lengths) {
                row[before + length..].fill(-10_000.0);
            }
            Tensor::f_from_slice(&mask)?.f_view([size[0], 1, 1, signed(width)])
        });
        Ok(Inputs {
            prefix,
            longest: signed(self.lengths.iter().copied().max().unwrap_or(0)),
            ids: Tensor::f_from_slice(&self.ids)?.f_view(size)?,
            types: Tensor::f_from_slice(&self.types)?.f_view(size)?,
            mask: mask.transpose()?,
        })
    }

    /// The rows' labels, `[rows]`.
    ///
    /// # Errors
    /// Those of torch.
    pub fn labels(&self) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&self.labels)?)
    }
}

/// What a backbone reads.
pub struct Inputs {
    /// Prefix length P.
    pub prefix: i64,
    /// Tokens of the longest sequence, at most S.
    pub longest: i64,
    /// Token ids, `[B, S]`.
    pub ids: Tensor,
    /// Token types, `[B, S]`.
    pub types: Tensor,
    /// Added to attention scores, `[B, 1, 1, P+S]`: 0 for prefix and tokens, -10000 for padding.
    /// None where nothing is padded.
    pub mask: Option<Tensor>,
}

/// What the slice of some rows will cost, without making it.
#[expect(clippy::cast_precision_loss, reason = "a slice's tokens are far below 2^53")]
pub fn expected_cost(data: &Rows, rows: &[u32]) -> f64 {
    let longest = rows.iter().map(|row| data.length(*row as usize)).max().unwrap_or(0);
    let sequences = rows.iter().map(|row| data.sequences(*row as usize).len()).sum();
    cost(sequences, longest as usize) as f64
}

/// A size as torch wants it.
pub(super) fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
