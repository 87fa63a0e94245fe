//! Bugs planted between what is decided and the world, to prove that they are found.

use super::{Action, Event, Fact};
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::session::{FromWorker, Stage, ToWorker};

/// A coordinator, or a worker, that does one thing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    /// Rank 0 is told of a group without its last member, and nobody computes some slices.
    SkipSlice,
    /// Reports of a generation that is over are taken for the current one's.
    AcceptOldGeneration,
    /// A cancel is acknowledged and forgotten while the job runs.
    LoseCancel,
    /// An accepted job is not journaled.
    ForgetSubmitted,
    /// A generation is not journaled before its members hear of it.
    ForgetStarted,
    /// The end of a cancelled job is not journaled.
    ForgetCancelled,
    /// People hear of decisions before the journal does.
    AnswerBeforeJournal,
    /// A generation begins from the highest checkpoint, whoever wrote it.
    StaleCheckpoint,
    /// A generation that was decided upon is never prepared.
    NeverPrepare,
    /// A coordinator that starts again takes every member that comes back for one that trains.
    ReattachBlindly,
    /// The ranks of a new generation go on from whoever is furthest behind.
    LevelToTheLast,
    /// Ranks do not compare their states.
    IgnoreVotes,
    /// A generation's start takes back what others have published beyond it.
    FenceOffPublished,
}

impl Mutant {
    pub(super) const ALL: [Self; 13] = [
        Self::SkipSlice,
        Self::AcceptOldGeneration,
        Self::LoseCancel,
        Self::ForgetSubmitted,
        Self::ForgetStarted,
        Self::ForgetCancelled,
        Self::AnswerBeforeJournal,
        Self::StaleCheckpoint,
        Self::NeverPrepare,
        Self::ReattachBlindly,
        Self::LevelToTheLast,
        Self::IgnoreVotes,
        Self::FenceOffPublished,
    ];

    /// What the coordinator makes of an event; none if it never takes it.
    pub(super) fn hears(
        self,
        event: Event,
        current: impl Fn(&JobId) -> Option<Generation>,
    ) -> Option<Event> {
        match (self, event) {
            (Self::AcceptOldGeneration, Event::Said(worker, mut message)) => {
                if let Some((job, generation)) = of_group(&mut message)
                    && let Some(current) = current(job)
                {
                    *generation = current;
                }
                Some(Event::Said(worker, message))
            }
            (Self::ReattachBlindly, Event::Joined(mut hello)) => {
                if let Some(attached) = &mut hello.attached
                    && let Some(generation) = current(&attached.job)
                {
                    (attached.generation, attached.stage) = (generation, Stage::Running);
                }
                Some(Event::Joined(hello))
            }
            (Self::LoseCancel, Event::Cancel(job)) if current(&job).is_some() => None,
            (_, event) => Some(event),
        }
    }

    /// What becomes of its decisions.
    pub(super) fn does(self, actions: Vec<Action>) -> Vec<Action> {
        actions.into_iter().filter_map(|action| self.does_one(action)).collect()
    }

    fn does_one(self, action: Action) -> Option<Action> {
        match (self, action) {
            (Self::ForgetSubmitted, Action::Record(Fact::Submitted(_)))
            | (Self::ForgetStarted, Action::Record(Fact::Started { .. }))
            | (Self::ForgetCancelled, Action::Record(Fact::Cancelled { .. }))
            | (Self::NeverPrepare, Action::Prepare(_, Generation(4))) => None,
            (Self::SkipSlice, Action::Tell(worker, ToWorker::Start(mut start))) => {
                if start.rank == 0 && start.members.len() > 1 {
                    start.members.pop();
                }
                Some(Action::Tell(worker, ToWorker::Start(start)))
            }
            (_, action) => Some(action),
        }
    }
}

/// The job and generation that a report is of.
fn of_group(message: &mut FromWorker) -> Option<(&JobId, &mut Generation)> {
    match message {
        FromWorker::Running { job, generation, .. }
        | FromWorker::Left { job, generation, .. }
        | FromWorker::Progress { job, generation, .. }
        | FromWorker::CheckpointReport { job, generation, .. }
        | FromWorker::Finished { job, generation, .. }
        | FromWorker::JobFailed { job, generation, .. } => Some((job, generation)),
        FromWorker::Hello(_)
        | FromWorker::Heartbeat { .. }
        | FromWorker::Ready { .. }
        | FromWorker::Damaged { .. }
        | FromWorker::Log { .. }
        | FromWorker::Draining => None,
    }
}
