//! What a job takes of a device's memory: told before anything is loaded, and when it ran out after all.

use super::TensorError;
use super::batch::Slice;
use super::exhausted::is_out_of_memory;
use super::step::outputs;
use super::stepper::ROWS_SCORED;
use crate::backbone::tensors::optional_shapes;
use crate::backbone::{Architecture, Config, shapes};
use crate::numerics::batches::padded;
use crate::numerics::state::Layout;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::spec::{MethodKind, MethodSpec, Precision};

/// Bytes of a number of fp32.
const WIDE: u64 = 4;
/// Values, two moments, gradient; and one more gradient that a sum waits for.
const COPIES: u64 = 5;
/// Of each tuned number, while a step is made of the sums: words of 64 bits that the hash takes (`flat.rs`).
const UPDATE: u64 = 4 * 8;
/// Of each pair of tokens, on DeBERTa's way back through one gather. With deterministic algorithms torch puts the
/// gradients in place by a sort: four coordinates of 64 bits for each, then their place, that and the order before
/// and behind the sort, and what the sort itself takes (`_scatter_via_index_put`, `index_put_with_sort_kernel`).
const SORTED: u64 = 12 * 8;

/// A batch of blocks of dropout's generator, by operators (`masks.rs`).
const GENERATOR: u64 = 128 << 20;
/// Workspaces of cuBLAS and of cuBLASLt, which torch reserves at the first product. `CUBLAS_WORKSPACE_CONFIG=:4096:8`, which
/// workers set so that products are deterministic, means 8 buffers of 4096 KiB; torch's own choice is as much for
/// Hopper, 8.1 MiB for others.
const CUBLAS: u64 = 2 * (32 << 20);
/// Kernels of torch and its libraries, which CUDA loads as they are first called. A guess: nobody has measured it.
const KERNELS: u64 = 128 << 20;
/// What NCCL reserves for a ring: of each of 32 channels, at most, 4 MiB (NCCL_BUFFSIZE), 4.7 MiB (LL128) and 0.5 MiB
/// (LL), by its source.
const NCCL: u64 = 32 * ((4 << 20) + 120 * 640 * 8 * 8 + (512 << 10));
// The context, some hundred MiB, is made before anybody asks what is free.

/// Bytes that a job needs on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Frozen weights.
    pub weights: u64,
    /// The tuned state, and gradients.
    pub tuned: u64,
    /// The most that is computed at a time: a slice of a step or of an evaluation, or a step's end.
    pub slice: u64,
    /// What libraries reserve for themselves.
    pub beside: u64,
}

/// A job's largest slices, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Largest {
    /// Rows times choices of a slice of a batch.
    pub sequences: u64,
    /// The same of an evaluation.
    pub evaluated: u64,
    /// Tokens of each, padding and prompt included.
    pub length: u64,
    /// Positions of the prefix.
    pub prefix: u64,
}

impl Largest {
    /// Of a job, all of whose rows may be as long as they are let.
    pub fn of(job: &JobRecord) -> Self {
        let training = &job.spec.training;
        let rows = training.batch_size.div_ceil(job.plan.slices.max(1)) as usize;
        let length = job.spec.data.max_seq_length as usize;
        let choices = job.choices.max(1) as usize;
        let sequences = [rows, ROWS_SCORED[1]].map(|rows| rows * choices);
        Self::counted(sequences, length, &job.spec.method)
    }

    /// Of slices of so many sequences, of a step and of an evaluation, of so many tokens.
    fn counted([sequences, evaluated]: [usize; 2], length: usize, method: &MethodSpec) -> Self {
        let learned = u64::from(method.prefix_length());
        let (prefix, prompt) = match method.kind {
            MethodKind::Prefix => (learned, 0),
            MethodKind::Prompt => (0, learned),
            MethodKind::Head => (0, 0),
        };
        let length = padded(length) as u64 + prompt;
        Self { sequences: sequences as u64, evaluated: evaluated as u64, length, prefix }
    }
}

/// Bytes that slices take while they are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slices {
    /// What autograd keeps.
    kept: u64,
    /// What stands beside it for a moment, of one layer.
    at_once: u64,
    /// What a GPU takes for DeBERTa's gathers besides.
    sorted: u64,
    /// A slice of an evaluation, of which nothing is kept.
    evaluation: u64,
}

