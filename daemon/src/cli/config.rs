//! The options that make a coordinator's configuration, and `ptv2d check-config`.

use crate::config::{DEFAULT_LISTEN, DEFAULT_STATE, Layers, Origin};
use clap::Args;
use ptv2_common::error::Explained;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What is said of the configuration. Flags go over environment variables (PTV2_LISTEN,
/// PTV2_LIMITS__QUEUE_LIMIT and so on), those over the file, that over the defaults.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Configuration file; see configs/coordinator.toml
    #[arg(long, env = "PTV2_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long, value_name = "DIR", help = state_help())]
    state: Option<PathBuf>,
    #[arg(long, value_name = "ADDR", help = listen_help())]
    listen: Option<SocketAddr>,
    /// Speak TLS, by an authority of this coordinator's own in the state folder
    #[arg(long)]
    tls: bool,
    /// Listen on an address that other machines reach, unencrypted
    #[arg(long)]
    insecure_listen: bool,
    /// URL of the artifact store [default: `store` in the state folder]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Set any key, as in limits.queue_limit=100 (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn state_help() -> String {
    format!("Folder of journal, tokens and artifact store [default: {DEFAULT_STATE}]")
}

fn listen_help() -> String {
    format!(
        "Address of the API; port 0 takes any free one and writes it to `<state>/address` [default: \
         {DEFAULT_LISTEN}]"
    )
}

impl ConfigArgs {
    /// All layers, with the process's environment among them.
    pub(super) fn layers(&self) -> Result<Layers, Explained> {
        let mut layers = Layers::defaults()?;
        if let Some(path) = &self.config {
            layers.file(path)?;
        }
        // A name or a value that is no text is none of ours.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        layers.environment(std::env::vars_os().filter_map(text))?;
        if let Some(state) = &self.state {
            layers.flag("--state", "state", state)?;
        }
        if let Some(listen) = &self.listen {
            layers.flag("--listen", "listen", listen)?;
        }
        if self.tls {
            layers.flag("--tls", "tls.own_ca", true)?;
        }
        if self.insecure_listen {
            layers.flag("--insecure-listen", "insecure_listen", true)?;
        }
        if let Some(store) = &self.store {
            layers.flag("--store", "store", store)?;
        }
        for assignment in &self.set {
            layers.set(assignment)?;
        }
        Ok(layers)
    }

    /// Prints the configuration in the form of its file, each value with its origin, once it is seen to
    /// be sound.
    pub(super) fn show(&self) -> Result<(), Explained> {
        let layers = self.layers()?;
        layers.config()?;
        let text = render(&layers.entries());
        std::io::stdout().write_all(text.as_bytes()).map_err(|error| Explained::from_error(&error))
    }
}

/// As TOML, the keys without a table first.
fn render(entries: &[(String, serde_json::Value, Origin)]) -> String {
    let section = |key: &str| key.rsplit_once('.').map_or("", |(section, _)| section).to_owned();
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|(key, ..)| section(key));
    let (mut text, mut open) = (String::new(), String::new());
    for (key, value, origin) in sorted {
        let (within, name) = (section(key), key.rsplit('.').next().unwrap_or(key));
        if within != open {
            text += &format!("\n[{within}]\n");
            open = within;
        }
        // TOML has no way to say "none".
        text += &match toml::Value::try_from(value) {
            Ok(value) => format!("{name} = {value}  # {origin}\n"),
            Err(_) => format!("# {name} is not set\n"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CoordinatorConfig;

    #[test]
    fn what_is_shown_can_be_used_as_a_file() {
        let mut layers = Layers::defaults().unwrap();
        layers.set("limits.queue_limit=7").unwrap();
        layers.set("roots=[\"/a b\"]").unwrap();
        let text = render(&layers.entries());
        assert!(text.contains("queue_limit = 7  # --set limits.queue_limit=7"), "{text}");
        assert!(text.contains("# store is not set"), "{text}");
        assert!(text.contains("listen = \"127.0.0.1:7341\"  # default"), "{text}");
        let read: CoordinatorConfig = toml::from_str(&text).unwrap();
        assert_eq!(read, layers.config().unwrap());
    }
}
