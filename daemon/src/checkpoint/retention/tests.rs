use super::*;
use crate::checkpoint::STATE_FILE;
use crate::checkpoint::tests::{state, store, with_best, writer};
use proptest::prelude::*;
use ptv2_common::manifest::data_key;
use std::path::Path;

fn candidate(step: u64, run: u32, (is_best, ends_run): (bool, bool), is_good: bool) -> Candidate {
    let checkpoint = Checkpoint {
        key: format!("{step:010}-000001.json"),
        step,
        generation: 1,
        is_best,
        metric: None,
        run,
        seed: None,
        ends_run,
        ends_job: false,
        bytes: 1,
        tuned_sha256: String::new(),
    };
    Candidate { checkpoint, is_good }
}

#[test]
fn nothing_goes_while_there_are_few() {
    assert!(superfluous(&[], 2).is_empty());
    // Two of three are good: the third counts for nothing, wherever it is.
    for bad in 0..3 {
        let three: Vec<Candidate> =
            (0..3).map(|at| candidate(at, 0, (false, false), at != bad)).collect();
        let going = superfluous(&three, 2);
        assert_eq!(going.len(), usize::from(bad == 0), "{bad}: {going:?}");
    }
}

/// What may follow in a job's life: whether it is a run's best or end, is whole, and a run begins.
fn life() -> impl Strategy<Value = Vec<(bool, bool, bool)>> {
    let one = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.7));
    prop::collection::vec(one, 0..60)
}

/// The newest good ones of a kind.
fn newest<'a>(
    all: &'a [Candidate],
    is_it: impl Fn(&Checkpoint) -> bool + 'a,
) -> impl Iterator<Item = &'a str> + 'a {
    let good = all.iter().rev().filter(move |one| one.is_good && is_it(&one.checkpoint));
    good.map(|one| one.checkpoint.key.as_str())
}

proptest! {
    /// Swept after each checkpoint, and any of them may be damaged at any time.
    #[test]
    fn the_newest_good_ones_stay_and_each_runs_best_and_end(
        life in life(),
        keep in 0_u32..5,
        losses in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut here: Vec<Candidate> = Vec::new();
        let (mut run, mut losses) = (0, losses.into_iter());
        for (step, (is_best, ends_run, is_good)) in (1..).zip(life) {
            here.push(candidate(step, run, (is_best, ends_run), is_good));
            run += u32::from(ends_run);
            if step % 3 == 0 && let Some(lost) = losses.next() {
                let at = lost.index(here.len());
                here[at].is_good = false;
            }
            let before = here.clone();
            let going: BTreeSet<String> = superfluous(&here, keep).into_iter().collect();
            here.retain(|one| !going.contains(&one.checkpoint.key));
            for key in newest(&before, |_| true).take(2.max(keep as usize)) {
                prop_assert!(!going.contains(key), "{key} is one of the newest");
            }
            for run in 0..=run {
                let best = newest(&before, move |one| one.run == run && one.is_best).next();
                let end = newest(&before, move |one| one.run == run && one.ends_run).next();
                for key in best.into_iter().chain(end) {
                    prop_assert!(!going.contains(key), "{key} is a best or an end of run {run}");
                }
            }
            // And no more than that of good ones.
            let good = here.iter().filter(|one| one.is_good).count();
            prop_assert!(good <= 2.max(keep as usize) + 2 * (run as usize + 1));
        }
    }
}

fn steps(found: &[(String, CheckpointManifest)]) -> Vec<u64> {
    found.iter().map(|(_, one)| one.step).collect()
}

/// A checkpoint whose files are gone, or cut off, is none: the two before it stay.
#[tokio::test]
async fn a_damaged_newest_one_does_not_count() {
    let (folder, store) = store();
    let writer = writer(&store, 1, 0).await;
    let job = JobId("j0".into());
    for step in 1..=6 {
        writer.publish(&state(step), &[]).await.unwrap();
    }
    let found = read::manifests(&store, &job).await.unwrap();
    let file = |at: usize| {
        let entry = found[at].1.files.iter().find(|file| file.name == STATE_FILE).unwrap();
        folder.path().join(data_key(&job, &entry.sha256))
    };
    std::fs::remove_file(file(5)).unwrap();
    let cut = |path: &Path| std::fs::File::options().write(true).open(path).unwrap().set_len(9);
    cut(&file(4)).unwrap();
    sweep(&store, &job, 2, 0).await.unwrap();
    let left = read::manifests(&store, &job).await.unwrap();
    assert_eq!(steps(&left), [3, 4, 5, 6]);
    // Mended, they count again.
    writer.publish(&state(5), &[]).await.unwrap();
    writer.publish(&state(6), &[]).await.unwrap();
    sweep(&store, &job, 2, 0).await.unwrap();
    assert_eq!(steps(&read::manifests(&store, &job).await.unwrap()), [5, 6]);
}

/// What a manifest names that cannot be read is not known, so no data goes.
#[tokio::test]
async fn data_stays_while_a_manifest_cannot_be_read() {
    let (folder, store) = store();
    let writer = writer(&store, 1, 0).await;
    let job = JobId("j0".into());
    for step in 1..=4 {
        writer.publish(&with_best(step, 1), &[]).await.unwrap();
    }
    let newest = read::names(&store, &job).await.unwrap().pop().unwrap();
    let manifest = folder.path().join(&newest.key);
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, "{").unwrap();
    sweep(&store, &job, 2, u64::MAX / 2).await.unwrap();
    std::fs::write(&manifest, bytes).unwrap();
    let found = read::found(&store, &job).await.unwrap();
    assert!(found.damaged.is_empty());
    let found = candidates(&store, &job, &found.manifests).await.unwrap();
    assert!(found.iter().all(|one| one.is_good));
}
