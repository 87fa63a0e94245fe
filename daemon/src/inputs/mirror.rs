//! Fetches what jobs need of a store into the cache.

use super::StoreUrl;
use super::cache::{Cache, Files, Incoming, check_name, is_sha256};
use crate::backbone::{CONFIG, INDEX, INDEX_BYTES_MAX, TOKENIZER, WEIGHTS, WeightNames};
use crate::config::InputsConfig;
use crate::hub::Progress;
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{GetOptions, ObjectMeta};
use ptv2_common::error::Explained;
use ptv2_common::storage::{self, Store, StoreAddress, StoreSettings};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Progress is told after so many bytes.
const STEP: u64 = 8 << 20;

/// What is needed of a place in a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// The place.
    pub url: StoreUrl,
    /// What of it.
    pub needs: Needs,
}

/// Which files are needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// A backbone's: configuration, tokenizer and weights.
    Backbone,
    /// Of each group the first that there is, if there is one.
    FirstOf(Vec<Vec<String>>),
}

impl Display for Wanted {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.url.fmt(f)
    }
}

/// A place of a store as it lies in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// The place.
    pub url: StoreUrl,
    /// The folder that mirrors it.
    pub folder: PathBuf,
    /// Its files.
    pub files: Files,
}

/// A cache, and how stores are spoken to that it is filled from.
#[derive(Debug)]
pub struct Mirror {
    cache: Arc<Cache>,
    /// The artifact store: others are spoken to in the same way.
    store: StoreAddress,
    timeout: Duration,
}

