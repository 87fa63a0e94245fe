//! What was fetched of stores, on disk by hash.
//!
//! `objects/<sha256>` holds each file once. `views/<id>` is a folder of hard links to them, named by the
//! hash of its files' names and hashes: the same content is the same folder, whichever URL it came from.
//! `known/` remembers which version of a store's object has which hash. `incoming/` holds what is on its
//! way. An object lives as long as a view links it; views that were not used for longest go first.
//! Several processes may share a cache.

use crate::clock;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, MetadataExt};
use ptv2_common::error::Explained;
use ptv2_common::{names, storage};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Names of files with their SHA-256.
pub type Files = BTreeMap<String, String>;

const OBJECTS: &str = "objects";
const VIEWS: &str = "views";
const KNOWN: &str = "known";
const INCOMING: &str = "incoming";
/// Held while something is removed.
const LOCK: &str = "lock";
/// What was used within this time is not removed: whoever was given it may not have opened it yet.
const HELD: Duration = Duration::from_secs(600);

/// A cache's folder.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    dir: Dir,
    /// Bytes of all objects at most.
    bytes_max: u64,
    held: Duration,
}

/// A file or a view, as it is judged when room is made.
struct Entry {
    name: String,
    used: SystemTime,
    bytes: u64,
}

impl Cache {
    /// Opens the folder, which is made where it is missing.
    ///
    /// # Errors
    /// Names the folder that cannot be used.
    pub fn open(path: &Path, bytes_max: u64) -> Result<Self, Explained> {
        let at = |error: io::Error| failed(path, &error);
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(path)
            .map_err(at)?;
        let path = path.canonicalize().map_err(at)?;
        let dir = Dir::open_ambient_dir(&path, ambient_authority()).map_err(at)?;
        for folder in [OBJECTS, VIEWS, KNOWN, INCOMING] {
            make_folder(&dir, folder).map_err(at)?;
        }
        Ok(Self { path, dir, bytes_max, held: HELD })
    }

    /// The same, with what was used a moment ago being removed, too.
    #[cfg(test)]
    pub(super) fn holding_nothing(self) -> Self {
        Self { held: Duration::ZERO, ..self }
    }

    /// Bytes of all objects at most.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The name of the view of these files.
    pub fn view_name(files: &Files) -> String {
        let lines: String = files.iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect();
        storage::sha256(lines.as_bytes())
    }

    /// The folder with these files, if it is there. It counts as used now.
    pub fn view(&self, files: &Files) -> Option<PathBuf> {
        let place = Path::new(VIEWS).join(Self::view_name(files));
        // As a file: a handle on a folder as such does not let its time be changed.
        let view = self.dir.open(&place).ok().filter(|_| self.dir.is_dir(&place))?;
        // An error costs the view its place in the order of removal, no more.
        drop(touch(view.into_std()));
        Some(self.path.join(place))
    }

    /// Whether an object is there.
    pub fn holds(&self, sha256: &str) -> bool {
        self.object(sha256).is_ok_and(|place| self.dir.exists(place))
    }

    /// Bytes of an object.
    ///
    /// # Errors
    /// When it cannot be read, or has more than `most` bytes.
    pub fn read(&self, sha256: &str, most: u64) -> Result<Vec<u8>, Explained> {
        let at = |error: io::Error| failed(&self.path, &error);
        let place = self.object(sha256).map_err(at)?;
        let bytes = self.dir.metadata(&place).map_err(at)?.len();
        if bytes > most {
            return Err(Explained::new(format!("the file has {bytes} bytes"))
                .expected(format!("at most {most}")));
        }
        self.dir.read(&place).map_err(at)
    }

