use super::*;
use crate::checkpoint::tests::{state, store, writer};
use crate::features;
use ptv2_common::manifest::{data_key, generation_key};

/// A coordinator that knows some jobs, and takes none up.
struct Known(BTreeMap<JobId, Standing>);

impl Gate for Known {
    type Turn = ();

    async fn turn(&self, job: &JobId) -> Result<(Option<Standing>, ()), Explained> {
        Ok((self.0.get(job).cloned(), ()))
    }

    async fn features(&self) -> Result<Option<(BTreeSet<String>, ())>, Explained> {
        let needed = self.0.values().filter_map(|one| one.features.clone());
        Ok(Some((needed.collect(), ())))
    }
}

/// One that has taken the job up when its turn comes.
struct TakenUp;

impl Gate for TakenUp {
    type Turn = ();

    async fn turn(&self, _: &JobId) -> Result<(Option<Standing>, ()), Explained> {
        Ok((Some(standing(None)), ()))
    }

    async fn features(&self) -> Result<Option<(BTreeSet<String>, ())>, Explained> {
        Ok(None)
    }
}

fn standing(ended_unix_ms: Option<u64>) -> Standing {
    Standing { ended_unix_ms, features: Some("f".into()), state_sha256: None }
}

fn id() -> JobId {
    JobId("j0".into())
}

const HOUR: u64 = 3_600_000;

/// Collects as if it were so long after now.
async fn collect(
    store: &Store,
    gate: &impl Gate,
    known: &BTreeMap<JobId, Standing>,
    (dry_run, later_ms): (bool, u64),
) -> GcReport {
    let now_unix_ms = clock::unix_ms() + later_ms;
    let until = clock::now() + Duration::from_secs(60);
    Collector { store, gate, folder: None, known, dry_run, now_unix_ms, until }
        .run(None)
        .await
        .unwrap()
}

async fn all(store: &Store, known: Option<Standing>, later: (bool, u64)) -> GcReport {
    let known: BTreeMap<JobId, Standing> = known.into_iter().map(|one| (id(), one)).collect();
    collect(store, &Known(known.clone()), &known, later).await
}

async fn keys(store: &Store) -> Vec<String> {
    storage::list(store, "").await.unwrap()
}

fn found(report: &GcReport) -> Vec<(OrphanKind, u64)> {
    report.orphans.iter().map(|one| (one.kind, one.objects)).collect()
}

/// A job with two good checkpoints, one of a generation that was fenced off, a data object that nobody
/// names, and features of its own and of nobody.
async fn littered() -> (tempfile::TempDir, Store) {
    let (folder, store) = store();
    let old = writer(&store, 1, 0).await;
    old.publish(&state(3), &[]).await.unwrap();
    let new = writer(&store, 2, 3).await;
    old.publish(&state(5), &[]).await.unwrap();
    new.publish(&state(4), &[]).await.unwrap();
    let more = [
        data_key(&id(), "0123"),
        features::manifest_key("f"),
        features::manifest_key("g"),
        features::chunk_key("g", "train", 0),
    ];
    for key in more {
        storage::put_create(&store, &key, "abc".into()).await.unwrap();
    }
    (folder, store)
}

#[tokio::test]
async fn orphans_go_and_all_that_is_needed_stays() {
    let (_folder, store) = littered().await;
    let before = keys(&store).await;
    let ended = || Some(standing(Some(0)));
    // What is younger than the grace period stays.
    assert_eq!(all(&store, ended(), (false, 1000)).await.objects, 0);
    let dry = all(&store, ended(), (true, HOUR)).await;
    assert_eq!(keys(&store).await, before, "a dry run deletes nothing");
    let report = all(&store, ended(), (false, HOUR)).await;
    // Of the fenced checkpoint its state and its adapter; the rest of its files it shares.
    let expected = [(OrphanKind::Fenced, 1), (OrphanKind::Data, 3), (OrphanKind::Features, 2)];
    assert_eq!(found(&report), expected);
    assert_eq!(GcReport { dry_run: false, ..dry }, report);
    let left = keys(&store).await;
    assert_eq!(left.len() as u64, before.len() as u64 - report.objects);
    let read = read::found(&store, &id()).await.unwrap();
    assert_eq!(read.manifests.len(), 2);
    for (_, manifest) in &read.manifests {
        for entry in &manifest.files {
            read::file(&store, &id(), entry).await.unwrap();
        }
    }
    assert!(left.contains(&features::manifest_key("f")));
    assert_eq!(all(&store, ended(), (false, HOUR)).await.objects, 0, "nothing is left");
}