impl Mirror {
    /// Opens the cache.
    ///
    /// # Errors
    /// Those of [`Cache::open`].
    pub fn open(
        cache: &Path,
        config: &InputsConfig,
        store: StoreAddress,
    ) -> Result<Self, Explained> {
        let cache = Arc::new(Cache::open(cache, config.bytes_max)?);
        Ok(Self { cache, store, timeout: config.timeout })
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Has in the cache what is needed of a place, as it is in the store now. What is there already is not
    /// fetched. Views that are `needed` stay. `said` hears how far it is.
    ///
    /// # Errors
    /// Names the object that is missing, what the store says, or what does not fit the bound.
    pub async fn fetch(
        &self,
        wanted: &Wanted,
        needed: &BTreeSet<String>,
        said: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Mirrored, Explained> {
        let source = self.source(&wanted.url)?;
        self.in_time(&wanted.url, source.fetch(&wanted.needs, needed, said)).await
    }

    /// Has those very files of a place in the cache, and gives their folder.
    ///
    /// # Errors
    /// As [`Mirror::fetch`]; and for an object that is no longer what it was.
    pub async fn fetch_pinned(
        &self,
        url: &StoreUrl,
        files: &Files,
        needed: &BTreeSet<String>,
    ) -> Result<PathBuf, Explained> {
        // Nothing is asked of the store where all is there.
        if let Some(view) = self.cache.view(files) {
            return Ok(view);
        }
        let source = self.source(url)?;
        self.in_time(url, source.fetch_pinned(files, needed)).await
    }

    fn source(&self, url: &StoreUrl) -> Result<Source, Explained> {
        let store = store_at(&self.store, url).open()?;
        Ok(Source { store, url: url.clone(), cache: Arc::clone(&self.cache) })
    }

    async fn in_time<T>(
        &self,
        url: &StoreUrl,
        fetch: impl Future<Output = Result<T, Explained>>,
    ) -> Result<T, Explained> {
        tokio::time::timeout(self.timeout, fetch).await.unwrap_or_else(|_| {
            let timeout = humantime::format_duration(self.timeout);
            Err(Explained::new(format!("{url} was not fetched within {timeout}"))
                .at("inputs.timeout")
                .expected("all of its files")
                .hint(
                    "files that have come whole stay: submit again and the next fetch goes on; or \
                       raise the bound",
                ))
        })
    }
}

/// How a store is spoken to: as the artifact store is, whose endpoint and region mean its own cloud.
pub fn store_at(own: &StoreAddress, url: &StoreUrl) -> StoreAddress {
    let beside = own.beside(&url.to_string());
    let is_other = ["s3://", "gs://", "az://"]
        .iter()
        .any(|scheme| own.url.starts_with(scheme) && !scheme.starts_with(url.scheme()));
    if !is_other {
        return beside;
    }
    let settings = StoreSettings { endpoint: None, region: None, ..beside.settings };
    StoreAddress { settings, ..beside }
}

/// A place of a store, and the cache that it is fetched into.
pub(super) struct Source {
    pub(super) store: Store,
    pub(super) url: StoreUrl,
    pub(super) cache: Arc<Cache>,
}

/// An object that is needed.
struct Piece {
    name: String,
    meta: ObjectMeta,
    /// Its hash, where that is known before it is fetched.
    sha256: Option<String>,
}

impl Source {
    pub(super) async fn fetch(
        &self,
        needs: &Needs,
        needed: &BTreeSet<String>,
        said: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Mirrored, Explained> {
        let mut meter = Meter { progress: Progress::default(), told: 0, said };
        let pieces = match needs {
            Needs::Backbone => self.of_backbone(needed, &mut meter).await?,
            Needs::FirstOf(groups) => self.first_of(groups).await?,
        };
        let files = self.all(pieces, needed, &mut meter).await?;
        let folder = self.cache.make_view(&files)?;
        Ok(Mirrored { url: self.url.clone(), folder, files })
    }

    pub(super) async fn fetch_pinned(
        &self,
        files: &Files,
        needed: &BTreeSet<String>,
    ) -> Result<PathBuf, Explained> {
        let mut pieces = Vec::new();
        for (name, hash) in files {
            if !is_sha256(hash) {
                return Err(Explained::new(format!("{hash:?} is no SHA-256")).at(self.place(name)));
            }
            if !self.cache.holds(hash) {
                let meta = self.required(name).await?;
                pieces.push(Piece { name: name.clone(), meta, sha256: Some(hash.clone()) });
            }
        }
        let mut meter = Meter { progress: Progress::default(), told: 0, said: &mut |_| () };
        self.all(pieces, needed, &mut meter).await?;
        self.cache.make_view(files)
    }

    /// The files of a backbone. An index, where there is one, comes first: it says what else there is.
    async fn of_backbone(
        &self,
        needed: &BTreeSet<String>,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<Piece>, Explained> {
        let mut pieces = Vec::new();
        for name in [CONFIG, TOKENIZER] {
            pieces.push(self.piece(name, self.required(name).await?));
        }
        if let Some(meta) = self.head(WEIGHTS).await? {
            pieces.push(self.piece(WEIGHTS, meta));
            return Ok(pieces);
        }
        let Some(meta) = self.head(INDEX).await? else {
            return Err(self.without_weights().await?);
        };
        if meta.size > INDEX_BYTES_MAX {
            return Err(Explained::new(format!(
                "the index of the weights has {} bytes",
                meta.size
            ))
            .at(self.place(INDEX))
            .expected(format!("at most {INDEX_BYTES_MAX}")));
        }
        let index = self.all(vec![self.piece(INDEX, meta.clone())], needed, meter).await?;
        let hash = index.get(INDEX).map_or("", String::as_str);
        let names = WeightNames::parse(&self.cache.read(hash, INDEX_BYTES_MAX)?)
            .map_err(|error| error.at(self.place(INDEX)))?;
        for name in names.files() {
            let meta = if name == INDEX { meta.clone() } else { self.required(&name).await? };
            pieces.push(self.piece(&name, meta));
        }
        Ok(pieces)
    }

    async fn first_of(&self, groups: &[Vec<String>]) -> Result<Vec<Piece>, Explained> {
        let mut pieces = Vec::new();
        for group in groups {
            for name in group {
                if let Some(meta) = self.head(name).await? {
                    pieces.push(self.piece(name, meta));
                    break;
                }
            }
        }
        Ok(pieces)
    }

    /// An object, with its hash where this very version was fetched before.
    fn piece(&self, name: &str, meta: ObjectMeta) -> Piece {
        let sha256 = self.version(name, &meta).and_then(|version| self.cache.known(&version));
        Piece { name: name.to_owned(), meta, sha256 }
    }

    /// What tells this version of an object from any other, if the store gives tags.
    fn version(&self, name: &str, meta: &ObjectMeta) -> Option<String> {
        let tag = meta.e_tag.as_ref()?;
        let (size, time) = (meta.size, meta.last_modified.timestamp_micros());
        let version = meta.version.as_deref().unwrap_or_default();
        Some(format!("{}\0{name}\0{tag}\0{size}\0{time}\0{version}", self.url))
    }

    /// Fetches those that are not there, and gives the hashes of all.
    async fn all(
        &self,
        pieces: Vec<Piece>,
        needed: &BTreeSet<String>,
        meter: &mut Meter<'_>,
    ) -> Result<Files, Explained> {
        let is_missing =
            |piece: &Piece| piece.sha256.as_ref().is_none_or(|hash| !self.cache.holds(hash));
        let missing: u64 =
            pieces.iter().filter(|piece| is_missing(piece)).map(|piece| piece.meta.size).sum();
        if missing > self.cache.bytes_max() {
            return Err(Explained::new(format!("{missing} bytes are to be fetched"))
                .at(self.url.to_string())
                .expected(format!("at most {} bytes", self.cache.bytes_max()))
                .hint("raise `inputs.bytes_max` (--inputs-bytes-max)"));
        }
        if missing > 0 {
            let (cache, needed) = (Arc::clone(&self.cache), needed.clone());
            let room = tokio::task::spawn_blocking(move || cache.make_room(missing, &needed));
            room.await.map_err(|error| Explained::from_error(&error))??;
        }
        meter.progress.of += missing;
        meter.tell();
        let incoming = self.cache.incoming()?;
        let mut files = Files::new();
        for piece in pieces {
            check_name(&piece.name)?;
            let hash = match &piece.sha256 {
                Some(hash) if !is_missing(&piece) => hash.clone(),
                Some(_) | None => self.download(&piece, &incoming, meter).await?,
            };
            files.insert(piece.name, hash);
        }
        Ok(files)
    }

    /// Fetches an object, whole or not at all.
    async fn download(
        &self,
        piece: &Piece,
        incoming: &Incoming<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<String, Explained> {
        let Piece { name, meta, sha256 } = piece;
        let refused = |what: String| {
            Explained::new(what).at(self.place(name)).hint(
                "submit again once nothing writes to it; if that gives the same, look at the store",
            )
        };
        let written = |error: std::io::Error| {
            Explained::new(format!("what is fetched cannot be written: {error}"))
                .at(self.place(name))
                .hint("make room, or name another cache by `inputs.cache` (--inputs-cache)")
        };
        // Not another version than the one that was looked at.
        let options = GetOptions { if_match: meta.e_tag.clone(), ..GetOptions::default() };
        let got = self.store.get_opts(&Key::from(name.as_str()), options).await;
        let mut parts = got.map_err(|error| self.failed(name, &error))?.into_stream();
        let mut file = tokio::fs::File::from_std(incoming.create("part")?);
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        while let Some(part) = parts.try_next().await.map_err(|error| self.failed(name, &error))? {
            bytes += part.len() as u64;
            if bytes > meta.size {
                break;
            }
            hash.update(&part);
            file.write_all(&part).await.map_err(written)?;
            meter.count(part.len() as u64);
        }
        if bytes != meta.size {
            return Err(refused(format!("{bytes} bytes have come"))
                .expected(format!("{} bytes, as the store says", meta.size)));
        }
        let hash = hex::encode(hash.finalize());
        if let Some(pinned) = sha256.as_ref().filter(|pinned| **pinned != hash) {
            return Err(refused(format!("the object has SHA-256 {hash}"))
                .expected(format!("{pinned}, as it was when the job was submitted"))
                .hint("restore the object, or submit the job again to take the new one"));
        }
        file.flush().await.map_err(written)?;
        file.sync_all().await.map_err(written)?;
        incoming.adopt("part", &hash)?;
        if let Some(version) = self.version(name, meta) {
            incoming.note(&version, &hash)?;
        }
        Ok(hash)
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, Explained> {
        check_name(name)?;
        match storage::head(&self.store, name).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    async fn required(&self, name: &str) -> Result<ObjectMeta, Explained> {
        self.head(name).await?.ok_or_else(|| {
            Explained::new(format!("the store has no {name} there"))
                .at(self.place(name))
                .expected(format!("{CONFIG}, {TOKENIZER}, and {WEIGHTS} or {INDEX} with its files"))
                .hint("look for a misspelled URL; `save_pretrained` of transformers makes these files")
        })
    }

    async fn without_weights(&self) -> Result<Explained, Explained> {
        let pickle = "pytorch_model.bin";
        let error = match self.head(pickle).await? {
            Some(_) => {
                Explained::new(format!("the store has {pickle}, a pickle, but no {WEIGHTS}"))
                    .hint("a pickle can run code: convert it by `save_pretrained` of transformers")
            }
            None => Explained::new(format!("the store has no {WEIGHTS} there"))
                .hint("look for a misspelled URL"),
        };
        Ok(error.at(self.url.to_string()).expected(format!("{WEIGHTS}, or {INDEX} with its files")))
    }

    fn place(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    fn failed(&self, name: &str, error: &object_store::Error) -> Explained {
        if matches!(error, object_store::Error::Precondition { .. }) {
            return Explained::new("the object has changed while it was fetched")
                .at(self.place(name))
                .expected("an object that nobody writes to")
                .hint("submit again");
        }
        Explained::from_error(error)
            .at(self.place(name))
            .expected("a store that answers, and objects that may be read")
            .hint(
                "look at the bucket's name, the network, the endpoint in `[storage]` and the \
                 credentials in the environment; the right to list tells a missing object from a \
                 forbidden one",
            )
    }
}

/// Counts bytes and tells of them.
struct Meter<'a> {
    progress: Progress,
    told: u64,
    said: &'a mut (dyn FnMut(Progress) + Send),
}

impl Meter<'_> {
    fn count(&mut self, bytes: u64) {
        self.progress.bytes += bytes;
        if self.progress.bytes - self.told >= STEP {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.told = self.progress.bytes;
        (self.said)(self.progress);
    }
}
