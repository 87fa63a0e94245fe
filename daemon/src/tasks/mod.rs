//! The tasks, one file each: how a row becomes text and a label, which metrics are reported, and how
//! predictions are written for the leaderboard.
//!
//! A new task is a file beside [`rte`] and a line in [`built_in`].

mod boolq;
mod cb;
mod copa;
mod fields;
pub mod metrics;
mod multirc;
mod own;
mod record;
mod room;
pub mod rows;
mod rte;
mod table;
#[cfg(test)]
mod tests;
mod wic;
mod wsc;

use crate::features::Rows;
use fields::{Fields, shown};
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::task::OwnTask;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Grows whenever any task's text assembly changes: a part of the features' hash.
pub const TEMPLATE_VERSION: u32 = 1;

/// Text of a sequence: the first part, and the second where there is one.
pub type Pair = (String, Option<String>);

/// One thing to be classified: most rows are one, rows of MultiRC and ReCoRD several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// One pair, or one a choice.
    pub pairs: Vec<Pair>,
    /// The label's index, where the row has a label.
    pub label: Option<i32>,
    /// The number that the data gives the example.
    pub idx: u32,
    /// What a prediction is for, as far as its number does not say it; else null. The task's own
    /// metrics and answers read it.
    pub about: Value,
}

impl Example {
    /// Bytes of its texts.
    pub fn text_len(&self) -> usize {
        let of_pair = |(one, other): &Pair| one.len() + other.as_ref().map_or(0, String::len);
        self.pairs.iter().map(of_pair).sum()
    }
}

/// An example that was scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Scores of the labels, or of the choices, before any softmax.
    pub scores: Vec<f32>,
    /// The true label's index, -1 where it is not known.
    pub label: i32,
    /// [`Example::idx`].
    pub idx: u32,
    /// [`Example::about`].
    pub about: Value,
}

impl Scored {
    /// Index of the largest score; of equal ones the first.
    pub fn prediction(&self) -> i32 {
        let mut best = 0;
        for (index, score) in self.scores.iter().enumerate() {
            if *score > self.scores[best] {
                best = index;
            }
        }
        i32::try_from(best).unwrap_or(i32::MAX)
    }
}

/// A split's rows with their scores, in order.
///
/// # Errors
/// When what a row is about cannot be read.
pub fn scored<'a>(
    rows: &Rows,
    scores: impl IntoIterator<Item = &'a Vec<f32>>,
) -> Result<Vec<Scored>, Explained> {
    let one = |(row, scores): (usize, &Vec<f32>)| {
        let (label, idx) = (rows.labels()[row], rows.idx()[row]);
        Ok(Scored { scores: scores.clone(), label, idx, about: rows.about(row)? })
    };
    (0..rows.len()).zip(scores).map(one).collect()
}

/// Predicted indices.
pub fn predictions(rows: &[Scored]) -> Vec<i32> {
    rows.iter().map(Scored::prediction).collect()
}

/// True indices.
pub fn labels(rows: &[Scored]) -> Vec<i32> {
    rows.iter().map(|row| row.label).collect()
}

/// What a task is.
pub trait Task: Send + Sync {
    /// The name that a job gives, for example `superglue/rte`.
    fn name(&self) -> &str;

    /// The folder below the data's root; empty for the root itself.
    fn folder(&self) -> &str;

    /// The file of a split in that folder.
    fn file(&self, split: &str) -> String {
        format!("{split}.jsonl")
    }

    /// The task whose prefix is evaluated on this one, which has no training rows of its own.
    fn trained_as(&self) -> Option<&str> {
        None
    }

    /// Names of the labels, in index order.
    fn labels(&self) -> Vec<&str>;

    /// The field of a row that holds its label.
    fn label_column(&self) -> &str {
        "label"
    }

    /// Whether the data numbers its examples; else they are counted from 0.
    fn numbers_rows(&self) -> bool {
        true
    }

    /// Whether the best of several examples answers a question, so that a prediction of one class alone
    /// for all of them is no sign of failure.
    fn is_ranked(&self) -> bool {
        false
    }

    /// Sequences that an example offers to choose from: 1 for classification.
    fn choices(&self) -> u32 {
        1
    }

    /// Text templates that the task has; `data.template_id` is below it.
    fn templates(&self) -> u32 {
        1
    }

    /// The metric that decides which state is best.
    fn best_metric(&self) -> &str {
        metrics::ACCURACY
    }

    /// The index of a label as the data writes it, or nothing where it is no label of the task.
    fn label_index(&self, label: &Value) -> Option<i32> {
        let label = label.as_str()?;
        let index = self.labels().iter().position(|name| *name == label)?;
        i32::try_from(index).ok()
    }

    /// A label as the leaderboard wants it.
    fn spelled(&self, label: i32) -> Value {
        usize::try_from(label).ok().and_then(|at| self.labels().get(at).copied()).into()
    }

    /// A row's examples, at least one. Rows without labels are fine here; [`rows`] refuses them where
    /// labels are needed.
    ///
    /// # Errors
    /// Names the field and what was expected.
    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained>;

    /// All metrics of a split's examples, in the split's order, of which each has a label.
    fn metrics(&self, rows: &[Scored]) -> BTreeMap<String, f64> {
        let accuracy = metrics::accuracy(&predictions(rows), &labels(rows));
        BTreeMap::from([(metrics::ACCURACY.into(), accuracy)])
    }

