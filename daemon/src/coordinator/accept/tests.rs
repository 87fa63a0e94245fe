//! Acceptance on a small folder of RTE rows and the golden backbone.

use super::*;
use crate::backbone::{CONFIG, TOKENIZER, WEIGHTS};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A temporary folder `allowed` with data and a backbone, and one beside it that is not allowed.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// Three training rows, two validation rows, and a copy of the golden backbone.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Self { folder };
        fs::create_dir_all(place.path("allowed/data/RTE")).unwrap();
        fs::create_dir_all(place.path("elsewhere")).unwrap();
        let row = |label: &str| {
            json!({"premise": "A cat.", "hypothesis": "The cat.", "label": label, "idx": 0})
                .to_string()
        };
        let (yes, no) = (row("entailment"), row("not_entailment"));
        place.write("allowed/data/RTE/train.jsonl", &[&*yes, &no, &yes].join("\n"));
        place.write("allowed/data/RTE/val.jsonl", &format!("{no}\n{no}\n{yes}\n{no}\n"));
        copy(&goldens().join("backbone"), &place.path("allowed/model"));
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn roots(&self) -> Roots {
        let allowed = vec![self.path("allowed"), self.path("not-there")];
        Roots { allowed, ..Roots::default() }
    }

    pub(crate) fn spec(&self) -> Value {
        json!({
            "task": "superglue/rte",
            "backbone": {"path": self.path("allowed/model")},
            "data": {"root": format!("file://{}", self.path("allowed/data").display()),
                "max_seq_length": 24},
            "method": {"pre_seq_len": 5},
            "training": {"epochs": 4, "batch_size": 2, "learning_rate": 0.005},
        })
    }

    pub(crate) fn accept(&self, spec: Value) -> Result<JobRecord, Explained> {
        let id = JobId("j0123456789".into());
        accept(spec, &self.roots(), &HashCache::default(), id, 7)
    }
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/bert-tiny")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in [CONFIG, WEIGHTS, TOKENIZER] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn a_job_is_accepted_with_all_of_it_pinned() {
    let place = Place::new();
    let record = place.accept(place.spec()).unwrap();
    assert_eq!((record.name.as_str(), record.submitted_unix_ms), ("rte-j0123456789", 7));
    assert_eq!(record.labels, ["entailment", "not_entailment"]);
    assert_eq!((record.choices, record.best_metric.as_str()), (1, "accuracy"));
    assert_eq!(record.spec.data.root, place.path("allowed/data").to_str().unwrap());
    assert_eq!(record.spec.backbone.path, record.backbone.directory);
    assert_eq!(record.spec.training.slices, Some(1));
    assert_eq!(
        (record.backbone.hidden_size, record.backbone.layers, record.backbone.heads),
        (32, 2, 4)
    );
    let weights = fs::read(place.path("allowed/model/model.safetensors")).unwrap();
    assert_eq!(record.backbone.weights_sha256, storage::sha256(&weights));
    let prefix = 5 * 2 * 2 * 32;
    let trainable = prefix + 32 * 2 + 2;
    let expected = Plan {
        train_rows: 3,
        val_rows: 4,
        steps_per_epoch: 2,
        total_steps: 8,
        slices: 1,
        trainable_parameters: trainable,
        prefix_parameters: prefix,
        pooler_parameters: 0,
        frozen_parameters: 0,
        gradient_bytes: 4 * trainable,
        checkpoint_bytes: 12 * trainable,
        positions_used: 29,
        positions_available: 64,
    };
    assert_eq!(record.plan, expected);
    assert_eq!(plan(place.spec(), &place.roots()).unwrap(), expected);
    let again = place.accept(place.spec()).unwrap();
    assert_eq!(again.spec_sha256, record.spec_sha256);
    let mut other = place.spec();
    other["training"]["seed"] = 12.into();
    assert_ne!(place.accept(other).unwrap().spec_sha256, record.spec_sha256);
}

