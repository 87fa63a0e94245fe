//! Secrets: values that no log and no message of an error shows, and the files that hold them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use utoipa::ToSchema;

/// A token or the like. What is made for looking (`Debug`) shows none of it; whoever needs the text asks by
/// [`Secret::expose`], which a reader finds easily.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a text in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for a header, a hash, or the one place that it is printed at.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A warning where others than its owner can read a file with a secret, with what to type.
pub fn exposed(file: &Path) -> Option<String> {
    let found = std::fs::metadata(file).ok()?;
    // A pipe or the like is nobody's to read but its holder's.
    let is_open = found.is_file() && found.permissions().mode() & 0o077 != 0;
    let file = file.display();
    is_open.then(|| format!("others can read the token file {file}: chmod 600 {file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("ptv2_1_abc");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(..) Some(Secret(..))");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"ptv2_1_abc\"");
    }

    #[test]
    fn a_file_that_others_can_read_is_named_with_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mode = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file.path(), permissions).unwrap();
            exposed(file.path())
        };
        assert_eq!(mode(0o600), None);
        let said = mode(0o640).unwrap();
        assert!(said.contains(&format!("chmod 600 {}", file.path().display())), "{said}");
        assert_eq!(exposed(Path::new("/dev/null")), None);
    }
}
