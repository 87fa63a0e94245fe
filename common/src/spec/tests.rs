use super::{Interval, JobSpec, WorkerRange};
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

#[test]
fn unknown_keys_are_errors() {
    refused("[method]\npre_seq_length = 8\n", "pre_seq_length");
}

#[test]
fn values_out_of_range_are_errors() {
    refused("[method]\npre_seq_len = 0\n", "method.pre_seq_len");
    refused("[method]\nprefix_projection = true\n", "method.prefix_projection");
    refused("[method]\nhidden_dropout_prob = 1.0\n", "method.hidden_dropout_prob");
    refused("[resources]\nworkers = \"9..12\"\n", "resources.workers");
    refused("[checkpoint]\nevery = 0\n", "number of steps above 0");
    refused("[resources]\nworkers = \"4..1\"\n", "4..1");
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
            Some(key) if key.split(" = ").count() == 2 && !key.contains(": ") => key.to_owned(),
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
            // A name has no default to show, and the format is the file's own.
            "format" | "name" => {}
            "task" => expected.push("task".to_owned()),
            _ => expected.extend(fields(&table).iter().map(|key| format!("{table}.{key}"))),
        }
    }
    expected.sort();
    assert_eq!(keys("", &shown), expected);
}

#[test]
fn every_job_in_the_repository_is_accepted() {
    for name in ["boolq", "cb", "copa", "rte"] {
        let spec = JobSpec::from_toml(&config(&format!("superglue/{name}.toml"))).unwrap();
        assert_eq!(spec.task, format!("superglue/{name}"));
    }
    JobSpec::from_toml(&config("demo.toml")).unwrap();
}
