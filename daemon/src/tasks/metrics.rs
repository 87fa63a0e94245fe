//! Metrics of predicted against true label indices.

use std::collections::BTreeSet;

/// The name of [`accuracy`].
pub const ACCURACY: &str = "accuracy";
/// The name of [`matthews`].
pub const MATTHEWS: &str = "matthews_correlation";

/// Share of rows whose prediction is their label; 0 of no rows.
pub fn accuracy(predictions: &[i32], labels: &[i32]) -> f64 {
    let hits = predictions.iter().zip(labels).filter(|(one, other)| one == other).count();
    ratio(hits, labels.len())
}

/// Harmonic mean of a class's precision and recall: 2·hits / (predicted + true); 0 where the class
/// occurs in neither.
pub fn f1(predictions: &[i32], labels: &[i32], class: i32) -> f64 {
    let is_class = |values: &[i32]| values.iter().filter(|value| **value == class).count();
    let hits = predictions.iter().zip(labels).filter(|(p, l)| **p == class && **l == class).count();
    ratio(2 * hits, is_class(predictions) + is_class(labels))
}

/// Mean of the classes' F1, over the classes that occur in predictions or labels.
pub fn macro_f1(predictions: &[i32], labels: &[i32]) -> f64 {
    let classes: BTreeSet<i32> = predictions.iter().chain(labels).copied().collect();
    let sum: f64 = classes.iter().map(|class| f1(predictions, labels, *class)).sum();
    if classes.is_empty() { 0.0 } else { sum / classes.len() as f64 }
}

/// Matthews' correlation of predictions and labels, of any number of classes: -1 to 1, and 0 where one
/// of the two is of one class only.
pub fn matthews(predictions: &[i32], labels: &[i32]) -> f64 {
    let classes: BTreeSet<i32> = predictions.iter().chain(labels).copied().collect();
    let count = |values: &[i32], class: i32| values.iter().filter(|value| **value == class).count();
    let rows = labels.len() as f64;
    let hits = predictions.iter().zip(labels).filter(|(p, l)| p == l).count() as f64;
    let (mut mixed, mut predicted, mut right) = (0.0, 0.0, 0.0);
    for class in classes {
        let (p, l) = (count(predictions, class) as f64, count(labels, class) as f64);
        mixed += p * l;
        predicted += p * p;
        right += l * l;
    }
    let scale = (rows * rows - predicted) * (rows * rows - right);
    if scale > 0.0 { (hits * rows - mixed) / scale.sqrt() } else { 0.0 }
}

/// Share of the most frequent label; 0 of no rows.
pub fn majority_share(labels: &[i32]) -> f64 {
    let mut sorted = labels.to_vec();
    sorted.sort_unstable();
    let most = sorted.chunk_by(|one, other| one == other).map(<[i32]>::len).max();
    ratio(most.unwrap_or(0), labels.len())
}

/// The class that all of several predictions are.
pub fn only_class(predictions: &[i32]) -> Option<i32> {
    let (first, others) = predictions.split_first()?;
    (!others.is_empty() && others.iter().all(|other| other == first)).then_some(*first)
}

/// A share of a whole; 0 of nothing.
pub(super) fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::Value;

    /// What scikit-learn says, see tests/goldens/make_tasks.py.
    pub(in crate::tasks) fn goldens() -> Value {
        serde_json::from_str(include_str!("../../../tests/goldens/tasks/metrics.json")).unwrap()
    }

    pub(in crate::tasks) fn close(one: f64, other: f64) {
        assert!((one - other).abs() < 1e-12, "{one} is not {other}");
    }

    #[test]
    fn scikit_learn_gives_the_same() {
        let goldens = goldens();
        let goldens = goldens["flat"].as_array().unwrap();
        assert_eq!(goldens.len(), 6);
        for golden in goldens {
            let numbers =
                |name: &str| -> Vec<i32> { serde_json::from_value(golden[name].clone()).unwrap() };
            let (predictions, labels) = (numbers("predictions"), numbers("labels"));
            let right = |name: &str| golden[name].as_f64().unwrap();
            close(accuracy(&predictions, &labels), right(ACCURACY));
            close(f1(&predictions, &labels, 1), right("f1"));
            close(macro_f1(&predictions, &labels), right("macro_f1"));
            close(matthews(&predictions, &labels), right(MATTHEWS));
        }
    }

    #[test]
    fn a_class_that_never_occurs_does_not_count() {
        close(macro_f1(&[0, 1], &[0, 1]), 1.0);
        assert_eq!((macro_f1(&[], &[]), accuracy(&[], &[])), (0.0, 0.0));
    }

    #[test]
    fn matthews_is_the_correlation_of_the_four_counts() {
        // 3 true of class 1 found, 1 missed, 1 of class 0 taken for it, 2 not.
        let labels = [1, 1, 1, 1, 0, 0, 0];
        let predictions = [1, 1, 1, 0, 1, 0, 0];
        let expected = (3.0 * 2.0 - 1.0 * 1.0) / (4.0_f64 * 4.0 * 3.0 * 3.0).sqrt();
        close(matthews(&predictions, &labels), expected);
        close(matthews(&labels, &labels), 1.0);
        close(matthews(&[1; 7], &labels), 0.0);
        close(matthews(&[], &[]), 0.0);
        let opposite = labels.map(|label| 1 - label);
        close(matthews(&opposite, &labels), -1.0);
    }

    #[test]
    fn the_majority_class_is_the_most_frequent_label() {
        assert_eq!(majority_share(&[1, 0, 1, 1]), 0.75);
        assert_eq!(majority_share(&[]), 0.0);
    }

    #[test]
    fn one_class_alone_is_seen_of_two_rows_and_more() {
        assert_eq!(only_class(&[2, 2, 2]), Some(2));
        assert_eq!([only_class(&[2, 1]), only_class(&[2]), only_class(&[])], [None; 3]);
    }
}
