//! Whatever a parser is given, it reads it or refuses it; and what it has read survives being written.
//! `PROPTEST_CASES` raises the number of cases.

mod hostile;

use crate::error::Explained;
use crate::hub::HubId;
use crate::job::{JobRecord, PinnedBackbone};
use crate::manifest::{CheckpointManifest, EndMark, GenerationManifest, Which};
use crate::place::PulseRecord;
use crate::plan::Plan;
use crate::session::{Envelope, ToWorker};
use crate::spec::{Interval, JobSpec, WorkerRange, merge, recipe};
use crate::storage::local_path;
use crate::task::{OwnTask, Template};
use hostile::{changed, json, spoiled, text};
use proptest::prelude::*;
use proptest::sample::select;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;

/// What was read is written and read again.
fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &Value) {
    if let Ok(read) = serde_json::from_value::<T>(value.clone()) {
        let written = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<T>(&written).unwrap(), read, "{written}");
    }
}

fn spec() -> Value {
    let mut spec = serde_json::to_value(recipe("superglue/rte").unwrap()).unwrap();
    merge(&mut spec, &json!({"backbone": {"path": "/m"}, "data": {"root": "/d"}}));
    spec
}

fn record() -> JobRecord {
    JobRecord {
        format: 1,
        id: crate::ids::JobId("j0123456789".into()),
        name: "one".into(),
        spec: JobSpec::from_value(spec()).unwrap(),
        spec_sha256: "00".repeat(32),
        submitted_unix_ms: 1,
        submitted_by: Some("user".into()),
        backbone: PinnedBackbone {
            directory: "/m".into(),
            hub: None,
            url: None,
            config_sha256: "00".repeat(32),
            weights_sha256: "00".repeat(32),
            shards: BTreeMap::new(),
            tokenizer_sha256: "00".repeat(32),
            architecture: "bert".into(),
            hidden_size: 4,
            layers: 1,
            heads: 1,
        },
        data_sha256: BTreeMap::from([("train".into(), "00".repeat(32))]),
        init_sha256: None,
        mirrored: BTreeMap::new(),
        score: None,
        own_task: None,
        plan: Plan {
            train_rows: 32,
            val_rows: 8,
            steps_per_epoch: 1,
            total_steps: 1,
            slices: 8,
            trainable_parameters: 1,
            prefix_parameters: 0,
            pooler_parameters: 0,
            frozen_parameters: 0,
            gradient_bytes: 4,
            checkpoint_bytes: 12,
            positions_used: 1,
            positions_available: 2,
        },
        labels: vec!["a".into(), "b".into()],
        choices: 1,
        best_metric: "accuracy".into(),
    }
}

fn manifest() -> Value {
    json!({"format": 1, "job": record(), "step": 3, "epoch": 1, "generation": 2,
        "generation_start_step": 1, "nonce": "n", "tuned_sha256": "00".repeat(32),
        "features": "00".repeat(32), "best": {"metric": "accuracy", "value": 0.5, "step": 3},
        "is_best": true,
        "files": [{"name": "state.safetensors", "bytes": 8, "sha256": "00".repeat(32)}]})
}

fn from_workers() -> Vec<Value> {
    let place = json!({"step": 3, "phase": "applied", "evaluation_slice": 0});
    let of = json!({"job": "j0", "generation": 2});
    let with = |kind: &str, more: Value| {
        let mut message = json!({"type": kind});
        merge(&mut message, &of);
        merge(&mut message, &more);
        json!({"seq": 1, "message": message})
    };
    let print = json!({"device": "d", "instruction_set": "i", "libtorch": "l", "ptv2": "p",
        "settings": "s"});
    let error = json!({"what": "w", "hint": "h"});
    vec![
        json!({"message": {"type": "hello", "protocol": 3, "worker": "w0", "host": "h:1",
            "version": "0", "fingerprint": print, "device": "cpu", "threads": 1,
            "reduce_address": "127.0.0.1:1", "attached": {"job": "j0", "generation": 2,
                "stage": {"kind": "finished", "tuned_sha256": "00"}}}}),
        json!({"message": {"type": "heartbeat", "serving": ["j0", 2], "place": place,
            "phase": "stepping", "phase_age_ms": 3, "backbone_loads": 1, "speed": 1.5}}),
        with("running", json!({"place": place})),
        with(
            "left",
            json!({"place": place, "reason": {"kind": "peer_lost", "peer": "w1",
            "silent": true, "detail": "d"}}),
        ),
        with("left", json!({"reason": {"kind": "transport_failed", "detail": "d"}})),
        with("left", json!({"reason": {"kind": "device_lost", "detail": "d"}})),
        with(
            "progress",
            json!({"metrics": [
            {"step": 1, "epoch": 0, "loss": 0.5, "learning_rate": 0.1, "grad_norm": 1.0,
                "rows_per_s": 3.0, "tokens_per_s": 4.0},
            {"step": 1, "epoch": 0, "split": "val", "accuracy": 0.5}]}),
        ),
        with("checkpoint_report", json!({"outcome": {"Err": error}})),
        json!({"seq": 1, "message": {"type": "ready", "job": "j0", "outcome": {"Ok": null}}}),
        json!({"seq": 1, "message": {"type": "log", "job": "j0", "level": "warn", "message": "m"}}),
        with("finished", json!({"tuned_sha256": "00"})),
        with("job_failed", json!({"error": error})),
        json!({"seq": 1, "message": {"type": "damaged", "error": error, "jobs": ["j0"]}}),
        json!({"message": {"type": "draining"}}),
    ]
}

