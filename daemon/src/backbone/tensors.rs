//! The tensors that a backbone consists of. The one list: the check at submit and the loader read it.

use super::config::MPNET_BUCKETS;
use super::{Architecture, Config};
use std::collections::BTreeMap;

/// Tensors' shapes by name, named without the architecture, row-major, as `[outputs, inputs]` where
/// they are weights of a linear map.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The pooler's linear map.
pub const POOLER: &str = "pooler.dense";
/// MPNet's bias of scores by bucket of distance and head.
pub const BIAS: &str = "encoder.relative_attention_bias.weight";
/// DeBERTa's embeddings of distances.
pub const DISTANCES: &str = "encoder.rel_embeddings.weight";
/// The norm behind them.
pub const DISTANCE_NORM: &str = "encoder.LayerNorm";
/// DeBERTa-v2's convolution.
pub const CONVOLUTION: &str = "encoder.conv.conv";
/// The norm behind it.
pub const CONVOLUTION_NORM: &str = "encoder.conv.LayerNorm";

/// Names of a layer's linear maps and norms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerNames {
    /// Query, key and value.
    pub projections: [String; 3],
    /// Behind attention.
    pub attention_output: String,
    /// Behind attention and its residual.
    pub attention_norm: String,
    /// To the inner size.
    pub inner: String,
    /// From the inner size.
    pub outer: String,
    /// Behind the feed-forward part and its residual.
    pub output_norm: String,
}

impl LayerNames {
    /// The names in layer `index`.
    pub fn new(architecture: Architecture, index: u32) -> Self {
        let (projections, output, norm) = match architecture {
            Architecture::Bert | Architecture::Roberta => {
                (["self.query", "self.key", "self.value"], "output.dense", "output.LayerNorm")
            }
            Architecture::Mpnet => (["attn.q", "attn.k", "attn.v"], "attn.o", "LayerNorm"),
            Architecture::DebertaV2 => (
                ["self.query_proj", "self.key_proj", "self.value_proj"],
                "output.dense",
                "output.LayerNorm",
            ),
        };
        let name = |tail: &str| format!("encoder.layer.{index}.{tail}");
        let attention = |tail: &str| name(&format!("attention.{tail}"));
        Self {
            projections: projections.map(attention),
            attention_output: attention(output),
            attention_norm: attention(norm),
            inner: name("intermediate.dense"),
            outer: name("output.dense"),
            output_norm: name("output.LayerNorm"),
        }
    }
}

/// Every tensor that the configuration asks for.
pub fn shapes(config: &Config) -> Shapes {
    let (hidden, wide) = (config.hidden_size as usize, config.intermediate_size as usize);
    let mut all = Shapes::new();
    let has_positions = config.deberta.as_ref().is_none_or(|one| one.position_biased_input);
    for (name, rows) in [
        ("word", config.vocab_size),
        ("position", if has_positions { config.max_position_embeddings } else { 0 }),
        ("token_type", config.type_vocab_size),
    ] {
        if rows > 0 {
            let name = format!("embeddings.{name}_embeddings.weight");
            all.insert(name, vec![rows as usize, hidden]);
        }
    }
    norm(&mut all, "embeddings.LayerNorm", hidden);
    for index in 0..config.num_hidden_layers {
        let names = LayerNames::new(config.architecture, index);
        for part in names.projections {
            linear(&mut all, &part, hidden, hidden);
        }
        linear(&mut all, &names.attention_output, hidden, hidden);
        norm(&mut all, &names.attention_norm, hidden);
        linear(&mut all, &names.inner, hidden, wide);
        linear(&mut all, &names.outer, wide, hidden);
        norm(&mut all, &names.output_norm, hidden);
    }
    relative(&mut all, config);
    if config.requires_pooler() {
        linear(&mut all, POOLER, hidden, hidden);
    }
    all
}

/// Tensors that a file may have or lack: the pooler of an encoder that was pre-trained without one.
pub fn optional_shapes(config: &Config) -> Shapes {
    let mut all = Shapes::new();
    if config.has_pooler() && !config.requires_pooler() {
        let hidden = config.hidden_size as usize;
        linear(&mut all, POOLER, hidden, hidden);
    }
    all
}

/// What scores by distance need.
fn relative(all: &mut Shapes, config: &Config) {
    let hidden = config.hidden_size as usize;
    if config.architecture == Architecture::Mpnet {
        let heads = config.num_attention_heads as usize;
        all.insert(BIAS.into(), vec![MPNET_BUCKETS as usize, heads]);
    }
    let Some(deberta) = &config.deberta else { return };
    all.insert(DISTANCES.into(), vec![2 * deberta.span(config) as usize, hidden]);
    if deberta.has_distance_norm() {
        norm(all, DISTANCE_NORM, hidden);
    }
    if deberta.conv_kernel_size > 0 {
        let width = deberta.conv_kernel_size as usize;
        all.insert(format!("{CONVOLUTION}.weight"), vec![hidden, hidden, width]);
        all.insert(format!("{CONVOLUTION}.bias"), vec![hidden]);
        norm(all, CONVOLUTION_NORM, hidden);
    }
}

fn linear(all: &mut Shapes, name: &str, inputs: usize, outputs: usize) {
    all.insert(format!("{name}.weight"), vec![outputs, inputs]);
    all.insert(format!("{name}.bias"), vec![outputs]);
}

fn norm(all: &mut Shapes, name: &str, size: usize) {
    all.insert(format!("{name}.weight"), vec![size]);
    all.insert(format!("{name}.bias"), vec![size]);
}
