//! Job files with a comment on every key, made from the types: the example, and what `init` prints.

use super::JobSpec;
use super::keys::{self, Key, Table};
use crate::error::Explained;
use serde_json::{Map, Value};

const WIDTH: usize = 100;

/// A job file with every key as the spec has it, under what it does, its range and its cost; keys
/// that are off stand in comments. `head` stands on top, a paragraph an item.
///
/// # Errors
/// When the spec cannot be written, which none does that was read.
pub fn commented(spec: &JobSpec, head: &[&str]) -> Result<String, Explained> {
    let tables = keys::tables();
    let values = as_json(spec)?;
    let least: JobSpec = serde_json::from_value(required(&values, &tables)).map_err(unwritable)?;
    let defaults = as_json(&least)?;
    let mut text = String::new();
    for paragraph in head {
        comment(&mut text, paragraph);
    }
    for table in &tables {
        text.push('\n');
        if !table.path.is_empty() {
            comment(&mut text, &table.doc);
            text.push_str(&format!("[{}]\n", table.path));
        }
        for key in table.keys.iter().filter(|key| !key.is_table) {
            write_key(&mut text, key, &values, &defaults);
        }
    }
    Ok(text)
}

fn as_json(spec: &JobSpec) -> Result<Value, Explained> {
    serde_json::to_value(spec).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> Explained {
    Explained::new(format!("the job cannot be written: {error}"))
}

/// What is left of a job when everything is taken away that may be left out.
fn required(values: &Value, tables: &[Table]) -> Value {
    let mut least = Value::Object(Map::new());
    // A table stands before its keys.
    for key in tables.iter().flat_map(|table| &table.keys).filter(|key| key.is_required) {
        let (table, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        let given = keys::at(values, &key.path).cloned();
        let value = if key.is_table { Some(Value::Object(Map::new())) } else { given };
        if let (Some(table), Some(value)) = (least.pointer_mut(&keys::pointer(table)), value) {
            table[name] = value;
        }
    }
    least
}

fn write_key(text: &mut String, key: &Key, values: &Value, defaults: &Value) {
    let value = keys::at(values, &key.path);
    let mut doc = key.doc.clone();
    match keys::at(defaults, &key.path) {
        _ if key.is_required => doc.push_str(" Required."),
        Some(default) if Some(default) != value => {
            doc.push_str(&format!(" Default: {default}."));
        }
        Some(_) | None => {}
    }
    comment(text, &doc);
    // Texts, numbers and truth values are written in TOML as in JSON.
    let name = key.name();
    match (value, &key.example) {
        (Some(value), _) => text.push_str(&format!("{name} = {value}\n")),
        (None, Some(example)) => text.push_str(&format!("# {name} = {example}\n")),
        (None, None) => {}
    }
}

/// Appends a comment, broken between words.
fn comment(text: &mut String, paragraph: &str) {
    let mut line = String::from("#");
    // The documentation's marks of code are noise here.
    for word in paragraph.replace('`', "").split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/example-job.toml");
    const HEAD: &[&str] = &[
        "A job, with each key, what it does, its default and what it costs. Only the keys that are \
         marked as required must be given, and epochs or max_steps; what the others are set to here \
         is their default. Lines that begin with # and a key show keys that are off by default.",
        "",
        "Made from the types in common/src/spec.rs; a test compares it and says how to renew it.",
    ];

    #[test]
    fn the_example_job_is_made_from_the_types() {
        let spec = JobSpec::from_toml(
            "task = \"superglue/rte\"\nbackbone.path = \"models/bert-large-cased\"\n\
             data.root = \"/data/superglue\"\ntraining = { epochs = 60, learning_rate = 1e-2 }",
        );
        let text = commented(&spec.unwrap(), HEAD).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a switch of this test, not of the program")]
        if std::env::var("PTV2_RENEW").is_ok() {
            std::fs::write(PLACE, &text).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(PLACE).unwrap(),
            text,
            "renew configs/example-job.toml with `PTV2_RENEW=1 cargo test -p ptv2-common example`"
        );
    }

    #[test]
    fn comments_are_broken_between_words() {
        let mut text = String::new();
        comment(&mut text, &"word ".repeat(40));
        assert!(text.lines().all(|line| line.len() <= WIDTH && line.starts_with("# word")));
        assert_eq!(text.matches("word").count(), 40);
    }
}
