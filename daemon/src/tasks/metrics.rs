//! Metrics of predicted against true label indices.

use std::collections::BTreeSet;

/// The name of [`accuracy`].
pub const ACCURACY: &str = "accuracy";

/// Share of rows whose prediction is their label; 0 of no rows.
pub fn accuracy(predictions: &[i32], labels: &[i32]) -> f64 {
    let hits = predictions.iter().zip(labels).filter(|(one, other)| one == other).count();
    ratio(hits, labels.len())
}

/// Mean of the classes' F1, over the classes that occur in predictions or labels.
pub fn macro_f1(predictions: &[i32], labels: &[i32]) -> f64 {
    let classes: BTreeSet<i32> = predictions.iter().chain(labels).copied().collect();
    let sum: f64 = classes.iter().map(|class| f1(predictions, labels, *class)).sum();
    if classes.is_empty() { 0.0 } else { sum / classes.len() as f64 }
}

/// Share of the most frequent label; 0 of no rows.
pub fn majority_share(labels: &[i32]) -> f64 {
    let mut sorted = labels.to_vec();
    sorted.sort_unstable();
    let most = sorted.chunk_by(|one, other| one == other).map(<[i32]>::len).max();
    ratio(most.unwrap_or(0), labels.len())
}

/// Harmonic mean of a class's precision and recall: 2·hits / (predicted + true).
fn f1(predictions: &[i32], labels: &[i32], class: i32) -> f64 {
    let is_class = |values: &[i32]| values.iter().filter(|value| **value == class).count();
    let hits = predictions.iter().zip(labels).filter(|(p, l)| **p == class && **l == class).count();
    ratio(2 * hits, is_class(predictions) + is_class(labels))
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;

    #[test]
    fn cb_reports_accuracy_macro_f1_and_their_mean() {
        let labels = [0, 0, 0, 1, 1, 2];
        let predictions = [0, 0, 1, 1, 1, 1];
        let metrics = tasks::by_name("superglue/cb").unwrap().metrics(&predictions, &labels);
        // Class 0: 2·2/(2+3) = 4/5; class 1: 2·2/(4+2) = 2/3; class 2: 0/(0+1) = 0.
        let f1 = (0.8 + 2.0 / 3.0) / 3.0;
        let accuracy = 4.0 / 6.0;
        let expected =
            [("accuracy", accuracy), ("combined_score", (accuracy + f1) / 2.0), ("f1", f1)];
        assert_eq!(metrics.len(), expected.len());
        for ((name, value), (wanted, right)) in metrics.iter().zip(expected) {
            assert_eq!(name, wanted);
            assert!((value - right).abs() < 1e-12, "{name} is {value}, expected {right}");
        }
    }

    #[test]
    fn a_class_that_never_occurs_does_not_count() {
        assert_eq!(macro_f1(&[0, 1], &[0, 1]), 1.0);
        assert_eq!((macro_f1(&[], &[]), accuracy(&[], &[])), (0.0, 0.0));
    }

    #[test]
    fn the_majority_class_is_the_most_frequent_label() {
        assert_eq!(majority_share(&[1, 0, 1, 1]), 0.75);
        assert_eq!(majority_share(&[]), 0.0);
    }
}
