//! Reads a job file, applies what the command line changes in it, and checks it by the rules that
//! need no files of the coordinator's, which checks it again and whole.

mod origins;

use crate::cli::{Assignment, JobFileArgs, NewJobArgs};
use crate::failure::Failure;
use origins::Origins;
use ptv2_common::error::Explained;
use ptv2_common::spec::{self, JobSpec};
use ptv2_common::task::is_own;
use serde_json::{Map, Value};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Keys that name files. The coordinator knows nothing of this process's folder.
const PATH_KEYS: [[&str; 2]; 3] = [["backbone", "path"], ["data", "root"], ["init", "adapter"]];

/// Where relative paths begin.
#[derive(Debug, Clone)]
pub(crate) struct Bases {
    /// The current folder, absolute.
    pub(crate) current: PathBuf,
    /// The user's own folder.
    pub(crate) home: Option<PathBuf>,
}

/// A job as it is sent, and where its keys were written.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The job.
    pub(crate) spec: Value,
    origins: Origins,
}

impl Draft {
    /// Puts what an option of its own gave, for example `--name rte`.
    pub(crate) fn put(&mut self, path: &[&str], value: &str, option: &str) -> Result<(), Failure> {
        let path: Vec<String> = path.iter().map(ToString::to_string).collect();
        put(&mut self.spec, &path, value.into())?;
        self.origins.given(&path, format!("{option} {value}"));
        Ok(())
    }

    /// Puts what options say of a new job.
    pub(crate) fn put_new(&mut self, new: &NewJobArgs) -> Result<(), Failure> {
        if let Some(name) = &new.name {
            self.put(&["name"], name, "--name")?;
        }
        if let Some(workers) = &new.workers {
            self.put(&["resources", "workers"], &workers.to_string(), "--workers")?;
        }
        Ok(())
    }

    /// Refuses what the coordinator would refuse without a look at its files.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match JobSpec::from_value(self.spec.clone()) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.located(error.into())),
        }
    }

    /// The failure with the place where its key was written, where it is about a key.
    pub(crate) fn located(&self, mut failure: Failure) -> Failure {
        if let Some(place) = failure.error.place.as_ref().and_then(|key| self.origins.place(key)) {
            failure.error.place = Some(place);
        }
        failure
    }

    fn set(&mut self, set: &Assignment, bases: &Bases) -> Result<(), Failure> {
        // The value is put into a spec of its own first, so that its paths start where it was typed.
        let mut alone = Value::Object(Map::new());
        put(&mut alone, &set.path, set_value(&set.path, &set.text))?;
        make_absolute(&mut alone, &bases.current, bases.home.as_deref());
        let pointer = set.path.iter().fold(String::new(), |pointer, part| {
            format!("{pointer}/{}", part.replace('~', "~0").replace('/', "~1"))
        });
        let value = alone.pointer_mut(&pointer).map(Value::take).unwrap_or_default();
        put(&mut self.spec, &set.path, value)?;
        self.origins.given(&set.path, format!("--set {}={}", set.path.join("."), set.text));
        Ok(())
    }
}

/// Reads the job file and applies every `--set`.
pub(crate) fn read(args: &JobFileArgs) -> Result<Draft, Failure> {
    let current = std::env::current_dir()
        .map_err(|error| Failure::local("no current folder", Path::new("."), &error))?;
    let bases = Bases { current, home: std::env::home_dir() };
    if args.file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Failure::local("the job cannot be read", &args.file, &error))?;
        return build(&text, "stdin", &bases.current, &args.sets, &bases);
    }
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| Failure::local("the job file cannot be read", &args.file, &error))?;
    let folder = bases.current.join(args.file.parent().unwrap_or(Path::new("")));
    build(&text, &args.file.display().to_string(), &folder, &args.sets, &bases)
}

