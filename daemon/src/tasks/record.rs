//! ReCoRD: which entity of a passage a query lacks. A line holds a passage with its queries, and gives
//! one example an entity and query.

use super::fields::Fields;
use super::room::Room;
use super::{Example, Scored, Task, metrics};
use ptv2_common::error::Explained;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What stands in a query for the entity.
const PLACEHOLDER: &str = "@placeholder";
/// What an answer takes in a list besides its text, in bytes.
const LISTED: usize = 32;

/// Reading comprehension with commonsense reasoning.
pub(super) struct Record;

impl Task for Record {
    fn name(&self) -> &str {
        "superglue/record"
    }

    fn folder(&self) -> &str {
        "ReCoRD"
    }

    fn labels(&self) -> Vec<&str> {
        vec!["0", "1"]
    }

    fn best_metric(&self) -> &str {
        "f1"
    }

    fn is_ranked(&self) -> bool {
        true
    }

    /// `about` is `{"query": number, "entity": text, "answers": [text, …]}`.
    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let passage = fields.inner("passage")?;
        let text = passage.text("text")?;
        let room = Room::of_a_row();
        let entities = entities(&passage, text, &room)?;
        let text = text.replace("@highlight\n", "- ");
        let mut examples = Vec::new();
        for query in fields.list("qas")? {
            let (asked, idx) = (query.text("query")?, number(&query)?);
            let answers = answers(&query)?;
            let right: usize = answers.iter().flatten().map(|answer| answer.len() + LISTED).sum();
            let places = asked.matches(PLACEHOLDER).count();
            for entity in &entities {
                let filled = places.saturating_mul(entity.len());
                room.example(&[text.len(), asked.len(), filled, entity.len(), right])?;
                let label = answers.as_ref().map(|all| i32::from(all.contains(entity.as_str())));
                examples.push(Example {
                    pairs: vec![(text.clone(), Some(asked.replace(PLACEHOLDER, entity)))],
                    label,
                    idx,
                    about: json!({"query": idx, "entity": entity, "answers": answers}),
                });
            }
        }
        if examples.is_empty() {
            return Err(Explained::new("`qas` is empty").expected("at least one query"));
        }
        Ok(examples)
    }

    /// Exact match and F1 of the best entity's text, the best over the right answers, each the mean over
    /// the queries.
    fn metrics(&self, rows: &[Scored]) -> BTreeMap<String, f64> {
        let best = best_entities(rows);
        let mean = |measure: fn(&str, &str) -> f64| {
            let most = |row: &&Scored| {
                let answers = row.about["answers"].as_array().into_iter().flatten();
                let answers = answers.filter_map(Value::as_str);
                answers.map(|answer| measure(entity(row), answer)).fold(0.0, f64::max)
            };
            let sum: f64 = best.values().map(most).sum();
            if best.is_empty() { 0.0 } else { sum / best.len() as f64 }
        };
        let exact = |one: &str, other: &str| f64::from(u8::from(words(one) == words(other)));
        BTreeMap::from([("em".into(), mean(exact)), ("f1".into(), mean(overlap))])
    }

    fn answers(&self, rows: &[Scored]) -> Vec<Value> {
        let best = best_entities(rows);
        best.iter().map(|(query, row)| json!({"idx": query, "label": entity(row)})).collect()
    }
}

/// The entities' texts, each once, in order. Positions count characters, and the last is included.
fn entities(passage: &Fields<'_>, text: &str, room: &Room) -> Result<BTreeSet<String>, Explained> {
    let letters: Vec<char> = text.chars().collect();
    let mut found = BTreeSet::new();
    for span in passage.list("entities")? {
        let (start, end) = (span.number("start")? as usize, span.number("end")? as usize);
        let Some(letters) = letters.get(start..=end) else {
            let last = letters.len().saturating_sub(1);
            let expected = format!("a position in the text, from `start` to {last}");
            return Err(span.mistyped("end", &expected));
        };
        room.take(letters.len() + LISTED)?;
        found.insert(letters.iter().collect());
    }
    if found.is_empty() {
        return Err(Explained::new("`passage.entities` is empty")
            .expected("the positions of at least one entity")
            .hint("a query is answered by one of the passage's entities; remove the line"));
    }
    Ok(found)
}

/// The texts of a query's right answers, where it has them.
fn answers<'a>(query: &Fields<'a>) -> Result<Option<BTreeSet<&'a str>>, Explained> {
    if query.optional("answers").is_none() {
        return Ok(None);
    }
    let answers = query.list("answers")?;
    answers.iter().map(|answer| answer.text("text")).collect::<Result<_, _>>().map(Some)
}

