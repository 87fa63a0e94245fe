//! How backbones are fetched from a hub of models.

use ptv2_common::error::Explained;
use ptv2_common::hosts;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of one backbone at most, unless told otherwise.
pub const BYTES_MAX: u64 = 64 << 30;

/// Where backbones with an `hf://` path come from. What is not set here is taken from the environment
/// variables of Hugging Face's own libraries, and then from their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubConfig {
    /// URL of the hub or of a mirror of it. Off: `HF_ENDPOINT`, or <https://huggingface.co>.
    pub endpoint: Option<String>,
    /// Folder that files are fetched into, as Hugging Face's libraries lay it out. Off: `HF_HUB_CACHE`,
    /// `HF_HOME/hub`, or `~/.cache/huggingface/hub`.
    pub cache: Option<PathBuf>,
    /// File with the token that private and gated repositories need. Off: `HF_TOKEN`, or the token that
    /// `hf auth login` left in `HF_HOME`.
    pub token_file: Option<PathBuf>,
    /// A fetch that takes longer has failed. What it has fetched stays, and the next one goes on.
    #[serde(with = "super::duration")]
    pub timeout: Duration,
    /// A backbone of more bytes is not fetched.
    pub bytes_max: u64,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            cache: None,
            token_file: None,
            timeout: Duration::from_secs(3600),
            bytes_max: BYTES_MAX,
        }
    }
}

impl HubConfig {
    /// Refuses an endpoint that is none.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), Explained> {
        if let Some(url) = &self.endpoint {
            hosts::check_url("hub.endpoint", url)?;
        }
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        match &self.endpoint {
            Some(url) if !is_url(url) => Err(Explained::new(format!("`hub.endpoint` is `{url}`"))
                .at("hub.endpoint")
                .expected("a URL with http:// or https://")
                .hint("name a hub or a mirror of one, as https://huggingface.co")),
            Some(_) | None => Ok(()),
        }
    }

    /// The options by which another process of this program takes the same places.
    pub fn options(&self) -> Vec<OsString> {
        let endpoint = self.endpoint.as_ref().map(|url| ("--hub-endpoint", url.into()));
        let cache = self.cache.as_ref().map(|folder| ("--hub-cache", folder.into()));
        let token = self.token_file.as_ref().map(|file| ("--hub-token-file", file.into()));
        let options: [Option<(&str, OsString)>; 3] = [endpoint, cache, token];
        options.into_iter().flatten().flat_map(|(name, value)| [name.into(), value]).collect()
    }
}
