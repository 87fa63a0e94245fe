//! Members that die, fall silent, join, are drained, preempted or not to be trusted; a coordinator that is
//! started again.

use super::*;
use crate::coordinator::entries::of_report;

#[test]
fn a_worker_that_cannot_load_does_not_hurt_the_job() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1..2");
    bench.running("j1", 1, &["w1"]);
    bench.join("w2");
    bench.wait(1);
    let error = Explained::new("no such folder here");
    bench.said("w2", FromWorker::Ready { job: JobId("j1".into()), outcome: Err(error) });
    let warm = |action: &Action| matches!(action, Action::Tell(_, ToWorker::Warm(_)));
    assert!(!bench.wait(1).iter().any(warm), "it is not asked again");
    let status = bench.status("j1");
    assert_eq!((status.state, status.world), (JobState::Running, 1));
    assert!(status.warnings[0].contains("no such folder here"), "{:?}", status.warnings);
}

/// Two groups with room do not vie for the same newcomer, nor have one load for both in turn.
#[test]
fn newcomers_are_spread_over_groups_with_room() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1..2");
    bench.join("w2");
    bench.submit("j2", "1..2");
    bench.running("j1", 1, &["w1"]);
    bench.running("j2", 1, &["w2"]);
    let mut warmed = bench.join("w3");
    warmed.extend(bench.join("w4"));
    for _ in 0..3 {
        warmed.extend(bench.wait(1));
    }
    let warmed: Vec<(&str, &str)> = warmed
        .iter()
        .filter_map(|action| {
            let Action::Tell(worker, ToWorker::Warm(warm)) = action else { return None };
            Some((worker.0.as_str(), warm.job.id.0.as_str()))
        })
        .collect();
    assert_eq!(warmed, [("w3", "j1"), ("w4", "j2")]);
    assert_eq!(started(&bench.ready("w4", "j2")).unwrap(), ["w2", "w4"]);
    assert_eq!(started(&bench.ready("w3", "j1")).unwrap(), ["w1", "w3"]);
}

fn lost(job: &str, generation: u64, peer: &str, silent: bool) -> FromWorker {
    FromWorker::Left {
        job: JobId(job.into()),
        generation: Generation(generation),
        place: None,
        reason: LeaveReason::PeerLost {
            peer: WorkerId(peer.into()),
            silent,
            detail: "gone".into(),
        },
    }
}

/// A stopped process: its peers miss it first, and the coordinator knows that it misses it too.
#[test]
fn a_worker_that_everyone_misses_is_fenced_at_once() {
    let mut bench = Bench::new();
    for worker in ["w1", "w2", "w3"] {
        bench.join(worker);
    }
    bench.submit("j1", "1..3");
    bench.running("j1", 1, &["w1", "w2", "w3"]);
    for _ in 0..2 {
        bench.now += Duration::from_millis(950);
        bench.apply(Event::Tick);
    }
    bench.said("w1", heartbeat(DevicePhase::Stepping, 0));
    bench.said("w2", heartbeat(DevicePhase::Stepping, 0));
    let actions = bench.said("w1", lost("j1", 1, "w3", true));
    assert!(actions.contains(&Action::Disconnect(WorkerId("w3".into()))), "{actions:?}");
    assert_eq!(started(&actions).unwrap(), ["w1", "w2"]);
}

/// One that the others do not reach, though each is well with the coordinator, is left out: not the
/// first who is named, but the one that more of them miss.
#[test]
fn a_worker_that_its_peers_do_not_reach_is_left_out() {
    let mut bench = Bench::new();
    for worker in ["w1", "w2", "w3"] {
        bench.join(worker);
    }
    bench.submit("j1", "1..3");
    bench.running("j1", 1, &["w1", "w2", "w3"]);
    bench.said("w1", lost("j1", 1, "w2", true));
    bench.said("w1", lost("j1", 1, "w3", true));
    bench.said("w2", lost("j1", 1, "w1", true));
    let actions = bench.said("w3", lost("j1", 1, "w1", true));
    assert_eq!(started(&actions).unwrap(), ["w2", "w3"]);
    // It is not taken in again before the cooldown.
    bench.running("j1", 2, &["w2", "w3"]);
    bench.left("w1", "j1", 1);
    assert_eq!(started(&bench.wait(1)), None);
    assert_eq!(bench.status("j1").world, 2);
}

