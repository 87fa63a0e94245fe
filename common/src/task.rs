//! A task of one's own: a file that says which columns become text, what the labels are and which
//! metric decides. No code.
//!
//! The comments of the keys stand in configs/own-task.toml, too, which a test reads.

mod template;
#[cfg(test)]
mod tests;

pub use template::Template;

use crate::error::Explained;
use crate::names;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Component, Path};

/// What a task file is recognized by where a job names its task.
pub const ENDING: &str = ".toml";

const SEE_EXAMPLE: &str = "each key stands in configs/own-task.toml";

/// The keys, in the order of [`OwnTask`].
const KEYS: [&str; 9] =
    ["name", "first", "second", "choices", "label", "labels", "metric", "idx", "files"];

/// A task as its file declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnTask {
    /// A name for people, and for the file of answers: 1 to 128 of a-z 0-9 . _ -, beginning with a
    /// letter or digit.
    pub name: String,
    /// Text of the first segment: `{column}` stands for a column of the row, `{{` and `}}` for braces.
    pub first: String,
    /// Text of the second segment. Off: there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<String>,
    /// Texts of the second segment of a multiple-choice task, one a choice, in place of `second`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
    /// The column that holds the label.
    #[serde(default = "label")]
    pub label: String,
    /// The labels in index order, spelled as in the data: texts, whole numbers, or true and false. Of a
    /// multiple-choice task: what the column holds where the first choice is right, the second, and so
    /// on.
    pub labels: Vec<Value>,
    /// The metric that decides which state is best; accuracy is reported besides.
    #[serde(default)]
    pub metric: Metric,
    /// The column that numbers the rows, for the file of answers. Off: counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idx: Option<String>,
    /// The splits' files in `data.root`, JSONL or CSV by their ending.
    #[serde(default)]
    pub files: Files,
}

/// Metrics that a task file may name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of right predictions.
    #[default]
    Accuracy,
    /// F1 of the second of two labels.
    F1,
    /// Mean of the labels' F1.
    MacroF1,
    /// Matthews' correlation.
    Matthews,
}

/// The files of the splits. Those that are off are `train.jsonl`, `val.jsonl` and `test.jsonl`, or the
/// same with `.csv`, whichever there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Rows to train on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<String>,
    /// Rows to evaluate on while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<String>,
    /// Rows to predict, whose labels may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
}

fn label() -> String {
    "label".into()
}

/// Whether a job's `task` is the path of a task file.
pub fn is_own(task: &str) -> bool {
    task.ends_with(ENDING)
}

