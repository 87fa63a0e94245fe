//! The tuned state: everything that a job changes, and what it keeps beside that, as flat fp32 buffers in
//! the layout's order.

use ptv2_common::error::Explained;
use ptv2_common::manifest::BestMetric;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

pub use super::layout::{
    HEAD_BIAS, HEAD_WEIGHT, Layout, POOLER_BIAS, POOLER_WEIGHT, PREFIX_EMBEDDING, PREFIX_INNER,
    PREFIX_OUTER, PREFIX_TABLE, PROMPT_TABLE, TunedTensor,
};

/// The tuned state after a step. Equal on all ranks, bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct TunedState {
    /// Optimizer steps applied.
    pub step: u64,
    /// Values in the layout's order: of the tuned tensors, then of those that are kept unchanged.
    pub values: Vec<f32>,
    /// AdamW's first moment, as long as the values; zeros where nothing is tuned.
    pub moment1: Vec<f32>,
    /// AdamW's second moment, likewise.
    pub moment2: Vec<f32>,
    /// Best evaluation so far.
    pub best: Option<BestMetric>,
    /// The values at that best evaluation; empty before the first one.
    pub best_values: Vec<f32>,
    /// Last evaluation.
    pub last: Option<BestMetric>,
    /// Runs of the job that have ended before the one that this state belongs to.
    pub run: u32,
    /// Steps of the job that come before this run.
    pub run_start: u64,
}

impl TunedState {
    /// A state before the first step.
    pub fn new(values: Vec<f32>) -> Self {
        let zeros = vec![0.0; values.len()];
        Self {
            step: 0,
            moment1: zeros.clone(),
            moment2: zeros,
            values,
            best: None,
            best_values: Vec::new(),
            last: None,
            run: 0,
            run_start: 0,
        }
    }

    /// Steps of its own run that it has behind it.
    pub fn steps_of_run(&self) -> u64 {
        self.step.saturating_sub(self.run_start)
    }

    /// Whether this very state is its run's best so far.
    pub fn is_best(&self) -> bool {
        self.best.as_ref().is_some_and(|best| best.step == self.step)
    }

