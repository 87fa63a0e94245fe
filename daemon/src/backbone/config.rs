//! What `config.json` says of a backbone.

use super::CONFIG;
use super::deberta::Deberta;
use crate::inputs::Folder;
use ptv2_common::error::Explained;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Display;
use std::path::Path;

/// Bytes of `config.json` at most; real ones have a few thousand.
const BYTES_MAX: u64 = 1 << 20;
/// The buckets of distance that MPNet's code always counts with.
pub(crate) const MPNET_BUCKETS: u32 = 32;

/// The kinds of encoder that this build trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Architecture {
    /// BERT.
    #[serde(rename = "bert")]
    Bert,
    /// RoBERTa, and XLM-RoBERTa, which differs in its words only: positions count from behind the
    /// padding's.
    #[serde(rename = "roberta", alias = "xlm-roberta")]
    Roberta,
    /// MPNet: RoBERTa's positions, no token types, and a bias of scores by distance.
    #[serde(rename = "mpnet")]
    Mpnet,
    /// DeBERTa-v2 and -v3: scores depend on content and distance.
    #[serde(rename = "deberta-v2")]
    DebertaV2,
}

/// A backbone's configuration, as far as jobs are checked against it and the forward pass needs it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// Which kind of encoder it is.
    #[serde(rename = "model_type")]
    pub architecture: Architecture,
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
    /// Rows of the position table; see [`Config::positions`].
    pub max_position_embeddings: u32,
    /// Rows of the token type table; 0 where there is none.
    pub type_vocab_size: u32,
    /// Added to variances in the norms.
    pub layer_norm_eps: f64,
    /// Activation of the feed-forward part: gelu or relu.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// The backbone's own dropout of attention probabilities.
    #[serde(default = "tenth")]
    pub attention_probs_dropout_prob: f64,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    pad_token_id: u32,
    #[serde(default = "mpnet_buckets")]
    relative_attention_num_buckets: u32,
    /// What only a DeBERTa has.
    #[serde(skip)]
    pub deberta: Option<Deberta>,
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
fn mpnet_buckets() -> u32 {
    MPNET_BUCKETS
}

impl Architecture {
    /// Its name, as `model_type` gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::Mpnet => "mpnet",
            Self::DebertaV2 => "deberta-v2",
        }
    }

    /// What transformers takes where these keys are missing.
    fn defaults(self) -> [(&'static str, Value); 3] {
        let (types, epsilon, padding) = match self {
            Self::Bert => (2, 1e-12, 0),
            Self::Roberta => (2, 1e-12, 1),
            Self::Mpnet => (0, 1e-12, 1),
            Self::DebertaV2 => (0, 1e-7, 0),
        };
        [
            ("type_vocab_size", types.into()),
            ("layer_norm_eps", epsilon.into()),
            ("pad_token_id", padding.into()),
        ]
    }
}

impl Config {
    /// Reads `config.json` of a Hugging Face directory.
    ///
    /// # Errors
    /// Names the file, and as [`Config::parse`].
    pub fn read(directory: &Path) -> Result<Self, Explained> {
        Self::of(&Folder::at(directory))
    }

