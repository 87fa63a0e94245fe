//! Keeping the store: collecting what nobody needs, and taking up jobs that a store holds.

use super::jobs::checked;
use super::problem::Refusal;
use super::{Edge, Shared};
use crate::clock;
use crate::coordinator::accept::Roots;
use crate::coordinator::driver::{Question, STAGED_AT_ONCE};
use crate::coordinator::gc::{Collector, Gate};
use crate::coordinator::run::Standing;
use crate::coordinator::{adopt, recover};
use crate::inputs::store_at;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use ptv2_common::ids::JobId;
use ptv2_common::manifest::CheckpointManifest;
use ptv2_common::storage::{self, Store};
use ptv2_common::upkeep::{
    GcReport, GcRequest, LONGEST_REPORT, RecoverReport, RecoverRequest, RecoveredJob, Recovery,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit};

/// How long one answer may take, besides the last thing that was begun.
const LONGEST: Duration = Duration::from_secs(60);
/// How long the end of a staging is waited for before the features are left alone.
const STAGING_PATIENCE: Duration = Duration::from_secs(10);

/// Who keeps the store.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// Held by the one request that does.
    busy: Mutex<()>,
    /// Held while something of a job is deleted, and while a job that has ended is taken up again.
    turn: Arc<Mutex<()>>,
}

impl Upkeep {
    /// Waits until nothing is being deleted; held, nothing is.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    fn begin(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Refusal> {
        self.busy.try_lock().map_err(|_| {
            Refusal::conflict(
                Explained::new("the store is being kept already, by another request")
                    .hint("wait for its end, then ask again"),
            )
        })
    }
}

/// Deletes what nobody needs any more in the artifact store.
#[utoipa::path(post, path = "/v1/gc", request_body = GcRequest,
    responses((status = 200, body = GcReport), (status = 409, body = ptv2_common::api::Problem)),
    security(("token" = ["admin"])))]
pub(super) async fn gc(
    State(edge): State<Shared>,
    body: Result<Json<GcRequest>, JsonRejection>,
) -> Result<Json<GcReport>, Refusal> {
    let Json(request) = body.map_err(|error| Refusal::malformed(error.body_text()))?;
    let _busy = edge.upkeep.begin()?;
    let known = edge.ask(|reply| Question::Standings(None, reply)).await?;
    let collector = Collector {
        store: &edge.store,
        gate: &Coordinator(&edge),
        folder: edge.store_address.folder(),
        known: &known,
        dry_run: request.dry_run,
        now_unix_ms: clock::unix_ms(),
        until: clock::now() + LONGEST,
    };
    let report = collector.run(request.after.as_deref()).await.map_err(Refusal::unavailable)?;
    let (objects, bytes, dry_run) = (report.objects, report.bytes, report.dry_run);
    tracing::info!(objects, bytes, dry_run, "the store was looked through");
    Ok(Json(report))
}

/// The coordinator, as a collector asks it.
struct Coordinator<'a>(&'a Edge);

impl Gate for Coordinator<'_> {
    type Turn = (Option<OwnedMutexGuard<()>>, Option<OwnedSemaphorePermit>);

    async fn turn(&self, job: &JobId) -> Result<(Option<Standing>, Self::Turn), Explained> {
        let turn = self.0.upkeep.turn().await;
        let only = Some(job.clone());
        let known = self.0.ask(|reply| Question::Standings(only, reply)).await;
        let standing = known.map_err(Refusal::into_error)?.remove(job);
        Ok((standing, (Some(turn), None)))
    }

    async fn features(&self) -> Result<Option<(BTreeSet<String>, Self::Turn)>, Explained> {
        let turns = Arc::clone(&self.0.doors.staging).acquire_many_owned(STAGED_AT_ONCE);
        let Ok(Ok(turns)) = tokio::time::timeout(STAGING_PATIENCE, turns).await else {
            return Ok(None);
        };
        // What a staging has found by now is decided before this is answered.
        let known = self.0.ask(|reply| Question::Standings(None, reply)).await;
        let known = known.map_err(Refusal::into_error)?;
        let needed = known.into_values().filter_map(|standing| standing.features).collect();
        Ok(Some((needed, (None, Some(turns)))))
    }
}

/// Takes up jobs that a store holds: the coordinator's own, or another, from which they are copied.
#[utoipa::path(post, path = "/v1/recover", request_body = RecoverRequest,
    responses((status = 200, body = RecoverReport), (status = 422, body = ptv2_common::api::Problem),
        (status = 409, body = ptv2_common::api::Problem)),
    security(("token" = ["admin"])))]
pub(super) async fn recover(
    State(edge): State<Shared>,
    body: Result<Json<RecoverRequest>, JsonRejection>,
) -> Result<Json<RecoverReport>, Refusal> {
    let Json(request) = body.map_err(|error| Refusal::malformed(error.body_text()))?;
    let source = source(&edge, &request.from).await?;
    let _busy = edge.upkeep.begin()?;
    let until = clock::now() + LONGEST;
    let mut report = RecoverReport::default();
    for id in jobs(source.store(&edge), &request).await? {
        if clock::now() >= until || report.jobs.len() >= LONGEST_REPORT {
            report.next = report.jobs.last().map(|job| job.id.clone());
            break;
        }
        report.jobs.push(taken_up(&edge, &source, &request.from, id).await?);
    }
    Ok(Json(report))
}

