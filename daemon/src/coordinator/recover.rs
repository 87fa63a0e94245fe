//! Brings a job from another store into the own one, by the protocol of checkpoints: data first, each
//! verified on its way, then the manifest.

use super::accept::Roots;
use super::accept::wanted::{ADAPTER, BACKBONE, DATA};
use crate::checkpoint::read::{self, Found, Unread};
use crate::checkpoint::retention::{self, Candidate};
use crate::checkpoint::write;
use crate::tasks::{self, rows};
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::{CheckpointManifest, ends_prefix, generations_prefix};
use ptv2_common::spec::JobSpec;
use ptv2_common::storage::{self, Put, Store, put_create};
use std::collections::BTreeSet;

/// Checkpoints that are brought besides each run's best and end: the newest good ones.
const NEWEST: u32 = 2;

/// The largest file of a checkpoint, in bytes. Each lies in memory once while it is verified.
const LARGEST_FILE: u64 = 1 << 30;

/// What was brought.
#[derive(Debug, Default)]
pub struct Brought {
    /// Bytes that were read there.
    pub bytes: u64,
    /// Checkpoints that were passed over, and why.
    pub notes: Vec<String>,
}

/// The newest manifest of a job that can be read.
///
/// # Errors
/// Those of the store.
pub async fn newest(store: &Store, job: &JobId) -> Result<Option<CheckpointManifest>, Explained> {
    Ok(read::manifests(store, job).await?.pop().map(|(_, manifest)| manifest))
}

/// Refuses a job that would read what this coordinator does not allow: what another store says of it is
/// not to be believed. `cache` is where its backbone was fetched to, if it lies on a hub.
///
/// # Errors
/// Names the key, and what is allowed.
pub fn check(record: &JobRecord, roots: &Roots, cache: Option<&Roots>) -> Result<(), Explained> {
    let spec = serde_json::to_value(&record.spec).map_err(|error| Explained::from_error(&error))?;
    JobSpec::from_value(spec)?;
    // What it names of stores is fetched by hash, from places that are allowed.
    for (key, mirrored) in &record.mirrored {
        if roots.store_url(key, &mirrored.url)?.is_none() {
            return Err(Explained::new(format!("`{}` is no URL of a store", mirrored.url)).at(key));
        }
    }
    let is_mirrored = |key: &str| record.mirrored.contains_key(key);
    let task = tasks::of(record)?;
    if !is_mirrored(DATA) {
        let data = roots.admit(DATA, &record.spec.data.root)?;
        for wanted in rows::wanted_by(record) {
            roots.check_file(DATA, &data, &rows::name(&*task, &wanted.split))?;
        }
    }
    if !is_mirrored(BACKBONE) {
        cache.unwrap_or(roots).admit(BACKBONE, &record.backbone.directory)?;
    }
    if let Some(adapter) = record.spec.init.adapter.as_ref().filter(|_| !is_mirrored(ADAPTER)) {
        roots.admit(ADAPTER, adapter)?;
    }
    Ok(())
}

/// Copies what a job needs to be shown, pulled and gone on with: its newest good checkpoints, and each
/// run's best and end. Doing it again does no harm.
///
/// # Errors
/// Those of both stores; and when the own one holds something else under the same name.
pub async fn bring(from: &Store, to: &Store, job: &JobId) -> Result<Brought, Explained> {
    let Found { manifests, damaged } = read::found(from, job).await?;
    let skipped = |key: &str, why: &str| format!("checkpoint {key} is skipped: {why}");
    let mut brought = Brought::default();
    brought.notes.extend(damaged.iter().map(|(key, error)| skipped(key, &error.to_string())));
    let mut candidates = retention::candidates(from, job, &manifests).await?;
    for Candidate { checkpoint, .. } in candidates.iter().filter(|one| !one.is_good) {
        brought
            .notes
            .push(skipped(&checkpoint.key, "files are missing, or not as long as they were"));
    }
    let mut done = BTreeSet::new();
    loop {
        let going: BTreeSet<String> =
            retention::superfluous(&candidates, NEWEST).into_iter().collect();
        let is_next = |at: &usize| {
            let one = &candidates[*at];
            one.is_good && !going.contains(&one.checkpoint.key) && !done.contains(at)
        };
        let Some(at) = (0..candidates.len()).rev().find(is_next) else { break };
        let (key, manifest) = &manifests[at];
        match copy(from, to, job, (key, manifest)).await {
            Ok(bytes) => {
                brought.bytes += bytes;
                done.insert(at);
            }
            // Another one counts in its place.
            Err(Unread::Damaged(error)) => {
                candidates[at].is_good = false;
                brought.notes.push(skipped(key, &error.to_string()));
            }
            Err(Unread::Store(error)) => return Err(error),
        }
    }
    // How far its generations were, and whether it had ended.
    for prefix in [generations_prefix(job), ends_prefix(job)] {
        if let Some(key) = read::list(from, &prefix).await?.pop() {
            brought.bytes += verbatim(from, to, &key).await.map_err(Explained::from)?;
        }
    }
    Ok(brought)
}

