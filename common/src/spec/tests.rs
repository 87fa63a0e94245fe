use super::{Interval, JobSpec, WorkerRange, known_tasks, wants_text};
use std::collections::BTreeSet;
use std::time::Duration;

const JOB: &str = r#"
task = "superglue/rte"
backbone.path = "/models/bert"
data.root = "file:///data"
training = { epochs = 3, learning_rate = 5e-3 }
"#;

fn refused(extra: &str, named: &str) {
    let error = JobSpec::from_toml(&format!("{JOB}{extra}")).expect_err(extra);
    assert!(error.what.contains(named), "{error:?} does not name {named}");
    assert!(error.hint.is_some(), "{error:?} has no hint");
}

#[test]
fn defaults_are_the_documented_ones() {
    let spec = JobSpec::from_toml(JOB).expect("valid");
    assert_eq!(spec.training.slice_count(), 8);
    assert_eq!(spec.method.prefix_length(), 20);
    assert_eq!(spec.checkpoint.every, Interval::Time(Duration::from_secs(60)));
    assert_eq!(spec.resources.workers, WorkerRange { min: 1, max: 64 });
}

#[test]
fn a_spec_survives_json() {
    let spec = JobSpec::from_toml(JOB).expect("valid");
    let json = serde_json::to_value(&spec).expect("serializable");
    assert_eq!(JobSpec::from_value(json).expect("valid"), spec);
}

/// What a changed job is refused with: what, place, expected, hint.
fn refusal(from: &str, to: &str) -> [String; 4] {
    assert!(JOB.contains(from), "{from}");
    let error = JobSpec::from_toml(&JOB.replace(from, to)).expect_err(to);
    [error.what, error.place.unwrap(), error.expected.unwrap(), error.hint.unwrap()]
}

#[test]
fn an_unknown_key_is_named_with_its_table() {
    let [what, place, expected, hint] = refusal("epochs = 3", "epochs = 3, batch_sise = 8");
    assert_eq!(what, "unknown key `training.batch_sise`");
    assert_eq!(place, "training.batch_sise");
    assert!(expected.starts_with("one of `epochs`, `max_steps`, `batch_size`"), "{expected}");
    assert_eq!(hint, "did you mean `batch_size`?");
}

#[test]
fn an_unknown_key_outside_the_tables_may_belong_into_one() {
    let [what, place, expected, hint] = refusal("task =", "epochs = 3\ntask =");
    assert_eq!((what.as_str(), place.as_str()), ("unknown key `epochs`", "epochs"));
    assert!(expected.starts_with("one of `format`, `name`, `task`, `backbone`"), "{expected}");
    assert_eq!(hint, "did you mean `training.epochs`?");
    let [.., hint] = refusal("task =", "colour = 3\ntask =");
    assert!(hint.contains("configs/example-job.toml"), "{hint}");
}

#[test]
fn a_wrong_type_is_named_with_what_was_found() {
    let check = |to: &str, expected_what: &str, place: &str, expected: &str| {
        let [what, at, wanted, _] = refusal("epochs = 3", &format!("epochs = 3, {to}"));
        assert_eq!((what.as_str(), at.as_str()), (expected_what, place));
        assert_eq!(wanted, expected);
    };
    let seed = "training.seed";
    check(
        "seed = \"abc\"",
        "`training.seed` is the text \"abc\"",
        seed,
        "a whole number, at least 0",
    );
    check("seed = -1", "`training.seed` is -1", seed, "a whole number, at least 0");
    check(
        "schedule = \"expected\"",
        "`training.schedule` is the text \"expected\"",
        "training.schedule",
        "one of `linear`, `cosine`, `constant`",
    );
    check(
        "schedule = 3",
        "`training.schedule` is 3",
        "training.schedule",
        "one of `linear`, `cosine`, `constant`",
    );
    check("shuffle = []", "`training.shuffle` is a list", "training.shuffle", "true or false");
    let [what, place, expected, _] = refusal("data.root = \"file:///data\"", "data = 3");
    assert_eq!((what.as_str(), place.as_str()), ("`data` is 3", "data"));
    assert_eq!(expected, "a table");
}

#[test]
fn a_missing_key_is_named_with_what_it_is() {
    let [what, place, expected, _] = refusal(", learning_rate = 5e-3", "");
    assert_eq!(what, "`training.learning_rate` is missing");
    assert_eq!(place, "training.learning_rate");
    assert!(expected.starts_with("Full learning rate"), "{expected}");
    let [what, place, ..] = refusal("task = \"superglue/rte\"", "");
    assert_eq!((what.as_str(), place.as_str()), ("`task` is missing", "task"));
}

