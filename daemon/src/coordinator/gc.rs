//! Collects what nobody needs any more: manifests of generations that were fenced off, data that no
//! manifest names, what is left of jobs that nobody knows, features that no job needs.
//!
//! Manifests go first, then data. What a job that goes on may be about to name is left to its own
//! writer's sweep. Listings are read as they come, so memory does not grow with the store.

#[cfg(test)]
mod tests;
mod unfinished;

use super::run::Standing;
use crate::checkpoint::listing::{age_ms, data_prefix, objects};
use crate::checkpoint::read::{self, Found, Name};
use crate::checkpoint::retention::{GRACE, named};
use crate::clock;
use futures_util::StreamExt;
use object_store::ObjectMeta;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::{checkpoints_prefix, counts};
use ptv2_common::storage::{self, Store};
use ptv2_common::upkeep::{GcReport, OrphanKind, Orphans};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A job that the coordinator does not know may be another's: it is touched when nothing was written of
/// it for so long.
pub const QUIET: Duration = Duration::from_secs(24 * 3600);

/// Objects that are deleted between two looks at whether their job is still over.
const BATCH: usize = 100;

/// What the answer's `next` says where the features come next.
const FEATURES: &str = "features";

/// Features that jobs need, with a turn.
pub type Needed<T> = (BTreeSet<String>, T);

/// Asks the coordinator, and keeps a job from being taken up meanwhile.
pub trait Gate: Sync {
    /// Held while something is deleted.
    type Turn: Send;

    /// What is known of a job now, and a turn in which it does not begin to go on.
    fn turn(
        &self,
        job: &JobId,
    ) -> impl Future<Output = Result<(Option<Standing>, Self::Turn), Explained>> + Send;

    /// The features that jobs need, and a turn in which no job looks for any; nothing while jobs are
    /// looking.
    fn features(
        &self,
    ) -> impl Future<Output = Result<Option<Needed<Self::Turn>>, Explained>> + Send;
}

/// One collection.
pub struct Collector<'a, G> {
    /// The store.
    pub store: &'a Store,
    /// The coordinator.
    pub gate: &'a G,
    /// Where the store is a folder of this machine, that folder.
    pub folder: Option<PathBuf>,
    /// The jobs that the coordinator knows.
    pub known: &'a BTreeMap<JobId, Standing>,
    /// Whether nothing is deleted.
    pub dry_run: bool,
    /// Now, in milliseconds since 1970.
    pub now_unix_ms: u64,
    /// When it ends, wherever it is.
    pub until: Instant,
}

/// Whether a job may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// It goes on, or has just ended.
    No,
    /// It has ended.
    Ended,
    /// Nobody knows it, and nothing was written of it for long.
    Unknown,
}

