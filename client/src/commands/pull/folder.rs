//! The folder that a pull makes: all of it or nothing, and no name that leads out of it. What has come
//! of one that broke off is kept for the next.

use crate::failure::{Failure, Kind};
use ptv2_common::error::Explained;
use ptv2_common::manifest::FileEntry;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// A folder in the making, beside the one it will become: `parts/` holds what has come of each file, by
/// its hash. Dropped, it leaves that behind, so that the next pull of the same folder goes on from it.
#[derive(Debug)]
pub(super) struct Staged {
    folder: PathBuf,
    /// Held as long as this pull is at work.
    _lock: File,
}

impl Staged {
    /// Makes the folder, or takes that of an earlier pull, and the target's parents where they are missing.
    pub(super) fn beside(target: &Path) -> Result<Self, Failure> {
        let parent = target.parent().unwrap_or(target);
        let local =
            |error: std::io::Error| Failure::local("the folder cannot be made", parent, &error);
        std::fs::create_dir_all(parent).map_err(local)?;
        let name = target.file_name().unwrap_or_default().display();
        let folder = parent.join(format!(".ptv2-pull-{name}"));
        // Closed to others; the pulled folder inside need not be.
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                check_own(&folder, parent)?;
            }
            Err(error) => return Err(local(error)),
        }
        let lock = File::create(folder.join("lock")).map_err(local)?;
        lock.try_lock().map_err(|_| {
            let error = Explained::new("another pull of this folder is at work");
            let hint = "wait for its end, or name another folder with --to";
            Failure::refused(error.at(target.display().to_string()).hint(hint))
        })?;
        let staged = Self { folder, _lock: lock };
        std::fs::create_dir_all(staged.parts()).map_err(local)?;
        Ok(staged)
    }

    /// Where what has come of a file lies.
    pub(super) fn part(&self, file: &FileEntry) -> PathBuf {
        self.parts().join(&file.sha256)
    }

    /// Gives the files, which are all there, their names.
    pub(super) fn assemble(&self, files: &[(FileEntry, PathBuf)]) -> Result<(), Failure> {
        let local = |at: &Path, error: std::io::Error| {
            Failure::local("the folder cannot be made", at, &error)
        };
        let content = self.content();
        // An earlier pull may have come as far as this.
        if content.exists() {
            std::fs::remove_dir_all(&content).map_err(|error| local(&content, error))?;
        }
        for (file, name) in files {
            let place = content.join(name);
            let parent = place.parent().unwrap_or(&content);
            std::fs::create_dir_all(parent).map_err(|error| local(parent, error))?;
            // Two files may be the same bytes.
            let part = self.part(file);
            std::fs::hard_link(&part, &place)
                .or_else(|_| std::fs::copy(&part, &place).map(drop))
                .map_err(|error| local(&place, error))?;
        }
        Ok(())
    }

    /// Gives the folder its name. With `force`, what bears that name is moved aside and removed.
    pub(super) fn publish(self, target: &Path, force: bool) -> Result<(), Failure> {
        let local =
            |error: std::io::Error| Failure::local("the folder cannot be renamed", target, &error);
        check_free(target, force)?;
        let parent = target.parent().unwrap_or(target);
        let mut aside = None;
        if target.symlink_metadata().is_ok() {
            let folder =
                tempfile::Builder::new().prefix(".ptv2-old-").tempdir_in(parent).map_err(local)?;
            std::fs::rename(target, folder.path().join("old")).map_err(local)?;
            aside = Some(folder);
        }
        if let Err(error) = std::fs::rename(self.content(), target) {
            if let Some(aside) = aside
                && std::fs::rename(aside.path().join("old"), target).is_err()
            {
                let kept = aside.keep().join("old");
                let error = Explained::new(format!("the folder cannot be renamed: {error}"))
                    .at(target.display().to_string())
                    .hint(format!("what was there is now {}", kept.display()));
                return Err(Failure::refused(error));
            }
            return Err(local(error));
        }
        let gone = std::fs::remove_dir_all(&self.folder);
        gone.and_then(|()| aside.map_or(Ok(()), tempfile::TempDir::close))
            .map_err(|error| Failure::local("the old folder cannot be removed", target, &error))
    }

    fn parts(&self) -> PathBuf {
        self.folder.join("parts")
    }

    fn content(&self) -> PathBuf {
        self.folder.join("new")
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let parts = std::fs::read_dir(self.parts()).into_iter().flatten().flatten();
        let mut sizes = parts.filter_map(|part| part.metadata().ok());
        // Nothing to go on from.
        if !sizes.any(|part| part.len() > 0) {
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }
}

