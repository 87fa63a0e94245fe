//! Real SuperGLUE rows on a real small backbone, through the real binaries.
//!
//! The bounds on the training loss were found by running these very jobs, and stand with what was
//! found; they catch a method that no longer learns, not a last digit.

use super::harness::usage::usage;
use super::harness::{Cluster, hash, minilm, pid, superglue};
use serde_json::Value;
use std::path::Path;

/// A job on the real backbone, of two workers.
pub(crate) fn job(task: &str, data: &Path, training: &str) -> String {
    format!(
        "task = \"superglue/{task}\"\n\
         backbone.path = \"{}\"\n\
         data = {{ root = \"{}\", max_seq_length = 64 }}\n\
         method = {{ pre_seq_len = 8, hidden_dropout_prob = 0.0, attention_dropout = 0.0 }}\n\
         training = {{ {training} }}\n\
         resources.workers = \"2\"\n",
        minilm().display(),
        data.display()
    )
}

/// The mean training loss of the last steps.
fn loss(cluster: &Cluster, id: &str, last: usize) -> f64 {
    let metrics = cluster.json(&["metrics", id]);
    let losses: Vec<f64> =
        metrics.as_array().unwrap().iter().filter_map(|row| row["loss"].as_f64()).collect();
    losses[losses.len() - last..].iter().sum::<f64>() / last as f64
}

fn accuracy(status: &Value, which: &str) -> f64 {
    assert_eq!(status[which]["metric"], "accuracy");
    status[which]["value"].as_f64().unwrap()
}

/// Resident memory of a worker in KiB.
fn resident(worker: &Value) -> u64 {
    usage(pid(worker)).unwrap().resident >> 10
}

#[test]
fn cb_is_learned_and_the_backbone_is_loaded_once() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let training = "epochs = 3, batch_size = 16, learning_rate = 3e-2";
    let mut best = Vec::new();
    let mut memory = Vec::new();
    for seed in ["11", "12", "13"] {
        let set = format!("training.seed={seed}");
        let status = cluster.run(&job("cb", &data, training), &["--set", &set]);
        let loss = loss(&cluster, status["id"].as_str().unwrap(), 16);
        println!("CB seed {seed}: best {}, last epoch's loss {loss:.3}", status["best"]);
        assert!(loss < CB_LOSS, "seed {seed}: {loss}");
        assert_eq!(status["majority_class"], 0.5);
        best.push(accuracy(&status, "best"));
        let workers = cluster.json(&["workers"]);
        memory.push(workers.as_array().unwrap().iter().map(resident).sum::<u64>());
        for worker in workers.as_array().unwrap() {
            assert_eq!(worker["backbone_loads"], 1, "{worker}");
        }
    }
    let mean = best.iter().sum::<f64>() / 3.0;
    println!("CB mean best accuracy {mean:.4}; resident KiB of both workers {memory:?}");
    assert!(mean > 0.5, "{best:?}");
    // Loading and keeping the backbone for each job would add 360 MB to both workers together. Below
    // that the allocator settles: 110 MB a worker over the first five jobs, then nothing more.
    assert!(memory[2] < memory[0] + 300_000, "{memory:?}");
}

#[test]
fn copa_runs_as_multiple_choice() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let training = "epochs = 3, batch_size = 16, learning_rate = 5e-2";
    let status = cluster.run(&job("copa", &data, training), &[]);
    let loss = loss(&cluster, status["id"].as_str().unwrap(), 25);
    // 100 rows are noise: reported, not judged.
    println!("COPA: best {}, last epoch's loss {loss:.3}", status["best"]);
    assert!(loss < COPA_LOSS, "{loss}");
}

/// From submit to a pulled adapter, on real RTE and two workers; then once more on one, to the same
/// bits.
#[test]
fn rte_goes_from_submit_to_pulled_adapter() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let training = "max_steps = 20, batch_size = 16, learning_rate = 1e-2, slices = 6";
    let status = cluster.run(&job("rte", &data, training), &[]);
    let id = status["id"].as_str().unwrap();
    println!("RTE after 20 steps: {}, loss {:.3}", status["last"], loss(&cluster, id, 10));
    let run = cluster.ctl(&["pull", id, "--to", "adapter"]);
    assert!(run.status.success(), "{}", super::harness::text(&run.stderr));
    let adapter = cluster.folder.path().join("adapter");
    assert!(adapter.join("adapter_config.json").exists());
    assert!(adapter.join("adapter_model.safetensors").exists());
    let one = cluster.run(&job("rte", &data, training), &["--workers", "1"]);
    assert_eq!(hash(&one), hash(&status), "a real backbone, on one worker and on two");
}

#[test]
fn boolq_runs() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let training = "max_steps = 5, batch_size = 16, learning_rate = 1e-2";
    let rows = ["--set", "data.max_train_rows=200", "--set", "data.max_val_rows=50"];
    let status = cluster.run(&job("boolq", &data, training), &rows);
    println!("BoolQ after 5 steps: {}", status["last"]);
    assert_eq!(status["step"], 5);
}

/// Found: 0.65 to 0.68 in the third epoch. Guessing by the class shares costs 0.90 (their entropy).
const CB_LOSS: f64 = 0.80;
/// Found: 0.51 in the third epoch. A coin costs 0.693.
const COPA_LOSS: f64 = 0.62;
