//! Where a store is: its URL, and settings that are no secret. Credentials are no part of it.

use super::bounded::Bounded;
use super::{Environment, Store};
use crate::error::Explained;
use crate::hosts;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a store in a cloud is spoken to. What is not set is taken from the environment, as the cloud's
/// own tools do, and then from their defaults. A folder uses `patience` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// URL of the server, for a store that is not at its cloud's own address: a MinIO, a Ceph, an
    /// Azurite. Off: `AWS_ENDPOINT_URL`, `AZURE_STORAGE_ENDPOINT`, or the cloud's own.
    pub endpoint: Option<String>,
    /// Region of an `s3://` store. Off: `AWS_REGION`, or us-east-1.
    pub region: Option<String>,
    /// Whether an `s3://` bucket stands in the path of a request, which every server understands. If
    /// not, it stands in the host's name, for which the server needs a name for each bucket.
    pub path_style: bool,
    /// Whether `http://` may be spoken. Whoever is on the way then reads and changes what is stored.
    pub allow_http: bool,
    /// A store that does not answer for this long has failed, and what is written is tried again. Longer
    /// bears a slower store; shorter says earlier that checkpoints are behind.
    #[serde(with = "duration")]
    #[schema(value_type = String)]
    pub patience: Duration,
    /// How often a request is repeated, after short pauses, before it counts as failed. Training does
    /// not wait meanwhile.
    pub retries: u32,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: true,
            allow_http: false,
            patience: Duration::from_secs(30),
            retries: 3,
        }
    }
}

impl StoreSettings {
    /// Refuses an endpoint that is none, holds a secret, or is where clouds hand out credentials.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), Explained> {
        if self.patience.is_zero() {
            return Err(Explained::new("`storage.patience` is 0")
                .at("storage.patience")
                .expected("a time such as \"30s\"")
                .hint("no store answers at once"));
        }
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        // Not shown: it may hold what is refused here.
        let refused = |what: &str| {
            Explained::new(format!("`storage.endpoint` {what}"))
                .at("storage.endpoint")
                .expected("https://host, with a port where it has one")
        };
        let url = url::Url::parse(endpoint).map_err(|_| refused("is no URL"))?;
        if has_secrets(&url) {
            return Err(refused("holds a user, a password or a query")
                .hint("credentials are taken from the environment"));
        }
        hosts::check_url("storage.endpoint", endpoint)?;
        match (url.scheme(), self.allow_http) {
            ("https", _) | ("http", true) => Ok(()),
            ("http", false) => Err(refused("begins with http://").hint(
                "set `storage.allow_http` for a server on this machine or a trusted network",
            )),
            _ => Err(refused("is no address of a web server")),
        }
    }
}

/// A store: its URL, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAddress {
    /// `file:///folder`, an absolute path, `s3://bucket/prefix`, `gs://bucket/prefix` or
    /// `az://container/prefix`.
    pub url: String,
    /// How it is spoken to.
    #[serde(default)]
    pub settings: StoreSettings,
}

impl From<&str> for StoreAddress {
    fn from(url: &str) -> Self {
        Self { url: url.to_owned(), settings: StoreSettings::default() }
    }
}

impl StoreAddress {
    /// The place at another URL, spoken to in the same way.
    #[must_use]
    pub fn beside(&self, url: &str) -> Self {
        Self { url: url.to_owned(), settings: self.settings.clone() }
    }

    /// The folder of this machine that it is, if it is one.
    pub fn folder(&self) -> Option<PathBuf> {
        local_path(&self.url).ok()
    }

    /// Opens the store, making the folder where it is one. Nothing is asked of a store in a cloud yet;
    /// credentials are taken from this process's environment. Writes to a folder reach the disk before
    /// they are acknowledged.
    ///
    /// # Errors
    /// Says which URL, and which schemes this build opens; or what is wrong with the credentials.
    pub fn open(&self) -> Result<Store, Explained> {
        self.open_in(&Environment::of_process())
    }

    /// The same with these variables.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_in(&self, environment: &Environment) -> Result<Store, Explained> {
        self.settings.check()?;
        let store = match Place::parse(&self.url)? {
            Place::Folder(folder) => open_folder(&folder, &self.url)?,
            Place::Cloud { cloud, bucket, prefix } => {
                let store = open_cloud(cloud, &bucket, self, environment)?;
                if prefix.is_root() { store } else { Arc::new(PrefixStore::new(store, prefix)) }
            }
        };
        Ok(Arc::new(Bounded::new(store, self.settings.patience)))
    }
}

/// The clouds whose stores are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    S3,
    Gcs,
    Azure,
}

