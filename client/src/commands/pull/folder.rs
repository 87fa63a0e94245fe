//! The folder that a pull makes: all of it or nothing, and no name that leads out of it.

use crate::failure::{Failure, Kind};
use ptv2_common::error::Explained;
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// A folder in the making, beside the one it will become. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Staged {
    temporary: TempDir,
}

impl Staged {
    /// Makes the temporary folder, and the target's parents where they are missing.
    pub(super) fn beside(target: &Path) -> Result<Self, Failure> {
        let parent = target.parent().unwrap_or(target);
        let local =
            |error: std::io::Error| Failure::local("the folder cannot be made", parent, &error);
        std::fs::create_dir_all(parent).map_err(local)?;
        let temporary =
            tempfile::Builder::new().prefix(".ptv2-pull-").tempdir_in(parent).map_err(local)?;
        // A folder inside: the temporary one is closed to others, the pulled one need not be.
        std::fs::create_dir(temporary.path().join("new")).map_err(local)?;
        Ok(Self { temporary })
    }

    /// The place of a file, whose folders are made.
    pub(super) fn place(&self, name: &Path) -> Result<PathBuf, Failure> {
        let place = self.content().join(name);
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| Failure::local("the folder cannot be made", parent, &error))?;
        }
        Ok(place)
    }

    /// Gives the folder its name. With `force`, what bears that name is moved aside and removed.
    pub(super) fn publish(self, target: &Path, force: bool) -> Result<(), Failure> {
        let local =
            |error: std::io::Error| Failure::local("the folder cannot be renamed", target, &error);
        check_free(target, force)?;
        let aside = self.temporary.path().join("old");
        let replaces = target.symlink_metadata().is_ok();
        if replaces {
            std::fs::rename(target, &aside).map_err(local)?;
        }
        if let Err(error) = std::fs::rename(self.content(), target) {
            if replaces && std::fs::rename(&aside, target).is_err() {
                let kept = self.temporary.keep().join("old");
                let error = Explained::new(format!("the folder cannot be renamed: {error}"))
                    .at(target.display().to_string())
                    .hint(format!("what was there is now {}", kept.display()));
                return Err(Failure::refused(error));
            }
            return Err(local(error));
        }
        self.temporary
            .close()
            .map_err(|error| Failure::local("the old folder cannot be removed", target, &error))
    }

    fn content(&self) -> PathBuf {
        self.temporary.path().join("new")
    }
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

    fn staged(target: &Path, text: &str) -> Staged {
        let staged = Staged::beside(target).unwrap();
        std::fs::write(staged.place(Path::new("a.txt")).unwrap(), text).unwrap();
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
    fn an_abandoned_pull_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        drop(staged(&parent.path().join("out"), "1"));
        assert!(names(parent.path()).is_empty());
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
