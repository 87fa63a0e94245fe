//! Sets a coordinator up: its state folder, journal, store and address; then runs it.

use super::accept::{HashCache, Roots};
use super::adopt;
use super::audit::Audit;
use super::driver::{Beginning, Driver};
use super::fetches::Fetches;
use super::http::{Edge, Gate, Hosts, Upkeep, plain, router};
use super::journal::{Entry, Journal, Past};
use super::launcher::{Launcher, Ways};
use super::leave::Leaver;
use super::listen::{self, Listener};
use super::run::{Cluster, Fact, Recorded};
use super::tokens::Tokens;
use crate::clock::{self, Steady};
use crate::config::CoordinatorConfig;
use crate::inputs::Mirror;
use ptv2_common::error::Explained;
use ptv2_common::hosts;
use ptv2_common::launch::LauncherStatus;
use ptv2_common::storage::Store;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Open requests may end within this time after a stop.
const ENDING: Duration = Duration::from_secs(5);

/// A coordinator that listens, and is about to run.
pub struct Coordinator {
    listener: Listener,
    driver: Driver,
    edge: Edge,
    launcher: Option<Launcher>,
    state: PathBuf,
    /// Held as long as the process lives: a second coordinator on the folder refuses.
    _lock: File,
}

impl Coordinator {
    /// Takes the state folder, reads the journal, opens the store and listens.
    ///
    /// # Errors
    /// Names what is taken or cannot be read, and what to do.
    pub async fn open(
        config: &CoordinatorConfig,
        shutdown: &CancellationToken,
    ) -> Result<Self, Explained> {
        config.check()?;
        let roots = Arc::new(Roots::of(&config.roots)?);
        check_hosts(config).await?;
        let state = config.state.clone();
        let (lock, listener) = take_and_listen(&state, config).await?;
        let listener = Listener::new(listener, config, &state)?;
        let store_address = config.store_address()?;
        let store = store_address.open()?;
        let cache = config.inputs.cache.clone().unwrap_or_else(|| state.join("inputs"));
        let mirror = Mirror::open(&cache, &config.inputs, store_address.clone())?;
        let mirror = Arc::new(mirror);
        let (journal, Past { facts, reported }) = Journal::open(&state.join("journal.sqlite"))?;
        let facts = if facts.is_empty() { adopt(&store, &journal).await? } else { facts };
        let count = facts.len();
        let last = facts.last().map_or(Duration::ZERO, |(at, _)| *at);
        let clock = Steady::start(last);
        let (cluster, unstaged) = Cluster::replay(config.limits.clone(), clock.elapsed(), facts);
        let tokens = Tokens::open(&state, &journal, clock::millis(clock.elapsed())).await?;
        let audit = Audit::open(&journal).await?;
        let (launches, seen_launches) = watch::channel(LauncherStatus::default());
        let sign_of_life = config.limits.heartbeat_timeout / 5;
        let beginning = Beginning {
            cluster,
            unstaged,
            reported,
            clock,
            journal: journal.clone(),
            store: store.clone(),
            store_address: store_address.clone(),
            launcher: launches.subscribe(),
            mirror: Arc::clone(&mirror),
        };
        let (driver, doors) = Driver::new(beginning, shutdown.clone());
        let (inputs, stop) = (doors.inputs.clone(), shutdown.clone());
        let ways = Ways { inputs, clock, status: launches, shutdown: stop };
        let launcher = Launcher::open(config, &listener.url(), ways)?;
        let (hashes, shutdown) = (Arc::new(HashCache::default()), shutdown.clone());
        let edge = Edge {
            doors,
            clock,
            journal,
            store,
            store_address,
            tokens,
            audit,
            hosts: Hosts::of(listener.address(), &config.hosts),
            gate: Gate::new(&config.http),
            roots,
            launches: seen_launches,
            fetches: Fetches::new(config.hub.clone(), mirror),
            hashes,
            upkeep: Upkeep::default(),
            sign_of_life,
            shutdown,
        };
        let url = listener.url();
        tracing::info!(url, state = %state.display(), facts = count, "the coordinator listens");
        Ok(Self { listener, driver, edge, launcher, state, _lock: lock })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// How this machine reaches it.
    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// Lets its workers leave before it ends.
    pub fn leaver(&self) -> Leaver {
        Leaver::new(self.edge.doors.inputs.clone())
    }

    /// Runs until the shutdown that it was opened with.
    ///
    /// # Errors
    /// When the journal can no longer be written.
    pub async fn run(self) -> Result<(), Explained> {
        let shutdown = self.edge.shutdown.clone();
        // Clients and tests that started it on any free port find it here.
        let place = self.state.join("address");
        std::fs::write(&place, format!("{}\n", self.url()))
            .map_err(|error| Explained::from_error(&error).at(place.display().to_string()))?;
        let serving = self.listener.serve(router(self.edge), plain(), shutdown.clone());
        let server = tokio::spawn(serving);
        let launcher = self.launcher.map(|launcher| tokio::spawn(launcher.run()));
        let result = self.driver.run().await;
        shutdown.cancel();
        if let Some(launcher) = launcher {
            // What it started ends, each within a bound of its own.
            drop(launcher.await);
        }
        if tokio::time::timeout(ENDING, server).await.is_err() {
            tracing::info!("open requests are cut off");
        }
        drop(std::fs::remove_file(&place));
        result
    }
}

/// An empty journal may be one that was lost: what the store knows of jobs is taken up.
async fn adopt(store: &Store, journal: &Journal) -> Result<Vec<Recorded>, Explained> {
    let unix_ms = clock::unix_ms();
    let adopted = adopt::from_store(store).await?;
    let mut entries = Vec::new();
    for job in &adopted {
        let id = job.record.id.clone();
        let message = format!("found in the store at step {}", job.checkpoint.step);
        let (generation, step) = (job.generation.0, job.checkpoint.step);
        tracing::info!(job = %id, generation, step, "{message}");
        entries.push(Entry::Event { job: id, unix_ms, kind: "adopted".into(), message });
        entries.push(Entry::Fact { unix_ms, fact: Fact::Adopted(Box::new(job.clone())) });
    }
    if !entries.is_empty() {
        journal.write(entries).await?;
    }
    let at = Duration::from_millis(unix_ms);
    Ok(adopted.into_iter().map(|job| (at, Fact::Adopted(Box::new(job)))).collect())
}

/// Refuses hosts that hand out credentials, by what their names stand for now.
async fn check_hosts(config: &CoordinatorConfig) -> Result<(), Explained> {
    let configured =
        [("hub.endpoint", &config.hub.endpoint), ("storage.endpoint", &config.storage.endpoint)];
    for (key, url) in configured {
        if let Some(url) = url {
            hosts::check_resolved(key, url).await?;
        }
    }
    Ok(())
}

/// Takes the state folder and the address. Where either is refused, no new folder is left behind.
async fn take_and_listen(
    state: &Path,
    config: &CoordinatorConfig,
) -> Result<(File, TcpListener), Explained> {
    if !state.exists() {
        let listener = listen::bind(config).await?;
        return Ok((take(state)?, listener));
    }
    // The folder first: whoever starts a second one in it reads that, and not of a port.
    let lock = take(state)?;
    Ok((lock, listen::bind(config).await?))
}

/// Makes the state folder, readable by its owner only, and takes its lock.
fn take(state: &Path) -> Result<File, Explained> {
    use std::os::unix::fs::DirBuilderExt;
    let at = |error: Explained| error.at(state.display().to_string());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(|error| at(Explained::new(format!("the state folder cannot be made: {error}"))))?;
    let lock = File::create(state.join("lock"))
        .map_err(|error| at(Explained::new(format!("the state folder cannot be used: {error}"))))?;
    lock.try_lock().map_err(|_| {
        at(Explained::new("another coordinator uses this state folder"))
            .expected("one coordinator a folder")
            .hint("stop the other, or give another folder with --state")
    })?;
    Ok(lock)
}
