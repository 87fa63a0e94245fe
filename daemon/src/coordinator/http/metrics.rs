//! Numbers for Prometheus, taken from the same state that people see.

use super::Shared;
use super::problem::Refusal;
use crate::coordinator::driver::Question;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use ptv2_common::api::JobState;
use ptv2_common::error::Explained;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfJob {
    job: String,
}

/// Jobs by state, workers, and the progress of running jobs, in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain")))]
pub(super) async fn scrape(
    axum::extract::State(edge): axum::extract::State<Shared>,
) -> Result<impl IntoResponse, Refusal> {
    let jobs = edge.ask(Question::Jobs).await?;
    let workers = edge.ask(Question::Workers).await?;
    let by_state = Family::<OfState, Gauge>::default();
    let steps = Family::<OfJob, Gauge>::default();
    for state in ["staging", "queued", "running", "succeeded", "failed", "cancelled"] {
        by_state.get_or_create(&OfState { state }).set(0);
    }
    for job in &jobs {
        by_state.get_or_create(&OfState { state: name(job.state) }).inc();
        if job.state == JobState::Running {
            let step = i64::try_from(job.step).unwrap_or(i64::MAX);
            steps.get_or_create(&OfJob { job: job.id.clone() }).set(step);
        }
    }
    let connected: Gauge = Gauge::default();
    connected.set(i64::try_from(workers.len()).unwrap_or(i64::MAX));
    let busy: Gauge = Gauge::default();
    let serving = workers.iter().filter(|worker| worker.job.is_some()).count();
    busy.set(i64::try_from(serving).unwrap_or(i64::MAX));
    let mut registry = Registry::with_prefix("ptv2");
    registry.register("jobs", "Jobs by state", by_state);
    registry.register("job_step", "Optimizer steps applied by running jobs", steps);
    registry.register("workers", "Connected workers", connected);
    registry.register("workers_busy", "Workers that serve a job", busy);
    let mut out = String::new();
    text::encode(&mut out, &registry)
        .map_err(|error| Refusal::internal(Explained::from_error(&error)))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], out))
}

fn name(state: JobState) -> &'static str {
    match state {
        JobState::Staging => "staging",
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}
