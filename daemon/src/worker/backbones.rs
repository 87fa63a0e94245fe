//! Frozen backbones that stay in memory between jobs.

use crate::backbone::{CONFIG, WEIGHTS, WeightNames};
use crate::config::HubConfig;
use crate::hub;
use crate::train::audit::Audit;
use crate::train::backbones::Backbone;
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use ptv2_common::job::PinnedBackbone;
use ptv2_common::spec::Precision;
use ptv2_common::storage;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;

/// How often a fetch looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// The last backbone used, and where others come from.
pub(super) struct Backbones {
    resident: Option<Resident>,
    hub: HubConfig,
    runtime: Handle,
}

struct Resident {
    pin: PinnedBackbone,
    precision: Precision,
    bert: Backbone,
    audit: Audit,
}

impl Backbones {
    /// None is loaded yet.
    pub(super) fn new(hub: HubConfig, runtime: Handle) -> Self {
        Self { resident: None, hub, runtime }
    }

    /// The backbone of a job, loaded if it is not the resident one. `loaded` hears of each load;
    /// `is_over` says whether it is still wanted, as long as its files are fetched.
    ///
    /// # Errors
    /// When a file is missing here, or is not the one that the job was submitted with.
    pub(super) fn get(
        &mut self,
        pin: &PinnedBackbone,
        precision: Precision,
        loaded: impl FnOnce(),
        is_over: impl Fn() -> bool,
    ) -> Result<Backbone, Explained> {
        if let Some(resident) = &self.resident
            && (&resident.pin, resident.precision) == (pin, precision)
        {
            return Ok(resident.bert.share());
        }
        // The old weights go before the new ones come: there may be memory for one only.
        self.resident = None;
        let directory = self.directory(pin, is_over)?;
        verify_all(&directory, pin)?;
        let bert = Backbone::load(&directory, precision)?;
        loaded();
        let shared = bert.share();
        let audit = Audit::of(&bert).map_err(|error| Explained::from_error(&error))?;
        #[cfg(feature = "faults")]
        crate::faults::spoil_weights(&bert);
        self.resident = Some(Resident { pin: pin.clone(), precision, bert, audit });
        Ok(shared)
    }

    /// Where a backbone's files are on this worker: where the coordinator has them, or in this worker's
    /// own cache.
    fn directory(
        &self,
        pin: &PinnedBackbone,
        is_over: impl Fn() -> bool,
    ) -> Result<PathBuf, Explained> {
        let directory = PathBuf::from(&pin.directory);
        let id = pin.hub.as_deref().map(HubId::of).transpose()?.flatten();
        let Some(id) = id.filter(|_| !directory.exists()) else { return Ok(directory) };
        tracing::info!(backbone = %id, "a backbone is fetched");
        let fetched = self.runtime.block_on(async {
            let mut looks = tokio::time::interval(LOOK);
            let over = async {
                while !is_over() {
                    looks.tick().await;
                }
            };
            tokio::select! {
                fetched = hub::fetched(&self.hub, &id, |_| ()) => fetched,
                () = over => Err(Explained::new("the worker was called away")),
            }
        });
        match fetched {
            Ok(snapshot) => Ok(snapshot.folder),
            Err(error) => Err(Explained {
                what: format!(
                    "the backbone is not at {} on this worker, and is not fetched: {}",
                    pin.directory, error.what
                ),
                ..error
            }),
        }
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

/// Sees that a folder holds the files that a job was submitted with.
fn verify_all(directory: &Path, pin: &PinnedBackbone) -> Result<(), Explained> {
    verify(&directory.join(CONFIG), &pin.config_sha256)?;
    let whole = BTreeMap::from([(WEIGHTS.to_owned(), pin.weights_sha256.clone())]);
    let pinned = if pin.shards.is_empty() { &whole } else { &pin.shards };
    for (name, hash) in pinned {
        verify(&directory.join(name), hash)?;
    }
    // A whole file beside the shards would be loaded in their place.
    let files = WeightNames::read(directory)?.files();
    if files.iter().collect::<BTreeSet<_>>() == pinned.keys().collect() {
        return Ok(());
    }
    Err(Explained::new(format!("the backbone's weights lie in {}", files.join(", ")))
        .at(directory.display().to_string())
        .expected("the files that it had when the job was submitted")
        .hint("remove what was added to the folder, or submit the job again"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::INDEX;

    /// Pins the golden backbone of this name, as a submit does.
    fn pinned(name: &str) -> (PathBuf, PinnedBackbone) {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/bert-tiny");
        let folder = goldens.join(name);
        let hash = |file: &str| storage::sha256(&std::fs::read(folder.join(file)).unwrap());
        let files = WeightNames::read(&folder).unwrap().files();
        let hashes = files.into_iter().map(|file| (file.clone(), hash(&file)));
        let hashes: BTreeMap<String, String> = hashes.collect();
        let whole = hashes.get(WEIGHTS).cloned();
        let pin = PinnedBackbone {
            directory: folder.display().to_string(),
            hub: None,
            config_sha256: hash(CONFIG),
            shards: if whole.is_some() { BTreeMap::new() } else { hashes },
            weights_sha256: whole.unwrap_or_default(),
            tokenizer_sha256: String::new(),
            architecture: "bert".into(),
            hidden_size: 32,
            layers: 2,
            heads: 4,
        };
        (folder, pin)
    }

    fn copy(from: &Path) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        folder
    }

    fn check_refused(folder: &Path, pin: &PinnedBackbone, what: &str) {
        let error = verify_all(folder, pin).unwrap_err();
        assert!(error.what.contains(what) && error.expected.is_some(), "{error:?}");
    }

    #[test]
    fn each_file_must_be_the_one_of_the_submit() {
        for name in ["backbone", "backbone-sharded"] {
            let (golden, pin) = pinned(name);
            verify_all(&golden, &pin).unwrap();
            let files = WeightNames::read(&golden).unwrap().files();
            for file in files.into_iter().chain([CONFIG.to_owned()]) {
                let folder = copy(&golden);
                let path = folder.path().join(file);
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[20] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                check_refused(folder.path(), &pin, "has SHA-256");
                std::fs::remove_file(&path).unwrap();
                check_refused(folder.path(), &pin, "cannot be read on this worker");
            }
        }
    }

    #[test]
    fn weights_that_were_added_are_not_loaded() {
        let (golden, pin) = pinned("backbone-sharded");
        let folder = copy(&golden);
        std::fs::copy(pinned("backbone").0.join(WEIGHTS), folder.path().join(WEIGHTS)).unwrap();
        check_refused(folder.path(), &pin, "lie in model.safetensors");
        let (golden, pin) = pinned("backbone");
        let folder = copy(&golden);
        std::fs::write(folder.path().join(INDEX), "{}").unwrap();
        verify_all(folder.path(), &pin).unwrap();
    }
}
