//! What is asked of a coordinator to keep its store: to collect what nobody needs, and to take up jobs
//! that a store holds.

use crate::error::Explained;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Collects what nobody needs any more in the artifact store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GcRequest {
    /// Only says what would be deleted.
    pub dry_run: bool,
    /// Goes on where an earlier answer says `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What kind of thing nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrphanKind {
    /// Manifests that a generation wrote after a later one had begun.
    Fenced,
    /// Data objects that no manifest names.
    Data,
    /// All that is left of a job without any checkpoint that nobody knows.
    Leftover,
    /// Tokenized rows that no job needs.
    Features,
    /// What a write that broke off left in a folder.
    Unfinished,
}

/// What was found of one kind in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Orphans {
    /// What it is.
    pub kind: OrphanKind,
    /// The folder in the store.
    pub place: String,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was collected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GcReport {
    /// Whether nothing was deleted.
    pub dry_run: bool,
    /// Orphans by place, at most [`LONGEST_REPORT`] of them.
    pub orphans: Vec<Orphans>,
    /// All orphans, those of places that are not listed, too.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left alone though it may be of no use, and why; at most [`LONGEST_REPORT`] lines.
    pub left: Vec<String>,
    /// Where to go on: an answer takes its time, and a large store takes several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Lines of a report at most.
pub const LONGEST_REPORT: usize = 1000;

impl GcReport {
    /// Counts something that was found.
    pub fn count(&mut self, found: Orphans) {
        self.objects += found.objects;
        self.bytes += found.bytes;
        let is_it = |known: &&mut Orphans| known.kind == found.kind && known.place == found.place;
        if let Some(known) = self.orphans.iter_mut().rev().find(is_it) {
            known.objects += found.objects;
            known.bytes += found.bytes;
        } else if self.orphans.len() < LONGEST_REPORT {
            self.orphans.push(found);
        }
    }

    /// Says what was left alone.
    pub fn leave(&mut self, what: String) {
        if self.left.len() < LONGEST_REPORT {
            self.left.push(what);
        }
    }

    /// Takes the answer that followed this one.
    pub fn join(&mut self, other: Self) {
        let unlisted = |whole: u64, listed: u64| whole.saturating_sub(listed);
        let objects = other.orphans.iter().map(|one| one.objects).sum();
        let bytes = other.orphans.iter().map(|one| one.bytes).sum();
        self.objects += unlisted(other.objects, objects);
        self.bytes += unlisted(other.bytes, bytes);
        other.orphans.into_iter().for_each(|found| self.count(found));
        other.left.into_iter().for_each(|line| self.leave(line));
        self.next = other.next;
    }
}

/// Takes up jobs that a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// The store: the coordinator's own, or one below a root that it allows.
    pub from: String,
    /// Only this job, by its full id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Goes on where an earlier answer says `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What came of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// It is there, as far as its newest good checkpoint.
    Recovered,
    /// It was there already and is left as it is.
    Known,
    /// It cannot be taken up.
    Refused,
}

/// A job of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveredJob {
    /// Its id.
    pub id: String,
    /// Its name, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What came of it.
    pub outcome: Recovery,
    /// Steps of the checkpoint that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Bytes that were copied for it.
    pub copied_bytes: u64,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Explained>,
    /// What was passed over: checkpoints that are damaged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What was recovered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoverReport {
    /// The store's jobs.
    pub jobs: Vec<RecoveredJob>,
    /// Where to go on: an answer takes its time, and a large store takes several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphans(place: &str, bytes: u64) -> Orphans {
        Orphans { kind: OrphanKind::Data, place: place.into(), objects: 1, bytes }
    }

    #[test]
    fn a_report_counts_more_than_it_lists() {
        let mut report = GcReport::default();
        for place in 0..=LONGEST_REPORT {
            report.count(orphans(&place.to_string(), 10));
        }
        report.count(orphans("0", 5));
        assert_eq!((report.orphans.len(), report.orphans[0].bytes), (LONGEST_REPORT, 15));
        assert_eq!((report.objects, report.bytes), (1002, 10_015));
        let mut whole = GcReport::default();
        whole.count(orphans("a", 1));
        whole.join(report.clone());
        whole.join(report);
        assert_eq!((whole.objects, whole.bytes), (2005, 20_031));
        assert_eq!(whole.orphans.len(), LONGEST_REPORT);
    }
}
