//! MultiRC: which of a question's answers are right, by a paragraph. A line holds a paragraph with its
//! questions, and gives one example an answer.

use super::fields::Fields;
use super::room::Room;
use super::{Example, Scored, Task, labels, metrics, predictions};
use ptv2_common::error::Explained;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The metric that decides.
const F1A: &str = "f1a";

/// Multi-sentence reading comprehension.
pub(super) struct MultiRc;

impl Task for MultiRc {
    fn name(&self) -> &str {
        "superglue/multirc"
    }

    fn folder(&self) -> &str {
        "MultiRC"
    }

    fn labels(&self) -> Vec<&str> {
        vec!["false", "true"]
    }

    fn best_metric(&self) -> &str {
        F1A
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        let label = label.as_i64().filter(|label| (0..2).contains(label))?;
        label.try_into().ok()
    }

    /// `about` is `[paragraph, question, answer]`, the numbers that the data gives them.
    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let paragraph = fields.number("idx")?;
        let passage = fields.inner("passage")?;
        let text = passage.text("text")?;
        let (room, mut examples) = (Room::of_a_row(), Vec::new());
        for question in passage.list("questions")? {
            let (asked, number) = (question.text("question")?, question.number("idx")?);
            for answer in question.list("answers")? {
                let answered = answer.text("text")?;
                room.example(&[text.len(), asked.len(), answered.len()])?;
                let second = format!("{asked} {answered}");
                let idx = answer.number("idx")?;
                examples.push(Example {
                    pairs: vec![(text.into(), Some(second))],
                    label: super::label(self, &answer)?,
                    idx,
                    about: json!([paragraph, number, idx]),
                });
            }
        }
        if examples.is_empty() {
            return Err(Explained::new("`passage.questions` holds no answers")
                .expected("at least one question with one answer"));
        }
        Ok(examples)
    }

    /// Exact match and macro-F1 by question, each the mean over the questions, and F1 over all answers.
    fn metrics(&self, rows: &[Scored]) -> BTreeMap<String, f64> {
        let questions = by_question(rows);
        let mean = |measure: &dyn Fn(&[i32], &[i32]) -> f64| {
            let sum: f64 = questions.values().map(|(p, l)| measure(p, l)).sum();
            if questions.is_empty() { 0.0 } else { sum / questions.len() as f64 }
        };
        BTreeMap::from([
            ("em".into(), mean(&|found, right| f64::from(u8::from(found == right)))),
            (F1A.into(), metrics::f1(&predictions(rows), &labels(rows), 1)),
            ("f1m".into(), mean(&metrics::macro_f1)),
        ])
    }

    fn answers(&self, rows: &[Scored]) -> Vec<Value> {
        let mut paragraphs: BTreeMap<u64, BTreeMap<u64, Vec<Value>>> = BTreeMap::new();
        for row in rows {
            let answer = json!({"idx": row.idx, "label": row.prediction()});
            let questions = paragraphs.entry(number(row, 0)).or_default();
            questions.entry(number(row, 1)).or_default().push(answer);
        }
        let line = |(idx, questions): (u64, BTreeMap<u64, Vec<Value>>)| {
            let questions: Vec<Value> = questions
                .into_iter()
                .map(|(idx, answers)| json!({"idx": idx, "answers": answers}))
                .collect();
            json!({"idx": idx, "passage": {"questions": questions}})
        };
        paragraphs.into_iter().map(line).collect()
    }
}

/// Predictions and labels of each question's answers.
fn by_question(rows: &[Scored]) -> BTreeMap<(u64, u64), (Vec<i32>, Vec<i32>)> {
    let mut questions: BTreeMap<_, (Vec<i32>, Vec<i32>)> = BTreeMap::new();
    for row in rows {
        let (predictions, labels) = questions.entry((number(row, 0), number(row, 1))).or_default();
        predictions.push(row.prediction());
        labels.push(row.label);
    }
    questions
}

fn number(row: &Scored, at: usize) -> u64 {
    row.about.get(at).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::metrics::tests::{close, goldens};
    use crate::tasks::tests::scored;

    /// Rows of (paragraph, question, answer, prediction, label).
    fn rows(cells: &[(u32, u32, u32, i32, i32)]) -> Vec<Scored> {
        let row = |(paragraph, question, idx, prediction, label): &(u32, u32, u32, i32, i32)| {
            let about = json!([paragraph, question, idx]);
            Scored { idx: *idx, about, ..scored(*prediction, *label) }
        };
        cells.iter().map(row).collect()
    }

    #[test]
    fn questions_are_matched_as_a_whole() {
        // Question 0 is right. Question 1 finds one of two right answers, and no wrong one. Question 2,
        // of another paragraph, calls its one wrong answer right.
        let rows = rows(&[
            (0, 0, 0, 1, 1),
            (0, 0, 1, 0, 0),
            (0, 1, 2, 1, 1),
            (0, 1, 3, 0, 1),
            (1, 2, 4, 1, 0),
        ]);
        let metrics = MultiRc.metrics(&rows);
        // Macro-F1 of question 1: class 1 is 2·1/(1+2) = 2/3, class 0 is 0. Of question 2: 0.
        let expected =
            [("em", 1.0 / 3.0), ("f1a", 2.0 * 2.0 / 6.0), ("f1m", (1.0 + 1.0 / 3.0) / 3.0)];
        assert_eq!(metrics.len(), expected.len());
        for ((name, value), (wanted, right)) in metrics.iter().zip(expected) {
            assert_eq!(name, wanted);
            assert!((value - right).abs() < 1e-12, "{name} is {value}, expected {right}");
        }
    }

    #[test]
    fn scikit_learn_gives_the_same() {
        let goldens = goldens();
        let goldens = goldens["questions"].as_array().unwrap();
        assert_eq!(goldens.len(), 2);
        for golden in goldens {
            let cells: Vec<(u32, i32, i32)> =
                serde_json::from_value(golden["cells"].clone()).unwrap();
            let cells: Vec<_> = (0..)
                .zip(cells)
                .map(|(idx, (question, prediction, label))| (0, question, idx, prediction, label))
                .collect();
            for (name, value) in MultiRc.metrics(&rows(&cells)) {
                close(value, golden[&name].as_f64().unwrap());
            }
        }
    }

    #[test]
    fn answers_are_nested_as_the_data_is() {
        let rows =
            rows(&[(3, 7, 20, 1, -1), (3, 7, 21, 0, -1), (3, 8, 22, 0, -1), (4, 9, 23, 1, -1)]);
        let answer = |idx: u32, label: i32| json!({"idx": idx, "label": label});
        let expected = [
            json!({"idx": 3, "passage": {"questions": [
                {"idx": 7, "answers": [answer(20, 1), answer(21, 0)]},
                {"idx": 8, "answers": [answer(22, 0)]},
            ]}}),
            json!({"idx": 4, "passage": {"questions": [{"idx": 9, "answers": [answer(23, 1)]}]}}),
        ];
        assert_eq!(MultiRc.answers(&rows), expected);
    }
}
