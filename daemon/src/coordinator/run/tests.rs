use super::*;
use ptv2_common::api::{Checkpoint, JobState, JobStatus, MetricsRow, Reason, StepMetrics};
use ptv2_common::job::PinnedBackbone;
use ptv2_common::plan::Plan;
use ptv2_common::session::{
    Attached, Fingerprint, FromWorker, LeaveReason, PROTOCOL, Stage, Start, ToWorker,
};
use ptv2_common::spec::JobSpec;

mod elastic;
mod setbacks;
mod strangers;
mod warnings;

pub(crate) fn record(id: &str, workers: &str) -> JobRecord {
    let spec = JobSpec::from_toml(&format!(
        "task = \"superglue/rte\"\nbackbone.path = \"/m\"\ndata.root = \"/d\"\n\
         training = {{ epochs = 1, learning_rate = 1e-3 }}\nresources.workers = \"{workers}\""
    ))
    .unwrap();
    JobRecord {
        score: None,
        format: 1,
        id: JobId(id.into()),
        name: id.into(),
        spec,
        spec_sha256: String::new(),
        submitted_unix_ms: 0,
        submitted_by: None,
        backbone: PinnedBackbone {
            directory: "/m".into(),
            config_sha256: String::new(),
            weights_sha256: String::new(),
            shards: BTreeMap::new(),
            hub: None,
            url: None,
            tokenizer_sha256: String::new(),
            architecture: "bert".into(),
            hidden_size: 4,
            layers: 1,
            heads: 1,
        },
        data_sha256: BTreeMap::new(),
        init_sha256: None,
        mirrored: std::collections::BTreeMap::new(),
        own_task: None,
        plan: Plan {
            train_rows: 32,
            val_rows: 8,
            steps_per_epoch: 1,
            total_steps: 1,
            slices: 8,
            trainable_parameters: 1,
            prefix_parameters: 0,
            pooler_parameters: 0,
            frozen_parameters: 0,
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

/// A report of one step.
pub(crate) fn progress(job: &str, generation: u64, step: u64) -> FromWorker {
    let row = StepMetrics {
        seed: None,
        step,
        epoch: 0,
        loss: 1.0,
        learning_rate: 0.1,
        grad_norm: 1.0,
        rows_per_s: 1.0,
        tokens_per_s: 1.0,
    };
    let (job, generation) = (JobId(job.into()), Generation(generation));
    FromWorker::Progress { job, generation, metrics: vec![MetricsRow::Step(row)] }
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
        self.staged(id)
    }

    fn staged(&mut self, id: &str) -> Vec<Action> {
        self.apply(Event::Staged {
            job: JobId(id.into()),
            features: "f".into(),
            majority_class: 0.5,
            staged_s: 0.5,
            truncated: Vec::new(),
        })
    }

    fn left(&mut self, worker: &str, job: &str, generation: u64) -> Vec<Action> {
        self.leaves(worker, job, generation, LeaveReason::Stopped)
    }

    fn leaves(
        &mut self,
        worker: &str,
        job: &str,
        generation: u64,
        reason: LeaveReason,
    ) -> Vec<Action> {
        let (job, generation) = (JobId(job.into()), Generation(generation));
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
        self.staged(id);
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

/// Two workers, and a job that takes both.
fn two() -> Bench {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.join("w2");
    bench.submit("j1", "1..2");
    bench
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
        launch: None,
        slurm: None,
        visible_device: None,
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
    let mut bench = two();
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
    let mut bench = two();
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
    bench.apply(Event::Staged {
        job,
        features: "f".into(),
        majority_class: 0.5,
        staged_s: 0.5,
        truncated: Vec::new(),
    });
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
    let staged = |job| Event::Staged {
        job,
        features: "f".into(),
        majority_class: 0.5,
        staged_s: 0.25,
        truncated: Vec::new(),
    };
    let actions = bench.apply(staged(job.clone()));
    let said = |action: &Action| matches!(action, Action::Note { message, .. } if message.contains("0.2 s"));
    assert!(actions.iter().any(said), "{actions:?}");
    let status = bench.cluster.status(bench.now, &job).unwrap();
    assert_eq!(status.timings.staged_s, Some(0.25));
}
