//! The gate of the API: bounds on what requests may cost. Connections are bounded in `coordinator/listen`.
//!
//! [`strangers`] stands before the tokens, [`known`] behind them: nothing of a body is read, and nothing is
//! counted, for whoever has no token.

mod streams;
#[cfg(test)]
mod tests;

use super::problem::Refusal;
use crate::config::HttpConfig;
use crate::coordinator::listen::{Held, PART, whose};
use crate::coordinator::tokens::Caller;
use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use governor::clock::{Clock, MonotonicClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use ptv2_common::error::Explained;
use ptv2_common::text::commas_and_brackets;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use streams::{NoStream, Streams};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Addresses without a token that are remembered.
const STRANGERS: usize = 10_000;
/// Tokens that are remembered; more only if so many have asked a moment ago.
const CALLERS: usize = 10_000;
/// Of a body that is refused, so many bytes are read and forgotten for so long: who sends it on would not see
/// the answer otherwise.
const FORGOTTEN_BYTES: usize = 1 << 20;
const FORGOTTEN_FOR: Duration = Duration::from_secs(2);
/// Commas and opening brackets of a body at most: so many values are never in memory at once. A job has some
/// fifty.
const VALUES_MAX: usize = 10_000;
/// Who meets a bound that others will leave soon may ask again after this long.
const SOON: Duration = Duration::from_secs(1);

/// Counts what requests cost.
pub(in crate::coordinator) struct Gate {
    http: HttpConfig,
    /// Tells tokens apart, without keeping them.
    keys: RandomState,
    callers: DefaultKeyedRateLimiter<u64>,
    strangers: DefaultKeyedRateLimiter<IpAddr>,
    streams: Arc<Streams>,
    /// Bytes of bodies, and of answers, that may be held in memory.
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

/// Why a request is not answered as it was meant.
type Refused = Box<Response>;

/// Bounds the requests of those who have a token.
pub(super) async fn known(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    gate.pass(request, next).await.unwrap_or_else(|refused| *refused)
}

/// Bounds the requests of those who have none, by their addresses.
pub(super) async fn strangers(
    State(gate): State<Arc<Gate>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|ConnectInfo(peer)| whose(peer.ip()));
    let answer = next.run(request).await;
    match peer {
        Some(peer) if answer.status() == StatusCode::UNAUTHORIZED => gate.refused(peer, answer),
        Some(_) | None => answer,
    }
}

/// What is answered to plain HTTP where TLS is spoken.
pub(in crate::coordinator) fn plain() -> Router {
    let tell = async || {
        let error = Explained::new("this coordinator speaks TLS, and the request came as plain HTTP")
            .expected("https:// in the coordinator's URL")
            .hint(
                "write https:// in --coordinator (or PTV2_COORDINATOR), and name the coordinator's authority by \
                 --ca-file or --ca-fingerprint",
            );
        *closing(now(StatusCode::BAD_REQUEST, "tls_required", error))
    };
    Router::new().fallback(tell)
}

impl Gate {
    pub(in crate::coordinator) fn new(http: &HttpConfig) -> Arc<Self> {
        let callers = Quota::per_second(http.requests_per_second).allow_burst(http.requests_burst);
        let strangers = Quota::per_minute(http.refusals_per_minute);
        let held = || Arc::new(Semaphore::new(http.held_bytes_max as usize));
        Arc::new(Self {
            http: http.clone(),
            keys: RandomState::new(),
            callers: RateLimiter::keyed(callers),
            strangers: RateLimiter::keyed(strangers),
            streams: Streams::new(http.streams_max, http.streams_per_token),
            bodies: held(),
            answers: held(),
        })
    }

    async fn pass(&self, request: Request, next: Next) -> Result<Response, Refused> {
        let caller = self.caller(&request);
        self.in_turn(caller)?;
        let stream = match is_stream(&request) {
            true => Some(self.streams.begin(caller).map_err(too_many_streams)?),
            false => None,
        };
        let (request, _held) = self.read(request).await?;
        let answer = tokio::time::timeout(self.http.answer_timeout, next.run(request)).await;
        let answer = answer.map_err(|_| {
            let limit = humantime::format_duration(self.http.answer_timeout);
            let error = Explained::new(format!("the request took longer than {limit}"))
                .at("http.answer_timeout");
            later(StatusCode::SERVICE_UNAVAILABLE, "too_slow", error, SOON)
        })?;
        self.hold(answer, stream)
    }

    /// The longest body, in bytes.
    pub(super) fn longest_body(&self) -> usize {
        self.http.body_bytes_max
    }

    /// Whose request it is: one of a token that was found good.
    fn caller(&self, request: &Request) -> u64 {
        self.keys.hash_one(request.extensions().get::<Caller>().map(|caller| &caller.token))
    }

    fn in_turn(&self, caller: u64) -> Result<(), Refused> {
        if self.callers.len() > CALLERS {
            self.callers.retain_recent();
        }
        self.callers.check_key(&caller).map_err(|until| {
            let error = Explained::new("more requests come with this token than are taken")
                .at("http.requests_per_second")
                .expected(format!("{} a second over a longer time", self.http.requests_per_second))
                .hint("ask less often, as Retry-After says; followers are told without asking");
            let wait = until.wait_time_from(MonotonicClock.now());
            later(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", error, wait)
        })
    }

    fn refused(&self, peer: IpAddr, answer: Response) -> Response {
        if self.strangers.len() > STRANGERS {
            self.strangers.retain_recent();
        }
        let wait = match self.strangers.check_key(&peer) {
            Ok(()) if self.strangers.len() <= STRANGERS => return answer,
            Ok(()) => SOON,
            Err(until) => until.wait_time_from(MonotonicClock.now()),
        };
        let error =
            Explained::new("too many requests without a valid token come from this address")
                .at("http.refusals_per_minute")
                .hint("see that the token's file is this coordinator's; PTV2_TOKEN_FILE names it");
        *closing(later(StatusCode::TOO_MANY_REQUESTS, "too_many_refusals", error, wait))
    }

    /// Reads a request's body, so far as it is within the bounds.
    async fn read(
        &self,
        request: Request,
    ) -> Result<(Request, Option<OwnedSemaphorePermit>), Refused> {
        if request.body().is_end_stream() {
            return Ok((request, None));
        }
        let (parts, body) = request.into_parts();
        let told = body.size_hint().lower();
        let mut stream = body.into_data_stream();
        let read = async {
            if told > self.http.body_bytes_max as u64 {
                return Err(self.too_large());
            }
            self.collect(&mut stream).await
        };
        // The HTTP library reads before it comes here, and whoever sends faster than it reads has it use up all that
        // a task may do at once: a timer that is bound by that would never end.
        let read = tokio::time::timeout(self.http.body_timeout, read);
        match tokio::task::unconstrained(read).await {
            Ok(Ok((bytes, held))) => Ok((Request::from_parts(parts, Body::from(bytes)), held)),
            Ok(Err(refused)) => {
                tokio::spawn(tokio::time::timeout(FORGOTTEN_FOR, forget(stream)));
                Err(closing(refused))
            }
            Err(_) => {
                let limit = humantime::format_duration(self.http.body_timeout);
                let error = Explained::new(format!("the body did not come within {limit}"))
                    .at("http.body_timeout");
                Err(closing(now(StatusCode::REQUEST_TIMEOUT, "too_slow", error)))
            }
        }
    }

    async fn collect(
        &self,
        stream: &mut BodyDataStream,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refused> {
        let (mut bytes, mut held) = (Vec::new(), None::<OwnedSemaphorePermit>);
        let mut values = 0;
        while let Some(part) = stream.next().await {
            let part: Bytes = part.map_err(|error| {
                let refusal = Refusal::malformed(format!("the body broke off: {error}"));
                Box::new(refusal.into_response())
            })?;
            if bytes.len() + part.len() > self.http.body_bytes_max {
                return Err(self.too_large());
            }
            values += commas_and_brackets(&part);
            if values > VALUES_MAX {
                return Err(too_many_values());
            }
            let more = hold(&self.bodies, part.len())?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
            bytes.extend_from_slice(&part);
        }
        Ok((bytes, held))
    }

    fn too_large(&self) -> Refused {
        let error = Explained::new("the request's body is too large")
            .at("http.body_bytes_max")
            .expected(format!("{} bytes at most", self.http.body_bytes_max))
            .hint("a job names its data and its backbone by their paths; it does not hold them");
        now(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error)
    }

    /// Counts an answer until it has been sent, and a follower until it has gone. An answer of one part is given
    /// whoever reads nothing of theirs: a connection holds one at most, and there is a bound on those.
    fn hold(&self, answer: Response, stream: Option<streams::Stream>) -> Result<Response, Refused> {
        // What comes in parts is not held.
        let bytes = answer.body().size_hint().exact().unwrap_or(0);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let counts = bytes > PART;
        let most = self.http.held_bytes_max as usize;
        let held = counts.then(|| hold(&self.answers, bytes.min(most))).transpose()?;
        Ok(answer.map(|body| Body::new(Held::new(body, (stream, held)))))
    }
}

fn too_many_values() -> Refused {
    let error = Explained::new("the request's body holds too many values")
        .expected(format!("{VALUES_MAX} commas and opening brackets at most"))
        .hint("a job names its data and its backbone by their paths; it does not hold them");
    now(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error)
}

/// Room for so many bytes, or a refusal: nobody waits for someone else who is slow.
fn hold(room: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Refused> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Arc::clone(room).try_acquire_many_owned(bytes).map_err(|_| {
        let error =
            Explained::new("requests and answers of others fill what memory there is for them")
                .at("http.held_bytes_max");
        later(StatusCode::SERVICE_UNAVAILABLE, "busy", error.hint("try again"), SOON)
    })
}

async fn forget(mut stream: BodyDataStream) {
    let mut left = FORGOTTEN_BYTES;
    while let Some(Ok(part)) = stream.next().await {
        left = match left.checked_sub(part.len()) {
            Some(left) => left,
            None => return,
        };
    }
}

fn is_stream(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>();
    path.is_some_and(|path| path.as_str().ends_with("/stream"))
}

fn too_many_streams(refused: NoStream) -> Refused {
    let (status, key) = match refused {
        NoStream::InAll => (StatusCode::SERVICE_UNAVAILABLE, "http.streams_max"),
        NoStream::OfToken => (StatusCode::TOO_MANY_REQUESTS, "http.streams_per_token"),
    };
    let error = Explained::new("too many follow events or logs already")
        .at(key)
        .hint("end some, or ask now and then instead, as `ptv2ctl status` does");
    later(status, "too_many_streams", error, SOON)
}

fn now(status: StatusCode, code: &'static str, error: Explained) -> Refused {
    Box::new(Refusal::new(status, code, error).into_response())
}

/// A refusal that says when to ask again.
fn later(status: StatusCode, code: &'static str, error: Explained, wait: Duration) -> Refused {
    let mut refused = now(status, code, error);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    refused.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
    refused
}

/// The connection ends with this answer.
fn closing(mut refused: Refused) -> Refused {
    refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    refused
}
