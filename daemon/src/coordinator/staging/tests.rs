//! Staging into a store in a folder.

use super::*;
use crate::coordinator::accept::tests::Place;
use serde_json::{Value, json};
use std::fs;

fn store(place: &Place) -> Store {
    storage::open(place.path("store").to_str().unwrap()).unwrap()
}

/// Wants `Send`, as the driver spawns stagings.
fn run<T>(work: impl Future<Output = T> + Send) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

#[test]
fn features_are_made_once_and_found_again() {
    let place = Place::new();
    let store = store(&place);
    let record = place.accept(place.spec()).unwrap();
    let staged = run(stage(&store, &record)).unwrap();
    assert_eq!(staged.majority_class, 0.75);
    let manifest = run(read_manifest(&store, &staged.features)).unwrap().unwrap();
    let [chunk] = manifest.splits[TRAIN].as_slice() else { panic!("one chunk") };
    assert_eq!(chunk.rows, 3);
    let rows = run(stored_rows(&store, chunk)).unwrap();
    assert_eq!(rows.labels(), [0, 1, 0]);
    assert_eq!(rows.sequences(0)[0].ids, [2, 6, 34, 58, 3, 5, 34, 58, 3]);

    let times = |name: &str| {
        let key = place.path("store").join(features::folder(&staged.features)).join(name);
        fs::metadata(key).unwrap().modified().unwrap()
    };
    let before = [times("manifest.json"), times("train-00000.safetensors")];
    assert_eq!(run(stage(&store, &record)).unwrap(), staged);
    assert_eq!([times("manifest.json"), times("train-00000.safetensors")], before);

    // A staging that was cut off before the manifest is taken up again.
    let folder = place.path("store").join(features::folder(&staged.features));
    fs::remove_file(folder.join("manifest.json")).unwrap();
    fs::remove_file(folder.join("val-00000.safetensors")).unwrap();
    assert_eq!(run(stage(&store, &record)).unwrap(), staged);
    assert_eq!(times("train-00000.safetensors"), before[1]);

    fs::write(folder.join("val-00000.safetensors"), "damaged").unwrap();
    let error = run(stage(&store, &record)).unwrap_err();
    assert!(error.what.contains("not what was put there"), "{error:?}");
}

#[test]
fn the_hash_covers_what_features_depend_on() {
    let place = Place::new();
    let record = place.accept(place.spec()).unwrap();
    let splits = |record: &JobRecord, train: &str| -> Vec<Split> {
        let wanted = rows::wanted_by(record);
        let split = |wanted: Wanted| {
            let sha256 = if wanted.split == TRAIN { train } else { "v" }.to_owned();
            let folder = Folder::at(&place.path("allowed/data/RTE"));
            let file = Loaded::open(&folder, "train.jsonl").unwrap();
            Split { wanted, file: Loaded { sha256, ..file } }
        };
        wanted.into_iter().map(split).collect()
    };
    let hash =
        |record: &JobRecord, train: &str| features_hash(record, &splits(record, train)).unwrap();
    let one = hash(&record, "t");
    assert_eq!((one.len(), hash(&record, "t")), (64, one.clone()));
    let changed: [fn(&mut JobRecord); 5] = [
        |record| record.spec.data.max_seq_length = 25,
        |record| record.spec.data.max_train_rows = Some(3),
        |record| record.spec.data.max_val_rows = Some(3),
        |record| record.spec.task = "superglue/cb".into(),
        |record| record.backbone.tokenizer_sha256 = "other".into(),
    ];
    for change in changed {
        let mut other = record.clone();
        change(&mut other);
        assert_ne!(hash(&other, "t"), one);
    }
    assert_ne!(hash(&record, "u"), one);
    let declared = |text: &str| {
        let mut own = record.clone();
        own.own_task = Some(OwnTask::from_toml(text, Path::new("own.toml")).unwrap());
        own
    };
    let text = "name = \"own\"\nfirst = \"{a}\"\nlabels = [0, 1]";
    let own = declared(text);
    assert_ne!(hash(&own, "t"), one);
    assert_ne!(hash(&declared(&text.replace("{a}", "{b}")), "t"), hash(&own, "t"));
    let mut elsewhere = own.clone();
    elsewhere.spec.task = "/elsewhere/own.toml".into();
    assert_eq!(hash(&elsewhere, "t"), hash(&own, "t"));
    let mut same = record.clone();
    same.spec.training.learning_rate = 1.0;
    assert_eq!(hash(&same, "t"), one, "training does not change features");
}

#[test]
fn scored_rows_keep_what_they_are_about_and_cut_rows_are_counted() {
    let place = Place::new();
    let store = store(&place);
    fs::create_dir_all(place.path("allowed/data/MultiRC")).unwrap();
    let answer = |text: &str, idx: u32| json!({"text": text, "idx": idx, "label": idx % 2});
    let long = "the old man ".repeat(9);
    let question = json!({"question": "A cat?", "idx": 5,
        "answers": [answer("yes", 0), answer("no", 1), answer(&long, 2)]});
    let line =
        json!({"idx": 4, "passage": {"text": "A cat.", "questions": [question]}}).to_string();
    for split in ["train", "val"] {
        place.write(&format!("allowed/data/MultiRC/{split}.jsonl"), &line);
    }
    let mut spec = place.spec();
    spec["task"] = "superglue/multirc".into();
    let staged = run(stage(&store, &place.accept(spec).unwrap())).unwrap();
    assert_eq!(staged.truncated, [TRAIN, VAL].map(|name| (name.to_owned(), 1.0 / 3.0)).into());
    assert_eq!(staged.majority_class, 2.0 / 3.0);
    let manifest = run(read_manifest(&store, &staged.features)).unwrap().unwrap();
    let rows = |split: &str| run(stored_rows(&store, &manifest.splits[split][0])).unwrap();
    let (train, val) = (rows(TRAIN), rows(VAL));
    assert_eq!((train.about(1).unwrap(), val.about(1).unwrap()), (Value::Null, json!([4, 5, 1])));
    assert_eq!((val.idx(), val.len()), (&[0, 1, 2][..], 3));
    assert_eq!(val.length(2), 24, "cut to the longest");
}

#[test]
fn files_that_changed_since_the_submit_are_refused() {
    let place = Place::new();
    let store = store(&place);
    let record = place.accept(place.spec()).unwrap();
    let train = place.path("allowed/data/RTE/train.jsonl");
    let text = fs::read_to_string(&train).unwrap();
    fs::write(&train, text.lines().next().unwrap()).unwrap();
    let error = run(stage(&store, &record)).unwrap_err();
    assert_eq!(error.what, "train.jsonl has changed since the submit");
    fs::write(&train, text).unwrap();
    let tokenizer = place.path("allowed/model/tokenizer.json");
    fs::write(&tokenizer, fs::read_to_string(&tokenizer).unwrap() + "\n").unwrap();
    let error = run(stage(&store, &record)).unwrap_err();
    assert!(error.what.contains("tokenizer.json has changed since the submit"), "{error:?}");
}