impl<G: Gate> Collector<'_, G> {
    /// Collects, from where an earlier answer says `next`.
    ///
    /// # Errors
    /// Those of the store. What was deleted by then stays deleted.
    pub async fn run(&self, after: Option<&str>) -> Result<GcReport, Explained> {
        let mut report = GcReport { dry_run: self.dry_run, ..GcReport::default() };
        if after != Some(FEATURES) {
            for folder in folders(self.store, "jobs").await? {
                if after.is_some_and(|after| folder.as_str() <= after) {
                    continue;
                }
                self.job(&JobId(folder.clone()), &mut report).await?;
                if clock::now() >= self.until {
                    report.next = Some(folder);
                    return Ok(report);
                }
            }
        }
        self.features(&mut report).await?;
        self.unfinished(&mut report).await?;
        Ok(report)
    }

    async fn job(&self, job: &JobId, report: &mut GcReport) -> Result<(), Explained> {
        self.fenced(job, report).await?;
        let over = self.over(job).await?;
        if over == Over::No {
            return Ok(());
        }
        let Found { manifests, damaged } = read::found(self.store, job).await?;
        for (key, error) in &damaged {
            report.leave(format!("{key}, and data of job {job}: {error}"));
        }
        if !damaged.is_empty() {
            return Ok(());
        }
        let mut named = named(&manifests);
        let state = self.known.get(job).and_then(|known| known.state_sha256.clone());
        named.extend(state);
        let (kind, folder, grace) = match over {
            Over::Unknown if manifests.is_empty() => {
                (OrphanKind::Leftover, format!("jobs/{job}"), QUIET)
            }
            Over::No | Over::Ended | Over::Unknown => (OrphanKind::Data, data_prefix(job), GRACE),
        };
        let is_orphan = |meta: &ObjectMeta| {
            let is_named = meta.location.filename().is_some_and(|name| named.contains(name));
            !is_named && self.is_older(meta, grace)
        };
        let mut batch = Vec::new();
        let mut listed = objects(self.store, &folder);
        while let Some(meta) = listed.next().await {
            batch.extend(Some(meta?).filter(is_orphan));
            if batch.len() == BATCH {
                let batch = std::mem::take(&mut batch);
                if !self.delete_of(job, (kind, &folder), batch, report).await? {
                    return Ok(());
                }
            }
        }
        self.delete_of(job, (kind, &folder), batch, report).await.map(drop)
    }

    /// Manifests that do not count and never will: generations that have begun do not go back. Those of
    /// a job that goes on are of as little use.
    async fn fenced(&self, job: &JobId, report: &mut GcReport) -> Result<(), Explained> {
        let folder = checkpoints_prefix(job);
        // Before the starts: what is written meanwhile is not looked at.
        let mut found = Vec::new();
        let mut listed = objects(self.store, &folder);
        while let Some(meta) = listed.next().await {
            let meta = meta?;
            found.extend(Name::parse(meta.location.to_string()).map(|name| (name, meta)));
        }
        let starts = read::starts(self.store, job).await?;
        for (name, meta) in found {
            let is_valid = counts(name.step, Generation(name.generation), &starts);
            if !is_valid && self.is_older(&meta, GRACE) {
                self.delete((OrphanKind::Fenced, &folder), &meta, report).await?;
            }
        }
        Ok(())
    }

    async fn over(&self, job: &JobId) -> Result<Over, Explained> {
        if let Some(known) = self.known.get(job) {
            let ended = known.ended_unix_ms;
            let is_over = ended.is_some_and(|at| self.now_unix_ms.saturating_sub(at) > ms(GRACE));
            return Ok(if is_over { Over::Ended } else { Over::No });
        }
        let mut listed = objects(self.store, &format!("jobs/{job}"));
        while let Some(meta) = listed.next().await {
            if !self.is_older(&meta?, QUIET) {
                return Ok(Over::No);
            }
        }
        Ok(Over::Unknown)
    }

    /// Deletes objects of a job, unless it has been taken up meanwhile. Says whether it was not.
    async fn delete_of(
        &self,
        job: &JobId,
        place: (OrphanKind, &str),
        batch: Vec<ObjectMeta>,
        report: &mut GcReport,
    ) -> Result<bool, Explained> {
        if batch.is_empty() {
            return Ok(true);
        }
        let (standing, _turn) = self.gate.turn(job).await?;
        // As it was when its manifests were read.
        if standing.as_ref() != self.known.get(job) {
            report.leave(format!("jobs/{job}: it was taken up meanwhile"));
            return Ok(false);
        }
        for meta in &batch {
            self.delete(place, meta, report).await?;
        }
        Ok(true)
    }

    async fn delete(
        &self,
        (kind, place): (OrphanKind, &str),
        meta: &ObjectMeta,
        report: &mut GcReport,
    ) -> Result<(), Explained> {
        if !self.dry_run {
            let key = meta.location.as_ref();
            let deleted = storage::delete(self.store, key).await;
            deleted.map_err(|error| Explained::from_error(&error).at(key))?;
        }
        report.count(Orphans { kind, place: place.into(), objects: 1, bytes: meta.size });
        Ok(())
    }

    fn is_older(&self, meta: &ObjectMeta, than: Duration) -> bool {
        age_ms(meta, self.now_unix_ms) > ms(than)
    }

    /// Features that no job needs which may go on, neither one that the coordinator knows nor one that
    /// only the store does.
    async fn features(&self, report: &mut GcReport) -> Result<(), Explained> {
        let Some(stored) = self.needed_by_unknown().await? else {
            report
                .leave("features/: what jobs of the store need takes too long to find out".into());
            return Ok(());
        };
        let Some((needed, _turn)) = self.gate.features().await? else {
            report.leave("features/: rows of a job are being staged".into());
            return Ok(());
        };
        for hash in folders(self.store, FEATURES).await? {
            if needed.contains(&hash) || stored.contains(&hash) {
                continue;
            }
            self.feature(&format!("{FEATURES}/{hash}"), report).await?;
            if clock::now() < self.until || report.objects == 0 {
                continue;
            }
            if self.dry_run {
                report.leave("features/: there are more than there was time for".into());
            } else {
                // What was deleted is gone: the next answer begins again with the rest.
                report.next = Some(FEATURES.into());
            }
            return Ok(());
        }
        Ok(())
    }

    /// Writes that broke off with their process.
    async fn unfinished(&self, report: &mut GcReport) -> Result<(), Explained> {
        let Some(root) = self.folder.clone() else { return Ok(()) };
        let (now, dry_run, top) = (self.now_unix_ms, self.dry_run, root.clone());
        let work = move || {
            let mut gone = unfinished::find(&root, now, GRACE);
            // One that is gone already was finished, or deleted, meanwhile.
            gone.retain(|(path, _)| dry_run || std::fs::remove_file(path).is_ok());
            gone
        };
        let gone = tokio::task::spawn_blocking(work).await;
        for (path, bytes) in gone.map_err(|error| Explained::from_error(&error))? {
            let place = path.parent().and_then(|folder| folder.strip_prefix(&top).ok());
            let place = place.map_or_else(String::new, |place| place.display().to_string());
            report.count(Orphans { kind: OrphanKind::Unfinished, place, objects: 1, bytes });
        }
        Ok(())
    }

    async fn feature(&self, folder: &str, report: &mut GcReport) -> Result<(), Explained> {
        let mut manifest = None;
        let mut listed = objects(self.store, folder);
        while let Some(meta) = listed.next().await {
            let meta = meta?;
            if !self.is_older(&meta, GRACE) {
                return Ok(());
            }
            if meta.location.filename() == Some("manifest.json") {
                manifest = Some(meta);
            }
        }
        // Features exist if and only if their manifest does.
        let place = (OrphanKind::Features, folder);
        if let Some(manifest) = &manifest {
            self.delete(place, manifest, report).await?;
        }
        let mut listed = objects(self.store, folder);
        while let Some(meta) = listed.next().await {
            let meta = meta?;
            if manifest.as_ref().is_none_or(|manifest| manifest.location != meta.location) {
                self.delete(place, &meta, report).await?;
            }
        }
        Ok(())
    }

    /// What jobs need that the coordinator does not know and that are not done; nothing where finding
    /// out takes longer than there is time.
    async fn needed_by_unknown(&self) -> Result<Option<BTreeSet<String>>, Explained> {
        let mut needed = BTreeSet::new();
        for folder in folders(self.store, "jobs").await? {
            let job = JobId(folder);
            if self.known.contains_key(&job) {
                continue;
            }
            if clock::now() >= self.until {
                return Ok(None);
            }
            let newest = read::manifests(self.store, &job).await?.pop();
            let newest = newest.map(|(_, manifest)| manifest);
            needed.extend(newest.filter(|one| !one.ends_job()).map(|one| one.features));
        }
        Ok(Some(needed))
    }
}

async fn folders(store: &Store, prefix: &str) -> Result<Vec<String>, Explained> {
    let folders = storage::folders(store, prefix).await;
    folders.map_err(|error| Explained::from_error(&error).at(prefix))
}

fn ms(duration: Duration) -> u64 {
    clock::millis(duration)
}
