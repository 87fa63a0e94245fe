//! Devices and NCCL that fail while all workers are well with the coordinator.

use super::*;

impl Bench {
    /// A rank leaves its generation by itself.
    fn fails(&mut self, worker: &str, generation: u64, reason: LeaveReason) -> Vec<Action> {
        self.leaves(worker, "j1", generation, reason)
    }

    /// NCCL fails on one of two ranks; the other one sees its connection end.
    fn nccl_fails(&mut self, generation: u64) {
        self.running("j1", generation, &["w1", "w2"]);
        self.fails("w1", generation, LeaveReason::TransportFailed { detail: "a cable".into() });
        let (peer, detail) = (WorkerId("w1".into()), "reset".into());
        self.fails("w2", generation, LeaveReason::PeerLost { peer, silent: false, detail });
        self.wait(0);
    }
}

#[test]
fn nccl_is_tried_twice_and_then_left_alone() {
    let mut bench = two();
    for generation in 1..=2 {
        bench.nccl_fails(generation);
        assert_eq!((bench.status("j1").world, bench.status("j1").generation), (2, generation + 1));
    }
    let starts = bench.prepared("j1", 3);
    let why = "NCCL failed in 2 generations in a row, last with: a cable";
    assert!(starts.iter().all(|start| start.without_nccl.as_deref() == Some(why)), "{starts:?}");
    assert_eq!(starts.len(), 2);
    // It stays with TCP once it moves by it.
    bench.running("j1", 3, &["w1", "w2"]);
    bench.said("w1", progress("j1", 3, 1));
    bench.said("w1", progress("j1", 3, 2));
    bench.nccl_fails(3);
    assert!(bench.prepared("j1", 4).iter().all(|start| start.without_nccl.is_some()));
    assert_eq!(bench.status("j1").state, JobState::Running);
}

#[test]
fn a_step_between_two_failures_of_nccl_counts_anew() {
    let mut bench = two();
    for generation in 1..=5 {
        bench.running("j1", generation, &["w1", "w2"]);
        bench.said("w1", progress("j1", generation, generation));
        bench.nccl_fails(generation);
        assert!(bench.prepared("j1", generation + 1)[0].without_nccl.is_none());
    }
}

#[test]
fn a_worker_without_its_device_is_left_out_and_the_others_go_on() {
    let mut bench = two();
    bench.running("j1", 1, &["w1", "w2"]);
    let lost = || LeaveReason::DeviceLost { detail: "an illegal access".into() };
    bench.fails("w1", 1, lost());
    bench.wait(0);
    assert_eq!((bench.status("j1").world, bench.status("j1").generation), (1, 2));
    let warnings = bench.status("j1").warnings;
    assert!(
        warnings.last().unwrap().contains("lost its device: an illegal access"),
        "{warnings:?}"
    );
    // Nothing is given to it before its connection has ended.
    bench.submit("j2", "1");
    assert_eq!(bench.status("j2").state, JobState::Queued);
}

#[test]
fn a_job_that_takes_one_device_after_the_other_along_fails() {
    let mut bench = Bench::new();
    bench.join("w1");
    bench.submit("j1", "1");
    for (generation, worker) in (1..).zip(["w1", "w2", "w3"]) {
        assert_eq!(bench.status("j1").state, JobState::Running);
        bench.running("j1", generation, &[worker]);
        let detail = "an illegal access".into();
        bench.fails(worker, generation, LeaveReason::DeviceLost { detail });
        bench.apply(Event::Gone(WorkerId(worker.into())));
        bench.join(&format!("w{}", generation + 1));
        bench.wait(1);
    }
    let status = bench.status("j1");
    assert_eq!(status.state, JobState::Failed);
    let Some(Reason::Failed { error }) = status.reason else { panic!("{status:?}") };
    assert!(error.what.starts_with("3 generations in a row lost a device"), "{error:?}");
    assert!(error.hint.is_some() && error.place.unwrap().contains("w3"));
}
