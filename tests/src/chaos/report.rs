//! What a run has found, as a table.

use super::faults::Kind;
use super::stalls::{Fault, Inside, Times};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What is known of one kind of fault.
#[derive(Debug, Clone, Default)]
struct Row {
    injected: u64,
    inside: BTreeMap<Inside, u64>,
    steps_lost: u64,
    most_lost: u64,
    stalls: Times,
    gaps: Times,
}

/// What is known of the coordinator's kills.
#[derive(Debug, Clone, Default)]
struct Down {
    steps: Vec<u64>,
    time: Duration,
}

/// All that a run counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    rows: BTreeMap<Kind, Row>,
    down: Down,
    jobs: u64,
    generations: u64,
    /// Median time of a step in the undisturbed job, and that job's hash.
    pub(crate) step_time: Duration,
    pub(crate) reference: String,
    /// Rows of a step.
    pub(crate) batch: u64,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

impl Report {
    /// A fault was injected.
    pub(crate) fn injected(&mut self, kind: Kind, fault: &Fault) {
        let row = self.rows.entry(kind).or_default();
        row.injected += 1;
        for inside in fault.hit.iter().flat_map(Inside::of) {
            *row.inside.entry(inside).or_default() += 1;
        }
    }

    /// What a fault cost: steps, and the longest time that nothing was finished until the next one.
    pub(crate) fn cost(&mut self, kind: Kind, lost: u64, gap: Duration) {
        let row = self.rows.entry(kind).or_default();
        row.steps_lost += lost;
        row.most_lost = row.most_lost.max(lost);
        row.gaps.add(gap);
    }

    /// The next step after a fault was finished.
    pub(crate) fn stalled(&mut self, kind: Kind, stall: Duration) {
        self.rows.entry(kind).or_default().stalls.add(stall);
    }

    /// Training went on, or did not, while the coordinator was down.
    pub(crate) fn coordinator_was_down(&mut self, time: Duration, steps: u64) {
        self.down.time += time;
        self.down.steps.push(steps);
    }

    /// A job has ended as it must.
    pub(crate) fn job(&mut self, generations: u64) {
        self.jobs += 1;
        self.generations += generations;
    }

    /// Faults of a kind so far.
    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.rows.get(&kind).map_or(0, |row| row.injected)
    }

    /// How often a worker was killed inside each place.
    pub(crate) fn killed_inside(&self, inside: Inside) -> u64 {
        let kills = self.rows.iter().filter(|(kind, _)| kind.kills_workers());
        kills.filter_map(|(_, row)| row.inside.get(&inside)).sum()
    }

    /// Steps that were done again although a worker that the fault left alone held them.
    pub(crate) fn lost(&self) -> u64 {
        let kinds = self.rows.iter().filter(|(kind, _)| **kind != Kind::KillAll);
        kinds.map(|(_, row)| row.steps_lost).sum()
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        let insides = ["fwd", "reduce", "update", "eval", "upload", "else"];
        let times = ["p50", "p95", "p99", "max"];
        writeln!(
            table,
            "{:22}{:>6} |{} |{:>6}{:>7} | stall ms{} |  gap ms{:>6}{:>7}",
            "fault",
            "n",
            insides.map(|name| format!("{name:>7}")).concat(),
            "steps",
            "rows",
            times.map(|name| format!("{name:>7}")).concat(),
            "p50",
            "max",
        )
        .unwrap();
        for (kind, row) in Kind::ALL.iter().filter_map(|kind| Some((kind, self.rows.get(kind)?))) {
            let inside = |one: Inside| row.inside.get(&one).copied().unwrap_or(0);
            let all = Inside::AIMS.into_iter().chain([Inside::Elsewhere]);
            let stalls = [0.5, 0.95, 0.99, 1.0].map(|share| row.stalls.quantile_ms(share));
            writeln!(
                table,
                "{:22}{:>6} |{} |{:>6}{:>7} | n={:<5} {} |       {:>7.0}{:>7.0}",
                kind.name(),
                row.injected,
                all.map(|one| format!("{:>7}", inside(one))).collect::<String>(),
                row.steps_lost,
                row.steps_lost * self.batch,
                row.stalls.count(),
                stalls.map(|ms| format!("{ms:>7.0}")).concat(),
                row.gaps.quantile_ms(0.5),
                row.gaps.quantile_ms(1.0),
            )
            .unwrap();
        }
        self.summary(&mut table);
        table
    }

    fn summary(&self, table: &mut String) {
        // A step under way may still end after the fault, so of those that last the gaps count as well.
        let kill = self.rows.get(&Kind::Kill).map_or(0.0, |row| row.stalls.quantile_ms(0.99));
        let lasting = |kind| matches!(kind, Kind::ShortStop | Kind::LongStop | Kind::Hole(_));
        let p99 = |row: &Row| row.stalls.quantile_ms(0.99).max(row.gaps.quantile_ms(0.99));
        let lasting = self.rows.iter().filter(|(kind, _)| lasting(**kind)).map(|(_, row)| p99(row));
        let lasting = lasting.fold(0.0, f64::max);
        writeln!(
            table,
            "p99 of a kill {kill:.0} ms (to reach: 1000 and a step), of the worst stop or hole {lasting:.0} ms (to reach: 4000)"
        )
        .unwrap();
        let killed =
            Inside::AIMS.map(|inside| format!("{inside:?} {}", self.killed_inside(inside)));
        writeln!(table, "workers killed inside: {}", killed.join(", ")).unwrap();
        if let Some(row) = self.rows.get(&Kind::KillAll) {
            writeln!(
                table,
                "all workers killed: {} steps computed again from checkpoints, at most {} at once",
                row.steps_lost, row.most_lost
            )
            .unwrap();
        }
        let (times, steps) = (self.down.steps.len(), &self.down.steps);
        writeln!(
            table,
            "coordinator killed: {times} times, down for {:.1} s; steps done meanwhile: {} (least {})",
            self.down.time.as_secs_f64(),
            steps.iter().sum::<u64>(),
            steps.iter().min().copied().unwrap_or(0),
        )
        .unwrap();
        writeln!(
            table,
            "steps lost that a worker held which was left alone: {} ({} rows)",
            self.lost(),
            self.lost() * self.batch
        )
        .unwrap();
        writeln!(
            table,
            "{} jobs in {} generations, each ended with {}; an undisturbed step takes {:.1} ms",
            self.jobs,
            self.generations,
            &self.reference[..12.min(self.reference.len())],
            self.step_time.as_secs_f64() * 1e3,
        )
        .unwrap();
    }
}
