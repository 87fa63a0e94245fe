//! Tokens are made, listed and revoked; what was done is looked up.

use super::Shared;
use super::problem::Refusal;
use crate::clock::millis;
use crate::coordinator::tokens::{Caller, Denied};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::{Extension, Json};
use ptv2_common::access::{AuditEvent, MadeToken, NewToken, TokenStatus};
use ptv2_common::api::Problem;
use serde::Deserialize;

/// Events that are listed where no number is asked for.
const LISTED: u32 = 100;

/// Makes a token. It is told this once: only its hash is kept.
#[utoipa::path(post, path = "/v1/tokens", request_body = NewToken, responses(
    (status = 201, body = MadeToken), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(edge): State<Shared>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<NewToken>, JsonRejection>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<MadeToken>), Refusal> {
    let Json(new) = body.map_err(|error| Refusal::malformed(error.body_text()))?;
    let made = edge.tokens.create(new, millis(edge.clock.elapsed())).await?;
    caller.about(format!("{} ({}, {})", made.status.id, made.status.name, made.status.scope));
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(made)))
}

/// All tokens, oldest first, without the tokens themselves.
#[utoipa::path(get, path = "/v1/tokens", responses((status = 200, body = Vec<TokenStatus>)))]
pub(super) async fn list(State(edge): State<Shared>) -> Json<Vec<TokenStatus>> {
    Json(edge.tokens.list())
}

/// Revokes a token: what is open by it ends. One that lies in the state folder is replaced there.
#[utoipa::path(delete, path = "/v1/tokens/{id}", params(("id" = String, Path)),
    responses((status = 200, body = TokenStatus), (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(edge): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<TokenStatus>, Refusal> {
    Ok(Json(edge.tokens.revoke(&id, millis(edge.clock.elapsed())).await?))
}

/// How many events.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Newest {
    /// At most so many, newest first.
    limit: Option<u32>,
}

/// Who did what, and who was refused; newest first.
#[utoipa::path(get, path = "/v1/audit", params(Newest),
    responses((status = 200, body = Vec<AuditEvent>)))]
pub(super) async fn audit(
    State(edge): State<Shared>,
    Query(Newest { limit }): Query<Newest>,
) -> Result<Json<Vec<AuditEvent>>, Refusal> {
    let found = edge.audit.list(limit.unwrap_or(LISTED)).await;
    Ok(Json(found.map_err(Refusal::unavailable)?))
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Malformed(error) => Self::malformed_as(error),
            Denied::Unknown(error) => Self::not_found(error),
            Denied::Refused(error) => Self::conflict(error),
            Denied::Unavailable(error) => Self::unavailable(error),
        }
    }
}
