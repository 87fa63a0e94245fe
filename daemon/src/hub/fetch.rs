//! Fetches a backbone's files into a cache, by Hugging Face's own library and in its own layout.

use super::guard::{self, Guard};
use super::{Progress, Snapshot};
use crate::backbone::{CONFIG, INDEX, TOKENIZER, WEIGHTS, WeightNames};
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use ptv2_common::error::Explained;
use ptv2_common::hub::{HubId, is_commit};
use ptv2_common::storage;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Progress is told after so many bytes.
const STEP: u64 = 8 << 20;

/// Where files come from and go to.
#[derive(Debug, Clone)]
pub struct Places {
    /// URL of the hub, without a slash at its end.
    pub endpoint: String,
    /// The cache.
    pub cache: PathBuf,
    /// The token, where there is one.
    pub token: Option<String>,
    /// A backbone of more bytes is not fetched.
    pub bytes_max: u64,
}

/// Fetches what is missing of a backbone: configuration, tokenizer and weights, nothing else. A commit
/// that the cache has whole is taken from there without a word to the hub. `said` hears how far it is.
///
/// # Errors
/// Names the URL and what the hub answered; a repository that has no safetensors files; a file that is
/// not as long as the hub says.
pub fn fetch(
    id: &HubId,
    places: &Places,
    said: &mut dyn FnMut(Progress),
) -> Result<Snapshot, Explained> {
    let cache = Cache::new(places.cache.clone()).repo(repo(id));
    let snapshot = |commit: &str| Snapshot {
        commit: commit.to_owned(),
        folder: cache.pointer_path(commit),
        cache: places.cache.clone(),
    };
    if id.is_commit() && is_whole(&snapshot(&id.revision).folder) {
        return Ok(snapshot(&id.revision));
    }
    let api = ApiBuilder::from_cache(Cache::new(places.cache.clone()))
        .with_endpoint(places.endpoint.clone())
        .with_token(places.token.clone())
        .with_progress(false)
        .build()
        .map_err(|error| Explained::from_error(&error))?;
    let url = format!("{}/api/{}", places.endpoint, repo(id).api_url());
    let guard = Guard::new(places.token.as_deref());
    let info = info(&guard, &url).map_err(|error| failed(id, places, &url, &error))?;
    if !is_commit(&info.sha) {
        return Err(no_answer(places, &url, &format!("it gives the commit {:?}", info.sha)));
    }
    let found = snapshot(&info.sha);
    let (id, folder) = (id.at(&info.sha), &found.folder);
    let source = Source { places, guard, files: api.repo(repo(&id)), id, folder, cache, api };
    source.all(&info, said)?;
    Ok(found)
}

/// What a repository is at a revision.
fn info(guard: &Guard, url: &str) -> Result<RepoInfo, ApiError> {
    let mut answer = guard.get(url, &[]).map_err(Box::new)?;
    Ok(answer.body_mut().read_json().map_err(Box::new)?)
}

fn repo(id: &HubId) -> Repo {
    Repo::with_revision(id.repository.clone(), RepoType::Model, id.revision.clone())
}

/// Whether a folder has all files of a backbone.
fn is_whole(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).exists();
    let weights = WeightNames::read(folder).map(|names| names.files());
    has(CONFIG) && has(TOKENIZER) && weights.is_ok_and(|names| names.iter().all(|name| has(name)))
}

/// A repository at one commit.
struct Source<'a> {
    places: &'a Places,
    guard: Guard,
    id: HubId,
    api: Api,
    files: ApiRepo,
    cache: CacheRepo,
    folder: &'a Path,
}

