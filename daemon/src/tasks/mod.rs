//! The tasks, one file each: how a row becomes text and a label, and which metrics are reported.
//!
//! A new task is a file beside [`rte`] and a line in [`TASKS`].

mod boolq;
mod cb;
mod copa;
pub mod metrics;
pub mod rows;
mod rte;

use ptv2_common::error::Explained;
use serde_json::Value;
use std::collections::BTreeMap;

/// Grows whenever any task's text assembly changes: a part of the features' hash.
pub const TEMPLATE_VERSION: u32 = 1;

static TASKS: [&dyn Task; 4] = [&boolq::BoolQ, &cb::Cb, &copa::Copa, &rte::Rte];

/// Text of a sequence: the first part, and the second where there is one.
pub type Pair = (String, Option<String>);

/// A row, assembled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// One pair, or one a choice.
    pub pairs: Vec<Pair>,
    /// The label's index, where the row has a label.
    pub label: Option<i32>,
    /// The number that the data gives the row.
    pub idx: u32,
}

/// What a task is.
pub trait Task: Sync {
    /// The name that a job gives, for example `superglue/rte`.
    fn name(&self) -> &'static str;

    /// The folder below the data's root.
    fn folder(&self) -> &'static str;

    /// Names of the labels, in index order.
    fn labels(&self) -> &'static [&'static str];

    /// Sequences that a row offers to choose from: 1 for classification.
    fn choices(&self) -> u32 {
        1
    }

    /// Text templates that the task has; `data.template_id` is below it.
    fn templates(&self) -> u32 {
        1
    }

    /// The metric that decides which state is best.
    fn best_metric(&self) -> &'static str {
        metrics::ACCURACY
    }

    /// A row's text: one pair, or one a choice.
    ///
    /// # Errors
    /// Names the field and what was expected.
    fn pairs(&self, row: &Value) -> Result<Vec<Pair>, Explained>;

    /// The index of a label as the data writes it, or nothing where it is no label of the task.
    fn label_index(&self, label: &Value) -> Option<i32>;

    /// All metrics of predicted against true indices.
    fn metrics(&self, predictions: &[i32], labels: &[i32]) -> BTreeMap<String, f64> {
        BTreeMap::from([(metrics::ACCURACY.into(), metrics::accuracy(predictions, labels))])
    }

    /// The part of the name after the family: `rte`.
    fn short_name(&self) -> &'static str {
        self.name().rsplit_once('/').map_or(self.name(), |(_, short)| short)
    }

    /// Numbers that the head gives for a sequence: one a label, or one score a choice.
    fn head_outputs(&self) -> u32 {
        if self.choices() > 1 { 1 } else { u32::try_from(self.labels().len()).unwrap_or(u32::MAX) }
    }

    /// Assembles a row. A row without a label is fine here; [`rows`] refuses it where it is needed.
    ///
    /// # Errors
    /// Names the field and what was expected.
    fn example(&self, row: &Value) -> Result<Example, Explained> {
        if !row.is_object() {
            return Err(Explained::new(format!("the row is {}", kind(row)))
                .expected("a JSON object with the task's fields"));
        }
        let label = match row.get("label") {
            None => None,
            Some(label) => Some(self.label_index(label).ok_or_else(|| {
                Explained::new(format!("`label` is {}", shown(label))).expected(format!(
                    "a label of {}: {}",
                    self.name(),
                    self.labels().join(", ")
                ))
            })?),
        };
        Ok(Example { pairs: self.pairs(row)?, label, idx: number(row, "idx")? })
    }
}

/// The task of a name.
///
/// # Errors
/// Lists the tasks that there are.
pub fn by_name(name: &str) -> Result<&'static dyn Task, Explained> {
    TASKS.into_iter().find(|task| task.name() == name).ok_or_else(|| {
        let known: Vec<&str> = TASKS.iter().map(|task| task.name()).collect();
        Explained::new(format!("`task` is {name:?}, which this build does not know"))
            .at("task")
            .expected(format!("one of {}", known.join(", ")))
            .hint("names are lower-case and begin with their family, as `superglue/rte`")
    })
}

/// A field that holds text.
fn text<'a>(row: &'a Value, field: &str) -> Result<&'a str, Explained> {
    let value = row.get(field).ok_or_else(|| missing(field, "a string"))?;
    value.as_str().ok_or_else(|| mistyped(field, value, "a string"))
}

fn number(row: &Value, field: &str) -> Result<u32, Explained> {
    let expected = "an integer from 0 to 4294967295";
    let value = row.get(field).ok_or_else(|| missing(field, expected))?;
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| mistyped(field, value, expected))
}