#[test]
fn a_job_that_is_no_table_is_refused() {
    let error = JobSpec::from_value(serde_json::json!([1])).unwrap_err();
    assert_eq!(error.what, "the job is a list");
}

#[test]
fn only_keys_of_text_alone_want_text() {
    for (key, expected) in [
        ("name", true),
        ("backbone.path", true),
        ("method.kind", true),
        ("resources.workers", false),
        ("checkpoint.every", false),
        ("training.seed", false),
        ("training", false),
        ("nothing", false),
    ] {
        assert_eq!(wants_text(key), expected, "{key}");
    }
}

#[test]
fn values_out_of_range_are_errors() {
    refused("[method]\npre_seq_len = 0\n", "method.pre_seq_len");
    refused("[method]\nkind = \"head\"\nprefix_projection = true\n", "method.prefix_projection");
    refused("[method]\npooler = \"melted\"\n", "`method.pooler` is the text \"melted\"");
    refused("[method]\nhidden_dropout_prob = 1.0\n", "method.hidden_dropout_prob");
    refused("[resources]\nworkers = \"9..12\"\n", "resources.workers");
    refused("[checkpoint]\nevery = 0\n", "`checkpoint.every` is 0");
    refused("[resources]\nworkers = \"4..1\"\n", "`resources.workers` is the text \"4..1\"");
}

#[test]
fn epochs_and_steps_exclude_each_other() {
    let both = JOB.replace("epochs = 3", "epochs = 3, max_steps = 5");
    let error = JobSpec::from_toml(&both).expect_err("both");
    assert!(error.what.contains("max_steps"));
    let neither = JOB.replace("epochs = 3, ", "");
    assert!(JobSpec::from_toml(&neither).is_err());
}

fn config(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/");
    std::fs::read_to_string(format!("{folder}{name}")).unwrap()
}

/// Every key of a TOML table, with its tables' names before it.
fn keys(prefix: &str, table: &toml::Table) -> Vec<String> {
    let mut all = Vec::new();
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value.as_table() {
            Some(inner) => all.extend(keys(&format!("{name}."), inner)),
            None => all.push(name),
        }
    }
    all.sort();
    all
}

#[test]
fn the_example_job_states_the_defaults() {
    let example = JobSpec::from_toml(&config("example-job.toml")).unwrap();
    let least = JobSpec::from_toml(
        "task = \"superglue/rte\"\nbackbone.path = \"models/bert-large-cased\"\n\
         data.root = \"/data/superglue\"\ntraining = { epochs = 60, learning_rate = 1e-2 }",
    )
    .unwrap();
    assert_eq!(example, least, "what the example sets besides is each key's default");
}

#[test]
fn the_example_job_shows_every_key() {
    // With the keys that are off by default switched on.
    let shown: Vec<String> = config("example-job.toml")
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.contains(" = ") => key.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let shown: toml::Table = toml::from_str(&shown.join("\n")).unwrap();
    // serde names every field in the message that refuses an unknown one.
    let fields = |table: &str| -> Vec<String> {
        let text = if table.is_empty() {
            "zz = 1".to_owned()
        } else {
            format!("task = \"t\"\n{table}.zz = 1")
        };
        let error = toml::from_str::<JobSpec>(&text).unwrap_err().to_string();
        let names = error.split("expected one of ").nth(1).or(error.split("expected ").nth(1));
        let names = names.unwrap().split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect()
    };
    let mut expected = Vec::new();
    for table in fields("") {
        match table.as_str() {
            "format" | "name" | "task" => expected.push(table),
            _ => expected.extend(fields(&table).iter().map(|key| format!("{table}.{key}"))),
        }
    }
    expected.sort();
    assert_eq!(keys("", &shown), expected);
}

#[test]
fn every_job_in_the_repository_is_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/superglue");
    let mut tasks = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let job = JobSpec::from_toml(&config(&format!("superglue/{name}"))).unwrap();
        assert!(name.starts_with(job.task.rsplit('/').next().unwrap()), "{name}");
        tasks.insert(job.task);
    }
    assert!(tasks.iter().map(String::as_str).eq(known_tasks()), "{tasks:?}");
    JobSpec::from_toml(&config("demo.toml")).unwrap();
}
