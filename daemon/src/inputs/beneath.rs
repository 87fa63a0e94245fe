//! Opens regular files beneath folders, and nothing else.

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Handles that are kept open at a time; files beyond are opened anew for each use.
const HANDLES_MAX: usize = 64;

/// Folders, and the files that were opened beneath them. A file is opened once, so that what was checked
/// is what is hashed and used.
#[derive(Debug)]
pub struct Beneath {
    /// Real paths with a handle on each.
    roots: Vec<(PathBuf, Dir)>,
    /// Whether a link may lead out of the folders.
    follows: bool,
    opened: Mutex<BTreeMap<PathBuf, Opened>>,
}

/// Why a file was not opened.
#[derive(Debug)]
pub enum Refused {
    /// It lies beneath none of the folders. Of such a place nothing is said, not even whether it exists.
    Outside,
    /// It is a folder, a pipe, a socket or a device.
    NoFile,
    /// The system says so.
    Unreadable(io::Error),
    /// It has more bytes than it may.
    TooLarge {
        /// What it has.
        bytes: u64,
        /// What it may have.
        most: u64,
    },
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Outside => f.write_str("it lies under no root that jobs may read"),
            Self::NoFile => f.write_str("it is no regular file"),
            Self::Unreadable(error) => error.fmt(f),
            Self::TooLarge { bytes, most } => {
                write!(f, "it has {bytes} bytes, and {most} at most are read")
            }
        }
    }
}

/// A real path, and the handle that it is opened beneath.
struct Place<'a> {
    root: Handle<'a>,
    relative: PathBuf,
}

enum Handle<'a> {
    Root(&'a Dir),
    /// On the folder that a link has led to.
    Own(Dir),
}

impl Beneath {
    /// Those folders that exist; links of a folder's own path are followed.
    pub fn new(folders: &[PathBuf]) -> Self {
        let open = |folder: &PathBuf| {
            let real = folder.canonicalize().ok()?;
            let handle = Dir::open_ambient_dir(&real, ambient_authority()).ok()?;
            Some((real, handle))
        };
        let roots = folders.iter().filter_map(open).collect();
        Self { roots, follows: false, opened: Mutex::default() }
    }

    /// A folder whose files may be links to elsewhere, as in a hub's cache: for whoever compares what is
    /// read with a hash, or says itself which folder it is.
    pub fn following(folder: &Path) -> Self {
        Self { follows: true, ..Self::new(&[folder.to_owned()]) }
    }

    /// The real path of a place beneath a folder.
    ///
    /// # Errors
    /// When it does not exist or lies elsewhere, also by a link or `..`.
    pub fn real(&self, path: &Path) -> Result<PathBuf, Refused> {
        match path.canonicalize() {
            Ok(real) if self.follows || self.holds(&real) => Ok(real),
            Err(error) if self.follows || self.would_hold(path) => Err(error.into()),
            Ok(_) | Err(_) => Err(Refused::Outside),
        }
    }

    /// Opens a file. It never waits: a pipe is refused, not read.
    ///
    /// # Errors
    /// As [`Beneath::real`], and for what is no regular file.
    pub fn open(&self, path: &Path) -> Result<Opened, Refused> {
        if let Some(known) = self.lock().get(path) {
            return Ok(known.clone());
        }
        let place = self.place(&self.real(path)?)?;
        let opened = place.open()?;
        let mut known = self.lock();
        if known.len() < HANDLES_MAX {
            known.insert(path.to_owned(), opened.clone());
        }
        Ok(opened)
    }

    fn holds(&self, real: &Path) -> bool {
        self.roots.iter().any(|(root, _)| real.starts_with(root))
    }

    /// Whether a path that does not exist would lie beneath a folder: the deepest part of it that exists
    /// does, and nothing after that climbs.
    fn would_hold(&self, path: &Path) -> bool {
        !path.components().any(|part| part == Component::ParentDir)
            && path
                .ancestors()
                .find_map(|parent| parent.canonicalize().ok())
                .is_some_and(|real| self.holds(&real))
    }

