//! A backbone, and an adapter, as a job may name them: allowed, whole, and fitting each other.

use super::Roots;
use crate::backbone::tensors::optional_shapes;
use crate::backbone::{CONFIG, Config, Header, TOKENIZER, WEIGHTS, shapes};
use crate::checkpoint::peft;
use crate::coordinator::staging::Encoder;
use ptv2_common::error::Explained;
use std::path::{Path, PathBuf};

/// A backbone directory that can be trained on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Backbone {
    /// The directory, absolute and real.
    pub(super) directory: PathBuf,
    /// Its configuration.
    pub(super) config: Config,
}

impl Backbone {
    /// Checks that a directory holds what a job needs: a configuration, weights of its shapes, and a
    /// tokenizer of its words.
    ///
    /// # Errors
    /// Names the file that is missing, lies outside the roots, or cannot be used.
    pub(super) fn open(
        roots: &Roots,
        directory: PathBuf,
        max_seq_length: u32,
    ) -> Result<Self, Explained> {
        check_no_pickle(&directory, WEIGHTS, "pytorch_model.bin", "backbone.path")?;
        for name in [CONFIG, WEIGHTS, TOKENIZER] {
            roots.check_file("backbone.path", &directory.join(name)).map_err(|error| {
                let expected =
                    format!("a Hugging Face directory with {CONFIG}, {WEIGHTS}, {TOKENIZER}");
                if error.expected.is_some() { error } else { error.expected(expected) }
            })?;
        }
        let config = Config::read(&directory)?;
        let header = Header::read(&directory.join(WEIGHTS))?;
        header.check(&shapes(&config))?;
        header.check_held(&optional_shapes(&config))?;
        Encoder::read(&directory.join(TOKENIZER), config.vocab_size, max_seq_length)?;
        Ok(Self { directory, config })
    }
}

/// Checks that a directory holds a PEFT adapter, or a checkpoint of another job.
pub(super) fn check_adapter(roots: &Roots, directory: &Path) -> Result<(), Explained> {
    let (key, weights) = ("init.adapter", "adapter_model.safetensors");
    let values = peft::values_file(directory);
    if values.ends_with(weights) {
        check_no_pickle(directory, weights, "adapter_model.bin", key)?;
    }
    peft::files(directory).iter().try_for_each(|file| roots.check_file(key, file))
}

/// Refuses a directory that has its weights as a pickle only, which is a program to be run.
fn check_no_pickle(dir: &Path, weights: &str, pickle: &str, key: &str) -> Result<(), Explained> {
    if dir.join(weights).exists() || !dir.join(pickle).exists() {
        return Ok(());
    }
    Err(Explained::new(format!("`{}` holds {pickle}, a pickle, but no {weights}", dir.display()))
        .at(key)
        .expected(weights)
        .hint(
            "a pickle can run code: convert it, for example by `save_pretrained` of transformers",
        ))
}
