//! What `config.json` says of a BERT.

use super::CONFIG;
use ptv2_common::error::Explained;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Display;
use std::path::Path;

/// Bytes of `config.json` at most; real ones have a few thousand.
const BYTES_MAX: u64 = 1 << 20;

/// A BERT's configuration, as far as jobs are checked against it and the forward pass needs it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// Hidden size H.
    pub hidden_size: u32,
    /// Layers L.
    pub num_hidden_layers: u32,
    /// Heads h.
    pub num_attention_heads: u32,
    /// Inner size of the feed-forward part.
    pub intermediate_size: u32,
    /// Rows of the word table.
    pub vocab_size: u32,
    /// Rows of the position table.
    pub max_position_embeddings: u32,
    /// Rows of the token type table.
    #[serde(default = "two")]
    pub type_vocab_size: u32,
    /// Added to variances in the norms.
    #[serde(default = "small")]
    pub layer_norm_eps: f64,
    /// Activation of the feed-forward part: gelu or relu.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// The backbone's own dropout of attention probabilities.
    #[serde(default = "tenth")]
    pub attention_probs_dropout_prob: f64,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

fn two() -> u32 {
    2
}
fn small() -> f64 {
    1e-12
}
fn gelu() -> String {
    "gelu".into()
}
fn tenth() -> f64 {
    0.1
}
fn absolute() -> String {
    "absolute".into()
}

impl Config {
    /// Reads `config.json` of a Hugging Face directory.
    ///
    /// # Errors
    /// Names the file, and as [`Config::parse`].
    pub fn read(directory: &Path) -> Result<Self, Explained> {
        let path = directory.join(CONFIG);
        let at = |error: Explained| error.at(path.display().to_string());
        let unreadable = |why: String| {
            at(Explained::new(format!("the backbone's configuration cannot be read: {why}")))
        };
        let size = path.metadata().map_err(|error| unreadable(error.to_string()))?.len();
        if size > BYTES_MAX {
            return Err(
                unreadable(format!("it has {size} bytes")).expected(format!("at most {BYTES_MAX}"))
            );
        }
        let bytes = std::fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&bytes).map_err(at)
    }

    /// Reads the bytes of a `config.json`.
    ///
    /// # Errors
    /// Names the key, its value, and what this build can train on. The place is the caller's.
    pub fn parse(bytes: &[u8]) -> Result<Self, Explained> {
        let whole = "the config.json of a BERT, as `save_pretrained` of transformers writes it";
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            Explained::new(format!("the backbone's configuration is no valid JSON: {error}"))
                .expected(whole)
                .hint("download the backbone again")
        })?;
        let kind = value.get("model_type").unwrap_or(&Value::Null);
        let known = "\"bert\", the only kind that this build trains";
        check("model_type", kind, kind == "bert", known)?;
        let config: Self = serde_json::from_value(value).map_err(|error| {
            Explained::new(format!("the backbone's configuration is refused: {error}"))
                .expected(whole)
                .hint("mend the key, or download the backbone again")
        })?;
        config.check()?;
        Ok(config)
    }

    /// Bounds also keep the products of sizes far from overflow.
    fn check(&self) -> Result<(), Explained> {
        let sizes = [
            ("hidden_size", self.hidden_size, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 20),
            ("type_vocab_size", self.type_vocab_size, 1 << 8),
            ("vocab_size", self.vocab_size, 1 << 24),
        ];
        for (key, size, most) in sizes {
            check(key, size, (1..=most).contains(&size), &format!("1 to {most}"))?;
        }
        let hidden = self.hidden_size;
        let multiple = hidden.is_multiple_of(self.num_attention_heads);
        let expected = format!("a multiple of `num_attention_heads` {}", self.num_attention_heads);
        check("hidden_size", hidden, multiple, &expected)?;
        let epsilon = self.layer_norm_eps;
        check("layer_norm_eps", epsilon, epsilon > 0.0 && epsilon < 1.0, "above 0, below 1")?;
        let act = &self.hidden_act;
        check("hidden_act", act, act == "gelu" || act == "relu", "gelu or relu")?;
        let kind = &self.position_embedding_type;
        check("position_embedding_type", kind, kind == "absolute", "absolute")
    }
}

fn check(key: &str, value: impl Display, ok: bool, expected: &str) -> Result<(), Explained> {
    if ok {
        return Ok(());
    }
    Err(Explained::new(format!("`{key}` of the backbone is {value}"))
        .expected(expected)
        .hint("take a backbone that this build trains"))
}
