//! Where each key of a job was written: a line of its file, or an option of the command line.

use ptv2_common::spec;
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};

/// Where the keys of one job come from.
#[derive(Debug)]
pub(super) struct Origins {
    file: String,
    /// Line of each dotted key and table of the file; empty for JSON.
    lines: BTreeMap<String, usize>,
    /// Dotted keys with the option that gave each, in the order they were applied.
    options: Vec<(String, String)>,
}

impl Origins {
    /// Of a TOML file.
    pub(super) fn of_toml(file: &str, text: &str) -> Self {
        let mut origins = Self::of_json(file);
        if let Ok(table) = DeTable::parse(text) {
            origins.collect("", table.get_ref(), text);
        }
        origins
    }

    /// Of a JSON file, whose lines are not known.
    pub(super) fn of_json(file: &str) -> Self {
        Self { file: file.to_owned(), lines: BTreeMap::new(), options: Vec::new() }
    }

    /// Notes that an option gave a key.
    pub(super) fn given(&mut self, path: &[String], option: String) {
        self.options.push((path.join("."), option));
    }

    /// Where a dotted key was written, or where it is missed; nothing for what is no key of the job.
    pub(super) fn place(&self, key: &str) -> Option<String> {
        // The last option that gave the key, or a table around it, has replaced all before it.
        let given = self.options.iter().rev().find(|(path, _)| is_within(key, path));
        if let Some((_, option)) = given {
            return Some(option.clone());
        }
        if !self.lines.contains_key(key) && !spec::is_key(key) {
            return None;
        }
        let around = self.lines.iter().filter(|(path, _)| is_within(key, path));
        match around.max_by_key(|(path, _)| path.len()) {
            Some((_, line)) => Some(format!("{}, line {line}", self.file)),
            None => Some(self.file.clone()),
        }
    }

    fn collect(&mut self, table: &str, entries: &DeTable<'_>, text: &str) {
        for (key, value) in entries {
            let path = if table.is_empty() {
                key.to_string()
            } else {
                format!("{table}.{}", key.get_ref())
            };
            let line = 1 + text[..key.span().start].matches('\n').count();
            self.lines.insert(path.clone(), line);
            if let DeValue::Table(inner) = value.get_ref() {
                self.collect(&path, inner, text);
            }
        }
    }
}

/// Whether a key is another one, or lies in it.
fn is_within(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "task = \"a\"\ndata.root = \"/data\"\n\n[training]\n# many\nepochs = 3\n";

    fn check(origins: &Origins, key: &str, expected: Option<&str>) {
        assert_eq!(origins.place(key).as_deref(), expected, "{key}");
    }

    #[test]
    fn a_key_of_a_file_has_its_line() {
        let origins = Origins::of_toml("job.toml", JOB);
        check(&origins, "task", Some("job.toml, line 1"));
        check(&origins, "data.root", Some("job.toml, line 2"));
        check(&origins, "training.epochs", Some("job.toml, line 6"));
    }

    #[test]
    fn a_missing_key_has_the_line_of_its_table() {
        let origins = Origins::of_toml("job.toml", JOB);
        check(&origins, "training.learning_rate", Some("job.toml, line 4"));
        check(&origins, "backbone", Some("job.toml"));
        check(&origins, "/data/RTE/train.jsonl", None);
        check(&origins, "training_epochs", None);
    }

    #[test]
    fn the_last_option_that_gave_a_key_counts() {
        let mut origins = Origins::of_toml("job.toml", JOB);
        origins.given(&["training".into(), "epochs".into()], "--set training.epochs=1".into());
        check(&origins, "training.epochs", Some("--set training.epochs=1"));
        origins.given(&["training".into()], "--set training={}".into());
        check(&origins, "training.epochs", Some("--set training={}"));
        check(&origins, "task", Some("job.toml, line 1"));
    }
}
