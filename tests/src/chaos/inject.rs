//! How each kind of fault is injected: aimed, measured, and healed.

use super::clock::{in_ms, now, pause, unix_ms, within};
use super::cluster::{COORDINATOR, PATIENCE};
use super::faults::{Hole, Kind};
use super::proxy::Node;
use super::pulses::trains;
use super::run::Run;
use super::signals::{is_stopped, signal};
use super::stalls::{Fault, Inside};
use ptv2_common::place::PulseRecord;
use std::time::{Duration, Instant};

/// How long a moment is looked for, also where a step takes a second. Whatever the worker does then is hit.
const AIMING: Duration = Duration::from_secs(15);

/// A time, and the same time by the clock of log lines.
type Time = (Instant, u64);

impl Run {
    /// Injects one fault and sees the job recover; false when the job ended before.
    pub(crate) fn inject(&mut self, kind: Kind) -> bool {
        let Some(training) = self.two_train() else { return false };
        let nodes: Vec<Node> = training.iter().map(|(slot, _)| *slot).collect();
        let victim = nodes[self.rng.usize(..nodes.len())];
        let others: Vec<Node> = nodes.iter().copied().filter(|slot| *slot != victim).collect();
        let peer = others[self.rng.usize(..others.len())];
        match kind {
            // A kill while something lasts is injected along with that.
            Kind::Kill | Kind::KillMeanwhile => self.kill(kind, &nodes, &[]).is_some(),
            Kind::KillUnattended => self.kill_unattended(&nodes),
            Kind::KillAll => self.kill_all(),
            Kind::ShortStop => {
                let time = Duration::from_millis(self.rng.u64(300..1500));
                self.stop(kind, &nodes, time)
            }
            Kind::LongStop => {
                let time = self.heartbeat_timeout + Duration::from_millis(self.rng.u64(500..1500));
                self.stop(kind, &nodes, time)
            }
            Kind::Coordinator => {
                self.kill_coordinator();
                true
            }
            Kind::ResetPeer => self.reset(kind, victim, peer),
            Kind::ResetSession => self.reset(kind, victim, COORDINATOR),
            Kind::Hole(hole) => {
                self.cut(hole, victim, peer);
                true
            }
        }
    }

    /// Waits until two workers train in one generation; nothing when the job has ended before.
    fn two_train(&mut self) -> Option<Vec<(Node, PulseRecord)>> {
        let ready = || {
            self.nest.all_live();
            let training = self.nest.training();
            let is_over = self.nest.watch.highest() >= Some(self.job.total);
            (is_over || training.len() >= 2).then_some((!is_over).then_some(training))
        };
        let found = within(PATIENCE, ready);
        found.unwrap_or_else(|| panic!("no two workers train: {:?}", self.nest.watch.records()))
    }

    /// The place that is wanted next: the rarest one so far, or any.
    fn wanted(&mut self) -> Inside {
        let rarest = Inside::AIMS.into_iter().min_by_key(|one| self.report.killed_inside(*one));
        let any = Inside::AIMS[self.rng.usize(..Inside::AIMS.len())];
        rarest.filter(|_| self.rng.bool()).unwrap_or(any)
    }

    /// Looks without a pause until one of these workers is where it is wanted, and sends it a signal.
    /// Another of them must be in its generation then: who is alone takes with it what it holds.
    /// Nothing when the job ends before.
    fn aim(&mut self, among: &[Node], number: i32) -> Option<(Node, Time)> {
        let wanted = self.wanted();
        let mut order = among.to_vec();
        self.rng.shuffle(&mut order);
        let began = now();
        let victim = loop {
            let read = |slot: &Node| Some((*slot, self.nest.worker(*slot).pulse.read()?));
            let records: Vec<(Node, PulseRecord)> = order.iter().filter_map(read).collect();
            let is_accompanied = |one: &&(Node, PulseRecord)| {
                let by = |other: &(Node, PulseRecord)| {
                    other.0 != one.0 && trains(&other.1) && other.1.generation == one.1.generation
                };
                records.iter().any(by)
            };
            let mut accompanied = records.iter().filter(is_accompanied);
            if let Some((slot, _)) = accompanied.clone().find(|(_, record)| wanted.is_at(record)) {
                break *slot;
            }
            if began.elapsed() > AIMING {
                if let Some((slot, _)) = accompanied.next() {
                    break *slot;
                }
                assert!(began.elapsed() < PATIENCE, "no two of {among:?} train: {records:?}");
            }
            if self.nest.watch.highest() >= Some(self.job.total) {
                return None;
            }
            std::hint::spin_loop();
        };
        let time = (now(), unix_ms());
        signal(self.nest.worker(victim).pid(), number);
        Some((victim, time))
    }

