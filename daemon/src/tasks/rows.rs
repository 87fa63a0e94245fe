//! Reads a split's JSONL file, row by row; each refusal names the file and the line.

use super::{Example, Task};
use ptv2_common::error::Explained;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Bytes of a split's file at most: it is held in memory while its rows are read.
pub const BYTES_MAX: u64 = 1 << 30;

/// The splits that a job reads, which are pinned by hash at its submit.
pub const PINNED: [&str; 2] = ["train", "val"];

/// Whether each row must have a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// For training and validation.
    Needed,
    /// For a split without public labels.
    Optional,
}

/// The file of a split: `<root>/<folder>/<split>.jsonl`.
pub fn file(root: &Path, task: &dyn Task, split: &str) -> PathBuf {
    root.join(task.folder()).join(format!("{split}.jsonl"))
}

/// Reads a file whole, refusing one that is too large.
///
/// # Errors
/// Names the file, and what its folder should look like.
pub fn load(path: &Path) -> Result<Vec<u8>, Explained> {
    let refused = |why: String| {
        Explained::new(format!("the rows cannot be read: {why}"))
            .at(path.display().to_string())
            .hint("`data.root` is the folder that holds the task's folder, as RTE/train.jsonl")
    };
    let meta = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if !meta.is_file() {
        return Err(refused("it is no regular file".into()));
    }
    if meta.len() > BYTES_MAX {
        return Err(refused(format!("it has {} bytes", meta.len()))
            .expected(format!("at most {BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|error| refused(error.to_string()))
}

/// Assembles the first `max_rows` rows of a file's bytes (all, if not given).
///
/// # Errors
/// Names file and line of the first row that is refused. No rows at all are refused, too.
pub fn parse(
    bytes: &[u8],
    path: &Path,
    task: &dyn Task,
    labels: Labels,
    max_rows: Option<u32>,
) -> Result<Vec<Example>, Explained> {
    let limit = max_rows.map_or(usize::MAX, |rows| rows as usize);
    let mut examples = Vec::new();
    let mut blank = None;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if examples.len() == limit {
            break;
        }
        let place = || format!("{}:{}", path.display(), index + 1);
        if line.trim_ascii().is_empty() {
            blank.get_or_insert_with(place);
        } else if let Some(blank) = blank {
            return Err(Explained::new("the line is blank, and rows follow it")
                .at(blank)
                .expected("one JSON object a line")
                .hint("remove the line, or end the file before it"));
        } else {
            let example = row(line, task, labels).map_err(|error| {
                let error = error.at(place());
                if error.hint.is_some() { error } else { error.hint("mend the line, or remove it") }
            })?;
            examples.push(example);
        }
    }
    if examples.is_empty() {
        return Err(Explained::new("the split holds no rows")
            .at(path.display().to_string())
            .expected("one JSON object a line, at least one")
            .hint("look whether the file was copied as a whole"));
    }
    Ok(examples)
}

fn row(line: &[u8], task: &dyn Task, labels: Labels) -> Result<Example, Explained> {
    let text = str::from_utf8(line).map_err(|error| {
        Explained::new(format!("byte {} of the line is no UTF-8", error.valid_up_to() + 1))
            .expected("UTF-8")
    })?;
    let row: Value = serde_json::from_str(text).map_err(|error| {
        Explained::new(format!(
            "column {} of the line is no valid JSON: {}",
            error.column(),
            cause(&error)
        ))
        .expected("one JSON object a line")
    })?;
    let example = task.example(&row)?;
    if labels == Labels::Needed && example.label.is_none() {
        return Err(Explained::new("`label` is missing")
            .expected(format!("a label of {}: {}", task.name(), task.labels().join(", ")))
            .hint("rows for training and validation need labels"));
    }
    Ok(example)
}

/// The parser's message without its own line, which always is 1 here.
fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split_once(" at line ").map_or(text.clone(), |(cause, _)| cause.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;

    const GOOD: &str = r#"{"premise": "A", "hypothesis": "B", "label": "entailment", "idx": 0}"#;

    fn read(text: &[u8], labels: Labels, max: Option<u32>) -> Result<usize, Explained> {
        let task = tasks::by_name("superglue/rte").unwrap();
        parse(text, Path::new("/d/RTE/train.jsonl"), task, labels, max).map(|rows| rows.len())
    }

    #[test]
    fn rows_are_read_up_to_the_limit() {
        let two = format!("{GOOD}\r\n{GOOD}\n\n");
        assert_eq!(read(two.as_bytes(), Labels::Needed, None).unwrap(), 2);
        assert_eq!(read(two.as_bytes(), Labels::Needed, Some(1)).unwrap(), 1);
        let bad_second = format!("{GOOD}\nnonsense");
        assert_eq!(read(bad_second.as_bytes(), Labels::Needed, Some(1)).unwrap(), 1);
        let unlabelled = GOOD.replace(r#""label": "entailment", "#, "");
        assert_eq!(read(unlabelled.as_bytes(), Labels::Optional, None).unwrap(), 1);
    }

    fn check_refused(text: impl AsRef<[u8]>, what: &str, place: &str) {
        let error = read(text.as_ref(), Labels::Needed, None).unwrap_err();
        assert!(error.what.contains(what), "{error:?}");
        assert_eq!(error.place.as_deref(), Some(place));
    }

    #[test]
    fn a_refused_row_names_file_and_line() {
        let (file, second) = ("/d/RTE/train.jsonl", "/d/RTE/train.jsonl:2");
        check_refused("", "holds no rows", file);
        check_refused("\n\n", "holds no rows", file);
        check_refused(
            format!("{GOOD}\n{{\"premise\": }}"),
            "column 13 of the line is no valid",
            second,
        );
        check_refused(format!("{GOOD}\n{GOOD}{GOOD}"), "is no valid JSON", second);
        check_refused(format!("{GOOD}\n[]"), "the row is an array", second);
        check_refused(format!("{GOOD}\n\n{GOOD}"), "the line is blank", second);
        check_refused(
            [GOOD.as_bytes(), b"\n{\"a\xff"].concat(),
            "byte 4 of the line is no UTF-8",
            second,
        );
        let unlabelled = GOOD.replace(r#""label": "entailment", "#, "");
        check_refused(format!("{GOOD}\n{unlabelled}"), "`label` is missing", second);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = load(Path::new("/nowhere/RTE/train.jsonl")).unwrap_err();
        assert_eq!(error.place.as_deref(), Some("/nowhere/RTE/train.jsonl"));
        assert!(error.hint.is_some() && load(Path::new("/")).is_err());
    }
}
