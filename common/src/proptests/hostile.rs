//! Values that nobody wrote by hand, for tests of parsers. The daemon's tests take this file, too.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};

/// Texts that have misled parsers and paths before.
const TRICKS: [&str; 16] = [
    "",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..",
    "%2e%2e%2f",
    "a\0b",
    "a\r\nb: c",
    "\u{1b}[2J",
    "\u{202e}txt",
    ";true",
    "1e999",
    "-0",
    "NaN",
    "99999999999999999999",
    "ß\u{301}\u{fffd}",
];

/// Any text, among them tricks and long ones.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "\\PC{0,12}",
        2 => select(&TRICKS[..]).prop_map(str::to_owned),
        1 => (1_usize..2000).prop_map(|length| "x".repeat(length)),
    ]
}

/// Any JSON, some levels deep.
pub(crate) fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3_i32..4).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((text(), inner), 0..5)
                .prop_map(|entries| Value::Object(Map::from_iter(entries))),
        ]
    })
}

/// A valid value with one part of it replaced, left out, or put under another name as well.
pub(crate) fn changed(valid: Value) -> impl Strategy<Value = Value> {
    let places = places(&valid);
    (any::<Index>(), json(), text(), 0_u8..6).prop_map(move |(index, new, name, how)| {
        let mut value = valid.clone();
        let place = index.get(&places);
        let (parent, key) = place.rsplit_once('/').unwrap_or_default();
        match (how, value.pointer_mut(parent)) {
            (0, Some(Value::Object(object))) => drop(object.remove(key)),
            (1, Some(Value::Object(object))) => drop(object.insert(name, new)),
            (_, _) => {
                if let Some(part) = value.pointer_mut(place) {
                    *part = new;
                }
            }
        }
        value
    })
}

/// Pointers to all parts of a value, itself included.
fn places(value: &Value) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut under = |key: String, part: &Value| {
        all.extend(places(part).into_iter().map(|rest| format!("/{key}{rest}")));
    };
    match value {
        Value::Object(object) => {
            let escaped = |key: &String| key.replace('~', "~0").replace('/', "~1");
            object.iter().for_each(|(key, part)| under(escaped(key), part));
        }
        Value::Array(array) => {
            array.iter().enumerate().for_each(|(at, part)| under(at.to_string(), part));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    all
}

/// Valid bytes of which some are changed, added or cut off.
pub(crate) fn spoiled(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<Index>(), any::<u8>(), 0_u8..4);
    proptest::collection::vec(edit, 1..6).prop_map(move |edits| {
        let mut bytes = valid.clone();
        for (index, byte, how) in edits {
            let at = index.index(bytes.len() + 1);
            match (how, bytes.get_mut(at)) {
                (0, Some(old)) => *old = byte,
                (1, Some(old)) => *old ^= 1 << (byte % 8),
                (2, Some(_)) if byte < 64 => bytes.truncate(at),
                (_, _) => bytes.insert(at, byte),
            }
        }
        bytes
    })
}
