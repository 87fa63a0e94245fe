//! Tasks beyond one example a row, and a task of one's own, through the real binaries.

use super::harness::{Cluster, superglue};
use super::real_data::job;
use serde_json::{Value, json};
use std::path::Path;

/// A job of few steps on few rows; gives its last evaluation.
fn last_evaluation(cluster: &Cluster, job: &str, sets: &[&str]) -> Value {
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let status = cluster.run(job, &sets);
    let metrics = cluster.json(&["metrics", status["id"].as_str().unwrap()]);
    let mut rows = metrics.as_array().unwrap().iter();
    let evaluation = rows.rfind(|row| row["values"].is_object()).unwrap();
    evaluation["values"].clone()
}

fn names(values: &Value) -> Vec<&str> {
    values.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The sample says nothing of quality: that it runs is all that is looked at.
#[test]
fn questions_of_many_rows_are_trained_and_judged_as_a_whole() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let training = "max_steps = 2, batch_size = 16, learning_rate = 1e-2";
    let rows = ["data.max_train_rows=100", "data.max_val_rows=60"];
    let values = last_evaluation(&cluster, &job("record", &data, training), &rows);
    println!("ReCoRD's sample after 2 steps: {values}");
    assert_eq!(names(&values), ["em", "f1"]);
    let values = last_evaluation(&cluster, &job("multirc", &data, training), &rows);
    println!("MultiRC after 2 steps: {values}");
    assert_eq!(names(&values), ["em", "f1a", "f1m"]);
}

/// A table whose label a word gives away, which a small model learns.
#[test]
fn a_table_becomes_a_task_by_a_file() {
    let cluster = Cluster::start(1, 2);
    let folder = cluster.folder.path().join("reviews");
    std::fs::create_dir_all(&folder).unwrap();
    for (split, rows) in [("train", 64), ("val", 16)] {
        let row = |at: usize| {
            let (word, stars) = if at.is_multiple_of(2) { ("wonderful", 5) } else { ("awful", 1) };
            format!("{stars},\"A film, number {at}\",It was {word}.\n")
        };
        let text: String = (0..rows).map(row).collect();
        std::fs::write(folder.join(format!("{split}.csv")), format!("stars,title,body\n{text}"))
            .unwrap();
    }
    let declared = "name = \"stars\"\nfirst = \"{title}\"\nsecond = \"{body}\"\n\
                    label = \"stars\"\nlabels = [1, 5]\nmetric = \"f1\"\n";
    std::fs::write(folder.join("stars.toml"), declared).unwrap();
    let training = "epochs = 6, batch_size = 8, learning_rate = 3e-2";
    let job = job("x", Path::new(&folder), training)
        .replace("superglue/x", folder.join("stars.toml").to_str().unwrap())
        .replace("workers = \"2\"", "workers = \"1\"");
    let values = last_evaluation(&cluster, &job, &[]);
    assert_eq!(values, json!({"accuracy": 1.0, "f1": 1.0}));
}
