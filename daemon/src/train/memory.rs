//! What a job takes of a device's memory: told before anything is loaded, and when it ran out after all.

use super::TensorError;
use super::batch::Slice;
use super::exhausted::is_out_of_memory;
use super::step::outputs;
use crate::backbone::tensors::optional_shapes;
use crate::backbone::{Config, shapes};
use crate::numerics::batches::padded;
use crate::numerics::state::Layout;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::spec::Precision;

/// Bytes of a number of fp32.
const WIDE: u64 = 4;
/// What stands beside what is counted: buffers of dropout's generator and of one layer at a time.
const BESIDE: u64 = 256 << 20;
/// Values, two moments, gradient; and one more gradient that a sum waits for.
const COPIES: u64 = 5;

/// Bytes that a job needs on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Frozen weights.
    pub weights: u64,
    /// The tuned state, and gradients.
    pub tuned: u64,
    /// What autograd keeps of the largest slice.
    pub slice: u64,
    /// What stands beside them for a moment.
    pub beside: u64,
}

/// A batch's largest slice, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Largest {
    /// Rows times choices.
    pub sequences: u64,
    /// Tokens of each, padding included.
    pub length: u64,
    /// Positions of the prefix, or of a prompt, which stands among the tokens.
    pub prefix: u64,
}

impl Largest {
    /// Of a job, all of whose rows may be as long as they are let.
    pub fn of(job: &JobRecord) -> Self {
        let training = &job.spec.training;
        let rows = training.batch_size.div_ceil(job.plan.slices.max(1));
        Self {
            sequences: u64::from(rows) * u64::from(job.choices.max(1)),
            length: padded(job.spec.data.max_seq_length as usize) as u64,
            prefix: u64::from(job.spec.method.prefix_length()),
        }
    }
}

impl Needs {
    /// Of a job on its backbone.
    ///
    /// # Errors
    /// When the method has no use for such a backbone.
    pub fn of(job: &JobRecord, config: &Config) -> Result<Self, Explained> {
        let layout = Layout::of(&job.spec.method, config, outputs(job))?;
        Ok(Self::counted(config, &layout, job.spec.backbone.precision, Largest::of(job)))
    }