/// The index of a label that the data writes as its name.
fn named_label(label: &Value, names: &[&str]) -> Option<i32> {
    let label = label.as_str()?;
    names.iter().position(|name| *name == label).and_then(|index| i32::try_from(index).ok())
}

fn missing(field: &str, expected: &str) -> Explained {
    Explained::new(format!("`{field}` is missing")).expected(expected)
}

fn mistyped(field: &str, value: &Value, expected: &str) -> Explained {
    Explained::new(format!("`{field}` is {}", shown(value))).expected(expected)
}

/// A short value as it is written, of a long one only its kind.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 60 { text } else { kind(value).into() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(task: &str, row: Value, pairs: &[(&str, &str)], label: Option<i32>) {
        let example = by_name(task).unwrap().example(&row).unwrap();
        let found: Vec<(&str, &str)> =
            example.pairs.iter().map(|(a, b)| (a.as_str(), b.as_deref().unwrap())).collect();
        assert_eq!((found.as_slice(), example.label, example.idx), (pairs, label, 7), "{task}");
    }

    #[test]
    fn rows_become_text() {
        let row =
            json!({"premise": " A. ", "hypothesis": "B", "label": "not_entailment", "idx": 7});
        check("superglue/rte", row, &[(" A. ", "B")], Some(1));
        let row = json!({"premise": "A", "hypothesis": "B", "label": "neutral", "idx": 7});
        check("superglue/cb", row, &[("A", "B")], Some(2));
        let row = json!({"question": "is it", "passage": "It - is.", "label": true, "idx": 7});
        check("superglue/boolq", row, &[("is it", "It - is.")], Some(1));
        let row = json!({"question": "is it", "passage": "It", "idx": 7});
        check("superglue/boolq", row, &[("is it", "It")], None);
        let mut row = json!({"premise": "It fell.", "choice1": "x", "choice2": "y", "question": "cause",
            "label": 1, "idx": 7});
        let pairs = [("It fell. because", "x"), ("It fell. because", "y")];
        check("superglue/copa", row.clone(), &pairs, Some(1));
        row["question"] = "effect".into();
        check("superglue/copa", row, &[("It fell. so", "x"), ("It fell. so", "y")], Some(1));
    }

    fn check_refused(task: &str, row: Value, what: &str, expected: &str) {
        let error = by_name(task).unwrap().example(&row).unwrap_err();
        assert_eq!((error.what.as_str(), error.expected.as_deref()), (what, Some(expected)));
    }

    #[test]
    fn a_refused_row_names_its_field() {
        let rte = "superglue/rte";
        check_refused(rte, json!({"premise": "A"}), "`hypothesis` is missing", "a string");
        check_refused(rte, json!({"premise": 3}), "`premise` is 3", "a string");
        check_refused(
            rte,
            json!([1]),
            "the row is an array",
            "a JSON object with the task's fields",
        );
        let labels = "a label of superglue/rte: entailment, not_entailment";
        check_refused(rte, json!({"label": "neutral"}), "`label` is \"neutral\"", labels);
        let labels = "a label of superglue/boolq: false, true";
        check_refused("superglue/boolq", json!({"label": "true"}), "`label` is \"true\"", labels);
        let labels = "a label of superglue/copa: choice1, choice2";
        check_refused("superglue/copa", json!({"label": 2}), "`label` is 2", labels);
        let row = json!({"premise": "A", "hypothesis": "B", "idx": -1});
        check_refused(rte, row, "`idx` is -1", "an integer from 0 to 4294967295");
        let row = json!({"premise": "A", "choice1": "x", "choice2": "y", "question": "why"});
        let asked = "\"cause\" or \"effect\"";
        check_refused("superglue/copa", row, "`question` is \"why\"", asked);
    }

    #[test]
    fn tasks_are_found_by_name() {
        // What a job file may name is what can be trained.
        let known: Vec<&str> = ptv2_common::spec::known_tasks().collect();
        assert_eq!(TASKS.map(|task| task.name()), known[..]);
        for task in TASKS {
            assert_eq!(by_name(task.name()).unwrap().folder(), task.folder());
        }
        let error = by_name("superglue/wsc").err().unwrap();
        assert_eq!(
            error.expected.unwrap(),
            "one of superglue/boolq, superglue/cb, superglue/copa, superglue/rte"
        );
        let copa = by_name("superglue/copa").unwrap();
        assert_eq!((copa.choices(), copa.head_outputs(), copa.short_name()), (2, 1, "copa"));
        assert_eq!(by_name("superglue/cb").unwrap().head_outputs(), 3);
    }
}
