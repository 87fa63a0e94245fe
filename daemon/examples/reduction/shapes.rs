//! Backbones: how many values a job tunes on them, and how long a step is assumed to take.

use ptv2_common::spec::MethodSpec;
use ptv2_daemon::backbone::Config;
use ptv2_daemon::numerics::layout::Layout;
use serde_json::json;
use std::error::Error;

/// Tokens of a row, all of them filled.
const TOKENS: f64 = 128.0;
/// Rows that each GPU has in a step.
pub(crate) const ROWS: f64 = 32.0;

/// A backbone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    layers: u32,
    hidden: u32,
    inner: u32,
    /// Operations a µs that a card is assumed to do on it: small matrices fill a card less.
    rate: f64,
}

/// From large to small.
pub(crate) static ALL: [Shape; 3] = [
    Shape { name: "BERT-large", layers: 24, hidden: 1024, inner: 4096, rate: 250e6 },
    Shape { name: "BERT-base", layers: 12, hidden: 768, inner: 3072, rate: 150e6 },
    Shape { name: "MiniLM-L6", layers: 6, hidden: 384, inner: 1536, rate: 40e6 },
];

/// What is tuned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuned {
    pub(crate) name: &'static str,
    prefix: u32,
    is_projected: bool,
}

/// From little to much.
pub(crate) const TUNED: [Tuned; 4] = [
    Tuned { name: "P = 8", prefix: 8, is_projected: false },
    Tuned { name: "P = 20", prefix: 20, is_projected: false },
    Tuned { name: "P = 128", prefix: 128, is_projected: false },
    Tuned { name: "P = 20, projected", prefix: 20, is_projected: true },
];

impl Shape {
    /// Values of a gradient, with a head of two labels.
    pub(crate) fn values(&self, tuned: Tuned) -> Result<usize, Box<dyn Error>> {
        let method: MethodSpec = serde_json::from_value(json!({
            "pre_seq_len": tuned.prefix,
            "prefix_projection": tuned.is_projected,
        }))?;
        let config: Config = serde_json::from_value(json!({
            "model_type": "bert",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden / 64,
            "intermediate_size": self.inner,
            "vocab_size": 30522,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        }))?;
        Ok(Layout::of(&method, &config, 2)?.tuned_len())
    }

    /// µs of a step: the plain count of `tests/peers/measure/operations.py`, at the assumed rate.
    pub(crate) fn step(&self, tuned: Tuned) -> f64 {
        let (hidden, inner) = (f64::from(self.hidden), f64::from(self.inner));
        let linear = 2.0 * TOKENS * (4.0 * hidden * hidden + 2.0 * hidden * inner);
        let attention = 4.0 * TOKENS * (f64::from(tuned.prefix) + TOKENS) * hidden;
        ROWS * f64::from(self.layers) * (2.0 * linear + 3.0 * attention) / self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_steps_of_bert_large() {
        let [_, short, long, projected] = TUNED;
        let head = 2 * 1024 + 2;
        assert_eq!(ALL[0].values(short).unwrap(), 20 * 2 * 24 * 1024 + head);
        assert_eq!(ALL[0].values(long).unwrap(), 128 * 2 * 24 * 1024 + head);
        // The words, and two maps with their biases.
        let maps = 20 * 1024 + 512 * 1024 + 512 + 2 * 24 * 1024 * 513;
        assert_eq!(ALL[0].values(projected).unwrap(), maps + head);
        // 32 rows of 160 GFLOP.
        let ms = ALL[0].step(short) / 1e3;
        assert!((20.0..21.5).contains(&ms), "{ms}");
    }
}
