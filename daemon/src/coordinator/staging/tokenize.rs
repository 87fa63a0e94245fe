//! Text pairs into token ids, by the backbone's own tokenizer.

use crate::backbone::TOKENIZER;
use crate::features::{Rows, Sequence};
use crate::inputs::Folder;
use crate::tasks::{Example, Pair};
use ptv2_common::error::Explained;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{
    EncodeInput, Encoding, PostProcessor, Tokenizer, TruncationDirection, TruncationParams,
    TruncationStrategy,
};

/// The version of the tokenizer library: a part of the features' hash.
pub(super) const LIBRARY_VERSION: &str = "0.22.2";

/// Bytes of a `tokenizer.json` at most; those of the largest vocabularies have some 20 million.
pub(super) const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

/// Text that is tokenized at once, in bytes: it takes some hundred times as much memory meanwhile.
const BATCH_TEXT: usize = 128 << 10;
/// Bytes of text for a token of the longest sequence, of which more are not looked at.
const TOKEN_BYTES_MAX: usize = 256;

/// A tokenizer, set to a job's longest sequence.
pub(in crate::coordinator) struct Encoder {
    tokenizer: Tokenizer,
    max_seq_length: usize,
    vocab_size: u32,
    /// Its file, for people.
    place: String,
}

impl Encoder {
    /// Reads the `tokenizer.json` of a backbone's folder.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub(in crate::coordinator) fn read(
        folder: &Folder,
        vocab_size: u32,
        max_seq_length: u32,
    ) -> Result<Self, Explained> {
        let place = folder.place(TOKENIZER);
        let bytes = folder.read(TOKENIZER, TOKENIZER_BYTES_MAX).map_err(|refused| {
            Explained::new(format!("the tokenizer cannot be read: {refused}"))
                .at(&place)
                .expected("a tokenizer.json of Hugging Face")
                .hint("see that the file stays where it is, and may be read")
        })?;
        Self::new(&bytes, place, vocab_size, max_seq_length)
    }

    /// Reads a `tokenizer.json`. The file's own padding and truncation are replaced: none, and
    /// longest-first to `max_seq_length`, special tokens included.
    pub(super) fn new(
        bytes: &[u8],
        place: String,
        vocab_size: u32,
        max_seq_length: u32,
    ) -> Result<Self, Explained> {
        unharmed(&place, || Self::checked(bytes, place.clone(), vocab_size, max_seq_length))
    }

    fn checked(
        bytes: &[u8],
        place: String,
        vocab_size: u32,
        max_seq_length: u32,
    ) -> Result<Self, Explained> {
        let at = |error: Explained| error.at(&place);
        let failed = |error: tokenizers::Error| unusable(&place, &error);
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(failed)?;
        let max_length = max_seq_length as usize;
        let added = tokenizer
            .get_post_processor()
            .map_or(0, |post| post.added_tokens(true).max(post.added_tokens(false)));
        // The head reads the first token of a sequence, which must be the special one.
        if added == 0 {
            return Err(at(Explained::new("the tokenizer adds no special tokens"))
                .expected("a `post_processor` that adds [CLS] and [SEP]")
                .hint("save the tokenizer anew by `save_pretrained` of transformers"));
        }
        if added >= max_length {
            return Err(at(Explained::new(format!(
                "the tokenizer adds {added} special tokens, and sequences hold {max_length}"
            )))
            .expected(format!("`data.max_seq_length` above {added}"))
            .hint("raise `data.max_seq_length`"));
        }
        let words = tokenizer.get_vocab(true);
        if let Some((word, id)) = words.iter().max_by_key(|(word, id)| (**id, *word))
            && *id >= vocab_size
        {
            return Err(foreign(
                &place,
                &format!("its last is {word:?}, with the id {id}"),
                vocab_size,
            ));
        }
        let truncation = TruncationParams {
            direction: TruncationDirection::Right,
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        tokenizer.with_truncation(Some(truncation)).map_err(failed)?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer, max_seq_length: max_length, vocab_size, place })
    }

    /// Tokenizes examples, many at a time on all cores; gives them with the number of those that lost
    /// tokens. Only rows that are scored keep what they are about.
    pub(super) fn rows(
        &self,
        examples: &[Example],
        is_scored: bool,
    ) -> Result<(Rows, u64), Explained> {
        let (mut rows, mut truncated) = (Rows::default(), 0);
        let mut rest = examples;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch(rest));
            truncated += self.batch(batch, is_scored, &mut rows)?;
            rest = after;
        }
        Ok((rows, truncated))
    }

    /// Tokenizes some examples at once, and adds them to others; gives the number of those that lost tokens.
    fn batch(
        &self,
        examples: &[Example],
        is_scored: bool,
        rows: &mut Rows,
    ) -> Result<u64, Explained> {
        let pairs = examples.iter().flat_map(|example| &example.pairs);
        let inputs: Vec<EncodeInput<'_>> = pairs.map(|pair| self.input(pair)).collect();
        let encodings = unharmed(&self.place, || {
            let encodings = self.tokenizer.encode_batch_fast(inputs, true);
            encodings.map_err(|error| unusable(&self.place, &error))
        })?;
        let mut encodings = encodings.into_iter();
        let mut truncated = 0;
        for example in examples {
            let own: Vec<Encoding> = encodings.by_ref().take(example.pairs.len()).collect();
            // What was cut off is kept beside the rest.
            let is_cut = own.iter().any(|encoding| !encoding.get_overflowing().is_empty());
            truncated += u64::from(is_cut);
            let sequences = own
                .iter()
                .map(|encoding| self.sequence(encoding))
                .collect::<Result<Vec<_>, _>>()?;
            let borrowed: Vec<Sequence<'_>> =
                sequences.iter().map(|(ids, types)| Sequence { ids, types }).collect();
            let about = if is_scored { &example.about } else { &Value::Null };
            rows.push_about(&borrowed, example.label.unwrap_or(-1), example.idx, about);
        }
        Ok(truncated)
    }

    /// A pair without what lies far beyond the longest sequence: it would take memory, and lose its tokens.
    fn input<'a>(&self, (first, second): &'a Pair) -> EncodeInput<'a> {
        let longest = self.max_seq_length.saturating_mul(TOKEN_BYTES_MAX);
        let cut = |text: &'a str| &text[..text.floor_char_boundary(longest)];
        match second {
            Some(second) => (cut(first), cut(second)).into(),
            None => cut(first).into(),
        }
    }

    fn sequence(&self, encoding: &Encoding) -> Result<(Vec<u32>, Vec<u8>), Explained> {
        let largest = encoding.get_ids().iter().copied().max().unwrap_or(0);
        if largest >= self.vocab_size {
            return Err(foreign(
                &self.place,
                &format!("it gives the id {largest}"),
                self.vocab_size,
            ));
        }
        let types = encoding.get_type_ids().iter().map(|kind| u8::try_from(*kind)).collect();
        let types: Vec<u8> = types_or_refused(types, &self.place)?;
        Ok((encoding.get_ids().to_vec(), types))
    }
}

