//! The coordinator's API: addresses, the token, answers and errors, and patience with a restart.

mod patience;
#[cfg(test)]
mod tests;

pub(crate) use patience::Patience;

use crate::cli::Global;
use crate::failure::{Failure, Kind};
use crate::render;
use patience::PATIENCE;
use ptv2_common::api::VERSION_HEADER;
use ptv2_common::error::Explained;
use ptv2_common::secret::{self, Secret};
use ptv2_common::tls::{self, Trust};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The token's place below the current folder: the default state folder of `ptv2d local`.
const DEFAULT_TOKEN_FILE: &str = ".ptv2/token";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No answer needs longer, but for a submit, which hashes the backbone's files.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a stream may be silent; the coordinator sends comments in between.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// A coordinator and the right to talk to it.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: reqwest::Client,
    base: Url,
    token_file: PathBuf,
    /// Whether it was said that the versions differ.
    versions_differ: Arc<AtomicBool>,
}

impl Api {
    /// Prepares requests; nothing is sent yet.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let base = tls::coordinator_url(&global.coordinator, global.insecure_http)?;
        let token_file = global.token_file.clone();
        let token_file = token_file.unwrap_or_else(|| PathBuf::from(DEFAULT_TOKEN_FILE));
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, read_token(&token_file)?);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("ptv2ctl/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX)
            // A redirect would hand the token to someone else.
            .redirect(reqwest::redirect::Policy::none());
        if tls::is_this_machine(&base) {
            builder = builder.no_proxy();
        }
        if base.scheme() == "https" {
            let trust =
                Trust::choose(global.ca_fingerprint, global.ca_file.as_deref(), &token_file);
            builder = builder.tls_backend_preconfigured(trust.client_config()?);
        }
        let client = builder
            .build()
            .map_err(|error| Failure::new(Kind::BadAnswer, Explained::from_error(&error)))?;
        Ok(Self { client, base, token_file, versions_differ: Arc::default() })
    }

    /// Gets and decodes an answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Failure> {
        self.get_with(path, &[]).await
    }

    /// Gets and decodes an answer to a query.
    pub(crate) async fn get_with<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        let request = self.request(Method::GET, path)?.query(query).timeout(ANSWER_TIMEOUT);
        decode(self.accept(request).await?).await
    }

    /// Posts a body, which may be checked at length, and decodes the answer. While the coordinator
    /// fetches the job's backbone, it asks again and says how far that is.
    pub(crate) async fn post_job<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        loop {
            let request = self.request(Method::POST, path)?.json(body).timeout(SUBMIT_TIMEOUT);
            match self.accept(request).await {
                Ok(answer) => return decode(answer).await,
                Err(failure) if failure.kind == Kind::NotYet => render::note(&failure.error.what),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Posts nothing and leaves the answer to the caller.
    pub(crate) async fn post(&self, path: &[&str]) -> Result<Response, Failure> {
        self.accept(self.request(Method::POST, path)?.timeout(ANSWER_TIMEOUT)).await
    }

    /// Sends an order, with a body where there is one, and leaves the answer to the caller.
    pub(crate) async fn order<T: Serialize>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&T>,
    ) -> Result<Response, Failure> {
        let mut request = self.request(method, path)?.timeout(ANSWER_TIMEOUT);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.accept(request).await
    }

    /// Gets an answer that comes in parts, after the event that was seen last.
    pub(crate) async fn stream(
        &self,
        path: &[&str],
        after: Option<u64>,
    ) -> Result<Response, Failure> {
        let mut request = self.request(Method::GET, path)?;
        if let Some(seq) = after {
            request = request.header("last-event-id", seq.to_string());
        }
        self.accept(request).await
    }

    /// Gets the bytes of a file from this one on, as they come.
    pub(crate) async fn bytes_from(&self, path: &[&str], first: u64) -> Result<Response, Failure> {
        let mut request = self.request(Method::GET, path)?;
        if first > 0 {
            request = request.header(RANGE, format!("bytes={first}-"));
        }
        self.accept(request).await
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, Failure> {
        Ok(self.client.request(method, address(&self.base, path)?))
    }

    /// Sends a request. Where the coordinator says that it is asked too much, and when to ask again, that is
    /// waited for, up to a minute in all: it has done nothing yet.
    async fn accept(&self, mut request: RequestBuilder) -> Result<Response, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let again = request.try_clone();
            let answer = request.send().await.map_err(|error| unreachable(&error))?;
            match (retry_after(&answer), again) {
                (Some(wait), Some(again)) if Instant::now() + wait < until => {
                    tokio::time::sleep(wait).await;
                    request = again;
                }
                _ => return self.judge(answer).await,
            }
        }
    }

    async fn judge(&self, answer: Response) -> Result<Response, Failure> {
        if let Some(note) = self.compare_versions(answer.headers()) {
            render::note(&note);
        }
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let url = answer.url().to_string();
        let body = answer.bytes().await.unwrap_or_default();
        let mut failure = Failure::of_answer(status.as_u16(), &body, &url);
        if failure.kind == Kind::NotPermitted {
            // The coordinator cannot know which file the token is from.
            failure.error.place = Some(format!("{} at {url}", self.token_file.display()));
        }
        Err(failure)
    }

    /// What to say of a coordinator of another version, once: most things work, and those that do not are then
    /// understood.
    fn compare_versions(&self, headers: &HeaderMap) -> Option<String> {
        let said = headers.get(VERSION_HEADER)?.to_str().ok()?;
        if said == ptv2_common::VERSION || self.versions_differ.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(format!(
            "note: this is ptv2ctl {}, and the coordinator is ptv2 {said}; where an answer is not \
             understood, install the same version",
            ptv2_common::VERSION
        ))
    }
}