    /// Makes the folder of these files, all of which must be there.
    ///
    /// # Errors
    /// When one is not there, and those of the disk.
    pub fn make_view(&self, files: &Files) -> Result<PathBuf, Explained> {
        if let Some(view) = self.view(files) {
            return Ok(view);
        }
        let at = |error: io::Error| failed(&self.path, &error);
        let incoming = self.incoming()?;
        for (name, hash) in files {
            check_name(name)?;
            if let Some(folder) = Path::new(name).parent() {
                incoming.dir.create_dir_all(folder).map_err(at)?;
            }
            let object = self.object(hash).map_err(at)?;
            self.dir.hard_link(object, &incoming.dir, name).map_err(|error| {
                at(error).expected("room for all that is fetched at a time").hint(
                    "raise `inputs.bytes_max` (--inputs-bytes-max); the cache must lie on a file \
                     system that knows hard links",
                )
            })?;
        }
        // Whoever was faster has made the same.
        let place = Path::new(VIEWS).join(Self::view_name(files));
        let renamed = self.dir.rename(incoming.place("."), &self.dir, &place);
        match renamed {
            Ok(()) => Ok(self.path.join(place)),
            Err(error) => self.view(files).ok_or_else(|| at(error)),
        }
    }

    /// A folder for what is on its way. Dropped, it is removed; what a process left that was killed, the
    /// next one removes.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn incoming(&self) -> Result<Incoming<'_>, Explained> {
        let at = |error: io::Error| failed(&self.path, &error);
        self.sweep().map_err(at)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| Explained::from_error(&error))?;
        let name = hex::encode(random);
        let lock = self.dir.create(lock_of(&name)).map_err(at)?.into_std();
        lock.try_lock().map_err(|error| at(error.into()))?;
        let place = Path::new(INCOMING).join(&name);
        make_folder(&self.dir, &place).map_err(at)?;
        let dir = self.dir.open_dir(&place).map_err(at)?;
        Ok(Incoming { cache: self, name, dir, _lock: lock })
    }

    /// Removes what killed processes left on its way.
    fn sweep(&self) -> io::Result<()> {
        for entry in self.dir.read_dir(INCOMING)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".lock")) else {
                continue;
            };
            // Another sweep may have been faster.
            let Ok(lock) = self.dir.open(lock_of(name)) else { continue };
            if lock.into_std().try_lock().is_ok() {
                drop(self.dir.remove_dir_all(Path::new(INCOMING).join(name)));
                drop(self.dir.remove_file(lock_of(name)));
            }
        }
        Ok(())
    }

    /// Which hash a version of a store's object has, if it was fetched before and is still there.
    pub fn known(&self, version: &str) -> Option<String> {
        let hash = self.dir.read_to_string(known_place(version)).ok()?;
        self.holds(&hash).then_some(hash)
    }

    /// Forgets files that are not what they were taken for. The next fetch has them anew.
    pub fn forget(&self, files: &Files) {
        // What is not removed is found wrong again.
        drop(self.dir.remove_dir_all(Path::new(VIEWS).join(Self::view_name(files))));
        for hash in files.values() {
            drop(self.object(hash).and_then(|place| self.dir.remove_file(place)));
        }
    }

    /// Makes room for so many bytes more: views that were not used for longest go first, never one that is
    /// needed.
    ///
    /// # Errors
    /// When what is needed leaves no room, and those of the disk.
    pub fn make_room(&self, bytes: u64, needed: &BTreeSet<String>) -> Result<(), Explained> {
        let at = |error: io::Error| failed(&self.path, &error);
        let lock = self.dir.create(LOCK).map_err(at)?.into_std();
        lock.lock().map_err(at)?;
        if self.bytes().map_err(at)?.saturating_add(bytes) <= self.bytes_max {
            return Ok(());
        }
        let mut views = self.entries(VIEWS).map_err(at)?;
        views.retain(|view| !needed.contains(&view.name) && self.is_old(view));
        views.sort_by_key(|view| view.used);
        let mut views = views.into_iter();
        loop {
            self.remove_unlinked().map_err(at)?;
            let held = self.bytes().map_err(at)?;
            if held.saturating_add(bytes) <= self.bytes_max {
                return Ok(());
            }
            let Some(view) = views.next() else {
                return Err(Explained::new(format!(
                    "{bytes} bytes are to be fetched, and {held} in the cache are needed"
                ))
                .at(self.path.display().to_string())
                .expected(format!("at most {} bytes", self.bytes_max))
                .hint("wait for jobs to end, or raise `inputs.bytes_max` (--inputs-bytes-max)"));
            };
            tracing::info!(view = view.name, "an input is removed from the cache");
            self.dir.remove_dir_all(Path::new(VIEWS).join(&view.name)).map_err(at)?;
        }
    }

    /// Bytes of all objects.
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.entries(OBJECTS)?.iter().map(|object| object.bytes).sum())
    }

    fn is_old(&self, entry: &Entry) -> bool {
        // One of the future is as good as new.
        clock::wall().duration_since(entry.used).is_ok_and(|age| age >= self.held)
    }

    /// Removes objects that no view links, unless they have come a moment ago; and what is known of them.
    fn remove_unlinked(&self) -> io::Result<()> {
        for object in self.entries(OBJECTS)? {
            let place = Path::new(OBJECTS).join(&object.name);
            if self.dir.metadata(&place)?.nlink() == 1 && self.is_old(&object) {
                self.dir.remove_file(place)?;
            }
        }
        for version in self.entries(KNOWN)? {
            let place = Path::new(KNOWN).join(&version.name);
            let hash = self.dir.read_to_string(&place)?;
            if !self.holds(&hash) {
                self.dir.remove_file(place)?;
            }
        }
        Ok(())
    }

    fn entries(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in self.dir.read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let meta = entry.metadata()?;
            let used = meta.modified()?.into_std();
            found.push(Entry { name, used, bytes: meta.len() });
        }
        Ok(found)
    }

    /// The place of an object, which is a hash and nothing else.
    fn object(&self, sha256: &str) -> io::Result<PathBuf> {
        if is_sha256(sha256) {
            return Ok(Path::new(OBJECTS).join(sha256));
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no SHA-256"))
    }
}

