//! SuperGLUE's official files, read as they are.

use crate::e2e::harness::superglue;
use ptv2_daemon::inputs::Folder;
use ptv2_daemon::tasks::rows::{self, Labels, Wanted};
use ptv2_daemon::tasks::{self, Example, Task};
use std::path::Path;

/// All examples of a split.
fn examples(root: &Path, task: &dyn Task, split: &str, labels: Labels) -> Vec<Example> {
    let (folder, name) = (Folder::at(root), rows::name(task, split));
    let wanted = Wanted { split: split.into(), is_scored: true, labels, max_rows: None };
    let mut found = Vec::new();
    let file = rows::open(&folder, &name).unwrap();
    rows::each(file.reader(), &folder.place(&name), task, &wanted, |example| {
        found.push(example);
        Ok(())
    })
    .unwrap();
    found
}

/// Examples of train, val and test, for each text template.
fn check(root: &Path, name: &str, expected: [usize; 3]) {
    for template in 0..tasks::named(name, 0).unwrap().templates() {
        let task = tasks::named(name, template).unwrap();
        let count = |split, labels| examples(root, &*task, split, labels).len();
        let found = [
            count("train", Labels::Needed),
            count("val", Labels::Needed),
            count("test", Labels::Optional),
        ];
        assert_eq!(found, expected, "{name}, template {template}");
    }
}

#[test]
fn every_row_of_the_official_files_is_read() {
    let Some(root) = superglue() else { return };
    check(&root, "superglue/boolq", [9427, 3270, 3245]);
    check(&root, "superglue/cb", [250, 56, 250]);
    check(&root, "superglue/copa", [400, 100, 500]);
    check(&root, "superglue/multirc", [27243, 4848, 9693]);
    check(&root, "superglue/rte", [2490, 277, 3000]);
    check(&root, "superglue/wic", [5428, 638, 1400]);
    check(&root, "superglue/wsc", [554, 104, 146]);
}

#[test]
fn the_diagnostics_are_read_with_their_labels() {
    let Some(root) = superglue() else { return };
    for (name, count, entailed) in [("superglue/axb", 1104, 460), ("superglue/axg", 356, 178)] {
        let task = tasks::named(name, 0).unwrap();
        let rows = examples(&root, &*task, "test", Labels::Needed);
        assert_eq!(rows.len(), count);
        assert_eq!(rows.iter().filter(|row| row.label == Some(0)).count(), entailed);
        assert!((0..).zip(&rows).all(|(idx, row)| row.idx == idx), "rows are numbered in order");
    }
    let axg = tasks::named("superglue/axg", 0).unwrap();
    let rows = examples(&root, &*axg, "test", Labels::Needed);
    assert!(rows.chunks(2).all(|pair| pair[0].about == pair[1].about), "rows come in pairs");
}

/// A sample, of one query a line.
#[test]
fn a_sample_of_record_is_read() {
    let Some(root) = superglue() else { return };
    let task = tasks::named("superglue/record", 0).unwrap();
    for (split, candidates) in [("train", 397), ("val", 369)] {
        let rows = examples(&root, &*task, split, Labels::Needed);
        assert_eq!(rows.len(), candidates, "{split}");
        let queries = rows.chunk_by(|one, other| one.idx == other.idx);
        let mut count = 0;
        for query in queries {
            count += 1;
            assert!(query.iter().any(|row| row.label == Some(1)), "some entity is right");
            assert!(query.iter().all(|row| !row.pairs[0].1.as_ref().unwrap().contains("@place")));
        }
        assert_eq!(count, 32, "{split}");
    }
}
