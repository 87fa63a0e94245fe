//! Frozen backbones that stay in memory between jobs.

use super::inputs::{Inputs, Wanted, until};
use crate::backbone::{CONFIG, Config, TOKENIZER, WEIGHTS, WeightNames};
use crate::config::{HubConfig, InputsConfig};
use crate::hub;
use crate::inputs::{Files, Folder, Refused};
use crate::train::audit::Audit;
use crate::train::backbones::Backbone;
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use ptv2_common::job::PinnedBackbone;
use ptv2_common::spec::Precision;
use ptv2_common::storage::{self, StoreAddress};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tokio::runtime::Handle;

/// The last backbone used, and where others come from.
pub(super) struct Backbones {
    resident: Option<Resident>,
    hub: HubConfig,
    inputs: Inputs,
    /// Where weights are loaded to.
    device: tch::Device,
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
    pub(super) fn new(
        hub: HubConfig,
        inputs: InputsConfig,
        device: tch::Device,
        runtime: Handle,
    ) -> Self {
        let inputs = Inputs::new(inputs, runtime.clone());
        Self { resident: None, hub, inputs, device, runtime }
    }

    /// The cache of what comes from stores.
    pub(super) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// The backbone of a job, loaded if it is not the resident one. `fits` hears its configuration and the
    /// bytes that are loaded of it, and may refuse it; `loaded` hears of each load; `is_over` says whether it
    /// is still wanted, as long as its files are fetched.
    ///
    /// # Errors
    /// When a file is missing here, or is not the one that the job was submitted with; and those of `fits`.
    pub(super) fn get(
        &mut self,
        (pin, precision): (&PinnedBackbone, Precision),
        store: &StoreAddress,
        (fits, loaded): (impl FnOnce(&Config, u64) -> Result<(), Explained>, impl FnOnce()),
        is_over: impl Fn() -> bool,
    ) -> Result<Backbone, Explained> {
        if let Some(resident) = &self.resident
            && (&resident.pin, resident.precision) == (pin, precision)
        {
            fits(&resident.bert.config, resident.bert.bytes())?;
            return Ok(resident.bert.share());
        }
        // The old weights go before the new ones come: there may be memory for one only.
        self.resident = None;
        let folder = self.verified(pin, store, is_over)?;
        fits(&Config::of(&folder)?, 0)?;
        let bert = Backbone::of(&folder, precision, self.device)?;
        loaded();
        let shared = bert.share();
        let audit = Audit::of(&bert).map_err(|error| Explained::from_error(&error))?;
        #[cfg(feature = "faults")]
        crate::faults::spoil_weights(&bert);
        self.resident = Some(Resident { pin: pin.clone(), precision, bert, audit });
        Ok(shared)
    }

    /// The folder of a backbone, whose files are open and those that the job was submitted with: what is
    /// loaded is what was hashed. What is damaged in this worker's own cache is fetched anew, once.
    fn verified(
        &self,
        pin: &PinnedBackbone,
        store: &StoreAddress,
        is_over: impl Fn() -> bool,
    ) -> Result<Folder, Explained> {
        let directory = self.directory(pin, store, &is_over)?;
        let folder = Folder::at(&directory);
        match verify_all(&folder, pin) {
            Ok(()) => Ok(folder),
            Err(_) if pin.url.is_some() && self.inputs.forget(&files_of(pin), &directory) => {
                let folder = Folder::at(&self.directory(pin, store, is_over)?);
                verify_all(&folder, pin).map(|()| folder)
            }
            Err(error) => Err(error),
        }
    }

    /// Where a backbone's files are on this worker: where the coordinator has them, or in this worker's
    /// own cache.
    fn directory(
        &self,
        pin: &PinnedBackbone,
        store: &StoreAddress,
        is_over: impl Fn() -> bool,
    ) -> Result<PathBuf, Explained> {
        if let Some(url) = &pin.url {
            let (files, folder) = (&files_of(pin), pin.directory.as_str());
            return self.inputs.folder(&Wanted { url, files, folder, store }, is_over);
        }
        let directory = PathBuf::from(&pin.directory);
        let id = pin.hub.as_deref().map(HubId::of).transpose()?.flatten();
        let Some(id) = id.filter(|_| !directory.exists()) else { return Ok(directory) };
        tracing::info!(backbone = %id, "a backbone is fetched");
        let fetched = self.runtime.block_on(async {
            tokio::select! {
                fetched = hub::fetched(&self.hub, &id, |_| ()) => fetched,
                () = until(is_over) => Err(Explained::new("the worker was called away")),
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

/// The files of a backbone that was fetched from a store, as its submit had them.
fn files_of(pin: &PinnedBackbone) -> Files {
    let small = [(CONFIG, &pin.config_sha256), (TOKENIZER, &pin.tokenizer_sha256)];
    let small = small.into_iter().map(|(name, hash)| (name.to_owned(), hash.clone()));
    small.chain(weights_of(pin)).collect()
}

fn weights_of(pin: &PinnedBackbone) -> BTreeMap<String, String> {
    if pin.shards.is_empty() {
        return BTreeMap::from([(WEIGHTS.to_owned(), pin.weights_sha256.clone())]);
    }
    pin.shards.clone()
}

/// Sees that a folder holds the files that a job was submitted with.
fn verify_all(folder: &Folder, pin: &PinnedBackbone) -> Result<(), Explained> {
    verify(folder, CONFIG, &pin.config_sha256)?;
    let pinned = weights_of(pin);
    for (name, hash) in &pinned {
        verify(folder, name, hash)?;
    }
    // A whole file beside the shards would be loaded in their place.
    let files = WeightNames::of(folder)?.files();
    if files.iter().collect::<BTreeSet<_>>() == pinned.keys().collect() {
        return Ok(());
    }
    Err(Explained::new(format!("the backbone's weights lie in {}", files.join(", ")))
        .at(folder.place(""))
        .expected("the files that it had when the job was submitted")
        .hint("remove what was added to the folder, or submit the job again"))
}

fn verify(folder: &Folder, name: &str, expected: &str) -> Result<(), Explained> {
    let at = |error: Explained| error.at(folder.place(name));
    let unreadable = |refused: Refused| {
        at(Explained::new(format!("the backbone cannot be read on this worker: {refused}")))
            .expected("the same directory on every worker, for example on a shared file system")
    };
    let file = folder.open(name).map_err(unreadable)?;
    let found =
        storage::sha256_of_reader(file.reader()).map_err(|error| unreadable(error.into()))?;
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
    use std::path::Path;

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
            url: None,
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
        let error = verify_all(&Folder::at(folder), pin).unwrap_err();
        assert!(error.what.contains(what) && error.expected.is_some(), "{error:?}");
    }

    #[test]
    fn each_file_must_be_the_one_of_the_submit() {
        for name in ["backbone", "backbone-sharded"] {
            let (golden, pin) = pinned(name);
            verify_all(&Folder::at(&golden), &pin).unwrap();
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
        verify_all(&Folder::at(folder.path()), &pin).unwrap();
    }
}
