//! A seal on a JSON file: its last key is the SHA-256 of all that stands before it, so that any changed
//! byte shows, in whatever key. A file without a seal is one of an earlier version.

use crate::error::Explained;
use crate::storage::sha256;

const BEFORE: &[u8] = b",\n  \"seal\": \"";
const AFTER: &[u8] = b"\"\n}";
const END: &[u8] = b"\n}";
const HASH: usize = 64;

/// Seals an object that `serde_json::to_vec_pretty` wrote. What has another form stays as it is.
pub fn seal(json: Vec<u8>) -> Vec<u8> {
    let Some(body) = json.strip_suffix(END) else { return json };
    let hash = sha256(body);
    [body, BEFORE, hash.as_bytes(), AFTER].concat()
}

/// Checks a file's seal.
///
/// # Errors
/// When the file is not what was sealed, with both hashes.
pub fn check(bytes: &[u8]) -> Result<(), Explained> {
    let Some((body, hash)) = parts(bytes) else { return Ok(()) };
    let found = sha256(body);
    if found.as_bytes() == hash {
        return Ok(());
    }
    Err(Explained::new(format!("the file is damaged: what was sealed has SHA-256 {found}"))
        .expected(String::from_utf8_lossy(hash))
        .hint("take an earlier checkpoint"))
}

/// What was sealed, and the hash it had.
fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_suffix(AFTER)?;
    let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HASH)?)?;
    Some((rest.strip_suffix(BEFORE)?, hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn every_changed_byte_shows_or_changes_nothing() {
        let value = json!({ "format": 1, "step": 20, "job": { "name": "a", "rate": 0.5 } });
        let sealed = seal(serde_json::to_vec_pretty(&value).unwrap());
        check(&sealed).unwrap();
        let mut opened: Value = serde_json::from_slice(&sealed).unwrap();
        opened.as_object_mut().unwrap().remove("seal").unwrap();
        assert_eq!(opened, value);
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << bit;
                if check(&flipped).is_err() {
                    continue;
                }
                // Only the seal itself can be broken unseen, and then the rest is whole.
                if let Ok(Value::Object(mut found)) = serde_json::from_slice(&flipped) {
                    found.retain(|key, _| value.get(key).is_some());
                    assert_eq!(Value::Object(found), value, "byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_has_no_seal() {
        check(br#"{"format": 1}"#).unwrap();
        check(b"").unwrap();
        assert_eq!(seal(b"{}".to_vec()), b"{}");
    }
}