    /// Whether this very state was evaluated.
    pub fn is_evaluated(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.step == self.step)
    }

    /// SHA-256 of the values: tensors in the layout's order, fp32, little-endian.
    pub fn tuned_sha256(&self) -> String {
        sha256_of_values(&self.values)
    }

    /// A cheap 64-bit hash of step, values and moments, for the check of every step.
    ///
    /// FNV-1a over 32-bit words: each word's bijective mixing makes any single difference show.
    pub fn hash64(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.step;
        for buffer in [&self.values, &self.moment1, &self.moment2] {
            for value in buffer {
                hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
    }

    /// The whole state as a safetensors file: `values`, `moment1`, `moment2` (and `best_values`), each
    /// flat fp32, with step and metrics in the file's metadata.
    ///
    /// # Errors
    /// When the file cannot be assembled, which means a defect.
    pub fn to_bytes(&self, layout: &Layout) -> Result<Vec<u8>, Explained> {
        let buffers = [
            ("values", &self.values, layout.all()),
            ("moment1", &self.moment1, layout.tensors()),
            ("moment2", &self.moment2, layout.tensors()),
            ("best_values", &self.best_values, layout.all()),
        ];
        let mut parts = Vec::new();
        for (kind, buffer, tensors) in buffers {
            if buffer.is_empty() {
                continue;
            }
            for tensor in tensors {
                let bytes = le_bytes(&buffer[tensor.range.clone()]);
                parts.push((format!("{kind}/{}", tensor.name), tensor.shape.clone(), bytes));
            }
        }
        let views = parts
            .iter()
            .map(|(name, shape, bytes)| {
                TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Explained::from_error(&error))?;
        let facts = Facts {
            step: self.step,
            best: self.best.clone(),
            last: self.last.clone(),
            run: self.run,
            run_start: self.run_start,
        };
        let facts = serde_json::to_string(&facts).map_err(|error| Explained::from_error(&error))?;
        let metadata = HashMap::from([("ptv2".to_owned(), facts)]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| Explained::from_error(&error))
    }

    /// Reads what [`TunedState::to_bytes`] wrote.
    ///
    /// # Errors
    /// Names the tensor, with the expected and the found shape.
    pub fn from_bytes(bytes: &[u8], layout: &Layout) -> Result<Self, Explained> {
        let broken = |error: safetensors::SafeTensorError| {
            Explained::from_error(&error)
                .expected("a state.safetensors that ptv2 wrote")
                .hint("take an earlier checkpoint; this one is damaged")
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let facts = header.metadata().as_ref().and_then(|map| map.get("ptv2"));
        let facts: Facts = facts
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| Explained::new("the file has no ptv2 metadata"))?;
        let file = SafeTensors::deserialize(bytes).map_err(broken)?;
        let whole = |kind: &str| buffer(&file, kind, layout.all());
        let tuned = |kind: &str| -> Result<Vec<f32>, Explained> {
            let mut found = buffer(&file, kind, layout.tensors())?;
            found.resize(layout.len(), 0.0);
            Ok(found)
        };
        let best_values = if facts.best.is_some() { whole("best_values")? } else { Vec::new() };
        Ok(Self {
            step: facts.step,
            values: whole("values")?,
            moment1: tuned("moment1")?,
            moment2: tuned("moment2")?,
            best: facts.best,
            best_values,
            last: facts.last,
            run: facts.run,
            run_start: facts.run_start,
        })
    }
}

/// The values alone of what [`TunedState::to_bytes`] wrote: a layout that tunes other tensors of the
/// same names may take them.
///
/// # Errors
/// As [`TunedState::from_bytes`].
pub fn values_of(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, Explained> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Explained::from_error(&error))?;
    buffer(&file, "values", layout.all())
}

/// The tensors of one kind, one behind the other.
fn buffer(
    file: &SafeTensors<'_>,
    kind: &str,
    tensors: &[TunedTensor],
) -> Result<Vec<f32>, Explained> {
    let mut buffer = Vec::new();
    for tensor in tensors {
        buffer.extend(fp32(file, &format!("{kind}/{}", tensor.name), &tensor.shape)?);
    }
    Ok(buffer)
}

/// What stands in the state file's metadata.
#[derive(serde::Serialize, serde::Deserialize)]
struct Facts {
    step: u64,
    best: Option<BestMetric>,
    last: Option<BestMetric>,
    #[serde(default)]
    run: u32,
    #[serde(default)]
    run_start: u64,
}

/// SHA-256 of fp32 values, little-endian.
pub fn sha256_of_values(values: &[f32]) -> String {
    let mut hash = Sha256::new();
    for chunk in values.chunks(16_384) {
        hash.update(le_bytes(chunk));
    }
    hex::encode(hash.finalize())
}

/// The bytes of fp32 values, little-endian.
pub fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Reads an fp32 tensor of a given shape.
///
/// # Errors
/// Names the tensor, with the expected and the found shape and number format.
pub fn fp32(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, Explained> {
    let view = file.tensor(name).map_err(|_| {
        Explained::new(format!("tensor `{name}` is missing")).expected(format!("shape {shape:?}"))
    })?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        return Err(Explained::new(format!(
            "tensor `{name}` is {:?} of shape {:?}",
            view.dtype(),
            view.shape()
        ))
        .expected(format!("F32 of shape {shape:?}")));
    }
    let (words, _) = view.data().as_chunks::<4>();
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(layout: &Layout) -> TunedState {
        let count = u16::try_from(layout.len()).unwrap();
        let mut state = TunedState::new((0..count).map(f32::from).collect());
        state.step = 7;
        (state.run, state.run_start) = (2, 4);
        state.best = Some(BestMetric { metric: "accuracy".into(), value: 0.5, step: 3 });
        state.best_values = state.values.iter().map(|value| value * 2.0).collect();
        state
    }

    #[test]
    fn a_state_survives_its_file() {
        let layout = Layout::new(3, 2, 4, 2);
        let state = state(&layout);
        let bytes = state.to_bytes(&layout).unwrap();
        assert_eq!(TunedState::from_bytes(&bytes, &layout).unwrap(), state);
        let error = TunedState::from_bytes(&bytes, &Layout::new(4, 2, 4, 2)).unwrap_err();
        assert!(error.what.contains("values/prefix.table"), "{error:?}");
        assert!(TunedState::from_bytes(&bytes[..bytes.len() - 1], &layout).is_err());
    }

    /// What is kept beside the tuned tensors has no moments in the file, and is there all the same.
    #[test]
    fn what_is_kept_unchanged_is_in_the_file() {
        let tuned = vec![(HEAD_WEIGHT, vec![2, 4]), (HEAD_BIAS, vec![2])];
        let layout = Layout::place(tuned, vec![("pooler.bias", vec![4])]);
        let mut state = state(&layout);
        (state.moment1[3], state.moment2[9]) = (1.0, 2.0);
        let bytes = state.to_bytes(&layout).unwrap();
        assert_eq!(TunedState::from_bytes(&bytes, &layout).unwrap(), state);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert!(file.tensor("best_values/pooler.bias").is_ok());
        assert!(file.tensor("moment1/pooler.bias").is_err());
        // Where it is tuned, its values are the same, in another place.
        let tuned = vec![("head.bias", vec![2]), ("pooler.bias", vec![4])];
        let values = values_of(&bytes, &Layout::place(tuned, Vec::new())).unwrap();
        assert_eq!(values, [0.0, 1.0, 10.0, 11.0, 12.0, 13.0]);
    }

    #[test]
    fn every_bit_shows_in_both_hashes() {
        let layout = Layout::new(3, 2, 4, 2);
        let one = state(&layout);
        let mut other = one.clone();
        other.values[5] = f32::from_bits(other.values[5].to_bits() ^ 1);
        assert_ne!(one.hash64(), other.hash64());
        assert_ne!(one.tuned_sha256(), other.tuned_sha256());
    }
}
