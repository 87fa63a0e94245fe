//! `ptv2d fetch`, and the options that say where backbones come from.

use crate::config::{BYTES_MAX, HubConfig, INPUTS_BYTES_MAX, InputsConfig};
use crate::hub::{Line, Places, Progress, fetch};
use clap::Args;
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

/// Where the hub is unless told otherwise.
const ENDPOINT: &str = "https://huggingface.co";

#[derive(Debug, Args)]
pub(super) struct HubArgs {
    /// URL of the hub of models, or of a mirror of it [default: https://huggingface.co]
    #[arg(long, env = "HF_ENDPOINT", value_name = "URL")]
    hub_endpoint: Option<String>,
    /// Folder that backbones are fetched into [default: hub in HF_HOME, or
    /// ~/.cache/huggingface/hub]
    #[arg(long, env = "HF_HUB_CACHE", value_name = "DIR")]
    hub_cache: Option<PathBuf>,
    /// File with the hub's token [default: HF_TOKEN, or the file `token` in HF_HOME]
    #[arg(long, value_name = "FILE")]
    hub_token_file: Option<PathBuf>,
}

/// Where a worker keeps inputs that lie in stores.
#[derive(Debug, Args)]
pub(super) struct InputsArgs {
    /// Folder that inputs of stores are fetched into, where the coordinator's is not seen [default:
    /// ptv2/inputs in XDG_CACHE_HOME or ~/.cache]
    #[arg(long, env = "PTV2_INPUTS_CACHE", value_name = "DIR")]
    inputs_cache: Option<PathBuf>,
    /// Bytes of that folder at most
    #[arg(long, value_name = "BYTES", default_value_t = INPUTS_BYTES_MAX)]
    inputs_bytes_max: u64,
}

impl InputsArgs {
    /// As a configuration.
    pub(super) fn config(self) -> Result<InputsConfig, Explained> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = || Some(PathBuf::from(set("HOME")?).join(".cache"));
        let caches = || set("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        let named = self.inputs_cache.filter(|folder| !folder.as_os_str().is_empty());
        let cache = named.or_else(|| Some(caches()?.join("ptv2/inputs")));
        let config =
            InputsConfig { cache, bytes_max: self.inputs_bytes_max, ..InputsConfig::default() };
        config.check()?;
        Ok(config)
    }
}

#[derive(Debug, Args)]
pub(super) struct FetchArgs {
    /// Repository, as hf://org/name or hf://org/name@revision
    backbone: String,
    #[command(flatten)]
    hub: HubArgs,
    /// The token itself, which no one but this process may see
    #[arg(long, env = "HF_TOKEN", hide = true, hide_env_values = true)]
    hub_token: Option<String>,
    /// Fetch no backbone of more bytes
    #[arg(long, value_name = "BYTES", default_value_t = BYTES_MAX)]
    max_bytes: u64,
    /// Write lines for a program, and end when standard input does
    #[arg(long, hide = true)]
    for_parent: bool,
}

impl HubArgs {
    /// As a configuration.
    pub(super) fn config(self) -> Result<HubConfig, Explained> {
        self.over(HubConfig::default())
    }

    /// Over a configuration; a variable that is set to nothing is as good as none.
    pub(super) fn over(self, config: HubConfig) -> Result<HubConfig, Explained> {
        let folder = self.hub_cache.filter(|folder| !folder.as_os_str().is_empty());
        let config = HubConfig {
            endpoint: self.hub_endpoint.filter(|url| !url.is_empty()).or(config.endpoint),
            cache: folder.or(config.cache),
            token_file: self.hub_token_file.or(config.token_file),
            ..config
        };
        config.check()?;
        Ok(config)
    }
}

/// Fetches a backbone and says where it is.
pub(super) fn run(args: FetchArgs) -> Result<(), Explained> {
    let id = HubId::of(&args.backbone)?.ok_or_else(|| {
        Explained::new(format!("`{}` is no repository of a hub", args.backbone))
            .expected("hf://org/name or hf://org/name@revision")
    })?;
    let places = places(args.hub.config()?, args.hub_token, args.max_bytes)?;
    if !args.for_parent {
        let snapshot = fetch(&id, &places, &mut |progress| tell(&id, progress))?;
        return print(&snapshot.folder.display().to_string());
    }
    let (end, ends) = channel();
    watch_parent(end.clone())?;
    // On a thread of its own, since nothing but the end of the process ends it.
    std::thread::Builder::new()
        .name("fetch".into())
        .spawn(move || {
            let mut said = |progress| drop(print_line(&Line::Progress(progress)));
            let line = match fetch(&id, &places, &mut said) {
                Ok(snapshot) => Line::Fetched(snapshot),
                Err(error) => Line::Failed(error),
            };
            drop(print_line(&line));
            let _ = end.send(());
        })
        .map_err(|error| Explained::from_error(&error))?;
    // An error means that the thread has panicked, and has said so.
    ends.recv().map_err(|_| Explained::new("the fetch has failed"))
}

fn places(config: HubConfig, token: Option<String>, bytes_max: u64) -> Result<Places, Explained> {
    let own = hf_hub::Cache::from_env();
    let cache = config.cache.unwrap_or_else(|| own.path().clone());
    let cache = std::path::absolute(cache).map_err(|error| Explained::from_error(&error))?;
    let token = match &config.token_file {
        Some(file) => Some(read_token(file)?),
        None => token.filter(|token| !token.is_empty()).or_else(|| own.token()),
    };
    let endpoint = config.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/').to_owned();
    Ok(Places { endpoint, cache, token, bytes_max })
}

fn read_token(file: &Path) -> Result<String, Explained> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Explained::new(format!("the hub's token cannot be read: {error}"))
            .at(file.display().to_string())
            .expected("a file with the token alone")
            .hint("name it by `hub.token_file` or --hub-token-file")
    })?;
    Ok(text.trim().to_owned())
}

/// Ends the process when standard input does: a parent's pipe closes however the parent dies.
fn watch_parent(end: Sender<()>) -> Result<(), Explained> {
    let wait = move || {
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        let _ = end.send(());
    };
    std::thread::Builder::new()
        .name("parent".into())
        .spawn(wait)
        .map(drop)
        .map_err(|error| Explained::from_error(&error))
}

fn tell(id: &HubId, Progress { bytes, of }: Progress) {
    if bytes < of {
        tracing::info!("{id}: {bytes} of {of} bytes");
    }
}

fn print_line(line: &Line) -> Result<(), Explained> {
    let line = serde_json::to_string(line).map_err(|error| Explained::from_error(&error))?;
    print(&line)
}

fn print(line: &str) -> Result<(), Explained> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").map_err(|error| Explained::from_error(&error))
}
