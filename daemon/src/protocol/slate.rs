//! What the coordinator wants of a device thread: orders are written down as they come, and taken
//! between generations; some end the present one.

use ptv2_common::ids::{Generation, JobId};
use ptv2_common::session::{Start, ToWorker, Warm};

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Begin a generation.
    Start(Box<Start>),
    /// Load a job's backbone and rows.
    Warm(Box<Warm>),
    /// Forget a job's state: it ended well.
    Forget(JobId),
    /// Leave a job's generations up to this one for good, and say so, even where they were left
    /// before or never begun: the coordinator waits for it.
    Stop(Stop),
    /// End the thread.
    End,
}

/// An order to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The job.
    pub job: JobId,
    /// Its generations up to this one.
    pub generation: Generation,
    /// Whether the job waits for workers: its state is kept, and written if this rank is the one who
    /// writes. Else it is forgotten.
    pub park: bool,
}

/// The generation that a device thread is in.
#[derive(Debug, Clone)]
struct Current {
    job: JobId,
    generation: Generation,
    aborted: bool,
    leaving: bool,
}

/// Orders, until the device thread takes them.
#[derive(Debug, Clone, Default)]
pub struct Slate {
    /// The newest generation to begin. It supersedes every other.
    start: Option<Box<Start>>,
    warm: Option<Box<Warm>>,
    forget: Option<JobId>,
    stop: Option<Stop>,
    ending: bool,
    current: Option<Current>,
}

impl Slate {
    /// Writes down what the coordinator says.
    pub fn obey(&mut self, message: ToWorker) {
        match message {
            ToWorker::Start(start) => self.start(start),
            ToWorker::Stop { job, generation, checkpoint, finish_step } => {
                self.stop(Stop { job, generation, park: checkpoint }, finish_step);
            }
            ToWorker::Warm(warm) => self.warm = Some(warm),
            // A job that ended well: its state may be forgotten.
            ToWorker::Release { job, .. } => self.forget = Some(job),
            ToWorker::Drain => self.drain(),
            ToWorker::Welcome { .. } | ToWorker::Refused { .. } | ToWorker::Taken { .. } => {}
        }
    }

    fn start(&mut self, start: Box<Start>) {
        let (job, generation) = (&start.job.id, start.generation);
        let covers = |of: &JobId, at: Generation| of == job && at >= generation;
        let superseded = self.start.as_ref().is_some_and(|it| covers(&it.job.id, it.generation))
            || self.current.as_ref().is_some_and(|it| covers(&it.job, it.generation));
        if superseded {
            return;
        }
        self.end_current(start.finish_step);
        self.start = Some(start);
    }

    fn stop(&mut self, stop: Stop, finish_step: bool) {
        let concerned =
            |job: &JobId, generation: Generation| *job == stop.job && generation <= stop.generation;
        self.start.take_if(|start| concerned(&start.job.id, start.generation));
        if self.current.as_ref().is_some_and(|it| concerned(&it.job, it.generation)) {
            self.end_current(finish_step);
        }
        if self.start.as_ref().is_some_and(|start| start.job.id == stop.job) {
            return; // A newer generation is to go on with the state.
        }
        self.stop = Some(stop);
    }

    /// The present generation is left after its step, or at once.
    fn end_current(&mut self, finish_step: bool) {
        if let Some(current) = &mut self.current {
            current.leaving = true;
            current.aborted |= !finish_step;
        }
    }

    /// The thread is to finish its step, leave, and end.
    pub fn drain(&mut self) {
        self.ending = true;
        self.end_current(true);
    }

    /// The thread is to end at once.
    pub fn end(&mut self) {
        self.ending = true;
        self.end_current(false);
    }

    /// Takes the next order, if there is one.
    pub fn take(&mut self) -> Option<Order> {
        if let Some(mut stop) = self.stop.take() {
            // Others are to go on with the state, but where all are told to end at the same moment, they end
            // before they do. So whoever ends leaves it behind.
            stop.park |= self.ending;
            return Some(Order::Stop(stop));
        }
        if self.ending {
            return Some(Order::End);
        }
        if let Some(job) = self.forget.take() {
            return Some(Order::Forget(job));
        }
        if let Some(start) = self.start.take() {
            return Some(Order::Start(start));
        }
        self.warm.take().map(Order::Warm)
    }

