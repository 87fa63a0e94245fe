use super::*;
use ptv2_common::api::{Checkpoint, JobState, JobStatus, MetricsRow, Reason, StepMetrics};
use ptv2_common::job::PinnedBackbone;
use ptv2_common::plan::Plan;
use ptv2_common::session::{
    Attached, Fingerprint, FromWorker, LeaveReason, PROTOCOL, Stage, Start, ToWorker,
};
use ptv2_common::spec::JobSpec;

pub(crate) fn record(id: &str, workers: &str) -> JobRecord {
    let spec = JobSpec::from_toml(&format!(
        "task = \"superglue/rte\"\nbackbone.path = \"/m\"\ndata.root = \"/d\"\n\
         training = {{ epochs = 1, learning_rate = 1e-3 }}\nresources.workers = \"{workers}\""
    ))
    .unwrap();
    JobRecord {
        format: 1,
        id: JobId(id.into()),
        name: id.into(),
        spec,
        spec_sha256: String::new(),
        submitted_unix_ms: 0,
        backbone: PinnedBackbone {
            directory: "/m".into(),
            config_sha256: String::new(),
            weights_sha256: String::new(),
            tokenizer_sha256: String::new(),
            hidden_size: 4,
            layers: 1,
            heads: 1,
        },
        data_sha256: BTreeMap::new(),
        init_sha256: None,
        plan: Plan {
            train_rows: 32,
            val_rows: 8,
            steps_per_epoch: 1,
            total_steps: 1,
            slices: 8,
            trainable_parameters: 1,
            prefix_parameters: 0,
            gradient_bytes: 4,
            checkpoint_bytes: 12,
            positions_used: 1,
            positions_available: 2,
        },
        labels: vec!["a".into(), "b".into()],
        choices: 1,
        best_metric: "accuracy".into(),
    }
}

/// A cluster and its journal, driven event by event.
struct Bench {
    cluster: Cluster,
    now: Duration,
    facts: Vec<Recorded>,
    unstaged: Vec<JobId>,
}

impl Bench {
    fn new() -> Self {
        let cluster = Cluster::new(Limits::default());
        Self { cluster, now: Duration::ZERO, facts: Vec::new(), unstaged: Vec::new() }
    }

    /// The coordinator dies and starts again.
    fn restart(&mut self) {
        let facts = self.facts.clone();
        (self.cluster, self.unstaged) = Cluster::replay(Limits::default(), self.now, facts);
    }

    /// A worker dials again and says what it is a member of.
    fn attach(&mut self, id: &str, job: &str, generation: u64, stage: Stage) -> Vec<Action> {
        let (job, generation) = (JobId(job.into()), Generation(generation));
        let attached = Some(Attached { job, generation, stage });
        let mut actions =
            self.apply(Event::Joined(Box::new(Hello { attached, ..hello(id, "cpu") })));
        actions.extend(self.said(id, heartbeat(DevicePhase::Idle, 0)));
        actions
    }

    /// A generation's key is made: what its members are told.
    fn prepared(&mut self, job: &str, generation: u64) -> Vec<Start> {
        let told = self.apply(Event::Prepared {
            job: JobId(job.into()),
            generation: Generation(generation),
            group_key: "k".into(),
            resume: None,
        });
        let start = |action: Action| {
            let Action::Tell(_, ToWorker::Start(start)) = action else { return None };
            Some(*start)
        };
        told.into_iter().filter_map(start).collect()
    }

    /// A job of a priority above all before it.
    fn submit_urgent(&mut self, id: &str, workers: &str) -> Vec<Action> {
        let mut record = record(id, workers);
        record.spec.resources.priority = i32::try_from(self.cluster.jobs.len()).unwrap();
        self.apply(Event::Submitted(Box::new(record)));
        let job = JobId(id.into());
        self.apply(Event::Staged { job, features: "f".into(), majority_class: 0.5, staged_s: 0.5 })
    }

