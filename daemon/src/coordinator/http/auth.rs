//! Who sent a request, and whether they may.

use super::Shared;
use super::problem::{Code, Refusal};
use crate::clock::millis;
use crate::coordinator::audit;
use crate::coordinator::tokens::Caller;
use axum::RequestExt;
use axum::body::Body;
use axum::extract::{ConnectInfo, RawPathParams, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Extensions, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use ptv2_common::access::{AuditEvent, SESSION_HEADER, Scope};
use std::net::SocketAddr;
use std::time::Duration;

/// A route's door.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) edge: Shared,
    /// What a token must be good for.
    pub(super) scope: Scope,
    pub(super) method: Method,
    pub(super) path: &'static str,
}

/// Finds out whose a request is and leaves the [`Caller`] among its extensions, for whatever comes after:
/// its route's door, a bound on each token's requests. Refuses nobody.
pub(super) async fn identify(
    State(edge): State<Shared>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = caller(&edge, &request);
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

fn caller(edge: &Shared, request: &Request) -> Option<Caller> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let token = header(AUTHORIZATION.as_str())?.strip_prefix("Bearer ")?;
    edge.tokens.caller(token.trim(), header(SESSION_HEADER), millis(edge.clock.elapsed()))
}

/// Lets a request pass whose token is good for it; notes what was changed and what was refused.
pub(super) async fn guard(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().cloned();
    let remote = remote(request.extensions());
    let named = request.extract_parts::<RawPathParams>().await.ok();
    let named = named.and_then(|names| names.iter().next().map(|(_, name)| name.to_owned()));
    let answer = match &caller {
        None => Refusal::no_token().into_response(),
        Some(caller) if !caller.scope.allows(door.scope) => {
            Refusal::small_scope(door.scope, caller.scope).into_response()
        }
        Some(_) => next.run(request).await,
    };
    let is_refused = matches!(answer.status().as_u16(), 401 | 403);
    if is_refused || door.method != Method::GET {
        let code = answer.extensions().get::<Code>().map_or("done", |Code(code)| code);
        let now = millis(door.edge.clock.elapsed());
        let event = AuditEvent {
            principal: caller.as_ref().map(|caller| caller.principal.clone()),
            token: caller.as_ref().map(|caller| caller.token.clone()),
            remote,
            subject: caller.as_ref().and_then(Caller::subject).map(str::to_owned).or(named),
            outcome: code.to_owned(),
            ..audit::new(format!("{} {}", door.method, door.path), now)
        };
        if is_refused {
            door.edge.audit.refused(event).await;
        } else {
            door.edge.audit.done(event).await;
        }
    }
    match caller {
        Some(caller) => while_good(door.edge, answer, caller),
        None => answer,
    }
}

/// A stream that goes on for hours ends when the token that it was opened with is revoked or expires.
fn while_good(edge: Shared, answer: Response, caller: Caller) -> Response {
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return answer;
    }
    let now = millis(edge.clock.elapsed());
    let left = caller.expires_unix_ms.map(|at| Duration::from_millis(at.saturating_sub(now)));
    let expired = async move {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    };
    let revoked = async move {
        let mut revocations = edge.tokens.revocations();
        // The sender lives as long as the tokens do.
        drop(revocations.wait_for(|_| !edge.tokens.is_good(&caller.token)).await);
    };
    let over = async move {
        tokio::select! {
            () = expired => {}
            () = revoked => {}
        }
    };
    answer.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(over))))
}

/// Where a request came from.
pub(super) fn remote(extensions: &Extensions) -> Option<String> {
    let found = extensions.get::<ConnectInfo<SocketAddr>>();
    found.map(|ConnectInfo(address)| address.to_string())
}
