//! What `config.json` says of a DeBERTa-v2 or -v3 besides what every encoder has.

use super::Config;
use super::config::check;
use ptv2_common::error::Explained;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The keys that only a DeBERTa has. Where one is missing, the default is that of transformers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Deberta {
    #[serde(default)]
    relative_attention: bool,
    #[serde(default = "minus_one")]
    max_relative_positions: i64,
    #[serde(default = "minus_one")]
    position_buckets: i64,
    /// Whether a table of positions is added to the words.
    #[serde(default = "yes")]
    pub position_biased_input: bool,
    /// The terms of scores that depend on distance.
    #[serde(default, deserialize_with = "terms")]
    pos_att_type: Vec<String>,
    #[serde(default)]
    share_att_key: bool,
    #[serde(default = "none")]
    norm_rel_ebd: String,
    /// Width of the convolution beside the first layer; 0 without one.
    #[serde(default)]
    pub conv_kernel_size: u32,
    #[serde(default = "one")]
    conv_groups: u32,
    /// What follows the convolution: tanh or gelu.
    #[serde(default = "tanh")]
    pub conv_act: String,
    embedding_size: Option<u32>,
    attention_head_size: Option<u32>,
}

fn minus_one() -> i64 {
    -1
}
fn yes() -> bool {
    true
}
fn one() -> u32 {
    1
}
fn none() -> String {
    "none".into()
}
fn tanh() -> String {
    "tanh".into()
}

/// A list, or its items with `|` between them, as the released files have it.
fn terms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let refused = || D::Error::custom("`pos_att_type` is neither a text nor a list of texts");
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        Value::String(line) => Ok(line.split('|').map(|term| term.trim().to_lowercase()).collect()),
        Value::Array(list) => {
            list.iter().map(|term| term.as_str().map(str::to_owned).ok_or_else(refused)).collect()
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Err(refused()),
    }
}

impl Deberta {
    /// Distances in each direction that have an embedding: the table has twice as many rows.
    pub fn span(&self, config: &Config) -> u32 {
        let buckets = u32::try_from(self.position_buckets).unwrap_or(0);
        if buckets > 0 { buckets } else { self.farthest(config) }
    }

    /// Buckets of distance, and the distance that the last stands for; None where each distance has
    /// its own row.
    pub fn buckets(&self, config: &Config) -> Option<(u32, u32)> {
        (self.position_buckets > 0).then(|| (self.span(config), self.farthest(config)))
    }

    /// Whether a norm stands behind the table of distances.
    pub fn has_distance_norm(&self) -> bool {
        self.norm_rel_ebd == "layer_norm"
    }

    fn farthest(&self, config: &Config) -> u32 {
        let farthest = u32::try_from(self.max_relative_positions).unwrap_or(0);
        if farthest > 0 { farthest } else { config.max_position_embeddings }
    }

    pub(super) fn check(&self, config: &Config) -> Result<(), Explained> {
        check("relative_attention", self.relative_attention, self.relative_attention, "true")?;
        let mut terms = self.pos_att_type.clone();
        terms.sort();
        check("pos_att_type", terms.join("|"), terms == ["c2p", "p2c"], "p2c|c2p")?;
        check("share_att_key", self.share_att_key, self.share_att_key, "true")?;
        let norm = &self.norm_rel_ebd;
        check(
            "norm_rel_ebd",
            norm,
            norm == "none" || self.has_distance_norm(),
            "layer_norm or none",
        )?;
        let (buckets, farthest) = (self.position_buckets, self.max_relative_positions);
        let most = 1 << 16;
        check("position_buckets", buckets, buckets <= most, &format!("at most {most}"))?;
        check("max_relative_positions", farthest, farthest <= most, &format!("at most {most}"))?;
        if let Some((buckets, farthest)) = self.buckets(config) {
            // Half of the buckets are single distances; the others take what is beyond.
            let ok = buckets >= 4 && farthest > buckets / 2 + 1;
            let expected =
                format!("4 or more, whose half is below the farthest distance {farthest}");
            check("position_buckets", buckets, ok, &expected)?;
        }
        let width = self.conv_kernel_size;
        check("conv_kernel_size", width, width == 0 || width % 2 == 1 && width < 64, "0 or odd")?;
        check("conv_groups", self.conv_groups, self.conv_groups == 1, "1")?;
        let act = &self.conv_act;
        check("conv_act", act, act == "tanh" || act == "gelu", "tanh or gelu")?;
        let hidden = config.hidden_size;
        let size = self.embedding_size.unwrap_or(hidden);
        check("embedding_size", size, size == hidden, &format!("`hidden_size` {hidden}"))?;
        let usual = hidden / config.num_attention_heads;
        let size = self.attention_head_size.unwrap_or(usual);
        check("attention_head_size", size, size == usual, &format!("{usual}"))
    }
}