/// Keys of a job that are set on the command line alone.
pub(crate) fn of_sets(sets: &[Assignment]) -> Result<Draft, Failure> {
    let current = std::env::current_dir()
        .map_err(|error| Failure::local("no current folder", Path::new("."), &error))?;
    let bases = Bases { current, home: std::env::home_dir() };
    build("", "--set", &bases.current, sets, &bases)
}

/// A job that was put together elsewhere; its relative paths start at a folder. Its keys were written at
/// `place`.
pub(crate) fn of_value(mut spec: Value, place: &str, folder: &Path) -> Draft {
    make_absolute(&mut spec, folder, std::env::home_dir().as_deref());
    Draft { spec, origins: Origins::of_json(place) }
}

/// Puts a value at a key, making tables on the way.
fn put(spec: &mut Value, path: &[String], value: Value) -> Result<(), Failure> {
    let Some((last, tables)) = path.split_last() else { return Ok(()) };
    let mut at = spec;
    for (depth, part) in tables.iter().enumerate() {
        let table = as_table(at, &path[..depth])?;
        at = table.entry(part).or_insert_with(|| Value::Object(Map::new()));
    }
    as_table(at, tables)?.insert(last.clone(), value);
    Ok(())
}

fn as_table<'a>(
    value: &'a mut Value,
    path: &[String],
) -> Result<&'a mut Map<String, Value>, Failure> {
    let place = path.join(".");
    value.as_object_mut().ok_or_else(|| {
        Failure::refused(
            Explained::new(format!("`{place}` is no table, so nothing can be set in it"))
                .at("--set")
                .expected("a key of a table, as `training.epochs`")
                .hint("each key stands in configs/example-job.toml"),
        )
    })
}

fn build(
    text: &str,
    place: &str,
    folder: &Path,
    sets: &[Assignment],
    bases: &Bases,
) -> Result<Draft, Failure> {
    let mut draft = parse(text, place)?;
    make_absolute(&mut draft.spec, folder, bases.home.as_deref());
    for set in sets {
        draft.set(set, bases)?;
    }
    Ok(draft)
}

fn parse(text: &str, place: &str) -> Result<Draft, Failure> {
    let refused = |what: String, line: Option<usize>| {
        let place = line.map_or_else(|| place.to_owned(), |line| format!("{place}, line {line}"));
        let error = Explained::new(what).at(place);
        Failure::refused(
            error
                .expected("one table of keys, in TOML or JSON")
                .hint("`ptv2ctl init TASK` writes a job file to begin with"),
        )
    };
    if place.ends_with(".json") || text.trim_start().starts_with('{') {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            refused(format!("the job is not valid JSON: {error}"), Some(error.line()))
        })?;
        return if value.is_object() {
            Ok(Draft { spec: value, origins: Origins::of_json(place) })
        } else {
            Err(refused("the job is no JSON object".into(), None))
        };
    }
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
        refused(format!("the job is not valid TOML: {}", error.message()), line)
    })?;
    let spec = json(toml::Value::Table(table));
    Ok(Draft { spec, origins: Origins::of_toml(place, text) })
}

/// A `--set` value: as TOML would read it, and the text itself where TOML would not, or where the
/// key takes nothing but text: `name=123` is a name.
fn set_value(path: &[String], text: &str) -> Value {
    let document: Result<toml::Table, _> = toml::from_str(&format!("v = {text}"));
    let value = match document {
        // A line feed in the text could begin another key: then it was no single value.
        Ok(mut table) if table.len() == 1 => table.remove("v").map(json),
        Ok(_) | Err(_) => None,
    };
    match value {
        Some(Value::Number(_) | Value::Bool(_)) if spec::wants_text(&path.join(".")) => text.into(),
        Some(value) => value,
        None => text.into(),
    }
}

/// JSON has neither dates nor infinities: they stay text, and the coordinator says what it expected.
pub(crate) fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .map_or_else(|| Value::String(number.to_string()), Value::Number),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, v)| (key, json(v))).collect(),
    }
}

