//! BERT: embeddings, L layers of attention and feed-forward with the norm after, and the pooler.

use super::weights::{WeightFile, Weights};
use crate::backbone::Config;
use crate::train::Result;
use crate::train::attention::{self, Keys, Projected};
use crate::train::batch::Inputs;
use crate::train::dropout::{Dropout, Site};
use ptv2_common::error::Explained;
use ptv2_common::spec::Precision;
use std::path::Path;
use tch::{Kind, Tensor};

struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn take(weights: &Weights<'_>, name: &str, kind: Kind) -> std::result::Result<Self, Explained> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), kind)?,
            bias: weights.take(&format!("{name}.bias"), kind)?,
        })
    }

    fn apply(&self, input: &Tensor) -> Result<Tensor> {
        Ok(input.f_linear(&self.weight, Some(&self.bias))?)
    }

    /// `count` of the outputs from `start` on; nothing is copied.
    fn narrow(&self, start: i64, count: i64) -> Result<Self> {
        Ok(Self {
            weight: self.weight.f_narrow(0, start, count)?,
            bias: self.bias.f_narrow(0, start, count)?,
        })
    }

    fn share(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() }
    }
}

/// A layer's norm. It takes little memory and time, so it is fp32 in any precision.
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
            weight: weights.take(&format!("{name}.weight"), Kind::Float)?,
            bias: weights.take(&format!("{name}.bias"), Kind::Float)?,
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
    /// The activation between the two: ReLU instead of GELU.
    relu: bool,
    output_norm: Norm,
}

impl Layer {
    fn take(
        weights: &Weights<'_>,
        index: u32,
        config: &Config,
        kind: Kind,
    ) -> std::result::Result<Self, Explained> {
        let name = |tail: &str| format!("encoder.layer.{index}.{tail}");
        let parts = ["query", "key", "value"];
        let [query, key, value] =
            parts.map(|part| Linear::take(weights, &name(&format!("attention.self.{part}")), kind));
        let (query, key, value) = (query?, key?, value?);
        let join = |tensors: [&Tensor; 3]| {
            Tensor::f_cat(&tensors, 0).map_err(|error| Explained::from_error(&error))
        };
        Ok(Self {
            attention_input: Linear {
                weight: join([&query.weight, &key.weight, &value.weight])?,
                bias: join([&query.bias, &key.bias, &value.bias])?,
            },
            attention_output: Linear::take(weights, &name("attention.output.dense"), kind)?,
            attention_norm: Norm::take(weights, &name("attention.output.LayerNorm"), config)?,
            inner: Linear::take(weights, &name("intermediate.dense"), kind)?,
            outer: Linear::take(weights, &name("output.dense"), kind)?,
            relu: config.hidden_act == "relu",
            output_norm: Norm::take(weights, &name("output.LayerNorm"), config)?,
        })
    }

    /// Query, key and value of `hidden` `[B, S, H]`.
    fn project(&self, hidden: &Tensor) -> Result<Projected> {
        let (rows, length, size) = hidden.size3()?;
        let mixed = self.attention_input.apply(hidden)?.f_view([rows, length, 3, size])?;
        // One unbind: its backward makes one tensor, where three narrows would make three full ones.
        let [query, key, value] = parts(mixed.f_unbind(2)?);
        Ok(Projected { query, key, value })
    }

    /// The same, but only one position has a query.
    fn project_one(&self, hidden: &Tensor, position: i64) -> Result<Projected> {
        let (rows, length, size) = hidden.size3()?;
        let rows_of = |start, count| self.attention_input.narrow(start * size, count * size);
        let query = rows_of(0, 1)?.apply(&hidden.f_narrow(1, position, 1)?)?;
        let mixed = rows_of(1, 2)?.apply(hidden)?.f_view([rows, length, 2, size])?;
        let [key, value] = parts(mixed.f_unbind(2)?);
        Ok(Projected { query, key, value })
    }

    /// From attention's context to the layer's output, for the positions `hidden` `[B, Q, H]` that
    /// had a query. `index` is the layer's own.
    fn finish(
        &self,
        index: usize,
        hidden: &Tensor,
        context: &Tensor,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let output = self.attention_output.apply(context)?;
        let sum = dropout.add(hidden, &output, Site::AttentionOutput(index))?;
        let hidden = self.attention_norm.apply(&sum)?;

        let inner = self.inner.apply(&hidden)?;
        let inner = if self.relu { inner.f_relu()? } else { inner.f_gelu("none")? };
        let output = self.outer.apply(&inner)?;
        let sum = dropout.add(&hidden, &output, Site::Output(index))?;
        self.output_norm.apply(&sum)
    }