/// Cut off from a peer just when a change was planned: the pair is not made to fail a second time.
#[test]
fn a_silence_before_a_planned_change_counts_in_it() {
    let mut bench = Bench::new();
    for worker in ["w1", "w2"] {
        bench.join(worker);
    }
    bench.submit("j1", "1..3");
    bench.running("j1", 1, &["w1", "w2"]);
    bench.join("w3");
    bench.wait(1);
    assert_eq!(started(&bench.ready("w3", "j1")).unwrap(), ["w1", "w2", "w3"]);
    assert_eq!(started(&bench.said("w1", lost("j1", 1, "w2", true))).unwrap(), ["w1", "w3"]);
}

#[test]
fn a_drained_worker_leaves_after_its_step() {
    let mut bench = two();
    bench.running("j1", 1, &["w1", "w2"]);
    let actions = bench.apply(Event::Drain(WorkerId("w2".into())));
    assert_eq!(started(&actions).unwrap(), ["w1"]);
    assert!(bench.prepared("j1", 2)[0].finish_step);
}

#[test]
fn a_job_of_higher_priority_takes_what_it_needs() {
    let mut bench = Bench::new();
    for worker in ["w1", "w2", "w3"] {
        bench.join(worker);
    }
    bench.submit("low", "1..3");
    bench.running("low", 1, &["w1", "w2", "w3"]);
    // Two of three can be spared.
    let actions = bench.submit_urgent("high", "2");
    assert_eq!(started(&actions).unwrap(), ["w1"]);
    let stopped = |action: &Action| {
        matches!(action, Action::Tell(_, ToWorker::Stop { finish_step: true, .. }))
    };
    assert_eq!(actions.iter().filter(|action| stopped(action)).count(), 2);
    assert_eq!(bench.wait(1).iter().filter(|action| stopped(action)).count(), 0, "it waits");
    bench.running("low", 2, &["w1"]);
    bench.left("w2", "low", 1);
    assert_eq!(bench.status("high").state, JobState::Queued);
    assert_eq!(started(&bench.left("w3", "low", 1)).unwrap(), ["w2", "w3"]);

    // One more can not: the job is parked, and goes on when there is room again.
    let actions = bench.submit_urgent("highest", "1");
    let park = |action: &Action| {
        matches!(
            action,
            Action::Tell(_, ToWorker::Stop { checkpoint: true, finish_step: true, .. })
        )
    };
    assert!(actions.iter().any(park), "{actions:?}");
    let status = bench.status("low");
    assert_eq!(status.reason, Some(Reason::Preempted { by: "highest".into() }));
    assert!(status.remedy.is_some_and(|remedy| remedy.contains("by itself")));
    bench.left("w1", "low", 2);
    bench.said("w1", finished("highest", 1, "abc"));
    assert_eq!((bench.status("low").state, bench.status("low").generation), (JobState::Running, 3));
}

#[test]
fn a_worker_whose_state_differs_again_gets_no_more_work() {
    let mut bench = Bench::new();
    for worker in ["w1", "w2", "w3"] {
        bench.join(worker);
    }
    bench.submit("j1", "1..3");
    for generation in 1..=2 {
        assert_eq!(bench.status("j1").world, 3);
        bench.running("j1", generation, &["w1", "w2", "w3"]);
        for worker in ["w1", "w2", "w3"] {
            let (job, own) = (JobId("j1".into()), worker == "w2");
            let reason = LeaveReason::Diverged { own, detail: "hashes differ".into() };
            let generation = Generation(generation);
            bench.said(worker, FromWorker::Left { job, generation, place: None, reason });
        }
    }
    let status = bench.status("j1");
    assert_eq!((status.world, status.generation), (2, 3));
    assert!(status.warnings[0].contains("memory tested"), "{:?}", status.warnings);
}

