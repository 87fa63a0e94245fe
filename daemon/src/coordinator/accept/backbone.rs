//! A backbone, and an adapter, as a job may name them: allowed, whole, and fitting each other.

use super::wanted::BACKBONE;
use super::{HashCache, Roots, roots};
use crate::backbone::tensors::optional_shapes;
use crate::backbone::{
    CONFIG, Config, INDEX, TOKENIZER, WEIGHTS, WeightFiles, WeightNames, shapes,
};
use crate::checkpoint::peft;
use crate::coordinator::staging::Encoder;
use crate::inputs::Folder;
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use ptv2_common::job::PinnedBackbone;
use ptv2_common::storage;
use std::collections::BTreeMap;

/// A backbone directory that can be trained on.
#[derive(Debug, Clone)]
pub(super) struct Backbone {
    /// The directory: its path is absolute and real.
    folder: Folder,
    /// Its configuration.
    pub(super) config: Config,
    /// Which files hold its weights.
    weights: WeightNames,
    /// The repository that they were fetched from, at its commit.
    hub: Option<HubId>,
}

impl Backbone {
    /// The backbone that a job's path names: a folder below a root, or a repository that was fetched,
    /// of which only the cache may be read.
    ///
    /// # Errors
    /// Those of [`Roots::admit`] and [`Backbone::open`].
    pub(super) fn find(roots: &Roots, path: &str, longest: u32) -> Result<Self, Explained> {
        let Some(id) = HubId::of(path)? else {
            return Self::open(roots, roots.admit(BACKBONE, path)?, longest);
        };
        let Some(fetched) = &roots.fetched else {
            return Err(Explained::new(format!("{id} was not fetched")).at(BACKBONE));
        };
        let cache = Roots { allowed: vec![fetched.cache.clone()], ..Roots::default() };
        let folder = cache.admit(BACKBONE, &roots::path_text(&fetched.folder)?)?;
        let hub = Some(id.at(&fetched.commit));
        Ok(Self { hub, ..Self::open(&cache, folder, longest)? })
    }

    /// How the job's record names it: what a branch or tag stands for may change, and a commit not.
    pub(super) fn path(&self) -> Result<String, Explained> {
        self.hub.as_ref().map_or_else(|| roots::text(&self.folder), |id| Ok(id.to_string()))
    }

    /// Checks that a directory holds what a job needs: a configuration, weights of its shapes, and a
    /// tokenizer of its words.
    ///
    /// # Errors
    /// Names the file that is missing, lies outside the roots, or cannot be used.
    fn open(roots: &Roots, folder: Folder, max_seq_length: u32) -> Result<Self, Explained> {
        let check = |name: &str| {
            roots.check_file(BACKBONE, &folder, name).map(drop).map_err(|error| {
                let expected =
                    format!("a Hugging Face directory with {CONFIG}, {WEIGHTS}, {TOKENIZER}");
                if error.expected.is_some() { error } else { error.expected(expected) }
            })
        };
        if folder.has(INDEX) {
            check(INDEX)?;
        } else {
            for pickle in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
                check_no_pickle(&folder, WEIGHTS, pickle, BACKBONE)?;
            }
        }
        let weights = WeightNames::of(&folder)?;
        for name in weights.files() {
            check(&name).map_err(|error| match weights {
                WeightNames::Whole => error,
                WeightNames::Sharded(_) => error
                    .expected(format!("each file that {INDEX} names, below an allowed root"))
                    .hint("download the backbone again, with all of its files"),
            })?;
        }
        check(CONFIG)?;
        check(TOKENIZER)?;
        let config = Config::of(&folder)?;
        let files = WeightFiles::of(&folder)?;
        files.check(&shapes(&config))?;
        files.check_held(&optional_shapes(&config))?;
        Encoder::read(&folder, config.vocab_size, max_seq_length)?;
        Ok(Self { folder, config, weights, hub: None })
    }

    /// The hashes of all files that a job's result depends on.
    ///
    /// # Errors
    /// When a file cannot be read, or changes meanwhile.
    pub(super) fn pin(&self, hashes: &HashCache) -> Result<PinnedBackbone, Explained> {
        let pin = |name: &str| {
            let place = self.folder.place(name);
            let file = self.folder.open(name).map_err(|refused| {
                Explained::new(format!("the file cannot be hashed: {refused}")).at(&place)
            })?;
            hashes.sha256(&file, &place)
        };
        let (weights_sha256, shards) = match self.weights {
            WeightNames::Whole => (pin(WEIGHTS)?, BTreeMap::new()),
            WeightNames::Sharded(_) => {
                let files = self.weights.files().into_iter();
                let shards: BTreeMap<String, String> = files
                    .map(|name| pin(&name).map(|hash| (name, hash)))
                    .collect::<Result<_, _>>()?;
                let lines: String =
                    shards.iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect();
                (storage::sha256(lines.as_bytes()), shards)
            }
        };
        Ok(PinnedBackbone {
            directory: roots::path_text(self.folder.path())?,
            hub: self.hub.as_ref().map(ToString::to_string),
            url: self.folder.url().map(ToString::to_string),
            config_sha256: pin(CONFIG)?,
            weights_sha256,
            shards,
            tokenizer_sha256: pin(TOKENIZER)?,
            architecture: self.config.architecture.name().into(),
            hidden_size: self.config.hidden_size,
            layers: self.config.num_hidden_layers,
            heads: self.config.num_attention_heads,
        })
    }
}

/// Checks that a directory holds a PEFT adapter, or a checkpoint of another job.
pub(super) fn check_adapter(roots: &Roots, folder: &Folder) -> Result<(), Explained> {
    let (key, weights) = ("init.adapter", "adapter_model.safetensors");
    if peft::values_file(folder) == weights {
        check_no_pickle(folder, weights, "adapter_model.bin", key)?;
    }
    peft::files(folder).iter().try_for_each(|name| roots.check_file(key, folder, name).map(drop))
}

/// Refuses a directory that has its weights as a pickle only, which is a program to be run.
fn check_no_pickle(
    folder: &Folder,
    weights: &str,
    pickle: &str,
    key: &str,
) -> Result<(), Explained> {
    if folder.has(weights) || !folder.has(pickle) {
        return Ok(());
    }
    let place = folder.place("");
    Err(Explained::new(format!("`{place}` holds {pickle}, a pickle, but no {weights}"))
        .at(key)
        .expected(weights)
        .hint(
            "a pickle can run code: convert it, for example by `save_pretrained` of transformers",
        ))
}
