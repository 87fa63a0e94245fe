//! Mirroring from stores in memory and on disk, and the bound of the cache.

use super::cache::{Cache, Files};
use super::mirror::{Source, store_at};
use super::{Mirrored, Needs, StoreUrl};
use crate::backbone::{CONFIG, INDEX, TOKENIZER, WEIGHTS};
use crate::hub::Progress;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use ptv2_common::error::Explained;
use ptv2_common::storage::{self, Store, StoreAddress, StoreSettings};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Place {
    folder: tempfile::TempDir,
    source: Source,
}

impl Place {
    fn new(store: Store) -> Self {
        Self::bounded(store, 1 << 20)
    }

    /// With a cache of so many bytes, which holds nothing for a moment.
    fn bounded(store: Store, bytes_max: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache"), bytes_max).unwrap();
        let cache = Arc::new(cache.holding_nothing());
        let url = StoreUrl::parse("s3://bucket/place").unwrap();
        Self { folder, source: Source { store, url, cache } }
    }

    async fn put(&self, name: &str, text: &str) {
        let bytes = text.to_owned().into_bytes().into();
        storage::replace(&self.source.store, name, bytes).await.unwrap();
    }

    async fn fetch(&self, needs: &Needs) -> Result<(Mirrored, u64), Explained> {
        self.fetch_beside(needs, &[]).await
    }

    /// Also gives how many bytes were fetched.
    async fn fetch_beside(
        &self,
        needs: &Needs,
        needed: &[String],
    ) -> Result<(Mirrored, u64), Explained> {
        let needed: BTreeSet<String> = needed.iter().cloned().collect();
        let mut last = Progress::default();
        let mirrored = self.source.fetch(needs, &needed, &mut |progress| last = progress).await?;
        Ok((mirrored, last.of))
    }

    fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.folder.path().join("cache").join(folder)).unwrap().count()
    }
}

fn rows(names: &[&str]) -> Needs {
    Needs::FirstOf(names.iter().map(|name| vec![(*name).to_owned()]).collect())
}

fn names(files: &Files) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

async fn check_backbone(store: Store) {
    let place = Place::new(store);
    let error = place.fetch(&Needs::Backbone).await.unwrap_err();
    assert_eq!(error.place.as_deref(), Some("s3://bucket/place/config.json"));
    place.put(CONFIG, "{}").await;
    place.put(TOKENIZER, "[1]").await;
    place.put("pytorch_model.bin", "a pickle").await;
    place.put("optimizer.pt", "another").await;
    let error = place.fetch(&Needs::Backbone).await.unwrap_err();
    assert!(error.what.contains("a pickle, but no model.safetensors"), "{error:?}");
    place.put(WEIGHTS, "weights").await;
    let (mirrored, bytes) = place.fetch(&Needs::Backbone).await.unwrap();
    assert_eq!(names(&mirrored.files), [CONFIG, WEIGHTS, TOKENIZER]);
    assert_eq!(bytes, 2 + 3 + 7);
    assert_eq!(fs::read(mirrored.folder.join(WEIGHTS)).unwrap(), b"weights");
    assert_eq!(mirrored.files[WEIGHTS], storage::sha256(b"weights"));
    // All is there: nothing is fetched.
    assert_eq!(place.fetch(&Needs::Backbone).await.unwrap(), (mirrored.clone(), 0));
    // What has changed is fetched, and nothing else.
    place.put(WEIGHTS, "other weights").await;
    let (changed, bytes) = place.fetch(&Needs::Backbone).await.unwrap();
    assert_eq!(bytes, 13);
    assert!(changed.folder != mirrored.folder && mirrored.folder.exists());
    assert_eq!((place.count("objects"), place.count("views"), place.count("incoming")), (4, 2, 0));
}

#[tokio::test]
async fn a_backbone_is_mirrored_once_and_without_pickles() {
    check_backbone(Arc::new(InMemory::new())).await;
    let folder = tempfile::tempdir().unwrap();
    check_backbone(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap())).await;
}