fn make_absolute(spec: &mut Value, folder: &Path, home: Option<&Path>) {
    // A task is a name or the path of a file.
    if let Some(task) = spec.get_mut("task")
        && let Some(path) = task.as_str().filter(|task| is_own(task))
        && let Some(absolute) = absolute(path, folder, home)
    {
        *task = Value::String(absolute);
    }
    for [table, key] in PATH_KEYS {
        let Some(value) = spec.get_mut(table).and_then(|table| table.get_mut(key)) else {
            continue;
        };
        if let Some(absolute) = value.as_str().and_then(|text| absolute(text, folder, home)) {
            *value = Value::String(absolute);
        }
    }
}

/// The absolute form of a path, or nothing where the text is to be sent as it is.
fn absolute(text: &str, folder: &Path, home: Option<&Path>) -> Option<String> {
    if text.is_empty() || text.contains("://") {
        return None;
    }
    let path = match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        (Some(_), None) | (None, _) => folder.join(text),
    };
    // Only `.` goes: `..` behind a link is for whoever opens the path to resolve.
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    Some(path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const JOB: &str = "task = \"superglue/rte\"\n[backbone]\npath = \"./model\"\n\
                       [data]\nroot = \"file:///data\"\n[training]\nlearning_rate = 5e-3\n";

    fn bases() -> Bases {
        Bases { current: "/now".into(), home: Some("/home/me".into()) }
    }

    fn draft(text: &str, sets: &[&str]) -> Result<Draft, Failure> {
        let sets: Vec<Assignment> = sets.iter().map(|set| set.parse().unwrap()).collect();
        build(text, "jobs/a.toml", Path::new("/now/jobs"), &sets, &bases())
    }

    fn built(text: &str, sets: &[&str]) -> Result<Value, Failure> {
        draft(text, sets).map(|draft| draft.spec)
    }

    fn check_refusal(text: &str, sets: &[&str], expected: &str) {
        let message = draft(text, sets).unwrap().check().unwrap_err().message();
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn paths_of_the_file_start_at_its_folder() {
        let spec = built(JOB, &[]).unwrap();
        assert_eq!(spec["backbone"]["path"], "/now/jobs/model");
        assert_eq!(spec["data"]["root"], "file:///data");
    }

    #[test]
    fn a_repository_of_a_hub_is_no_path() {
        let job =
            JOB.replace("./model", "hf://org/name").replace("[training]", "[training]\nepochs = 1");
        let draft = draft(&job, &[]).unwrap();
        assert_eq!(draft.spec["backbone"]["path"], "hf://org/name");
        draft.check().unwrap();
        let wrong = job.replace("org/name", "name");
        check_refusal(
            &wrong,
            &[],
            "error: `hf://name` is no repository of a hub (jobs/a.toml, line 3)",
        );
    }

    #[test]
    fn paths_of_the_command_line_start_at_the_current_folder() {
        let spec = built(JOB, &["backbone.path=m", "data.root=~/d", "init.adapter=/abs"]).unwrap();
        assert_eq!(spec["backbone"]["path"], "/now/m");
        assert_eq!(spec["data"]["root"], "/home/me/d");
        assert_eq!(spec["init"]["adapter"], "/abs");
        let spec = built(JOB, &["backbone.path=hf://org/name@v1"]).unwrap();
        assert_eq!(spec["backbone"]["path"], "hf://org/name@v1");
        let spec = built(JOB, &["backbone={path = \"../m\", precision = \"fp32\"}"]).unwrap();
        assert_eq!(spec["backbone"], json!({"path": "/now/../m", "precision": "fp32"}));
    }

    #[test]
    fn the_path_of_a_task_file_is_made_absolute_and_no_task_s_name() {
        assert_eq!(built(JOB, &[]).unwrap()["task"], "superglue/rte");
        let own = JOB.replace("superglue/rte", "../own.toml");
        assert_eq!(built(&own, &[]).unwrap()["task"], "/now/jobs/../own.toml");
        assert_eq!(built(JOB, &["task=own.toml"]).unwrap()["task"], "/now/own.toml");
    }

    fn check_value(text: &str, expected: Value) {
        let path = ["training".to_owned(), "seed".to_owned()];
        assert_eq!(set_value(&path, text), expected, "{text}");
    }

    #[test]
    fn a_set_value_is_toml_or_text() {
        check_value("3", json!(3));
        check_value("5e-3", json!(0.005));
        check_value("true", json!(true));
        check_value("\"3\"", json!("3"));
        check_value("[1, 2]", json!([1, 2]));
        check_value("1..4", json!("1..4"));
        check_value("60s", json!("60s"));
        check_value("nan", json!("NaN"));
        check_value("", json!(""));
        check_value("1\nw = 2", json!("1\nw = 2"));
    }

    #[test]
    fn a_key_of_text_takes_the_text_as_typed() {
        let value = |key: &str, text: &str| {
            let path: Vec<String> = key.split('.').map(str::to_owned).collect();
            set_value(&path, text)
        };
        assert_eq!(value("name", "123"), json!("123"));
        assert_eq!(value("name", "true"), json!("true"));
        assert_eq!(value("name", "\"rte\""), json!("rte"));
        assert_eq!(value("name", "2026-01-01"), json!("2026-01-01"));
        assert_eq!(value("resources.workers", "2"), json!(2));
        assert_eq!(value("checkpoint.every", "200"), json!(200));
    }

    #[test]
    fn a_refused_key_has_the_place_where_it_was_written() {
        let job = format!("{JOB}epochs = 3\n");
        assert!(draft(&job, &[]).unwrap().check().is_ok());
        check_refusal(
            &job.replace("epochs", "epoch"),
            &[],
            "error: unknown key `training.epoch` (jobs/a.toml, line 8)\n  expected: one of `epochs`",
        );
        check_refusal(
            &job,
            &["training.seed=abc"],
            "error: `training.seed` is the text \"abc\" (--set training.seed=abc)\n  \
             expected: a whole number, at least 0",
        );
        check_refusal(
            JOB,
            &[],
            "error: neither `training.epochs` nor `training.max_steps` is set \
                                 (jobs/a.toml, line 6)",
        );
        let mut named = draft(&job, &[]).unwrap();
        named.put(&["name"], "A B", "--name").unwrap();
        let message = named.check().unwrap_err().message();
        assert!(message.starts_with("error: `name` is A B (--name A B)"), "{message}");
    }

    #[test]
    fn what_the_coordinator_says_of_a_key_is_located_and_nothing_else() {
        let draft = draft(JOB, &[]).unwrap();
        let place = |place: &str| {
            let failure = Failure::refused(Explained::new("wrong").at(place));
            draft.located(failure).error.place.unwrap()
        };
        assert_eq!(place("data.root"), "jobs/a.toml, line 5");
        assert_eq!(place("/data/RTE/train.jsonl"), "/data/RTE/train.jsonl");
    }

    #[test]
    fn a_set_makes_tables_and_replaces_values() {
        let spec = built(JOB, &["checkpoint.every=10s", "training.learning_rate=1e-2"]).unwrap();
        assert_eq!(spec["checkpoint"]["every"], "10s");
        assert_eq!(spec["training"]["learning_rate"], 0.01);
    }

    #[test]
    fn nothing_is_set_inside_a_value() {
        let failure = built(JOB, &["task.name=x"]).unwrap_err();
        assert!(failure.message().contains("`task` is no table"), "{}", failure.message());
    }

    #[test]
    fn json_is_recognized_by_its_name_or_its_brace() {
        assert_eq!(parse(" {\"task\": \"a\"}", "stdin").unwrap().spec, json!({"task": "a"}));
        assert!(parse("task = 1", "a.json").unwrap_err().message().contains("not valid JSON"));
        assert!(parse("[1]", "a.json").is_err());
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let message = parse("task = \"a\"\nb = = 1\n", "a.toml").unwrap_err().message();
        assert!(message.contains("(a.toml, line 2)"), "{message}");
    }
}