    fn left(&mut self, worker: &str, job: &str, generation: u64) -> Vec<Action> {
        let (job, reason) = (JobId(job.into()), LeaveReason::Stopped);
        let generation = Generation(generation);
        self.said(worker, FromWorker::Left { job, generation, place: None, reason })
    }

    /// A worker has loaded what a running job needs.
    fn ready(&mut self, id: &str, job: &str) -> Vec<Action> {
        self.said(id, FromWorker::Ready { job: JobId(job.into()), outcome: Ok(()) })
    }

    fn apply(&mut self, event: Event) -> Vec<Action> {
        let actions = self.cluster.apply(self.now, event);
        for action in &actions {
            if let Action::Record(fact) = action {
                self.facts.push((self.now, fact.clone()));
            }
        }
        actions
    }

    fn submit(&mut self, id: &str, workers: &str) {
        self.apply(Event::Submitted(Box::new(record(id, workers))));
        let job = JobId(id.into());
        self.apply(Event::Staged { job, features: "f".into(), majority_class: 0.5, staged_s: 0.5 });
    }

    fn join(&mut self, id: &str) -> Vec<Action> {
        self.join_as(id, "cpu")
    }

    fn join_as(&mut self, id: &str, device: &str) -> Vec<Action> {
        let mut actions = self.apply(Event::Joined(Box::new(hello(id, device))));
        actions.extend(self.said(id, heartbeat(DevicePhase::Idle, 0)));
        actions
    }

    fn said(&mut self, worker: &str, message: FromWorker) -> Vec<Action> {
        self.apply(Event::Said(WorkerId(worker.into()), Box::new(message)))
    }

    fn running(&mut self, job: &str, generation: u64, workers: &[&str]) {
        for worker in workers {
            let (job, generation) = (JobId(job.into()), Generation(generation));
            self.said(worker, FromWorker::Running { job, generation, place: Place::default() });
        }
    }

    fn status(&self, job: &str) -> JobStatus {
        self.cluster.status(self.now, &JobId(job.into())).unwrap()
    }

    fn wait(&mut self, seconds: u64) -> Vec<Action> {
        // Workers heartbeat all the while.
        let ids: Vec<WorkerId> = self.cluster.workers.keys().cloned().collect();
        self.now += Duration::from_secs(seconds);
        let mut actions = Vec::new();
        for id in ids {
            actions.extend(self.said(&id.0, heartbeat(DevicePhase::Idle, 0)));
        }
        actions.extend(self.apply(Event::Tick));
        actions
    }
}

pub(crate) fn hello(id: &str, device: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        worker: WorkerId(id.into()),
        host: "h".into(),
        version: "0".into(),
        fingerprint: Fingerprint {
            device: device.into(),
            instruction_set: String::new(),
            libtorch: String::new(),
            ptv2: String::new(),
            settings: String::new(),
        },
        device: "cpu".into(),
        threads: 1,
        reduce_address: "127.0.0.1:1".parse().unwrap(),
        attached: None,
    }
}

fn heartbeat(phase: DevicePhase, phase_age_ms: u64) -> FromWorker {
    FromWorker::Heartbeat {
        serving: None,
        place: None,
        phase,
        phase_age_ms,
        backbone_loads: 0,
        speed: None,
    }
}

fn finished(job: &str, generation: u64, hash: &str) -> FromWorker {
    FromWorker::Finished {
        job: JobId(job.into()),
        generation: Generation(generation),
        tuned_sha256: hash.into(),
    }
}

/// The members of the last generation that a list of actions starts.
fn started(actions: &[Action]) -> Option<Vec<String>> {
    actions.iter().rev().find_map(|action| {
        let Action::Record(Fact::Started { members, .. }) = action else { return None };
        Some(members.iter().map(ToString::to_string).collect())
    })
}