/// Calls the library of tokenizers, which panics at some damaged files: those are refused, too.
fn unharmed<T>(place: &str, call: impl FnOnce() -> Result<T, Explained>) -> Result<T, Explained> {
    // What the call was changing is dropped with its error.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(unusable(place, &"its library gave up, as it does at damaged files"))
    })
}

fn unusable(place: &str, why: &dyn std::fmt::Display) -> Explained {
    Explained::new(format!("the tokenizer cannot be used: {why}"))
        .at(place)
        .expected("a tokenizer.json of Hugging Face")
        .hint("download the backbone again")
}

/// A tokenizer that is of another model.
fn foreign(place: &str, found: &str, vocab_size: u32) -> Explained {
    Explained::new(format!(
        "the tokenizer knows words that the backbone does not: {found}, and the backbone has \
         {vocab_size} words"
    ))
    .at(place)
    .expected(format!("ids below {vocab_size}, the `vocab_size` in config.json"))
    .hint("take tokenizer.json and model.safetensors from the same model")
}

fn types_or_refused(
    types: Result<Vec<u8>, std::num::TryFromIntError>,
    place: &str,
) -> Result<Vec<u8>, Explained> {
    types.map_err(|_| {
        Explained::new("the tokenizer gives a token type above 255").at(place).expected("0 or 1")
    })
}

