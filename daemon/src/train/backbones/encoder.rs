//! An encoder: embeddings, L layers, and what its architecture adds to them.

use super::convolution::Convolution;
use super::embeddings::Embeddings;
use super::layer::Layer;
use super::parts::Linear;
use super::relative::Relative;
use super::weights::WeightFile;
use crate::backbone::Config;
use crate::backbone::tensors::POOLER;
use crate::inputs::Folder;
use crate::train::Result;
use crate::train::attention::{self, Keys, Surroundings};
use crate::train::batch::Inputs;
use crate::train::dropout::{Dropout, Site};
use ptv2_common::error::Explained;
use ptv2_common::spec::Precision;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// A frozen encoder. No tensor of it ever wants a gradient.
pub struct Backbone {
    /// Its configuration.
    pub config: Config,
    embeddings: Embeddings,
    relative: Relative,
    layers: Vec<Layer>,
    convolution: Option<Convolution>,
    pooler: Option<Linear>,
}

impl Backbone {
    /// Loads a Hugging Face directory into host memory, its tensors named with or without the architecture.
    ///
    /// Embeddings and layers take the precision; norms, MPNet's bias of scores and the pooler, which
    /// scores a few rows only, stay fp32.
    ///
    /// # Errors
    /// Names the file, and the tensor with its expected and found shape.
    pub fn load(directory: &Path, precision: Precision) -> std::result::Result<Self, Explained> {
        Self::of(&Folder::at(directory), precision, Device::Cpu)
    }

    /// The same of a folder, of whose files some may be open, onto a device.
    ///
    /// # Errors
    /// As [`Backbone::load`].
    pub fn of(
        folder: &Folder,
        precision: Precision,
        device: Device,
    ) -> std::result::Result<Self, Explained> {
        let config = Config::of(folder)?;
        let file = WeightFile::read(folder)?;
        let weights = file.tensors(&config, device)?;
        let kind = match precision {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        let has_pooler = config.requires_pooler()
            || config.has_pooler() && weights.has(&format!("{POOLER}.weight"));
        Ok(Self {
            embeddings: Embeddings::take(&weights, &config, kind)?,
            relative: Relative::take(&weights, &config, kind)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::take(&weights, index, &config, kind))
                .collect::<std::result::Result<_, _>>()?,
            convolution: Convolution::take(&weights, &config, kind)?,
            pooler: has_pooler.then(|| Linear::take(&weights, POOLER, Kind::Float)).transpose()?,
            config,
        })
    }

    /// What its activations are made of.
    pub fn kind(&self) -> Kind {
        self.embeddings.kind()
    }

    /// Where its weights lie, and all that is computed with them.
    pub fn device(&self) -> Device {
        self.embeddings.device()
    }

    /// The same weights for another thread; nothing is copied.
    pub fn share(&self) -> Self {
        Self {
            config: self.config.clone(),
            embeddings: self.embeddings.share(),
            relative: self.relative.share(),
            layers: self.layers.iter().map(Layer::share).collect(),
            convolution: self.convolution.as_ref().map(Convolution::share),
            pooler: self.pooler.as_ref().map(Linear::share),
        }
    }

    /// The last layer's first text position of each sequence, fp32 `[B, H]`, before the pooler.
    ///
    /// `prefix` holds a key and a value `[B, h, P, d]` for each layer, or nothing. A `prompt`, fp32
    /// `[P, H]`, stands before the word embeddings of every sequence, for encoders that
    /// [support](Config::supports_prompt) it.
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
        let mut hidden = self.embeddings.apply(inputs, prompt, dropout)?; // [B, S, H]
        let mut distances = self.relative.among(hidden.size()[1])?;
        for (index, layer) in self.layers.iter().enumerate() {
            // Only one position is read of the last layer's output, so only that is computed.
            let (asking, text) = if index + 1 == self.layers.len() {
                distances = distances.map(|all| all.only(first)).transpose()?;
                (hidden.f_narrow(1, first, 1)?, layer.project_one(&hidden, first)?)
            } else {
                (hidden.shallow_clone(), layer.project(&hidden)?)
            };
            let relation = distances
                .as_ref()
                .map(|distances| distances.relation(layer, index, heads, dropout))
                .transpose()?;
            let surroundings = Surroundings {
                mask: inputs.mask.as_ref(),
                prefix: prefix.get(index),
                relation: relation.as_ref(),
            };
            let context = attention::attend(&text, heads, &surroundings, |probabilities| {
                dropout.apply(probabilities, Site::Attention(index))
            })?;
            let output = layer.finish(index, &asking, &context, dropout)?;
            hidden = match &self.convolution {
                Some(convolution) if index == 0 => {
                    convolution.add(&output, &hidden, inputs, dropout)?
                }
                Some(_) | None => output,
            };
        }
        Ok(hidden.f_select(1, 0)?.f_to_kind(Kind::Float)?)
    }

    /// The pooler as it lies in the file: weight `[H, H]` and bias `[H]`, fp32. None where the file
    /// has none, or where it belongs to a classifier, as a DeBERTa's does.
    pub fn pooler(&self) -> Option<(&Tensor, &Tensor)> {
        self.pooler.as_ref().map(|pooler| (&pooler.weight, &pooler.bias))
    }

    /// All frozen tensors in a fixed order: for tests that nothing changed and nothing wants a
    /// gradient.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let mut all = self.embeddings.tensors();
        all.extend(self.relative.tensor());
        all.extend(self.layers.iter().flat_map(Layer::tensors));
        all.extend(self.convolution.iter().flat_map(Convolution::tensors));
        all.extend(self.pooler.iter().flat_map(Linear::tensors));
        all
    }

    /// Bytes of all frozen tensors.
    pub fn bytes(&self) -> u64 {
        let size = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.tensors().iter().map(|tensor| size(tensor) as u64).sum()
    }
}