#[test]
fn a_job_goes_from_submit_to_success() {
    let mut bench = Bench::new();
    bench.submit("j1", "2");
    bench.join("w1");
    let reason = bench.status("j1").reason;
    assert_eq!(reason, Some(Reason::TooFewWorkers { free: 1, needed: 2 }));
    let actions = bench.join("w2");
    assert_eq!(started(&actions).unwrap(), ["w1", "w2"]);
    let journaled = actions.iter().position(|action| matches!(action, Action::Record(_)));
    let prepared = actions.iter().position(|action| matches!(action, Action::Prepare(..)));
    assert!(journaled < prepared, "journaled before any member hears of it");

    let told = bench.apply(Event::Prepared {
        job: JobId("j1".into()),
        generation: Generation(1),
        group_key: "k".into(),
        resume: None,
    });
    assert_eq!(told.iter().filter(|action| matches!(action, Action::Tell(..))).count(), 2);
    assert_eq!(bench.status("j1").reason, Some(Reason::Forming { waiting_for: 2 }));
    bench.running("j1", 1, &["w1", "w2"]);
    assert_eq!((bench.status("j1").state, bench.status("j1").world), (JobState::Running, 2));

    bench.said("w1", finished("j1", 1, "abc"));
    assert_eq!(bench.status("j1").state, JobState::Running);
    let actions = bench.said("w2", finished("j1", 1, "abc"));
    assert_eq!(bench.status("j1").tuned_sha256.as_deref(), Some("abc"));
    let released =
        actions.iter().filter(|a| matches!(a, Action::Tell(_, ToWorker::Release { .. }))).count();
    assert_eq!(released, 2);
}

#[test]
fn different_final_states_fail_the_job() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.join("w2");
    bench.submit("j1", "2");
    bench.said("w1", finished("j1", 1, "abc"));
    bench.said("w2", finished("j1", 1, "abd"));
    assert_eq!(bench.status("j1").state, JobState::Failed);
}

#[test]
fn a_lost_worker_makes_a_new_generation_of_the_rest() {
    let mut bench = Bench::new();
    for worker in ["w1", "w2", "w3"] {
        bench.join(worker);
    }
    bench.submit("j1", "1..3");
    let actions = bench.apply(Event::Gone(WorkerId("w2".into())));
    assert_eq!(started(&actions).unwrap(), ["w1", "w3"]);
    assert_eq!(bench.status("j1").generation, 2);
    // What the old generation still says counts for nothing.
    bench.said("w1", finished("j1", 1, "abc"));
    bench.said("w3", finished("j1", 1, "abc"));
    assert_eq!(bench.status("j1").state, JobState::Running);
}

#[test]
fn too_few_survivors_send_the_job_back_to_the_queue() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.join("w2");
    bench.submit("j1", "2");
    let actions = bench.apply(Event::Gone(WorkerId("w1".into())));
    assert!(
        actions.iter().any(|action| matches!(
            action,
            Action::Tell(_, ToWorker::Stop { checkpoint: true, .. })
        ))
    );
    assert_eq!(bench.status("j1").reason, Some(Reason::LostWorkers { needed: 2 }));
    // The survivor is free only when it says that it has left.
    bench.join("w3");
    assert_eq!(bench.status("j1").state, JobState::Queued);
    let left = FromWorker::Left {
        job: JobId("j1".into()),
        generation: Generation(1),
        place: None,
        reason: LeaveReason::Stopped,
    };
    assert_eq!(started(&bench.said("w2", left)).unwrap(), ["w2", "w3"]);
    assert_eq!(bench.status("j1").generation, 2);
}

#[test]
fn silence_and_a_stuck_device_count_as_dead() {
    let mut bench = Bench::new();
    bench.join("w1");
    let mut actions = Vec::new();
    for second in 1..=4 {
        assert!(actions.is_empty(), "{actions:?}");
        bench.now = Duration::from_secs(second);
        actions = bench.apply(Event::Tick);
    }
    assert_eq!(actions, [Action::Disconnect(WorkerId("w1".into()))]);
    bench.join("w2");
    bench.said("w2", heartbeat(DevicePhase::Stepping, 1_000));
    assert!(bench.cluster.knows_worker(&WorkerId("w2".into())));
    bench.said("w2", heartbeat(DevicePhase::Stepping, 601_000));
    assert!(!bench.cluster.knows_worker(&WorkerId("w2".into())));
}

