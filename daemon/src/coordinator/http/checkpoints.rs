//! Checkpoints of a job and their files.

use super::problem::Refusal;
use super::{Edge, Shared, range};
use crate::checkpoint::read;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::RANGE;
use axum::response::Response;
use ptv2_common::api::{Checkpoint, CheckpointFiles};
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::manifest::{CheckpointManifest, Which, choose, data_key};
use serde::Deserialize;

/// A job's checkpoints, oldest first.
#[utoipa::path(get, path = "/v1/jobs/{job}/checkpoints", params(("job" = String, Path)),
    responses((status = 200, body = Vec<Checkpoint>)))]
pub(super) async fn list(
    State(edge): State<Shared>,
    Path(job): Path<String>,
) -> Result<Json<Vec<Checkpoint>>, Refusal> {
    let id = JobId(edge.find(job).await?.id);
    let found = read::manifests(&edge.store, &id).await.map_err(Refusal::unavailable)?;
    Ok(Json(found.iter().map(|(key, manifest)| Checkpoint::of(key, manifest)).collect()))
}

/// Of which run.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// Only of the run with this seed.
    seed: Option<u64>,
}

/// The files of a job's `best` or `last` checkpoint, or of that of a step.
#[utoipa::path(get, path = "/v1/jobs/{job}/checkpoints/{which}",
    params(("job" = String, Path), ("which" = String, Path, description = "best, last or a step"), Run),
    responses((status = 200, body = CheckpointFiles), (status = 404, body = ptv2_common::api::Problem)))]
pub(super) async fn files(
    State(edge): State<Shared>,
    Path((job, which)): Path<(String, String)>,
    Query(Run { seed }): Query<Run>,
) -> Result<Json<CheckpointFiles>, Refusal> {
    let which: Which = which.parse().map_err(Refusal::malformed)?;
    let id = JobId(edge.find(job).await?.id);
    let (key, manifest) = chosen(&edge, &id, which, seed).await?;
    Ok(Json(CheckpointFiles {
        job: id.to_string(),
        store: edge.store_address.url.clone(),
        storage: edge.store_address.settings.clone(),
        checkpoint: Checkpoint::of(&key, &manifest),
        files: manifest.files,
    }))
}

/// The checkpoint of a job that is meant, with its manifest's key.
pub(super) async fn chosen(
    edge: &Edge,
    id: &JobId,
    which: Which,
    seed: Option<u64>,
) -> Result<(String, CheckpointManifest), Refusal> {
    let mut found = read::manifests(&edge.store, id).await.map_err(Refusal::unavailable)?;
    let Some(place) = choose(&found, which, seed) else {
        let is_asked = |one: &CheckpointManifest| seed.is_none() || one.seed() == seed;
        let steps = found.iter().filter(|(_, one)| is_asked(one)).map(|(_, one)| one.step);
        let steps: Vec<String> = steps.map(|step| step.to_string()).collect();
        let of = seed.map_or_else(String::new, |seed| format!(" of seed {seed}"));
        let known = if steps.is_empty() { "none yet".into() } else { steps.join(", ") };
        return Err(Refusal::not_found(
            Explained::new(format!("job {id} has no checkpoint `{which}`{of}"))
                .expected(format!("best, last, or one of the steps: {known}"))
                .hint(
                    "`ptv2ctl checkpoints` lists them; the first comes with the first evaluation",
                ),
        ));
    };
    Ok(found.swap_remove(place))
}

/// The bytes of a file, by its hash: all of them, or those of a range (`bytes=FIRST-` or
/// `bytes=FIRST-LAST`).
#[utoipa::path(get, path = "/v1/jobs/{job}/data/{sha256}",
    params(("job" = String, Path), ("sha256" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream"),
        (status = 206, content_type = "application/octet-stream"),
        (status = 416, body = ptv2_common::api::Problem)),
    security(("token" = ["read"])))]
pub(super) async fn data(
    State(edge): State<Shared>,
    Path((job, sha256)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id = JobId(edge.find(job).await?.id);
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refusal::malformed(format!("`{sha256}` is no SHA-256 in hexadecimal")));
    }
    let asked = headers.get(RANGE).and_then(|value| value.to_str().ok()).and_then(range::asked);
    let key = data_key(&id, &sha256);
    range::answer(&edge.store, &key, asked).await
}