#[test]
fn limits_and_steps_count() {
    let place = Place::new();
    let mut spec = place.spec();
    spec["data"]["max_train_rows"] = 2.into();
    spec["training"] = json!({"max_steps": 9, "learning_rate": 0.1, "batch_size": 32, "slices": 3});
    spec["method"]["kind"] = "head".into();
    spec["name"] = "mine".into();
    let record = place.accept(spec).unwrap();
    let plan = &record.plan;
    assert_eq!(
        (plan.train_rows, plan.steps_per_epoch, plan.total_steps, plan.slices),
        (2, 1, 9, 3)
    );
    assert_eq!((plan.prefix_parameters, plan.trainable_parameters), (0, 66));
    assert_eq!((record.name.as_str(), plan.positions_used), ("mine", 24));
}

fn check_refused(
    place: &Place,
    change: impl FnOnce(&mut Value),
    what: &str,
    at: &str,
) -> Explained {
    let mut spec = place.spec();
    change(&mut spec);
    let error = plan(spec, &place.roots()).unwrap_err();
    assert!(error.what.contains(what), "{error:?} does not say {what:?}");
    assert!(error.place.as_deref().is_some_and(|place| place.ends_with(at)), "{error:?}");
    error
}

#[test]
fn prefix_and_text_must_fit_the_positions() {
    let place = Place::new();
    let fit =
        |longest: u32| move |spec: &mut Value| spec["data"]["max_seq_length"] = longest.into();
    let mut exact = place.spec();
    fit(59)(&mut exact);
    assert_eq!(plan(exact, &place.roots()).unwrap().positions_used, 64);
    let what = "a prefix of 5 and sequences of up to 60 take 65 positions, but the backbone has 64";
    let error = check_refused(&place, fit(60), what, "data.max_seq_length");
    assert_eq!(error.hint.unwrap(), "lower `data.max_seq_length` to 59, or `method.pre_seq_len`");
}

#[test]
fn each_architecture_counts_its_positions() {
    // RoBERTa's and MPNet's first two rows are the padding's; a prefix before a DeBERTa takes none.
    for (name, used, available) in
        [("roberta-tiny", 29, 144), ("mpnet-tiny", 29, 144), ("deberta-tiny", 24, 144)]
    {
        let place = Place::new();
        copy(&goldens().join("..").join(name).join("backbone"), &place.path("allowed/model"));
        let found = plan(place.spec(), &place.roots()).unwrap();
        assert_eq!((found.positions_used, found.positions_available), (used, available), "{name}");
        assert_eq!(found.prefix_parameters, 5 * 2 * 2 * 32);
    }
}

#[test]
fn nothing_outside_the_roots_is_read() {
    let place = Place::new();
    let outside = "lies under no root";
    copy(&place.path("allowed/model"), &place.path("elsewhere/model"));
    symlink(place.path("elsewhere"), place.path("allowed/link")).unwrap();
    let path = |name: &str| json!(place.path(name));
    for name in ["elsewhere/model", "allowed/link/model", "allowed/../elsewhere/model", "nowhere"] {
        let to = path(name);
        let change = |spec: &mut Value| spec["backbone"]["path"] = to;
        let error = check_refused(&place, change, outside, "backbone.path");
        let roots = error.expected.unwrap();
        assert!(roots.contains(place.path("allowed").to_str().unwrap()), "{roots}");
        assert!(error.hint.unwrap().contains("--allow"));
    }
    let to = path("elsewhere");
    check_refused(&place, |spec| spec["data"]["root"] = to, outside, "data.root");
    let to = path("elsewhere");
    check_refused(&place, |spec| spec["init"] = json!({"adapter": to}), outside, "init.adapter");
    let to = path("allowed/typo");
    check_refused(&place, |spec| spec["data"]["root"] = to, "cannot be read", "data.root");
    let relative = |spec: &mut Value| spec["backbone"]["path"] = "model".into();
    check_refused(&place, relative, "`model` is no location", "backbone.path");

    let train = place.path("allowed/data/RTE/train.jsonl");
    fs::rename(&train, place.path("elsewhere/train.jsonl")).unwrap();
    symlink(place.path("elsewhere/train.jsonl"), &train).unwrap();
    check_refused(&place, |_| (), outside, "data.root");
}