    /// The device thread enters a generation. An order that came in between ends it at once.
    pub fn enter(&mut self, job: &JobId, generation: Generation) {
        let stopped = self.stop.as_ref().is_some_and(|stop| stop.job == *job);
        let aborted = self.ending || self.start.is_some() || stopped;
        let job = job.clone();
        self.current = Some(Current { job, generation, aborted, leaving: aborted });
    }

    /// The device thread has left its generation.
    pub fn leave(&mut self) {
        self.current = None;
    }

    /// Whether the present generation is to be left at once.
    pub fn is_aborted(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.aborted)
    }

    /// Whether the present generation is to be left after a step.
    pub fn is_leaving(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.leaving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::run::tests::record;

    fn start(generation: u64, finish_step: bool) -> ToWorker {
        ToWorker::Start(Box::new(Start {
            job: record("j", "1"),
            generation: Generation(generation),
            rank: 0,
            members: Vec::new(),
            group_key: String::new(),
            features: String::new(),
            resume: None,
            finish_step,
            reported_step: 0,
            without_nccl: None,
        }))
    }

    fn stop(generation: u64, finish_step: bool) -> ToWorker {
        let (job, generation) = (JobId("j".into()), Generation(generation));
        ToWorker::Stop { job, generation, checkpoint: true, finish_step }
    }

    fn in_generation(generation: u64) -> Slate {
        let mut slate = Slate::default();
        slate.enter(&JobId("j".into()), Generation(generation));
        slate
    }

    /// A worker may have left its group by itself when it is told to stop. It must still answer, or
    /// the coordinator would wait for it without end.
    #[test]
    fn a_stop_is_obeyed_whether_or_not_the_group_was_left() {
        let mut slate = in_generation(3);
        slate.leave();
        slate.obey(stop(3, false));
        assert!(matches!(slate.take(), Some(Order::Stop(found)) if found.park));
    }

    #[test]
    fn a_planned_change_lets_the_step_end_and_a_broken_group_does_not_wait() {
        let mut slate = in_generation(1);
        slate.obey(start(2, true));
        assert!(slate.is_leaving() && !slate.is_aborted());
        slate.obey(start(3, false));
        assert!(slate.is_aborted());
        slate.leave();
        let Some(Order::Start(next)) = slate.take() else { panic!() };
        assert_eq!(next.generation, Generation(3), "only the newest");
        assert_eq!(slate.take(), None);
    }

    #[test]
    fn an_older_start_is_not_begun() {
        let mut slate = in_generation(4);
        slate.obey(start(4, false));
        slate.obey(start(3, false));
        assert!(!slate.is_leaving());
        slate.leave();
        assert_eq!(slate.take(), None);
    }

    #[test]
    fn a_stop_that_comes_late_does_not_end_a_newer_generation() {
        let mut slate = in_generation(2);
        slate.obey(start(3, true));
        slate.obey(stop(2, false));
        slate.leave();
        assert!(matches!(slate.take(), Some(Order::Start(_))));
        assert_eq!(slate.take(), None, "the state is to be gone on with");
    }

    #[test]
    fn what_comes_between_two_generations_is_not_missed() {
        let mut slate = Slate::default();
        slate.obey(start(1, false));
        let Some(Order::Start(_)) = slate.take() else { panic!() };
        slate.obey(stop(1, true));
        slate.enter(&JobId("j".into()), Generation(1));
        assert!(slate.is_aborted());
    }

    #[test]
    fn a_thread_that_ends_leaves_its_state_behind_though_others_go_on() {
        for ending in [false, true] {
            let mut slate = in_generation(1);
            if ending {
                slate.drain();
            }
            slate.obey(ToWorker::Stop {
                job: JobId("j".into()),
                generation: Generation(1),
                checkpoint: false,
                finish_step: true,
            });
            slate.leave();
            let Some(Order::Stop(taken)) = slate.take() else { panic!("{slate:?}") };
            assert_eq!(taken.park, ending);
        }
    }

    #[test]
    fn a_drained_thread_ends_after_its_step_and_begins_nothing() {
        let mut slate = in_generation(1);
        slate.drain();
        assert!(slate.is_leaving() && !slate.is_aborted());
        slate.obey(start(2, true));
        slate.leave();
        assert_eq!(slate.take(), Some(Order::End));
    }
}