fn to_workers() -> Vec<Value> {
    let member = json!({"worker": "w0", "reduce_address": "127.0.0.1:1", "weight": 1.0});
    vec![
        json!({"type": "welcome", "heartbeat_interval_ms": 1, "heartbeat_timeout_ms": 5,
            "store": {"url": "file:///s"}}),
        json!({"type": "refused", "error": {"what": "w"}}),
        json!({"type": "taken", "seq": 7}),
        json!({"type": "warm", "job": record(), "features": "00"}),
        json!({"type": "start", "job": record(), "generation": 2, "rank": 0, "members": [member],
            "group_key": "00", "features": "00", "resume": null, "finish_step": false,
            "reported_step": 3, "without_nccl": "w"}),
        json!({"type": "stop", "job": "j0", "generation": 2, "checkpoint": true,
            "finish_step": true}),
        json!({"type": "release", "job": "j0", "generation": 2}),
        json!({"type": "drain"}),
    ]
}

#[test]
fn the_messages_that_are_changed_below_are_valid() {
    for message in from_workers() {
        serde_json::from_value::<Envelope>(message.clone())
            .unwrap_or_else(|error| panic!("{message}: {error}"));
    }
    for message in to_workers() {
        serde_json::from_value::<ToWorker>(message.clone())
            .unwrap_or_else(|error| panic!("{message}: {error}"));
    }
    serde_json::from_value::<CheckpointManifest>(manifest()).unwrap();
}

const TOML: &str = "task = \"superglue/rte\"\nbackbone.path = \"/m\"\ndata.root = \"/d\"\n\
    training = { epochs = 3, learning_rate = 5e-3, seeds = [1, 2] }\nresources.workers = \"1..4\"\n\
    checkpoint.every = \"60s\"\n";
const OWN: &str = "name = \"own\"\nfirst = \"{a}: {{{b}}}\"\nsecond = \"{c}\"\nlabel = \"l\"\n\
    labels = [\"no\", \"yes\"]\nmetric = \"f1\"\n[files]\ntrain = \"t.csv\"\n";

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