/// How many of some examples are tokenized at once: one at least.
fn batch(examples: &[Example]) -> usize {
    let mut text = 0;
    let fits = |example: &&Example| {
        text += example.text_len();
        text <= BATCH_TEXT
    };
    examples.iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;
    use std::path::Path;

    const TOKENIZER: &[u8] =
        include_bytes!("../../../../tests/goldens/bert-tiny/backbone/tokenizer.json");

    /// What transformers gives, for each kind of tokenizer: words, bytes, BERT's words between
    /// RoBERTa's marks, pieces.
    #[test]
    fn token_ids_and_types_are_the_goldens() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens");
        for name in ["bert-tiny", "roberta-tiny", "mpnet-tiny", "deberta-tiny"] {
            let tokenizer = std::fs::read(root.join(name).join("backbone/tokenizer.json")).unwrap();
            let goldens = std::fs::read(root.join(name).join("tokens.json")).unwrap();
            let goldens: Vec<Value> = serde_json::from_slice(&goldens).unwrap();
            assert_eq!(goldens.len(), 10);
            for golden in goldens {
                check_golden(&tokenizer, &golden);
            }
        }
    }

    /// The tasks that have several texts, or several examples a row.
    #[test]
    fn the_other_tasks_are_the_goldens_too() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens");
        let goldens = std::fs::read(root.join("tasks/tokens.json")).unwrap();
        let goldens: Vec<Value> = serde_json::from_slice(&goldens).unwrap();
        assert_eq!(goldens.len(), 4 * 12);
        for golden in goldens {
            let backbone = golden["backbone"].as_str().unwrap();
            let tokenizer = root.join(backbone).join("backbone/tokenizer.json");
            check_golden(&std::fs::read(tokenizer).unwrap(), &golden);
        }
    }

    fn check_golden(tokenizer: &[u8], golden: &Value) {
        let template = golden["template"].as_u64().unwrap_or_default();
        let template = u32::try_from(template).unwrap();
        let task = tasks::named(golden["task"].as_str().unwrap(), template).unwrap();
        let longest = u32::try_from(golden["max_seq_length"].as_u64().unwrap()).unwrap();
        let encoder = Encoder::new(tokenizer, "t".into(), 400, longest).unwrap();
        let examples = task.examples(&golden["row"]).unwrap();
        let (rows, truncated) = encoder.rows(&examples, true).unwrap();
        assert_eq!(Some(truncated), golden["truncated"].as_u64().or(Some(truncated)), "{golden}");
        let expected = golden["sequences"].as_array().unwrap();
        let found: Vec<_> = (0..rows.len()).flat_map(|row| rows.sequences(row)).collect();
        assert_eq!(found.len(), expected.len(), "{golden}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(serde_json::json!(found.ids), expected["ids"], "{golden}");
            assert_eq!(serde_json::json!(found.types), expected["types"], "{golden}");
        }
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused() {
        let error = Encoder::new(TOKENIZER, "/m/tokenizer.json".into(), 5, 16).err().unwrap();
        assert_eq!(error.place.as_deref(), Some("/m/tokenizer.json"));
        assert!(error.what.contains("the backbone has 5 words"), "{}", error.what);
        assert!(Encoder::new(b"{}", "t".into(), 5, 16).is_err());
        let mut bare: Value = serde_json::from_slice(TOKENIZER).unwrap();
        bare["post_processor"] = Value::Null;
        let error = Encoder::new(bare.to_string().as_bytes(), "t".into(), 128, 16).err().unwrap();
        assert_eq!(error.what, "the tokenizer adds no special tokens");
        assert!(Encoder::new(TOKENIZER, "t".into(), 5, 3).is_err(), "only special tokens fit");
    }

    #[test]
    fn the_library_version_is_the_locked_one() {
        let lock = include_str!("../../../../Cargo.lock");
        let entry = format!("name = \"tokenizers\"\nversion = \"{LIBRARY_VERSION}\"");
        assert!(lock.contains(&entry), "LIBRARY_VERSION is not what Cargo.lock says");
    }
}
