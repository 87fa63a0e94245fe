//! Adapters between ptv2 and PEFT, in both directions.

use super::harness::{Cluster, root, superglue, text, tiny_cb};
use crate::parity::{NO_DROPOUT, Reference, check, folder, largest_error};
use ptv2_common::spec::{MethodSpec, PoolerKind, Precision};
use ptv2_daemon::checkpoint::peft;
use ptv2_daemon::inputs::Folder;
use ptv2_daemon::numerics::state::{Layout, le_bytes};
use ptv2_daemon::train::backbones::Backbone;
use ptv2_daemon::train::step::{Network, Setting};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The versions of PEFT that adapters are exchanged with.
const VERSIONS: [&str; 2] = ["0.12.0", "0.21.2"];
/// What goldens/make_adapters.py saves of each, with the number of labels.
const SAVED: [(&str, usize); 5] = [
    ("bert", 3),
    ("bert-choice", 1),
    ("bert-projection", 3),
    ("roberta", 3),
    ("roberta-choice", 1),
];
/// What is trained here for PEFT: a name, the tiny backbone, the task, and the method's keys.
const TRAINED: [(&str, &str, &str, &[&str]); 6] = [
    ("bert", "bert", "cb", &[]),
    ("bert-choice", "bert", "copa", &[]),
    ("bert-projection", "bert", "cb", &["method.prefix_projection=true"]),
    ("bert-pooler", "bert", "cb", &["method.pooler=trained"]),
    ("roberta", "roberta", "cb", &[]),
    ("roberta-choice", "roberta", "copa", &["method.pooler=trained"]),
];

/// The tiny backbone of a case's architecture.
fn backbone(architecture: &str) -> PathBuf {
    folder().parent().unwrap().join(format!("{architecture}-tiny/backbone"))
}

fn architecture(name: &str) -> &str {
    name.split('-').next().unwrap()
}

/// Our logits of the reference's rows with an adapter.
fn logits(
    adapter: &Path,
    architecture: &str,
    labels: usize,
    pooler: Option<PoolerKind>,
) -> Vec<f32> {
    tch::set_num_threads(1);
    let backbone = Backbone::load(&backbone(architecture), Precision::Fp32).unwrap();
    let method = MethodSpec { pre_seq_len: 5, pooler, ..MethodSpec::default() };
    let layout = Layout::of(&method, &backbone.config, labels).unwrap();
    let values = peft::import(&Folder::at(adapter), &layout, None).unwrap();
    let setting = Setting {
        choices: 1,
        outputs: i64::try_from(labels).unwrap(),
        prefix: 5,
        rates: NO_DROPOUT,
        layout,
        pooler: None,
    };
    let reference = Reference::open(&format!("../{architecture}-tiny/reference.safetensors"));
    Network::new(backbone, Arc::new(setting))
        .logits(&values, &reference.slice("", 1, 0..6))
        .unwrap()
}

