//! Which tensors a job tunes, and where each stands in the flat buffers.

use crate::backbone::{Config, Pooling};
use ptv2_common::error::Explained;
use ptv2_common::spec::{MethodKind, MethodSpec, PoolerKind};
use std::ops::Range;

/// The head's bias: `[C]`.
pub const HEAD_BIAS: &str = "head.bias";
/// The head's weight: `[C, H]`.
pub const HEAD_WEIGHT: &str = "head.weight";
/// The bias of a job's own pooler: `[H]`.
pub const POOLER_BIAS: &str = "pooler.bias";
/// The weight of a job's own pooler: `[H, H]`.
pub const POOLER_WEIGHT: &str = "pooler.weight";
/// The prefix: `[P, 2·L·H]`, laid out as specification section 4 says.
pub const PREFIX_TABLE: &str = "prefix.table";
/// What a prefix with projection comes out of: `[P, H]`.
pub const PREFIX_EMBEDDING: &str = "prefix.embedding";
/// The projection's first map: `[M, H]` and `[M]`.
pub const PREFIX_INNER: [&str; 2] = ["prefix.inner.weight", "prefix.inner.bias"];
/// The projection's second map: `[2·L·H, M]` and `[2·L·H]`.
pub const PREFIX_OUTER: [&str; 2] = ["prefix.outer.weight", "prefix.outer.bias"];
/// The prompt: `[P, H]`.
pub const PROMPT_TABLE: &str = "prompt.table";

/// The stream of each tensor's first values, N(0, 0.02²). What is not here begins with zeros.
const STREAMS: [(&str, u16); 7] = [
    (HEAD_WEIGHT, 1),
    (PREFIX_TABLE, 2),
    (PREFIX_EMBEDDING, 3),
    (PREFIX_INNER[0], 4),
    (PREFIX_OUTER[0], 5),
    (PROMPT_TABLE, 6),
    (POOLER_WEIGHT, 7),
];

/// A tensor's name, shape and place in the flat buffers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where its elements stand, row-major.
    pub range: Range<usize>,
    /// Whether weight decay applies: not to biases.
    pub decay: bool,
    /// The stream of its first values, which are normal numbers; without one they are zeros.
    pub stream: Option<u16>,
}

/// The tuned tensors in name order, without gaps; behind them, in name order, too, those that are kept
/// with them unchanged, since the result depends on them and no file of the backbone holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<TunedTensor>,
    /// How many of them are tuned.
    tuned: usize,
}

