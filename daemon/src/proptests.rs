//! Whatever a file or an object holds, it is read or refused; what was read survives being written.
//! `PROPTEST_CASES` raises the number of cases.

#[path = "../../common/src/proptests/hostile.rs"]
pub(crate) mod hostile;

use crate::backbone::{Config, Header, WeightNames};
use crate::checkpoint::read::Name;
use crate::features::{Manifest, Rows, Sequence};
use crate::numerics::state::{Layout, TunedState, values_of};
use crate::protocol::vote::Vote;
use crate::tasks::rows::{self, Labels, TRAIN, Wanted};
use crate::tasks::{self, Scored, Task};
use hostile::{changed, spoiled, text};
use proptest::prelude::*;
use proptest::sample::select;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::checkpoint_key;
use ptv2_common::task::OwnTask;
use serde_json::{Value, json};
use std::path::Path;

/// A row of each task, and of one of a user's own.
fn valid_rows() -> Vec<(Option<&'static str>, Value)> {
    let pair = json!({"premise": "A cat.", "hypothesis": "It.", "label": "entailment", "idx": 0});
    let rows = [
        ("rte", pair.clone()),
        ("cb", pair.clone()),
        ("axg", pair),
        ("axb", json!({"sentence1": "A", "sentence2": "B", "label": "entailment", "idx": 0})),
        ("boolq", json!({"question": "is it", "passage": "It is.", "label": true, "idx": 0})),
        (
            "copa",
            json!({"premise": "It fell.", "choice1": "x", "choice2": "y", "question": "cause",
                "label": 1, "idx": 0}),
        ),
        (
            "wic",
            json!({"word": "bank", "sentence1": "A bank.", "sentence2": "The bank", "label": false,
                "idx": 0, "start1": 2, "end1": 6, "start2": 4, "end2": 8}),
        ),
        (
            "wsc",
            json!({"text": "Ann met Eve,  and she left", "label": true, "idx": 0, "target":
                {"span1_text": "Ann", "span1_index": 0, "span2_text": "she", "span2_index": 4}}),
        ),
        (
            "multirc",
            json!({"idx": 3, "passage": {"text": "P.", "questions": [{"question": "Q?", "idx": 5,
                "answers": [{"text": "yes", "idx": 8, "label": 1}, {"text": "no", "idx": 9,
                    "label": 0}]}]}}),
        ),
        (
            "record",
            json!({"idx": 1, "passage": {"text": "Zoé left Paris\n@highlight\nIt is far",
                "entities": [{"start": 0, "end": 2}, {"start": 9, "end": 13}]},
                "qas": [{"idx": 4, "query": "@placeholder is a town",
                    "answers": [{"start": 9, "end": 13, "text": "Paris"}]}]}),
        ),
    ];
    let own = json!({"a": "x", "b": ["y", 3], "label": "yes", "n": "r-1"});
    rows.map(|(task, row)| (Some(task), row)).into_iter().chain([(None, own)]).collect()
}

fn task(name: Option<&str>) -> Box<dyn Task> {
    let Some(name) = name else {
        let declared = "name = \"own\"\nfirst = \"{a}\"\nsecond = \"{{{b}}}\"\nidx = \"n\"\n\
            labels = [\"no\", \"yes\"]\nmetric = \"matthews\"";
        return tasks::own(&OwnTask::from_toml(declared, Path::new("own.toml")).unwrap(), 0)
            .unwrap();
    };
    tasks::named(&format!("superglue/{name}"), 0).unwrap()
}

/// Reads a file's bytes; what was read is scored and answered.
fn read(task: &dyn Task, bytes: &[u8], file: &str) {
    for labels in [Labels::Needed, Labels::Optional] {
        let wanted = Wanted { split: TRAIN.into(), is_scored: true, labels, max_rows: Some(40) };
        let mut scored = Vec::new();
        let outputs = usize::try_from(task.head_outputs()).unwrap();
        let count = rows::each(bytes, file, task, &wanted, |example| {
            assert!(!example.pairs.is_empty());
            let known = example.label.unwrap_or(0);
            assert!(usize::try_from(known).unwrap() < task.labels().len().max(2));
            scored.push(Scored {
                scores: vec![0.5; outputs.max(example.pairs.len())],
                label: example.label.unwrap_or(-1),
                idx: example.idx,
                about: example.about,
            });
            Ok(())
        });
        match count {
            Ok(count) => {
                assert_eq!(count, scored.len() as u64);
                assert!(count <= 40);
                if labels == Labels::Needed {
                    assert!(task.metrics(&scored).values().all(|value| value.is_finite()));
                }
                drop(task.answers(&scored));
            }
            Err(error) => assert!(error.place.is_some(), "{error:?}"),
        }
    }
}

fn config() -> Value {
    json!({"model_type": "deberta-v2", "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 37, "vocab_size": 128,
        "max_position_embeddings": 80, "type_vocab_size": 0, "layer_norm_eps": 1e-7,
        "hidden_act": "gelu", "relative_attention": true, "position_buckets": 8,
        "pos_att_type": "p2c|c2p", "norm_rel_ebd": "layer_norm", "share_att_key": true,
        "pad_token_id": 0, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})
}

fn header(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; data]].concat()
}