    fn share(&self) -> Self {
        Self {
            attention_input: self.attention_input.share(),
            attention_output: self.attention_output.share(),
            attention_norm: self.attention_norm.share(),
            inner: self.inner.share(),
            outer: self.outer.share(),
            relu: self.relu,
            output_norm: self.output_norm.share(),
        }
    }
}

/// The parts of an unbound axis of N.
fn parts<const N: usize>(unbound: Vec<Tensor>) -> [Tensor; N] {
    unbound.try_into().unwrap_or_else(|_| unreachable!("the axis was just made with N parts"))
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
    /// Embeddings and layers take the precision; norms and the pooler, which score a few rows only,
    /// stay fp32.
    ///
    /// # Errors
    /// Names the file, and the tensor with its expected and found shape.
    pub fn load(directory: &Path, precision: Precision) -> std::result::Result<Self, Explained> {
        let config = Config::read(directory)?;
        let file = WeightFile::read(directory)?;
        let weights = file.tensors(&config)?;
        let kind = match precision {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        let table =
            |name: &str| weights.take(&format!("embeddings.{name}_embeddings.weight"), kind);
        Ok(Self {
            words: table("word")?,
            positions: table("position")?,
            types: table("token_type")?,
            embedding_norm: Norm::take(&weights, "embeddings.LayerNorm", &config)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::take(&weights, index, &config, kind))
                .collect::<std::result::Result<_, _>>()?,
            pooler: Linear::take(&weights, "pooler.dense", Kind::Float)?,
            config,
        })
    }

    /// What its activations are made of.
    pub fn kind(&self) -> Kind {
        self.words.kind()
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

    /// The last layer's [CLS] of each sequence, fp32 `[B, H]`, before the pooler. `prefix` holds a key
    /// and a value `[B, h, P, d]` for each layer, or nothing. A `prompt`, fp32 `[P, H]`, stands before
    /// the words' embeddings of every sequence.
    ///
    /// # Errors
    /// Those of torch.
    pub fn encode(
        &self,
        inputs: &Inputs,
        prefix: &[Keys],
        prompt: Option<&Tensor>,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let heads = i64::from(self.config.num_attention_heads);
        let first = prompt.map_or(0, |prompt| prompt.size()[0]);
        let mut hidden = self.embed(inputs, prompt, dropout)?; // [B, S, H]
        for (index, layer) in self.layers.iter().enumerate() {
            // Only [CLS] is read of the last layer's output, so only that is computed.
            let (asking, text) = if index + 1 == self.layers.len() {
                (hidden.f_narrow(1, first, 1)?, layer.project_one(&hidden, first)?)
            } else {
                (hidden.shallow_clone(), layer.project(&hidden)?)
            };
            let (mask, prefix) = (inputs.mask.as_ref(), prefix.get(index));
            let context = attention::attend(&text, heads, mask, prefix, |probabilities| {
                dropout.apply(probabilities, Site::Attention(index))
            })?;
            hidden = layer.finish(index, &asking, &context, dropout)?;
        }
        Ok(hidden.f_select(1, 0)?.f_to_kind(Kind::Float)?)
    }

    /// The pooler's weight `[H, H]` and bias `[H]`, fp32.
    pub fn pooler(&self) -> Option<(&Tensor, &Tensor)> {
        Some((&self.pooler.weight, &self.pooler.bias))
    }

    /// Token i stands at position P + i: prefix or prompt take the first P.
    fn embed(&self, inputs: &Inputs, prompt: Option<&Tensor>, dropout: &Dropout) -> Result<Tensor> {
        let lookup =
            |table: &Tensor, ids: &Tensor| Tensor::f_embedding(table, ids, -1, false, false);
        let (rows, length) = inputs.ids.size2()?;
        let (mut words, mut types) =
            (lookup(&self.words, &inputs.ids)?, inputs.types.shallow_clone());
        let (mut start, mut count) = (inputs.prefix, inputs.longest);
        if let Some(prompt) = prompt {
            let before = prompt.f_unsqueeze(0)?.f_expand([rows, -1, -1], false)?;
            words = Tensor::f_cat(&[&before.f_to_kind(words.kind())?, &words], 1)?;
            types = types.f_constant_pad_nd([prompt.size()[0], 0])?;
            (start, count) = (0, prompt.size()[0] + count);
        }
        // Padding may reach beyond the table. It is masked, so it needs no position.
        let padding = length - inputs.longest;
        let positions =
            self.positions.f_narrow(0, start, count)?.f_constant_pad_nd([0, 0, 0, padding])?; // [S, H]
        let sum = words.f_add(&lookup(&self.types, &types)?)?.f_add(&positions)?;
        dropout.apply(self.embedding_norm.apply(&sum)?, Site::Embeddings)
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
        let size = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.tensors().iter().map(|tensor| size(tensor) as u64).sum()
    }
}
