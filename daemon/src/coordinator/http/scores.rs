//! Submits of jobs that score a split with values that were trained before.

use super::checkpoints;
use super::jobs::{Claimed, checked, claimed, enter, new_job};
use super::problem::Refusal;
use super::{Edge, Shared};
use crate::checkpoint::{STATE_FILE, read};
use crate::coordinator::accept::score::{self, Trained};
use crate::coordinator::accept::wanted::{SCORED_ADAPTER, adapter_at};
use crate::coordinator::driver::Question;
use crate::coordinator::tokens::Caller;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::{Extension, Json};
use ptv2_common::api::{JobStatus, ScoreRequest, ScoreSource};
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::manifest::{Which, data_key};
use ptv2_common::{names, storage};
use std::sync::Arc;

/// Submits a job that scores a split. It runs as any other job does, sharded over workers.
#[utoipa::path(post, path = "/v1/scores", request_body = ScoreRequest, responses(
    (status = 201, body = JobStatus), (status = 200, body = JobStatus, description = "a repeated key"),
    (status = 404, body = ptv2_common::api::Problem), (status = 409, body = ptv2_common::api::Problem),
    (status = 422, body = ptv2_common::api::Problem),
))]
pub(super) async fn submit(
    State(edge): State<Shared>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<ScoreRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<JobStatus>), Refusal> {
    let Json(request) = body.map_err(|error| Refusal::malformed(error.body_text()))?;
    names::check("split", &request.split).map_err(Refusal::spec)?;
    if let Some(key) = &request.idempotency_key {
        names::check_key("idempotency_key", key).map_err(Refusal::spec)?;
    }
    let trained = match &request.source {
        ScoreSource::Adapter(adapter) => {
            let mut roots = edge.roots.with(None);
            let wanted = adapter_at(SCORED_ADAPTER, adapter, &roots).map_err(Refusal::spec)?;
            if let Some(wanted) = wanted {
                roots = edge.with_mirrored(roots, SCORED_ADAPTER, &wanted).await?;
            }
            let adapter = adapter.clone();
            checked(move || Trained::adapter(&adapter, &roots)).await?
        }
        ScoreSource::Job { job, checkpoint, seed } => of_job(&edge, job, checkpoint, *seed).await?,
    };
    let spec = trained.spec_for(&request).map_err(Refusal::spec)?;
    let roots = edge.roots_of(&spec, Some(&request.split)).await?;
    let hashes = Arc::clone(&edge.hashes);
    let key = request.idempotency_key.clone();
    let (id, now) = new_job(&edge)?;
    let accept = move || score::accept(trained, &request, &roots, &hashes, (id, now));
    let (mut record, state) = checked(accept).await?;
    record.submitted_by = Some(caller.principal.clone());
    let record = match claimed(&edge, &caller, key.as_deref(), record).await? {
        Claimed::Known(job) => return Ok((StatusCode::OK, Json(*job))),
        Claimed::New(record) => record,
    };
    // The values lie with the job itself, whatever becomes of where they were taken from.
    let hash = record.score.as_ref().map_or("", |score| score.state_sha256.as_str());
    let object = data_key(&record.id, hash);
    let put = storage::put_content(&edge.store, &object, state.into()).await;
    put.map_err(|error| Refusal::unavailable(Explained::from_error(&error).at(object)))?;
    enter(&edge, record).await
}

/// The values of a job's checkpoint.
async fn of_job(
    edge: &Edge,
    job: &str,
    checkpoint: &str,
    seed: Option<u64>,
) -> Result<Trained, Refusal> {
    let which: Which = checkpoint.parse().map_err(Refusal::malformed)?;
    let status = edge.find(job.to_owned()).await?;
    let id = JobId(status.id);
    let record = edge.ask(|reply| Question::Record(id.clone(), reply)).await?;
    let record = record.ok_or_else(|| Refusal::no_such_job(job))?;
    let (_, manifest) = checkpoints::chosen(edge, &id, which, seed).await?;
    let missing = || Explained::new(format!("a checkpoint of job {id} has no {STATE_FILE}"));
    let entry = manifest.files.iter().find(|file| file.name == STATE_FILE);
    let entry = entry.ok_or_else(|| Refusal::internal(missing()))?;
    let bytes = read::file(&edge.store, &id, entry).await;
    let state = bytes.map_err(|unread| Refusal::unavailable(unread.into()))?.to_vec();
    let seed = manifest.seed().filter(|_| record.spec.training.seeds.is_some());
    let seed = seed.map_or_else(String::new, |seed| format!(", seed {seed}"));
    let of = format!("{}, checkpoint of step {}{seed}", record.name, manifest.step);
    Ok(Trained::checkpoint(record, state, of))
}