#[test]
fn a_root_may_be_a_link_itself() {
    let place = Place::new();
    symlink(place.path("allowed"), place.path("alias")).unwrap();
    let roots = Roots { allowed: vec![place.path("alias")], ..Roots::default() };
    assert!(plan(place.spec(), &roots).is_ok());
}

#[test]
fn a_refused_spec_or_row_is_named() {
    let place = Place::new();
    check_refused(&place, |spec| spec["task"] = "superglue/x".into(), "does not know", "task");
    let template = |spec: &mut Value| spec["data"]["template_id"] = 1.into();
    check_refused(&place, template, "`data.template_id` is 1", "data.template_id");
    place.write("allowed/data/RTE/val.jsonl", "{\"premise\": \"A\"}\n");
    check_refused(&place, |_| (), "`hypothesis` is missing", "data/RTE/val.jsonl:1");
    fs::remove_file(place.path("allowed/data/RTE/val.jsonl")).unwrap();
    check_refused(&place, |_| (), "RTE/val.jsonl` cannot be read", "data.root");
}

/// Makes the job one of a task file that reads the rows of RTE.
fn with_own_task(place: &Place, declared: &str) -> Value {
    place.write("allowed/own.toml", declared);
    let mut spec = place.spec();
    spec["task"] = json!(place.path("allowed/own.toml"));
    spec["data"]["root"] = json!(place.path("allowed/data/RTE"));
    spec
}

const OWN: &str = "name = \"mine\"\nfirst = \"{premise} So: {hypothesis}\"\n\
                   labels = [\"not_entailment\", \"entailment\"]\nmetric = \"matthews\"\n";

#[test]
fn a_task_of_ones_own_is_pinned_as_it_was() {
    let place = Place::new();
    let record = place.accept(with_own_task(&place, OWN)).unwrap();
    assert_eq!(record.name, "mine-j0123456789");
    assert_eq!(record.labels, ["not_entailment", "entailment"]);
    assert_eq!(record.best_metric, "matthews_correlation");
    assert_eq!((record.plan.train_rows, record.plan.val_rows), (3, 4));
    fs::remove_file(place.path("allowed/own.toml")).unwrap();
    let json = serde_json::to_string(&record).unwrap();
    let record: JobRecord = serde_json::from_str(&json).unwrap();
    let row = json!({"premise": "A.", "hypothesis": "B.", "label": "entailment"});
    let example = tasks::of(&record).unwrap().examples(&row).unwrap().remove(0);
    assert_eq!((example.pairs, example.label), (vec![("A. So: B.".into(), None)], Some(1)));

    fs::remove_file(place.path("allowed/data/RTE/val.jsonl")).unwrap();
    place.write("allowed/data/RTE/val.csv", "premise,hypothesis,label\n\"A, b.\",B.,entailment\n");
    let record = place.accept(with_own_task(&place, OWN)).unwrap();
    let files = record.own_task.unwrap().files;
    assert_eq!((record.plan.val_rows, files.train, files.val), (1, None, Some("val.csv".into())));
}

#[test]
fn a_refused_task_file_is_named() {
    let place = Place::new();
    let check = |declared: &str, what: &str, at: &str| {
        let spec = with_own_task(&place, declared);
        check_refused(&place, |job| *job = spec, what, at)
    };
    check(&OWN.replace("labels", "lables"), "unknown key `lables`", "allowed/own.toml, line 3");
    let missing = OWN.replace("{premise}", "{premises}");
    let error = check(
        &missing,
        "`first` names the column `premises`, which the row lacks",
        "data/RTE/train.jsonl:1",
    );
    assert_eq!(error.hint.unwrap(), "did you mean `premise`? Mend it in the task file");
    let error = check(
        &OWN.replace("not_entailment", "not entailment"),
        "`label` is \"not_entailment\"",
        "data/RTE/train.jsonl:2",
    );
    assert_eq!(error.hint.unwrap(), "did you mean `not entailment`?");
    let nowhere = place.path("elsewhere/own.toml");
    check_refused(
        &place,
        |job| job["task"] = json!(nowhere),
        "lies under no root that jobs may read",
        "task",
    );
    let nowhere = place.path("allowed/nothing.toml");
    check_refused(&place, |job| job["task"] = json!(nowhere), "cannot be read", "task");
}

