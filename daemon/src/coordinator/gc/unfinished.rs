//! What writes that broke off have left in a store that is a folder: the listings do not show it.

use crate::clock;
use crate::coordinator::gc::ms;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Folders of a store.
const FOLDERS: [&str; 3] = ["features", "jobs", "keys"];
/// Deeper than any object lies.
const DEPTH: usize = 6;

/// Files of unfinished writes that are older than the grace period, with their sizes, below a folder.
pub(super) fn find(root: &Path, now_unix_ms: u64, grace: Duration) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut folders: Vec<(PathBuf, usize)> =
        FOLDERS.iter().map(|name| (root.join(name), 0)).collect();
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            // Links are not followed: they would lead elsewhere.
            if kind.is_dir() && depth < DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() && is_unfinished(&entry) {
                let old = entry.metadata().ok().filter(|file| {
                    let written = file.modified().ok();
                    let since =
                        written.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
                    let written = since.map_or(u64::MAX, clock::millis);
                    now_unix_ms.saturating_sub(written) > ms(grace)
                });
                found.extend(old.map(|file| (entry.path(), file.len())));
            }
        }
    }
    found
}

/// A folder's writes go to `NAME#NUMBER` first.
fn is_unfinished(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
    number.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_write_left_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["jobs/j1/data/ab#1", "jobs/j1/data/ab", "features/f/a#x", "other/b#2", "keys/c#"]
        {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "abc").unwrap();
        }
        let hour = 3_600_000;
        let found = |later| find(folder.path(), clock::unix_ms() + later, Duration::from_secs(600));
        assert!(found(0).is_empty(), "it may be on its way");
        assert_eq!(found(hour), [(folder.path().join("jobs/j1/data/ab#1"), 3)]);
    }
}