/// Numbers in a slice's tensors.
struct Shape {
    /// `[B, S, H]`.
    hidden: u64,
    /// The same of the feed-forward's inner size.
    inner: u64,
    /// `[B, P+S, H]`.
    keys: u64,
    /// `[B, P, H]`.
    prefix: u64,
    /// `[B, h, S, P+S]`.
    pairs: u64,
    /// `[B, h, S, S]` of DeBERTa, else none.
    own: u64,
    /// `[B, h, S, R]`, likewise, of R distances.
    distant: u64,
    /// `[B, R, H]`, likewise.
    distances: u64,
}

impl Shape {
    fn of(config: &Config, sequences: u64, largest: Largest) -> Self {
        let Largest { length, prefix, .. } = largest;
        let hidden = u64::from(config.hidden_size);
        let heads = u64::from(config.num_attention_heads);
        let tokens = sequences * length;
        let distances =
            config.deberta.as_ref().map(|one| 2 * u64::from(one.span(config)).min(length));
        let distances = distances.unwrap_or(0);
        Self {
            hidden: tokens * hidden,
            inner: tokens * u64::from(config.intermediate_size),
            keys: sequences * (prefix + length) * hidden,
            prefix: sequences * prefix * hidden,
            pairs: tokens * heads * (prefix + length),
            own: if distances > 0 { tokens * heads * length } else { 0 },
            distant: tokens * heads * distances,
            distances: sequences * distances * hidden,
        }
    }
}

impl Slices {
    /// Of a layer autograd keeps: of each token the scaled query, two factors of dropout, what two norms
    /// read (fp32) and what the activation reads; of each key it and its value; of each pair of token and key
    /// and head, a probability of fp32, its factor and their product. Of the prefix: its factors and what they
    /// make of it, fp32, and as keys and values. Of DeBERTa's distances: both maps, a copy for each sequence.
    ///
    /// For a moment there are the scores before and behind the mask, and behind what distance adds, their softmax, and what
    /// the feed-forward makes of tokens.
    fn counted(config: &Config, precision: Precision, largest: Largest) -> Self {
        let narrow = narrow(precision);
        let layers = u64::from(config.num_hidden_layers);
        // Scores by content, and what makes those by distance.
        let of_distance =
            |shape: &Shape| (shape.pairs + 2 * shape.distant + 3 * shape.own) * narrow;
        let one = Shape::of(config, largest.sequences, largest);
        // Of the last layer one position is asked for, so only keys, prefix and distances are kept.
        let of_last = one.keys * 2 * narrow
            + one.prefix * 2 * (2 * WIDE + narrow)
            + one.distances * 2 * narrow;
        let of_layer = one.hidden * (3 * narrow + 2 * WIDE)
            + one.inner * narrow
            + one.pairs * (WIDE + 2 * narrow)
            + of_last;
        let of_embeddings = one.hidden * 2 * WIDE;
        let all = Shape::of(config, largest.evaluated, largest);
        let of_tokens = all.hidden * (8 * narrow + 2 * WIDE) + all.keys * 2 * narrow;
        let biased =
            if all.own > 0 || config.architecture == Architecture::Mpnet { WIDE } else { 0 };
        let of_pairs = all.pairs * (2 * (WIDE + narrow) + biased);
        Self {
            kept: layers.saturating_sub(1) * of_layer + of_last + of_embeddings,
            at_once: of_distance(&one).max(one.pairs * 3 * WIDE)
                + one.hidden * 4 * WIDE
                + one.inner * 2 * narrow,
            sorted: one.own * SORTED,
            evaluation: layers * all.prefix * 2 * narrow
                + of_tokens
                + of_pairs.max(of_distance(&all)).max(all.inner * 2 * narrow),
        }
    }

    /// A slice of a step, as every device computes it.
    fn step(&self) -> u64 {
        self.kept + self.at_once
    }
}

fn narrow(precision: Precision) -> u64 {
    match precision {
        Precision::Fp32 => WIDE,
        Precision::Bf16 => 2,
    }
}