impl Cloud {
    /// The cargo feature that a build needs for it.
    fn feature(self) -> &'static str {
        match self {
            Self::S3 => "aws",
            Self::Gcs => "gcp",
            Self::Azure => "azure",
        }
    }

    fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Gcs),
            "az" => Some(Self::Azure),
            _ => None,
        }
    }
}

/// What a URL names.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Folder(PathBuf),
    Cloud { cloud: Cloud, bucket: String, prefix: Key },
}

impl Place {
    fn parse(location: &str) -> Result<Self, Explained> {
        if location.starts_with('/') {
            return Ok(Self::Folder(location.into()));
        }
        let url = url::Url::parse(location).map_err(|_| unknown(location))?;
        if url.scheme() == "file" {
            return url.to_file_path().map(Self::Folder).map_err(|()| unknown(location));
        }
        let cloud = Cloud::of_scheme(url.scheme()).ok_or_else(|| unknown(location))?;
        let refused = |what: &str| {
            Explained::new(format!("the store's URL {what}"))
                .at(shown(location))
                .expected(format!("{}://bucket/prefix", url.scheme()))
        };
        if has_secrets(&url) {
            return Err(refused("holds a user, a password or a query").hint(
                "credentials are taken from the environment; settings stand in `[storage]`",
            ));
        }
        let bucket = url.host_str().unwrap_or_default().to_owned();
        let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_name = !bucket.is_empty() && bucket.bytes().all(is_of_names);
        if !is_name || bucket.starts_with('.') || url.port().is_some() {
            return Err(refused("names no bucket"));
        }
        let prefix = Key::from_url_path(url.path())
            .map_err(|_| refused("has a prefix that is no name of objects"))?;
        Ok(Self::Cloud { cloud, bucket, prefix })
    }
}

fn has_secrets(url: &url::Url) -> bool {
    let named = !url.username().is_empty() || url.password().is_some();
    named || url.query().is_some() || url.fragment().is_some()
}

/// A location as it may be shown: without what stands before `@` and behind `?`.
fn shown(location: &str) -> String {
    let bare = location.split(['?', '#']).next().unwrap_or_default();
    match (bare.split_once("://"), bare.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}"),
        (Some(_), None) | (None, _) => bare.to_owned(),
    }
}

fn unknown(location: &str) -> Explained {
    Explained::new(format!("`{}` is no location of a store", shown(location)))
        .expected("file:///absolute/path, /absolute/path, s3://, gs:// or az://bucket/prefix")
        .hint("name a folder, or a bucket and a prefix in it; see the README")
}

/// The local folder that a `file://` URL or an absolute path names.
///
/// # Errors
/// For every other scheme, and for a relative path.
pub fn local_path(location: &str) -> Result<PathBuf, Explained> {
    match Place::parse(location)? {
        Place::Folder(folder) => Ok(folder),
        Place::Cloud { .. } => Err(Explained::new(format!("`{location}` is no folder"))
            .expected("file:///absolute/path or /absolute/path")
            .hint("name a folder that all machines see")),
    }
}

fn open_folder(folder: &std::path::Path, location: &str) -> Result<Store, Explained> {
    std::fs::create_dir_all(folder).map_err(|error| {
        Explained::new(format!("the artifact store's folder cannot be made: {error}"))
            .at(location)
            .hint("give a folder that this user may write")
    })?;
    let store = LocalFileSystem::new_with_prefix(folder)
        .map_err(|error| Explained::from_error(&error).at(location))?;
    Ok(Arc::new(store.with_fsync(true)))
}

#[cfg(feature = "cloud")]
fn open_cloud(
    cloud: Cloud,
    bucket: &str,
    address: &StoreAddress,
    environment: &Environment,
) -> Result<Store, Explained> {
    super::clouds::open(cloud, bucket, &address.settings, environment)
        .unwrap_or_else(|| Err(lacking(cloud)))
        .map_err(|error| error.at(&address.url))
}

#[cfg(not(feature = "cloud"))]
fn open_cloud(
    cloud: Cloud,
    _bucket: &str,
    address: &StoreAddress,
    _environment: &Environment,
) -> Result<Store, Explained> {
    Err(lacking(cloud).at(&address.url))
}

fn lacking(cloud: Cloud) -> Explained {
    let feature = cloud.feature();
    Explained::new("this build opens no store in that cloud")
        .expected(format!("a build with the cargo feature `{feature}`"))
        .hint(format!("build with `--features {feature}`, or take a folder"))
}

/// A duration that is written as text: `"10s"`.
mod duration {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!("`{text}` is no duration such as \"10s\": {error}"))
        })
    }
}

#[cfg(test)]
mod tests;
