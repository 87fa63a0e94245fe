//! Where inputs that lie in stores are kept on disk.

use ptv2_common::error::Explained;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a cache of inputs at most, unless told otherwise.
pub const INPUTS_BYTES_MAX: u64 = 64 << 30;

/// The cache of backbones, data and adapters that lie in stores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputsConfig {
    /// Folder that they are fetched into, by hash. Off: `inputs` in the state folder; of a worker
    /// `ptv2/inputs` in `XDG_CACHE_HOME` or `~/.cache`. Workers that see the coordinator's read from there.
    pub cache: Option<PathBuf>,
    /// Bytes of the cache at most. What was not used for longest goes first, and what a job needs that has
    /// not ended never does; where that leaves no room, a submit is refused. Lower costs fetches.
    pub bytes_max: u64,
    /// A fetch that takes longer has failed. Files that have come whole stay, and the next one goes on.
    #[serde(with = "super::duration")]
    pub timeout: Duration,
}

impl Default for InputsConfig {
    fn default() -> Self {
        Self { cache: None, bytes_max: INPUTS_BYTES_MAX, timeout: Duration::from_secs(3600) }
    }
}

impl InputsConfig {
    /// Refuses bounds that allow nothing.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), Explained> {
        let refused = |key: &str, expected: &str| {
            Err(Explained::new(format!("`{key}` is 0")).at(key).expected(expected))
        };
        if self.bytes_max == 0 {
            return refused("inputs.bytes_max", "room for a backbone, as 68719476736");
        }
        if self.timeout.is_zero() {
            return refused("inputs.timeout", "a time such as \"1h\"");
        }
        Ok(())
    }
}
