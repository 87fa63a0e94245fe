//! How much text the examples of one row may hold. Some tasks repeat a passage in each of many examples, and a
//! template may repeat a column: a row of a megabyte would become terabytes.

use ptv2_common::error::Explained;
use std::cell::Cell;

/// Bytes of text of a row's examples, at most. Rows of SuperGLUE have a hundredth of it.
const TEXT_MAX: usize = 16 << 20;
/// What an example takes besides its text, in bytes.
const EXAMPLE: usize = 256;

/// The room that is left for a row's examples.
#[derive(Debug)]
pub(super) struct Room {
    left: Cell<usize>,
}

impl Room {
    /// Room for one row.
    pub(super) fn of_a_row() -> Self {
        Self { left: Cell::new(TEXT_MAX) }
    }

    /// Takes room for so many bytes, before they are made.
    ///
    /// # Errors
    /// When there is not so much left.
    pub(super) fn take(&self, bytes: usize) -> Result<(), Explained> {
        match self.left.get().checked_sub(bytes) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(Explained::new("the row's examples would hold too much text")
                .expected(format!("at most {TEXT_MAX} bytes in all of them together"))
                .hint("split the row into several, or shorten what is repeated in each example")),
        }
    }

    /// The same for an example with these texts.
    ///
    /// # Errors
    /// As [`Room::take`].
    pub(super) fn example(&self, texts: &[usize]) -> Result<(), Explained> {
        self.take(texts.iter().fold(EXAMPLE, |sum, bytes| sum.saturating_add(*bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{named, own};
    use ptv2_common::task::OwnTask;
    use serde_json::{Value, json};
    use std::path::Path;

    #[test]
    fn a_row_that_would_become_more_than_that_is_refused() {
        let room = Room::of_a_row();
        room.example(&[TEXT_MAX - EXAMPLE]).unwrap();
        assert!(room.take(1).unwrap_err().hint.is_some());
        assert!(Room::of_a_row().example(&[usize::MAX, usize::MAX]).is_err());
    }

    #[test]
    fn what_is_repeated_is_counted_before_it_is_made() {
        let refused = |task: &str, row: &Value| {
            let error = named(task, 0).unwrap().examples(row).unwrap_err();
            assert!(error.what.contains("too much text"), "{task}: {error}");
        };
        let answer = json!({"text": "a", "idx": 0, "label": 1});
        refused(
            "superglue/multirc",
            &json!({"idx": 0, "passage": {"text": "x".repeat(100_000), "questions": [
                {"question": "q", "idx": 0, "answers": vec![answer; 1000]}]}}),
        );
        let text: String = (0..4000).map(|number| format!("{number:05}")).collect();
        let spans = |last: fn(usize) -> usize| -> Vec<Value> {
            (0..2000).map(|at| json!({"start": at, "end": last(at)})).collect()
        };
        let query = json!({"query": "@placeholder".repeat(100), "idx": 0});
        for entities in [spans(|_| 19_999), spans(|at| at + 10)] {
            refused(
                "superglue/record",
                &json!({"passage": {"text": text, "entities": entities}, "qas": vec![query.clone(); 100]}),
            );
        }
        let first = "{a}".repeat(2000);
        let declared = format!("name = \"own\"\nfirst = \"{first}\"\nlabels = [0, 1]");
        let declared = OwnTask::from_toml(&declared, Path::new("own.toml")).unwrap();
        let row = json!({"a": "x".repeat(10_000), "label": 0});
        let error = own(&declared, 0).unwrap().examples(&row).unwrap_err();
        assert!(error.what.contains("too much text"), "{error}");
    }
}
