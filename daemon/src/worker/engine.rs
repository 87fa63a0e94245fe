//! The device thread: takes orders, and runs one generation after the other.
//!
//! What it holds of a job outlives a generation: the tuned state, its place, the compute threads. So
//! the next generation goes on where this one stopped.

use super::backbones::Backbones;
use super::data;
use super::generation;
use super::held::{Exit, Held};
use super::orders::{Order, Stop};
use super::{Shared, join};
use crate::collective::CollectiveError;
use crate::train::pool::Pool;
use crate::train::step::Setting;
use ptv2_common::api::LogLevel;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::place::{DevicePhase, Place};
use ptv2_common::session::{FromWorker, LeaveReason, Start};
use ptv2_common::storage;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;

/// The last checkpoint of a parked job must be in the store within this time.
const PARKING: Duration = Duration::from_secs(30);

/// A handle to the device thread.
pub(super) struct Device {
    thread: JoinHandle<()>,
}

impl Device {
    /// Waits for the thread's end.
    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the device thread had panicked");
        }
    }
}

/// Starts the device thread.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(shared: Arc<Shared>, runtime: Handle) -> Result<Device, Explained> {
    let mut engine = Engine { shared, runtime, backbones: Backbones::default(), held: None };
    std::thread::Builder::new()
        .name("device".into())
        .spawn(move || {
            tch::set_num_threads(1);
            engine.run();
        })
        .map(|thread| Device { thread })
        .map_err(|error| Explained::from_error(&error))
}

struct Engine {
    shared: Arc<Shared>,
    runtime: Handle,
    backbones: Backbones,
    held: Option<Held>,
}

impl Engine {
    fn run(&mut self) {
        loop {
            match self.shared.orders.next() {
                Order::Start(start) => self.serve(&start),
                Order::Forget(job) => self.forget(&job),
                Order::Stop(stop) => self.stop(stop),
                Order::End => {
                    if let Some(job) = self.held.as_ref().map(|held| held.job.id.clone()) {
                        self.park(&job);
                    }
                    return;
                }
            }
        }
    }

    fn holding(&self, job: &JobId) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.job.id == *job)
    }

    /// How far this rank's state of a job is.
    fn place(&self, job: &JobId) -> Option<Place> {
        self.holding(job)?.progress.as_ref().map(|progress| progress.place)
    }

    fn forget(&mut self, job: &JobId) {
        self.held.take_if(|held| held.job.id == *job);
    }

    /// Leaves a job's generations for good. This thread is in none now, so saying it makes it so.
    fn stop(&mut self, stop: Stop) {
        let Stop { job, generation, park } = stop;
        let place = self.place(&job);
        let reason = LeaveReason::Stopped;
        let left = FromWorker::Left { job: job.clone(), generation, place, reason };
        self.shared.outbox.put(left);
        if park {
            self.park(&job);
        } else {
            self.forget(&job);
        }
    }

    /// Writes the state of a job whose group is gone, if this rank wrote for that group.
    fn park(&self, job: &JobId) {
        let Some(held) = self.holding(job) else { return };
        if let (Some(keeper), Some(progress)) = (&held.keeper, &held.progress) {
            let written = keeper.finish(progress.state.clone(), false).recv_timeout(PARKING);
            if written.is_err() {
                let message = "parked without a checkpoint of its last step: the store is behind";
                self.log(job, LogLevel::Warn, message.into());
            }
        }
    }

    /// Runs one generation and says how it ended.
    fn serve(&mut self, start: &Start) {
        let shared = Arc::clone(&self.shared);
        let (job, generation) = (start.job.id.clone(), start.generation);
        shared.pulse.serve(Some((job.clone(), generation)));
        shared.pulse.moved(DevicePhase::Loading, None);
        let abort = shared.orders.enter(&job, generation);
        let exit = self.ready(start).and_then(|()| {
            let Some(held) = &mut self.held else { return Err(Exit::Stopped) };
            held.keeper = None;
            let group = join::meet(&shared, start, held, &abort)?;
            generation::run(&shared, &self.runtime, start, held, group)
        });
        shared.orders.left();
        let place = self.place(&job);
        let left = |reason| FromWorker::Left { job: job.clone(), generation, place, reason };
        shared.outbox.put(match exit {
            Ok(finished) => finished,
            Err(Exit::Job(error)) => {
                FromWorker::JobFailed { job: job.clone(), generation, error: *error }
            }
            Err(Exit::Stopped) | Err(Exit::Group(CollectiveError::Aborted)) => {
                left(LeaveReason::Stopped)
            }
            Err(Exit::Group(
                CollectiveError::PeerLost { rank, detail }
                | CollectiveError::Protocol { rank, detail },
            )) => match start.members.get(rank as usize) {
                Some(peer) => left(LeaveReason::PeerLost { peer: peer.worker.clone(), detail }),
                None => left(LeaveReason::Stopped),
            },
            Err(Exit::Diverged { own, detail }) => {
                self.log(&job, LogLevel::Error, detail);
                if own && let Some(held) = &mut self.held {
                    held.progress = None;
                }
                left(LeaveReason::Stopped)
            }
        });
        shared.pulse.serve(None);
        shared.pulse.moved(DevicePhase::Idle, place);
    }

    /// Sets this worker up for a job, unless it is already.
    fn ready(&mut self, start: &Start) -> Result<(), Exit> {
        if self.holding(&start.job.id).is_some() {
            return Ok(());
        }
        self.held = None;
        let shared = &self.shared;
        let url = shared.store.get().map_or("", String::as_str);
        let store = storage::open(url)?;
        let loaded = || {
            shared.pulse.loaded();
            shared.pulse.moved(DevicePhase::Loading, None);
        };
        let precision = start.job.spec.backbone.precision;
        let bert = self.backbones.get(&start.job.backbone, precision, loaded)?;
        let setting = Arc::new(setting(start, &bert));
        let data = self.runtime.block_on(data::load(&store, &start.features))?;
        let pool = Pool::new(&bert, &setting, shared.config.threads)
            .map_err(|error| Explained::from_error(&error))?;
        let job = start.job.clone();
        self.held = Some(Held { job, setting, pool, data, store, progress: None, keeper: None });
        Ok(())
    }

    fn log(&self, job: &JobId, level: LogLevel, message: String) {
        self.shared.outbox.put(FromWorker::Log { job: job.clone(), level, message });
    }
}

#[cfg(not(feature = "dropout-keyed-by-rank"))]
fn setting(start: &Start, bert: &crate::train::backbones::bert::Bert) -> Setting {
    Setting::new(&start.job, bert)
}

/// The tests' negative control: what must not be, so that they can show that it would be noticed.
#[cfg(feature = "dropout-keyed-by-rank")]
fn setting(start: &Start, bert: &crate::train::backbones::bert::Bert) -> Setting {
    Setting { rank: start.rank, ..Setting::new(&start.job, bert) }
}
