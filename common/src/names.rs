//! What may be a name, where it becomes a key of a store, a part of a path, or a word in a log.

use crate::error::Explained;

/// Letters of a name at most.
const LENGTH_MAX: usize = 128;
/// Bytes of an idempotency key at most. It is hashed before it becomes a key of the store.
const KEY_MAX: usize = 256;

/// Names of jobs, splits, tasks and workers, for people.
pub const PATTERN: &str = "1 to 128 of a-z 0-9 . _ -, beginning with a letter or digit";
/// Names of files that others have chosen.
pub const FILE_PATTERN: &str =
    "1 to 128 of letters, digits and . _ -, beginning with a letter, a digit or _";

/// Whether a job, a split, a task of one's own or a worker may bear this name.
pub fn is_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= LENGTH_MAX
        && name.starts_with(is_first)
        && name.chars().all(|c| is_first(c) || "._-".contains(c))
}

/// Whether a file that others have named may bear this name: in a checkpoint, an adapter, a split's
/// folder. Capital letters are common there.
pub fn is_file_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.len() <= LENGTH_MAX
        && name.starts_with(is_first)
        && !name.ends_with('.')
        && name.chars().all(|c| is_first(c) || ".-".contains(c))
}

/// Whether each part of a path between slashes is the name of a file.
pub fn is_file_path(path: &str) -> bool {
    path.split('/').all(is_file_name)
}

/// Refuses what is no name.
///
/// # Errors
/// Names the key, and shows the value.
pub fn check(key: &str, name: &str) -> Result<(), Explained> {
    refuse_unless(is_name(name), key, name, PATTERN)
}

/// Refuses what is no idempotency key.
///
/// # Errors
/// As [`check`].
pub fn check_key(key: &str, value: &str) -> Result<(), Explained> {
    let is_fine = (1..=KEY_MAX).contains(&value.len()) && !value.chars().any(char::is_control);
    refuse_unless(is_fine, key, value, "1 to 256 bytes, without control characters")
}

fn refuse_unless(is_fine: bool, key: &str, value: &str, expected: &str) -> Result<(), Explained> {
    if is_fine {
        return Ok(());
    }
    // What is overlong is cut: it may be meant to fill a log.
    let shown: String = value.chars().take(LENGTH_MAX).collect();
    Err(Explained::new(format!("`{key}` is {shown:?}")).at(key).expected(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leads out of a folder, or is read otherwise by someone else.
    const TRICKS: [&str; 28] = [
        "",
        ".",
        "..",
        "../a",
        "a/../b",
        "/etc/passwd",
        "~",
        "~root",
        "%2e%2e%2f",
        "a%2fb",
        "a%00",
        "a\0",
        "a\0.jsonl",
        "a\n",
        "a\r\nb",
        "a\tb",
        "a\u{1b}[2J",
        "a\\b",
        "..\\..\\a",
        "a b",
        "a ",
        " a",
        "\u{2024}\u{2024}",
        "\u{ff0e}\u{ff0e}",
        "a\u{2215}b",
        "a\u{202e}b",
        "c:",
        "-rf",
    ];

    #[test]
    fn tricks_are_no_names() {
        for name in TRICKS {
            assert!(!is_name(name) && !is_file_name(name), "{name:?}");
            let error = check("split", name).unwrap_err();
            assert_eq!(error.expected.as_deref(), Some(PATTERN));
            // A log shows one line of it.
            assert!(!error.what.contains(char::is_control), "{error:?}");
        }
        for path in ["a//b", "a/./b", "a/../b", "/a", "a/", "a/.b"] {
            assert!(!is_file_path(path), "{path:?}");
        }
        let overlong = "a".repeat(129);
        assert!(!is_name(&overlong) && !is_file_name(&overlong));
        assert!(check("name", &"a".repeat(1 << 20)).unwrap_err().what.len() < 200);
        for name in ["A", "_a", ".a", "a:b", "é"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_file_name("a.") && !is_file_name("a.jsonl "));
    }

    #[test]
    fn names_are_names() {
        for name in ["a", "0", "rte-roberta.large_2", &"a".repeat(128), "ax-b"] {
            assert!(is_name(name) && is_file_name(name), "{name}");
        }
        for name in ["AX-b.jsonl", "RTE", "model-00001-of-00003.safetensors", "_index.json"] {
            assert!(is_file_name(name), "{name}");
        }
        assert!(is_file_path("predictions/CB.jsonl"));
    }

    #[test]
    fn keys_are_bounded() {
        for key in ["k", "job 7/array:3", "ü"] {
            check_key("idempotency_key", key).unwrap();
        }
        for key in ["", "a\nb", "a\0", &"k".repeat(257)] {
            assert!(check_key("idempotency_key", key).is_err(), "{key:?}");
        }
    }
}