proptest! {
    #[test]
    fn a_job_as_json_is_read_or_refused_with_its_key(value in changed(spec())) {
        match JobSpec::from_value(value) {
            Ok(spec) => {
                let written = serde_json::to_value(&spec).unwrap();
                prop_assert_eq!(JobSpec::from_value(written).unwrap(), spec);
            }
            Err(error) => prop_assert!(!error.what.is_empty()),
        }
    }

    #[test]
    fn any_json_is_a_job_or_none(value in json()) {
        drop(JobSpec::from_value(value));
    }

    #[test]
    fn a_job_as_toml_is_read_or_refused(bytes in spoiled(TOML.into())) {
        if let Ok(spec) = JobSpec::from_toml(&text_of(&bytes)) {
            let written = serde_json::to_value(&spec).unwrap();
            prop_assert_eq!(JobSpec::from_value(written).unwrap(), spec);
        }
    }

    #[test]
    fn a_task_file_is_read_or_refused(bytes in spoiled(OWN.into())) {
        if let Ok(task) = OwnTask::from_toml(&text_of(&bytes), Path::new("own.toml")) {
            survives::<OwnTask>(&serde_json::to_value(&task).unwrap());
            for split in ["train", "val", "test", "../x"] {
                let file = task.file(split);
                prop_assert!(split.contains('/') || !file.contains('/'), "{file}");
            }
        }
    }

    #[test]
    fn a_template_is_filled_or_refused(text in "[{}a\\PC]{0,24}", other in text()) {
        for text in [text, other] {
            let Ok(template) = Template::parse(&text) else { continue };
            let filled = template.fill(|column| Ok::<_, Infallible>(format!("{{{column}}}")));
            let plain = text.replace("{{", "{").replace("}}", "}");
            // Columns stand in braces of their own: without doubled ones all is as it was.
            prop_assert!(text != plain || filled.unwrap() == text);
        }
    }

    #[test]
    fn a_checkpoints_manifest_is_read_or_refused(value in changed(manifest())) {
        survives::<CheckpointManifest>(&value);
        if let Ok(manifest) = serde_json::from_value::<CheckpointManifest>(value) {
            // Asked of every manifest of a store, whoever wrote it.
            let at_the_end = manifest.step >= manifest.job.plan.total_steps;
            prop_assert!(manifest.ends_job() || !at_the_end);
            prop_assert!(manifest.seed().is_some() || manifest.run > 0);
        }
    }

    #[test]
    fn marks_of_generations_and_ends_are_read_or_refused(
        start in changed(json!({"format": 1, "generation": 2, "start_step": 3, "nonce": "n"})),
        end in changed(json!({"format": 1, "generation": 2, "end": "failed", "error": {"what": "w"}})),
    ) {
        survives::<GenerationManifest>(&start);
        survives::<EndMark>(&end);
    }

    #[test]
    fn a_workers_message_is_read_or_refused(
        value in select(from_workers()).prop_flat_map(changed),
    ) {
        survives::<Envelope>(&value);
    }

    #[test]
    fn a_message_to_a_worker_is_read_or_refused(
        value in select(to_workers()).prop_flat_map(changed),
    ) {
        survives::<ToWorker>(&value);
    }

    #[test]
    fn bytes_of_a_message_are_read_or_refused(
        bytes in select(from_workers()).prop_flat_map(|one| spoiled(one.to_string().into())),
    ) {
        drop(serde_json::from_slice::<Envelope>(&bytes));
        drop(serde_json::from_slice::<ToWorker>(&bytes));
        drop(serde_json::from_slice::<CheckpointManifest>(&bytes));
    }

    #[test]
    fn numbers_of_workers_survive(text in "[0-9. ]{0,12}|\\PC{0,8}", min in 1_u32.., more in any::<u32>()) {
        if let Ok(range) = text.parse::<WorkerRange>() {
            prop_assert!(1 <= range.min && range.min <= range.max);
            prop_assert_eq!(range.to_string().parse(), Ok(range));
        }
        let range = WorkerRange { min, max: min.saturating_add(more) };
        prop_assert_eq!(range.to_string().parse(), Ok(range));
    }

    #[test]
    fn an_interval_survives(value in prop_oneof![
        json(),
        "[0-9]{1,21} ?(ns|us|ms|s|m|h|days|weeks|months|years)? ?[0-9]{0,3}s?".prop_map(Value::from),
    ]) {
        survives::<Interval>(&value);
    }

    #[test]
    fn a_choice_of_a_checkpoint_survives(text in text(), step in any::<u64>()) {
        prop_assert_eq!(step.to_string().parse(), Ok(Which::Step(step)));
        if let Ok(which) = text.parse::<Which>() {
            prop_assert_eq!(which.to_string().parse(), Ok(which));
        }
    }

    #[test]
    fn a_hubs_name_leaves_no_folder(rest in "[a-z0-9./@_ -]{0,24}|\\PC{0,24}", trick in text()) {
        for rest in [rest, trick] {
            if let Ok(Some(id)) = HubId::of(&format!("hf://{rest}")) {
                let parts = id.repository.split('/').chain(id.revision.split('/'));
                prop_assert!(parts.clone().all(|part| !part.is_empty() && !part.starts_with('.')));
                prop_assert_eq!(HubId::of(&id.to_string()).unwrap(), Some(id));
            }
        }
    }

    #[test]
    fn a_location_is_absolute_or_refused(rest in "[a-z0-9./%?#:@ -]{0,24}|\\PC{0,24}", trick in text()) {
        for text in [format!("file://{rest}"), format!("/{rest}"), rest, trick] {
            if let Ok(path) = local_path(&text) {
                prop_assert!(path.is_absolute(), "{text}");
            }
        }
    }

    #[test]
    fn a_pulse_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 30..34)) {
        if let Some(record) = PulseRecord::from_bytes(&bytes) {
            prop_assert_eq!(PulseRecord::from_bytes(&record.to_bytes()), Some(record));
        }
    }

    #[test]
    fn an_explanation_survives(value in changed(json!({"what": "w", "place": "p", "expected": "e", "hint": "h"}))) {
        survives::<Explained>(&value);
    }
}

/// Nesting as deep as a file allows ends in a refusal, on a thread with the stack of a server's.
#[test]
fn what_is_nested_too_deep_is_refused() {
    let check = || {
        for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
            assert!(serde_json::from_str::<Envelope>(&deep).is_err());
            assert!(serde_json::from_str::<CheckpointManifest>(&deep).is_err());
        }
        let array = format!("task = {}", "[".repeat(100_000));
        let table = format!("task = {}", "{a=".repeat(100_000));
        let keys = format!("{}a = 1", "a.".repeat(20_000));
        let header = format!("[{}a]", "a.".repeat(20_000));
        for deep in [array, table, keys, header] {
            assert!(JobSpec::from_toml(&deep).is_err());
            assert!(OwnTask::from_toml(&deep, Path::new("own.toml")).is_err());
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}
