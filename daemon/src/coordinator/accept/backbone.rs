//! A backbone directory as a job may name it: which files it holds and what its configuration says.

use super::Roots;
use crate::checkpoint::peft;
use ptv2_common::error::Explained;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// The configuration's file name.
pub const CONFIG: &str = "config.json";
/// The weights' file name.
pub const WEIGHTS: &str = "model.safetensors";
/// The tokenizer's file name.
pub const TOKENIZER: &str = "tokenizer.json";

/// Bytes of `config.json` at most; real ones have a few thousand.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What `config.json` says of a BERT, as far as jobs are checked against it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// Hidden size H.
    pub hidden_size: u32,
    /// Layers L.
    pub num_hidden_layers: u32,
    /// Heads h.
    pub num_attention_heads: u32,
    /// Rows of the position table.
    pub max_position_embeddings: u32,
    /// Rows of the word table.
    pub vocab_size: u32,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

fn gelu() -> String {
    "gelu".into()
}
fn absolute() -> String {
    "absolute".into()
}

impl Config {
    /// Reads the bytes of a `config.json`.
    ///
    /// # Errors
    /// Names the key, its value, and what this build can train on. The place is the caller's.
    pub fn parse(bytes: &[u8]) -> Result<Self, Explained> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            Explained::new(format!("the backbone's configuration is no valid JSON: {error}"))
        })?;
        let kind = value.get("model_type").unwrap_or(&Value::Null);
        check(
            "model_type",
            kind,
            kind == "bert",
            "\"bert\", the only kind that this build trains",
        )?;
        let config: Self = serde_json::from_value(value).map_err(|error| {
            Explained::new(format!("the backbone's configuration is refused: {error}"))
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
            ("max_position_embeddings", self.max_position_embeddings, 1 << 20),
            ("vocab_size", self.vocab_size, 1 << 24),
        ];
        for (key, size, most) in sizes {
            check(key, size, (1..=most).contains(&size), &format!("1 to {most}"))?;
        }
        let hidden = self.hidden_size;
        let multiple = hidden.is_multiple_of(self.num_attention_heads);
        let expected = format!("a multiple of `num_attention_heads` {}", self.num_attention_heads);
        check("hidden_size", hidden, multiple, &expected)?;
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
    Err(Explained::new(format!("`{key}` of the backbone is {value}")).expected(expected))
}

/// A backbone directory whose files are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backbone {
    /// The directory, absolute and real.
    pub directory: PathBuf,
    /// Its configuration.
    pub config: Config,
}

impl Backbone {
    /// Checks that a directory holds what a job needs.
    ///
    /// # Errors
    /// Names the file that is missing, lies outside the roots, or cannot be used.
    pub(super) fn open(roots: &Roots, directory: PathBuf) -> Result<Self, Explained> {
        check_no_pickle(&directory, WEIGHTS, "pytorch_model.bin", "backbone.path")?;
        for name in [CONFIG, WEIGHTS, TOKENIZER] {
            roots.check_file("backbone.path", &directory.join(name)).map_err(|error| {
                let expected =
                    format!("a Hugging Face directory with {CONFIG}, {WEIGHTS}, {TOKENIZER}");
                if error.expected.is_some() { error } else { error.expected(expected) }
            })?;
        }
        let path = directory.join(CONFIG);
        let at = |error: Explained| error.at(path.display().to_string());
        let unreadable = |why: String| {
            at(Explained::new(format!("the backbone's configuration cannot be read: {why}")))
        };
        let size = path.metadata().map_err(|error| unreadable(error.to_string()))?.len();
        if size > CONFIG_BYTES_MAX {
            return Err(unreadable(format!("it has {size} bytes"))
                .expected(format!("at most {CONFIG_BYTES_MAX}")));
        }
        let bytes = std::fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
        let config = Config::parse(&bytes).map_err(at)?;
        Ok(Self { directory, config })
    }
}

/// Checks that a directory holds a PEFT adapter, or a checkpoint of another job.
pub(super) fn check_adapter(roots: &Roots, directory: &Path) -> Result<(), Explained> {
    let (key, weights) = ("init.adapter", "adapter_model.safetensors");
    let values = peft::values_file(directory);
    if values.ends_with(weights) {
        check_no_pickle(directory, weights, "adapter_model.bin", key)?;
    }
    roots.check_file(key, &values)
}

/// Refuses a directory that has its weights as a pickle only, which is a program to be run.
fn check_no_pickle(dir: &Path, weights: &str, pickle: &str, key: &str) -> Result<(), Explained> {
    if dir.join(weights).exists() || !dir.join(pickle).exists() {
        return Ok(());
    }
    Err(Explained::new(format!("`{}` holds {pickle}, a pickle, but no {weights}", dir.display()))
        .at(key)
        .expected(weights)
        .hint(
            "a pickle can run code: convert it, for example by `save_pretrained` of transformers",
        ))
}
