//! A worker's numbered reports, kept until the coordinator has them in its journal.

use ptv2_common::session::{Attached, Envelope, FromWorker, Stage};
use std::collections::VecDeque;

/// Reports that are kept at most. Beyond it the oldest report of progress gives way: the journal then
/// lacks some rows of metrics, and training goes on.
const KEPT: usize = 1000;
/// Rows that are joined into one report.
const ROWS: usize = 500;

/// Reports by number.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    /// Number of the last one.
    last: u64,
    /// Oldest first: those that were sent, then those that were not.
    kept: VecDeque<(u64, FromWorker)>,
    /// Those up to this number were sent over the present connection.
    sent: u64,
    /// Those up to this number were sent over any: the coordinator may have them, so they stay as they
    /// are.
    ever_sent: u64,
}

impl Reports {
    /// Leaves a report.
    pub fn put(&mut self, message: FromWorker) {
        if let Some(message) = self.joined(message) {
            self.make_room();
            self.last += 1;
            self.kept.push_back((self.last, message));
        }
    }

    /// Takes the oldest report that was not sent over the present connection. One report of progress is
    /// on its way at a time: while a journal is slow, reports get longer, not more.
    pub fn send(&mut self) -> Option<Envelope> {
        let is_progress = |message: &FromWorker| matches!(message, FromWorker::Progress { .. });
        let (seq, message) = self.kept.iter().find(|(seq, _)| *seq > self.sent)?.clone();
        let mut on_their_way = self.kept.iter().take_while(|(own, _)| *own < seq);
        if is_progress(&message) && on_their_way.any(|(_, one)| is_progress(one)) {
            return None;
        }
        self.sent = seq;
        self.ever_sent = self.ever_sent.max(seq);
        Some(Envelope { seq: Some(seq), message })
    }

    /// The coordinator has those up to this number.
    pub fn taken(&mut self, seq: u64) {
        self.kept.retain(|(own, _)| *own > seq);
    }

    /// A new connection: what was not taken is sent again.
    pub fn again(&mut self) {
        self.sent = 0;
    }

    /// What the worker says of itself when it dials. If it has finished, and that report is still to be
    /// taken, the report will say so, after all others: nothing is taken any more after a job's end.
    pub fn attached(&self, attached: Option<Attached>) -> Option<Attached> {
        let mut attached = attached?;
        let has_finished =
            |(_, one): &(u64, FromWorker)| matches!(one, FromWorker::Finished { .. });
        if matches!(attached.stage, Stage::Finished { .. }) && self.kept.iter().any(has_finished) {
            attached.stage = Stage::Running;
        }
        Some(attached)
    }

    /// Number of the last report.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether the coordinator has everything.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Joins progress to a report of it that waits; gives back every other message.
    fn joined(&mut self, message: FromWorker) -> Option<FromWorker> {
        match (message, self.kept.back_mut()) {
            (
                FromWorker::Progress { job, generation, metrics },
                Some((seq, FromWorker::Progress { job: same, generation: last, metrics: rows })),
            ) if *seq > self.ever_sent
                && job == *same
                && generation == *last
                && rows.len() < ROWS =>
            {
                rows.extend(metrics);
                None
            }
            (message, _) => Some(message),
        }
    }

    fn make_room(&mut self) {
        if self.kept.len() >= KEPT {
            let progress =
                |(_, one): &(u64, FromWorker)| matches!(one, FromWorker::Progress { .. });
            let oldest = self.kept.iter().position(progress).unwrap_or(0);
            self.kept.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::run::tests;
    use ptv2_common::ids::{Generation, JobId};

    fn progress(step: u64) -> FromWorker {
        tests::progress("j", 1, step)
    }

    fn rows(envelope: &Envelope) -> usize {
        let FromWorker::Progress { metrics, .. } = &envelope.message else { panic!() };
        metrics.len()
    }

    #[test]
    fn reports_are_joined_and_bounded() {
        let mut reports = Reports::default();
        reports.put(FromWorker::Draining);
        for step in 0..(ROWS * (KEPT + 5)) as u64 {
            reports.put(progress(step));
        }
        assert_eq!(reports.send().unwrap().message, FromWorker::Draining);
        assert_eq!(rows(&reports.send().unwrap()), ROWS);
        assert_eq!(reports.kept.len(), KEPT);
    }

    #[test]
    fn what_was_not_taken_is_sent_again_with_its_number() {
        let mut reports = Reports::default();
        reports.put(progress(1));
        assert_eq!(reports.send().unwrap().seq, Some(1));
        // Already on its way: the next row is another report.
        reports.put(progress(2));
        reports.put(progress(3));
        assert_eq!(reports.send(), None, "one at a time");
        reports.taken(1);
        let second = reports.send().unwrap();
        assert_eq!((second.seq, rows(&second)), (Some(2), 2));
        // The coordinator may have the second, although its answer was lost.
        reports.again();
        reports.put(progress(4));
        assert_eq!(reports.send().unwrap(), second);
        reports.taken(2);
        assert_eq!(rows(&reports.send().unwrap()), 1);
        reports.taken(3);
        assert!(reports.is_empty());
    }

    #[test]
    fn nothing_is_still_to_be_reported_once_a_worker_says_that_it_has_finished() {
        let mut reports = Reports::default();
        let stage = Stage::Finished { tuned_sha256: "abc".into() };
        let finished = Attached { job: JobId("j".into()), generation: Generation(1), stage };
        reports.put(progress(1));
        let (job, generation) = (finished.job.clone(), finished.generation);
        reports.put(FromWorker::Finished { job, generation, tuned_sha256: "abc".into() });
        reports.put(FromWorker::Draining);
        reports.taken(1);
        let said = reports.attached(Some(finished.clone())).unwrap();
        assert_eq!(said, Attached { stage: Stage::Running, ..finished.clone() });
        reports.taken(2);
        assert_eq!(reports.attached(Some(finished.clone())), Some(finished));
    }
}
