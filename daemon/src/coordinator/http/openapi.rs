//! The API's description, generated from the handlers and types.

use super::{checkpoints, jobs, launcher, metrics, scores, streams, workers};
use axum::Json;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ptv2",
        description = "P-tuning v2 on many workers. Every request but /healthz \
        needs `Authorization: Bearer TOKEN`."
    ),
    paths(
        super::healthz,
        jobs::submit,
        jobs::plan,
        scores::submit,
        jobs::list,
        jobs::status,
        jobs::record,
        jobs::cancel,
        jobs::retry,
        jobs::metrics,
        streams::events,
        streams::follow_events,
        streams::logs,
        streams::follow_logs,
        checkpoints::list,
        checkpoints::files,
        checkpoints::data,
        workers::list,
        workers::drain,
        launcher::status,
        metrics::scrape,
        document,
    )
)]
struct Document;

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, content_type = "application/json")))]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
