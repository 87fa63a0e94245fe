//! Events and log lines, as lists and as server-sent events that go on where a reader left off.

use super::Shared;
use super::problem::Refusal;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::Stream;
use ptv2_common::api::{Event, LogLine};
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;

/// Rows that are held for a follower at once, however slowly it reads.
const PAGE: u32 = 256;
/// However fast things change, a follower looks no sooner again: a thousand of them cost the loop little.
const PAUSE: Duration = Duration::from_millis(50);

/// Where to go on.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    /// Only what comes after this sequence number.
    after: Option<u64>,
}

/// A job's events.
#[utoipa::path(get, path = "/v1/jobs/{job}/events", params(("job" = String, Path), After),
    responses((status = 200, body = Vec<Event>), (status = 404, body = ptv2_common::api::Problem)))]
pub(super) async fn events(
    State(edge): State<Shared>,
    Path(job): Path<String>,
    Query(query): Query<After>,
) -> Result<Json<Vec<Event>>, Refusal> {
    let id = JobId(edge.find(job).await?.id);
    let found = edge.journal.events(&id, query.after.unwrap_or(0)).await;
    Ok(Json(found.map_err(Refusal::internal)?))
}

/// A job's log.
#[utoipa::path(get, path = "/v1/jobs/{job}/logs", params(("job" = String, Path), After),
    responses((status = 200, body = Vec<LogLine>), (status = 404, body = ptv2_common::api::Problem)))]
pub(super) async fn logs(
    State(edge): State<Shared>,
    Path(job): Path<String>,
    Query(query): Query<After>,
) -> Result<Json<Vec<LogLine>>, Refusal> {
    let id = JobId(edge.find(job).await?.id);
    let found = edge.journal.logs(&id, query.after.unwrap_or(0)).await;
    Ok(Json(found.map_err(Refusal::internal)?))
}

/// What a follower reads.
#[derive(Debug, Clone, Copy)]
enum What {
    Events,
    Logs,
}

/// A job's events as they happen; once the job has ended and all is said, `end`.
#[utoipa::path(get, path = "/v1/jobs/{job}/events/stream", params(("job" = String, Path), After),
    responses((status = 200, content_type = "text/event-stream")))]
pub(super) async fn follow_events(
    State(edge): State<Shared>,
    Path(job): Path<String>,
    Query(query): Query<After>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refusal> {
    follow(edge, job, (What::Events, query), headers).await
}

/// A job's log as it is written; once the job has ended and all is said, `end`.
#[utoipa::path(get, path = "/v1/jobs/{job}/logs/stream", params(("job" = String, Path), After),
    responses((status = 200, content_type = "text/event-stream")))]