#[test]
fn a_pair_that_fails_again_and_again_is_parted() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.join("w2");
    bench.submit("j1", "1..2");
    for generation in 1..=3 {
        assert_eq!(bench.status("j1").world, 2);
        bench.running("j1", generation, &["w1", "w2"]);
        for (worker, peer) in [("w1", "w2"), ("w2", "w1")] {
            let reason = LeaveReason::PeerLost {
                peer: WorkerId(peer.into()),
                silent: false,
                detail: "reset".into(),
            };
            let (job, generation) = (JobId("j1".into()), Generation(generation));
            bench.said(worker, FromWorker::Left { job, generation, place: None, reason });
        }
        bench.wait(0);
    }
    assert_eq!((bench.status("j1").world, bench.status("j1").generation), (1, 4));
}

#[test]
fn one_rank_s_report_waits_for_the_peer_s_sign_of_death() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.join("w2");
    bench.submit("j1", "1..2");
    bench.running("j1", 1, &["w1", "w2"]);
    let reason = LeaveReason::PeerLost {
        peer: WorkerId("w2".into()),
        silent: false,
        detail: "reset".into(),
    };
    let (job, generation) = (JobId("j1".into()), Generation(1));
    bench.said("w1", FromWorker::Left { job, generation, place: None, reason });
    bench.apply(Event::Tick);
    assert_eq!(bench.status("j1").generation, 1);
    bench.wait(1);
    assert_eq!((bench.status("j1").generation, bench.status("j1").world), (2, 2));
}

#[test]
fn a_running_group_takes_in_a_new_worker() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1..2");
    bench.running("j1", 1, &["w1"]);
    bench.join("w2");
    assert_eq!(bench.status("j1").generation, 1);
    let actions = bench.wait(1);
    assert_eq!(started(&actions), None, "it loads first, and the group trains on");
    let warm =
        |action: &Action| matches!(action, Action::Tell(id, ToWorker::Warm(_)) if id.0 == "w2");
    assert!(actions.iter().any(warm), "{actions:?}");
    assert!(!bench.wait(1).iter().any(warm), "it is told once");
    assert_eq!(started(&bench.ready("w2", "j1")).unwrap(), ["w1", "w2"]);
    let told = bench.prepared("j1", 2);
    assert!(told.iter().all(|start| start.finish_step), "{told:?}");
}

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
    let left = LeaveReason::Stopped;
    let (job, generation) = (JobId("j1".into()), Generation(1));
    bench.said("w1", FromWorker::Left { job, generation, place: None, reason: left });
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
    let mut bench = Bench::new();
    bench.join("w1");
    bench.join("w2");
    bench.submit("j1", "1..2");
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
    let report = |outcome| FromWorker::CheckpointReport {
        job: JobId("j1".into()),
        generation: Generation(1),
        outcome,
    };
    bench.now = Duration::from_secs(5);
    bench.said("w1", report(Err(Explained::new("no space left"))));
    bench.now = Duration::from_secs(9);
    bench.said("w1", report(Err(Explained::new("still none"))));
    let behind = bench.status("j1").storage_behind.unwrap();
    assert_eq!((behind.since_unix_ms, behind.error.what.as_str()), (5_000, "still none"));
    let checkpoint = Checkpoint {
        key: "k".into(),
        step: 1,
        generation: 1,
        is_best: false,
        metric: None,
        bytes: 1,
        tuned_sha256: "abc".into(),
    };
    bench.said("w1", report(Ok(checkpoint)));
    assert_eq!(bench.status("j1").storage_behind, None);
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
fn workers_of_another_kind_are_not_mixed() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.join_as("w2", "other");
    bench.submit("j1", "2");
    assert_eq!(bench.status("j1").reason, Some(Reason::TooFewWorkers { free: 1, needed: 2 }));
}