/// A query's number; some files give the passage's with it.
fn number(query: &Fields<'_>) -> Result<u32, Explained> {
    match query.optional("idx") {
        Some(Value::Object(_)) => query.inner("idx")?.number("query"),
        Some(_) | None => query.number("idx"),
    }
}

/// The row of each query whose entity scores highest as the right one; of equal ones that with the
/// larger text.
fn best_entities(rows: &[Scored]) -> BTreeMap<u64, &Scored> {
    let mut best: BTreeMap<u64, &Scored> = BTreeMap::new();
    for row in rows {
        let query = row.about["query"].as_u64().unwrap_or_default();
        let held = best.entry(query).or_insert(row);
        if (score(row), entity(row)) > (score(held), entity(held)) {
            *held = row;
        }
    }
    best
}

fn score(row: &Scored) -> f32 {
    row.scores.get(1).copied().unwrap_or(f32::NEG_INFINITY)
}

fn entity(row: &Scored) -> &str {
    row.about["entity"].as_str().unwrap_or_default()
}

/// A text's words as they are compared: lower case, without ASCII punctuation, and without articles.
fn words(text: &str) -> Vec<String> {
    let kept: String =
        text.to_lowercase().chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    let mut plain = String::with_capacity(kept.len());
    // An article may stand beside punctuation that is no ASCII, as in "the—cat".
    for part in kept.split_inclusive(|letter: char| !letter.is_alphanumeric()) {
        let word = part.trim_end_matches(|letter: char| !letter.is_alphanumeric());
        if ["a", "an", "the"].contains(&word) {
            plain.push(' ');
            plain.push_str(&part[word.len()..]);
        } else {
            plain.push_str(part);
        }
    }
    plain.split_whitespace().map(str::to_owned).collect()
}

/// F1 of the words that two texts have in common, each counted as often as it occurs.
fn overlap(found: &str, right: &str) -> f64 {
    let (found, right) = (words(found), words(right));
    let mut left = right.clone();
    let common = found
        .iter()
        .filter(|word| {
            let at = left.iter().position(|other| other == *word);
            at.map(|at| left.swap_remove(at)).is_some()
        })
        .count();
    metrics::ratio(2 * common, found.len() + right.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(query: u32, entity: &str, score: f32, answers: &[&str]) -> Scored {
        let about = json!({"query": query, "entity": entity, "answers": answers});
        Scored { scores: vec![9.0, score], label: 0, idx: query, about }
    }

    #[test]
    fn a_text_is_compared_without_case_articles_and_punctuation() {
        assert_eq!(words("The  U.S.,\ta day—an\u{a0}hour"), ["us", "day—", "hour"]);
        assert_eq!(words("the"), [""; 0]);
        assert_eq!(words("theatre A-list"), ["theatre", "alist"]);
    }

    #[test]
    fn f1_counts_each_common_word_once() {
        let close = |one: f64, other: f64| assert!((one - other).abs() < 1e-12, "{one} {other}");
        close(overlap("New York New", "new york"), 2.0 * 2.0 / 5.0);
        close(overlap("the cat", "a cat"), 1.0);
        close(overlap("cat", "dog"), 0.0);
        close(overlap("", ""), 0.0);
    }

    #[test]
    fn the_highest_score_of_the_right_class_answers() {
        let rows = [
            row(5, "Obama", 0.25, &["Barack Obama", "Mr. Obama"]),
            row(5, "Zurich", 0.125, &["Barack Obama", "Mr. Obama"]),
            // Equal scores: the larger text.
            row(6, "A Paris", -1.0, &["paris"]),
            row(6, "Berlin", -1.0, &["paris"]),
            row(6, "Amsterdam", -1.0, &["paris"]),
            row(7, "The Hague", 2.0, &["hague", "Rome"]),
            row(7, "Rome", 1.5, &["hague", "Rome"]),
        ];
        let metrics = Record.metrics(&rows);
        // Query 5: F1 is 2·1/(1+2) against both. Query 6: Berlin is wrong. Query 7: equal.
        assert!((metrics["f1"] - (2.0 / 3.0 + 0.0 + 1.0) / 3.0).abs() < 1e-12, "{metrics:?}");
        assert!((metrics["em"] - 1.0 / 3.0).abs() < 1e-12, "{metrics:?}");
        let expected = [("Obama", 5), ("Berlin", 6), ("The Hague", 7)];
        let expected = expected.map(|(text, idx)| json!({"idx": idx, "label": text}));
        assert_eq!(Record.answers(&rows), expected);
        assert!(Record.metrics(&[]).values().all(|value| *value == 0.0));
    }
}
