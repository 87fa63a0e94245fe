//! Reads a split's file, row by row; each refusal names the file and the line.

use super::{Example, Task, labels_of, table};
use crate::inputs::{Folder, Opened};
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::spec::DataSpec;
use ptv2_common::text::commas_and_brackets;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

/// Bytes of a split's file at most; it is read row by row.
pub const BYTES_MAX: u64 = 1 << 30;
/// Bytes of a row at most. More are not even read. With its line end, and one byte that tells that it is too
/// long, it still fits a buffer of 16 MiB, which is not doubled then.
pub(super) const ROW_BYTES_MAX: u64 = (16 << 20) - 2;
/// Commas and opening brackets of a row at most: so many values are never in memory at once.
pub(super) const ROW_PARTS_MAX: u64 = 1 << 18;

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

/// The file of a split below the data's root, for example `RTE/val.jsonl`.
pub fn name(task: &dyn Task, split: &str) -> String {
    match task.folder() {
        "" => task.file(split),
        folder => format!("{folder}/{}", task.file(split)),
    }
}

/// Opens a split's file, refusing one that is too large.
///
/// # Errors
/// Names the file, and what its folder should look like.
pub fn open(folder: &Folder, name: &str) -> Result<Opened, Explained> {
    let refused = |why: String| {
        Explained::new(format!("the rows cannot be read: {why}")).at(folder.place(name)).hint(
            "`data.root` is the folder that holds the task's folder, as RTE/train.jsonl; of a task \
                 of your own, its files themselves",
        )
    };
    let file = folder.open(name).map_err(|error| refused(error.to_string()))?;
    if file.bytes() > BYTES_MAX {
        return Err(refused(format!("it has {} bytes", file.bytes()))
            .expected(format!("at most {BYTES_MAX} bytes")));
    }
    Ok(file)
}

/// Assembles the first `max_rows` examples of a file (all, if not given), and gives each to `take`; gives
/// their number. A line whose examples go beyond the limit is cut there. One row is in memory at a time.
///
/// # Errors
/// Names file and line of the first row that is refused. No rows at all are refused, too. Else those of
/// `take`.
pub fn each(
    source: impl Read,
    file: &str,
    task: &dyn Task,
    wanted: &Wanted,
    mut take: impl FnMut(Example) -> Result<(), Explained>,
) -> Result<u64, Explained> {
    let limit = wanted.max_rows.map_or(u64::MAX, u64::from);
    let place = |line: u64| format!("{file}:{line}");
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
    let is_table = Path::new(file).extension().is_some_and(|ending| ending == "csv");
    if is_table {
        table::each(source, place, &mut take_row)?;
    } else {
        lines(source, place, &mut take_row)?;
    }
    if count == 0 {
        let one = if is_table { "one record a line, under the columns' names" } else { ONE_A_LINE };
        return Err(Explained::new("the split holds no rows")
            .at(file)
            .expected(format!("{one}, at least one"))
            .hint("look whether the file was copied as a whole"));
    }
    Ok(count)
}

/// Gives each line's row to `take` with its line, until that breaks.
fn lines(
    source: impl Read,
    place: impl Fn(u64) -> String,
    mut take: impl FnMut(u64, &Value) -> Result<ControlFlow<()>, Explained>,
) -> Result<(), Explained> {
    let (mut reader, mut read) = (BufReader::new(source), Vec::new());
    let mut blank = None;
    for number in 1.. {
        read.clear();
        let most = ROW_BYTES_MAX + 2;
        let count = reader.by_ref().take(most).read_until(b'\n', &mut read).map_err(|error| {
            Explained::new(format!("the rows cannot be read: {error}")).at(place(number))
        })?;
        if count == 0 {
            break;
        }
        let line = read.strip_suffix(b"\n").unwrap_or(&read);
        check_size(line).map_err(|error| at(error, place(number)))?;
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

/// Refuses a line before it becomes values.
fn check_size(line: &[u8]) -> Result<(), Explained> {
    if line.len() as u64 > ROW_BYTES_MAX {
        return Err(Explained::new(format!("the line has more than {ROW_BYTES_MAX} bytes"))
            .expected(format!("{ONE_A_LINE}, of at most {ROW_BYTES_MAX} bytes")));
    }
    let parts = commas_and_brackets(line);
    if parts as u64 > ROW_PARTS_MAX {
        return Err(Explained::new(format!("the line has {parts} commas and brackets"))
            .expected(format!("at most {ROW_PARTS_MAX}")));
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
        let count = each(text, "/d/RTE/train.jsonl", &*task, &wanted, |_| {
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
        each(text.as_bytes(), "/d/train.csv", &*task, &wanted, |example| {
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
            let path = "/d/train.jsonl";
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
        let error = open(&Folder::at(Path::new("/nowhere")), "RTE/train.jsonl").unwrap_err();
        assert_eq!(error.place.as_deref(), Some("/nowhere/RTE/train.jsonl"));
        assert!(error.hint.is_some() && open(&Folder::at(Path::new("/")), "").is_err());
    }

    /// A source that says how much of it was read.
    struct Counted<R>(R, std::rc::Rc<std::cell::Cell<u64>>);

    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1.set(self.1.get() + count as u64);
            Ok(count)
        }
    }

    fn check_endless(begin: &str, end: u8, file: &str, what: &str) {
        let declared = "name = \"own\"\nfirst = \"{a}\"\nlabel = \"b\"\nlabels = [0, 1]";
        let declared = OwnTask::from_toml(declared, Path::new("own.toml")).unwrap();
        let task = tasks::own(&declared, 0).unwrap();
        let labels = Labels::Needed;
        let wanted = Wanted { split: TRAIN.into(), is_scored: false, labels, max_rows: None };
        let read = std::rc::Rc::default();
        // A gigabyte in one row.
        let endless = begin.as_bytes().chain(std::io::repeat(end).take(1 << 30));
        let source = Counted(endless, std::rc::Rc::clone(&read));
        let error = each(source, file, &*task, &wanted, |_| Ok(())).unwrap_err();
        assert!(error.what.contains(what) && error.hint.is_some(), "{error:?}");
        assert!(error.place.unwrap().starts_with(file));
        assert!(read.get() < ROW_BYTES_MAX + (1 << 20), "{} bytes were read", read.get());
    }

    #[test]
    fn a_row_without_an_end_is_refused_after_its_bound() {
        check_endless("{\"a\": \"", b'x', "d.jsonl", "more than 16777214 bytes");
        check_endless("", b' ', "d.jsonl", "more than 16777214 bytes");
        check_endless("a,b\n\"", b'x', "d.csv", "more than 16777214 bytes");
        check_endless("a,b\n\"", b'\n', "d.csv", "more than 16777214 bytes");
        check_endless("a,b\n", b',', "d.csv", "commas");
        check_endless("a", b',', "d.csv", "commas");
    }

    #[test]
    fn many_values_and_deep_ones_are_refused() {
        let many = format!("{{\"a\": [{}0]}}", "[],".repeat(1 << 17));
        check_refused(many, "commas and brackets", "/d/RTE/train.jsonl:1");
        let deep = format!("{GOOD}\n{}", "[".repeat(100_000));
        check_refused(deep, "recursion limit exceeded", "/d/RTE/train.jsonl:2");
    }
}
