//! A slice's rows as padded buffers, and as tensors.

use super::Result;
use crate::features::{Rows, Sequence};
use crate::numerics::batches::{cost, padded};
use tch::{Device, Kind, Tensor};

/// Added to the scores of padding.
const MASKED: f32 = -10_000.0;

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

    /// What its sequences are padded to.
    pub fn length(&self) -> usize {
        self.length
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
                row[before + length..].fill(MASKED);
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

    /// All that computing it takes, on a device. On the host nothing is copied.
    ///
    /// # Errors
    /// Those of torch.
    pub fn placed(&self, prefix: i64, device: Device) -> Result<Placed> {
        let inputs = self.inputs(prefix)?;
        let inputs = Inputs {
            ids: inputs.ids.f_to(device)?,
            types: inputs.types.f_to(device)?,
            mask: inputs.mask.map(|mask| mask.f_to(device)).transpose()?,
            ..inputs
        };
        let labels = self.labels()?.f_to(device)?;
        Ok(Placed { index: self.index, rows: self.rows, inputs, labels })
    }
}

/// A slice's tensors where it is computed.
pub struct Placed {
    /// The slice's number.
    pub index: u16,
    /// Rows.
    pub rows: usize,
    /// What the backbone reads.
    pub inputs: Inputs,
    /// The rows' labels, `[rows]`.
    pub labels: Tensor,
}

/// Places slices on a device by one copy for all, which nothing waits for; masks are made there. The
/// tensors hold what [`Slice::placed`] would.
///
/// # Errors
/// Those of torch.
pub fn place_all(slices: &[Slice], prefix: i64, device: Device) -> Result<Vec<Placed>> {
    let lengths = |slice: &Slice| slice.lengths.iter().map(|length| signed(*length)).collect();
    let mut numbers: Vec<i64> = Vec::new();
    for slice in slices {
        let lengths: Vec<i64> = lengths(slice);
        let parts = [&slice.ids, &slice.types, &lengths, &slice.labels];
        parts.into_iter().for_each(|part| numbers.extend(part));
    }
    let host = Tensor::f_from_slice(&numbers)?;
    // From memory that is not pinned the driver takes all before the call returns, and copies it then: these few numbers
    // are not waited for, and may be dropped. On the host nothing is copied.
    let there = host.f_to_device_(device, Kind::Int64, true, false)?;
    let mut start = 0;
    let mut next = |count: usize| {
        let part = there.f_narrow(0, start, signed(count));
        start += signed(count);
        part
    };
    slices
        .iter()
        .map(|slice| {
            let size = [signed(slice.lengths.len()), signed(slice.length)];
            let ids = next(slice.ids.len())?.f_view(size)?;
            let types = next(slice.types.len())?.f_view(size)?;
            let lengths = next(slice.lengths.len())?;
            let labels = next(slice.labels.len())?;
            let any_padding = slice.lengths.iter().any(|length| *length < slice.length);
            let mask = any_padding.then(|| mask(&lengths, size, prefix)).transpose()?;
            let longest = signed(slice.lengths.iter().copied().max().unwrap_or(0));
            let inputs = Inputs { prefix, longest, ids, types, mask };
            Ok(Placed { index: slice.index, rows: slice.rows, inputs, labels })
        })
        .collect()
}

/// The mask `[B, 1, 1, P+S]` of sequences of some lengths `[B]`.
fn mask(lengths: &Tensor, [sequences, length]: [i64; 2], prefix: i64) -> Result<Tensor> {
    let places = Tensor::f_arange(length, (Kind::Int64, lengths.device()))?;
    let is_padding = places.f_ge_tensor(&lengths.f_view([sequences, 1])?)?; // [B, S]
    let mut mask = Tensor::f_zeros([sequences, length], (Kind::Float, lengths.device()))?;
    let mask = mask.f_masked_fill_(&is_padding, f64::from(MASKED))?;
    Ok(mask.f_constant_pad_nd([prefix, 0])?.f_view([sequences, 1, 1, prefix + length])?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_placed_by_one_copy_are_those_placed_alone() {
        let rows = [5, 9, 9, 1, 17].map(|length: u32| {
            (
                (0..length).map(|at| 7 * at + length).collect::<Vec<u32>>(),
                vec![1_u8; length as usize],
            )
        });
        let sequences: Vec<Sequence<'_>> =
            rows.iter().map(|(ids, types)| Sequence { ids, types }).collect();
        let slices = [
            Slice::new(3, &sequences[..1], &[2]),
            Slice::new(4, &sequences[1..3], &[0, 1]),
            Slice::new(9, &sequences[1..], &[1, 0]),
        ];
        let together = place_all(&slices, 5, Device::Cpu).unwrap();
        assert_eq!(together.len(), slices.len());
        for (slice, found) in slices.iter().zip(together) {
            let alone = slice.placed(5, Device::Cpu).unwrap();
            assert_eq!((found.index, found.rows), (alone.index, alone.rows));
            assert_eq!(found.labels, alone.labels);
            let (found, alone) = (found.inputs, alone.inputs);
            assert_eq!((found.prefix, found.longest), (alone.prefix, alone.longest));
            assert_eq!((&found.ids, &found.types), (&alone.ids, &alone.types));
            assert_eq!(found.mask, alone.mask);
            assert!(found.mask.is_none_or(|mask| mask.kind() == Kind::Float));
        }
        assert!(place_all(&[], 5, Device::Cpu).unwrap().is_empty());
    }
}
