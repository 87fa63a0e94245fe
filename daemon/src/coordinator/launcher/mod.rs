//! Starts workers and lets them go, as the queue wants it.
//!
//! [`scale`] decides, as a pure function. [`local`] and [`slurm`] do it, and say what has become of it. A worker
//! is let go by the way of a drain: it finishes its step.

mod command;
mod local;
pub mod scale;
mod slurm;
mod squeue;

use super::driver::{Input, Question};
use crate::clock::Steady;
use crate::config::CoordinatorConfig;
use local::Local;
use ptv2_common::error::Explained;
use ptv2_common::ids::WorkerId;
use ptv2_common::launch::{LauncherKind, LauncherStatus};
use scale::{Act, Scaler, Seen};
use slurm::Slurm;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How often it looks whether workers are needed.
const LOOK: Duration = Duration::from_millis(250);

/// What starts workers, and knows what has become of them.
enum Backend {
    Local(Box<Local>),
    Slurm(Box<Slurm>),
}

impl Backend {
    /// All that was started, each end once.
    async fn look(&mut self, now: Duration) -> Result<Vec<Seen>, Explained> {
        match self {
            Self::Local(local) => Ok(local.look()),
            Self::Slurm(slurm) => slurm.look(now).await,
        }
    }

    async fn start(&mut self, now: Duration) -> Result<(), Explained> {
        match self {
            Self::Local(local) => local.start(),
            Self::Slurm(slurm) => slurm.start(now).await,
        }
    }

    async fn end(&mut self, launch: &str) -> Result<(), Explained> {
        match self {
            Self::Local(local) => {
                local.end(launch);
                Ok(())
            }
            Self::Slurm(slurm) => slurm.end(launch).await,
        }
    }

    /// The coordinator stops.
    async fn stop(&mut self) {
        match self {
            Self::Local(local) => local.stop().await,
            Self::Slurm(slurm) => slurm.stop().await,
        }
    }
}

/// What a launched worker is told.
struct Told {
    program: PathBuf,
    /// The coordinator's URL.
    coordinator: String,
    token_file: PathBuf,
    threads: u32,
    /// Fingerprint of the coordinator's own certificate authority, where it has one.
    ca_fingerprint: Option<String>,
}

/// Variable by which a worker is told whom to trust.
const CA_FINGERPRINT: &str = "PTV2_CA_FINGERPRINT";

impl Told {
    fn of(config: &CoordinatorConfig, url: &str) -> Result<Self, Explained> {
        let own = &config.launcher;
        let unknown = |error: std::io::Error| {
            Explained::new(format!("this program's path is unknown: {error}"))
        };
        let program = match &own.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(unknown)?,
        };
        let token_file = own.token_file.clone();
        let token_file = token_file.unwrap_or_else(|| config.state.join("worker-token"));
        let fingerprint = config.state.join(ptv2_common::tls::CA_FINGERPRINT_FILE);
        let fingerprint =
            config.tls.own_ca.then(|| read(&fingerprint, "tls.own_ca")).transpose()?;
        Ok(Self {
            program,
            coordinator: own.coordinator.clone().unwrap_or_else(|| url.to_owned()),
            // Slurm starts its jobs in another folder.
            token_file: std::path::absolute(token_file)
                .map_err(|error| Explained::from_error(&error))?,
            threads: own.threads,
            ca_fingerprint: fingerprint.map(|text| text.trim().to_owned()),
        })
    }
}

/// The ways between a launcher and its coordinator.
pub struct Ways {
    /// Inputs of the loop.
    pub inputs: mpsc::Sender<Input>,
    /// The time that decisions are made by.
    pub clock: Steady,
    /// What people see of it.
    pub status: watch::Sender<LauncherStatus>,
    /// Ends it.
    pub shutdown: CancellationToken,
}

/// Starts workers and lets them go.
pub struct Launcher {
    scaler: Scaler,
    backend: Backend,
    ways: Ways,
    /// What kept it from looking, so that it is said once.
    trouble: Option<Explained>,
}

