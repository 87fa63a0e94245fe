//! One flipped byte in each part of a checkpoint.

use super::*;
use ptv2_common::manifest::CheckpointManifest;

/// The first place of a text in a file, and so many bytes behind its beginning.
fn at(bytes: &[u8], text: &str, behind: usize) -> usize {
    let found = bytes.windows(text.len()).position(|part| part == text.as_bytes());
    found.unwrap_or_else(|| panic!("there is no {text}")) + behind
}

/// The place of a tensor's first byte in a safetensors file.
fn tensor(bytes: &[u8], name: &str) -> usize {
    let (header, metadata) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
    8 + header + metadata.info(name).unwrap().data_offsets.0
}

/// Which file of the newest checkpoint is damaged: its manifest, or one that the manifest names.
#[derive(Clone, Copy)]
enum Where {
    Manifest,
    File(&'static str),
}

type Choice = fn(&[u8]) -> usize;

/// What is flipped, where, and the step that is gone on from: 5 is the checkpoint before. Files that are
/// the same in all checkpoints are damaged in all of them; then a good state is enough.
const TABLE: [(&str, Where, Choice, u64); 18] = [
    ("the manifest's structure", Where::Manifest, |_| 0, 5),
    ("a key of the manifest", Where::Manifest, |b| at(b, "\"epoch\"", 1), 5),
    ("its step", Where::Manifest, |b| at(b, "\"step\": 6", 8), 5),
    ("a file's hash in it", Where::Manifest, |b| at(b, "\"sha256\": ", 11), 5),
    ("the values' hash in it", Where::Manifest, |b| at(b, "\"tuned_sha256\": ", 17), 5),
    ("the job's record in it", Where::Manifest, |b| at(b, "\"learning_rate\": ", 19), 5),
    ("its features", Where::Manifest, |b| at(b, "\"features\": ", 13), 5),
    ("its seal", Where::Manifest, |b| at(b, "\"seal\": ", 9), 5),
    ("the state's header's length", Where::File("state.safetensors"), |_| 0, 5),
    ("the state's header", Where::File("state.safetensors"), |b| at(b, "step", 1), 5),
    ("the values", Where::File("state.safetensors"), |b| tensor(b, "values/head.bias"), 5),
    ("moment 1", Where::File("state.safetensors"), |b| tensor(b, "moment1/head.bias"), 5),
    ("moment 2", Where::File("state.safetensors"), |b| tensor(b, "moment2/head.bias"), 5),
    ("the best values", Where::File("state.safetensors"), |b| b.len() - 1, 5),
    ("the adapter's tensors", Where::File("peft/adapter_model.safetensors"), |b| b.len() - 1, 5),
    ("the adapter's configuration", Where::File("peft/adapter_config.json"), |_| 5, 6),
    ("the adapter's origin", Where::File("peft/ptv2.json"), |_| 5, 6),
    ("the job's record", Where::File("job.json"), |_| 5, 6),
];

#[tokio::test]
async fn each_flip_is_told_and_the_checkpoint_before_is_used() {
    let (id, layout) = (JobId("j0".into()), layout());
    for (what, place, choose, step) in TABLE {
        let (folder, store) = store();
        let writer = writer(&store, 1, 0).await;
        let states = [with_best(5, 5), with_best(6, 6)];
        writer.publish(&states[0], &[]).await.unwrap();
        let newest = writer.publish(&states[1], &[]).await.unwrap();
        let manifest: CheckpointManifest = read::manifest(&store, &newest.key).await.unwrap();
        let (path, file) = match place {
            Where::Manifest => (folder.path().join(&newest.key), newest.key.clone()),
            Where::File(name) => {
                let entry = manifest.files.iter().find(|file| file.name == name).unwrap();
                (folder.path().join(data_key(&id, &entry.sha256)), entry.sha256.clone())
            }
        };
        flip(&path, choose);
        let mut said = Vec::new();
        let found =
            read::newest_state(&store, &id, &newest.key, &layout, |message| said.push(message));
        let found = found.await.unwrap().unwrap();
        assert_eq!(found, states[usize::try_from(step - 5).unwrap()], "{what}: {said:?}");
        // Which checkpoint, which file, what was found, and what should have been.
        assert!(
            said[0].contains(&newest.key) && said[0].contains("is skipped"),
            "{what}: {said:?}"
        );
        assert!(said[0].contains(&file), "{what}: {said:?}");
        let hashes = said[0].contains("SHA-256") && said[0].contains("expected");
        assert!(hashes || said[0].contains("cannot be read"), "{what}: {said:?}");
        assert_eq!(said.last().unwrap().contains("is taken"), step == 6, "{what}: {said:?}");
        println!("| {what} | {step} | {} |", said.join("; "));
        // The same content, written again, mends what is shared.
        writer.publish(&with_best(7, 7), &[]).await.unwrap();
        let names = read::names(&store, &id).await.unwrap();
        let newest = &names.last().unwrap().key;
        let mut said = Vec::new();
        let found = read::newest_state(&store, &id, newest, &layout, |message| said.push(message));
        assert_eq!((found.await.unwrap(), said), (Some(with_best(7, 7)), Vec::new()), "{what}");
    }
}

/// A start that cannot be read fences nothing off, and stops nobody.
#[tokio::test]
async fn a_damaged_start_of_a_generation_stops_nobody() {
    let (folder, store) = store();
    let old = writer(&store, 1, 0).await;
    old.publish(&state(5), &[]).await.unwrap();
    writer(&store, 2, 5).await;
    old.publish(&state(9), &[]).await.unwrap();
    assert_eq!(steps(&store).await, [(5, 1)]);
    flip(&folder.path().join("jobs/j0/generations/000002.json"), |bytes| at(bytes, "\"start", 15));
    assert_eq!(steps(&store).await, [(5, 1), (9, 1)]);
}
