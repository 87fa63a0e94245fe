//! Submit, plan, list, status, cancel, metrics.

use super::problem::Refusal;
use super::{Edge, Shared};
use crate::clock;
use crate::coordinator::accept::{self, Roots};
use crate::coordinator::driver::Question;
use crate::coordinator::idempotency::{self, Claim};
use crate::coordinator::tokens::Caller;
use crate::inputs::Wanted;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::{Extension, Json};
use ptv2_common::api::{JobState, JobStatus, MetricsRow, SubmitRequest};
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use ptv2_common::ids::JobId;
use ptv2_common::job::JobRecord;
use ptv2_common::names;
use ptv2_common::plan::Plan;
use ptv2_common::spec::JobSpec;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Jobs of one key that may be lost one after the other, each with its coordinator's journal.
const LIVES: usize = 100;

/// Lists of metrics are made one after the other: that of a long job takes several times its length meanwhile.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// Submits a job.
#[utoipa::path(post, path = "/v1/jobs", request_body = SubmitRequest, responses(
    (status = 201, body = JobStatus), (status = 200, body = JobStatus, description = "a repeated key"),
    (status = 422, body = ptv2_common::api::Problem), (status = 409, body = ptv2_common::api::Problem),
))]
pub(super) async fn submit(
    State(edge): State<Shared>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<SubmitRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<JobStatus>), Refusal> {
    let Json(request) = body.map_err(|error| Refusal::malformed(error.body_text()))?;
    let spec = request.spec;
    if let Some(key) = &request.idempotency_key {
        names::check_key("idempotency_key", key).map_err(Refusal::spec)?;
    }
    let (roots, hashes) = (edge.roots_of(&spec, None).await?, Arc::clone(&edge.hashes));
    let (id, now) = new_job(&edge)?;
    let mut record = checked(move || accept::accept(spec, &roots, &hashes, id, now)).await?;
    record.submitted_by = Some(caller.principal.clone());
    match claimed(&edge, &caller, request.idempotency_key.as_deref(), record).await? {
        Claimed::Known(job) => Ok((StatusCode::OK, Json(*job))),
        Claimed::New(record) => enter(&edge, record).await,
    }
}

/// A new job's id, and the time of its submit.
pub(super) fn new_job(edge: &Edge) -> Result<(JobId, u64), Refusal> {
    let mut random = [0; 5];
    getrandom::fill(&mut random)
        .map_err(|error| Refusal::internal(Explained::from_error(&error)))?;
    Ok((JobId::from_random(random), clock::millis(edge.clock.elapsed())))
}

/// What an idempotency key makes of a submit.
pub(super) enum Claimed {
    /// The job is there already.
    Known(Box<JobStatus>),
    /// It is to be entered.
    New(Box<JobRecord>),
}

/// Looks whether a submit repeats another.
pub(super) async fn claimed(
    edge: &Edge,
    caller: &Caller,
    key: Option<&str>,
    record: JobRecord,
) -> Result<Claimed, Refusal> {
    let claimed = match key {
        Some(key) => claimed_by(edge, key, record).await?,
        None => Claimed::New(Box::new(record)),
    };
    caller.about(match &claimed {
        Claimed::Known(job) => job.id.clone(),
        Claimed::New(record) => record.id.to_string(),
    });
    Ok(claimed)
}

async fn claimed_by(edge: &Edge, key: &str, mut record: JobRecord) -> Result<Claimed, Refusal> {
    let mut key = key.to_owned();
    for _ in 0..LIVES {
        let first = match idempotency::claim(&edge.store, &key, &record).await {
            Ok(Claim::First) => return Ok(Claimed::New(Box::new(record))),
            Ok(Claim::Repeated(first)) => first,
            Ok(Claim::Conflict(error)) => return Err(Refusal::conflict(error)),
            Err(error) => return Err(Refusal::unavailable(error)),
        };
        let began = idempotency::has_begun(&edge.store, &first).await;
        // Asked after that: whoever has begun was entered before.
        let found = edge.ask(|reply| Question::Find(first.to_string(), reply)).await?;
        if let Some(job) = found.into_iter().find(|job| job.id == first.0) {
            return Ok(Claimed::Known(Box::new(job)));
        }
        if !began.map_err(Refusal::unavailable)? {
            // The first submit died between its key and its journal: this one takes its place.
            record.id = first;
            return Ok(Claimed::New(Box::new(record)));
        }
        // It died with its coordinator's journal before its first checkpoint. What may be left of its
        // generations must not meet those of a new job, which gets a name of its own.
        key = idempotency::after(&key, &first);
    }
    Err(Refusal::conflict(
        Explained::new(format!("the jobs of this key were lost {LIVES} times"))
            .at("idempotency_key")
            .hint("see why the coordinator's journal is lost; take another key"),
    ))
}