    fn place(&self, real: &Path) -> Result<Place<'_>, Refused> {
        let within = |(root, handle)| {
            let relative = real.strip_prefix::<&PathBuf>(root).ok()?.to_owned();
            Some(Place { root: Handle::Root(handle), relative })
        };
        if let Some(place) = self.roots.iter().map(|(root, dir)| (root, dir)).find_map(within) {
            return Ok(place);
        }
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(Refused::NoFile);
        };
        let parent = Dir::open_ambient_dir(parent, ambient_authority())?;
        Ok(Place { root: Handle::Own(parent), relative: name.into() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Opened>> {
        // An insert is all that happens under the lock, so a panic elsewhere leaves the map whole.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// The path was real when it was looked at. Whatever has become of it since, the handle's own
    /// resolution never leaves the root.
    fn open(&self) -> Result<Opened, Refused> {
        let dir = match &self.root {
            Handle::Root(dir) => *dir,
            Handle::Own(dir) => dir,
        };
        // A device is not even opened.
        if self.relative.as_os_str().is_empty() || !dir.metadata(&self.relative)?.is_file() {
            return Err(Refused::NoFile);
        }
        let mut options = OpenOptions::new();
        // A pipe that took the file's place meanwhile would wait for a writer.
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = dir.open_with(&self.relative, &options)?.into_std();
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(Refused::NoFile);
        }
        Ok(Opened { file: Arc::new(file), bytes: meta.len() })
    }
}

/// A file in one state: device, inode, size, and times of content and of inode in seconds and
/// nanoseconds.
pub type State = (u64, u64, u64, [i64; 4]);

/// A regular file that was opened for reading.
#[derive(Debug, Clone)]
pub struct Opened {
    file: Arc<File>,
    bytes: u64,
}

impl Opened {
    /// Its size when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its bytes from the beginning, as many as it had when it was opened.
    pub fn reader(&self) -> impl Read + use<> {
        Cursor { file: Arc::clone(&self.file), at: 0 }.take(self.bytes)
    }

    /// All of it.
    ///
    /// # Errors
    /// When it has more than `most` bytes, and those of reading.
    pub fn read(&self, most: u64) -> Result<Vec<u8>, Refused> {
        if self.bytes > most {
            return Err(Refused::TooLarge { bytes: self.bytes, most });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or_default());
        self.reader().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills a buffer from a place of the file on.
    ///
    /// # Errors
    /// Those of reading; also when the file is shorter.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    /// Its state now: the same as long as nobody writes to it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn state(&self) -> io::Result<State> {
        self.file.metadata().map(|meta| state(&meta))
    }
}

fn state(meta: &Metadata) -> State {
    let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
    (meta.dev(), meta.ino(), meta.size(), times)
}

/// Reads a shared handle without moving its own place.
struct Cursor {
    file: Arc<File>,
    at: u64,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A folder `root` with a file `a`, and a file `secret` beside it.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("root");
        fs::create_dir_all(root.join("in")).unwrap();
        fs::write(root.join("a"), "inside").unwrap();
        fs::write(root.with_file_name("secret"), "outside").unwrap();
        (folder, root)
    }

    fn text(opened: Result<Opened, Refused>) -> String {
        String::from_utf8(opened.unwrap().read(100).unwrap()).unwrap()
    }

    #[test]
    fn links_and_dots_lead_nowhere_else() {
        let (_folder, root) = place();
        let beneath = Beneath::new(&[root.clone(), root.join("missing")]);
        symlink(root.join("a"), root.join("in/link")).unwrap();
        symlink(root.with_file_name("secret"), root.join("out")).unwrap();
        symlink("..", root.join("up")).unwrap();
        assert_eq!(text(beneath.open(&root.join("in/../a"))), "inside");
        assert_eq!(text(beneath.open(&root.join("in/link"))), "inside");
        for outside in ["out", "../secret", "up/secret", "../nowhere", "up/nowhere"] {
            let refused = beneath.open(&root.join(outside)).unwrap_err();
            assert!(matches!(refused, Refused::Outside), "{outside}: {refused:?}");
        }
        let refused = beneath.open(&root.join("nowhere")).unwrap_err();
        assert!(matches!(refused, Refused::Unreadable(_)), "{refused:?}");
        assert_eq!(text(Beneath::following(&root).open(&root.join("out"))), "outside");
    }

    #[test]
    fn what_is_swapped_after_the_check_does_not_lead_out() {
        let (_folder, root) = place();
        let beneath = Beneath::new(std::slice::from_ref(&root));
        fs::write(root.join("in/b"), "b").unwrap();
        // The file becomes a link out of the root.
        let file = beneath.place(&beneath.real(&root.join("a")).unwrap()).unwrap();
        fs::remove_file(root.join("a")).unwrap();
        symlink(root.with_file_name("secret"), root.join("a")).unwrap();
        assert!(file.open().is_err());
        fs::remove_file(root.join("a")).unwrap();
        symlink("../secret", root.join("a")).unwrap();
        assert!(file.open().is_err());
        // A folder on the way does.
        let file = beneath.place(&beneath.real(&root.join("in/b")).unwrap()).unwrap();
        fs::rename(root.join("in"), root.join("was")).unwrap();
        fs::create_dir(root.with_file_name("other")).unwrap();
        fs::write(root.with_file_name("other").join("b"), "outside").unwrap();
        symlink("../other", root.join("in")).unwrap();
        assert!(file.open().is_err());
        // A link to within is as good as the file.
        fs::remove_file(root.join("in")).unwrap();
        symlink("was", root.join("in")).unwrap();
        assert_eq!(text(file.open()), "b");
    }

    #[test]
    fn what_was_opened_once_stays_what_it_was() {
        let (_folder, root) = place();
        let beneath = Beneath::new(std::slice::from_ref(&root));
        beneath.open(&root.join("a")).unwrap();
        fs::rename(root.with_file_name("secret"), root.join("a")).unwrap();
        assert_eq!(text(beneath.open(&root.join("a"))), "inside");
    }

    #[test]
    fn only_regular_files_are_opened_and_no_pipe_is_waited_for() {
        let (_folder, root) = place();
        let beneath = Beneath::new(std::slice::from_ref(&root));
        let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        for name in ["pipe", "socket", "in", ""] {
            let refused = beneath.open(&root.join(name)).unwrap_err();
            assert!(matches!(refused, Refused::NoFile), "{name}: {refused:?}");
        }
        // A pipe that takes a file's place between the check and the open.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let (_, dir) = &beneath.roots[0];
        assert!(!dir.open_with("pipe", &options).unwrap().metadata().unwrap().is_file());
        assert!(Beneath::following(Path::new("/dev")).open(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let (_folder, root) = place();
        let opened = Beneath::new(std::slice::from_ref(&root)).open(&root.join("a")).unwrap();
        let refused = opened.read(5).unwrap_err();
        assert!(matches!(refused, Refused::TooLarge { bytes: 6, most: 5 }), "{refused:?}");
    }
}
