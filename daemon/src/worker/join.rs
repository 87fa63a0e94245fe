//! How a generation begins: the ranks meet, compare how far they are, and become level.

use super::Shared;
use super::held::{Exit, Held, Progress};
use crate::checkpoint::{peft, read};
use crate::collective::tcp::{GroupSpec, Peer, Tcp};
use crate::collective::{AbortHandle, Collective};
use crate::numerics::state::TunedState;
use ptv2_common::api::LogLevel;
use ptv2_common::error::Explained;
use ptv2_common::place::{DevicePhase, Place, PlacePhase};
use ptv2_common::session::{FromWorker, Start};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The step that messages before the first step carry.
const BEFORE: u64 = u64::MAX;

/// Meets the other ranks.
pub(super) fn meet(
    shared: &Shared,
    start: &Start,
    held: &Held,
    abort: &AbortHandle,
) -> Result<Tcp, Exit> {
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
        waits: shared.config.waits.clone(),
    };
    Ok(shared.listener.join(&spec, abort)?)
}

/// What a rank says of itself before the first step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Standing {
    /// How far its state is; none without one.
    place: Option<Place>,
    /// Hash of the state.
    hash: u64,
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
    let mut standings = Vec::new();
    for bytes in group.all_gather_bytes(BEFORE, &own)? {
        let one: Standing =
            serde_json::from_slice(&bytes).map_err(|error| Explained::from_error(&error))?;
        standings.push(one);
    }
    let furthest = standings.iter().filter_map(|one| one.place).max();
    let stored = start.resume.as_deref().and_then(step_of);
    let source = match (furthest, stored) {
        (Some(place), stored) if stored.is_none_or(|step| step <= place.step) => {
            standings.iter().position(|one| one.place == Some(place)).unwrap_or(0)
        }
        _ => {
            // Nobody is further than the store: rank 0 reads it, or makes the first values.
            if group.rank() == 0 {
                held.progress = Some(begin(shared, runtime, start, held)?);
            }
            standings.iter_mut().for_each(|one| one.place = None);
            0
        }
    };
    let like_source = |one: &Standing| one.place.is_some() && *one == standings[source];
    let lacking = (0..).zip(&standings).filter(|(_, one)| !like_source(one)).map(|(rank, _)| rank);
    let receivers: Vec<u32> = lacking.filter(|rank| *rank as usize != source).collect();
    transfer(held, group, source, &receivers)
}

fn transfer(
    held: &mut Held,
    group: &mut dyn Collective,
    source: usize,
    receivers: &[u32],
) -> Result<(), Exit> {
    let layout = &held.setting.layout;
    let source = u32::try_from(source).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    if group.rank() == source
        && let Some(progress) = &held.progress
    {
        // One byte of place, since the state holds only the step.
        bytes.push(u8::from(progress.place.phase == PlacePhase::Evaluated));
        bytes.extend(progress.state.to_bytes(layout)?);
    }
    let Some(bytes) = group.transfer_state(BEFORE, source, receivers, &bytes)? else {
        return Ok(());
    };
    let Some((evaluated, bytes)) = bytes.split_first() else {
        return Err(Explained::new("the state that a peer sent is empty").into());
    };
    let state = TunedState::from_bytes(bytes, layout)?;
    let phase = if *evaluated == 1 { PlacePhase::Evaluated } else { PlacePhase::Applied };
    let place = Place { step: state.step, phase, evaluation_slice: 0 };
    held.progress = Some(Progress { state, place, best: None });
    Ok(())
}

/// The state to begin with: of the newest good checkpoint, else of an adapter, else the first values.
fn begin(
    shared: &Shared,
    runtime: &Handle,
    start: &Start,
    held: &Held,
) -> Result<Progress, Explained> {
    let (job, layout) = (&start.job, &held.setting.layout);
    let log = |level, message| {
        shared.outbox.put(FromWorker::Log { job: job.id.clone(), level, message });
    };
    if let Some(newest) = &start.resume {
        let damaged = |key: &str, error: &Explained| {
            log(LogLevel::Warn, format!("checkpoint {key} is skipped: {error}"));
        };
        let found = read::newest_state(&held.store, &job.id, newest, layout, damaged);
        if let Some(state) = runtime.block_on(found)? {
            log(LogLevel::Info, format!("resumes from the checkpoint of step {}", state.step));
            return Ok(Progress::of_checkpoint(state));
        }
        log(LogLevel::Warn, "no checkpoint is good; training begins anew".into());
    }
    let values = match &job.spec.init.adapter {
        Some(adapter) => peft::import(Path::new(adapter), layout, job.init_sha256.as_deref())?,
        None => held.setting.initial_values(),
    };
    let place = Place::default();
    Ok(Progress { state: TunedState::new(values), place, best: None })
}

impl Progress {
    /// A checkpoint's state. One that was evaluated at its step need not be evaluated again.
    fn of_checkpoint(state: TunedState) -> Self {
        let evaluated = state.last.as_ref().is_some_and(|last| last.step == state.step);
        let phase = if evaluated { PlacePhase::Evaluated } else { PlacePhase::Applied };
        let place = Place { step: state.step, phase, evaluation_slice: 0 };
        let best = state.best.as_ref().filter(|best| best.step == state.step);
        let best = best.map(|_| Arc::new(state.clone()));
        Self { state, place, best }
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
