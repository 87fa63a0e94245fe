//! Frozen backbones that stay in memory between jobs.

use crate::train::backbones::bert::Bert;
use ptv2_common::error::Explained;
use ptv2_common::job::PinnedBackbone;
use ptv2_common::spec::Precision;
use ptv2_common::storage;
use std::path::Path;

/// The last backbone used: its pin, its precision, and its weights.
#[derive(Default)]
pub(super) struct Backbones {
    resident: Option<(PinnedBackbone, Precision, Bert)>,
}

impl Backbones {
    /// The backbone of a job, loaded if it is not the resident one. `loaded` hears of each load.
    ///
    /// # Errors
    /// When a file is missing here, or is not the one that the job was submitted with.
    pub(super) fn get(
        &mut self,
        pin: &PinnedBackbone,
        precision: Precision,
        loaded: impl FnOnce(),
    ) -> Result<Bert, Explained> {
        if let Some((resident, resident_precision, bert)) = &self.resident
            && (resident, *resident_precision) == (pin, precision)
        {
            return Ok(bert.share());
        }
        // The old weights go before the new ones come: there may be memory for one only.
        self.resident = None;
        let directory = Path::new(&pin.directory);
        verify(&directory.join("config.json"), &pin.config_sha256)?;
        verify(&directory.join("model.safetensors"), &pin.weights_sha256)?;
        let bert = Bert::load(directory, precision)?;
        loaded();
        let shared = bert.share();
        self.resident = Some((pin.clone(), precision, bert));
        Ok(shared)
    }
}

fn verify(path: &Path, expected: &str) -> Result<(), Explained> {
    let at = |error: Explained| error.at(path.display().to_string());
    let unreadable = |error: std::io::Error| {
        at(Explained::new(format!("the backbone cannot be read on this worker: {error}")))
            .expected("the same directory on every worker, for example on a shared file system")
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let found = storage::sha256_of_reader(file).map_err(unreadable)?;
    if found == expected {
        return Ok(());
    }
    Err(at(Explained::new(format!("the backbone's file has SHA-256 {found}")))
        .expected(format!("{expected}, as it was when the job was submitted"))
        .hint("restore the file, or submit the job again"))
}
