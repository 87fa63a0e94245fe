//! What is being fetched from elsewhere: backbones of a hub, and inputs in stores. A submit does not wait
//! for a long one: it is told how far it is, and the next one finds it further.

use crate::clock;
use crate::config::HubConfig;
use crate::hub::{self, Progress, Snapshot};
use crate::inputs::{Mirror, Mirrored, Wanted};
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// Whoever asks is answered within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// An end that nobody asked for within this time is forgotten: what was fetched may have changed since.
const FRESH: Duration = Duration::from_secs(60);
/// Fetches at a time.
const AT_ONCE: usize = 2;
/// Fetches that run or wait for their turn, of each kind, at most.
const WAITING_MAX: usize = 256;

/// All fetches.
pub struct Fetches {
    hub_config: HubConfig,
    mirror: Arc<Mirror>,
    hub: Known<HubId, Snapshot>,
    stores: Known<Wanted, Mirrored>,
    turns: Arc<Semaphore>,
}

impl Fetches {
    /// None yet.
    pub fn new(hub_config: HubConfig, mirror: Arc<Mirror>) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { hub_config, mirror, hub: Known::default(), stores: Known::default(), turns }
    }

    /// A backbone's files; or how far their fetch is, which this call has started if no other had.
    ///
    /// # Errors
    /// Those of the fetch.
    pub async fn of_hub(&self, id: &HubId) -> Result<Result<Snapshot, Progress>, Explained> {
        let (config, wanted) = (self.hub_config.clone(), id.clone());
        let work = move |said: Said<Snapshot>| async move {
            hub::fetched(&config, &wanted, |progress| said.tell(progress)).await
        };
        self.hub.get(id, &self.turns, work).await
    }

    /// What is needed of a place in a store, in the same way. Views that are `needed` stay.
    ///
    /// # Errors
    /// Those of the fetch.
    pub async fn of_store(
        &self,
        wanted: &Wanted,
        needed: BTreeSet<String>,
    ) -> Result<Result<Mirrored, Progress>, Explained> {
        let (mirror, own) = (Arc::clone(&self.mirror), wanted.clone());
        let work = move |said: Said<Mirrored>| async move {
            mirror.fetch(&own, &needed, &mut |progress| said.tell(progress)).await
        };
        self.stores.get(wanted, &self.turns, work).await
    }
}

/// How a fetch is.
#[derive(Debug, Clone)]
enum State<V> {
    Running(Progress),
    Ended(Instant, Result<V, Explained>),
}

impl<V: Clone> State<V> {
    fn end(&self) -> Option<Result<V, Explained>> {
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

/// Hears how far a fetch is.
struct Said<V>(Arc<watch::Sender<State<V>>>);

impl<V> Said<V> {
    fn tell(&self, progress: Progress) {
        self.0.send_replace(State::Running(progress));
    }
}

/// Fetches of one kind that run, and those that ended a moment ago.
struct Known<K, V>(Mutex<BTreeMap<K, watch::Receiver<State<V>>>>);

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, V> Known<K, V>
where
    K: Ord + Clone + Display,
    V: Clone + Send + Sync + 'static,
{
    async fn get<F>(
        &self,
        key: &K,
        turns: &Arc<Semaphore>,
        work: impl FnOnce(Said<V>) -> F,
    ) -> Result<Result<V, Progress>, Explained>
    where
        F: Future<Output = Result<V, Explained>> + Send + 'static,
    {
        let mut state = self.started(key, turns, work)?;
        let ended = state.wait_for(|state| state.end().is_some());
        let end = match tokio::time::timeout(PATIENCE, ended).await {
            Ok(Ok(state)) => state.end(),
            Ok(Err(_)) => Some(Err(Explained::new(format!("the fetch of {key} has broken off"))
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
        if known.get(key).is_some_and(|found| found.same_channel(&state)) {
            known.remove(key);
        }
        end.map(Ok)
    }

    fn started<F>(
        &self,
        key: &K,
        turns: &Arc<Semaphore>,
        work: impl FnOnce(Said<V>) -> F,
    ) -> Result<watch::Receiver<State<V>>, Explained>
    where
        F: Future<Output = Result<V, Explained>> + Send + 'static,
    {
        let mut known = self.lock();
        if let Some(state) = known.get(key).filter(|state| !state.borrow().is_stale()) {
            return Ok(state.clone());
        }
        known.retain(|_, state| !state.borrow().is_stale());
        if known.len() >= WAITING_MAX {
            return Err(Explained::new(format!("{WAITING_MAX} fetches wait already"))
                .hint("submit again when some have ended"));
        }
        let (told, state) = watch::channel(State::Running(Progress::default()));
        known.insert(key.clone(), state.clone());
        let (told, turns, name) = (Arc::new(told), Arc::clone(turns), key.to_string());
        let work = work(Said(Arc::clone(&told)));
        tokio::spawn(async move {
            let turn = turns.acquire_owned().await;
            tracing::info!(input = name, "an input is fetched");
            let end = work.await;
            match &end {
                Ok(_) => tracing::info!(input = name, "fetched"),
                Err(error) => tracing::warn!(input = name, %error, "an input is not fetched"),
            }
            drop(turn);
            told.send_replace(State::Ended(clock::now(), end));
        });
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, watch::Receiver<State<V>>>> {
        // Whole entries go in and out, so a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
