//! Workers: the list, and draining one.

use super::Shared;
use super::problem::Refusal;
use crate::coordinator::driver::Question;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use ptv2_common::api::WorkerStatus;
use ptv2_common::error::Explained;
use ptv2_common::ids::WorkerId;

/// Connected workers, oldest first.
#[utoipa::path(get, path = "/v1/workers", responses((status = 200, body = Vec<WorkerStatus>)))]
pub(super) async fn list(State(edge): State<Shared>) -> Result<Json<Vec<WorkerStatus>>, Refusal> {
    Ok(Json(edge.ask(Question::Workers).await?))
}

/// Lets a worker take no more work and end.
#[utoipa::path(post, path = "/v1/workers/{worker}/drain", params(("worker" = String, Path)),
    responses((status = 202), (status = 404, body = ptv2_common::api::Problem)))]
pub(super) async fn drain(
    State(edge): State<Shared>,
    Path(worker): Path<String>,
) -> Result<StatusCode, Refusal> {
    let id = WorkerId(worker.clone());
    if edge.ask(|reply| Question::Drain(id, reply)).await? {
        return Ok(StatusCode::ACCEPTED);
    }
    Err(Refusal::not_found(
        Explained::new(format!("there is no worker `{worker}`"))
            .hint("`ptv2ctl workers` lists the workers"),
    ))
}
