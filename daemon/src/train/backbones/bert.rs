//! BERT: embeddings, L layers of attention and feed-forward with the norm after, and the pooler.

use super::weights::{WeightFile, Weights};
use crate::train::Result;
use crate::train::attention::{self, Keys};
use crate::train::batch::Inputs;
use crate::train::dropout::{Dropout, Site};
use ptv2_common::error::Explained;
use serde::Deserialize;
use std::path::Path;
use tch::{Kind, Tensor};

/// What `config.json` says of a BERT, as far as the forward pass needs it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BertConfig {
    /// Hidden size H.
    pub hidden_size: i64,
    /// Layers L.
    pub num_hidden_layers: i64,
    /// Heads h.
    pub num_attention_heads: i64,
    /// Inner size of the feed-forward part.
    pub intermediate_size: i64,
    /// Rows of the word table.
    pub vocab_size: i64,
    /// Rows of the position table.
    pub max_position_embeddings: i64,
    /// Rows of the token type table.
    #[serde(default = "two")]
    pub type_vocab_size: i64,
    /// Added to variances in the norms.
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Activation of the feed-forward part.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// The backbone's own dropout of attention probabilities.
    #[serde(default = "default_dropout")]
    pub attention_probs_dropout_prob: f64,
}

fn two() -> i64 {
    2
}
fn default_layer_norm_eps() -> f64 {
    1e-12
}
fn gelu() -> String {
    "gelu".into()
}
fn default_dropout() -> f64 {
    0.1
}

impl BertConfig {
    /// Reads `config.json` of a Hugging Face directory.
    ///
    /// # Errors
    /// When it cannot be read, or asks for an activation that this build does not have.
    pub fn read(directory: &Path) -> std::result::Result<Self, Explained> {
        let path = directory.join("config.json");
        let at = |error: Explained| error.at(path.display().to_string());
        let text = std::fs::read(&path).map_err(|error| {
            at(Explained::new(format!("the backbone's configuration cannot be read: {error}")))
        })?;
        let config: Self = serde_json::from_slice(&text).map_err(|error| {
            at(Explained::new(format!("the backbone's configuration is refused: {error}")))
        })?;
        if config.hidden_act != "gelu" && config.hidden_act != "relu" {
            return Err(at(Explained::new(format!("`hidden_act` is {:?}", config.hidden_act)))
                .expected("\"gelu\" or \"relu\""));
        }
        let heads = config.num_attention_heads;
        if heads < 1 || config.hidden_size % heads != 0 {
            return Err(at(Explained::new(format!(
                "`hidden_size` {} is no multiple of `num_attention_heads` {heads}",
                config.hidden_size
            ))));
        }
        Ok(config)
    }
}

struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn take(
        weights: &Weights<'_>,
        name: &str,
        inputs: i64,
        outputs: i64,
    ) -> std::result::Result<Self, Explained> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: weights.take(&format!("{name}.bias"), &[outputs])?,
        })
    }

    fn apply(&self, input: &Tensor) -> Result<Tensor> {
        Ok(input.f_linear(&self.weight, Some(&self.bias))?)
    }

    fn share(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() }
    }
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl Norm {
    fn take(
        weights: &Weights<'_>,
        name: &str,
        config: &BertConfig,
    ) -> std::result::Result<Self, Explained> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[config.hidden_size])?,
            bias: weights.take(&format!("{name}.bias"), &[config.hidden_size])?,
            epsilon: config.layer_norm_eps,
        })
    }

    fn apply(&self, input: &Tensor) -> Result<Tensor> {
        let shape = self.weight.size();
        Ok(input.f_layer_norm(shape, Some(&self.weight), Some(&self.bias), self.epsilon, false)?)
    }

    fn share(&self) -> Self {
        let Self { weight, bias, epsilon } = self;
        Self { weight: weight.shallow_clone(), bias: bias.shallow_clone(), epsilon: *epsilon }
    }
}

struct Layer {
    /// Query, key and value in one product of 3·H outputs.
    attention_input: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    inner: Linear,
    outer: Linear,
    output_norm: Norm,
}

impl Layer {
    fn take(
        weights: &Weights<'_>,
        index: i64,
        config: &BertConfig,
    ) -> std::result::Result<Self, Explained> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let name = |tail: &str| format!("encoder.layer.{index}.{tail}");
        let parts = ["query", "key", "value"].map(|part| {
            Linear::take(weights, &name(&format!("attention.self.{part}")), hidden, hidden)
        });
        let [query, key, value] = parts;
        let (query, key, value) = (query?, key?, value?);
        let join = |tensors: [&Tensor; 3]| {
            Tensor::f_cat(&tensors, 0).map_err(|error| Explained::from_error(&error))
        };
        Ok(Self {
            attention_input: Linear {
                weight: join([&query.weight, &key.weight, &value.weight])?,
                bias: join([&query.bias, &key.bias, &value.bias])?,
            },
            attention_output: Linear::take(
                weights,
                &name("attention.output.dense"),
                hidden,
                hidden,
            )?,
            attention_norm: Norm::take(weights, &name("attention.output.LayerNorm"), config)?,
            inner: Linear::take(weights, &name("intermediate.dense"), hidden, wide)?,
            outer: Linear::take(weights, &name("output.dense"), wide, hidden)?,
            output_norm: Norm::take(weights, &name("output.LayerNorm"), config)?,
        })
    }

    fn share(&self) -> Self {
        Self {
            attention_input: self.attention_input.share(),
            attention_output: self.attention_output.share(),
            attention_norm: self.attention_norm.share(),
            inner: self.inner.share(),
            outer: self.outer.share(),
            output_norm: self.output_norm.share(),
        }
    }
}