    /// What is known right after a fault at `time`. `hit` are the records of those that it hit, and
    /// `left` the workers that it left alone.
    fn fault(&self, time: Time, hit: Vec<PulseRecord>, left: &[Node]) -> Fault {
        let records = self.nest.records();
        let survivors = records.iter().filter(|(slot, _)| left.contains(slot));
        let survivors = survivors.map(|(_, record)| record.step).max();
        let all = records.iter().map(|(_, record)| record).chain(&hit);
        let generation = all.map(|record| record.generation).max().unwrap_or(0);
        let trained = hit.iter().map(|record| record.step).max();
        let highest = trained.max(survivors).max(self.nest.watch.highest()).unwrap_or(0);
        Fault { at: time.0, unix_ms: time.1, hit, generation, highest, survivors }
    }

    /// Kills one of these workers where it is wanted, and starts another in its place. Whoever is among
    /// `hurt` already is not counted on.
    fn strike(&mut self, kind: Kind, among: &[Node], hurt: &[Node]) -> Option<Fault> {
        let (victim, time) = self.aim(among, libc::SIGKILL)?;
        let mut left = self.nest.occupied();
        left.retain(|slot| *slot != victim && !hurt.contains(slot));
        let mut fault = self.fault(time, Vec::new(), &left);
        let pulse = self.nest.bury(victim);
        fault.hit.extend(pulse.read());
        fault.highest = fault.hit.iter().map(|record| record.step).fold(fault.highest, u64::max);
        self.nest.spawn(victim);
        self.injected(kind, &[victim], fault.clone());
        Some(fault)
    }

    fn kill(&mut self, kind: Kind, among: &[Node], hurt: &[Node]) -> Option<()> {
        let fault = self.strike(kind, among, hurt)?;
        self.recovers(kind, &fault);
        Some(())
    }

    fn kill_unattended(&mut self, among: &[Node]) -> bool {
        self.nest.kill_coordinator();
        let fault = self.strike(Kind::KillUnattended, among, &[]);
        self.nest.restart_coordinator();
        if let Some(fault) = &fault {
            self.recovers(Kind::KillUnattended, fault);
        }
        self.nest.are_registered();
        fault.is_some()
    }

    fn kill_all(&mut self) -> bool {
        let all = self.nest.occupied();
        let Some((first, time)) = self.aim(&all, libc::SIGKILL) else { return false };
        for slot in all.iter().filter(|slot| **slot != first) {
            signal(self.nest.worker(*slot).pid(), libc::SIGKILL);
        }
        let known = self.fault(time, Vec::new(), &[]);
        let pulses: Vec<_> = all.iter().map(|slot| self.nest.bury(*slot)).collect();
        let hit: Vec<PulseRecord> = pulses.iter().filter_map(|pulse| pulse.read()).collect();
        all.iter().for_each(|slot| self.nest.spawn(*slot));
        let fault = Fault { survivors: Some(known.highest), hit, ..known };
        self.injected(Kind::KillAll, &all, fault.clone());
        self.recovers(Kind::KillAll, &fault);
        true
    }

    fn stop(&mut self, kind: Kind, among: &[Node], stands: Duration) -> bool {
        let Some((victim, time)) = self.aim(among, libc::SIGSTOP) else { return false };
        let process = self.nest.worker(victim).pid();
        is_stopped(process);
        let hit: Vec<PulseRecord> = self.nest.worker(victim).pulse.read().into_iter().collect();
        let mut left = self.nest.occupied();
        left.retain(|slot| *slot != victim);
        let fault = self.fault(time, hit, &left);
        self.injected(kind, &[victim], fault.clone());
        self.lasts(&fault, &[victim], stands);
        signal(process, libc::SIGCONT);
        self.recovers(kind, &fault);
        true
    }