    /// Of a backbone in a precision, and what is tuned on it.
    ///
    /// Of a layer autograd keeps: of each token the scaled query, two factors of dropout, what two norms
    /// read (fp32) and what the activation reads; of each key it and its value; of each pair of token and key
    /// and head, a probability of fp32, its factor and their product. Of the prefix: its factors and what they
    /// make of it, fp32, and as keys and values.
    pub fn counted(
        config: &Config,
        layout: &Layout,
        precision: Precision,
        largest: Largest,
    ) -> Self {
        let narrow = match precision {
            Precision::Fp32 => WIDE,
            Precision::Bf16 => 2,
        };
        let Largest { sequences, length, prefix } = largest;
        let hidden = u64::from(config.hidden_size);
        let (heads, layers) =
            (u64::from(config.num_attention_heads), u64::from(config.num_hidden_layers));
        let keys = sequences * (prefix + length);
        let of_tokens = sequences
            * length
            * (hidden * (3 * narrow + 2 * WIDE) + u64::from(config.intermediate_size) * narrow);
        let of_keys = keys * 2 * hidden * narrow;
        let pairs = keys * length * heads;
        let of_pairs = pairs * (WIDE + 2 * narrow);
        let of_prefix = sequences * prefix * 2 * hidden * (2 * WIDE + narrow);
        let mut files = shapes(config);
        files.extend(optional_shapes(config));
        let weights: u64 = files
            .iter()
            .map(|(name, shape)| {
                let stays_wide = name.contains("LayerNorm") || name.starts_with("pooler");
                let width = if stays_wide { WIDE } else { narrow };
                shape.iter().product::<usize>() as u64 * width
            })
            .sum();
        let (all, tuned) = (layout.len() as u64, layout.tuned_len() as u64);
        Self {
            weights,
            tuned: ((COPIES - 1) * tuned + all) * WIDE,
            slice: layers * (of_tokens + of_keys + of_pairs + of_prefix),
            // Of one layer: scores before and behind the mask, and their softmax.
            beside: BESIDE + pairs * 3 * WIDE,
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.weights + self.tuned + self.slice + self.beside
    }

    /// Sees that they fit what is free, of which `held` are weights that are loaded already.
    ///
    /// # Errors
    /// Names what is needed and what is free.
    pub fn check(&self, free: u64, held: u64) -> Result<(), Explained> {
        let needed = self.total().saturating_sub(held);
        if needed <= free {
            return Ok(());
        }
        Err(Explained::new(format!(
            "the job needs about {} of memory: {} for frozen weights, {} for the tuned state, {} for its \
             largest slice",
            megabytes(needed),
            megabytes(self.weights.saturating_sub(held)),
            megabytes(self.tuned),
            megabytes(self.slice + self.beside),
        ))
        .expected(format!("at most the {} that are free", megabytes(free)))
        .hint(HINT))
    }
}

/// What helps.
const HINT: &str = "raise `training.slices`, which makes each of them smaller, lower `data.max_seq_length`, \
                    set `backbone.precision` to bf16, or take a GPU with more memory";

fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Explains a failure of torch; where memory ran out, with what was being done.
pub(super) fn told(error: TensorError, doing: impl FnOnce() -> String) -> Explained {
    let text = error.to_string();
    if !is_out_of_memory(&text) {
        return error.into();
    }
    // What follows is where in torch's code it was.
    let first = text.lines().next().unwrap_or_default();
    Explained::new(format!("memory ran out while {}: {first}", doing())).hint(HINT)
}

/// What is done for a slice's gradient.
pub(super) fn of_gradient(slice: &Slice, prefix: i64) -> String {
    format!("computing the gradient of slice {}, {}", slice.index, size(slice, prefix))
}

/// What is done for the scores of slices.
pub(super) fn of_scores(slices: &[Slice], prefix: i64) -> String {
    let largest = slices.iter().max_by_key(|slice| slice.cost());
    let size = largest.map(|slice| size(slice, prefix)).unwrap_or_default();
    format!("scoring {} slices, the largest of {size}", slices.len())
}

fn size(slice: &Slice, prefix: i64) -> String {
    format!("{} rows padded to {} tokens behind a prefix of {prefix}", slice.rows, slice.length())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Sequence;
    use tch::{Device, Kind, Tensor};

    /// Two layers of 8 in 2 heads, inner 16, 10 words, 20 positions, 2 types.
    fn small() -> Config {
        let config = serde_json::json!({
            "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 16, "vocab_size": 10, "max_position_embeddings": 20,
            "type_vocab_size": 2,
        });
        Config::parse(config.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_need_is_counted_as_by_hand() {
        let largest = Largest { sequences: 3, length: 4, prefix: 5 };
        let layout = Layout::new(5, 2, 8, 2);
        let needs = |precision| Needs::counted(&small(), &layout, precision, largest);
        // Embeddings 32 · 8; a layer: 4 maps of 8 · 9, of 16 · 9 and 8 · 17, all but norms.
        let (weights, norms, pooler) = (256 + 2 * (288 + 144 + 136), 16 * 5, 72);
        let tuned = 5 * (2 + 16 + 160) * 4;
        // 12 tokens, 27 keys, 216 pairs, 15 positions of prefixes.
        let wide = 2 * (12 * (8 * 20 + 64) + 27 * 64 + 216 * 12 + 15 * 16 * 12);
        let fp32 = needs(Precision::Fp32);
        assert_eq!((fp32.weights, fp32.tuned), ((weights + norms + pooler) * 4, tuned));
        assert_eq!((fp32.slice, fp32.beside), (wide, BESIDE + 216 * 12));
        let bf16 = needs(Precision::Bf16);
        let narrow = 2 * (12 * (8 * 14 + 32) + 27 * 32 + 216 * 8 + 15 * 16 * 10);
        assert_eq!(bf16.weights, weights * 2 + (norms + pooler) * 4);
        assert_eq!((bf16.slice, bf16.tuned), (narrow, tuned));
        assert_eq!(fp32.total(), fp32.weights + tuned + wide + fp32.beside);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let needs = Needs { weights: 600 << 20, tuned: 20 << 20, slice: 3 << 30, beside: 4 << 20 };
        let total = needs.total();
        assert_eq!((needs.check(total, 0), needs.check(total - 100, 100)), (Ok(()), Ok(())));
        let error = needs.check(1 << 30, 0).unwrap_err();
        assert!(error.what.contains("about 3696 MiB") && error.what.contains("600 MiB for frozen"));
        assert_eq!(error.expected.as_deref(), Some("at most the 1024 MiB that are free"));
        assert!(error.hint.unwrap().contains("training.slices"));
    }

    /// torch's own words, of a tensor that no machine has room for.
    #[test]
    fn memory_that_runs_out_is_said_with_what_wanted_it() {
        let refused = Tensor::f_empty([1 << 50], (Kind::Float, Device::Cpu)).unwrap_err();
        let sequence = Sequence { ids: &[1; 5], types: &[0; 5] };
        let slice = Slice::new(7, &[sequence], &[0]);
        let error = told(refused.into(), || of_gradient(&slice, 20));
        let expected = "memory ran out while computing the gradient of slice 7, 1 rows padded to 5 tokens \
                        behind a prefix of 20: ";
        assert!(error.what.starts_with(expected), "{error:?}");
        assert!(error.hint.unwrap().contains("bf16"));
        let other = Tensor::ones([2], (Kind::Float, Device::Cpu)).f_view([3]).unwrap_err();
        assert!(!told(other.into(), || unreachable!()).what.contains("ran out"));
    }
}
