//! Frozen backbones that stay in memory between jobs.

use crate::train::audit::Audit;
use crate::train::backbones::Backbone;
use ptv2_common::error::Explained;
use ptv2_common::job::PinnedBackbone;
use ptv2_common::spec::Precision;
use ptv2_common::storage;
use std::path::Path;

/// The last backbone used.
#[derive(Default)]
pub(super) struct Backbones {
    resident: Option<Resident>,
}

struct Resident {
    pin: PinnedBackbone,
    precision: Precision,
    bert: Backbone,
    audit: Audit,
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
    ) -> Result<Backbone, Explained> {
        if let Some(resident) = &self.resident
            && (&resident.pin, resident.precision) == (pin, precision)
        {
            return Ok(resident.bert.share());
        }
        // The old weights go before the new ones come: there may be memory for one only.
        self.resident = None;
        let directory = Path::new(&pin.directory);
        verify(&directory.join("config.json"), &pin.config_sha256)?;
        verify(&directory.join("model.safetensors"), &pin.weights_sha256)?;
        let bert = Backbone::load(directory, precision)?;
        loaded();
        let shared = bert.share();
        let audit = Audit::of(&bert).map_err(|error| Explained::from_error(&error))?;
        #[cfg(feature = "faults")]
        crate::faults::spoil_weights(&bert);
        self.resident = Some(Resident { pin: pin.clone(), precision, bert, audit });
        Ok(shared)
    }

    /// Looks at one more frozen tensor; says whether all were seen to be whole.
    ///
    /// # Errors
    /// When it has changed since it was loaded. The backbone is given up then.
    pub(super) fn audit(&mut self) -> Result<bool, Explained> {
        let Some(resident) = &mut self.resident else { return Ok(true) };
        match resident.audit.next(&resident.bert) {
            Ok(None) => Ok(resident.audit.is_complete()),
            Ok(Some(detail)) => {
                let directory = resident.pin.directory.clone();
                self.resident = None;
                Err(Explained::new(format!("frozen weights have changed in memory: {detail}"))
                    .at(directory)
                    .expected("the bits that were loaded")
                    .hint(
                        "run the jobs that this worker computed for again, and have the machine's \
                         memory tested",
                    ))
            }
            Err(error) => Err(Explained::from_error(&error)),
        }
    }

    /// Whether nothing is left to look at.
    pub(super) fn is_audited(&self) -> bool {
        self.resident.as_ref().is_none_or(|resident| resident.audit.is_complete())
    }

    /// The weights were used: they are to be looked at again.
    pub(super) fn audit_again(&mut self) {
        if let Some(resident) = &mut self.resident {
            resident.audit.again();
        }
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