/// Refuses a folder that someone else has put there, who could change what is pulled, or lead it away.
fn check_own(folder: &Path, parent: &Path) -> Result<(), Failure> {
    let local = |error| Failure::local("the folder cannot be looked at", folder, &error);
    let found = folder.symlink_metadata().map_err(local)?;
    let own = tempfile::tempfile_in(parent).and_then(|file| file.metadata()).map_err(local)?;
    if found.is_dir() && found.uid() == own.uid() && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let error =
        Explained::new("the folder for what is pulled is someone else's, or open to others")
            .at(folder.display().to_string())
            .hint("remove it, or name another folder with --to");
    Err(Failure::refused(error))
}

/// Refuses a target that exists, and, whatever was said, one that this process stands in.
pub(super) fn check_free(target: &Path, force: bool) -> Result<(), Failure> {
    if target.symlink_metadata().is_err() {
        return Ok(());
    }
    let place = target.display().to_string();
    if !force {
        let error = Explained::new("the folder exists")
            .at(place)
            .hint("name another with --to, or replace it with --force");
        return Err(Failure::refused(error));
    }
    let holds_current = match (target.canonicalize(), std::env::current_dir()) {
        (Ok(target), Ok(current)) => current.starts_with(target),
        (Ok(_) | Err(_), _) => false,
    };
    if holds_current {
        let error = Explained::new("the folder holds the current one, so it is not replaced")
            .at(place)
            .hint("name a folder of its own with --to");
        return Err(Failure::refused(error));
    }
    Ok(())
}

/// A name that stays in the folder it is put into.
pub(super) fn checked_name(name: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(name);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_)));
    if stays && !name.is_empty() && !name.contains(['\0', '\\']) {
        return Ok(path.to_owned());
    }
    let error = Explained::new(format!("`{name}` is no name for a file of a pulled folder"))
        .expected("a relative name without `..`");
    Err(Failure::new(Kind::BadAnswer, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (FileEntry, PathBuf) {
        let sha256 = ptv2_common::storage::sha256(text.as_bytes());
        (FileEntry { name: "a.txt".into(), bytes: text.len() as u64, sha256 }, "a.txt".into())
    }

    fn staged(target: &Path, text: &str) -> Staged {
        let staged = Staged::beside(target).unwrap();
        let file = file(text);
        std::fs::write(staged.part(&file.0), text).unwrap();
        staged.assemble(&[file]).unwrap();
        staged
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_pulled_folder_appears_whole_and_alone() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("deep/out");
        staged(&target, "1").publish(&target, false).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("a.txt")).unwrap(), "1");
        assert_eq!(names(&parent.path().join("deep")), ["out"]);
    }

    #[test]
    fn an_abandoned_pull_leaves_what_has_come() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("out");
        drop(Staged::beside(&target).unwrap());
        assert!(names(parent.path()).is_empty(), "nothing has come");
        drop(staged(&target, "1"));
        assert_eq!(names(parent.path()), [".ptv2-pull-out"]);
        let again = Staged::beside(&target).unwrap();
        assert_eq!(std::fs::read_to_string(again.part(&file("1").0)).unwrap(), "1");
        // One at a time.
        assert_eq!(Staged::beside(&target).unwrap_err().kind.exit_code(), 2);
        again.assemble(&[file("1"), (file("1").0, "b/c.txt".into())]).unwrap();
        again.publish(&target, false).unwrap();
        assert_eq!(names(parent.path()), ["out"]);
        assert_eq!(std::fs::read_to_string(target.join("b/c.txt")).unwrap(), "1");
    }

    #[test]
    fn a_folder_that_someone_else_made_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (elsewhere, there) = (parent.path().join("elsewhere"), parent.path().join("x"));
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, parent.path().join(".ptv2-pull-x")).unwrap();
        assert!(Staged::beside(&there).unwrap_err().message().contains("someone else"));
        std::fs::create_dir(parent.path().join(".ptv2-pull-y")).unwrap();
        let open = Staged::beside(&parent.path().join("y")).unwrap_err();
        assert!(open.message().contains("open to others"));
        assert!(names(&elsewhere).is_empty());
    }

    #[test]
    fn an_existing_folder_is_replaced_only_by_force() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("out");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("old.txt"), "0").unwrap();
        let failure = staged(&target, "1").publish(&target, false).unwrap_err();
        assert_eq!(failure.kind.exit_code(), 2);
        assert_eq!(names(&target), ["old.txt"]);
        staged(&target, "1").publish(&target, true).unwrap();
        assert_eq!(names(&target), ["a.txt"]);
        assert_eq!(names(parent.path()), ["out"]);
    }

    #[test]
    fn the_current_folder_is_never_replaced() {
        let current = std::env::current_dir().unwrap();
        assert!(check_free(&current, true).is_err());
        assert!(check_free(Path::new("/"), true).is_err());
    }

    #[test]
    fn names_stay_in_the_folder() {
        for name in ["adapter_config.json", "a/b.json"] {
            assert!(checked_name(name).is_ok(), "{name}");
        }
        for name in ["", "/", "/etc/passwd", "..", "../a", "a/../../b", "./a", "a\\b"] {
            assert!(checked_name(name).is_err(), "{name}");
        }
    }
}
