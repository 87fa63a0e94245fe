//! How a generation begins: the ranks meet, compare how far they are, and become level.

use super::Shared;
use super::held::{Exit, Held, Progress};
use super::retry::{Failure, Pauses, patiently};
use super::transport;
use crate::checkpoint::{peft, read};
use crate::collective::tcp::{GroupSpec, Peer, Waits};
use crate::collective::{AbortHandle, BEFORE, Collective};
use crate::numerics::runs::Runs;
use crate::numerics::state::TunedState;
use crate::protocol::level::{self, Levelling, Standing};
use ptv2_common::api::LogLevel;
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::place::{DevicePhase, Place, PlacePhase};
use ptv2_common::session::{FromWorker, Start};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Meets the other ranks, and agrees with them what they reduce over.
pub(super) fn meet(
    shared: &Shared,
    start: &Start,
    held: &Held,
    abort: &AbortHandle,
) -> Result<Box<dyn Collective>, Exit> {
    let place = held.progress.as_ref().map(|progress| progress.place);
    shared.pulse.moved(DevicePhase::Joining, place);
    let key =
        hex::decode(&start.group_key).map_err(|_| Explained::new("the group's key is no hex"))?;
    let peers = start
        .members
        .iter()
        .map(|member| Peer { worker: member.worker.clone(), address: member.reduce_address });
    let layout = &held.setting.layout;
    let spec = GroupSpec {
        job: start.job.id.0.clone(),
        generation: start.generation.0,
        rank: start.rank,
        peers: peers.collect(),
        key,
        // The largest frame: a tree over 65,536 slices has at most two partial sums a level. A state,
        // four buffers of the same length, is smaller.
        longest_frame: (1 << 20) + 4 * layout.len() * 2 * 17,
        waits: Waits { silence: shared.silence(), ..shared.config.waits.clone() },
    };
    transport::choose(shared, start, shared.listener.join(&spec, abort)?)
}

/// Brings all ranks to the furthest state that any of them holds, or to the checkpoint where that is
/// further, or to the first values.
pub(super) fn level(
    shared: &Shared,
    runtime: &Handle,
    start: &Start,
    held: &mut Held,
    group: &mut dyn Collective,
) -> Result<(), Exit> {
    let own = held.progress.as_ref();
    let standing = Standing {
        place: own.map(|progress| progress.place),
        hash: own.map_or(0, |progress| progress.state.hash64()),
    };
    let own = serde_json::to_vec(&standing).map_err(|error| Explained::from_error(&error))?;
    let mut standings: Vec<Standing> = Vec::new();
    for bytes in group.all_gather_bytes(BEFORE, &own)? {
        standings
            .push(serde_json::from_slice(&bytes).map_err(|error| Explained::from_error(&error))?);
    }
    let stored = start.resume.as_deref().and_then(step_of);
    let Levelling { source, from_store, receivers } = level::level(&standings, stored);
    if from_store && group.rank() == source {
        held.progress = Some(begin(shared, runtime, start, held, &*group)?);
    }
    transfer(start, held, group, (source, &receivers))
}