impl Source<'_> {
    /// Fetches all that is missing.
    fn all(&self, info: &RepoInfo, said: &mut dyn FnMut(Progress)) -> Result<(), Explained> {
        let listed: BTreeSet<&str> =
            info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let weights = if listed.contains(WEIGHTS) { WEIGHTS } else { INDEX };
        let mut meter = Meter { progress: Progress::default(), told: 0, said };
        let first = [CONFIG, TOKENIZER, weights].map(str::to_owned);
        self.each(&first, &listed, &mut meter)?;
        // The index, where there is one, has come: it says what else there is.
        let names = WeightNames::read(self.folder)?.files();
        self.each(&names, &listed, &mut meter)
    }

    /// Fetches those of these files that are missing.
    fn each(
        &self,
        names: &[String],
        listed: &BTreeSet<&str>,
        meter: &mut Meter<'_>,
    ) -> Result<(), Explained> {
        let mut missing = Vec::new();
        for name in names.iter().filter(|name| !self.folder.join(name).exists()) {
            if !listed.contains(name.as_str()) {
                return Err(self.lacks(name, listed));
            }
            let url = self.files.url(name);
            self.guard.check(&url).map_err(|refusal| refusal.at(&url))?;
            let metadata = self.api.metadata(&url).map_err(|error| self.failed(&url, &error))?;
            meter.progress.of += metadata.size() as u64;
            missing.push((name, metadata));
        }
        let (of, most) = (meter.progress.of, self.places.bytes_max);
        if of > most {
            return Err(Explained::new(format!("{} has {of} bytes", self.id))
                .at(format!("{}/{}", self.places.endpoint, self.id.repository))
                .expected(format!("at most {most} bytes"))
                .hint("raise `hub.bytes_max` in the coordinator's configuration"));
        }
        meter.tell();
        missing.iter().try_for_each(|(name, metadata)| self.one(name, metadata, meter))
    }

    /// Fetches a file, and sees that it is whole.
    fn one(&self, name: &str, metadata: &Metadata, meter: &mut Meter<'_>) -> Result<(), Explained> {
        let (url, etag) = (self.files.url(name), metadata.etag());
        // It becomes a file's name.
        let is_name = etag.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        if etag.is_empty() || etag.len() > 128 || !is_name {
            return Err(self.no_hub(&url, &format!("the etag {etag:?}")));
        }
        if metadata.commit_hash() != self.id.revision {
            return Err(self.no_hub(&url, &format!("the commit {:?}", metadata.commit_hash())));
        }
        let (size, part) =
            (metadata.size() as u64, self.cache.blob_path(etag).with_extension("part"));
        // The library goes on with a part, but not with one that lacks nothing.
        if part.metadata().is_ok_and(|part| part.len() >= size) {
            std::fs::remove_file(&part).map_err(|error| Explained::from_error(&error))?;
        }
        let path = self
            .files
            .download_with_progress(name, Counter(meter))
            .map_err(|error| self.failed(&url, &error))?;
        let checked = check(&path, size, etag).map_err(|error| error.at(&url));
        if checked.is_err() {
            // Left where it is it would be taken for whole.
            for file in [path.canonicalize().ok(), Some(path)].into_iter().flatten() {
                std::fs::remove_file(file).map_err(|error| Explained::from_error(&error))?;
            }
        }
        checked
    }

    fn lacks(&self, name: &str, listed: &BTreeSet<&str>) -> Explained {
        let at =
            format!("{}/{}/tree/{}", self.places.endpoint, self.id.repository, self.id.revision);
        let pickle = listed.iter().find(|name| name.starts_with("pytorch_model"));
        match pickle {
            Some(pickle) if name == INDEX => Explained::new(format!(
                "{} has {pickle}, a pickle, but no {WEIGHTS}",
                self.id
            ))
            .hint(
                "a pickle can run code: convert it by `save_pretrained` of transformers, or look \
                     for a revision that has safetensors",
            ),
            Some(_) | None => {
                let name = if name == INDEX { WEIGHTS } else { name };
                Explained::new(format!("{} has no {name}", self.id)).hint(
                    "save model and tokenizer by `save_pretrained` of transformers into a folder",
                )
            }
        }
        .at(at)
        .expected(format!("{CONFIG}, {TOKENIZER}, and {WEIGHTS} or {INDEX} with its files"))
    }

    fn failed(&self, url: &str, error: &ApiError) -> Explained {
        failed(&self.id, self.places, url, error)
    }

    fn no_hub(&self, url: &str, found: &str) -> Explained {
        no_answer(self.places, url, &format!("it gives {found}"))
    }
}

