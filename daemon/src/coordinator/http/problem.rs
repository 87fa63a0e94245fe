//! Errors as `application/problem+json`.

use crate::hub::Progress;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, Uri, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use ptv2_common::access::Scope;
use ptv2_common::api::{FETCHING, Problem};
use ptv2_common::error::Explained;
use ptv2_common::text::escaped_to;
use std::fmt::Display;

/// The code of a refusal, left with its answer for the audit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(pub(super) &'static str);

/// A refused request.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    error: Explained,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, error: Explained) -> Self {
        Self { status, code, error }
    }

    /// Its stable word.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// What is told of it.
    pub(super) fn into_error(self) -> Explained {
        self.error
    }

    /// The spec cannot be accepted as it is.
    pub(super) fn spec(error: Explained) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused_spec", error)
    }

    /// There is nothing at the range that is asked for.
    pub(super) fn no_such_range(error: Explained) -> Self {
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "no_such_range", error)
    }

    /// The request itself is malformed.
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        let error = Explained::new(what).hint("GET /v1/openapi.json describes every request");
        Self::malformed_as(error)
    }

    /// The same, explained.
    pub(super) fn malformed_as(error: Explained) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", error)
    }

    pub(super) fn no_such_job(text: &str) -> Self {
        let error = Explained::new(format!("there is no job `{text}`"))
            .expected("a job's id, the beginning of one, or a name")
            .hint("`ptv2ctl status` lists the jobs");
        Self::new(StatusCode::NOT_FOUND, "no_such_job", error)
    }

    pub(super) fn ambiguous(text: &str, ids: &[&str]) -> Self {
        let error =
            Explained::new(format!("`{text}` means {} jobs: {}", ids.len(), ids.join(", ")))
                .hint("give the id of one of them");
        Self::new(StatusCode::NOT_FOUND, "ambiguous_job", error)
    }

    pub(super) fn not_found(error: Explained) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", error)
    }

    /// The same answer whether a token is missing, unknown, expired or revoked: it tells nothing of any.
    pub(super) fn no_token() -> Self {
        let error = Explained::new("no valid token came with the request")
            .expected("`Authorization: Bearer` and this coordinator's token")
            .hint("the coordinator's token lies in its state folder; name it by PTV2_TOKEN_FILE");
        Self::new(StatusCode::UNAUTHORIZED, "not_permitted", error)
    }

    pub(super) fn small_scope(needed: Scope, has: Scope) -> Self {
        let error = Explained::new(format!("the token's scope `{has}` does not allow this"))
            .expected(format!("a token of scope `{needed}`"))
            .hint(match needed {
                Scope::Worker => {
                    "workers join with the coordinator's `worker-token`, or a join token"
                }
                Scope::Read | Scope::Submit | Scope::Admin => {
                    "an administrator makes one by `ptv2ctl token create --scope`"
                }
            });
        Self::new(StatusCode::FORBIDDEN, "scope_too_small", error)
    }

    pub(super) fn token_in_url() -> Self {
        let error = Explained::new("a token in the address is not accepted")
            .expected("`Authorization: Bearer` and the token")
            .hint("addresses end in logs: make a new token, and revoke this one if it is one");
        Self::new(StatusCode::BAD_REQUEST, "token_in_url", error)
    }

    pub(super) fn no_host() -> Self {
        Self::malformed("the request does not say which host it is for")
    }

    pub(super) fn foreign_host(host: &str) -> Self {
        let error = Explained::new(format!("this coordinator is not `{}`", escaped_to(host, 100)))
            .at("Host")
            .expected("a name of this machine's own loopback address, such as localhost")
            .hint("where a proxy passes another name on, add it to `hosts` in the configuration");
        Self::new(StatusCode::FORBIDDEN, "foreign_host", error)
    }

    pub(super) fn foreign_origin() -> Self {
        let error = Explained::new("the request comes from a page of another site")
            .at("Origin")
            .expected("a request of a program, or of a page of this very host")
            .hint("ptv2ctl and curl send no `Origin`");
        Self::new(StatusCode::FORBIDDEN, "foreign_origin", error)
    }

    pub(super) fn conflict(error: Explained) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", error)
    }

    /// What a job needs is on its way: whoever asks again will find it further, or there.
    pub(super) fn fetching(key: &str, id: &dyn Display, Progress { bytes, of }: Progress) -> Self {
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        let far = match of {
            0 => String::new(),
            of => format!(": {} of {} MB", megabytes(bytes), megabytes(of)),
        };
        let error = Explained::new(format!("{id} is being fetched{far}"))
            .at(key)
            .hint("submit again, as ptv2ctl does by itself");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, FETCHING, error)
    }

    /// It may work later.
    pub(super) fn unavailable(error: Explained) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error)
    }

    pub(super) fn stopping() -> Self {
        Self::unavailable(Explained::new("the coordinator is stopping").hint("try again"))
    }

    /// Something failed on this side.
    pub(super) fn internal(error: Explained) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem =
            Problem { status: self.status.as_u16(), code: self.code.into(), error: self.error };
        let mut response = (self.status, Json(problem)).into_response();
        response.extensions_mut().insert(Code(self.code));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

pub(super) async fn no_such_route(uri: Uri) -> Refusal {
    Refusal::not_found(
        Explained::new(format!("there is nothing at {}", uri.path()))
            .hint("GET /v1/openapi.json lists the routes"),
    )
}