    /// The lines of the leaderboard's file, from a split's examples in the split's order.
    fn answers(&self, rows: &[Scored]) -> Vec<Value> {
        let line = |row: &Scored| json!({"idx": row.idx, "label": self.spelled(row.prediction())});
        rows.iter().map(line).collect()
    }

    /// The name of that file.
    fn answer_file(&self) -> String {
        format!("{}.jsonl", self.folder())
    }

    /// The part of the name after the family: `rte`.
    fn short_name(&self) -> &str {
        self.name().rsplit_once('/').map_or(self.name(), |(_, short)| short)
    }

    /// Numbers that the head gives for a sequence: one a label, or one score a choice.
    fn head_outputs(&self) -> u32 {
        if self.choices() > 1 { 1 } else { u32::try_from(self.labels().len()).unwrap_or(u32::MAX) }
    }
}

/// The tasks that are known by name, set to a text template where they have several.
pub fn built_in(template: u32) -> Vec<Box<dyn Task>> {
    vec![
        Box::new(boolq::BoolQ),
        Box::new(cb::Cb),
        Box::new(copa::Copa),
        Box::new(multirc::MultiRc),
        Box::new(record::Record),
        Box::new(rte::Rte),
        Box::new(wic::Wic { template }),
        Box::new(wsc::Wsc { template }),
        Box::new(rte::AxB),
        Box::new(rte::AxG),
    ]
}

/// The task of a name, with a text template.
///
/// # Errors
/// Lists the tasks that there are, or says how many templates the task has.
pub fn named(name: &str, template: u32) -> Result<Box<dyn Task>, Explained> {
    let task =
        built_in(template).into_iter().find(|task| task.name() == name).ok_or_else(|| {
            let known: Vec<String> =
                built_in(0).iter().map(|task| task.name().to_owned()).collect();
            Explained::new(format!("`task` is {name:?}, which this build does not know"))
                .at("task")
                .expected(format!("one of {}", known.join(", ")))
                .hint(
                "names are lower-case and begin with their family, as `superglue/rte`; a task of your own \
                 is the path of a file that ends in .toml",
            )
        })?;
    check_template(&*task, template)?;
    Ok(task)
}

fn check_template(task: &dyn Task, template: u32) -> Result<(), Explained> {
    let (name, templates) = (task.name(), task.templates());
    if template < templates {
        return Ok(());
    }
    Err(Explained::new(format!("`data.template_id` is {template}, but {name} has no such"))
        .at("data.template_id")
        .expected(format!("below {templates}"))
        .hint("remove the key: 0 is the default"))
}

/// The task of an accepted job.
///
/// # Errors
/// As [`named`].
pub fn of(record: &JobRecord) -> Result<Box<dyn Task>, Explained> {
    match &record.own_task {
        Some(declared) => own(declared, record.spec.data.template_id),
        None => named(&record.spec.task, record.spec.data.template_id),
    }
}

/// A task as its file declares it.
///
/// # Errors
/// When its texts cannot be used, or a template is asked for.
pub fn own(declared: &OwnTask, template: u32) -> Result<Box<dyn Task>, Explained> {
    let task = own::Own::new(declared)?;
    check_template(&task, template)?;
    Ok(Box::new(task))
}

/// The one example of a row that is one.
fn flat(task: &dyn Task, row: &Fields<'_>, pairs: Vec<Pair>) -> Result<Vec<Example>, Explained> {
    let (label, idx) = (label(task, row)?, row.number("idx")?);
    Ok(vec![Example { pairs, label, idx, about: Value::Null }])
}

/// The label's index, where there is a label.
fn label(task: &dyn Task, row: &Fields<'_>) -> Result<Option<i32>, Explained> {
    let Some(label) = row.optional("label") else { return Ok(None) };
    let index = task.label_index(label);
    index.map(Some).ok_or_else(|| refused_label(task, &row.place("label"), label))
}

/// A refusal of a label, with those there are and the nearest.
fn refused_label(task: &dyn Task, place: &str, label: &Value) -> Explained {
    let refused =
        Explained::new(format!("`{place}` is {}", shown(label))).expected(labels_of(task));
    match meant(label, &task.labels()) {
        Some(hint) => refused.hint(hint),
        None => refused,
    }
}

/// What whoever wrote a wrong label may have meant.
fn meant(label: &Value, names: &[&str]) -> Option<String> {
    let text = label.as_str().map_or_else(|| label.to_string(), str::to_owned);
    if names.contains(&text.as_str()) {
        let how = if label.is_string() { "without quotes" } else { "in quotes" };
        return Some(format!("write it {how}"));
    }
    nearest(&text, names.iter().copied()).map(|name| format!("did you mean `{name}`?"))
}

/// The name that a misspelled one is near to.
fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance =
        |name: &str| strsim::damerau_levenshtein(&written.to_lowercase(), &name.to_lowercase());
    let name = names.min_by_key(|name| distance(name))?;
    (distance(name) <= 1 + written.chars().count() / 4).then_some(name)
}

fn labels_of(task: &dyn Task) -> String {
    format!("a label of {}: {}", task.name(), task.labels().join(", "))
}

/// The index of a label that is written as a boolean.
fn truth(label: &Value) -> Option<i32> {
    label.as_bool().map(i32::from)
}