/// Hands an accepted job to the loop.
pub(super) async fn enter(
    edge: &Edge,
    record: Box<JobRecord>,
) -> Result<(StatusCode, Json<JobStatus>), Refusal> {
    let _turn = edge.upkeep.turn().await;
    let accepted = edge.ask(|reply| Question::Submit(record, reply)).await?;
    Ok((StatusCode::CREATED, Json(accepted.map_err(Refusal::unavailable)?)))
}

/// Says what a submit would do.
#[utoipa::path(post, path = "/v1/plan", request_body = SubmitRequest,
    responses((status = 200, body = Plan), (status = 422, body = ptv2_common::api::Problem)))]
pub(super) async fn plan(
    State(edge): State<Shared>,
    body: Result<Json<SubmitRequest>, JsonRejection>,
) -> Result<Json<Plan>, Refusal> {
    let Json(request) = body.map_err(|error| Refusal::malformed(error.body_text()))?;
    let roots = edge.roots_of(&request.spec, None).await?;
    let check = move || accept::plan(request.spec, &roots);
    Ok(Json(checked(check).await?))
}

impl Edge {
    /// What a job may read: of one whose backbone lies on a hub, or which names places in stores, those,
    /// too, once they are there. `split` is the one that a job scores.
    pub(super) async fn roots_of(
        &self,
        value: &Value,
        split: Option<&str>,
    ) -> Result<Roots, Refusal> {
        // A job that is wrong is refused before gigabytes are fetched for it.
        let spec = JobSpec::from_value(value.clone()).map_err(Refusal::spec)?;
        let id = HubId::of(&spec.backbone.path).map_err(Refusal::spec)?;
        let mut roots = self.roots.with(None);
        let (value, split, allowed) = (value.clone(), split.map(str::to_owned), roots.clone());
        let wanted = move || accept::wanted::wanted(value, &allowed, split.as_deref());
        for (key, wanted) in checked(wanted).await? {
            roots = self.with_mirrored(roots, key, &wanted).await?;
        }
        let Some(id) = id else { return Ok(roots) };
        match self.fetches.of_hub(&id).await.map_err(Refusal::spec)? {
            Ok(snapshot) => Ok(roots.with(Some(snapshot))),
            Err(progress) => Err(Refusal::fetching("backbone.path", &id, progress)),
        }
    }

    /// The same roots with what is needed of a place in a store, once it is there.
    pub(super) async fn with_mirrored(
        &self,
        roots: Roots,
        key: &str,
        wanted: &Wanted,
    ) -> Result<Roots, Refusal> {
        let needed = self.ask(Question::Needed).await?;
        match self.fetches.of_store(wanted, needed).await.map_err(Refusal::spec)? {
            Ok(mirrored) => Ok(roots.with_mirrored(key, mirrored)),
            Err(progress) => Err(Refusal::fetching(key, wanted, progress)),
        }
    }
}

/// Checks a spec on a thread that may wait for files.
pub(super) async fn checked<T: Send + 'static>(
    check: impl FnOnce() -> Result<T, Explained> + Send + 'static,
) -> Result<T, Refusal> {
    let checked = tokio::task::spawn_blocking(check).await;
    checked
        .map_err(|error| Refusal::internal(Explained::from_error(&error)))?
        .map_err(Refusal::spec)
}

/// Which jobs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only those of this state.
    state: Option<JobState>,
    /// Only those of this task.
    task: Option<String>,
    /// At most so many, newest first.
    limit: Option<usize>,
}

/// Lists jobs, newest first.
#[utoipa::path(get, path = "/v1/jobs", params(Filter),
    responses((status = 200, body = Vec<JobStatus>)))]