/// How long to wait before asking again, where an answer says so.
fn retry_after(answer: &Response) -> Option<Duration> {
    if !matches!(answer.status().as_u16(), 429 | 503) {
        return None;
    }
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Decodes the body of a good answer.
pub(crate) async fn decode<T: DeserializeOwned>(answer: Response) -> Result<T, Failure> {
    let url = answer.url().to_string();
    let body = answer.bytes().await.map_err(|error| unreachable(&error))?;
    serde_json::from_slice(&body).map_err(|error| {
        let error = Explained::new(format!("the answer cannot be read: {error}"))
            .at(url)
            .expected("an answer of a ptv2 coordinator")
            .hint(format!(
                "this is ptv2ctl {}; is the coordinator's version the same?",
                ptv2_common::VERSION
            ));
        Failure::new(Kind::BadAnswer, error)
    })
}

/// What a broken connection means.
pub(crate) fn unreachable(error: &reqwest::Error) -> Failure {
    if let Some(mut explained) = tls::explain(error) {
        explained.place = error.url().map(ToString::to_string);
        // Asking again would bring the same.
        return Failure::new(Kind::BadAnswer, explained);
    }
    // The first cause, because what wraps it says only that something failed.
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let mut explained = if error.is_connect() {
        Explained::new(format!("the coordinator is unreachable: {cause}"))
            .expected("a coordinator that listens there")
            .hint("start one with `ptv2d local`, or name it by --coordinator (or PTV2_COORDINATOR)")
    } else {
        Explained::new(format!("the coordinator's answer was lost: {cause}"))
            .expected("an answer of a ptv2 coordinator, in time")
            .hint(
                "what was asked may have been done all the same: see `ptv2ctl status`; a submit \
                 with --idempotency-key can be repeated safely",
            )
    };
    explained.place = error.url().map(ToString::to_string);
    Failure::new(Kind::Unreachable, explained)
}

/// Appends `/v1` and the path's parts, each escaped, so that no name can lead elsewhere.
fn address(base: &Url, path: &[&str]) -> Result<Url, Failure> {
    let mut url = base.clone();
    if let Some(part) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
        return Err(Failure::new(Kind::NotFound, Explained::new(format!("`{part}` is no name"))));
    }
    url.set_query(None);
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("v1").extend(path);
    }
    Ok(url)
}

fn read_token(file: &Path) -> Result<HeaderValue, Failure> {
    let refused = |what: String| {
        let error = Explained::new(what)
            .at(file.display().to_string())
            .expected("a file that holds the coordinator's token")
            .hint(
                "set PTV2_TOKEN_FILE to the coordinator's token file, or go to the folder that \
                 `ptv2d local` was started in: there it is `.ptv2/token`",
            );
        Failure::new(Kind::NotPermitted, error)
    };
    let text = std::fs::read_to_string(file)
        .map(Secret::new)
        .map_err(|error| refused(format!("the token file cannot be read: {error}")))?;
    if let Some(warning) = secret::exposed(file) {
        render::note(&format!("warning: {warning}"));
    }
    let text = text.expose().trim();
    if text.is_empty() {
        return Err(refused("the token file is empty".into()));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
        .map_err(|_| refused("the token file holds something else than a token".into()))?;
    value.set_sensitive(true);
    Ok(value)
}