    fn kill_coordinator(&mut self) {
        let all = self.nest.occupied();
        let time = (now(), unix_ms());
        self.nest.kill_coordinator();
        let hit = self.nest.training().into_iter().map(|(_, record)| record).collect();
        let fault = self.fault(time, hit, &all);
        self.injected(Kind::Coordinator, &[], fault.clone());
        let down = Duration::from_millis(self.rng.u64(200..2000));
        pause(down);
        let done = self.nest.watch.highest().unwrap_or(0).saturating_sub(fault.highest);
        self.report.coordinator_was_down(fault.at.elapsed(), done);
        self.nest.restart_coordinator();
        self.recovers(Kind::Coordinator, &fault);
        // A kill before they are back would be one without coordinator, which is a kind of its own.
        self.nest.are_registered();
    }

    /// Resets their connections, once they have one; false when the job ends before.
    fn reset(&mut self, kind: Kind, victim: Node, other: Node) -> bool {
        let all = self.nest.occupied();
        let found = within(PATIENCE, || {
            let time = (now(), unix_ms());
            let hit = self.nest.worker(victim).pulse.read();
            if self.nest.network.reset(victim, other) {
                return Some(Some((time, hit)));
            }
            (self.nest.watch.highest() >= Some(self.job.total)).then_some(None)
        });
        let found = found.unwrap_or_else(|| panic!("no connection of {victim} and {other}"));
        let Some((time, hit)) = found else { return false };
        let fault = self.fault(time, hit.into_iter().collect(), &all);
        self.injected(kind, &[victim, other], fault.clone());
        self.recovers(kind, &fault);
        true
    }

    fn cut(&mut self, hole: Hole, victim: Node, peer: Node) {
        let kind = Kind::Hole(hole);
        let hurt = hole.hits(victim, peer);
        let time = (now(), unix_ms());
        self.nest.network.cut(&hole.directions(victim, peer));
        let read = |slot: &Node| self.nest.worker(*slot).pulse.read();
        let hit: Vec<PulseRecord> = hurt.iter().filter_map(read).collect();
        let mut left = self.nest.occupied();
        left.retain(|slot| !hurt.contains(slot));
        // Of a pair one stays, whichever.
        let of_pair = hit.iter().map(|record| record.step).min().filter(|_| hurt.len() == 2);
        let known = self.fault(time, hit, &left);
        let fault = Fault { survivors: known.survivors.max(of_pair), ..known };
        self.injected(kind, &[victim, peer], fault.clone());
        let healed_after = Duration::from_millis(self.rng.u64(4000..6000));
        self.lasts(&fault, &hurt, healed_after);
        self.nest.network.heal();
        self.recovers(kind, &fault);
    }

    /// Lets a fault last. Once the others have gone on, one of them may be killed as well.
    fn lasts(&mut self, fault: &Fault, hurt: &[Node], time: Duration) {
        let until = fault.at + time;
        let mut kills = self.rng.u8(..4) > 0;
        while now() < until {
            self.nest.all_live();
            let training = self.nest.training().into_iter().map(|(slot, _)| slot);
            let whole: Vec<Node> = training.filter(|slot| !hurt.contains(slot)).collect();
            let goes_on = self.nest.watch.first_above(fault.highest).is_some();
            let records = self.nest.records();
            let formed = records.iter().any(|(_, record)| record.generation > fault.generation);
            if kills && goes_on && formed && whole.len() >= 2 {
                kills = self.kill(Kind::KillMeanwhile, &whole, hurt).is_none();
            }
            pause(Duration::from_millis(5));
        }
    }

    /// Waits for the next finished step, and notes how long it took. A job that had no more steps to
    /// come has no stall.
    fn recovers(&mut self, kind: Kind, fault: &Fault) {
        if fault.highest >= self.job.total {
            return;
        }
        let next = || {
            self.nest.all_live();
            self.nest.watch.first_above(fault.highest)
        };
        let next = within(PATIENCE, next);
        let next = next.unwrap_or_else(|| panic!("no step after {kind:?}: {fault:?}"));
        let stall = next.saturating_duration_since(fault.at);
        self.nest.note(&format!("{} {kind:?}: next step after {:.0} ms", unix_ms(), in_ms(stall)));
        self.report.stalled(kind, stall);
    }

    fn injected(&mut self, kind: Kind, who: &[Node], fault: Fault) {
        self.nest.note(&format!("{} {kind:?} of {who:?}: {fault:?}", fault.unix_ms));
        self.report.injected(kind, &fault);
        self.job.faults.push((kind, fault));
    }
}
