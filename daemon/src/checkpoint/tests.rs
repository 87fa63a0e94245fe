mod crash;
mod flips;

use super::STATE_FILE;
use super::read;
use super::retention;
use super::write::{Lineage, Writer};
use crate::coordinator::run::tests::record;
use crate::numerics::state::{Layout, TunedState};
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::{BestMetric, Which, choose, data_key};
use ptv2_common::storage::{self, Store};
use std::path::Path;

fn job() -> JobRecord {
    let mut job = record("j0", "1");
    job.spec.method.pre_seq_len = 3;
    job.plan.total_steps = 100;
    job
}

fn layout() -> Layout {
    Layout::new(3, 1, 4, 2)
}

pub(crate) fn state(step: u16) -> TunedState {
    let count = u16::try_from(layout().len()).unwrap();
    let mut state = TunedState::new((0..count).map(|at| f32::from(at + step)).collect());
    state.step = u64::from(step);
    state
}

/// A state whose run was best at a step.
pub(crate) fn with_best(step: u16, best: u64) -> TunedState {
    let mut state = state(step);
    state.best = Some(BestMetric { metric: "accuracy".into(), value: 0.5, step: best });
    state.best_values.clone_from(&state.values);
    state
}

pub(crate) async fn writer(store: &Store, generation: u64, start_step: u64) -> Writer {
    let lineage = Lineage { features: "f".into(), generation: Generation(generation), start_step };
    Writer::begin(store.clone(), job(), layout(), lineage).await.unwrap()
}

async fn steps(store: &Store) -> Vec<(u64, u64)> {
    let names = read::names(store, &JobId("j0".into())).await.unwrap();
    names.into_iter().map(|name| (name.step, name.generation)).collect()
}

pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = storage::open(folder.path().to_str().unwrap()).unwrap();
    (folder, store)
}

/// Flips a bit of the byte that is chosen in a file.
pub(crate) fn flip(path: &Path, choose: impl FnOnce(&[u8]) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = choose(&bytes);
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_state_survives_the_store() {
    let (_folder, store) = store();
    let writer = writer(&store, 1, 0).await;
    let mut best = state(4);
    best.best = Some(BestMetric { metric: "accuracy".into(), value: 0.75, step: 4 });
    best.best_values = best.values.clone();
    let checkpoint = writer.publish(&best, &[]).await.unwrap();
    assert_eq!((checkpoint.step, checkpoint.metric), (4, Some(0.75)));
    let manifest = read::manifest(&store, &checkpoint.key).await.unwrap();
    assert_eq!(read::state(&store, &manifest, &layout()).await.unwrap(), best);
    // A put whose answer was lost is done again.
    assert_eq!(writer.publish(&best, &[]).await.unwrap(), checkpoint);
    // Another writer of the same generation is not.
    let lineage = Lineage { features: "f".into(), generation: Generation(1), start_step: 0 };
    assert!(Writer::begin(store, job(), layout(), lineage).await.is_err());
}

#[tokio::test]
async fn what_a_cut_off_generation_writes_is_ignored() {
    let (_folder, store) = store();
    let old = writer(&store, 1, 0).await;
    old.publish(&state(5), &[]).await.unwrap();
    let new = writer(&store, 2, 7).await;
    old.publish(&state(9), &[]).await.unwrap();
    assert_eq!(steps(&store).await, [(5, 1)]);
    new.publish(&state(8), &[]).await.unwrap();
    old.publish(&state(7), &[]).await.unwrap();
    assert_eq!(steps(&store).await, [(5, 1), (7, 1), (8, 2)]);
}

#[tokio::test]
async fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let (folder, store) = store();
    let writer = writer(&store, 1, 0).await;
    writer.publish(&state(5), &[]).await.unwrap();
    let newest = writer.publish(&state(6), &[]).await.unwrap();
    let manifest = read::manifest(&store, &newest.key).await.unwrap();
    let entry = manifest.files.iter().find(|file| file.name == STATE_FILE).unwrap();
    let path = folder.path().join(data_key(&JobId("j0".into()), &entry.sha256));
    flip(&path, |bytes| bytes.len() - 1);
    let mut said = Vec::new();
    let (job, layout) = (JobId("j0".into()), layout());
    let found =
        read::newest_state(&store, &job, &newest.key, &layout, |message| said.push(message));
    assert_eq!(found.await.unwrap(), Some(state(5)));
    assert_eq!(said.len(), 1, "{said:?}");
    // Writing the same content again mends the object.
    writer.publish(&state(6), &[]).await.unwrap();
    assert_eq!(read::state(&store, &manifest, &layout).await.unwrap(), state(6));
}

