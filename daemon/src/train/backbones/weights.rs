//! Reads a backbone's weights tensor by tensor into tensors that own their memory.

use ptv2_common::error::Explained;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// A weight file in memory, for the time of loading.
pub struct WeightFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl WeightFile {
    /// Reads `model.safetensors` of a Hugging Face directory. The file is read whole, not mapped: a
    /// mapped file that is truncated kills the process.
    ///
    /// # Errors
    /// When there is none, with a hint for pickled weights, which are never opened.
    pub fn read(directory: &Path) -> Result<Self, Explained> {
        let path = directory.join("model.safetensors");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(error) => {
                let refusal =
                    Explained::new(format!("the backbone's weights cannot be read: {error}"))
                        .at(path.display().to_string());
                Err(if directory.join("pytorch_model.bin").exists() {
                    refusal.hint(
                        "pytorch_model.bin is a pickle, which ptv2 never opens; convert it with \
                         `safetensors` to model.safetensors",
                    )
                } else {
                    refusal.expected("a Hugging Face directory with model.safetensors")
                })
            }
        }
    }

    /// The tensors in the file.
    ///
    /// # Errors
    /// When the file is truncated or is no safetensors file.
    pub fn tensors(&self) -> Result<Weights<'_>, Explained> {
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| {
            Explained::from_error(&error)
                .at(self.path.display().to_string())
                .expected("a whole safetensors file")
                .hint("download the backbone again")
        })?;
        let prefix =
            if file.names().iter().any(|name| name.starts_with("bert.")) { "bert." } else { "" };
        Ok(Weights { path: &self.path, file, prefix })
    }
}

/// Named access to the tensors of a file.
pub struct Weights<'a> {
    path: &'a Path,
    file: SafeTensors<'a>,
    prefix: &'static str,
}

impl Weights<'_> {
    /// Old conversions from TensorFlow name the norms' tensors `gamma` and `beta`.
    fn name_in_file(&self, name: &str) -> String {
        let full = format!("{}{name}", self.prefix);
        let legacy = full
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        if self.file.tensor(&full).is_err() && self.file.tensor(&legacy).is_ok() {
            return legacy;
        }
        full
    }

    /// One tensor as fp32, named without `bert.`, of the shape that the configuration implies.
    ///
    /// # Errors
    /// Names the tensor, with the expected and the found shape.
    pub fn take(&self, name: &str, shape: &[i64]) -> Result<Tensor, Explained> {
        let full = self.name_in_file(name);
        let at = |error: Explained| error.at(self.path.display().to_string());
        let view = self.file.tensor(&full).map_err(|_| {
            at(Explained::new(format!("tensor `{full}` is missing")))
                .expected(format!("shape {shape:?}"))
                .hint("config.json and model.safetensors must belong to one model")
        })?;
        let found: Vec<i64> =
            view.shape().iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
        if found != shape {
            return Err(at(Explained::new(format!("tensor `{full}` has shape {found:?}")))
                .expected(format!("{shape:?}, which config.json implies"))
                .hint("config.json and model.safetensors must belong to one model"));
        }
        let kinds =
            [(Dtype::F32, Kind::Float), (Dtype::F16, Kind::Half), (Dtype::BF16, Kind::BFloat16)];
        let kind = kinds.into_iter().find(|(dtype, _)| *dtype == view.dtype());
        let Some((_, kind)) = kind else {
            let numbers = view.dtype();
            return Err(at(Explained::new(format!("tensor `{full}` holds {numbers:?} numbers")))
                .expected("F32, F16 or BF16"));
        };
        Tensor::f_from_data_size(view.data(), shape, kind)
            .and_then(|tensor| tensor.f_to_kind(Kind::Float))
            .and_then(|tensor| tensor.f_set_requires_grad(false))
            .map_err(|error| at(Explained::from_error(&error)))
    }
}
