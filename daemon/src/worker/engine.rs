//! The device thread: takes orders, and runs one generation after the other.
//!
//! What it holds of a job outlives a generation: the tuned state, its place, the compute threads. So
//! the next generation goes on where this one stopped. Between generations it looks whether the frozen
//! weights are still what was loaded.

use super::backbones::Backbones;
use super::generation;
use super::held::{Exit, Held};
use super::inputs::Wanted;
use super::keeper::Last;
use super::retry::{Pauses, patiently};
use super::{Shared, data, join, lost, told};
use crate::backbone::Config;
use crate::checkpoint::peft;
use crate::collective::{AbortHandle, CollectiveError};
use crate::device::Compute;
use crate::inputs::Folder;
use crate::protocol::slate::{Order, Stop};
use crate::train::memory::Needs;
use crate::train::step::Setting;
use crate::train::stepper::Stepper;
use ptv2_common::api::LogLevel;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::job::{JobRecord, MirroredFiles};
use ptv2_common::place::{DevicePhase, Place};
use ptv2_common::session::{FromWorker, LeaveReason, Stage, Start, Warm};
use ptv2_common::storage::StoreAddress;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;

/// The last checkpoint of a parked job must be in the store within this time.
const PARKING: Duration = Duration::from_secs(30);
/// How often a thread that waits looks whether it still should.
const LOOK: Duration = Duration::from_millis(100);
/// An idle thread looks at all frozen weights once in this time; and after each generation.
const AUDIT: Duration = Duration::from_secs(60);

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
    let (over, ends) = (shared.over.clone().drop_guard(), shared.ends.clone());
    let config = &shared.config;
    let (hub, inputs) = (config.hub.clone(), config.inputs.clone());
    let backbones = Backbones::new(hub, inputs, config.compute.torch(), runtime.clone());
    let mut engine = Engine { shared, runtime, backbones, held: None, unaudited: Vec::new() };
    std::thread::Builder::new()
        .name("device".into())
        .spawn(move || {
            tch::set_num_threads(1);
            engine.run();
            drop(over);
            // Where it can do nothing more, the rest of the worker does not know yet.
            ends.cancel();
        })
        .map(|thread| Device { thread })
        .map_err(|error| Explained::from_error(&error))
}

struct Engine {
    shared: Arc<Shared>,
    runtime: Handle,
    backbones: Backbones,
    held: Option<Held>,
    /// Jobs computed for since all frozen weights were last seen to be whole.
    unaudited: Vec<JobId>,
}

