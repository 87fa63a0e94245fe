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
