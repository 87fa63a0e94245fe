//! Reads a backbone's weights tensor by tensor into tensors that own their memory.

use crate::backbone::tensors::optional_shapes;
use crate::backbone::{Config, Header, Shapes, WEIGHTS, shapes};
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
    /// When it cannot be read.
    pub fn read(directory: &Path) -> Result<Self, Explained> {
        let path = directory.join(WEIGHTS);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(error) => {
                Err(Explained::new(format!("the backbone's weights cannot be read: {error}"))
                    .at(path.display().to_string())
                    .expected("a Hugging Face directory with model.safetensors"))
            }
        }
    }

    /// The tensors in the file, of which a configuration says the shapes.
    ///
    /// # Errors
    /// When the file is truncated or is no safetensors file.
    pub fn tensors(&self, config: &Config) -> Result<Weights<'_>, Explained> {
        let header = Header::parse(&self.path, self.bytes.as_slice(), self.bytes.len() as u64)?;
        let at = |error: Explained| error.at(self.path.display().to_string());
        let file = SafeTensors::deserialize(&self.bytes)
            .map_err(|error| at(Explained::from_error(&error)))?;
        let mut shapes = shapes(config);
        shapes.extend(optional_shapes(config));
        Ok(Weights { path: &self.path, header, file, shapes })
    }
}

/// Named access to the tensors of a file.
pub struct Weights<'a> {
    path: &'a Path,
    header: Header,
    file: SafeTensors<'a>,
    shapes: Shapes,
}

impl Weights<'_> {
    /// Whether a tensor is there that may be lacking.
    pub fn has(&self, name: &str) -> bool {
        self.header.holds(name)
    }

    /// One tensor as numbers of `kind`, named without the architecture.
    ///
    /// # Errors
    /// Names the tensor, with the expected and found shape.
    pub fn take(&self, name: &str, kind: Kind) -> Result<Tensor, Explained> {
        let at = |error: Explained| error.at(self.path.display().to_string());
        let shape = self.shapes.get(name);
        let shape = shape.ok_or_else(|| at(Explained::new(format!("no BERT has `{name}`"))))?;
        let found = self.header.find(name, shape)?;
        let kinds =
            [(Dtype::F32, Kind::Float), (Dtype::F16, Kind::Half), (Dtype::BF16, Kind::BFloat16)];
        let stored = kinds.into_iter().find(|(dtype, _)| *dtype == found.info.dtype);
        let (_, stored) = stored.ok_or_else(|| at(Explained::new("numbers of no known kind")))?;
        let view = self.file.tensor(&found.name);
        let view = view.map_err(|error| at(Explained::from_error(&error)))?;
        let shape: Vec<i64> =
            shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
        Tensor::f_from_data_size(view.data(), &shape, stored)
            .and_then(|tensor| tensor.f_to_kind(kind))
            .and_then(|tensor| tensor.f_set_requires_grad(false))
            .map_err(|error| at(Explained::from_error(&error)))
    }
}
