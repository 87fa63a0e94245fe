//! A tokenizer of someone else's: it is read or refused, and any text becomes ids of the vocabulary.

use super::tokenize::Encoder;
use crate::proptests::hostile::{changed, text};
use crate::tasks::Example;
use proptest::prelude::*;
use serde_json::Value;

fn tokenizer() -> Value {
    let file = "../tests/goldens/bert-tiny/backbone/tokenizer.json";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn example(first: String, second: String) -> Example {
    Example { pairs: vec![(first, Some(second))], label: None, idx: 0, about: Value::Null }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 4))]

    #[test]
    fn a_tokenizer_is_read_or_refused(value in changed(tokenizer()), first in text(), second in text()) {
        let bytes = value.to_string().into_bytes();
        if let Ok(encoder) = Encoder::new(&bytes, "t".into(), 128, 24)
            && let Ok((rows, _)) = encoder.rows(&[example(first, second)], true)
        {
            for sequence in rows.sequences(0) {
                prop_assert!(sequence.ids.iter().all(|id| *id < 128));
                prop_assert!(sequence.ids.len() <= 24);
            }
        }
    }

    #[test]
    fn any_text_is_tokenized(first in text(), second in text()) {
        let bytes = tokenizer().to_string().into_bytes();
        let encoder = Encoder::new(&bytes, "t".into(), 128, 24).unwrap();
        let (rows, _) = encoder.rows(&[example(first, second)], true).unwrap();
        prop_assert!((2..=24).contains(&rows.length(0)));
    }
}
