//! Reads a backbone's weights tensor by tensor into tensors that own their memory.

use crate::backbone::tensors::optional_shapes;
use crate::backbone::{Config, Shapes, WeightFiles, shapes};
use crate::inputs::Folder;
use ptv2_common::error::Explained;
use safetensors::Dtype;
use tch::{Device, Kind, Tensor};

/// A backbone's weights on disk, in one file or in shards, for the time of loading.
pub struct WeightFile {
    files: WeightFiles,
}

impl WeightFile {
    /// Reads what the weight files of a Hugging Face directory say of their tensors. Values are read
    /// one tensor at a time: all of them are never in memory twice.
    ///
    /// # Errors
    /// Names the file that cannot be read, is cut off or is no safetensors file.
    pub fn read(folder: &Folder) -> Result<Self, Explained> {
        Ok(Self { files: WeightFiles::of(folder)? })
    }

    /// The tensors, of which a configuration says the shapes, for a device.
    ///
    /// # Errors
    /// Names the tensor that is missing or of another shape.
    pub fn tensors(&self, config: &Config, device: Device) -> Result<Weights<'_>, Explained> {
        let mut shapes = shapes(config);
        self.files.check(&shapes)?;
        shapes.extend(optional_shapes(config));
        Ok(Weights { files: &self.files, shapes, device })
    }
}

/// Named access to the tensors of the files.
pub struct Weights<'a> {
    files: &'a WeightFiles,
    shapes: Shapes,
    device: Device,
}

impl Weights<'_> {
    /// Whether a tensor is there that may be lacking.
    pub fn has(&self, name: &str) -> bool {
        self.files.holds(name)
    }

    /// One tensor on the device as numbers of `kind`, named without the architecture.
    ///
    /// # Errors
    /// Names the tensor, with the expected and found shape; and those of reading it.
    pub fn take(&self, name: &str, kind: Kind) -> Result<Tensor, Explained> {
        let shape = self.shapes.get(name);
        let shape = shape.ok_or_else(|| Explained::new(format!("no such encoder has `{name}`")))?;
        let (header, found) = self.files.find(name, shape)?;
        let kinds =
            [(Dtype::F32, Kind::Float), (Dtype::F16, Kind::Half), (Dtype::BF16, Kind::BFloat16)];
        let stored = kinds.into_iter().find(|(dtype, _)| *dtype == found.info.dtype);
        let (_, stored) = stored
            .ok_or_else(|| Explained::new(format!("`{name}` holds numbers of no known kind")))?;
        let shape: Vec<i64> =
            shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
        Tensor::f_from_data_size(&header.bytes(&found)?, &shape, stored)
            .and_then(|tensor| tensor.f_to(self.device))
            .and_then(|tensor| tensor.f_to_kind(kind))
            .and_then(|tensor| tensor.f_set_requires_grad(false))
            .map_err(|error| Explained::from_error(&error))
    }
}
