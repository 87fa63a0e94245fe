//! Backbones from a hub of models.
//!
//! A process of its own fetches them ([`fetch`]), and whoever needs one waits for it ([`child`]): what
//! the library does, waiting without end or a panic, happens there and can be ended.

mod child;
mod fetch;
mod guard;

pub use child::fetched;
pub use fetch::{Places, fetch};

use ptv2_common::error::Explained;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A repository's files at one commit, in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The commit.
    pub commit: String,
    /// The folder with the files. They may be links to elsewhere in the cache.
    pub folder: PathBuf,
    /// The cache.
    pub cache: PathBuf,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of all files that were missing; 0 as long as that is not known.
    pub of: u64,
}

/// A line that the fetching process writes to standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// How far it is.
    Progress(Progress),
    /// The end.
    Fetched(Snapshot),
    /// The other end.
    Failed(Explained),
}
