//! BERT: embeddings, L layers of attention and feed-forward with the norm after, and the pooler.

use super::weights::{WeightFile, Weights};
use crate::backbone::Config;
use crate::train::Result;
use crate::train::attention::{self, Keys};
use crate::train::batch::Inputs;
use crate::train::dropout::{Dropout, Site};
use ptv2_common::error::Explained;
use std::path::Path;
use tch::{Kind, Tensor};

struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn take(weights: &Weights<'_>, name: &str) -> std::result::Result<Self, Explained> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"))?,
            bias: weights.take(&format!("{name}.bias"))?,
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
        config: &Config,
    ) -> std::result::Result<Self, Explained> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"))?,
            bias: weights.take(&format!("{name}.bias"))?,
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
        index: u32,
        config: &Config,
    ) -> std::result::Result<Self, Explained> {
        let name = |tail: &str| format!("encoder.layer.{index}.{tail}");
        let parts = ["query", "key", "value"];
        let [query, key, value] =
            parts.map(|part| Linear::take(weights, &name(&format!("attention.self.{part}"))));
        let (query, key, value) = (query?, key?, value?);
        let join = |tensors: [&Tensor; 3]| {
            Tensor::f_cat(&tensors, 0).map_err(|error| Explained::from_error(&error))
        };
        Ok(Self {
            attention_input: Linear {
                weight: join([&query.weight, &key.weight, &value.weight])?,
                bias: join([&query.bias, &key.bias, &value.bias])?,
            },
            attention_output: Linear::take(weights, &name("attention.output.dense"))?,
            attention_norm: Norm::take(weights, &name("attention.output.LayerNorm"), config)?,
            inner: Linear::take(weights, &name("intermediate.dense"))?,
            outer: Linear::take(weights, &name("output.dense"))?,
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
    pub config: Config,
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
        let config = Config::read(directory)?;
        let file = WeightFile::read(directory)?;
        let weights = file.tensors(&config)?;
        let table = |name: &str| weights.take(&format!("embeddings.{name}_embeddings.weight"));
        Ok(Self {
            words: table("word")?,
            positions: table("position")?,
            types: table("token_type")?,
            embedding_norm: Norm::take(&weights, "embeddings.LayerNorm", &config)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::take(&weights, index, &config))
                .collect::<std::result::Result<_, _>>()?,
            pooler: Linear::take(&weights, "pooler.dense")?,
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
        let heads = i64::from(self.config.num_attention_heads);
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