#[test]
fn a_diagnostic_set_is_not_trained_on() {
    let place = Place::new();
    let change = |job: &mut Value| job["task"] = "superglue/axb".into();
    let error = check_refused(&place, change, "superglue/axb has no training rows", "task");
    assert!(error.hint.unwrap().starts_with("train on superglue/rte"));
}

#[test]
fn a_backbone_that_cannot_be_used_is_named() {
    let place = Place::new();
    let config = fs::read_to_string(place.path("allowed/model/config.json")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(config.contains(from));
        place.write("allowed/model/config.json", &config.replace(from, to));
    };
    let file = "allowed/model/config.json";
    with("\"bert\"", "\"gpt2\"");
    check_refused(&place, |_| (), "`model_type` of the backbone is \"gpt2\"", file);
    with("\"num_attention_heads\": 4", "\"num_attention_heads\": 5");
    check_refused(&place, |_| (), "`hidden_size` of the backbone is 32", file);
    with("\"vocab_size\"", "\"words\"");
    check_refused(&place, |_| (), "missing field `vocab_size`", file);
    with("\"absolute\"", "\"relative_key\"");
    check_refused(
        &place,
        |_| (),
        "`position_embedding_type` of the backbone is relative_key",
        file,
    );
    place.write(file, &config);
    fs::remove_file(place.path("allowed/model/tokenizer.json")).unwrap();
    check_refused(&place, |_| (), "model/tokenizer.json` cannot be read", "backbone.path");
    let weights = place.path("allowed/model/model.safetensors");
    fs::rename(weights, place.path("allowed/model/pytorch_model.bin")).unwrap();
    let error = check_refused(&place, |_| (), "a pickle", "backbone.path");
    assert!(error.hint.unwrap().contains("convert"));
}

#[test]
fn a_hash_is_remembered_until_the_file_changes() {
    let place = Place::new();
    let cache = HashCache::default();
    let file = place.path("elsewhere/file");
    place.write("elsewhere/file", "one");
    let hash = || cache.sha256(&Folder::at(file.parent().unwrap()).open("file").unwrap(), "file");
    let one = hash().unwrap();
    assert_eq!(one, storage::sha256(b"one"));
    assert_eq!(hash().unwrap(), one);
    place.write("elsewhere/file", "three");
    assert_eq!(hash().unwrap(), storage::sha256(b"three"));
}

/// An adapter that was pulled knows the backbone that it was trained on.
#[test]
fn an_adapter_must_be_of_this_very_backbone() {
    let place = Place::new();
    let job = place.accept(place.spec()).unwrap();
    let config = Config::read(&place.path("allowed/model")).unwrap();
    let layout = Layout::of(&job.spec.method, &config, 2).unwrap();
    fs::create_dir(place.path("allowed/adapter")).unwrap();
    for (name, bytes) in peft::export(&job, &layout, &vec![0.5; layout.len()]).unwrap() {
        fs::write(place.path("allowed/adapter").join(name), bytes).unwrap();
    }
    let mut spec = place.spec();
    spec["init"] = json!({"adapter": place.path("allowed/adapter")});
    assert!(place.accept(spec.clone()).unwrap().init_sha256.is_some());
    let to = place.path("allowed/adapter");
    let longer = |spec: &mut Value| {
        spec["init"] = json!({"adapter": to});
        spec["method"]["pre_seq_len"] = 6.into();
    };
    check_refused(&place, longer, "has 5 positions", "adapter_config.json");

    let weights = place.path("allowed/model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let error = place.accept(spec.clone()).unwrap_err();
    assert!(error.what.contains(&job.backbone.weights_sha256), "{error:?}");
    assert!(error.expected.unwrap().contains(&storage::sha256(&bytes)));

    // What an adapter says of itself is read, so it must lie under a root, too.
    let origin = place.path("allowed/adapter/ptv2.json");
    fs::rename(&origin, place.path("elsewhere/ptv2.json")).unwrap();
    symlink(place.path("elsewhere/ptv2.json"), &origin).unwrap();
    let error = plan(spec, &place.roots()).unwrap_err();
    assert!(error.what.contains("lies under no root"), "{error:?}");
}
