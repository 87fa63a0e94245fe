//! Reads a split's file, row by row; each refusal names the file and the line.

use super::{Example, Task, labels_of, table};
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::spec::DataSpec;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Bytes of a split's file at most: it is held in memory while its rows are read.
pub const BYTES_MAX: u64 = 1 << 30;

/// The split to train on.
pub const TRAIN: &str = "train";
/// The split to evaluate on while training.
pub const VAL: &str = "val";

const ONE_A_LINE: &str = "one JSON object a line";

/// Whether each row must have a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// For training and validation.
    Needed,
    /// For a split without public labels.
    Optional,
}

/// A split that a job reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub split: String,
    /// Whether its rows are scored; else they are trained on. One split of a job is scored.
    pub is_scored: bool,
    /// Whether each row must have a label.
    pub labels: Labels,
    /// Examples to keep: the first ones of the file.
    pub max_rows: Option<u32>,
}

/// The splits that a job reads, which are pinned by hash at its submit: to train, or the one that it
/// scores.
pub fn wanted(data: &DataSpec, scored: Option<(&str, Labels)>) -> Vec<Wanted> {
    if let Some((split, labels)) = scored {
        let max_rows = data.max_val_rows;
        return vec![Wanted { split: split.into(), is_scored: true, labels, max_rows }];
    }
    let needed = |split: &str, is_scored, max_rows| Wanted {
        split: split.into(),
        is_scored,
        labels: Labels::Needed,
        max_rows,
    };
    vec![needed(TRAIN, false, data.max_train_rows), needed(VAL, true, data.max_val_rows)]
}

/// The splits of an accepted job.
pub fn wanted_by(record: &JobRecord) -> Vec<Wanted> {
    let scored = record.score.as_ref().map(|score| {
        (score.split.as_str(), if score.labels { Labels::Needed } else { Labels::Optional })
    });
    wanted(&record.spec.data, scored)
}

/// The file of a split, for example `<root>/RTE/val.jsonl`.
pub fn file(root: &Path, task: &dyn Task, split: &str) -> PathBuf {
    let folder = if task.folder().is_empty() { root.into() } else { root.join(task.folder()) };
    folder.join(task.file(split))
}

