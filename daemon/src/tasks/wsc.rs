//! WSC: whether a pronoun refers to a noun phrase.

use super::fields::Fields;
use super::{Example, Pair, Task, flat, truth};
use ptv2_common::error::Explained;
use serde_json::Value;

/// Winograd schema challenge, with one of two texts: 0 puts the pronoun in front, 1 marks it in the
/// text by asterisks.
///
/// The official rows are read as they are: in some, `span1_text` is spelled otherwise than in the
/// text, or `span2_index` points beside the pronoun. So a span need not be a part of the text.
pub(super) struct Wsc {
    pub(super) template: u32,
}

impl Task for Wsc {
    fn name(&self) -> &str {
        "superglue/wsc"
    }

    fn folder(&self) -> &str {
        "WSC"
    }

    fn labels(&self) -> Vec<&str> {
        vec!["false", "true"]
    }

    fn templates(&self) -> u32 {
        2
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        truth(label)
    }

    fn spelled(&self, label: i32) -> Value {
        if label == 1 { "True".into() } else { "False".into() }
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let (text, target) = (fields.text("text")?, fields.inner("target")?);
        let (noun, pronoun) = (target.text("span1_text")?, target.text("span2_text")?);
        let first =
            if self.template == 0 { format!("{pronoun}: {text}") } else { marked(text, &target)? };
        let pair: Pair = (first, Some(noun.into()));
        flat(self, &fields, vec![pair])
    }
}

/// The text with asterisks around the word at `span2_index`; words are what whitespace parts, and
/// single spaces part them afterwards.
fn marked(text: &str, target: &Fields<'_>) -> Result<String, Explained> {
    let index = target.number("span2_index")?;
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let count = words.len();
    let Some(word) = words.get_mut(index as usize) else {
        return Err(target
            .mistyped("span2_index", &format!("the number of a word of the text, below {count}"))
            .hint("mend the row, or take data.template_id = 0, which does not need the number"));
    };
    *word = format!("*{word}*");
    Ok(words.join(" "))
}
