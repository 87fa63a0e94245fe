//! What a job may read: what lies below the roots that the configuration allows, and nothing else.

use crate::hub::Snapshot;
use crate::inputs::address::is_url;
use crate::inputs::{Beneath, Folder, Mirrored, Opened, Refused, StoreUrl};
use ptv2_common::error::Explained;
use ptv2_common::storage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folders and places of stores that jobs may read below, and what was fetched for one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// Absolute folders. One that does not exist allows nothing.
    pub allowed: Vec<PathBuf>,
    /// Places of stores.
    pub stores: Vec<StoreUrl>,
    /// The backbone that was fetched from a hub for the job that is looked at.
    pub fetched: Option<Snapshot>,
    /// What was fetched of stores for it, by the key that names the place.
    pub mirrored: BTreeMap<String, Mirrored>,
}

impl Roots {
    /// Roots as the configuration names them.
    ///
    /// # Errors
    /// For a folder that cannot be read, and a URL that is none of a store.
    pub fn of(named: &[PathBuf]) -> Result<Self, Explained> {
        let mut roots = Self::default();
        for root in named {
            match root.to_str().filter(|text| is_url(text)) {
                Some(url) => roots.stores.push(StoreUrl::parse(url).map_err(|e| e.at("roots"))?),
                None => roots.allowed.push(real_folder(root)?),
            }
        }
        Ok(roots)
    }

    /// The same, with a backbone that was fetched.
    #[must_use]
    pub fn with(&self, fetched: Option<Snapshot>) -> Self {
        Self { fetched, ..self.clone() }
    }

    /// The same, with what was fetched of a store.
    #[must_use]
    pub fn with_mirrored(mut self, key: &str, mirrored: Mirrored) -> Self {
        self.mirrored.insert(key.to_owned(), mirrored);
        self
    }

    /// The folder that a job names: an absolute path, a `file://` URL, or the URL of a store, of which what
    /// was fetched is read.
    ///
    /// # Errors
    /// When it does not exist or lies elsewhere, also by a symbolic link or `..`.
    pub fn admit(&self, key: &str, location: &str) -> Result<Folder, Explained> {
        if let Some(url) = self.store_url(key, location)? {
            return match self.mirrored.get(key).filter(|found| found.url == url) {
                Some(found) => Ok(Folder::mirror(found.folder.clone(), url)),
                None => Err(Explained::new(format!("{url} was not fetched")).at(key)),
            };
        }
        let path = storage::local_path(location).map_err(|error| error.at(key))?;
        let beneath = Beneath::new(&self.allowed);
        let real = beneath.real(&path).map_err(|refused| self.refusal(key, &path, &refused))?;
        Ok(Folder::new(real, beneath))
    }

    /// The file that a job names, with its real path.
    ///
    /// # Errors
    /// As [`Roots::admit`], and for what is no regular file.
    pub fn admit_file(&self, key: &str, location: &str) -> Result<(PathBuf, Opened), Explained> {
        let path = storage::local_path(location).map_err(|error| error.at(key))?;
        let beneath = Beneath::new(&self.allowed);
        let refused = |refused| self.refusal(key, &path, &refused);
        let real = beneath.real(&path).map_err(refused)?;
        let file = beneath.open(&real).map_err(refused)?;
        Ok((real, file))
    }

    /// The place of a store that a job names, or nothing where it names a folder.
    ///
    /// # Errors
    /// For a URL that is none of a store, or lies under no place that jobs may read.
    pub fn store_url(&self, key: &str, location: &str) -> Result<Option<StoreUrl>, Explained> {
        if !is_url(location) {
            return Ok(None);
        }
        let url = StoreUrl::parse(location).map_err(|error| error.at(key))?;
        if self.stores.iter().any(|root| url.is_beneath(root)) {
            return Ok(Some(url));
        }
        Err(self.outside(key, &url.to_string()))
    }

    /// Opens a file of a folder.
    ///
    /// # Errors
    /// When it is no regular file below a root.
    pub fn check_file(&self, key: &str, folder: &Folder, name: &str) -> Result<Opened, Explained> {
        folder
            .open(name)
            .map_err(|refused| self.refusal(key, Path::new(&folder.place(name)), &refused))
    }

    fn refusal(&self, key: &str, path: &Path, refused: &Refused) -> Explained {
        match refused {
            Refused::Outside => self.outside(key, &path.display().to_string()),
            Refused::NoFile => Explained::new(format!("`{}` is no regular file", path.display()))
                .at(key)
                .expected("a file: no folder, no pipe, no device")
                .hint("name the file itself, or put one in its place"),
            Refused::Unreadable(_) | Refused::TooLarge { .. } => {
                Explained::new(format!("`{}` cannot be read: {refused}", path.display()))
                    .at(key)
                    .expected("an existing path below an allowed root")
                    .hint("look for a misspelled name; the coordinator must see the path, too")
            }
        }
    }

    fn outside(&self, key: &str, location: &str) -> Explained {
        let folders = self.allowed.iter().map(|root| root.display().to_string());
        let stores = self.stores.iter().map(ToString::to_string);
        let roots: Vec<String> = folders.chain(stores).collect();
        let roots = if roots.is_empty() { "none".into() } else { roots.join(", ") };
        Explained::new(format!("`{location}` lies under no root that jobs may read"))
            .at(key)
            .expected(format!("a path under one of the allowed roots: {roots}"))
            .hint("start ptv2d with `--allow` for its folder; symbolic links count where they lead")
    }
}

fn real_folder(folder: &Path) -> Result<PathBuf, Explained> {
    folder.canonicalize().map_err(|error| {
        Explained::new(format!("an allowed root cannot be read: {error}"))
            .at(folder.display().to_string())
            .hint("name a folder that exists, in `roots` or by --allow")
    })
}

/// A folder as it stands in a job's record: its path, or the URL that it mirrors.
pub(super) fn text(folder: &Folder) -> Result<String, Explained> {
    folder.url().map_or_else(|| path_text(folder.path()), |url| Ok(url.to_string()))
}

/// A path as it stands in a job's record.
pub(super) fn path_text(path: &Path) -> Result<String, Explained> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Explained::new(format!("the path `{}` is no UTF-8", path.display()))
            .hint("rename its folder")
    })
}