#[tokio::test]
async fn of_a_job_that_goes_on_no_data_goes() {
    for since in [None, Some(clock::unix_ms() + HOUR - 1000)] {
        let (_folder, store) = littered().await;
        let report = all(&store, Some(standing(since)), (false, HOUR)).await;
        assert_eq!(found(&report), [(OrphanKind::Fenced, 1), (OrphanKind::Features, 2)]);
    }
    // Nor of one that goes on from now on, nor features while some job looks for them.
    let (_folder, store) = littered().await;
    let known = [(id(), standing(Some(0)))].into();
    let report = collect(&store, &TakenUp, &known, (false, HOUR)).await;
    assert_eq!(found(&report), [(OrphanKind::Fenced, 1)]);
    assert_eq!(report.left.len(), 2, "{report:?}");
}

#[tokio::test]
async fn a_job_of_nobody_is_touched_when_it_was_quiet_for_a_day() {
    let (_folder, store) = littered().await;
    let report = all(&store, None, (false, HOUR)).await;
    // Its features are needed: it is not done.
    assert_eq!(found(&report), [(OrphanKind::Fenced, 1), (OrphanKind::Features, 2)]);
    let report = all(&store, None, (false, 25 * HOUR)).await;
    assert_eq!(found(&report), [(OrphanKind::Data, 3)]);
    assert_eq!(read::names(&store, &id()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_left_of_a_job_without_checkpoints_goes() {
    let (_folder, store) = store();
    writer(&store, 1, 0).await;
    storage::put_create(&store, &data_key(&id(), "0123"), "abc".into()).await.unwrap();
    // A job that scores lies there before it is known.
    let scoring = Standing { state_sha256: Some("0123".into()), ..standing(Some(0)) };
    assert_eq!(all(&store, Some(scoring), (false, HOUR)).await.objects, 0);
    assert_eq!(all(&store, None, (false, HOUR)).await.objects, 0);
    let report = all(&store, None, (false, 25 * HOUR)).await;
    assert_eq!(found(&report), [(OrphanKind::Leftover, 2)]);
    assert!(!keys(&store).await.contains(&generation_key(&id(), Generation(1))));
}

#[tokio::test]
async fn data_stays_where_a_manifest_cannot_be_read() {
    let (folder, store) = littered().await;
    let newest = read::names(&store, &id()).await.unwrap().pop().unwrap();
    std::fs::write(folder.path().join(&newest.key), "{").unwrap();
    let report = all(&store, Some(standing(Some(0))), (false, HOUR)).await;
    assert_eq!(found(&report), [(OrphanKind::Fenced, 1), (OrphanKind::Features, 2)]);
    assert!(report.left[0].contains(&newest.key), "{report:?}");
}

#[tokio::test]
async fn an_answer_that_took_its_time_says_where_to_go_on() {
    let (_folder, store) = littered().await;
    let key = data_key(&JobId("j1".into()), "0123");
    storage::put_create(&store, &key, "abc".into()).await.unwrap();
    let known = [(id(), standing(Some(0)))].into();
    let gate = Known(BTreeMap::clone(&known));
    let now_unix_ms = clock::unix_ms() + 25 * HOUR;
    let (mut whole, mut after) = (GcReport::default(), None);
    let mut answers = 0;
    loop {
        answers += 1;
        // No time at all: each answer is one job.
        let until = clock::now();
        let until = if answers > 2 { until + Duration::from_secs(60) } else { until };
        let store = &store;
        let part = Collector {
            store,
            gate: &gate,
            folder: None,
            known: &known,
            dry_run: false,
            now_unix_ms,
            until,
        };
        whole.join(part.run(after.as_deref()).await.unwrap());
        let Some(next) = whole.next.take() else { break };
        after = Some(next);
    }
    assert_eq!(answers, 3);
    let kinds: Vec<OrphanKind> = whole.orphans.iter().map(|one| one.kind).collect();
    let expected =
        [OrphanKind::Fenced, OrphanKind::Data, OrphanKind::Leftover, OrphanKind::Features];
    assert_eq!(kinds, expected);
}

/// A listing is read as it comes: what is held at once does not grow with the store.
#[tokio::test]
async fn many_objects_go_in_batches() {
    let (folder, store) = store();
    let data = folder.path().join(data_prefix(&id()));
    std::fs::create_dir_all(&data).unwrap();
    let count = 3 * BATCH as u64 + 7;
    for number in 0..count {
        std::fs::write(data.join(format!("{number:064x}")), "abc").unwrap();
    }
    let report = all(&store, Some(standing(Some(0))), (false, HOUR)).await;
    assert_eq!((report.objects, report.bytes, report.orphans.len()), (count, 3 * count, 1));
    assert!(keys(&store).await.is_empty());
}
