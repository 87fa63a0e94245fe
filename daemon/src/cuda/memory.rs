//! What a job needs of a GPU's memory, counted before anything is loaded.
//!
//! An estimate from above, of what counts: frozen weights; what the backward pass keeps of one slice, the
//! largest one; the tuned state. A job that is refused by it would hardly run; one that passes may still run
//! out, which is told when it happens.

use super::Memory;
use ptv2_common::error::Explained;

/// What the libraries take besides: their code, handles, workspaces, and what the allocator cuts off.
const RESERVE: u64 = 768 << 20;
/// Copies of the tuned state: values, gradient, two moments, and a gradient that is being summed.
const COPIES: u64 = 5;
/// Bytes of a tuned value, which is always fp32.
const VALUE: u64 = 4;

/// The sizes of a job that its memory follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shapes {
    /// Values of the frozen weights.
    pub weights: u64,
    /// Bytes of one of them, and of an activation: 4 for fp32, 2 for bf16.
    pub width: u64,
    /// Values that are trained.
    pub tuned: u64,
    /// Rows of the largest slice.
    pub rows: u64,
    /// Tokens of its longest row, with those of a prompt.
    pub tokens: u64,
    /// Length of the prefix, to which each token attends as well.
    pub prefix: u64,
    /// Layers of the backbone.
    pub layers: u64,
    /// Its hidden size.
    pub hidden: u64,
    /// The inner size of its feed-forward layers.
    pub inner: u64,
    /// Its attention heads.
    pub heads: u64,
}

/// What a job needs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The frozen weights.
    pub weights: u64,
    /// What the passes over one slice keep.
    pub activations: u64,
    /// Values, gradients and moments of what is trained.
    pub tuned: u64,
}

impl Need {
    /// What these sizes need.
    ///
    /// A layer keeps of each token: inputs and outputs of its two sums and norms, query, key, value, context
    /// and dropouts (16 × hidden), and inputs and outputs of its activation function (3 × inner); of each
    /// pair of token and key, a head keeps scores, weights and a mask (3).
    pub fn of(shapes: &Shapes) -> Self {
        let Shapes { weights, width, tuned, rows, tokens, prefix, layers, hidden, inner, heads } =
            *shapes;
        let product =
            |factors: &[u64]| factors.iter().fold(1_u64, |all, one| all.saturating_mul(*one));
        let of_tokens =
            product(&[rows, tokens, product(&[16, hidden]).saturating_add(product(&[3, inner]))]);
        let of_pairs = product(&[3, rows, heads, tokens, tokens.saturating_add(prefix)]);
        Self {
            weights: product(&[weights, width]),
            activations: product(&[of_tokens.saturating_add(of_pairs), layers, width]),
            tuned: product(&[tuned, VALUE, COPIES]),
        }
    }

    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.weights.saturating_add(self.activations).saturating_add(self.tuned)
    }
}

/// Refuses what a GPU has no room for; `held` is what this process holds there already and would use for it.
///
/// # Errors
/// When the memory does not suffice, or the driver cannot say.
pub fn ensure(index: u32, need: &Need, held: u64) -> Result<(), Explained> {
    suffices(index, need, held, super::memory(index)?)
}

fn suffices(index: u32, need: &Need, held: u64, memory: Memory) -> Result<(), Explained> {
    let needed = need.bytes().saturating_add(RESERVE);
    let free = memory.free.saturating_add(held);
    if needed <= free {
        return Ok(());
    }
    let of_all = format!("{} of {} are free", amount(free), amount(memory.total));
    let hint = if needed <= memory.total {
        "see who else uses the GPU (`nvidia-smi`)"
    } else if need.activations > need.weights {
        "take more `training.slices`, which makes each of them smaller, or bf16"
    } else {
        "take `backbone.precision = \"bf16\"`, or a GPU with more memory"
    };
    Err(Explained::new(format!(
        "the job needs about {} of the GPU's memory: {} for frozen weights, {} for a slice, {} for what is \
         trained, {} for the libraries",
        amount(needed),
        amount(need.weights),
        amount(need.activations),
        amount(need.tuned),
        amount(RESERVE),
    ))
    .at(format!("cuda:{index}"))
    .expected(format!("no more than is free: {of_all}"))
    .hint(hint))
}

/// Bytes for people.
pub(super) fn amount(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        let tenths = u128::from(bytes) * 10 / (1 << 30);
        return format!("{}.{} GiB", tenths / 10, tenths % 10);
    }
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BERT-large with a prefix of 128, batches of 32 rows in one slice, in bf16.
    const LARGE: Shapes = Shapes {
        weights: 333_579_264,
        width: 2,
        tuned: 24 * 2 * 128 * 1024,
        rows: 32,
        tokens: 128,
        prefix: 128,
        layers: 24,
        hidden: 1024,
        inner: 4096,
        heads: 16,
    };

    #[test]
    fn a_need_is_counted_by_hand() {
        let need = Need::of(&LARGE);
        assert_eq!(need.weights, 667_158_528);
        assert_eq!(need.tuned, 6_291_456 * 20);
        let of_layer = 32 * 128 * (16 * 1024 + 3 * 4096) + 3 * 32 * 16 * 128 * 256;
        assert_eq!(need.activations, of_layer * 24 * 2);
        let wide = Need::of(&Shapes { width: 4, ..LARGE });
        assert_eq!((wide.weights, wide.tuned), (need.weights * 2, need.tuned));
        let vast = Need::of(&Shapes { rows: u64::MAX, ..LARGE });
        assert_eq!(vast.bytes(), u64::MAX);
    }

    #[test]
    fn too_little_memory_is_refused_with_the_amount() {
        let need = Need::of(&LARGE);
        let room = |free, total| Memory { free, total };
        let enough = need.bytes() + RESERVE;
        suffices(0, &need, 0, room(enough, 80 << 30)).unwrap();
        suffices(0, &need, 1 << 20, room(enough - (1 << 20), 80 << 30)).unwrap();
        let error = suffices(1, &need, 0, room(1 << 30, 80 << 30)).unwrap_err();
        assert!(error.what.starts_with("the job needs about 8.3 GiB"), "{error:?}");
        assert!(error.what.contains("637 MiB for frozen weights"), "{error:?}");
        assert_eq!(error.place.as_deref(), Some("cuda:1"));
        assert!(error.expected.unwrap().contains("1.0 GiB of 80.0 GiB are free"));
        assert!(error.hint.unwrap().contains("nvidia-smi"));
        let error = suffices(0, &need, 0, room(1 << 30, 2 << 30)).unwrap_err();
        assert!(error.hint.unwrap().contains("training.slices"));
        let weights = Need { weights: 100 << 30, ..need };
        let error = suffices(0, &weights, 0, room(1 << 30, 2 << 30)).unwrap_err();
        assert!(error.hint.unwrap().contains("bf16"));
    }
}