pub(super) async fn follow_logs(
    State(edge): State<Shared>,
    Path(job): Path<String>,
    Query(query): Query<After>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refusal> {
    follow(edge, job, (What::Logs, query), headers).await
}

/// A follower's place.
struct Follower {
    edge: Shared,
    job: JobId,
    what: What,
    after: u64,
    waiting: VecDeque<sse::Event>,
    changes: watch::Receiver<u64>,
    over: bool,
}

async fn follow(
    edge: Shared,
    job: String,
    (what, query): (What, After),
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refusal> {
    let job = JobId(edge.find(job).await?.id);
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let after = last.and_then(|id| id.parse().ok()).or(query.after).unwrap_or(0);
    let changes = edge.doors.changes.clone();
    let waiting = VecDeque::new();
    let follower = Follower { edge, job, what, after, waiting, changes, over: false };
    let stream = futures_util::stream::unfold(follower, |mut follower| async move {
        follower.next().await.map(|event| (Ok(event), follower))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

impl Follower {
    /// The next event: one that waits, or what a change brings. `None` ends the stream.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            self.changes.mark_unchanged();
            // Asked before reading, and `end` is said only once nothing new is read: a checkpoint that
            // was on its way when the job ended is noted after that, and is seen if it is by then.
            let ended = match self.edge.find(self.job.to_string()).await {
                Ok(job) => job.state.is_final(),
                Err(_) => return None,
            };
            if let Err(error) = self.read().await {
                tracing::warn!(job = %self.job, %error, "a stream ends: the journal cannot be read");
                return None;
            }
            if !self.waiting.is_empty() {
                continue;
            }
            if ended {
                self.over = true;
                return Some(sse::Event::default().event("end").data("{}"));
            }
            tokio::select! {
                changed = self.changes.changed() => {
                    changed.ok()?;
                    tokio::time::sleep(PAUSE).await;
                }
                () = self.edge.shutdown.cancelled() => return None,
            }
        }
    }

    async fn read(&mut self) -> Result<(), Explained> {
        let journal = &self.edge.journal;
        let found: Vec<(u64, sse::Event)> = match self.what {
            What::Events => {
                let events = journal.events_page(&self.job, (self.after, PAGE)).await?;
                events.into_iter().map(|event| (event.seq, numbered(event.seq, &event))).collect()
            }
            What::Logs => {
                let lines = journal.logs_page(&self.job, (self.after, PAGE)).await?;
                lines.into_iter().map(|line| (line.seq, numbered(line.seq, &line))).collect()
            }
        };
        for (seq, event) in found {
            self.after = seq;
            self.waiting.push_back(event);
        }
        Ok(())
    }
}

fn numbered(seq: u64, value: &impl Serialize) -> sse::Event {
    let data = serde_json::to_string(value).unwrap_or_default();
    sse::Event::default().id(seq.to_string()).data(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Steady;
    use crate::config::{HttpConfig, HubConfig};
    use crate::coordinator::accept::{HashCache, Roots};
    use crate::coordinator::audit::Audit;
    use crate::coordinator::driver::{Doors, Input, Question};
    use crate::coordinator::fetches::Fetches;
    use crate::coordinator::http::{Edge, Gate, Hosts};
    use crate::coordinator::journal::{Entry, Journal};
    use crate::coordinator::run::{Cluster, Event as Happened, Limits, tests::record};
    use crate::coordinator::tokens::Tokens;
    use ptv2_common::launch::LauncherStatus;
    use std::sync::Arc;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    /// Answers that a job was cancelled. With the first answers comes one more event each, as of a
    /// checkpoint that was on its way.
    async fn answer(journal: Journal, late: u64, mut questions: mpsc::Receiver<Input>) {
        let (job, mut cluster) = (JobId("j1".into()), Cluster::new(Limits::default()));
        let submitted = Happened::Submitted(Box::new(record("j1", "1")));
        for event in [submitted, Happened::Cancel(job.clone())] {
            drop(cluster.apply(Duration::ZERO, event));
        }
        let mut asked = 0;
        while let Some(Input::Asked(Question::Find(_, reply))) = questions.recv().await {
            asked += 1;
            if asked <= late {
                let (kind, message) = ("checkpoint".into(), asked.to_string());
                let event = Entry::Event { job: job.clone(), unix_ms: 0, kind, message };
                journal.write(vec![event]).await.unwrap();
            }
            drop(reply.send(cluster.status(Duration::ZERO, &job).into_iter().collect()));
        }
    }

    #[tokio::test]
    async fn what_is_noted_after_a_jobs_end_comes_before_the_streams() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(&folder.path().join("journal.sqlite")).unwrap();
        let (inputs, questions) = mpsc::channel(1);
        let (_changes, changes) = watch::channel(0);
        let (_trouble, trouble) = watch::channel(None);
        tokio::spawn(answer(journal.clone(), 3, questions));
        let folder_url = folder.path().join("store").display().to_string();
        let store_address = ptv2_common::storage::StoreAddress::from(folder_url.as_str());
        let inputs_config = crate::config::InputsConfig::default();
        let cache = folder.path().join("inputs");
        let mirror =
            crate::inputs::Mirror::open(&cache, &inputs_config, store_address.clone()).unwrap();
        let staging = Arc::new(tokio::sync::Semaphore::new(1));
        let edge = Arc::new(Edge {
            upkeep: crate::coordinator::http::Upkeep::default(),
            doors: Doors { inputs, changes: changes.clone(), trouble, staging },
            clock: Steady::start(Duration::ZERO),
            tokens: Tokens::open(folder.path(), &journal, 0).await.unwrap(),
            audit: Audit::open(&journal).await.unwrap(),
            journal,
            store: store_address.open().unwrap(),
            store_address,
            hosts: Hosts::default(),
            gate: Gate::new(&HttpConfig::default()),
            roots: Arc::new(Roots::default()),
            launches: watch::channel(LauncherStatus::default()).1,
            fetches: Fetches::new(HubConfig::default(), Arc::new(mirror)),
            hashes: Arc::new(HashCache::default()),
            sign_of_life: Duration::from_secs(1),
            shutdown: CancellationToken::new(),
        });
        let (job, waiting) = (JobId("j1".into()), VecDeque::new());
        let what = What::Events;
        let mut follower = Follower { edge, job, what, after: 0, waiting, changes, over: false };
        for seq in 1..=3 {
            assert!(follower.next().await.is_some());
            assert_eq!((follower.after, follower.over), (seq, false));
        }
        assert!(follower.next().await.is_some() && follower.over, "`end`");
        assert!(follower.next().await.is_none());
    }
}