impl OwnTask {
    /// Reads a task file and checks all that can be checked without rows.
    ///
    /// # Errors
    /// Names the file, the line, what was expected, and what to do.
    pub fn from_toml(text: &str, file: &Path) -> Result<Self, Explained> {
        let task: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| line(text, span.start));
            place(unreadable(error.message()), file, line)
        })?;
        task.check().map_err(|error| {
            let line = error.place.as_deref().and_then(|key| line_of(text, key));
            place(error, file, line)
        })?;
        Ok(task)
    }

    /// The labels as text, in index order.
    pub fn label_names(&self) -> Vec<String> {
        self.labels.iter().map(name_of).collect()
    }

    /// The file of a split, where it is named or the split is one of the three.
    pub fn file(&self, split: &str) -> String {
        let named = match split {
            "train" => &self.files.train,
            "val" => &self.files.val,
            "test" => &self.files.test,
            _ => &None,
        };
        named.clone().unwrap_or_else(|| format!("{split}.jsonl"))
    }

    /// The files of a split, of which the first that there is will be read.
    pub fn candidates(&self, split: &str) -> Vec<String> {
        let named = self.file(split);
        let table = format!("{split}.csv");
        let is_settled =
            named != format!("{split}.jsonl") || !matches!(split, "train" | "val" | "test");
        if is_settled { vec![named] } else { vec![named, table] }
    }

    /// Settles, for the files that are not named, which there are in the folder of the data.
    pub fn settle_files(&mut self, folder: &Path) {
        let Files { train, val, test } = &mut self.files;
        for (split, file) in [("train", train), ("val", val), ("test", test)] {
            let table = format!("{split}.csv");
            if file.is_none() && !folder.join(format!("{split}.jsonl")).exists() {
                *file = folder.join(&table).exists().then_some(table);
            }
        }
    }

    /// All texts with their keys.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let choices = self.choices.iter().flatten().map(|text| ("choices", text.as_str()));
        [("first", self.first.as_str())]
            .into_iter()
            .chain(self.second.as_deref().map(|text| ("second", text)))
            .chain(choices)
    }

    /// The place of an error is the key until the caller knows its line.
    fn check(&self) -> Result<(), Explained> {
        refuse_unless(names::is_name(&self.name), "name", &self.name, names::PATTERN)?;
        let mut columns = 0;
        for (key, text) in self.texts() {
            let template = Template::parse(text).map_err(|why| {
                Explained::new(format!("`{key}` is {text:?}: {why}"))
                    .at(key)
                    .expected("text with columns in braces, as \"{title}\"")
                    .hint("a brace that is no column is doubled: `{{` or `}}`")
            })?;
            columns += template.columns().count();
        }
        if columns == 0 {
            return Err(Explained::new("no text names a column, so all rows would be alike")
                .at("first")
                .expected("text with columns in braces, as \"{title}\"")
                .hint(SEE_EXAMPLE));
        }
        self.check_labels()?;
        let Files { train, val, test } = &self.files;
        for file in [train, val, test].into_iter().flatten() {
            let path = Path::new(file);
            let ending = path.extension().and_then(|ending| ending.to_str());
            let mut parts = path.components();
            let is_alone =
                matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
            let is_plain = file.len() <= 255 && !file.contains(['\\', '/', '\0', '\n', '\r']);
            let is_file = is_alone && is_plain && matches!(ending, Some("jsonl" | "csv"));
            refuse_unless(
                is_file,
                "files",
                file,
                "the name of a .jsonl or .csv file in data.root",
            )?;
        }
        Ok(())
    }

    fn check_labels(&self) -> Result<(), Explained> {
        let count = self.labels.len();
        let refused = |what: String, expected: &str| {
            Err(Explained::new(what).at("labels").expected(expected).hint(SEE_EXAMPLE))
        };
        for (at, label) in self.labels.iter().enumerate() {
            if !(label.is_string() || label.is_boolean() || label.is_i64() || label.is_u64()) {
                return refused(
                    format!("`labels` holds {label}"),
                    "texts, whole numbers, or true and false",
                );
            }
            if self.labels[..at].iter().any(|other| name_of(other) == name_of(label)) {
                return refused(format!("`labels` holds {label} twice"), "each label once");
            }
        }
        if count < 2 {
            return refused(format!("`labels` has {count} of them"), "at least two");
        }
        if let Some(choices) = &self.choices {
            if self.second.is_some() {
                return Err(Explained::new("both `second` and `choices` are given")
                    .at("choices")
                    .expected("one of the two")
                    .hint("`choices` are the second segments of a multiple-choice task"));
            }
            if choices.len() != count {
                let what = format!("there are {} choices and {count} labels", choices.len());
                return refused(what, "one label a choice");
            }
        }
        if self.metric == Metric::F1 && count != 2 {
            return Err(Explained::new(format!("`metric` is f1, and there are {count} labels"))
                .at("metric")
                .expected("two labels, of which the second is counted")
                .hint("take macro_f1 for more"));
        }
        Ok(())
    }
}

/// A label as it is compared: CSV knows only text.
pub fn name_of(label: &Value) -> String {
    label.as_str().map_or_else(|| label.to_string(), str::to_owned)
}

fn refuse_unless(is_fine: bool, key: &str, value: &str, expected: &str) -> Result<(), Explained> {
    if is_fine {
        return Ok(());
    }
    Err(Explained::new(format!("`{key}` is {value:?}"))
        .at(key)
        .expected(expected)
        .hint(SEE_EXAMPLE))
}

/// What the parser says, in the words of the checks.
fn unreadable(message: &str) -> Explained {
    let name = |beginning: &str| {
        message.strip_prefix(beginning).and_then(|rest| rest.split_once('`')).map(|(name, _)| name)
    };
    if let Some(key) = name("unknown field `") {
        let distance = |known: &&&str| strsim::damerau_levenshtein(key, known);
        let near = KEYS.iter().min_by_key(distance);
        let near = near.filter(|known| distance(known) <= 1 + key.len() / 4);
        return Explained::new(format!("unknown key `{key}`"))
            .expected(message.split_once("expected ").map_or("a known key", |(_, known)| known))
            .hint(near.map_or(SEE_EXAMPLE.into(), |known| format!("did you mean `{known}`?")));
    }
    if let Some(key) = name("missing field `") {
        return Explained::new(format!("`{key}` is missing"))
            .expected("`name`, `first` and `labels`, at least")
            .hint(SEE_EXAMPLE);
    }
    Explained::new(format!("the task cannot be read: {message}"))
        .expected("keys of a task, in TOML")
        .hint(SEE_EXAMPLE)
}

fn place(error: Explained, file: &Path, line: Option<usize>) -> Explained {
    let file = file.display();
    error.at(line.map_or_else(|| file.to_string(), |line| format!("{file}, line {line}")))
}

fn line_of(text: &str, key: &str) -> Option<usize> {
    let table = toml::de::DeTable::parse(text).ok()?;
    let (found, _) = table.get_ref().iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
    Some(line(text, found.span().start))
}

fn line(text: &str, at: usize) -> usize {
    1 + text.get(..at).unwrap_or(text).matches('\n').count()
}
