//! RTE: whether a premise entails a hypothesis; and the two diagnostic sets that a model of it is
//! asked, AX-b (broad coverage) and AX-g (Winogender).

use super::fields::Fields;
use super::{Example, Scored, Task, flat, labels, metrics, predictions};
use ptv2_common::error::Explained;
use serde_json::Value;
use std::collections::BTreeMap;

const RTE: &str = "superglue/rte";
const LABELS: [&str; 2] = ["entailment", "not_entailment"];

/// Recognizing textual entailment.
pub(super) struct Rte;

impl Task for Rte {
    fn name(&self) -> &str {
        RTE
    }

    fn folder(&self) -> &str {
        "RTE"
    }

    fn labels(&self) -> Vec<&str> {
        LABELS.to_vec()
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let pair = (fields.text("premise")?.into(), Some(fields.text("hypothesis")?.into()));
        flat(self, &fields, vec![pair])
    }
}

/// Broad-coverage diagnostics: one file, no training rows.
pub(super) struct AxB;

impl Task for AxB {
    fn name(&self) -> &str {
        "superglue/axb"
    }

    fn folder(&self) -> &str {
        "AX-b"
    }

    fn file(&self, _: &str) -> String {
        "AX-b.jsonl".into()
    }

    fn trained_as(&self) -> Option<&str> {
        Some(RTE)
    }

    fn labels(&self) -> Vec<&str> {
        LABELS.to_vec()
    }

    fn best_metric(&self) -> &str {
        metrics::MATTHEWS
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let pair = (fields.text("sentence1")?.into(), Some(fields.text("sentence2")?.into()));
        flat(self, &fields, vec![pair])
    }

    fn metrics(&self, rows: &[Scored]) -> BTreeMap<String, f64> {
        let (predictions, labels) = (predictions(rows), labels(rows));
        BTreeMap::from([
            (metrics::ACCURACY.into(), metrics::accuracy(&predictions, &labels)),
            (metrics::MATTHEWS.into(), metrics::matthews(&predictions, &labels)),
        ])
    }
}

/// Winogender diagnostics: one file, no training rows. Each two rows differ in the gender of a pronoun
/// alone.
pub(super) struct AxG;

impl Task for AxG {
    fn name(&self) -> &str {
        "superglue/axg"
    }

    fn folder(&self) -> &str {
        "AX-g"
    }

    fn file(&self, _: &str) -> String {
        "AX-g.jsonl".into()
    }

    fn trained_as(&self) -> Option<&str> {
        Some(RTE)
    }

    fn labels(&self) -> Vec<&str> {
        LABELS.to_vec()
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let hypothesis = fields.text("hypothesis")?;
        let pair = (fields.text("premise")?.into(), Some(hypothesis.into()));
        let mut examples = flat(self, &fields, vec![pair])?;
        // The file numbers its rows one by one; what a pair has in common is its hypothesis.
        for example in &mut examples {
            example.about = hypothesis.into();
        }
        Ok(examples)
    }

    fn metrics(&self, rows: &[Scored]) -> BTreeMap<String, f64> {
        let accuracy = metrics::accuracy(&predictions(rows), &labels(rows));
        BTreeMap::from([
            (metrics::ACCURACY.into(), accuracy),
            ("gender_parity".into(), gender_parity(rows)),
        ])
    }
}

/// Share of the pairs, rows 0 and 1, 2 and 3 and so on, whose predictions are equal. A last row alone
/// is no pair.
fn gender_parity(rows: &[Scored]) -> f64 {
    let pairs = rows.as_chunks::<2>().0;
    let pairs = pairs.iter().filter(|[one, other]| one.about == other.about);
    let equal = pairs.clone().filter(|[one, other]| one.prediction() == other.prediction());
    metrics::ratio(equal.count(), pairs.count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::tests::scored;

    #[test]
    fn gender_parity_is_the_share_of_equal_pairs() {
        let rows = |predictions: &[i32]| -> Vec<Scored> {
            let row = |(at, prediction): (usize, &i32)| Scored {
                about: format!("hypothesis {}", at / 2).into(),
                ..scored(*prediction, 0)
            };
            predictions.iter().enumerate().map(row).collect()
        };
        let metrics = AxG.metrics(&rows(&[0, 0, 1, 1, 0, 1, 1, 0, 1]));
        assert_eq!((metrics["gender_parity"], metrics["accuracy"]), (0.5, 4.0 / 9.0));
        assert_eq!(AxG.metrics(&rows(&[0]))["gender_parity"], 0.0);
        let mut apart = rows(&[0, 0, 0, 0]);
        apart[1].about = "of another pair".into();
        assert_eq!(gender_parity(&apart), 1.0);
    }
}
