//! The tensors that a BERT consists of. The one list: the check at submit and the loader read it.

use super::Config;
use std::collections::BTreeMap;

/// Tensors' shapes by name, named without `bert.`, row-major, as `[outputs, inputs]` where they are
/// weights of a linear map.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Every tensor that the configuration asks for.
pub fn shapes(config: &Config) -> Shapes {
    let (hidden, wide) = (config.hidden_size as usize, config.intermediate_size as usize);
    let mut all = Shapes::new();
    for (name, rows) in [
        ("word", config.vocab_size),
        ("position", config.max_position_embeddings),
        ("token_type", config.type_vocab_size),
    ] {
        let name = format!("embeddings.{name}_embeddings.weight");
        all.insert(name, vec![rows as usize, hidden]);
    }
    norm(&mut all, "embeddings.LayerNorm", hidden);
    for index in 0..config.num_hidden_layers {
        let name = |tail: &str| format!("encoder.layer.{index}.{tail}");
        for part in ["query", "key", "value"] {
            linear(&mut all, &name(&format!("attention.self.{part}")), hidden, hidden);
        }
        linear(&mut all, &name("attention.output.dense"), hidden, hidden);
        norm(&mut all, &name("attention.output.LayerNorm"), hidden);
        linear(&mut all, &name("intermediate.dense"), hidden, wide);
        linear(&mut all, &name("output.dense"), wide, hidden);
        norm(&mut all, &name("output.LayerNorm"), hidden);
    }
    linear(&mut all, "pooler.dense", hidden, hidden);
    all
}

fn linear(all: &mut Shapes, name: &str, inputs: usize, outputs: usize) {
    all.insert(format!("{name}.weight"), vec![outputs, inputs]);
    all.insert(format!("{name}.bias"), vec![outputs]);
}

fn norm(all: &mut Shapes, name: &str, size: usize) {
    all.insert(format!("{name}.weight"), vec![size]);
    all.insert(format!("{name}.bias"), vec![size]);
}