/// Copies a checkpoint; gives its bytes.
async fn copy(
    from: &Store,
    to: &Store,
    job: &JobId,
    (key, manifest): (&str, &CheckpointManifest),
) -> Result<u64, Unread> {
    let mut bytes = 0;
    for entry in &manifest.files {
        if entry.bytes > LARGEST_FILE {
            let error = Explained::new(format!("`{}` has {} bytes", entry.name, entry.bytes));
            return Err(error.expected(format!("at most {LARGEST_FILE}")).into());
        }
        let file = read::file(from, job, entry).await?;
        bytes += entry.bytes;
        write::put_data(to, job, entry, file).await.map_err(Unread::Store)?;
    }
    Ok(bytes + verbatim(from, to, key).await?)
}

/// Copies an object that must be the same where it is already.
async fn verbatim(from: &Store, to: &Store, key: &str) -> Result<u64, Unread> {
    let bytes = read::get(from, key).await?;
    let failed = |error: object_store::Error| Unread::Store(Explained::from_error(&error).at(key));
    if put_create(to, key, bytes.clone()).await.map_err(failed)? == Put::Existed
        && storage::get(to, key).await.map_err(failed)? != bytes
    {
        let error = Explained::new("this coordinator's store holds something else under this name");
        return Err(Unread::Store(
            error.at(key).hint("the job has gone on in both stores: take it up in one of them"),
        ));
    }
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{flip, state, store, with_best, writer};
    use crate::coordinator::adopt;
    use ptv2_common::manifest::data_key;

    fn id() -> JobId {
        JobId("j0".into())
    }

    #[tokio::test]
    async fn the_newest_good_the_best_and_the_ends_are_brought() {
        let (_here, from) = store();
        let (_there, to) = store();
        let writer = writer(&from, 3, 0).await;
        for step in 1..=6 {
            writer.publish(&with_best(step, 2), &[]).await.unwrap();
        }
        let brought = bring(&from, &to, &id()).await.unwrap();
        assert!(brought.notes.is_empty() && brought.bytes > 0, "{brought:?}");
        let steps = |found: &[(String, CheckpointManifest)]| -> Vec<u64> {
            found.iter().map(|(_, one)| one.step).collect()
        };
        let found = read::manifests(&to, &id()).await.unwrap();
        assert_eq!(steps(&found), [2, 5, 6]);
        for (_, manifest) in &found {
            for entry in &manifest.files {
                read::file(&to, &id(), entry).await.unwrap();
            }
        }
        let job = adopt::one(&to, id()).await.unwrap().unwrap();
        assert_eq!((job.checkpoint.step, job.generation.0), (6, 1003));
        // Again: nothing changes.
        bring(&from, &to, &id()).await.unwrap();
        assert_eq!(steps(&read::manifests(&to, &id()).await.unwrap()), [2, 5, 6]);
    }

    #[tokio::test]
    async fn another_one_counts_for_one_that_is_damaged() {
        let (folder, from) = store();
        let (_there, to) = store();
        let writer = writer(&from, 1, 0).await;
        let mut newest = String::new();
        for step in 1..=4 {
            newest = writer.publish(&state(step), &[]).await.unwrap().key;
        }
        let manifest = read::manifest(&from, &newest).await.unwrap();
        let file = folder.path().join(data_key(&id(), &manifest.files[0].sha256));
        flip(&file, |bytes| bytes.len() - 1);
        let brought = bring(&from, &to, &id()).await.unwrap();
        assert!(brought.notes[0].contains("SHA-256"), "{brought:?}");
        let steps: Vec<u64> =
            read::names(&to, &id()).await.unwrap().iter().map(|name| name.step).collect();
        assert_eq!(steps, [2, 3]);
    }

    #[tokio::test]
    async fn what_went_on_in_both_stores_is_not_mixed() {
        let (_here, from) = store();
        let (_there, to) = store();
        writer(&from, 1, 0).await.publish(&state(3), &[]).await.unwrap();
        writer(&to, 1, 0).await.publish(&state(3), &[]).await.unwrap();
        let error = bring(&from, &to, &id()).await.unwrap_err();
        assert!(error.what.contains("something else"), "{error:?}");
    }

    #[test]
    fn a_record_from_elsewhere_reads_nothing_that_is_not_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("in");
        std::fs::create_dir_all(inside.join("RTE")).unwrap();
        for split in ["train", "val"] {
            std::fs::write(inside.join(format!("RTE/{split}.jsonl")), "").unwrap();
        }
        let place = |path: &std::path::Path| path.display().to_string();
        let roots = Roots { allowed: vec![inside.clone()], ..Roots::default() };
        let mut record = crate::coordinator::run::tests::record("j0", "1");
        record.spec.data.root = place(&inside);
        record.backbone.directory = place(&inside);
        check(&record, &roots, None).unwrap();
        let changes: [fn(&mut JobRecord, String); 3] = [
            |record, outside| record.spec.data.root = outside,
            |record, outside| record.backbone.directory = outside,
            |record, outside| record.spec.init.adapter = Some(outside),
        ];
        for change in changes {
            let mut changed = record.clone();
            change(&mut changed, place(folder.path()));
            let error = check(&changed, &roots, None).unwrap_err();
            assert!(error.what.contains("no root"), "{error:?}");
        }
        // Nor is its spec believed.
        record.spec.training.learning_rate = -1.0;
        assert!(check(&record, &roots, None).is_err());
    }
}