/// The logits that PEFT recorded beside an adapter.
fn recorded(adapter: &Path) -> Vec<f32> {
    let bytes = std::fs::read(adapter.join("logits.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor("logits").unwrap().data().to_vec();
    data.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn check_logits_of(saved: &Path) {
    for version in VERSIONS {
        for (name, labels) in SAVED {
            let adapter = saved.join(version).join(name);
            let found = logits(&adapter, architecture(name), labels, None);
            let error = largest_error(&found, &recorded(&adapter));
            check(&format!("{name} of PEFT {version}"), error, 1e-4);
        }
    }
}

/// Adapters that each version of PEFT saved give its logits here; see goldens/make_adapters.py.
#[test]
fn adapters_of_peft_give_their_logits() {
    check_logits_of(&folder().parent().unwrap().join("adapters"));
    // And the one that was saved when the goldens were made.
    let found = logits(&folder().join("peft"), "bert", 3, None);
    let expected = Reference::open("reference.safetensors").floats("logits");
    check("logits", largest_error(&found, &expected), 1e-4);
}

/// A CB job on a tiny backbone.
fn job(data: &Path, architecture: &str) -> String {
    let bert = backbone("bert").display().to_string();
    tiny_cb(data, "").replace(&bert, &backbone(architecture).display().to_string())
}

/// Trains from adapters that PEFT saved, which PEFT itself refuses. At a rate of nothing the values come
/// back as they were; at a real one the loss falls from where the adapter had it.
fn check_training_from(saved: &Path) {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    for version in VERSIONS {
        for (name, labels) in SAVED.into_iter().filter(|(_, labels)| *labels == 3) {
            let adapter = saved.join(version).join(name);
            let from = format!("init.adapter={}", adapter.display());
            let rate = ["--set", &from, "--set", "training.learning_rate=1e-12"];
            let status = cluster.run(&job(&data, architecture(name)), &rate);
            let back =
                pull(&cluster, &status, &cluster.folder.path().join(format!("{version}-{name}")));
            let [before, after] =
                [&adapter, &back].map(|one| logits(one, architecture(name), labels, None));
            check(name, largest_error(&before, &after), 1e-6);
        }
        let from = format!("init.adapter={}", saved.join(version).join("roberta").display());
        let more = ["--set", &from, "--set", "training.epochs=6"];
        let status = cluster.run(&job(&data, "roberta"), &more);
        let metrics = cluster.json(&["metrics", status["id"].as_str().unwrap()]);
        let losses: Vec<f64> =
            metrics.as_array().unwrap().iter().filter_map(|row| row["loss"].as_f64()).collect();
        assert!(losses.last().unwrap() < losses.first().unwrap(), "{losses:?}");
    }
}

#[test]
fn training_goes_on_from_adapters_of_peft() {
    check_training_from(&folder().parent().unwrap().join("adapters"));
}

/// Pulls a job's last adapter into a folder.
fn pull(cluster: &Cluster, status: &Value, to: &Path) -> PathBuf {
    let id = status["id"].as_str().unwrap();
    let to = to.to_str().unwrap();
    let run = cluster.ctl(&["pull", id, "--checkpoint", "last", "--force", "--to", to]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    to.into()
}

/// A job whose method PEFT has no form for says so, and is pulled in native form.
#[test]
fn a_prompt_has_no_form_in_peft() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let status = cluster.run(&tiny_cb(&data, ""), &["--set", "method.kind=prompt"]);
    let id = status["id"].as_str().unwrap();
    let run = cluster.ctl(&["pull", id]);
    assert_eq!(run.status.code(), Some(2));
    let said = text(&run.stderr);
    assert!(said.contains("PEFT has no form") && said.contains("--format native"), "{said}");
    let native = cluster.folder.path().join("native");
    let to = native.to_str().unwrap();
    assert!(cluster.ctl(&["pull", id, "--format", "native", "--to", to]).status.success());
    // A native checkpoint is a start, too.
    let from = format!("init.adapter={to}");
    let more = ["--set", "method.kind=prompt", "--set", &from];
    assert_eq!(cluster.run(&tiny_cb(&data, ""), &more)["state"], "succeeded");
}

/// `make test-peft` runs this, then PEFT on what it leaves in target/peft-check: pulled adapters, and our
/// logits of the references' rows with each.
#[test]
#[ignore = "one part of `make test-peft`"]
fn trained_adapters_for_peft() {
    let Some(data) = superglue() else { return };
    let out = root().join("target/peft-check");
    let cluster = Cluster::start(1, 1);
    for (name, architecture, task, more) in TRAINED {
        let job = job(&data, architecture).replace("superglue/cb", &format!("superglue/{task}"));
        let mut args = vec!["--set", "training.learning_rate=0.01"];
        args.extend(more.iter().flat_map(|key| ["--set", key]));
        let adapter = pull(&cluster, &cluster.run(&job, &args), &out.join(name).join("adapter"));
        let labels = if task == "copa" { 1 } else { 3 };
        let pooler = more.contains(&"method.pooler=trained").then_some(PoolerKind::Trained);
        let bytes = le_bytes(&logits(&adapter, architecture, labels, pooler));
        let view = TensorView::new(Dtype::F32, vec![6, labels], &bytes).unwrap();
        let file = safetensors::serialize([("logits", view)], None).unwrap();
        std::fs::write(out.join(name).join("logits.safetensors"), file).unwrap();
    }
}

/// And this, on what each PEFT saved there.
#[test]
#[ignore = "one part of `make test-peft`"]
fn adapters_that_peft_has_just_saved() {
    let saved = root().join("target/peft-check/saved");
    check_logits_of(&saved);
    check_training_from(&saved);
}
