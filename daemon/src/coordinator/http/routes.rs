//! The one table of routes: each names the scope that it needs. The router is built from it and the API's
//! description takes its `security` from it, so there is no route without a scope.

use super::auth::{self, Door};
use super::{
    Shared, access, checkpoints, gate, jobs, launcher, metrics, openapi, origin, problem, scores,
    session, streams, upkeep, version, workers,
};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{self, MethodRouter};
use ptv2_common::access::Scope;
use std::sync::Arc;

/// A route.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// What a token must be good for; nothing where none is needed.
    pub(super) scope: Option<Scope>,
    handler: MethodRouter<Shared>,
}

/// All routes.
pub(super) fn table() -> Vec<Route> {
    use Scope::{Admin, Read, Submit, Worker};
    vec![
        open("/healthz", super::healthz),
        get("/metrics", Read, metrics::scrape),
        get("/v1/openapi.json", Read, openapi::document),
        get("/v1/jobs", Read, jobs::list),
        post("/v1/jobs", Submit, jobs::submit),
        post("/v1/plan", Submit, jobs::plan),
        post("/v1/scores", Submit, scores::submit),
        get("/v1/jobs/{job}", Read, jobs::status),
        get("/v1/jobs/{job}/record", Read, jobs::record),
        post("/v1/jobs/{job}/cancel", Submit, jobs::cancel),
        post("/v1/jobs/{job}/retry", Submit, jobs::retry),
        get("/v1/jobs/{job}/metrics", Read, jobs::metrics),
        get("/v1/jobs/{job}/events", Read, streams::events),
        get("/v1/jobs/{job}/events/stream", Read, streams::follow_events),
        get("/v1/jobs/{job}/logs", Read, streams::logs),
        get("/v1/jobs/{job}/logs/stream", Read, streams::follow_logs),
        get("/v1/jobs/{job}/checkpoints", Read, checkpoints::list),
        get("/v1/jobs/{job}/checkpoints/{which}", Read, checkpoints::files),
        get("/v1/jobs/{job}/data/{sha256}", Read, checkpoints::data),
        get("/v1/workers", Read, workers::list),
        post("/v1/workers/{worker}/drain", Admin, workers::drain),
        get("/v1/launcher", Admin, launcher::status),
        get("/v1/tokens", Admin, access::list),
        post("/v1/tokens", Admin, access::create),
        delete("/v1/tokens/{id}", Admin, access::revoke),
        get("/v1/audit", Admin, access::audit),
        post("/v1/gc", Admin, upkeep::gc),
        post("/v1/recover", Admin, upkeep::recover),
        get("/v1/session", Worker, session::open),
    ]
}

fn open<T: 'static>(path: &'static str, handler: impl Handler<T, Shared>) -> Route {
    Route { method: Method::GET, path, scope: None, handler: routing::get(handler) }
}

fn get<T: 'static>(path: &'static str, scope: Scope, handler: impl Handler<T, Shared>) -> Route {
    Route { method: Method::GET, path, scope: Some(scope), handler: routing::get(handler) }
}

fn post<T: 'static>(path: &'static str, scope: Scope, handler: impl Handler<T, Shared>) -> Route {
    Route { method: Method::POST, path, scope: Some(scope), handler: routing::post(handler) }
}

fn delete<T: 'static>(path: &'static str, scope: Scope, handler: impl Handler<T, Shared>) -> Route {
    Route { method: Method::DELETE, path, scope: Some(scope), handler: routing::delete(handler) }
}

/// The router. A request passes the layers from the last one to the first: do too many strangers come from
/// there, is it meant for this address, whose is it, and, at its route, may they, and what may it cost.
pub(super) fn router(edge: &Shared) -> Router {
    let mut router = Router::new();
    for Route { method, path, scope, mut handler } in table() {
        if let Some(scope) = scope {
            // A worker's session has bounds of its own.
            if scope != Scope::Worker {
                let bounds = from_fn_with_state(Arc::clone(&edge.gate), gate::known);
                handler = handler.route_layer(bounds);
            }
            let door = Door { edge: Arc::clone(edge), scope, method, path };
            handler = handler.route_layer(from_fn_with_state(door, auth::guard));
        }
        router = router.route(path, handler);
    }
    router
        .fallback(problem::no_such_route)
        .layer(DefaultBodyLimit::max(edge.gate.longest_body()))
        .layer(from_fn_with_state(Arc::clone(edge), auth::identify))
        .layer(from_fn_with_state(Arc::clone(edge), origin::check))
        .layer(from_fn_with_state(Arc::clone(&edge.gate), gate::strangers))
        .layer(map_response(version::tell))
        .with_state(Arc::clone(edge))
}
