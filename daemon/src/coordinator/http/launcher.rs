//! Workers that the coordinator starts itself.

use super::Shared;
use axum::Json;
use axum::extract::State;
use ptv2_common::launch::LauncherStatus;

/// What is launched, what is wanted, and what keeps it from being started.
#[utoipa::path(get, path = "/v1/launcher", responses((status = 200, body = LauncherStatus)))]
pub(super) async fn status(State(edge): State<Shared>) -> Json<LauncherStatus> {
    Json(edge.launches.borrow().clone())
}
