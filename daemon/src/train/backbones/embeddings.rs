//! The embedding block: words, positions and token types, summed, then the norm and dropout.

use super::parts::Norm;
use super::weights::Weights;
use crate::backbone::Config;
use crate::train::Result;
use crate::train::batch::Inputs;
use crate::train::dropout::{Dropout, Site};
use ptv2_common::error::Explained;
use tch::{Device, Kind, Tensor};

pub(super) struct Embeddings {
    words: Tensor,
    positions: Option<Tensor>,
    types: Option<Tensor>,
    norm: Norm,
    /// The row of the first position.
    first: i64,
    /// Whether a prefix takes the first positions.
    shifts: bool,
}

impl Embeddings {
    pub(super) fn take(
        weights: &Weights<'_>,
        config: &Config,
        kind: Kind,
    ) -> std::result::Result<Self, Explained> {
        let table =
            |name: &str| weights.take(&format!("embeddings.{name}_embeddings.weight"), kind);
        let has_positions = config.deberta.as_ref().is_none_or(|one| one.position_biased_input);
        Ok(Self {
            words: table("word")?,
            positions: has_positions.then(|| table("position")).transpose()?,
            types: (config.type_vocab_size > 0).then(|| table("token_type")).transpose()?,
            norm: Norm::take(weights, "embeddings.LayerNorm", config)?,
            first: i64::from(config.first_position()),
            shifts: config.prefix_positions(1) > 0,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        self.words.kind()
    }

    pub(super) fn device(&self) -> Device {
        self.words.device()
    }

    pub(super) fn share(&self) -> Self {
        Self {
            words: self.words.shallow_clone(),
            positions: self.positions.as_ref().map(Tensor::shallow_clone),
            types: self.types.as_ref().map(Tensor::shallow_clone),
            norm: self.norm.share(),
            first: self.first,
            shifts: self.shifts,
        }
    }

    pub(super) fn tensors(&self) -> Vec<&Tensor> {
        let tables = [Some(&self.words), self.positions.as_ref(), self.types.as_ref()];
        tables.into_iter().flatten().chain(self.norm.tensors()).collect()
    }

    /// The hidden states `[B, S, H]` before the first layer; `[B, P+S, H]` behind a prompt, which has
    /// the first P positions and token type 0.
    pub(super) fn apply(
        &self,
        inputs: &Inputs,
        prompt: Option<&Tensor>,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let lookup =
            |table: &Tensor, ids: &Tensor| Tensor::f_embedding(table, ids, -1, false, false);
        let words = lookup(&self.words, &inputs.ids)?;
        let (mut sum, before) = match prompt {
            Some(prompt) => (behind(prompt, &words)?, prompt.size()[0]),
            None => (words, 0),
        };
        match &self.types {
            // Whatever a tokenizer says, all tokens are of the one type that there is.
            Some(types) if types.size()[0] == 1 => sum = sum.f_add(types)?,
            Some(types) => {
                let ids = match prompt {
                    Some(_) => inputs.types.f_constant_pad_nd([before, 0])?,
                    None => inputs.types.shallow_clone(),
                };
                sum = sum.f_add(&lookup(types, &ids)?)?;
            }
            None => {}
        }
        if let Some(positions) = &self.positions {
            // Token i stands at position P + i: a prefix takes the first P, as a prompt does.
            let skipped = if self.shifts && prompt.is_none() { inputs.prefix } else { 0 };
            let count = before + inputs.longest;
            // Padding may reach beyond the table. It is masked, so it needs no position.
            let padding = sum.size()[1] - count;
            let rows = positions
                .f_narrow(0, self.first + skipped, count)?
                .f_constant_pad_nd([0, 0, 0, padding])?; // [S, H]
            sum = sum.f_add(&rows)?;
        }
        dropout.apply(self.norm.apply(&sum)?, Site::Embeddings)
    }
}

/// The words `[B, S, H]` of each sequence behind the prompt, fp32 `[P, H]`.
fn behind(prompt: &Tensor, words: &Tensor) -> Result<Tensor> {
    let (rows, _, size) = words.size3()?;
    // To the words' kind after the expansion, so that the gradient's sum over rows is one of fp32.
    let prompts = prompt.f_unsqueeze(0)?.f_expand([rows, -1, size], false)?;
    Ok(Tensor::f_cat(&[&prompts.f_to_kind(words.kind())?, words], 1)?)
}
