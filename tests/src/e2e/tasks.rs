//! Tasks beyond one example a row, and a task of one's own, through the real binaries.

use super::harness::{Cluster, superglue};
use super::real_data::job;
use std::path::Path;

/// Runs a job; gives some metrics of its last evaluation.
fn measured<const N: usize>(
    cluster: &Cluster,
    job: &str,
    sets: &[&str],
    names: [&str; N],
) -> [f64; N] {
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let status = cluster.run(job, &sets);
    let metrics = cluster.json(&["metrics", status["id"].as_str().unwrap()]);
    let rows = metrics.as_array().unwrap();
    let last = rows.iter().rfind(|row| row["split"] == "val").unwrap();
    names.map(|name| last[name].as_f64().unwrap())
}

/// The sample says nothing of quality: that it runs is all that is looked at.
#[test]
fn questions_of_many_rows_are_trained_and_judged_as_a_whole() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let training = "max_steps = 2, batch_size = 16, learning_rate = 1e-2";
    let rows = ["data.max_train_rows=100", "data.max_val_rows=60"];
    let shares = |values: &[f64]| values.iter().all(|value| (0.0..=1.0).contains(value));
    let found = measured(&cluster, &job("record", &data, training), &rows, ["em", "f1"]);
    println!("ReCoRD's sample after 2 steps: {found:?}");
    assert!(shares(&found) && found[0] <= found[1], "{found:?}");
    let found = measured(&cluster, &job("multirc", &data, training), &rows, ["em", "f1a", "f1m"]);
    println!("MultiRC after 2 steps: {found:?}");
    assert!(shares(&found), "{found:?}");
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
    assert_eq!(measured(&cluster, &job, &[], ["accuracy", "f1"]), [1.0, 1.0]);
}