#[tokio::test]
async fn an_index_says_which_shards_there_are() {
    let place = Place::new(Arc::new(InMemory::new()));
    place.put(CONFIG, "{}").await;
    place.put(TOKENIZER, "[]").await;
    let index =
        |file: &str| format!(r#"{{"weight_map": {{"a": "1.safetensors", "b": "{file}"}}}}"#);
    for outside in ["../b.safetensors", "b.bin", "/etc/b.safetensors", "%2e%2e%2fb.safetensors"] {
        place.put(INDEX, &index(outside)).await;
        let error = place.fetch(&Needs::Backbone).await.unwrap_err();
        assert!(error.what.contains(outside), "{error:?}");
    }
    place.put(INDEX, &index("2.safetensors")).await;
    place.put("1.safetensors", "one").await;
    let error = place.fetch(&Needs::Backbone).await.unwrap_err();
    assert_eq!(error.place.as_deref(), Some("s3://bucket/place/2.safetensors"));
    place.put("2.safetensors", "two").await;
    let (mirrored, _) = place.fetch(&Needs::Backbone).await.unwrap();
    assert_eq!(
        names(&mirrored.files),
        ["1.safetensors", "2.safetensors", CONFIG, INDEX, TOKENIZER]
    );
}

#[tokio::test]
async fn only_rows_that_are_read_are_fetched() {
    let place = Place::new(Arc::new(InMemory::new()));
    place.put("CB/train.jsonl", "rows").await;
    place.put("CB/val.csv", "table").await;
    place.put("CB/other.jsonl", "not these").await;
    let group = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    let needs = Needs::FirstOf(vec![
        group(["CB/train.jsonl", "CB/train.csv"]),
        group(["CB/val.jsonl", "CB/val.csv"]),
        group(["CB/test.jsonl", "CB/test.csv"]),
    ]);
    let (mirrored, _) = place.fetch(&needs).await.unwrap();
    assert_eq!(names(&mirrored.files), ["CB/train.jsonl", "CB/val.csv"]);
    assert_eq!(fs::read(mirrored.folder.join("CB/val.csv")).unwrap(), b"table");
    for name in ["../a", "CB/../../a", "/a", "CB//a", "a\\b", "a%2fb", "", "a\0"] {
        let error = place.fetch(&rows(&[name])).await.unwrap_err();
        assert!(error.what.contains("is no name of an input's file"), "{name:?}: {error:?}");
    }
}

#[tokio::test]
async fn pinned_files_are_those_very_ones_or_refused() {
    let place = Place::new(Arc::new(InMemory::new()));
    place.put("a", "first").await;
    place.put("b", "second").await;
    let hash = |text: &str| storage::sha256(text.as_bytes());
    let files = Files::from([("a".into(), hash("first")), ("b".into(), hash("other"))]);
    let none = BTreeSet::new();
    let error = place.source.fetch_pinned(&files, &none).await.unwrap_err();
    assert!(error.what.contains("has SHA-256") && error.hint.is_some(), "{error:?}");
    // The one that was right stays for the next try; of the other nothing is left.
    assert_eq!((place.count("objects"), place.count("views"), place.count("incoming")), (1, 0, 0));
    place.put("b", "other").await;
    let folder = place.source.fetch_pinned(&files, &none).await.unwrap();
    assert_eq!(fs::read(folder.join("b")).unwrap(), b"other");
    // What was damaged on disk is fetched anew once it is forgotten.
    fs::write(folder.join("b"), "worse").unwrap();
    place.source.cache.forget(&files);
    assert!(place.source.cache.view(&files).is_none());
    let folder = place.source.fetch_pinned(&files, &none).await.unwrap();
    assert_eq!(fs::read(folder.join("b")).unwrap(), b"other");
    let files = Files::from([("a".into(), "../../etc/passwd".into())]);
    assert!(place.source.fetch_pinned(&files, &none).await.is_err());
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_what_is_needed_stays() {
    let place = Place::bounded(Arc::new(InMemory::new()), 30);
    for name in ["a", "b", "c", "d"] {
        place.put(name, &name.repeat(10)).await;
    }
    let mut views = Vec::new();
    for (age, name) in [(30, "a"), (20, "b"), (10, "c")] {
        let (mirrored, _) = place.fetch(&rows(&[name])).await.unwrap();
        let time = crate::clock::wall() - Duration::from_secs(age);
        fs::File::open(&mirrored.folder).unwrap().set_modified(time).unwrap();
        views.push(mirrored);
    }
    // The oldest is needed, the next one was used again.
    let needed = [Cache::view_name(&views[0].files)];
    assert_eq!(place.fetch(&rows(&["b"])).await.unwrap().1, 0);
    place.fetch_beside(&rows(&["d"]), &needed).await.unwrap();
    let there: Vec<bool> = views.iter().map(|view| view.folder.exists()).collect();
    assert_eq!(there, [true, true, false]);
    assert_eq!((place.count("objects"), place.count("known")), (3, 3));
    // All is needed: nothing more is taken.
    let all: Vec<String> = fs::read_dir(place.folder.path().join("cache/views"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let error = place.fetch_beside(&rows(&["c"]), &all).await.unwrap_err();
    assert!(error.what.contains("in the cache are needed") && error.hint.is_some(), "{error:?}");
    place.put("large", &"x".repeat(31)).await;
    let error = place.fetch(&rows(&["large"])).await.unwrap_err();
    assert_eq!(error.expected.as_deref(), Some("at most 30 bytes"));
    assert_eq!(place.count("objects"), 3);
}

#[tokio::test]
async fn what_was_used_a_moment_ago_stays() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::open(folder.path(), 10).unwrap());
    let url = StoreUrl::parse("s3://bucket").unwrap();
    let source = Source { store: Arc::new(InMemory::new()), url, cache };
    let place = Place { folder: tempfile::tempdir().unwrap(), source };
    place.put("a", "aaaaaaaa").await;
    place.put("b", "bbbbbbbb").await;
    let (mirrored, _) = place.fetch(&rows(&["a"])).await.unwrap();
    assert!(place.fetch(&rows(&["b"])).await.is_err());
    assert!(mirrored.folder.join("a").exists());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_is_cut_off_leaves_nothing_half() {
    let wait_get_per_call = Duration::from_secs(10);
    let throttle = ThrottleConfig { wait_get_per_call, ..ThrottleConfig::default() };
    let place = Place::new(Arc::new(ThrottledStore::new(InMemory::new(), throttle)));
    for name in ["a", "b", "c"] {
        place.put(name, name).await;
    }
    let needs = rows(&["a", "b", "c"]);
    // Three looks and one file take 40 s.
    let cut = tokio::time::timeout(Duration::from_secs(45), place.fetch(&needs)).await;
    assert!(cut.is_err());
    assert_eq!((place.count("objects"), place.count("views"), place.count("incoming")), (1, 0, 0));
    let (mirrored, bytes) = place.fetch(&needs).await.unwrap();
    assert_eq!((mirrored.files.len(), bytes), (3, 2));
}

#[tokio::test]
async fn what_a_killed_process_left_is_swept() {
    let place = Place::new(Arc::new(InMemory::new()));
    let incoming = place.folder.path().join("cache/incoming");
    fs::create_dir(incoming.join("dead")).unwrap();
    fs::write(incoming.join("dead/part"), "half").unwrap();
    fs::write(incoming.join("dead.lock"), "").unwrap();
    let alive = place.source.cache.incoming().unwrap();
    assert_eq!(place.count("incoming"), 2);
    place.put("a", "a").await;
    place.fetch(&rows(&["a"])).await.unwrap();
    // One that is alive keeps its own.
    assert_eq!(place.count("incoming"), 2);
    drop(alive);
    assert_eq!(place.count("incoming"), 0);
}

#[test]
fn an_endpoint_means_the_artifact_stores_own_cloud() {
    let endpoint = Some("https://minio:9000".to_owned());
    let region = Some("here".to_owned());
    let settings = StoreSettings { endpoint, region, ..StoreSettings::default() };
    let check = |own: &str, input: &str, is_kept: bool| {
        let own = StoreAddress { url: own.into(), settings: settings.clone() };
        let found = store_at(&own, &StoreUrl::parse(input).unwrap());
        assert_eq!(found.url, input);
        assert_eq!(found.settings.endpoint.is_some(), is_kept, "{} {input}", own.url);
        assert_eq!(found.settings.region.is_some(), is_kept);
    };
    check("s3://store/x", "s3://data/y", true);
    check("/store", "s3://data/y", true);
    check("az://store/x", "s3://data/y", false);
    check("s3://store/x", "gs://data", false);
}

#[test]
fn a_cache_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/cache");
    Cache::open(&path, 1).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("objects"))), (0o700, 0o700));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Cache::open(&file, 1).unwrap_err();
    assert!(error.place.is_some() && error.hint.is_some(), "{error:?}");
}