/// Where jobs are taken from.
enum Source {
    /// The coordinator's own store.
    Own,
    /// Another.
    Other(Store),
}

impl Source {
    fn store<'a>(&'a self, edge: &'a Edge) -> &'a Store {
        match self {
            Self::Own => &edge.store,
            Self::Other(store) => store,
        }
    }
}

/// Opens the store that is named, if it may be read.
async fn source(edge: &Edge, from: &str) -> Result<Source, Refusal> {
    if from == edge.store_address.url {
        return Ok(Source::Own);
    }
    let (roots, from, own) = (edge.roots.with(None), from.to_owned(), edge.store_address.clone());
    let open = move || {
        let real = |place: &str| storage::local_path(place).ok()?.canonicalize().ok();
        if real(&from).is_some_and(|from| real(&own.url) == Some(from)) {
            return Ok(Source::Own);
        }
        if let Some(url) = roots.store_url("from", &from)? {
            return Ok(Source::Other(store_at(&own, &url).open()?));
        }
        let folder = roots.admit("from", &from)?;
        if !folder.path().is_dir() {
            return Err(Explained::new("there is no store").at(from).expected("a folder"));
        }
        Ok(Source::Other(own.beside(&folder.path().display().to_string()).open()?))
    };
    checked(open).await
}

/// Ids of the jobs that are asked for, in order.
async fn jobs(store: &Store, request: &RecoverRequest) -> Result<Vec<JobId>, Refusal> {
    let is_id = |text: &str| {
        let digits = text.strip_prefix('j').unwrap_or_default();
        digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if let Some(job) = &request.job {
        if !is_id(job) {
            let error = Explained::new(format!("`{job}` is no full job id")).at("job");
            return Err(Refusal::spec(error.expected("`j` and ten hexadecimal digits")));
        }
        return Ok(vec![JobId(job.clone())]);
    }
    let folders = storage::folders(store, "jobs").await;
    let folders = folders
        .map_err(|error| Refusal::unavailable(Explained::from_error(&error).at(&request.from)))?;
    let is_asked = |id: &String| is_id(id) && request.after.as_ref().is_none_or(|after| id > after);
    Ok(folders.into_iter().filter(is_asked).map(JobId).collect())
}

/// Takes a job up, and says what came of it.
async fn taken_up(
    edge: &Edge,
    source: &Source,
    from: &str,
    id: JobId,
) -> Result<RecoveredJob, Refusal> {
    let mut job = RecoveredJob {
        id: id.to_string(),
        name: None,
        outcome: Recovery::Known,
        step: None,
        copied_bytes: 0,
        error: None,
        notes: Vec::new(),
    };
    let only = Some(id.clone());
    if edge.ask(|reply| Question::Standings(only, reply)).await?.contains_key(&id) {
        return Ok(job);
    }
    job.outcome = Recovery::Refused;
    let newest = match recover::newest(source.store(edge), &id).await {
        Ok(newest) => newest,
        Err(error) => return Ok(RecoveredJob { error: Some(error), ..job }),
    };
    let Some(newest) = newest else {
        let error = Explained::new(format!("the store holds no checkpoint of job {id}")).at(from);
        let hint = "a job without a checkpoint is submitted again";
        return Ok(RecoveredJob { error: Some(error.hint(hint)), ..job });
    };
    job.name = Some(newest.job.name.clone());
    if let Err(error) = entered(edge, source, from, &newest, &mut job).await {
        job.error = Some(error);
    }
    Ok(job)
}

async fn entered(
    edge: &Edge,
    source: &Source,
    from: &str,
    newest: &CheckpointManifest,
    job: &mut RecoveredJob,
) -> Result<(), Explained> {
    let id = &newest.job.id;
    if let Source::Other(store) = source {
        // What is done is only read, and applied by jobs that are checked themselves.
        if !newest.ends_job() {
            check(edge, newest).await?;
        }
        let brought = recover::bring(store, &edge.store, id).await?;
        (job.copied_bytes, job.notes) = (brought.bytes, brought.notes);
    }
    let _turn = edge.upkeep.turn().await;
    let found = adopt::one(&edge.store, id.clone()).await?.ok_or_else(|| {
        Explained::new(format!("no checkpoint of job {id} is good: files are missing or damaged"))
            .at(from)
    })?;
    let (step, found) = (found.checkpoint.step, Box::new(found));
    let from = from.to_owned();
    let status = edge.ask(|reply| Question::Adopt(found, from, reply)).await;
    status.map_err(Refusal::into_error)??;
    (job.outcome, job.step) = (Recovery::Recovered, Some(step));
    Ok(())
}

/// Refuses a job that may not go on here.
async fn check(edge: &Edge, newest: &CheckpointManifest) -> Result<(), Explained> {
    let record = newest.job.clone();
    let cache = match record.backbone.hub.as_deref().map(HubId::of).transpose()?.flatten() {
        None => None,
        Some(id) => match edge.fetches.of_hub(&id).await? {
            Ok(fetched) => Some(Roots { allowed: vec![fetched.cache], ..Roots::default() }),
            Err(_) => {
                let error = Explained::new(format!("its backbone {id} is being fetched"));
                return Err(error.hint("recover it again in a while"));
            }
        },
    };
    let roots = edge.roots.with(None);
    let check = move || recover::check(&record, &roots, cache.as_ref());
    checked(check).await.map_err(Refusal::into_error)
}