    /// The same of a folder.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn of(folder: &Folder) -> Result<Self, Explained> {
        let at = |error: Explained| error.at(folder.place(CONFIG));
        let bytes = folder.read(CONFIG, BYTES_MAX).map_err(|refused| {
            at(Explained::new(format!("the backbone's configuration cannot be read: {refused}")))
                .expected(format!("a file of at most {BYTES_MAX} bytes"))
        })?;
        Self::parse(&bytes).map_err(at)
    }

    /// Reads the bytes of a `config.json`.
    ///
    /// # Errors
    /// Names the key, its value, and what this build can train on. The place is the caller's.
    pub fn parse(bytes: &[u8]) -> Result<Self, Explained> {
        let whole = "the config.json of an encoder, as `save_pretrained` of transformers writes it";
        let mut value: Value = serde_json::from_slice(bytes).map_err(|error| {
            Explained::new(format!("the backbone's configuration is no valid JSON: {error}"))
                .expected(whole)
                .hint("download the backbone again")
        })?;
        let kind = value.get("model_type").cloned().unwrap_or(Value::Null);
        let architecture = Architecture::deserialize(&kind).ok();
        let known = "bert, roberta, xlm-roberta, mpnet or deberta-v2";
        check("model_type", &kind, architecture.is_some(), known)?;
        for (key, default) in architecture.iter().flat_map(|one| one.defaults()) {
            if let Some(keys) = value.as_object_mut() {
                keys.entry(key).or_insert(default);
            }
        }
        let refused = |error: serde_json::Error| {
            Explained::new(format!("the backbone's configuration is refused: {error}"))
                .expected(whole)
                .hint("mend the key, or download the backbone again")
        };
        let mut config = Self::deserialize(&value).map_err(refused)?;
        match config.architecture {
            Architecture::Bert | Architecture::Roberta => {}
            // Its code has no token types, whatever the file says.
            Architecture::Mpnet => config.type_vocab_size = 0,
            Architecture::DebertaV2 => {
                config.deberta = Some(Deberta::deserialize(&value).map_err(refused)?);
            }
        }
        config.check()?;
        Ok(config)
    }

    /// The row of the position table that the first position reads: padding has those before it.
    pub fn first_position(&self) -> u32 {
        match self.architecture {
            Architecture::Bert | Architecture::DebertaV2 => 0,
            Architecture::Roberta => self.pad_token_id.saturating_add(1),
            Architecture::Mpnet => 2,
        }
    }

    /// Positions that prefix and text may take. A DeBERTa without a table of positions is held to the
    /// length that it was trained with, too.
    pub fn positions(&self) -> u32 {
        self.max_position_embeddings.saturating_sub(self.first_position())
    }

    /// Positions of a prefix of so many tokens: none where positions are relative to each other, for
    /// a prefix stands at no distance from the text.
    pub fn prefix_positions(&self, prefix: u32) -> u32 {
        match self.architecture {
            Architecture::Bert | Architecture::Roberta | Architecture::Mpnet => prefix,
            Architecture::DebertaV2 => 0,
        }
    }

    /// Whether a prompt can stand before the word embeddings.
    pub fn supports_prompt(&self) -> bool {
        match self.architecture {
            Architecture::Bert | Architecture::Roberta | Architecture::Mpnet => true,
            Architecture::DebertaV2 => false,
        }
    }

    /// Whether its files must have a pooler, as it was pre-trained with one.
    pub fn requires_pooler(&self) -> bool {
        self.architecture == Architecture::Bert
    }

    /// Whether its files may have a pooler. What a DeBERTa's name so belongs to a classifier.
    pub fn has_pooler(&self) -> bool {
        self.architecture != Architecture::DebertaV2
    }

    /// Bounds also keep the products of sizes far from overflow.
    fn check(&self) -> Result<(), Explained> {
        let sizes = [
            ("hidden_size", self.hidden_size, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 20),
            ("vocab_size", self.vocab_size, 1 << 24),
        ];
        for (key, size, most) in sizes {
            check(key, size, (1..=most).contains(&size), &format!("1 to {most}"))?;
        }
        let (types, fewest) = match self.architecture {
            Architecture::Bert | Architecture::Roberta => (self.type_vocab_size, 1),
            Architecture::Mpnet | Architecture::DebertaV2 => (self.type_vocab_size, 0),
        };
        let range = fewest..=1 << 8;
        check("type_vocab_size", types, range.contains(&types), &format!("{fewest} to 256"))?;
        let hidden = self.hidden_size;
        let multiple = hidden.is_multiple_of(self.num_attention_heads);
        let expected = format!("a multiple of `num_attention_heads` {}", self.num_attention_heads);
        check("hidden_size", hidden, multiple, &expected)?;
        let epsilon = self.layer_norm_eps;
        check("layer_norm_eps", epsilon, epsilon > 0.0 && epsilon < 1.0, "above 0, below 1")?;
        let act = &self.hidden_act;
        check("hidden_act", act, act == "gelu" || act == "relu", "gelu or relu")?;
        let kind = &self.position_embedding_type;
        check("position_embedding_type", kind, kind == "absolute", "absolute")?;
        let positions = self.max_position_embeddings;
        let some = format!("above {}, which are the padding's", self.first_position());
        check("max_position_embeddings", positions, self.positions() > 0, &some)?;
        let buckets = self.relative_attention_num_buckets;
        let count = MPNET_BUCKETS.to_string();
        check("relative_attention_num_buckets", buckets, buckets == MPNET_BUCKETS, &count)?;
        self.deberta.iter().try_for_each(|deberta| deberta.check(self))
    }
}

