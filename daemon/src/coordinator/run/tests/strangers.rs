//! A worker of another job speaks of this one.

use super::*;

#[test]
fn a_worker_that_never_served_a_job_changes_nothing_of_it() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1");
    bench.join("w2");
    bench.submit("j2", "1");
    bench.running("j1", 1, &["w1"]);
    bench.running("j2", 1, &["w2"]);
    let (job, generation) = (JobId("j1".into()), Generation(1));
    let error = Explained::new("it cannot be done");
    let checkpoint = Checkpoint {
        run: 0,
        seed: None,
        ends_run: true,
        ends_job: true,
        key: "k".into(),
        step: 1,
        generation: 1,
        is_best: false,
        metric: None,
        bytes: 1,
        tuned_sha256: "abc".into(),
    };
    let place = Place { step: 7, ..Place::default() };
    let outcome = |outcome| FromWorker::CheckpointReport {
        job: job.clone(),
        generation,
        outcome,
        waited_ms: 0,
    };
    let failed = FromWorker::JobFailed { job: job.clone(), generation, error: error.clone() };
    let before = bench.status("j1");
    for message in [
        progress("j1", 1, 9),
        outcome(Ok(checkpoint)),
        outcome(Err(error.clone())),
        failed.clone(),
        FromWorker::Running { job: job.clone(), generation, place },
        FromWorker::Damaged { error, jobs: vec![job.clone()] },
        FromWorker::Finished { job: job.clone(), generation, tuned_sha256: "abc".into() },
        FromWorker::Left { job, generation, place: None, reason: LeaveReason::Stopped },
    ] {
        let actions = bench.said("w2", message.clone());
        assert!(actions.is_empty(), "{message:?}: {actions:?}");
        assert_eq!(bench.status("j1"), before, "{message:?}");
    }
    // Who serves it is heard, also by a coordinator that was started again.
    bench.restart();
    bench.attach("w1", "j1", 1, Stage::Running);
    bench.said("w1", failed);
    assert_eq!(bench.status("j1").state, JobState::Failed);
}
