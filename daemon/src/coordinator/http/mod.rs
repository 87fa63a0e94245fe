//! The HTTP edge. Routes and types stand in `ptv2_common::api`; each handler asks the driver or the
//! journal and turns the answer into JSON.

mod access;
mod auth;
mod checkpoints;
mod gate;
mod jobs;
mod launcher;
mod metrics;
mod openapi;
mod origin;
mod problem;
mod range;
mod routes;
mod scores;
mod session;
mod streams;
mod upkeep;
mod version;
mod workers;

pub(super) use gate::{Gate, plain};
pub use origin::Hosts;
pub use upkeep::Upkeep;

use super::accept::{HashCache, Roots};
use super::audit::Audit;
use super::driver::{Doors, Input, Question};
use super::fetches::Fetches;
use super::journal::Journal;
use super::tokens::Tokens;
use crate::clock::Steady;
use axum::Router;
use axum::extract::State;
use problem::Refusal;
use ptv2_common::api::JobStatus;
use ptv2_common::launch::LauncherStatus;
use ptv2_common::storage::{Store, StoreAddress};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// What the handlers share.
pub struct Edge {
    /// Ways into the driver.
    pub doors: Doors,
    /// The time that decisions are made by.
    pub clock: Steady,
    /// Events, logs and metrics.
    pub journal: Journal,
    /// The artifact store.
    pub store: Store,
    /// Where it is, for `pull --direct`.
    pub store_address: StoreAddress,
    /// Who may ask what.
    pub tokens: Tokens,
    /// Who asked what.
    pub audit: Audit,
    /// The names that it answers to.
    pub hosts: Hosts,
    /// What requests may cost.
    pub(super) gate: Arc<Gate>,
    /// What jobs may read.
    pub roots: Arc<Roots>,
    /// Workers that the coordinator starts itself.
    pub launches: watch::Receiver<LauncherStatus>,
    /// Backbones that come from a hub.
    pub fetches: Fetches,
    /// Hashes of backbones' files.
    pub hashes: Arc<HashCache>,
    /// Who keeps the store, one at a time.
    pub upkeep: Upkeep,
    /// How often workers are given a sign of life.
    pub sign_of_life: Duration,
    /// Ends the streams.
    pub shutdown: CancellationToken,
}

/// What each handler gets.
type Shared = Arc<Edge>;

/// The routes.
pub fn router(edge: Edge) -> Router {
    routes::router(&Arc::new(edge))
}

/// Answers `ok` as long as the process decides; what holds it up otherwise.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "it serves"),
    (status = 503, body = ptv2_common::api::Problem, description = "it cannot decide")))]
async fn healthz(State(edge): State<Shared>) -> Result<&'static str, Refusal> {
    match &*edge.doors.trouble.borrow() {
        None => Ok("ok\n"),
        Some(error) => Err(Refusal::unavailable(error.clone())),
    }
}

impl Edge {
    /// Asks the driver. While it cannot write its journal, whoever asks is told that at once.
    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, Refusal> {
        let mut trouble = self.doors.trouble.clone();
        let (reply, answer) = oneshot::channel();
        let ask = async {
            let sent = self.doors.inputs.send(Input::Asked(question(reply))).await;
            sent.map_err(|_| Refusal::stopping())?;
            answer.await.map_err(|_| Refusal::stopping())
        };
        tokio::select! {
            biased;
            answer = ask => answer,
            Ok(error) = trouble.wait_for(Option::is_some) => {
                Err(error.clone().map_or_else(Refusal::stopping, Refusal::unavailable))
            }
        }
    }

    /// The one job that a text means.
    async fn find(&self, text: String) -> Result<JobStatus, Refusal> {
        let mut found = self.ask(|reply| Question::Find(text.clone(), reply)).await?;
        match (found.pop(), found.is_empty()) {
            (Some(job), true) => Ok(job),
            (None, _) => Err(Refusal::no_such_job(&text)),
            (Some(job), false) => {
                let ids: Vec<&str> =
                    found.iter().chain([&job]).map(|job| job.id.as_str()).collect();
                Err(Refusal::ambiguous(&text, &ids))
            }
        }
    }
}