#[tokio::test]
async fn a_sweep_keeps_the_newest_and_the_best() {
    let (_folder, store) = store();
    let writer = writer(&store, 1, 0).await;
    for step in 1..=6 {
        writer.publish(&with_best(step, 2), &[]).await.unwrap();
    }
    let job = JobId("j0".into());
    retention::sweep(&store, &job, 1, 0).await.unwrap();
    assert_eq!(steps(&store).await, [(2, 1), (5, 1), (6, 1)]);
    let count = storage::list(&store, "jobs/j0/data").await.unwrap().len();
    // The next sweep that finds something to do removes what the grace period had kept.
    writer.publish(&state(7), &[]).await.unwrap();
    retention::sweep(&store, &job, 1, u64::MAX / 2).await.unwrap();
    let left = storage::list(&store, "jobs/j0/data").await.unwrap().len();
    assert!(left < count, "{left} of {count}");
    for (_, manifest) in read::manifests(&store, &job).await.unwrap() {
        read::state(&store, &manifest, &layout()).await.unwrap();
    }
}

/// Of each run the best and the end stay, and its end is what says which run was the last.
#[tokio::test]
async fn the_best_and_the_end_of_each_run_stay() {
    let (_folder, store) = store();
    let mut job = job();
    job.spec.training.seeds = Some(vec![11, 44]);
    job.plan.total_steps = 8;
    let lineage = Lineage { features: "f".into(), generation: Generation(1), start_step: 0 };
    let writer = Writer::begin(store.clone(), job, layout(), lineage).await.unwrap();
    let last = |step| Some(BestMetric { metric: "accuracy".into(), value: 0.5, step });
    for step in 1..=8 {
        let run = u32::from(step > 4);
        let mut state = with_best(step, if run == 0 { 2 } else { 6 });
        (state.run, state.run_start) = (run, 4 * u64::from(run));
        state.last = last(u64::from(step));
        writer.publish(&state, &[]).await.unwrap();
    }
    let id = JobId("j0".into());
    retention::sweep(&store, &id, 2, 0).await.unwrap();
    assert_eq!(steps(&store).await, [(2, 1), (4, 1), (6, 1), (7, 1), (8, 1)]);
    let found = read::manifests(&store, &id).await.unwrap();
    let ends: Vec<(Option<u64>, bool, bool)> =
        found.iter().map(|(_, one)| (one.seed(), one.ends_run, one.ends_job())).collect();
    assert_eq!(
        ends,
        [
            (Some(11), false, false),
            (Some(11), true, false),
            (Some(44), false, false),
            (Some(44), false, false),
            (Some(44), true, true)
        ]
    );
    let chosen = |which, seed| choose(&found, which, seed).map(|at| found[at].1.step);
    assert_eq!((chosen(Which::Best, None), chosen(Which::Last, None)), (Some(2), Some(8)));
    assert_eq!((chosen(Which::Best, Some(44)), chosen(Which::Last, Some(11))), (Some(6), Some(4)));
    assert_eq!((chosen(Which::Best, Some(7)), chosen(Which::Step(4), Some(44))), (None, None));
}
