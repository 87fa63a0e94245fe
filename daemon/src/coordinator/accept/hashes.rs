//! SHA-256 of files, remembered as long as a file stays as it is: a warm start must not read
//! gigabytes.

use crate::inputs::{Opened, State};
use ptv2_common::error::Explained;
use ptv2_common::storage;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Files remembered at most; beyond it all are forgotten.
const ENTRIES_MAX: usize = 4096;

/// Hashes of files, by what `stat` says of them.
#[derive(Debug, Default)]
pub struct HashCache {
    known: Mutex<HashMap<State, String>>,
}

impl HashCache {
    /// The file's SHA-256 in lower-case hexadecimal, read only if it is not known.
    ///
    /// # Errors
    /// When the file cannot be read, or changes meanwhile.
    pub fn sha256(&self, file: &Opened, place: &str) -> Result<String, Explained> {
        let refused =
            |why: String| Explained::new(format!("the file cannot be hashed: {why}")).at(place);
        let failed = |error: std::io::Error| refused(error.to_string());
        let before = file.state().map_err(failed)?;
        if let Some(known) = self.lock().get(&before) {
            return Ok(known.clone());
        }
        let hash = storage::sha256_of_reader(file.reader()).map_err(failed)?;
        if file.state().map_err(failed)? != before {
            return Err(refused("it changed while it was read".into())
                .hint("submit again once nothing writes to it"));
        }
        let mut known = self.lock();
        if known.len() >= ENTRIES_MAX {
            known.clear();
        }
        known.insert(before, hash.clone());
        Ok(hash)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<State, String>> {
        // An insert is all that happens under the lock, so a panic elsewhere leaves the map whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