/// A name and a shape.
pub(super) type Named = (&'static str, Vec<usize>);

impl Layout {
    /// Lays out a head of C outputs over H inputs, and a prefix of P positions in L layers (P = 0:
    /// none).
    pub fn new(prefix: usize, layers: usize, hidden: usize, outputs: usize) -> Self {
        let mut tuned = head(hidden, outputs);
        if prefix > 0 {
            tuned.push((PREFIX_TABLE, vec![prefix, 2 * layers * hidden]));
        }
        Self::place(tuned, Vec::new())
    }

    /// Lays out what a method tunes on a backbone under a head of C outputs.
    ///
    /// # Errors
    /// Names the key that this kind of backbone has no use for.
    pub fn of(method: &MethodSpec, config: &Config, outputs: usize) -> Result<Self, Explained> {
        let hidden = config.hidden_size as usize;
        let width = 2 * config.num_hidden_layers as usize * hidden;
        let (length, inner) = (method.pre_seq_len as usize, method.prefix_hidden_size as usize);
        let mut tuned = head(hidden, outputs);
        match method.kind {
            MethodKind::Prefix if method.prefix_projection => {
                tuned.push((PREFIX_EMBEDDING, vec![length, hidden]));
                tuned.extend(linear(PREFIX_INNER, inner, hidden));
                tuned.extend(linear(PREFIX_OUTER, width, inner));
            }
            MethodKind::Prefix => tuned.push((PREFIX_TABLE, vec![length, width])),
            MethodKind::Prompt if !config.supports_prompt() => return Err(no_prompt(config)),
            MethodKind::Prompt => tuned.push((PROMPT_TABLE, vec![length, hidden])),
            MethodKind::Head => {}
        }
        let pooler = linear([POOLER_WEIGHT, POOLER_BIAS], hidden, hidden);
        let mut kept = Vec::new();
        match Pooling::of(config).kept(method.pooler)? {
            Some(PoolerKind::Trained) => tuned.extend(pooler),
            Some(PoolerKind::Frozen) => kept.extend(pooler),
            None => {}
        }
        Ok(Self::place(tuned, kept))
    }

    pub(super) fn place(mut tuned: Vec<Named>, mut kept: Vec<Named>) -> Self {
        tuned.sort();
        kept.sort();
        let count = tuned.len();
        let mut start = 0;
        let tensors = tuned.into_iter().chain(kept).map(|(name, shape)| {
            let range = start..start + shape.iter().product::<usize>();
            start = range.end;
            let stream = STREAMS.iter().find(|(other, _)| *other == name).map(|(_, site)| *site);
            let decay = !name.ends_with(".bias");
            TunedTensor { name: name.into(), shape, range, decay, stream }
        });
        Self { tensors: tensors.collect(), tuned: count }
    }

    /// The tuned tensors, in name order.
    pub fn tensors(&self) -> &[TunedTensor] {
        &self.tensors[..self.tuned]
    }

    /// The tuned tensors, then those that are kept unchanged.
    pub fn all(&self) -> &[TunedTensor] {
        &self.tensors
    }

    /// One tensor by name, tuned or kept.
    pub fn tensor(&self, name: &str) -> Option<&TunedTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Elements that are tuned: those of a gradient.
    pub fn tuned_len(&self) -> usize {
        end(self.tensors())
    }

    /// Elements in all: tuned and kept.
    pub fn len(&self) -> usize {
        end(&self.tensors)
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tuned elements of the tensors whose names begin so.
    pub fn tuned_under(&self, start: &str) -> usize {
        let under = self.tensors().iter().filter(|tensor| tensor.name.starts_with(start));
        under.map(|tensor| tensor.range.len()).sum()
    }
}

fn no_prompt(config: &Config) -> Explained {
    let name = config.architecture.name();
    Explained::new(format!("`method.kind` is prompt, but the backbone is a {name}"))
        .at("method.kind")
        .expected("a bert, roberta or mpnet, or another method")
        .hint("prefix is there for this backbone, too")
}

fn end(tensors: &[TunedTensor]) -> usize {
    tensors.last().map_or(0, |tensor| tensor.range.end)
}

fn head(hidden: usize, outputs: usize) -> Vec<Named> {
    linear([HEAD_WEIGHT, HEAD_BIAS], outputs, hidden).into()
}

/// A linear map's weight and bias.
fn linear([weight, bias]: [&'static str; 2], outputs: usize, inputs: usize) -> [Named; 2] {
    [(weight, vec![outputs, inputs]), (bias, vec![outputs])]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BERT-large's shape.
    fn large() -> Config {
        let config = serde_json::json!({
            "model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24,
            "num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 28996,
            "max_position_embeddings": 512,
        });
        Config::parse(config.to_string().as_bytes()).unwrap()
    }

    fn layout(change: impl FnOnce(&mut MethodSpec), outputs: usize) -> Layout {
        let mut method = MethodSpec::default();
        change(&mut method);
        Layout::of(&method, &large(), outputs).unwrap()
    }

    fn names(layout: &Layout) -> Vec<&str> {
        layout.all().iter().map(|tensor| tensor.name.as_str()).collect()
    }

    #[test]
    fn trainable_counts_are_those_of_the_specification() {
        let prefix = |length: u32, outputs| {
            layout(|method| method.pre_seq_len = length, outputs).tuned_len()
        };
        assert_eq!(prefix(40, 2), 1_968_130);
        assert_eq!(prefix(8, 2), 395_266);
        assert_eq!(prefix(16, 1), 787_457);
        assert_eq!(prefix(8, 1), 394_241);
        assert_eq!(prefix(20, 2), 985_090);
        assert_eq!(prefix(128, 2), 6_293_506);
        let projection = layout(|method| method.prefix_projection = true, 2);
        assert_eq!(projection.tuned_len(), 25_762_306);
        assert_eq!(projection.tuned_under("prefix."), 25_760_256);
        let prompt = layout(|method| method.kind = MethodKind::Prompt, 2);
        assert_eq!(prompt.tuned_len(), 20 * 1024 + 2050);
        assert_eq!(layout(|method| method.kind = MethodKind::Head, 2).tuned_len(), 2050);
        let pooler = layout(|method| method.pooler = Some(PoolerKind::Trained), 2);
        assert_eq!(pooler.tuned_len(), 985_090 + 1024 * 1024 + 1024);
    }

    #[test]
    fn tensors_stand_in_name_order_without_gaps() {
        let table = Layout::new(3, 2, 4, 2);
        assert_eq!(names(&table), ["head.bias", "head.weight", "prefix.table"]);
        let all = layout(
            |method| {
                method.prefix_projection = true;
                method.pooler = Some(PoolerKind::Trained);
            },
            2,
        );
        let [inner, outer] = [PREFIX_INNER, PREFIX_OUTER];
        let expected = [HEAD_BIAS, HEAD_WEIGHT, POOLER_BIAS, POOLER_WEIGHT, PREFIX_EMBEDDING];
        assert_eq!(names(&all)[..5], expected);
        assert_eq!(names(&all)[5..], [inner[1], inner[0], outer[1], outer[0]]);
        let ends = all.all().iter().map(|tensor| tensor.range.end);
        let starts = all.all().iter().skip(1).map(|tensor| tensor.range.start);
        assert!(starts.eq(ends.take(all.all().len() - 1)));
    }

    #[test]
    fn biases_neither_decay_nor_begin_at_random() {
        let all = layout(|method| method.prefix_projection = true, 2);
        for tensor in all.tensors() {
            let is_bias = tensor.name.ends_with("bias");
            assert_eq!((tensor.decay, tensor.stream.is_some()), (!is_bias, !is_bias), "{tensor:?}");
        }
    }

    #[test]
    fn what_is_kept_stands_behind_what_is_tuned() {
        let pooler = linear([POOLER_WEIGHT, POOLER_BIAS], 4, 4);
        let mut tuned = head(4, 2);
        tuned.push((PREFIX_TABLE, vec![3, 16]));
        let layout = Layout::place(tuned, pooler.into());
        assert_eq!(names(&layout)[2..], [PREFIX_TABLE, POOLER_BIAS, POOLER_WEIGHT]);
        assert_eq!((layout.tuned_len(), layout.len()), (2 + 8 + 48, 2 + 8 + 48 + 4 + 16));
        assert_eq!(layout.tensors().len(), 3);
        assert_eq!(layout.tensor(POOLER_WEIGHT).unwrap().shape, [4, 4]);
    }
}