#[test]
fn a_job_says_since_when_storage_is_behind() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1");
    let report = |outcome, waited_ms| FromWorker::CheckpointReport {
        job: JobId("j1".into()),
        generation: Generation(1),
        outcome,
        waited_ms,
    };
    // The store had been silent for a while when that was told.
    bench.now = Duration::from_secs(9);
    bench.said("w1", report(Err(Explained::new("no space left")), 4_000));
    bench.now = Duration::from_secs(12);
    bench.said("w1", report(Err(Explained::new("still none")), 2_000));
    let behind = bench.status("j1").storage_behind.unwrap();
    assert_eq!((behind.since_unix_ms, behind.error.what.as_str()), (5_000, "still none"));
    let checkpoint = Checkpoint {
        run: 0,
        seed: None,
        ends_run: false,
        ends_job: false,
        key: "k".into(),
        step: 1,
        generation: 1,
        is_best: false,
        metric: None,
        bytes: 1,
        tuned_sha256: "abc".into(),
    };
    bench.said("w1", report(Ok(checkpoint), 0));
    assert_eq!(bench.status("j1").storage_behind, None);
}

/// Rank 0 may report a step just when another member is lost, write a checkpoint of it, and be lost itself: nobody
/// computes that step again.
#[test]
fn what_a_generation_that_is_over_did_is_heard_where_nobody_told_of_it() {
    let mut bench = two();
    bench.running("j1", 1, &["w1", "w2"]);
    // Journals a report, and tells how many rows of it.
    let mut says = |generation, step| {
        let (w1, message) = (WorkerId("w1".into()), progress("j1", generation, step));
        let entries = of_report(&bench.cluster, &w1, &message, 0).len();
        bench.said("w1", message);
        if (generation, step) == (1, 1) {
            bench.apply(Event::Gone(WorkerId("w2".into())));
        }
        let status = bench.status("j1");
        (entries, status.step, status.generation)
    };
    assert_eq!(says(1, 1), (1, 1, 2));
    assert_eq!(says(1, 2), (1, 1, 2), "nobody has told of it, and nothing is decided by it");
    assert_eq!(says(2, 2), (1, 2, 2), "it was computed again");
    assert_eq!(says(1, 2), (0, 2, 2), "it is known");
    assert_eq!(says(3, 3), (0, 2, 2), "there is no such generation");
}

#[test]
fn a_job_whose_weights_were_damaged_is_in_doubt() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1");
    let error = Explained::new("frozen weights have changed");
    bench.said("w1", FromWorker::Damaged { error, jobs: vec![JobId("j1".into())] });
    let warnings = bench.status("j1").warnings;
    assert!(warnings[0].contains("in doubt"), "{warnings:?}");
}

#[test]
fn a_restarted_coordinator_goes_on_with_a_higher_generation() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1");
    bench.submit("j2", "1");
    bench.apply(Event::Submitted(Box::new(record("j3", "1"))));
    bench.said("w1", progress("j1", 1, 1));
    bench.restart();
    assert_eq!(bench.unstaged, [JobId("j3".into())]);
    assert!(bench.status("j1").timings.first_step_s.is_some());
    // What it trains is nothing that the journal knows of: the coordinator died before it was told.
    assert_eq!(started(&bench.join("w1")).unwrap(), ["w1"]);
    assert_eq!(bench.status("j1").generation, 2);
    assert_eq!(bench.status("j2").state, JobState::Queued);
}

