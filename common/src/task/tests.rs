//! Task files, read and refused.

use super::*;

const REVIEWS: &str = "name = \"reviews\"\nfirst = \"{title}\"\nsecond = \"{body}\"\n\
                       label = \"stars\"\nlabels = [1, 2]\nmetric = \"f1\"\nfiles.train = \"a.csv\"\n";

fn read(text: &str) -> Result<OwnTask, Explained> {
    OwnTask::from_toml(text, Path::new("/t/own.toml"))
}

#[test]
fn a_task_file_is_read() {
    let task = read(REVIEWS).unwrap();
    assert_eq!((task.label.as_str(), task.metric), ("stars", Metric::F1));
    assert_eq!(task.label_names(), ["1", "2"]);
    assert_eq!([task.file("train"), task.file("val")], ["a.csv", "val.jsonl"]);
    let json = serde_json::to_string(&task).unwrap();
    assert_eq!(serde_json::from_str::<OwnTask>(&json).unwrap(), task, "it survives its record");
    let least = read("name = \"a\"\nfirst = \"{x}\"\nlabels = [true, false]\n").unwrap();
    assert_eq!((least.label.as_str(), least.metric, least.idx), ("label", Metric::Accuracy, None));
    assert!(is_own("/t/own.toml") && !is_own("superglue/rte"));
}

#[test]
fn the_example_in_configs_is_a_task() {
    let text = include_str!("../../../configs/own-task.toml");
    let task = OwnTask::from_toml(text, Path::new("own-task.toml")).unwrap();
    assert_eq!(task.name, "reviews");
    for key in KEYS {
        let is_there = |line: &str| {
            line.trim_start_matches("# ").starts_with(&format!("{key} ="))
                || line.contains(&format!("[{key}]"))
        };
        assert!(text.lines().any(is_there), "{key} is not in it");
    }
}

#[test]
fn the_files_that_there_are_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["train.csv", "val.csv", "val.jsonl"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let mut task = read("name = \"a\"\nfirst = \"{x}\"\nlabels = [1, 2]\n").unwrap();
    task.settle_files(folder.path());
    let files = ["train", "val", "test"].map(|split| task.file(split));
    assert_eq!(files, ["train.csv", "val.jsonl", "test.jsonl"]);
}

#[test]
fn braces_hold_columns() {
    let text = |text: &str| {
        let template = Template::parse(text)?;
        template.fill(|column| Ok::<_, String>(column.to_uppercase()))
    };
    assert_eq!(text("{a}: {b c}.").unwrap(), "A: B C.");
    assert_eq!(text("{{a}} {{{b}}}").unwrap(), "{a} {B}");
    assert_eq!(text("").unwrap(), "");
    assert_eq!(text("{a").unwrap_err(), "a `{` is not closed");
    assert_eq!(text("{a{b}").unwrap_err(), "a `{` is not closed");
    assert_eq!(text("a}").unwrap_err(), "a `}` has no `{`");
    assert_eq!(text("{}").unwrap_err(), "a pair of braces names no column");
}

/// Refuses the reviews with a line replaced, or one more.
fn check(from: &str, to: &str, what: &str, line: usize) -> Explained {
    let text = if from.is_empty() { format!("{REVIEWS}{to}\n") } else { REVIEWS.replace(from, to) };
    let error = read(&text).unwrap_err();
    assert_eq!(error.what, what);
    assert_eq!(error.place.as_deref(), Some(format!("/t/own.toml, line {line}").as_str()));
    assert!(error.expected.is_some() && error.hint.is_some(), "{error:?}");
    error
}

#[test]
fn a_refused_task_names_its_line() {
    let error = check("label =", "lable =", "unknown key `lable`", 4);
    assert_eq!(error.hint.unwrap(), "did you mean `label`?");
    check("first =", "frist =", "unknown key `frist`", 2);
    check("first = \"{title}\"\n", "", "`first` is missing", 1);
    check("\"reviews\"", "\"My Reviews\"", "`name` is \"My Reviews\"", 1);
    check("{title}", "{title", "`first` is \"{title\": a `{` is not closed", 2);
    check("\"a.csv\"", "\"../a.csv\"", "`files` is \"../a.csv\"", 7);
    check("\"a.csv\"", "\"a.tsv\"", "`files` is \"a.tsv\"", 7);
    check("[1, 2]", "[1]", "`labels` has 1 of them", 5);
    check("[1, 2]", "[1, \"1\"]", "`labels` holds \"1\" twice", 5);
    check("[1, 2]", "[1, 2.5]", "`labels` holds 2.5", 5);
    check("[1, 2]", "[1, 2, 3]", "`metric` is f1, and there are 3 labels", 6);
    check(
        "second =",
        "choices = [\"{b}\", \"c\"]\nsecond =",
        "both `second` and `choices` are given",
        3,
    );
    let choices = "choices = [\"{b}\", \"c\", \"d\"]";
    check("second = \"{body}\"", choices, "there are 3 choices and 2 labels", 5);
    let error = read("name = \"a\"\nfirst = \"title\"\nlabels = [1, 2]").unwrap_err();
    assert!(error.what.contains("no text names a column"), "{error:?}");
    assert!(read("name = ").unwrap_err().what.starts_with("the task cannot be read: "));
}