/// Reads a file whole, refusing one that is too large.
///
/// # Errors
/// Names the file, and what its folder should look like.
pub fn load(path: &Path) -> Result<Vec<u8>, Explained> {
    let refused = |why: String| {
        Explained::new(format!("the rows cannot be read: {why}"))
            .at(path.display().to_string())
            .hint(
                "`data.root` is the folder that holds the task's folder, as RTE/train.jsonl; of a task \
                 of your own, its files themselves",
            )
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

/// Assembles the first `max_rows` examples of a file's bytes (all, if not given), and gives each to
/// `take`; gives their number. A line whose examples go beyond the limit is cut there.
///
/// # Errors
/// Names file and line of the first row that is refused. No rows at all are refused, too. Else those of
/// `take`.
pub fn each(
    bytes: &[u8],
    path: &Path,
    task: &dyn Task,
    wanted: &Wanted,
    mut take: impl FnMut(Example) -> Result<(), Explained>,
) -> Result<u64, Explained> {
    let limit = wanted.max_rows.map_or(u64::MAX, u64::from);
    let place = |line: u64| format!("{}:{line}", path.display());
    let mut count = 0;
    let mut take_row = |line: u64, row: &Value| -> Result<ControlFlow<()>, Explained> {
        let examples =
            assemble(row, task, wanted.labels).map_err(|error| at(error, place(line)))?;
        for mut example in examples {
            if count < limit {
                if !task.numbers_rows() {
                    example.idx = u32::try_from(count).unwrap_or(u32::MAX);
                }
                take(example)?;
                count += 1;
            }
        }
        Ok(if count < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    };
    let is_table = path.extension().is_some_and(|ending| ending == "csv");
    if is_table {
        table::each(bytes, place, &mut take_row)?;
    } else {
        lines(bytes, place, &mut take_row)?;
    }
    if count == 0 {
        let one = if is_table { "one record a line, under the columns' names" } else { ONE_A_LINE };
        return Err(Explained::new("the split holds no rows")
            .at(path.display().to_string())
            .expected(format!("{one}, at least one"))
            .hint("look whether the file was copied as a whole"));
    }
    Ok(count)
}

/// Gives each line's row to `take` with its line, until that breaks.
fn lines(
    bytes: &[u8],
    place: impl Fn(u64) -> String,
    mut take: impl FnMut(u64, &Value) -> Result<ControlFlow<()>, Explained>,
) -> Result<(), Explained> {
    let mut blank = None;
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            blank.get_or_insert(number);
        } else if let Some(blank) = blank {
            return Err(Explained::new("the line is blank, and rows follow it")
                .at(place(blank))
                .expected(ONE_A_LINE)
                .hint("remove the line, or end the file before it"));
        } else {
            let row = parse(line).map_err(|error| at(error, place(number)))?;
            if take(number, &row)?.is_break() {
                break;
            }
        }
    }
    Ok(())
}

fn at(error: Explained, place: String) -> Explained {
    let error = error.at(place);
    if error.hint.is_some() { error } else { error.hint("mend the line, or remove it") }
}

fn parse(line: &[u8]) -> Result<Value, Explained> {
    let text = str::from_utf8(line).map_err(|error| {
        Explained::new(format!("byte {} of the line is no UTF-8", error.valid_up_to() + 1))
            .expected("UTF-8")
    })?;
    serde_json::from_str(text).map_err(|error| {
        Explained::new(format!(
            "column {} of the line is no valid JSON: {}",
            error.column(),
            cause(&error)
        ))
        .expected(ONE_A_LINE)
    })
}

fn assemble(row: &Value, task: &dyn Task, labels: Labels) -> Result<Vec<Example>, Explained> {
    let examples = task.examples(row)?;
    if labels == Labels::Needed && examples.iter().any(|example| example.label.is_none()) {
        let what = format!("`{}` is missing", task.label_column());
        return Err(Explained::new(what).expected(labels_of(task)).hint(
            "rows for training and validation need labels; the leaderboard's test rows have none",
        ));
    }
    Ok(examples)
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
    use ptv2_common::task::OwnTask;

    const GOOD: &str = r#"{"premise": "A", "hypothesis": "B", "label": "entailment", "idx": 0}"#;

    fn read_as(
        name: &str,
        text: &[u8],
        labels: Labels,
        max_rows: Option<u32>,
    ) -> Result<u64, Explained> {
        let task = tasks::named(name, 0).unwrap();
        let wanted = Wanted { split: TRAIN.into(), is_scored: false, labels, max_rows };
        let mut seen = 0;
        let count = each(text, Path::new("/d/RTE/train.jsonl"), &*task, &wanted, |_| {
            seen += 1;
            Ok(())
        })?;
        assert_eq!(seen, count);
        Ok(count)
    }

    fn read(text: &[u8], labels: Labels, max: Option<u32>) -> Result<u64, Explained> {
        read_as("superglue/rte", text, labels, max)
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

    #[test]
    fn the_limit_counts_examples_and_cuts_a_line() {
        let answer = |idx| format!(r#"{{"text": "a", "idx": {idx}, "label": 1}}"#);
        let line = format!(
            r#"{{"idx": 0, "passage": {{"text": "P", "questions": [{{"question": "q", "idx": 0,
            "answers": [{}, {}, {}]}}]}}}}"#,
            answer(0),
            answer(1),
            answer(2)
        )
        .replace('\n', " ");
        let two = format!("{line}\n{line}\n");
        for (limit, count) in [(None, 6), (Some(4), 4), (Some(3), 3), (Some(9), 6)] {
            let found = read_as("superglue/multirc", two.as_bytes(), Labels::Needed, limit);
            assert_eq!(found.unwrap(), count);
        }
    }

    fn read_table(text: &str, max_rows: Option<u32>) -> Result<Vec<Example>, Explained> {
        let declared = "name = \"own\"\nfirst = \"{a}\"\nlabel = \"b\"\nlabels = [0, 1]";
        let declared = OwnTask::from_toml(declared, Path::new("own.toml")).unwrap();
        let task = tasks::own(&declared, 0).unwrap();
        let labels = Labels::Needed;
        let wanted = Wanted { split: TRAIN.into(), is_scored: false, labels, max_rows };
        let mut found = Vec::new();
        each(text.as_bytes(), Path::new("/d/train.csv"), &*task, &wanted, |example| {
            found.push(example);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn a_table_is_read_under_its_columns_names() {
        let text = "\u{feff}b,a\r\n1,\"x, \"\"y\"\"\nz\"\n0, w\n";
        let found = read_table(text, None).unwrap();
        let row = |one: &Example| (one.pairs[0].0.clone(), one.label.unwrap(), one.idx);
        let rows: Vec<_> = found.iter().map(row).collect();
        assert_eq!(rows, [("x, \"y\"\nz".into(), 1, 0), (" w".into(), 0, 1)]);
        assert_eq!(read_table(text, Some(1)).unwrap().len(), 1);
    }

    #[test]
    fn a_refused_record_names_file_and_line() {
        let check = |text: &str, what: &str, place: &str| {
            let error = read_table(text, None).unwrap_err();
            assert!(error.what.contains(what), "{error:?}");
            assert_eq!(error.place.as_deref(), Some(place));
            assert!(error.hint.is_some());
        };
        check("", "holds no rows", "/d/train.csv");
        check("a,b\n", "holds no rows", "/d/train.csv");
        check("a,b\nx,1\ny\n", "has 1 cells, and the first line names 2", "/d/train.csv:3");
        check("a,b\n\"x\ny\",1\nz,2\n", "`b` is \"2\"", "/d/train.csv:4");
        check("a,b\nx,\n", "`b` is missing", "/d/train.csv:2");
        check("a,c\nx,1\n", "`b` is missing", "/d/train.csv:2");
        check("b,c\n1,x\n", "`first` names the column `a`", "/d/train.csv:2");
        check("a,b,a\n1,1,1\n", "the column `a` is named twice", "/d/train.csv:1");
    }

    fn check_refused(text: impl AsRef<[u8]>, what: &str, place: &str) -> Explained {
        let error = read(text.as_ref(), Labels::Needed, None).unwrap_err();
        assert!(error.what.contains(what), "{error:?}");
        assert_eq!(error.place.as_deref(), Some(place));
        error
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
        let error = check_refused(format!("{GOOD}\n{unlabelled}"), "`label` is missing", second);
        assert!(error.hint.unwrap().contains("test rows have none"));
    }

    #[test]
    fn a_refused_row_of_any_task_names_file_and_line() {
        let check = |name: &str, template, row: &str, what: &str| {
            let task = tasks::named(name, template).unwrap();
            let labels = Labels::Needed;
            let wanted = Wanted { split: TRAIN.into(), is_scored: false, labels, max_rows: None };
            let path = Path::new("/d/train.jsonl");
            let error = each(row.as_bytes(), path, &*task, &wanted, |_| Ok(())).unwrap_err();
            assert_eq!(
                (error.what.as_str(), error.place.as_deref()),
                (what, Some("/d/train.jsonl:1"))
            );
            assert!(error.expected.is_some() && error.hint.is_some());
        };
        let wsc = r#"{"text": "It is.", "target": {"span1_text": "a cat", "span2_text": "It",
            "span2_index": 2}, "label": true, "idx": 0}"#
            .replace('\n', " ");
        check("superglue/wsc", 1, &wsc, "`target.span2_index` is 2");
        check("superglue/wsc", 0, &wsc.replace("\"label\": true,", ""), "`label` is missing");
        let record = r#"{"passage": {"text": "A.", "entities": []}, "qas": []}"#;
        check("superglue/record", 0, record, "`passage.entities` is empty");
        let entity = record.replacen("[]}", r#"[{"start": 0, "end": 0}]}"#, 1);
        check("superglue/record", 0, &entity, "`qas` is empty");
        let query = r#"[{"query": "@placeholder", "idx": 0}]"#;
        let test_row = entity.replace("\"qas\": []", &format!("\"qas\": {query}"));
        check("superglue/record", 0, &test_row, "`label` is missing");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = load(Path::new("/nowhere/RTE/train.jsonl")).unwrap_err();
        assert_eq!(error.place.as_deref(), Some("/nowhere/RTE/train.jsonl"));
        assert!(error.hint.is_some() && load(Path::new("/")).is_err());
    }
}