#[test]
fn priority_then_age() {
    let mut bench = Bench::new();
    bench.submit("j1", "1");
    let mut urgent = record("j2", "1");
    urgent.spec.resources.priority = 5;
    bench.apply(Event::Submitted(Box::new(urgent)));
    let job = JobId("j2".into());
    bench.apply(Event::Staged { job, features: "f".into(), majority_class: 0.5, staged_s: 0.5 });
    assert_eq!(bench.status("j1").reason, Some(Reason::BehindOthers { ahead: 1 }));
    bench.join("w1");
    assert_eq!(bench.status("j2").state, JobState::Running);
}

#[test]
fn cancel_frees_the_workers_once_they_left() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1");
    bench.submit("j2", "1");
    let actions = bench.apply(Event::Cancel(JobId("j1".into())));
    assert!(
        actions.iter().any(|action| matches!(
            action,
            Action::Tell(_, ToWorker::Stop { checkpoint: false, .. })
        ))
    );
    assert_eq!(bench.status("j1").state, JobState::Cancelled);
    assert_eq!(bench.status("j2").state, JobState::Queued);
    let left = FromWorker::Left {
        job: JobId("j1".into()),
        generation: Generation(1),
        place: None,
        reason: LeaveReason::Stopped,
    };
    bench.said("w1", left);
    assert_eq!(bench.status("j2").state, JobState::Running);
}

#[test]
fn a_restarted_coordinator_goes_on_with_a_higher_generation() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1");
    bench.submit("j2", "1");
    bench.apply(Event::Submitted(Box::new(record("j3", "1"))));
    let row = StepMetrics {
        step: 1,
        epoch: 0,
        loss: 1.0,
        learning_rate: 0.1,
        grad_norm: 1.0,
        rows_per_s: 1.0,
        tokens_per_s: 1.0,
    };
    let (job, generation) = (JobId("j1".into()), Generation(1));
    bench
        .said("w1", FromWorker::Progress { job, generation, metrics: vec![MetricsRow::Step(row)] });
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

#[test]
fn a_worker_of_another_protocol_is_refused() {
    let mut bench = Bench::new();
    let stranger = Hello { protocol: PROTOCOL + 1, ..hello("w1", "cpu") };
    let actions = bench.apply(Event::Joined(Box::new(stranger)));
    assert!(matches!(&actions[0], Action::Tell(_, ToWorker::Refused { .. })));
    assert!(!bench.cluster.knows_worker(&WorkerId("w1".into())));
}

/// A coordinator that was stopped, or held up by a full disk, blames nobody for its own silence.
#[test]
fn who_wakes_up_late_blames_nobody() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.apply(Event::Tick);
    bench.now = Duration::from_secs(3600);
    assert_eq!(bench.apply(Event::Tick), []);
    assert!(bench.cluster.knows_worker(&WorkerId("w1".into())));
}

/// What staging took is what it took, not the time since the submit.
#[test]
fn a_job_that_is_tried_again_is_not_staged_for_longer() {
    let mut bench = Bench::new();
    bench.submit("j0", "1");
    let job = JobId("j0".into());
    bench.apply(Event::Cancel(job.clone()));
    bench.now += Duration::from_secs(60);
    bench.apply(Event::Retry(job.clone()));
    let staged =
        |job| Event::Staged { job, features: "f".into(), majority_class: 0.5, staged_s: 0.25 };
    let actions = bench.apply(staged(job.clone()));
    let said = |action: &Action| matches!(action, Action::Note { message, .. } if message.contains("0.2 s"));
    assert!(actions.iter().any(said), "{actions:?}");
    let status = bench.cluster.status(bench.now, &job).unwrap();
    assert_eq!(status.timings.staged_s, Some(0.25));
}
