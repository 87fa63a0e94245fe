//! Reads a job, and says in the author's terms which key is wrong.

use super::keys::{self, Key, Table};
use super::{JobSpec, check};
use crate::error::Explained;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

/// Where a person finds what a key takes.
pub(super) const SEE_EXAMPLE: &str =
    "each key, its range and its default stand in configs/example-job.toml";

impl JobSpec {
    /// Reads a job from TOML and checks each value that can be checked without files.
    ///
    /// # Errors
    /// Names the key, its value, what was expected, and a hint.
    pub fn from_toml(text: &str) -> Result<Self, Explained> {
        let value: toml::Value = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let explained =
                Explained::new(format!("the job is not valid TOML: {}", error.message()));
            match line {
                Some(line) => explained.at(format!("line {line}")),
                None => explained,
            }
        })?;
        let json = serde_json::to_value(value)
            .map_err(|error| Explained::new(format!("the job cannot be read: {error}")))?;
        Self::from_value(json)
    }

    /// Reads a job from a JSON value, with the same checks.
    ///
    /// # Errors
    /// As [`JobSpec::from_toml`]; the place is the dotted key.
    pub fn from_value(value: Value) -> Result<Self, Explained> {
        let spec: Self = serde_path_to_error::deserialize(&value)
            .map_err(|error| refusal(&value, error.path(), &error.inner().to_string()))?;
        check::check(&spec)?;
        Ok(spec)
    }
}

/// Lays keys of a job over those of another. A key without a value changes nothing.
pub fn merge(into: &mut Value, keys: &Value) {
    match (into, keys) {
        (Value::Object(into), Value::Object(keys)) => {
            for (key, value) in keys {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, value) => *into = value.clone(),
    }
}

/// What serde's message says, with the key in front.
fn refusal(job: &Value, path: &Path, message: &str) -> Explained {
    let key = dotted(path);
    // serde has no other way to tell the kinds apart; a test holds each of the two beginnings.
    if message.starts_with("unknown field `") {
        return unknown(&key);
    }
    if let Some(name) =
        message.strip_prefix("missing field `").and_then(|rest| rest.split_once('`'))
    {
        return missing(&join(&key, name.0));
    }
    wrong(job, &key, message)
}

fn unknown(path: &str) -> Explained {
    let tables = keys::tables();
    let (prefix, name) = path.rsplit_once('.').unwrap_or(("", path));
    let refused = Explained::new(format!("unknown key `{path}`")).at(path);
    let Some(table) = tables.iter().find(|table| table.path == prefix) else {
        return refused.hint(SEE_EXAMPLE);
    };
    let refused = refused.expected(one_of(table.keys.iter().map(Key::name)));
    match meant(name, table, &tables) {
        Some(meant) => refused.hint(format!("did you mean `{meant}`?")),
        None => refused.hint(SEE_EXAMPLE),
    }
}

/// The key that a misspelled one is near to, or the one of this name in another table.
fn meant(name: &str, table: &Table, tables: &[Table]) -> Option<String> {
    let distance = |key: &&Key| strsim::damerau_levenshtein(name, key.name());
    let nearest = table.keys.iter().min_by_key(distance)?;
    if distance(&nearest) <= 1 + name.len() / 4 {
        return Some(nearest.name().to_owned());
    }
    let elsewhere = tables.iter().flat_map(|other| &other.keys).find(|key| key.name() == name)?;
    Some(elsewhere.path.clone())
}

fn missing(path: &str) -> Explained {
    let refused = Explained::new(format!("`{path}` is missing")).at(path).hint(SEE_EXAMPLE);
    match keys::find(path) {
        Some(key) => refused.expected(key.doc),
        None => refused,
    }
}

fn wrong(job: &Value, path: &str, message: &str) -> Explained {
    if path.is_empty() {
        return Explained::new(format!("the job is {}", found(job))).expected("a table of keys");
    }
    let value = keys::at(job, path).unwrap_or(&Value::Null);
    // The last one: the value, which may say anything, stands before it.
    let type_name = message.rsplit("expected ").next().unwrap_or(message);
    Explained::new(format!("`{path}` is {}", found(value)))
        .at(path)
        .expected(expected(path, type_name))
        .hint(SEE_EXAMPLE)
}

/// What a key takes, in words. Keys with a form of their own say it themselves.
fn expected(path: &str, type_name: &str) -> String {
    match type_name {
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" => "a whole number, at least 0".into(),
        "i32" => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" => "a text in quotes".into(),
        _ if type_name.starts_with("struct ") => "a table".into(),
        _ => match keys::find(path) {
            Some(key) if !key.words.is_empty() => one_of(key.words.iter().map(String::as_str)),
            Some(_) | None => type_name.to_owned(),
        },
    }
}

/// A value as its author wrote it.
fn found(value: &Value) -> String {
    match value {
        Value::Object(_) => "a table".into(),
        Value::Array(_) => "a list".into(),
        Value::String(_) => format!("the text {value}"),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Some words of which one is expected.
pub(super) fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}

/// A path without what serde knows of enumerations: `method.kind`, not `method.kind.prefx`.
fn dotted(path: &Path) -> String {
    let names = path.iter().filter_map(|segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    names.collect::<Vec<_>>().join(".")
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}
