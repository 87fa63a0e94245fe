//! The name of a repository on a hub of models, which a job may give in place of a folder.

use crate::error::Explained;
use std::fmt;

/// How a backbone's path begins where it names a repository.
const SCHEME: &str = "hf://";
/// Where a path names no revision.
const DEFAULT_REVISION: &str = "main";
/// Letters of a part at most; the hub itself allows 96 in a name.
const PART_MAX: usize = 96;

/// A repository and a revision of it: `hf://org/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HubId {
    /// `org/name`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl HubId {
    /// The repository that a backbone's path names, or nothing where it is a folder.
    ///
    /// # Errors
    /// When it begins with `hf://` and goes on otherwise than a repository's name does: each of its
    /// parts becomes a part of a URL and of a path.
    pub fn of(path: &str) -> Result<Option<Self>, Explained> {
        let Some(id) = path.strip_prefix(SCHEME) else { return Ok(None) };
        let (repository, revision) = id.split_once('@').unwrap_or((id, DEFAULT_REVISION));
        let is_repository =
            repository.split_once('/').is_some_and(|(org, name)| is_part(org) && is_part(name));
        if is_repository && revision.split('/').all(is_part) {
            return Ok(Some(Self { repository: repository.into(), revision: revision.into() }));
        }
        Err(Explained::new(format!("`{path}` is no repository of a hub"))
            .at("backbone.path")
            .expected("hf://org/name or hf://org/name@revision, of letters, digits and . _ -")
            .hint(
                "copy the name from the model's page, for example hf://google-bert/bert-base-cased",
            ))
    }

    /// Whether the revision is a commit, which stands for the same files for ever.
    pub fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }

    /// The same repository at another revision.
    #[must_use]
    pub fn at(&self, revision: &str) -> Self {
        Self { repository: self.repository.clone(), revision: revision.into() }
    }
}

/// Whether a text is a commit's whole name.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// Two hyphens stand between organization and name in the cache's folders, so no part has them.
fn is_part(part: &str) -> bool {
    (1..=PART_MAX).contains(&part.len())
        && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("..")
        && !part.contains("--")
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}@{}", self.repository, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, repository: &str, revision: &str) {
        let id = HubId::of(path).unwrap().unwrap();
        assert_eq!((&*id.repository, &*id.revision), (repository, revision), "{path}");
        assert_eq!(HubId::of(&id.to_string()).unwrap().unwrap(), id);
    }

    #[test]
    fn a_repository_may_have_a_revision() {
        check("hf://ptv2/bert-tiny", "ptv2/bert-tiny", "main");
        check("hf://ptv2/bert-tiny@v1.0", "ptv2/bert-tiny", "v1.0");
        check("hf://A_b/c.d@refs/pr/1", "A_b/c.d", "refs/pr/1");
        let commit = HubId::of(&format!("hf://a/b@{}", "0a".repeat(20))).unwrap().unwrap();
        assert!(commit.is_commit() && !commit.at("main").is_commit());
        assert!(!is_commit(&"0A".repeat(20)));
    }

    #[test]
    fn a_folder_is_no_repository() {
        for path in ["/models/bert", "models/hf", "file:///models", "~/hf", "HF://a/b"] {
            assert_eq!(HubId::of(path).unwrap(), None, "{path}");
        }
    }

    #[test]
    fn nothing_else_gets_into_a_url_or_a_path() {
        for id in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "a/..",
            "../b",
            "a/b@",
            "a/b@..",
            "a/b@x/../y",
            "a/b@/x",
            "a--b/c",
            "a/b?x",
            "a/b#x",
            "a/b c",
            "a/b%2e",
            "a/b@x@y",
            "a/.b",
            "-a/b",
            "a\\b/c",
            "a/ü",
        ] {
            let error = HubId::of(&format!("hf://{id}")).unwrap_err();
            assert!(error.what.contains(id) && error.hint.is_some(), "{error:?}");
        }
        assert!(HubId::of(&format!("hf://a/{}", "b".repeat(97))).is_err());
    }
}
