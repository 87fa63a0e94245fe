//! Backbones that are being fetched from a hub. A submit does not wait for a long one: it is told how far
//! it is, and the next one finds it further.

use crate::clock;
use crate::config::HubConfig;
use crate::hub::{self, Progress, Snapshot};
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// Whoever asks is answered within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// An end that nobody asked for within this time is forgotten: a branch may have moved since.
const FRESH: Duration = Duration::from_secs(60);
/// Fetches at a time.
const AT_ONCE: usize = 2;

/// How a fetch is.
#[derive(Debug, Clone)]
enum State {
    Running(Progress),
    Ended(Instant, Result<Snapshot, Explained>),
}

impl State {
    fn end(&self) -> Option<Result<Snapshot, Explained>> {
        match self {
            Self::Running(_) => None,
            Self::Ended(_, end) => Some(end.clone()),
        }
    }

    fn is_stale(&self) -> bool {
        match self {
            Self::Running(_) => false,
            Self::Ended(at, _) => clock::now().duration_since(*at) > FRESH,
        }
    }
}

/// All fetches that run, and those that ended a moment ago.
pub struct Fetches {
    config: HubConfig,
    known: Mutex<BTreeMap<HubId, watch::Receiver<State>>>,
    turns: Arc<Semaphore>,
}

impl Fetches {
    /// None yet.
    pub fn new(config: HubConfig) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { config, known: Mutex::default(), turns }
    }

    /// A backbone's files; or how far their fetch is, which this call has started if no other had.
    ///
    /// # Errors
    /// Those of the fetch.
    pub async fn get(&self, id: &HubId) -> Result<Result<Snapshot, Progress>, Explained> {
        let mut state = self.started(id);
        let ended = state.wait_for(|state| state.end().is_some());
        let end = match tokio::time::timeout(PATIENCE, ended).await {
            Ok(Ok(state)) => state.end(),
            Ok(Err(_)) => Some(Err(Explained::new(format!("the fetch of {id} has broken off"))
                .hint("its reason stands in the coordinator's log; submit again"))),
            Err(_) => None,
        };
        let Some(end) = end else {
            let progress = match &*state.borrow() {
                State::Running(progress) => *progress,
                State::Ended(..) => Progress::default(),
            };
            return Ok(Err(progress));
        };
        let mut known = self.lock();
        if known.get(id).is_some_and(|found| found.same_channel(&state)) {
            known.remove(id);
        }
        end.map(Ok)
    }

    fn started(&self, id: &HubId) -> watch::Receiver<State> {
        let mut known = self.lock();
        if let Some(state) = known.get(id).filter(|state| !state.borrow().is_stale()) {
            return state.clone();
        }
        let (told, state) = watch::channel(State::Running(Progress::default()));
        known.insert(id.clone(), state.clone());
        let (config, id, turns) = (self.config.clone(), id.clone(), Arc::clone(&self.turns));
        tokio::spawn(async move {
            let turn = turns.acquire_owned().await;
            tracing::info!(backbone = %id, "a backbone is fetched");
            let said = |progress| drop(told.send_replace(State::Running(progress)));
            let end = hub::fetched(&config, &id, said).await;
            match &end {
                Ok(found) => {
                    tracing::info!(backbone = %id, folder = %found.folder.display(), "fetched")
                }
                Err(error) => tracing::warn!(backbone = %id, %error, "a backbone is not fetched"),
            }
            drop(turn);
            told.send_replace(State::Ended(clock::now(), end));
        });
        state
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HubId, watch::Receiver<State>>> {
        // Whole entries go in and out, so a panic elsewhere leaves the map whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