impl Engine {
    fn run(&mut self) {
        while self.shared.lost.get().is_none() {
            let most = if self.backbones.is_audited() { AUDIT } else { Duration::ZERO };
            match self.shared.orders.next_within(most) {
                None => self.audit(),
                Some(Order::Start(start)) => self.serve(&start),
                Some(Order::Warm(warm)) => self.warm(&warm),
                Some(Order::Forget(job)) => self.forget(&job),
                Some(Order::Stop(stop)) => self.stop(stop),
                Some(Order::End) => {
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
        self.shared.pulse.forgets(job);
    }

    /// Leaves a job's generations for good. This thread is in none now, so saying it makes it so.
    fn stop(&mut self, stop: Stop) {
        let Stop { job, generation, park } = stop;
        let _about = told::job(&job).entered();
        if park {
            self.park(&job);
        }
        let place = self.place(&job);
        if !park {
            self.forget(&job);
        }
        let reason = LeaveReason::Stopped;
        self.shared.outbox.put(FromWorker::Left { job, generation, place, reason });
    }

    /// Writes the state of a job whose group is gone, if this rank wrote for that group.
    fn park(&self, job: &JobId) {
        let Some(held) = self.holding(job) else { return };
        let (Some(keeper), Some(progress)) = (&held.keeper, &held.progress) else { return };
        let written =
            keeper.finish(Last { state: Arc::new(progress.state.clone()), files: Vec::new() });
        for _ in 0..PARKING.as_millis() / LOOK.as_millis() {
            match written.recv_timeout(LOOK) {
                Ok(_) => return,
                Err(RecvTimeoutError::Timeout) if self.shared.orders.is_ended() => break,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let message = "parked without a checkpoint of its last step: the store is behind";
        self.log(job, LogLevel::Warn, message.into());
    }

    /// Looks at one more frozen tensor. What has changed in memory would make every later gradient
    /// wrong, without a sign: it is loaded anew, and people are told.
    fn audit(&mut self) {
        match self.backbones.audit() {
            Ok(true) => self.unaudited.clear(),
            Ok(false) => {}
            // It cannot be looked at.
            Err(error) if lost::look(&self.shared, &error.what).is_some() => {}
            Err(error) => {
                tracing::error!(%error, "the backbone is loaded anew");
                self.held = None;
                let jobs = std::mem::take(&mut self.unaudited);
                self.shared.outbox.put(FromWorker::Damaged { error, jobs });
            }
        }
    }

    /// Runs one generation and says how it ended.
    fn serve(&mut self, start: &Start) {
        let shared = Arc::clone(&self.shared);
        let (job, generation) = (start.job.id.clone(), start.generation);
        let _about = told::generation(&job, generation, start.rank).entered();
        let step = self.place(&job).map(|place| place.step);
        tracing::info!(step, members = start.members.len(), "a generation begins");
        shared.pulse.enters(&job, generation);
        shared.pulse.moved(DevicePhase::Loading, None);
        let abort = shared.orders.enter(&job, generation);
        let exit = self.ready(&start.job, &start.features, Some(&abort)).and_then(|()| {
            let Some(held) = &mut self.held else { return Err(Exit::Left) };
            let group = join::meet(&shared, start, held, &abort)?;
            generation::run(&shared, &self.runtime, start, held, group)
        });
        shared.orders.left();
        self.backbones.audit_again();
        if !self.unaudited.contains(&job) {
            self.unaudited.push(job.clone());
        }
        let place = self.place(&job);
        let farewell = match exit {
            Ok(tuned_sha256) => {
                shared.pulse.is(Stage::Finished { tuned_sha256: tuned_sha256.clone() });
                FromWorker::Finished { job, generation, tuned_sha256 }
            }
            Err(exit) => {
                shared.pulse.is(Stage::Left);
                match self.reason(start, exit) {
                    Ok(reason) => FromWorker::Left { job, generation, place, reason },
                    Err(error) => FromWorker::JobFailed { job, generation, error },
                }
            }
        };
        shared.outbox.put(farewell);
        shared.pulse.moved(DevicePhase::Idle, place);
    }

    /// Why a generation was left, or why the job cannot go on.
    fn reason(&mut self, start: &Start, exit: Exit) -> Result<LeaveReason, Explained> {
        let lost = |rank: u32, silent: bool, detail: String| match start.members.get(rank as usize)
        {
            Some(peer) => LeaveReason::PeerLost { peer: peer.worker.clone(), silent, detail },
            None => LeaveReason::Stopped,
        };
        Ok(match exit {
            Exit::Job(error) => lost::look(&self.shared, &error.to_string()).ok_or(*error)?,
            Exit::Left | Exit::Group(CollectiveError::Aborted) => LeaveReason::Stopped,
            Exit::Group(CollectiveError::PeerLost { rank, silent, detail }) => {
                lost(rank, silent, detail)
            }
            Exit::Group(CollectiveError::Protocol { rank, detail }) => lost(rank, false, detail),
            Exit::Group(CollectiveError::Device(detail)) => {
                lost::look(&self.shared, &detail).ok_or_else(|| Explained::new(detail))?
            }
            Exit::Group(CollectiveError::Transport(detail)) => {
                lost::look(&self.shared, &detail).unwrap_or(LeaveReason::TransportFailed { detail })
            }
            Exit::Diverged { own, majority, detail } => {
                if own && let Some(held) = &mut self.held {
                    held.progress = None;
                }
                LeaveReason::Diverged { own: own && majority, detail }
            }
        })
    }

    /// Loads what a job needs before it is needed, and says so.
    fn warm(&mut self, warm: &Warm) {
        let job = warm.job.id.clone();
        let _about = told::job(&job).entered();
        self.shared.pulse.moved(DevicePhase::Loading, None);
        let outcome = match self.ready(&warm.job, &warm.features, None) {
            Ok(()) => Ok(()),
            Err(Exit::Job(error)) => {
                lost::look(&self.shared, &error.what);
                Err(*error)
            }
            Err(_) => Err(Explained::new("the worker was called away")),
        };
        self.shared.outbox.put(FromWorker::Ready { job, outcome });
        self.shared.pulse.moved(DevicePhase::Idle, None);
    }

    /// Sets this worker up for a job, unless it is already. While the store fails it tries again, in a
    /// group as long as the group wants it.
    fn ready(
        &mut self,
        job: &JobRecord,
        features: &str,
        group: Option<&AbortHandle>,
    ) -> Result<(), Exit> {
        if self.holding(&job.id).is_some() {
            return Ok(());
        }
        self.held = None;
        let shared = Arc::clone(&self.shared);
        shared.pulse.speed(None);
        let store = shared.store.get().ok_or_else(|| Explained::new("no store was named yet"))?;
        let (address, store) = (store, store.open()?);
        #[cfg(feature = "faults")]
        let store = crate::faults::store(store);
        let fits = |config: &Config, held| match free_memory(shared.config.compute) {
            Some(free) => Needs::of(job, config)?.check(free, held),
            None => Ok(()),
        };
        let loaded = || {
            shared.pulse.loaded();
            shared.pulse.moved(DevicePhase::Loading, None);
        };
        let is_over = || match group {
            Some(group) => group.is_aborted(),
            None => shared.orders.is_ended(),
        };
        let precision = job.spec.backbone.precision;
        let adapter = self.adapter(job, address, is_over)?;
        let bert =
            self.backbones.get((&job.backbone, precision), address, (fits, loaded), is_over)?;
        let setting = Arc::new(Setting::new(job, &bert)?);
        let data = patiently(
            Pauses::default(),
            || self.runtime.block_on(data::load(&store, features)),
            |error| {
                self.log(&job.id, LogLevel::Warn, format!("rows are not read yet: {error}"));
                shared.pulse.moved(DevicePhase::Loading, None);
            },
            is_over,
        )?;
        let on_device = steps_on_device(shared.config.compute);
        let stepper = Stepper::new(&bert, &setting, shared.config.threads, on_device)?;
        let job = job.clone();
        let mut held = Held::new(job, setting, stepper, data, store);
        held.adapter = adapter;
        self.held = Some(held);
        Ok(())
    }

    /// The first values that a job names. Those of a store are opened, and stay whatever is removed from
    /// the cache.
    fn adapter(
        &self,
        job: &JobRecord,
        store: &StoreAddress,
        is_over: impl Fn() -> bool,
    ) -> Result<Option<Folder>, Explained> {
        let Some(path) = &job.spec.init.adapter else { return Ok(None) };
        let Some(MirroredFiles { url, folder, files }) = job.mirrored.get("init.adapter") else {
            return Ok(Some(Folder::at(Path::new(path))));
        };
        let wanted = Wanted { url, files, folder, store };
        let folder = Folder::at(&self.backbones.inputs().folder(&wanted, is_over)?);
        folder.open(peft::values_file(&folder)).map_err(|refused| {
            Explained::new(format!("the adapter cannot be read: {refused}")).at(folder.place(""))
        })?;
        Ok(Some(folder))
    }

    fn log(&self, job: &JobId, level: LogLevel, message: String) {
        self.shared.outbox.put(FromWorker::Log { job: job.clone(), level, message });
    }
}

/// Whether the device thread computes by itself, on a device, instead of directing compute threads.
fn steps_on_device(compute: Compute) -> bool {
    #[cfg(feature = "faults")]
    if crate::faults::steps_on_device() {
        return true;
    }
    compute != Compute::Cpu
}

/// Bytes that are free on a device, where it can be asked.
fn free_memory(compute: Compute) -> Option<u64> {
    match compute {
        // The system gives memory as it is touched, and takes it from elsewhere.
        Compute::Cpu => None,
        // Where nobody can say, what does not fit is told when it happens.
        Compute::Cuda(index) => crate::cuda::free_memory(index)
            .inspect_err(|error| tracing::warn!("cuda:{index}: {error}"))
            .ok(),
    }
}