fn tensors() -> Value {
    json!({"__metadata__": {"format": "pt"},
        "bert.a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "bert.b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]}})
}

fn features() -> Vec<u8> {
    let mut rows = Rows::default();
    let sequence = Sequence { ids: &[1, 2, 3], types: &[0, 0, 1] };
    rows.push(&[sequence, sequence], 1, 7);
    rows.push_about(&[sequence], -1, 9, &json!({"entity": "Zoé"}));
    rows.to_bytes().unwrap()
}

fn layout() -> Layout {
    Layout::new(2, 1, 2, 2)
}

fn state() -> Vec<u8> {
    let layout = layout();
    TunedState::new(vec![0.5; layout.len()]).to_bytes(&layout).unwrap()
}

/// Spoils the header or the rest, whose bytes are many more.
fn spoiled_tensors(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = usize::try_from(u64::from_le_bytes(*whole.first_chunk().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&whole[8..8 + length]).unwrap();
    let data = whole[8 + length..].to_vec();
    let renamed = changed(header).prop_map(move |header| {
        let header = header.to_string().into_bytes();
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    });
    prop_oneof![spoiled(whole), renamed]
}

proptest! {
    #[test]
    fn a_row_of_each_task_is_read_or_refused(
        (name, row) in select(valid_rows())
            .prop_flat_map(|(name, row)| (Just(name), changed(row))),
    ) {
        read(&*task(name), row.to_string().as_bytes(), "/d/train.jsonl");
    }

    #[test]
    fn bytes_of_rows_are_read_or_refused(
        (name, bytes) in select(valid_rows())
            .prop_flat_map(|(name, row)| (Just(name), spoiled(format!("{row}\n{row}\n").into()))),
    ) {
        read(&*task(name), &bytes, "/d/train.jsonl");
    }

    #[test]
    fn a_table_is_read_or_refused(
        bytes in spoiled("a,b,label,n\r\n\"x, \"\"y\"\"\",z,yes,1\nv,w,no,2\n".into()),
    ) {
        read(&*task(None), &bytes, "/d/train.csv");
    }

    #[test]
    fn a_backbones_configuration_is_read_or_refused(value in changed(config())) {
        drop(Config::parse(value.to_string().as_bytes()));
    }

    #[test]
    fn a_header_of_weights_is_read_or_refused(bytes in spoiled_tensors(header(&tensors(), 16))) {
        if let Ok(header) = Header::parse("w", &bytes[..], bytes.len() as u64) {
            prop_assert!(header.holds("a") || header.find("a", &[2]).is_err());
        }
    }

    #[test]
    fn an_index_of_weights_is_read_or_refused(
        value in changed(json!({"metadata": {}, "weight_map": {"a": "m-1.safetensors"}})),
    ) {
        if let Ok(names) = WeightNames::parse(value.to_string().as_bytes()) {
            prop_assert!(names.files().iter().all(|name| !name.contains(['/', '\\', '\0'])));
        }
    }

    #[test]
    fn a_chunk_of_features_is_read_or_refused(bytes in spoiled_tensors(features())) {
        if let Ok(rows) = Rows::from_bytes(&bytes) {
            for row in 0..rows.len() {
                drop((rows.sequences(row), rows.length(row), rows.about(row)));
            }
            prop_assert_eq!(Rows::from_bytes(&rows.to_bytes().unwrap()).unwrap(), rows);
        }
    }

    #[test]
    fn a_manifest_of_features_is_read_or_refused(
        value in changed(json!({"format": 1, "task": "t", "truncated": {"val": 1}, "splits":
            {"val": [{"key": "k", "sha256": "00", "rows": 3}, {"key": "k", "sha256": "00", "rows": 4}]}})),
    ) {
        if let Ok(manifest) = serde_json::from_value::<Manifest>(value) {
            prop_assert!(manifest.rows("val") > 0 || manifest.rows("train") == 0);
        }
    }

    #[test]
    fn a_tuned_state_is_read_or_refused(bytes in spoiled_tensors(state())) {
        let layout = layout();
        drop(values_of(&bytes, &layout));
        if let Ok(state) = TunedState::from_bytes(&bytes, &layout) {
            let again = TunedState::from_bytes(&state.to_bytes(&layout).unwrap(), &layout).unwrap();
            // Bits, of which some are no number.
            prop_assert_eq!(again.hash64(), state.hash64());
            prop_assert_eq!(again.tuned_sha256(), state.tuned_sha256());
        }
    }

    #[test]
    fn a_vote_survives(bytes in any::<[u8; 24]>()) {
        let vote = Vote::from_bytes(&bytes);
        let again = Vote::from_bytes(&vote.to_bytes());
        prop_assert_eq!(again.to_bytes(), vote.to_bytes());
    }

    #[test]
    fn a_manifests_key_survives(step in any::<u64>(), generation in any::<u64>(), other in text()) {
        let key = checkpoint_key(&JobId("j0123456789".into()), step, Generation(generation));
        let name = Name::parse(key.clone()).unwrap();
        prop_assert_eq!((name.step, name.generation, name.key), (step, generation, key));
        drop(Name::parse(other.clone()));
        drop(Name::parse(format!("a/{other}.json")));
    }
}