/// Sees that a file is as long as the hub says; and of a large one, whose etag is a SHA-256, that it is
/// that file.
fn check(path: &Path, size: u64, etag: &str) -> Result<(), Explained> {
    let failed = |error: std::io::Error| Explained::from_error(&error);
    let hint =
        "submit again to fetch it anew; if that gives the same, look at the hub or its mirror";
    let found = path.metadata().map_err(failed)?.len();
    if found != size {
        return Err(Explained::new(format!("the download was cut off: {found} bytes have come"))
            .expected(format!("{size} bytes, as the hub says"))
            .hint(hint));
    }
    if etag.len() != 64 {
        return Ok(());
    }
    let hash = storage::sha256_of_reader(File::open(path).map_err(failed)?).map_err(failed)?;
    if hash == etag {
        return Ok(());
    }
    Err(Explained::new(format!("the download has SHA-256 {hash}"))
        .expected(format!("{etag}, as the hub says"))
        .hint(hint))
}

/// What went wrong with a request.
fn failed(id: &HubId, places: &Places, url: &str, error: &ApiError) -> Explained {
    let page = format!("{}/{}", places.endpoint, id.repository);
    if let ApiError::RequestError(error) = error
        && let Some(refusal) = guard::refusal(error)
    {
        return refusal.at(url);
    }
    let Some(status) = status(error) else {
        return no_answer(places, url, &error.to_string());
    };
    match status {
        401 | 403 => {
            let with = if places.token.is_some() { "its token" } else { "no token" };
            Explained::new(format!("{id} may not be read with {with}: HTTP status {status}"))
                .expected("a public repository, or a token that may read it")
                .hint(format!(
                    "is the name right? A private or gated repository needs a token: ask for access \
                     at {page}, then set HF_TOKEN, or name the token's file by `hub.token_file` \
                     (--hub-token-file)"
                ))
        }
        404 => Explained::new(format!("the hub has no {id}: HTTP status 404"))
            .expected("a repository and a revision that exist")
            .hint(format!("look for a misspelled name at {page}")),
        _ => Explained::new(format!("the hub fails on {id}: HTTP status {status}"))
            .expected("the repository's files")
            .hint("submit again later: what has come stays, and the next fetch goes on from there"),
    }
    .at(url)
}

fn status(error: &ApiError) -> Option<u16> {
    let ApiError::RequestError(error) = error else { return None };
    let ureq::Error::StatusCode(status) = **error else { return None };
    Some(status)
}

/// The hub is not reached, or is none.
fn no_answer(places: &Places, url: &str, why: &str) -> Explained {
    Explained::new(format!("the hub gives no answer that can be used: {why}"))
        .at(url)
        .expected(format!("a hub of models, or a mirror of one, at {}", places.endpoint))
        .hint(
            "look at the network, the proxy (HTTPS_PROXY), the space in the cache, and the endpoint \
             (`hub.endpoint`, --hub-endpoint, HF_ENDPOINT); or fetch the files elsewhere and name \
             their folder",
        )
}

/// Counts bytes and tells of them.
struct Meter<'a> {
    progress: Progress,
    told: u64,
    said: &'a mut dyn FnMut(Progress),
}

impl Meter<'_> {
    fn tell(&mut self) {
        self.told = self.progress.bytes;
        (self.said)(self.progress);
    }
}

/// What the library tells of one file.
struct Counter<'a, 'b>(&'a mut Meter<'b>);

impl hf_hub::api::Progress for Counter<'_, '_> {
    fn init(&mut self, _size: usize, _filename: &str) {}

    fn update(&mut self, size: usize) {
        self.0.progress.bytes += size as u64;
        if self.0.progress.bytes - self.0.told >= STEP {
            self.0.tell();
        }
    }

    fn finish(&mut self) {}
}