/// A folder for what is on its way.
#[derive(Debug)]
pub struct Incoming<'a> {
    cache: &'a Cache,
    name: String,
    dir: Dir,
    /// As long as it is held, nobody else removes the folder.
    _lock: File,
}

impl Incoming<'_> {
    /// A new file in it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn create(&self, name: &str) -> Result<File, Explained> {
        let file = self.dir.create(name).map_err(|error| failed(&self.cache.path, &error))?;
        Ok(file.into_std())
    }

    /// Makes a file of it, whose bytes are on disk, an object.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn adopt(&self, name: &str, sha256: &str) -> Result<(), Explained> {
        let cache = self.cache;
        let at = |error: io::Error| failed(&cache.path, &error);
        let object = cache.object(sha256).map_err(at)?;
        self.dir.rename(name, &cache.dir, object).map_err(at)
    }

    /// Remembers which hash a version of a store's object has.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn note(&self, version: &str, sha256: &str) -> Result<(), Explained> {
        let at = |error: io::Error| failed(&self.cache.path, &error);
        self.dir.write("known", sha256).map_err(at)?;
        self.dir.rename("known", &self.cache.dir, known_place(version)).map_err(at)
    }

    fn place(&self, name: &str) -> PathBuf {
        let folder = Path::new(INCOMING).join(&self.name);
        if name == "." { folder } else { folder.join(name) }
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // It may have become a view. What is left for another reason, the next sweep removes.
        drop(self.cache.dir.remove_dir_all(self.place(".")));
        drop(self.cache.dir.remove_file(lock_of(&self.name)));
    }
}

/// Refuses a name that would lead out of a view. Each part of it is a plain name.
///
/// # Errors
/// Shows the name.
pub(super) fn check_name(name: &str) -> Result<(), Explained> {
    let path = Path::new(name);
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)))
        && name.split('/').all(names::is_file_name);
    if is_plain {
        return Ok(());
    }
    Err(Explained::new(format!("{name:?} is no name of an input's file"))
        .expected(format!("{} between slashes", names::FILE_PATTERN)))
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

fn lock_of(name: &str) -> PathBuf {
    Path::new(INCOMING).join(format!("{name}.lock"))
}

fn known_place(version: &str) -> PathBuf {
    Path::new(KNOWN).join(storage::sha256(version.as_bytes()))
}

fn make_folder(dir: &Dir, name: impl AsRef<Path>) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    match dir.create_dir_with(name, &builder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn touch(view: File) -> io::Result<()> {
    view.set_modified(clock::wall())
}

fn failed(path: &Path, error: &io::Error) -> Explained {
    Explained::new(format!("the cache of inputs cannot be used: {error}"))
        .at(path.display().to_string())
        .expected("a folder that this user may write, with room")
        .hint("make room, or name another by `inputs.cache` (--inputs-cache)")
}