/// Sends the source's state to those who lack it, with the rows of metrics that go with it.
fn transfer(
    start: &Start,
    held: &mut Held,
    group: &mut dyn Collective,
    (source, receivers): (u32, &[u32]),
) -> Result<(), Exit> {
    let mut bytes = Vec::new();
    if group.rank() == source && !receivers.is_empty() {
        let rows = held.rows_after(start.reported_step);
        let progress = held.progress.as_ref().ok_or(Exit::Left)?;
        let rows = serde_json::to_vec(&rows).map_err(|error| Explained::from_error(&error))?;
        bytes.extend(u32::try_from(rows.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(rows);
        // One byte of place, since the state holds only the step.
        bytes.push(progress.place.phase as u8);
        bytes.extend(progress.state.to_bytes(&held.setting.layout)?);
    }
    let Some(bytes) = group.transfer_state(BEFORE, source, receivers, &bytes)? else {
        return Ok(());
    };
    let cut_off = || Explained::new("the state that a peer sent is cut off");
    let (length, rest) = bytes.split_first_chunk().ok_or_else(cut_off)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let (rows, rest) = rest.split_at_checked(length).ok_or_else(cut_off)?;
    let (phase, state) = rest.split_first().ok_or_else(cut_off)?;
    held.remember_all(serde_json::from_slice(rows).map_err(|error| Explained::from_error(&error))?);
    let state = TunedState::from_bytes(state, &held.setting.layout)?;
    let is_it = |of: &PlacePhase| *of as u8 == *phase;
    let phases = [PlacePhase::Evaluated, PlacePhase::Begun];
    let phase = phases.into_iter().find(is_it).unwrap_or_default();
    let place = Place { step: state.step, phase, evaluation_slice: 0 };
    held.progress = Some(Progress::at(place, state));
    Ok(())
}

/// The state to begin with: of the newest good checkpoint, else of an adapter, else the first values.
/// While the store fails it is tried again, as long as the group wants it.
fn begin(
    shared: &Shared,
    runtime: &Handle,
    start: &Start,
    held: &Held,
    group: &dyn Collective,
) -> Result<Progress, Exit> {
    let (job, layout) = (&start.job, &held.setting.layout);
    let log = |level, message| {
        shared.outbox.put(FromWorker::Log { job: job.id.clone(), level, message });
    };
    if let Some(newest) = &start.resume {
        let say = |message| log(LogLevel::Warn, message);
        let attempt = || {
            let found = read::newest_state(&held.store, &job.id, newest, layout, say);
            runtime.block_on(found).map_err(Failure::Store)
        };
        let failed = |error: &Explained| {
            log(LogLevel::Warn, format!("the last checkpoint is not read yet: {error}"));
            shared.pulse.moved(DevicePhase::Joining, None);
        };
        let found = patiently(Pauses::default(), attempt, failed, || group.is_aborted())?;
        if let Some(state) = found {
            log(LogLevel::Info, format!("resumes from the checkpoint of step {}", state.step));
            return Ok(Progress::of_checkpoint(state));
        }
        log(LogLevel::Warn, "no checkpoint is good; training begins anew".into());
    }
    let values = match &job.score {
        Some(score) => {
            let attempt = || {
                let found = read::values(&held.store, &job.id, &score.state_sha256, layout);
                runtime.block_on(found).map_err(Failure::from)
            };
            let failed = |error: &Explained| {
                log(LogLevel::Warn, format!("the trained values are not read yet: {error}"));
                shared.pulse.moved(DevicePhase::Joining, None);
            };
            patiently(Pauses::default(), attempt, failed, || group.is_aborted())?
        }
        None => first_values(job, held, Runs::of(job).seed(0))?,
    };
    Ok(Progress::at(Place::default(), TunedState::new(values)))
}

/// What a run of a job begins with: an adapter's values where it names one, else those of the seed.
///
/// # Errors
/// When the adapter cannot be read, or is not what it was at submit.
pub(super) fn first_values(job: &JobRecord, held: &Held, seed: u64) -> Result<Vec<f32>, Explained> {
    match &held.adapter {
        Some(adapter) => peft::import(adapter, &held.setting.layout, job.init_sha256.as_deref()),
        None => Ok(held.setting.initial_values(seed)),
    }
}

impl Progress {
    /// A checkpoint's state. One that was evaluated at its step need not be evaluated again.
    fn of_checkpoint(state: TunedState) -> Self {
        let is_first = state.run > 0 && state.steps_of_run() == 0;
        let phase = if is_first {
            PlacePhase::Begun
        } else if state.is_evaluated() {
            PlacePhase::Evaluated
        } else {
            PlacePhase::Applied
        };
        let place = Place { step: state.step, phase, evaluation_slice: 0 };
        let best = state.is_best().then(|| Arc::new(state.clone()));
        Self { best, ..Self::at(place, state) }
    }
}

/// The step that a manifest's key names.
fn step_of(key: &str) -> Option<u64> {
    read::Name::parse(key.to_owned()).map(|name| name.step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::ids::{Generation, JobId};
    use ptv2_common::manifest::checkpoint_key;

    #[test]
    fn a_key_names_its_step() {
        let key = checkpoint_key(&JobId("j0".into()), 78, Generation(2));
        assert_eq!(step_of(&key), Some(78));
        assert_eq!(step_of("else"), None);
    }
}
