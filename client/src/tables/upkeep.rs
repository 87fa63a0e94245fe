//! What was collected in the store, and what was taken up from one.

use super::word;
use crate::render::{bytes, or_dash, table};
use ptv2_common::upkeep::{GcReport, RecoveredJob};

/// What nobody needed, by place.
pub(crate) fn orphans(report: &GcReport) -> String {
    let what = if report.dry_run { "would be deleted" } else { "deleted" };
    let whole = format!("{} objects of {} {what}", report.objects, bytes(report.bytes));
    if report.orphans.is_empty() {
        return whole;
    }
    let row = |kind: String, place: &str, objects: u64, size: u64| {
        vec![kind, place.to_owned(), objects.to_string(), bytes(size)]
    };
    let mut rows: Vec<Vec<String>> = report
        .orphans
        .iter()
        .map(|one| row(word(&one.kind), &one.place, one.objects, one.bytes))
        .collect();
    let listed: u64 = report.orphans.iter().map(|one| one.objects).sum();
    let listed_bytes: u64 = report.orphans.iter().map(|one| one.bytes).sum();
    if listed < report.objects {
        let (objects, size) = (report.objects - listed, report.bytes - listed_bytes);
        rows.push(row("-".into(), "elsewhere", objects, size));
    }
    format!("{}\n{whole}", table(&["kind", "place", "objects", "bytes"], rows))
}

/// What came of each job.
pub(crate) fn recovered(jobs: &[RecoveredJob]) -> String {
    let row = |job: &RecoveredJob| {
        vec![
            job.id.clone(),
            or_dash(job.name.clone()),
            word(&job.outcome),
            or_dash(job.step),
            bytes(job.copied_bytes),
        ]
    };
    table(&["id", "name", "outcome", "step", "copied"], jobs.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::upkeep::{OrphanKind, Orphans};

    #[test]
    fn orphans_are_summed_below_their_places() {
        let mut report = GcReport { dry_run: true, ..GcReport::default() };
        assert_eq!(orphans(&report), "0 objects of 0 B would be deleted");
        let place = "jobs/j1/data".to_owned();
        report.count(Orphans { kind: OrphanKind::Data, place, objects: 2, bytes: 2048 });
        report.objects += 1;
        let text = orphans(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "data  jobs/j1/data  2        2.00 KiB");
        assert!(lines[2].starts_with("-     elsewhere     1"), "{text}");
        assert_eq!(lines[3], "3 objects of 2.00 KiB would be deleted");
    }
}
