//! What a job may read: files below the roots that the configuration allows, and nothing else.

use crate::hub::Snapshot;
use ptv2_common::error::Explained;
use ptv2_common::storage;
use std::path::{Component, Path, PathBuf};

/// The folders that jobs may read below, and what was fetched for one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Absolute folders. One that does not exist allows nothing.
    pub allowed: Vec<PathBuf>,
    /// The backbone that was fetched from a hub for the job that is looked at.
    pub fetched: Option<Snapshot>,
}

impl Roots {
    /// The same, with a backbone that was fetched.
    #[must_use]
    pub fn with(&self, fetched: Option<Snapshot>) -> Self {
        Self { allowed: self.allowed.clone(), fetched }
    }

    /// The real path of a place that a job names, an absolute path or a `file://` URL.
    ///
    /// # Errors
    /// When it does not exist or lies elsewhere, also by a symbolic link or `..`.
    pub fn admit(&self, key: &str, location: &str) -> Result<PathBuf, Explained> {
        let path = storage::local_path(location).map_err(|error| error.at(key))?;
        self.real(key, &path)
    }

    /// Refuses what is no regular file below a root.
    ///
    /// # Errors
    /// As [`Roots::admit`].
    pub fn check_file(&self, key: &str, path: &Path) -> Result<(), Explained> {
        if self.real(key, path)?.is_file() {
            return Ok(());
        }
        Err(Explained::new(format!("`{}` is no regular file", path.display())).at(key))
    }

    fn real(&self, key: &str, path: &Path) -> Result<PathBuf, Explained> {
        match path.canonicalize() {
            Ok(real) if self.holds(&real) => Ok(real),
            // Of places elsewhere nothing is said, not even whether they exist.
            Err(error) if self.would_hold(path) => {
                Err(Explained::new(format!("`{}` cannot be read: {error}", path.display()))
                    .at(key)
                    .expected("an existing path below an allowed root")
                    .hint("look for a misspelled name; the coordinator must see the path, too"))
            }
            Ok(_) | Err(_) => Err(self.outside(key, path)),
        }
    }

    fn holds(&self, real: &Path) -> bool {
        self.allowed
            .iter()
            .filter_map(|root| root.canonicalize().ok())
            .any(|root| real.starts_with(root))
    }

    /// Whether a path that does not exist would lie below a root: the deepest part of it that exists
    /// does, and nothing after that climbs.
    fn would_hold(&self, path: &Path) -> bool {
        !path.components().any(|part| part == Component::ParentDir)
            && path
                .ancestors()
                .find_map(|parent| parent.canonicalize().ok())
                .is_some_and(|real| self.holds(&real))
    }

    fn outside(&self, key: &str, path: &Path) -> Explained {
        let roots: Vec<String> =
            self.allowed.iter().map(|root| root.display().to_string()).collect();
        let roots = if roots.is_empty() { "none".into() } else { roots.join(", ") };
        Explained::new(format!("`{}` lies under no root that jobs may read", path.display()))
            .at(key)
            .expected(format!("a path under one of the allowed roots: {roots}"))
            .hint("start ptv2d with `--allow` for its folder; symbolic links count where they lead")
    }
}

/// A path as it stands in a job's record.
pub(super) fn text(path: &Path) -> Result<String, Explained> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Explained::new(format!("the path `{}` is no UTF-8", path.display()))
            .hint("rename its folder")
    })
}
