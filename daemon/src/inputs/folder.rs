//! A folder that inputs are read from.

use super::{Beneath, Opened, Refused, StoreUrl};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder: its files are opened beneath its root, each once. People know it by its path, or by the URL
/// that it mirrors.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    url: Option<StoreUrl>,
    beneath: Arc<Beneath>,
}

impl Folder {
    /// A real path beneath a root.
    pub(crate) fn new(path: PathBuf, beneath: Beneath) -> Self {
        Self { path, url: None, beneath: Arc::new(beneath) }
    }

    /// A folder that this process itself has chosen, or whose files it compares with hashes. They may be
    /// links to elsewhere.
    pub fn at(path: &Path) -> Self {
        Self::new(path.to_owned(), Beneath::following(path))
    }

    /// What mirrors a place of a store.
    pub(crate) fn mirror(path: PathBuf, url: StoreUrl) -> Self {
        let beneath = Beneath::new(std::slice::from_ref(&path));
        Self { url: Some(url), ..Self::new(path, beneath) }
    }

    /// Where it lies on disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The place of a store that it mirrors, if it does.
    pub fn url(&self) -> Option<&StoreUrl> {
        self.url.as_ref()
    }

    /// A file's place, for people. No name: that of the folder itself.
    pub fn place(&self, name: &str) -> String {
        let path = match &self.url {
            Some(url) => Path::new(&url.to_string()).join(name),
            None => self.path.join(name),
        };
        // Joining an empty name leaves a slash.
        path.display().to_string().trim_end_matches('/').to_owned()
    }

    /// Whether there is something of this name. What it is, only [`Folder::open`] tells.
    pub fn has(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    /// Opens a file.
    ///
    /// # Errors
    /// Those of [`Beneath::open`].
    pub fn open(&self, name: &str) -> Result<Opened, Refused> {
        self.beneath.open(&self.path.join(name))
    }

    /// Reads a file whole.
    ///
    /// # Errors
    /// Those of [`Beneath::open`] and [`Opened::read`].
    pub fn read(&self, name: &str, most: u64) -> Result<Vec<u8>, Refused> {
        self.open(name)?.read(most)
    }
}