impl Launcher {
    /// Sets it up; none where the coordinator starts no workers. `url` is where it listens.
    ///
    /// # Errors
    /// When this program's path is unknown, or the state folder or the template cannot be used.
    pub fn open(
        config: &CoordinatorConfig,
        url: &str,
        ways: Ways,
    ) -> Result<Option<Self>, Explained> {
        let backend = match config.launcher.kind {
            LauncherKind::None => return Ok(None),
            LauncherKind::Local => {
                let local = Local::new(Told::of(config, url)?, config.hub.options())?;
                Backend::Local(Box::new(local))
            }
            LauncherKind::Slurm => {
                let slurm = Slurm::open(config, Told::of(config, url)?, ways.clock.elapsed())?;
                Backend::Slurm(Box::new(slurm))
            }
        };
        let scaler = Scaler::new(config.launcher.clone());
        ways.status.send_replace(scaler.status());
        Ok(Some(Self { scaler, backend, ways, trouble: None }))
    }

    /// Runs until the shutdown; then what it started ends, or goes on, as the configuration says.
    pub async fn run(mut self) {
        let shutdown = self.ways.shutdown.clone();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let round = async {
                looks.tick().await;
                self.round().await;
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = round => {}
            }
        }
        self.backend.stop().await;
    }

    /// Looks, decides, acts.
    async fn round(&mut self) {
        let now = self.ways.clock.elapsed();
        let seen = match self.backend.look(now).await {
            Ok(seen) => seen,
            // Without knowing what is there nothing is decided.
            Err(error) => return self.cannot_look(error),
        };
        if self.trouble.take().is_some() {
            tracing::info!("the launcher goes on");
        }
        // The loop has ended: so does this one, soon.
        let Some(load) = self.ask(Question::Load).await else { return };
        let acts = self.scaler.step(now, &load, seen);
        for act in acts {
            self.act(act).await;
        }
        let status = self.scaler.status();
        self.ways.status.send_if_modified(|told| {
            let is_new = *told != status;
            *told = status;
            is_new
        });
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Start(number) => {
                for _ in 0..number {
                    let now = self.ways.clock.elapsed();
                    match self.backend.start(now).await {
                        Ok(()) => self.scaler.accepted(),
                        Err(error) => {
                            return self.scaler.refused(self.ways.clock.elapsed(), error);
                        }
                    }
                }
            }
            Act::LetGo(worker) => self.let_go(worker).await,
            Act::End(launch) => {
                tracing::info!(
                    launch,
                    "a launch is not needed any more, or has failed, and is ended"
                );
                if let Err(error) = self.backend.end(&launch).await {
                    tracing::warn!(launch, %error, "a launch could not be ended");
                }
            }
        }
    }

    async fn let_go(&mut self, worker: WorkerId) {
        let id = worker.clone();
        if self.ask(|reply| Question::LetGo(id, reply)).await == Some(true) {
            tracing::info!(%worker, "a worker had no work for long and is let go");
            self.scaler.gone(self.ways.clock.elapsed(), &worker);
        }
    }

    fn cannot_look(&mut self, error: Explained) {
        if self.trouble.as_ref() != Some(&error) {
            tracing::warn!(%error, "the launcher does not know what it has started, and waits");
        }
        let (failures, again_unix_ms) = (1, crate::clock::millis(self.ways.clock.elapsed()));
        let trouble =
            ptv2_common::launch::LaunchTrouble { failures, error: error.clone(), again_unix_ms };
        self.ways.status.send_modify(|told| told.trouble = Some(trouble));
        self.trouble = Some(error);
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.ways.inputs.send(Input::Asked(question(reply))).await.ok()?;
        answer.await.ok()
    }
}

/// A launch's name: what its worker says it was launched as.
fn new_id() -> Result<String, Explained> {
    let mut random = [0; 5];
    getrandom::fill(&mut random).map_err(|error| Explained::from_error(&error))?;
    Ok(format!("l{}", hex::encode(random)))
}

/// Reads a file of this user's, for an error that names it.
fn read(path: &Path, key: &str) -> Result<String, Explained> {
    std::fs::read_to_string(path).map_err(|error| {
        Explained::new(format!("{} cannot be read: {error}", path.display())).at(key.to_owned())
    })
}
