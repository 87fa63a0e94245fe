//! The coordinator's configuration.

use super::{
    DEFAULT_LISTEN, DEFAULT_STATE, HttpConfig, HubConfig, InputsConfig, LauncherConfig,
    StorageConfig, TlsConfig,
};
use crate::coordinator::run::Limits;
use crate::inputs::StoreUrl;
use crate::inputs::address::is_url;
use ptv2_common::error::Explained;
use ptv2_common::hosts;
use ptv2_common::storage::StoreAddress;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The coordinator's configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoordinatorConfig {
    /// Address of the API and of the workers' sessions.
    pub listen: SocketAddr,
    /// Whether an address that other machines reach may be listened on, although what is said there
    /// is not encrypted: tokens and data can be read on the way.
    pub insecure_listen: bool,
    /// Names by which it may be asked for besides those of loopback, where it listens on loopback behind a
    /// proxy or a tunnel that passes on a name of its own.
    pub hosts: Vec<String>,
    /// Folder of the journal, the tokens and the lock. One coordinator a folder.
    pub state: PathBuf,
    /// URL of the artifact store: features, checkpoints, adapters. Default: `store` in the state
    /// folder. Workers must reach it too.
    pub store: Option<String>,
    /// How a store in a cloud is spoken to.
    pub storage: StorageConfig,
    /// Folders, and URLs of places in stores, that jobs may read data, backbones and adapters from.
    pub roots: Vec<PathBuf>,
    /// Where inputs that lie in stores are kept on disk.
    pub inputs: InputsConfig,
    /// Where backbones with an `hf://` path come from.
    pub hub: HubConfig,
    /// How workers are started, where the coordinator does that.
    pub launcher: LauncherConfig,
    /// How TLS is spoken.
    pub tls: TlsConfig,
    /// Bounds on connections and requests.
    pub http: HttpConfig,
    /// Bounds on waits and sizes.
    pub limits: Limits,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN.parse().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7341))),
            insecure_listen: false,
            hosts: Vec::new(),
            state: DEFAULT_STATE.into(),
            store: None,
            storage: StorageConfig::default(),
            roots: Vec::new(),
            inputs: InputsConfig::default(),
            hub: HubConfig::default(),
            launcher: LauncherConfig::default(),
            tls: TlsConfig::default(),
            http: HttpConfig::default(),
            limits: Limits::default(),
        }
    }
}

impl CoordinatorConfig {
    /// Refuses what would be unsafe.
    ///
    /// # Errors
    /// For an address that other machines reach without TLS or the flag that allows it; and those of
    /// [`HubConfig::check`], [`StorageConfig::check`], [`TlsConfig::check`],
    /// [`HttpConfig::check`] and [`LauncherConfig::check`].
    pub fn check(&self) -> Result<(), Explained> {
        self.hub.check()?;
        self.storage.check()?;
        self.inputs.check()?;
        self.check_urls()?;
        self.tls.check()?;
        self.http.check()?;
        self.launcher.check(self.listen, self.tls.certificate.is_some())?;
        if !self.is_open_to_others() || self.insecure_listen {
            return Ok(());
        }
        Err(Explained::new(format!("`listen` is {}, which other machines reach", self.listen))
            .at("listen")
            .expected("a loopback address, or TLS: `[tls]` in the configuration, or `--tls`")
            .hint(
                "`own_ca = true` in `[tls]` (`--tls`) is enough; `insecure_listen` (`--insecure-listen`) allows \
                 it without TLS, for a network where nobody listens: tokens and data can be read on the way",
            ))
    }

    /// Whether other machines reach it, and nothing that is said there is encrypted.
    pub fn is_open_to_others(&self) -> bool {
        !self.listen.ip().is_loopback() && !self.tls.is_on()
    }

    /// Refuses a store at a host that hands out credentials, and roots that are no places of stores.
    fn check_urls(&self) -> Result<(), Explained> {
        self.store.as_ref().map_or(Ok(()), |url| hosts::check_url("store", url))?;
        let urls = self.roots.iter().filter_map(|root| root.to_str().filter(|text| is_url(text)));
        urls.map(StoreUrl::parse).try_for_each(|root| root.map(drop).map_err(|e| e.at("roots")))
    }

    /// The artifact store in effect.
    ///
    /// # Errors
    /// When the current folder cannot be told.
    pub fn store_address(&self) -> Result<StoreAddress, Explained> {
        let url = match &self.store {
            Some(url) => url.clone(),
            None => self.default_store()?,
        };
        Ok(StoreAddress { url, settings: self.storage.clone() })
    }

    fn default_store(&self) -> Result<String, Explained> {
        let folder = std::path::absolute(self.state.join("store"))
            .map_err(|error| Explained::from_error(&error))?;
        url::Url::from_file_path(&folder)
            .map(|url| url.to_string())
            .map_err(|()| Explained::new(format!("{} is no path of a URL", folder.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use std::path::Path;

    fn read(path: &Path) -> Result<CoordinatorConfig, Explained> {
        let mut layers = Layers::defaults()?;
        layers.file(path)?;
        layers.config()
    }

    #[test]
    fn other_machines_are_kept_out_unless_allowed() {
        let config = CoordinatorConfig {
            listen: ([0, 0, 0, 0], 7341).into(),
            ..CoordinatorConfig::default()
        };
        let error = config.check().unwrap_err();
        assert!(error.expected.unwrap().contains("--tls"));
        assert!(error.hint.unwrap().contains("--insecure-listen"));
        let tls = TlsConfig { own_ca: true, ..TlsConfig::default() };
        assert!(CoordinatorConfig { tls, ..config.clone() }.check().is_ok());
        assert!(CoordinatorConfig { insecure_listen: true, ..config }.check().is_ok());
        assert!(CoordinatorConfig::default().check().is_ok());
    }

    #[test]
    fn the_example_states_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/coordinator.toml");
        assert_eq!(read(Path::new(path)).unwrap(), CoordinatorConfig::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "listne = \"127.0.0.1:1\"").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.what.contains("listne"), "{error:?}");
        std::fs::write(&path, "[limits]\nheartbeat_timeout = \"3s\"").unwrap();
        let limits = read(&path).unwrap().limits;
        assert_eq!(limits.heartbeat_timeout, std::time::Duration::from_secs(3));
    }
}