pub(super) async fn list(
    State(edge): State<Shared>,
    Query(filter): Query<Filter>,
) -> Result<Json<Vec<JobStatus>>, Refusal> {
    let jobs = edge.ask(Question::Jobs).await?;
    let wanted = |job: &JobStatus| {
        filter.state.is_none_or(|state| job.state == state)
            && filter.task.as_ref().is_none_or(|task| job.task == *task)
    };
    let limit = filter.limit.unwrap_or(1000);
    Ok(Json(jobs.into_iter().filter(wanted).take(limit).collect()))
}

/// A job's status.
#[utoipa::path(get, path = "/v1/jobs/{job}", params(("job" = String, Path)),
    responses((status = 200, body = JobStatus), (status = 404, body = ptv2_common::api::Problem)))]
pub(super) async fn status(
    State(edge): State<Shared>,
    Path(job): Path<String>,
) -> Result<Json<JobStatus>, Refusal> {
    Ok(Json(edge.find(job).await?))
}

/// A job as it was accepted: its spec with all that it refers to pinned.
#[utoipa::path(get, path = "/v1/jobs/{job}/record", params(("job" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = ptv2_common::api::Problem)))]
pub(super) async fn record(
    State(edge): State<Shared>,
    Path(job): Path<String>,
) -> Result<Json<JobRecord>, Refusal> {
    let id = JobId(edge.find(job.clone()).await?.id);
    let record = edge.ask(|reply| Question::Record(id, reply)).await?;
    record.map(Json).ok_or_else(|| Refusal::no_such_job(&job))
}

/// Cancels a job. One that has ended stays as it is.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", params(("job" = String, Path)),
    responses((status = 200, body = JobStatus), (status = 404, body = ptv2_common::api::Problem)))]
pub(super) async fn cancel(
    State(edge): State<Shared>,
    Path(job): Path<String>,
) -> Result<Json<JobStatus>, Refusal> {
    let found = edge.find(job).await?;
    let id = JobId(found.id.clone());
    let status = edge.ask(|reply| Question::Cancel(id, reply)).await?;
    Ok(Json(status.unwrap_or(found)))
}

/// Tries a job again that failed or was cancelled: it goes on from its last checkpoint.
#[utoipa::path(post, path = "/v1/jobs/{job}/retry", params(("job" = String, Path)),
    responses((status = 200, body = JobStatus), (status = 404, body = ptv2_common::api::Problem),
        (status = 409, body = ptv2_common::api::Problem)))]
pub(super) async fn retry(
    State(edge): State<Shared>,
    Path(job): Path<String>,
) -> Result<Json<JobStatus>, Refusal> {
    let found = edge.find(job).await?;
    let id = JobId(found.id.clone());
    let hint = match found.state {
        JobState::Failed | JobState::Cancelled => None,
        JobState::Succeeded => Some("submit it anew to train it again".to_owned()),
        JobState::Staging | JobState::Queued | JobState::Running => Some(format!(
            "it goes on by itself: `ptv2ctl status {id}` says how; `ptv2ctl cancel {id}` ends it"
        )),
    };
    if let Some(hint) = hint {
        let state = serde_json::to_value(found.state).unwrap_or_default();
        let error = Explained::new(format!("job {id} is {}", state.as_str().unwrap_or("")))
            .expected("a job that failed or was cancelled")
            .hint(hint);
        return Err(Refusal::conflict(error));
    }
    let _turn = edge.upkeep.turn().await;
    let status = edge.ask(|reply| Question::Retry(id, reply)).await?;
    Ok(Json(status.unwrap_or(found)))
}

/// A job's steps and evaluations.
#[utoipa::path(get, path = "/v1/jobs/{job}/metrics", params(("job" = String, Path)),
    responses((status = 200, body = Vec<MetricsRow>), (status = 404, body = ptv2_common::api::Problem)))]
pub(super) async fn metrics(
    State(edge): State<Shared>,
    Path(job): Path<String>,
) -> Result<([(HeaderName, &'static str); 1], Vec<u8>), Refusal> {
    let id = JobId(edge.find(job).await?.id);
    let _turn = ONE_AT_A_TIME.acquire().await.map_err(|_| Refusal::stopping())?;
    let rows = edge.journal.metrics(&id).await.map_err(Refusal::internal)?;
    let json = serde_json::to_vec(&rows);
    let mut json = json.map_err(|error| Refusal::internal(Explained::from_error(&error)))?;
    // No more is held than is counted until it has been sent.
    json.shrink_to_fit();
    Ok(([(CONTENT_TYPE, "application/json")], json))
}