pub(super) fn check(
    key: &str,
    value: impl Display,
    ok: bool,
    expected: &str,
) -> Result<(), Explained> {
    if ok {
        return Ok(());
    }
    Err(Explained::new(format!("`{key}` of the backbone is {value}"))
        .expected(expected)
        .hint("take a backbone that this build trains"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The sizes that every file says, and what is `more`.
    fn parse(kind: &str, more: &Value) -> Result<Config, Explained> {
        let mut keys = json!({
            "model_type": kind, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "vocab_size": 128, "max_position_embeddings": 66,
        });
        for (key, value) in more.as_object().unwrap() {
            keys[key] = value.clone();
        }
        Config::parse(keys.to_string().as_bytes())
    }

    /// What version 3 has, as it was released.
    fn deberta(key: &str, value: Value) -> Result<Config, Explained> {
        let mut keys = json!({
            "relative_attention": true, "position_buckets": 16, "norm_rel_ebd": "layer_norm",
            "share_att_key": true, "pos_att_type": "p2c|c2p", "max_relative_positions": -1,
            "position_biased_input": false,
        });
        keys[key] = value;
        parse("deberta-v2", &keys)
    }

    #[test]
    fn missing_keys_are_what_transformers_takes() {
        let none = json!({});
        for (kind, architecture, positions, types, epsilon) in [
            ("bert", Architecture::Bert, 66, 2, 1e-12),
            ("roberta", Architecture::Roberta, 64, 2, 1e-12),
            ("xlm-roberta", Architecture::Roberta, 64, 2, 1e-12),
            ("mpnet", Architecture::Mpnet, 64, 0, 1e-12),
        ] {
            let config = parse(kind, &none).unwrap();
            assert_eq!((config.architecture, config.positions()), (architecture, positions));
            assert_eq!((config.type_vocab_size, config.layer_norm_eps), (types, epsilon));
            assert_eq!((config.prefix_positions(5), config.supports_prompt()), (5, true));
            assert!(config.deberta.is_none());
        }
        assert_eq!(parse("mpnet", &json!({"type_vocab_size": 2})).unwrap().type_vocab_size, 0);
        let moved = parse("roberta", &json!({"pad_token_id": 5})).unwrap();
        assert_eq!((moved.first_position(), moved.positions()), (6, 60));
    }

    #[test]
    fn a_deberta_says_how_far_distances_go() {
        let config = deberta("vocab_size", 128.into()).unwrap();
        assert_eq!((config.positions(), config.prefix_positions(5)), (66, 0));
        assert_eq!((config.type_vocab_size, config.layer_norm_eps), (0, 1e-7));
        assert!(!config.supports_prompt() && !config.has_pooler());
        let reach = |config: &Config| {
            let deberta = config.deberta.as_ref().unwrap();
            (deberta.span(config), deberta.buckets(config))
        };
        assert_eq!(reach(&config), (16, Some((16, 66))));
        let single = deberta("position_buckets", (-1).into()).unwrap();
        assert_eq!(reach(&single), (66, None));
        let bounded = deberta("max_relative_positions", 40.into()).unwrap();
        assert_eq!(reach(&bounded), (16, Some((16, 40))));
        assert!(deberta("pos_att_type", json!(["c2p", "p2c"])).is_ok());
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused_by_name() {
        let refused = |config: Result<Config, Explained>, key: &str| {
            let error = config.unwrap_err();
            assert!(error.what.contains(&format!("`{key}`")), "{key}: {error:?}");
            assert!(error.expected.is_some() && error.hint.is_some(), "{error:?}");
        };
        refused(parse("electra", &json!({})), "model_type");
        refused(parse("roberta", &json!({"pad_token_id": 65})), "max_position_embeddings");
        refused(parse("roberta", &json!({"type_vocab_size": 0})), "type_vocab_size");
        let buckets = json!({"relative_attention_num_buckets": 64});
        refused(parse("mpnet", &buckets), "relative_attention_num_buckets");
        for (key, value) in [
            ("relative_attention", json!(false)),
            ("share_att_key", json!(false)),
            ("pos_att_type", json!("c2p")),
            ("pos_att_type", json!(null)),
            ("pos_att_type", json!(7)),
            ("norm_rel_ebd", json!("batch_norm")),
            ("position_buckets", json!(2)),
            ("max_relative_positions", json!(9)),
            ("conv_kernel_size", json!(2)),
            ("conv_groups", json!(2)),
            ("conv_act", json!("relu")),
            ("embedding_size", json!(16)),
            ("attention_head_size", json!(16)),
        ] {
            // Buckets and the farthest distance are one condition.
            let named = if key == "max_relative_positions" { "position_buckets" } else { key };
            refused(deberta(key, value), named);
        }
    }
}
