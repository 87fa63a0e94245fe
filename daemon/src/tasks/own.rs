//! A task of the user's own, as its file declares it.

use super::fields::{kind, shown, whole};
use super::room::Room;
use super::{Example, Pair, Scored, Task, labels, metrics, nearest, predictions, refused_label};
use ptv2_common::error::Explained;
use ptv2_common::task::{Metric, OwnTask, Template, name_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Columns that a refusal names at most.
const NAMED: usize = 50;

/// A declared task.
pub(super) struct Own {
    declared: OwnTask,
    labels: Vec<String>,
    first: Template,
    /// Second segments: one a choice, or at most one.
    seconds: Vec<(&'static str, Template)>,
}

impl Own {
    /// # Errors
    /// When a text's braces do not pair, which the file's check refused before.
    pub(super) fn new(declared: &OwnTask) -> Result<Self, Explained> {
        let parse = |(key, text): (&'static str, &str)| {
            let template = Template::parse(text);
            template.map(|one| (key, one)).map_err(|why| Explained::new(format!("`{key}`: {why}")))
        };
        let mut texts = declared.texts().map(parse).collect::<Result<Vec<_>, _>>()?;
        let (_, first) = texts.remove(0);
        let labels = declared.label_names();
        Ok(Self { declared: declared.clone(), labels, first, seconds: texts })
    }

    /// The row's label, where it has one. An empty cell of a table is none.
    fn label(&self, row: &Value) -> Result<Option<i32>, Explained> {
        let column = &self.declared.label;
        let Some(label) = row.get(column).filter(|label| !label.is_null()) else { return Ok(None) };
        match self.label_index(label) {
            Some(index) => Ok(Some(index)),
            None if label == "" => Ok(None),
            None => Err(refused_label(self, column, label)),
        }
    }
}

impl Task for Own {
    fn name(&self) -> &str {
        &self.declared.name
    }

    fn folder(&self) -> &str {
        ""
    }

    fn file(&self, split: &str) -> String {
        self.declared.file(split)
    }

    fn labels(&self) -> Vec<&str> {
        self.labels.iter().map(String::as_str).collect()
    }

    fn label_column(&self) -> &str {
        &self.declared.label
    }

    fn choices(&self) -> u32 {
        let choices = self.declared.choices.as_ref().map_or(1, Vec::len);
        u32::try_from(choices).unwrap_or(u32::MAX)
    }

    fn best_metric(&self) -> &str {
        match self.declared.metric {
            Metric::Accuracy => metrics::ACCURACY,
            Metric::F1 => "f1",
            Metric::MacroF1 => "macro_f1",
            Metric::Matthews => metrics::MATTHEWS,
        }
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        let label = name_of(label);
        let index = self.labels.iter().position(|name| *name == label)?;
        i32::try_from(index).ok()
    }

    fn spelled(&self, label: i32) -> Value {
        usize::try_from(label).ok().and_then(|at| self.declared.labels.get(at)).cloned().into()
    }

    fn numbers_rows(&self) -> bool {
        self.declared.idx.is_some()
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        if !row.is_object() {
            return Err(Explained::new(format!("the row is {}", kind(row)))
                .expected("a JSON object with the columns that the task file names"));
        }
        let room = Room::of_a_row();
        let cell = |key: &str, column: &str| -> Result<String, Explained> {
            let text = cell(row, key, column)?;
            room.take(text.len())?;
            Ok(text)
        };
        let first = self.first.fill(|column| cell("first", column))?;
        let second = |(key, template): &(&'static str, Template)| -> Result<Pair, Explained> {
            room.example(&[first.len()])?;
            let second = template.fill(|column| cell(key, column))?;
            Ok((first.clone(), Some(second)))
        };
        let pairs = match self.seconds.as_slice() {
            [] => vec![(first, None)],
            seconds => seconds.iter().map(second).collect::<Result<_, _>>()?,
        };
        let (idx, about) = match &self.declared.idx {
            None => (0, Value::Null),
            Some(column) => {
                let found = row.get(column).ok_or_else(|| lacks(row, "idx", column))?;
                match whole(found) {
                    Some(idx) if found.is_number() => (idx, Value::Null),
                    // Any other name of a row goes into its answer as it is.
                    Some(_) | None => (0, found.clone()),
                }
            }
        };
        Ok(vec![Example { pairs, label: self.label(row)?, idx, about }])
    }

    fn metrics(&self, rows: &[Scored]) -> BTreeMap<String, f64> {
        let (predictions, labels) = (predictions(rows), labels(rows));
        let accuracy = metrics::accuracy(&predictions, &labels);
        let value = match self.declared.metric {
            Metric::Accuracy => accuracy,
            Metric::F1 => metrics::f1(&predictions, &labels, 1),
            Metric::MacroF1 => metrics::macro_f1(&predictions, &labels),
            Metric::Matthews => metrics::matthews(&predictions, &labels),
        };
        BTreeMap::from([
            (metrics::ACCURACY.into(), accuracy),
            (self.best_metric().to_owned(), value),
        ])
    }

    fn answers(&self, rows: &[Scored]) -> Vec<Value> {
        let line = |row: &Scored| {
            let idx = if row.about.is_null() { row.idx.into() } else { row.about.clone() };
            json!({"idx": idx, "label": self.spelled(row.prediction())})
        };
        rows.iter().map(line).collect()
    }

    fn answer_file(&self) -> String {
        format!("{}.jsonl", self.declared.name)
    }
}

/// A column's text for a key of the task file.
fn cell(row: &Value, key: &str, column: &str) -> Result<String, Explained> {
    match row.get(column) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(value @ (Value::Null | Value::Array(_) | Value::Object(_))) => {
            Err(Explained::new(format!("the column `{column}` is {}", shown(value)))
                .expected("a text, a number, true or false"))
        }
        None => Err(lacks(row, key, column)),
    }
}

/// A refusal of a row that has no such column.
fn lacks(row: &Value, key: &str, column: &str) -> Explained {
    let names = || row.as_object().into_iter().flat_map(|row| row.keys().map(String::as_str));
    let columns: Vec<String> = names().take(NAMED).map(|name| format!("`{name}`")).collect();
    let refused =
        Explained::new(format!("`{key}` names the column `{column}`, which the row lacks"))
            .expected(format!("one of the row's columns: {}", columns.join(", ")));
    match nearest(column, names()) {
        Some(name) => refused.hint(format!("did you mean `{name}`? Mend it in the task file")),
        None => refused.hint("mend the row, or the task file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::tests::scored;
    use std::path::Path;

    fn own(keys: &str) -> Own {
        let text = format!("name = \"own\"\nlabel = \"stars\"\n{keys}");
        Own::new(&OwnTask::from_toml(&text, Path::new("own.toml")).unwrap()).unwrap()
    }

    fn reviews() -> Own {
        own(
            "first = \"{title}\"\nsecond = \"{{{body}}}\"\nlabels = [1, \"two\", true]\nidx = \"id\"",
        )
    }

    #[test]
    fn columns_become_text() {
        let row = json!({"title": "Good", "body": 3.5, "stars": "two", "id": 7});
        let examples = reviews().examples(&row).unwrap();
        let expected = Example {
            pairs: vec![("Good".into(), Some("{3.5}".into()))],
            label: Some(1),
            idx: 7,
            about: Value::Null,
        };
        assert_eq!(examples, [expected]);
        let one = own("first = \"{a}-{b}\"\nlabels = [0, 1]");
        let row = json!({"a": "x", "b": true, "stars": "1"});
        let example = one.examples(&row).unwrap().remove(0);
        assert_eq!((example.pairs, example.label), (vec![("x-true".into(), None)], Some(1)));
    }

    #[test]
    fn choices_share_their_first_segment() {
        let task = own("first = \"{q}\"\nchoices = [\"{a}\", \"no {b}\"]\nlabels = [\"A\", \"B\"]");
        assert_eq!((task.choices(), task.head_outputs(), task.folder()), (2, 1, ""));
        let row = json!({"q": "Q", "a": "x", "b": "y", "stars": "B"});
        let example = task.examples(&row).unwrap().remove(0);
        let pair = |second: &str| ("Q".to_owned(), Some(second.to_owned()));
        assert_eq!((example.pairs, example.label), (vec![pair("x"), pair("no y")], Some(1)));
    }

    fn check(change: impl Fn(&mut Value), what: &str, expected: &str, hint: &str) {
        let mut row = json!({"title": "Good", "body": "Yes.", "stars": 1, "id": 7});
        change(&mut row);
        let error = reviews().examples(&row).unwrap_err();
        assert_eq!((error.what.as_str(), error.expected.as_deref()), (what, Some(expected)));
        assert_eq!(error.hint.unwrap_or_default(), hint);
    }

    #[test]
    fn a_refused_row_names_its_column() {
        let remove = |name: &'static str, put: &'static str| {
            move |row: &mut Value| {
                row.as_object_mut().unwrap().remove(name);
                row[put] = "x".into();
            }
        };
        check(
            remove("body", "bdy"),
            "`second` names the column `body`, which the row lacks",
            "one of the row's columns: `bdy`, `id`, `stars`, `title`",
            "did you mean `bdy`? Mend it in the task file",
        );
        check(
            remove("id", "number"),
            "`idx` names the column `id`, which the row lacks",
            "one of the row's columns: `body`, `number`, `stars`, `title`",
            "mend the row, or the task file",
        );
        check(
            |row| row["title"] = json!(["x"]),
            "the column `title` is [\"x\"]",
            "a text, a number, true or false",
            "",
        );
        let labels = "a label of own: 1, two, true";
        check(
            |row| row["stars"] = "twoo".into(),
            "`stars` is \"twoo\"",
            labels,
            "did you mean `two`?",
        );
    }

    #[test]
    fn a_row_without_a_label_has_none() {
        for label in [Value::Null, "".into()] {
            let row = json!({"title": "Good", "body": "Yes.", "stars": label, "id": 7});
            assert_eq!(reviews().examples(&row).unwrap()[0].label, None);
        }
    }

    #[test]
    fn answers_have_the_data_s_labels_and_numbers() {
        let task = reviews();
        let rows = [
            Scored { idx: 4, ..scored(0, -1) },
            Scored { about: "r5".into(), ..scored(1, -1) },
            scored(2, -1),
        ];
        let expected = [
            json!({"idx": 4, "label": 1}),
            json!({"idx": "r5", "label": "two"}),
            json!({"idx": 0, "label": true}),
        ];
        assert_eq!(task.answers(&rows), expected);
        assert_eq!(task.answer_file(), "own.jsonl");
        let row = json!({"title": "Good", "body": "Yes.", "stars": 1, "id": "r5"});
        assert_eq!(task.examples(&row).unwrap()[0].about, "r5");
    }

    #[test]
    fn the_declared_metric_decides() {
        let rows: Vec<Scored> = [(1, 1), (1, 0), (0, 0), (0, 1)].map(|(p, l)| scored(p, l)).into();
        let value = |metric: &str| {
            let keys = format!("first = \"{{a}}\"\nlabels = [0, 1]\nmetric = \"{metric}\"");
            let task = own(&keys);
            task.metrics(&rows)[task.best_metric()]
        };
        assert_eq!(["accuracy", "f1", "macro_f1", "matthews"].map(value), [0.5, 0.5, 0.5, 0.0]);
    }
}