/// A frozen BERT. No tensor of it ever wants a gradient.
pub struct Bert {
    /// Its configuration.
    pub config: BertConfig,
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    pooler: Linear,
}

impl Bert {
    /// Loads a Hugging Face directory, its tensors named with or without `bert.`.
    ///
    /// # Errors
    /// Names the file, and the tensor with its expected and found shape.
    pub fn load(directory: &Path) -> std::result::Result<Self, Explained> {
        let config = BertConfig::read(directory)?;
        let file = WeightFile::read(directory)?;
        let weights = file.tensors()?;
        let hidden = config.hidden_size;
        let table = |name: &str, rows: i64| {
            weights.take(&format!("embeddings.{name}_embeddings.weight"), &[rows, hidden])
        };
        Ok(Self {
            words: table("word", config.vocab_size)?,
            positions: table("position", config.max_position_embeddings)?,
            types: table("token_type", config.type_vocab_size)?,
            embedding_norm: Norm::take(&weights, "embeddings.LayerNorm", &config)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::take(&weights, index, &config))
                .collect::<std::result::Result<_, _>>()?,
            pooler: Linear::take(&weights, "pooler.dense", hidden, hidden)?,
            config,
        })
    }

    /// The same weights for another thread; nothing is copied.
    pub fn share(&self) -> Self {
        Self {
            config: self.config.clone(),
            words: self.words.shallow_clone(),
            positions: self.positions.shallow_clone(),
            types: self.types.shallow_clone(),
            embedding_norm: self.embedding_norm.share(),
            layers: self.layers.iter().map(Layer::share).collect(),
            pooler: self.pooler.share(),
        }
    }

    /// The pooled [CLS] of each sequence, `[B, H]`. `prefix` holds a key and a value `[B, h, P, d]`
    /// for each layer, or nothing.
    ///
    /// # Errors
    /// Those of torch.
    pub fn pooled(&self, inputs: &Inputs, prefix: &[Keys], dropout: &Dropout) -> Result<Tensor> {
        let mut hidden = self.embed(inputs, dropout)?; // [B, S, H]
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = self.layer(layer, index, &hidden, inputs, prefix.get(index), dropout)?;
        }
        let first = hidden.f_select(1, 0)?; // [B, H]
        Ok(self.pooler.apply(&first)?.f_tanh()?)
    }

    /// Token i stands at position P + i: the prefix takes the first P.
    fn embed(&self, inputs: &Inputs, dropout: &Dropout) -> Result<Tensor> {
        let lookup =
            |table: &Tensor, ids: &Tensor| Tensor::f_embedding(table, ids, -1, false, false);
        let length = inputs.ids.size()[1];
        let positions = self.positions.f_narrow(0, inputs.prefix, length)?; // [S, H]
        let sum = lookup(&self.words, &inputs.ids)?
            .f_add(&lookup(&self.types, &inputs.types)?)?
            .f_add(&positions)?;
        dropout.apply(self.embedding_norm.apply(&sum)?, Site::Embeddings)
    }

    #[expect(clippy::too_many_arguments, reason = "a layer's inputs are these")]
    fn layer(
        &self,
        layer: &Layer,
        index: usize,
        hidden: &Tensor,
        inputs: &Inputs,
        prefix: Option<&Keys>,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let mixed = layer.attention_input.apply(hidden)?; // [B, S, 3H]
        let heads = self.config.num_attention_heads;
        let context = attention::attend(&mixed, heads, &inputs.mask, prefix, |probabilities| {
            dropout.apply(probabilities, Site::Attention(index))
        })?;
        let output = layer.attention_output.apply(&context)?;
        let output = dropout.apply(output, Site::AttentionOutput(index))?;
        let hidden = layer.attention_norm.apply(&output.f_add(hidden)?)?;

        let inner = layer.inner.apply(&hidden)?;
        let inner = if self.config.hidden_act == "relu" {
            inner.f_relu()?
        } else {
            inner.f_gelu("none")?
        };
        let output = dropout.apply(layer.outer.apply(&inner)?, Site::Output(index))?;
        layer.output_norm.apply(&output.f_add(&hidden)?)
    }

    /// All frozen tensors in a fixed order: for tests that nothing changed and nothing wants a
    /// gradient.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let mut all = vec![&self.words, &self.positions, &self.types];
        all.extend([&self.embedding_norm.weight, &self.embedding_norm.bias]);
        for layer in &self.layers {
            for linear in
                [&layer.attention_input, &layer.attention_output, &layer.inner, &layer.outer]
            {
                all.extend([&linear.weight, &linear.bias]);
            }
            for norm in [&layer.attention_norm, &layer.output_norm] {
                all.extend([&norm.weight, &norm.bias]);
            }
        }
        all.extend([&self.pooler.weight, &self.pooler.bias]);
        all
    }

    /// Bytes of all frozen tensors.
    pub fn bytes(&self) -> u64 {
        let size = Kind::Float.elt_size_in_bytes();
        self.tensors().iter().map(|tensor| (tensor.numel() * size) as u64).sum()
    }
}
