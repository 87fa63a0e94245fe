//! What a worker needs of stores: from its own cache, from where the coordinator has it, or from the store.

use crate::config::InputsConfig;
use crate::inputs::{Cache, Files, Mirror, StoreUrl};
use ptv2_common::error::Explained;
use ptv2_common::storage::StoreAddress;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;

/// How often a fetch looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// A worker's own cache. Its folder is not made before something is fetched.
pub(super) struct Inputs {
    config: InputsConfig,
    runtime: Handle,
}

/// Files of a place in a store.
pub(super) struct Wanted<'a> {
    pub(super) url: &'a str,
    pub(super) files: &'a Files,
    /// Where the coordinator has them.
    pub(super) folder: &'a str,
    /// How stores are spoken to.
    pub(super) store: &'a StoreAddress,
}

impl Inputs {
    pub(super) fn new(config: InputsConfig, runtime: Handle) -> Self {
        Self { config, runtime }
    }

    /// The folder with those very files. `is_over` says whether they are still wanted.
    ///
    /// # Errors
    /// Names all places that were looked at, and what the store says.
    pub(super) fn folder(
        &self,
        wanted: &Wanted<'_>,
        is_over: impl Fn() -> bool,
    ) -> Result<PathBuf, Explained> {
        let cache = self.cache()?;
        if cache.exists()
            && let Some(view) = Cache::open(&cache, self.config.bytes_max)?.view(wanted.files)
        {
            return Ok(view);
        }
        if Path::new(wanted.folder).exists() {
            return Ok(wanted.folder.into());
        }
        tracing::info!(input = wanted.url, "an input is fetched");
        self.fetch(&cache, wanted, is_over).map_err(|error| Explained {
            what: format!(
                "{} is neither in this worker's cache {} nor at {} on this worker, and is not \
                 fetched: {}",
                wanted.url,
                cache.display(),
                wanted.folder,
                error.what
            ),
            ..error
        })
    }

    fn fetch(
        &self,
        cache: &Path,
        wanted: &Wanted<'_>,
        is_over: impl Fn() -> bool,
    ) -> Result<PathBuf, Explained> {
        let url = StoreUrl::parse(wanted.url)?;
        let mirror = Mirror::open(cache, &self.config, wanted.store.clone())?;
        self.runtime.block_on(async {
            let needed = BTreeSet::new();
            tokio::select! {
                fetched = mirror.fetch_pinned(&url, wanted.files, &needed) => fetched,
                () = until(is_over) => Err(Explained::new("the worker was called away")),
            }
        })
    }

    /// Removes files from the own cache that are not what they should be. Says whether that is where they
    /// were.
    pub(super) fn forget(&self, files: &Files, folder: &Path) -> bool {
        let Ok(cache) = self.cache().and_then(|path| Cache::open(&path, self.config.bytes_max))
        else {
            return false;
        };
        let is_own = cache.view(files).is_some_and(|view| view == folder);
        if is_own {
            tracing::warn!(folder = %folder.display(), "a damaged input is fetched anew");
            cache.forget(files);
        }
        is_own
    }

    fn cache(&self) -> Result<PathBuf, Explained> {
        self.config.cache.clone().ok_or_else(|| {
            Explained::new(
                "there is no place for a cache of inputs: neither HOME nor \
                            XDG_CACHE_HOME is set",
            )
            .at("--inputs-cache")
            .expected("a folder")
        })
    }
}

/// Ends when something is no longer wanted.
pub(super) async fn until(is_over: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(LOOK);
    while !is_over() {
        looks.tick().await;
    }
}