#[test]
fn a_restarted_coordinator_goes_on_with_the_generation_that_trains_on() {
    let mut bench = Bench::new();
    bench.submit("j1", "2");
    bench.join("w1");
    bench.join("w2");
    bench.running("j1", 1, &["w1", "w2"]);
    bench.restart();
    assert_eq!(bench.status("j1").reason, Some(Reason::Forming { waiting_for: 2 }));
    assert_eq!(started(&bench.attach("w1", "j1", 1, Stage::Running)), None);
    assert_eq!(bench.status("j1").reason, Some(Reason::Forming { waiting_for: 1 }));
    assert_eq!(started(&bench.attach("w2", "j1", 1, Stage::Running)), None);
    let status = bench.status("j1");
    assert_eq!((status.reason, status.generation, status.world), (None, 1, 2));
    // What was said in its absence counts.
    bench.said("w1", finished("j1", 1, "abc"));
    bench.said("w2", finished("j1", 1, "abc"));
    assert_eq!(bench.status("j1").state, JobState::Succeeded);
}

#[test]
fn a_restarted_coordinator_learns_that_all_have_finished() {
    let mut bench = Bench::new();
    bench.submit("j1", "2");
    bench.join("w1");
    bench.join("w2");
    bench.restart();
    let stage = || Stage::Finished { tuned_sha256: "abc".into() };
    bench.attach("w1", "j1", 1, stage());
    bench.attach("w2", "j1", 1, stage());
    assert_eq!(bench.status("j1").tuned_sha256.as_deref(), Some("abc"));
}

#[test]
fn a_member_that_does_not_come_back_is_left_out_after_a_while() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.join("w2");
    bench.submit("j1", "1..3");
    bench.restart();
    bench.attach("w1", "j1", 1, Stage::Left);
    bench.wait(1);
    assert_eq!(bench.status("j1").generation, 1, "w2 may still come");
    assert_eq!(started(&bench.wait(2)).unwrap(), ["w1"]);
}

/// A worker died while there was no coordinator; its peers saw its end, so nobody waits for it.
#[test]
fn a_member_that_its_peers_saw_die_is_not_waited_for() {
    let mut bench = Bench::new();
    for worker in ["w1", "w2", "w3"] {
        bench.join(worker);
    }
    bench.submit("j1", "1..3");
    bench.running("j1", 1, &["w1", "w2", "w3"]);
    bench.restart();
    bench.attach("w1", "j1", 1, Stage::Left);
    bench.said("w1", lost("j1", 1, "w3", false));
    assert_eq!(started(&bench.attach("w2", "j1", 1, Stage::Left)).unwrap(), ["w1", "w2"]);
}

/// All are lost, but one only lost touch: it is back in time, and has what the store has not.
#[test]
fn who_comes_back_at_once_is_preferred_to_the_store() {
    let mut bench = Bench::new();
    bench.join("w0");
    bench.join("w1");
    bench.submit("j0", "1");
    bench.submit("j1", "1");
    bench.running("j1", 1, &["w1"]);
    bench.said("w0", finished("j0", 1, "abc"));
    let actions = bench.apply(Event::Gone(WorkerId("w1".into())));
    assert_eq!(started(&actions), None, "w0 is free, and knows nothing of the job");
    bench.attach("w1", "j1", 1, Stage::Left);
    let place = Some(Place { step: 7, ..Place::default() });
    let (job, generation) = (JobId("j1".into()), Generation(1));
    let reason = LeaveReason::Stopped;
    bench.said("w1", FromWorker::Left { job, generation, place, reason });
    assert_eq!(started(&bench.wait(1)).unwrap(), ["w1"]);
}

/// A worker whose connection broke, and nothing else, goes on as it was.
#[test]
fn a_worker_that_dials_again_keeps_its_place() {
    let mut bench = Bench::new();
    bench.submit("j1", "2");
    bench.join("w1");
    bench.join("w2");
    bench.running("j1", 1, &["w1", "w2"]);
    assert_eq!(started(&bench.attach("w2", "j1", 1, Stage::Running)), None);
    assert_eq!(bench.status("j1").reason, None);
    // One that never heard of its generation, because its connection took the message along.
    assert_eq!(started(&bench.join("w2")), None, "the other may notice by itself");
    bench.wait(1);
    assert_eq!(bench.status("j1").generation, 2);
}