impl Needs {
    /// Of a job on its backbone.
    ///
    /// # Errors
    /// When the method has no use for such a backbone.
    pub fn of(job: &JobRecord, config: &Config) -> Result<Self, Explained> {
        let layout = Layout::of(&job.spec.method, config, outputs(job))?;
        let precision = job.spec.backbone.precision;
        let mut needs = Self::counted(config, &layout, precision, Largest::of(job));
        if job.spec.resources.workers.max > 1 {
            needs.beside += NCCL;
        }
        Ok(needs)
    }

    /// Of a backbone in a precision, and what is tuned on it, by one worker.
    pub fn counted(
        config: &Config,
        layout: &Layout,
        precision: Precision,
        largest: Largest,
    ) -> Self {
        let mut files = shapes(config);
        files.extend(optional_shapes(config));
        let weights: u64 = files
            .iter()
            .map(|(name, shape)| {
                let stays_wide = name.contains("LayerNorm") || name.starts_with("pooler");
                let width = if stays_wide { WIDE } else { narrow(precision) };
                shape.iter().product::<usize>() as u64 * width
            })
            .sum();
        let (all, tuned) = (layout.len() as u64, layout.tuned_len() as u64);
        let slices = Slices::counted(config, precision, largest);
        let step = slices.step() + slices.sorted;
        Self {
            weights,
            tuned: ((COPIES - 1) * tuned + all) * WIDE,
            slice: step.max(slices.evaluation).max(tuned * UPDATE),
            beside: GENERATOR + CUBLAS + KERNELS,
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
             largest slice and for libraries",
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
    if is_out_of_memory(&text) { ran_out(&text, Some(doing())) } else { error.into() }
}

/// Explains that memory ran out, in the words of who asked for it, and leaves what is held of it for nothing to others.
pub(super) fn ran_out(text: &str, doing: Option<String>) -> Explained {
    // Without a GPU there is nothing to give back.
    if let Err(error) = crate::cuda::give_back() {
        tracing::debug!("{}", error.what);
    }
    // What follows is where in torch's code it was.
    let first = text.lines().next().unwrap_or_default();
    let doing = doing.map(|doing| format!(" while {doing}")).unwrap_or_default();
    Explained::new(format!("memory ran out{doing}: {first}")).hint(HINT)
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
mod measured;

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
        let largest = Largest { sequences: 3, evaluated: 3, length: 4, prefix: 5 };
        let layout = Layout::new(5, 2, 8, 2);
        let needs = |precision| Needs::counted(&small(), &layout, precision, largest);
        // Embeddings 32 · 8; a layer: 4 maps of 8 · 9, of 16 · 9 and 8 · 17, all but norms.
        let (weights, norms, pooler) = (256 + 2 * (288 + 144 + 136), 16 * 5, 72);
        let tuned = 5 * (2 + 16 + 160) * 4;
        // 12 tokens, 27 keys, 216 pairs, 15 positions of prefixes.
        let last = 27 * 64 + 15 * 16 * 12;
        let wide = 12 * (8 * 20 + 64) + 216 * 12 + 2 * last + 12 * 8 * 8;
        let fp32 = needs(Precision::Fp32);
        assert_eq!((fp32.weights, fp32.tuned), ((weights + norms + pooler) * 4, tuned));
        let at_once = 216 * 12 + 12 * 8 * 16;
        let beside = (128 + 64 + 128) << 20;
        assert_eq!((fp32.slice, fp32.beside), (wide + at_once + 12 * 16 * 8, beside));
        let bf16 = needs(Precision::Bf16);
        let last = 27 * 32 + 15 * 16 * 10;
        let narrow = 12 * (8 * 14 + 32) + 216 * 8 + 2 * last + 12 * 8 * 8;
        assert_eq!(bf16.weights, weights * 2 + (norms + pooler) * 4);
        assert_eq!((bf16.slice, bf16.tuned), (narrow + at_once + 12 * 16 * 4, tuned));
        assert_eq!(fp32.total(), fp32.weights + tuned + fp32.slice + beside);
        // Of 64 rows an evaluation takes more than a step of 3: prefixes, tokens, keys, pairs.
        let many = Largest { evaluated: 64, ..largest };
        let evaluated = 64 * (2 * 5 * 16 * 4 + 4 * 8 * 40 + 9 * 64 + 2 * 9 * 4 * 16);
        assert_eq!(Needs::counted(&small(), &layout, Precision::Fp32, many).slice, evaluated);
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
