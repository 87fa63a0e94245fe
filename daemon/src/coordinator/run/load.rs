//! What a launcher needs to know: how many workers the jobs could use, and who is there.

use super::{Cluster, Warmth, schedule};
use ptv2_common::ids::WorkerId;

/// How many workers the jobs could use, and who is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// So many workers could the jobs use that wait or run.
    pub wanted: u32,
    /// All that are connected.
    pub workers: Vec<Hand>,
}

/// A connected worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hand {
    /// The worker.
    pub id: WorkerId,
    /// What it was launched as, if it was.
    pub launch: Option<String>,
    /// What it is good for.
    pub use_: Use,
}

/// What a worker is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It serves a job, or loads what one needs.
    Busy,
    /// It could.
    Idle,
    /// It is given nothing, as its memory is not to be trusted.
    Suspect,
    /// It ends.
    Leaving,
}

impl Cluster {
    /// What a launcher needs to know.
    pub fn load(&self) -> Load {
        let open = self.jobs.values().filter(|job| !job.is_final());
        let wanted: usize = open.map(schedule::most).sum();
        let hand = |id: &WorkerId| Hand {
            id: id.clone(),
            launch: self.workers.get(id).and_then(|worker| worker.hello.launch.clone()),
            use_: self.use_of(id),
        };
        Load {
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            workers: self.workers.keys().map(hand).collect(),
        }
    }

    /// Whether a worker can be let go without taking anything from a job.
    pub fn is_spare(&self, id: &WorkerId) -> bool {
        match self.use_of(id) {
            Use::Idle | Use::Suspect => {
                self.workers.get(id).is_some_and(|worker| worker.serving.is_none())
            }
            Use::Busy | Use::Leaving => false,
        }
    }

    fn use_of(&self, id: &WorkerId) -> Use {
        let Some(worker) = self.workers.get(id) else { return Use::Leaving };
        if worker.draining {
            Use::Leaving
        } else if worker.is_suspect() {
            Use::Suspect
        } else if worker.serving.is_some()
            || worker.phase.is_none()
            || matches!(worker.warmth, Warmth::Warming(_))
        {
            // One that has just connected is about to be given work.
            Use::Busy
        } else {
            Use::Idle
        }
    }
}
