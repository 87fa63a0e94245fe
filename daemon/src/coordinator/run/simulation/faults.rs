//! What goes wrong, by chance.

use super::device::Stage;
use super::worker::Break;
use super::world::{Ask, Cuts, End, Happening, World, between, millis};
use ptv2_common::ids::{JobId, WorkerId};
use std::time::Duration;

impl World {
    /// A worker's process is gone. Its connection's end is seen soon, or not at all.
    pub(super) fn end_worker(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.remove(id) else { return };
        self.note(|| format!("{id} ends"));
        if let Some(connection) = worker.connection
            && self.rng.u32(0..4) != 0
        {
            let after = between(&mut self.rng, 1, 500);
            self.push(after, Happening::Closed { worker: id.clone(), connection });
        }
    }

    /// A worker dies in the midst of what it does.
    fn kill(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        let (moment, uploads) = (worker.moment(), worker.uploads);
        self.count(match moment {
            "loading" => "killed while loading",
            "joining" | "levelling" => "killed while joining",
            "a forward pass" => "killed in a forward pass",
            "a reduction" => "killed in a reduction",
            "an update" => "killed in an update",
            "an evaluation" => "killed in an evaluation",
            "the end" => "killed at the end",
            _ => "killed while idle",
        });
        if uploads > 0 {
            self.count("killed in an upload");
        }
        self.end_worker(id);
    }

    fn any_worker(&mut self) -> Option<WorkerId> {
        let count = self.workers.len();
        (count > 0)
            .then(|| self.rng.usize(0..count))
            .and_then(|nth| self.workers.keys().nth(nth).cloned())
    }

    fn any_job(&mut self) -> JobId {
        JobId(format!("j{}", self.rng.u64(1..=self.jobs)))
    }

    pub(super) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let mut after = between(&mut self.rng, 200, 4_000);
        if self.rng.u32(0..8) == 0 {
            self.count("two in a row");
            after = between(&mut self.rng, 1, 200);
        }
        self.push(after, Happening::Fault);
        let long = between(&mut self.rng, 100, 16_000);
        match self.rng.u32(0..24) {
            0 if self.jobs < 6 => self.submit(),
            1 => {
                let job = self.any_job();
                self.push(millis(1), Happening::Ask(Ask::Cancel(job)));
            }
            2 | 3 => {
                let job = self.any_job();
                self.push(millis(1), Happening::Ask(Ask::Retry(job)));
            }
            4..=8 if self.workers.len() < 7 => self.spawn(),
            9 => {
                self.count("died in peace");
                self.kill_coordinator();
            }
            10 => {
                let until = self.now + long / 2;
                self.note(|| format!("the coordinator stalls until {until:?}"));
                if let Some(coordinator) = &mut self.coordinator {
                    coordinator.stalled_until = until;
                }
            }
            11 => {
                self.note(|| format!("the store fails for {long:?}"));
                self.count("the store failed");
                self.store.fails = true;
                self.push(long, Happening::StoreAnswers);
            }
            12..=16 => self.fault_of_a_path(long),
            kind => self.fault_of_a_worker(kind, long),
        }
    }

    fn fault_of_a_worker(&mut self, kind: u32, long: Duration) {
        let Some(id) = self.any_worker() else { return };
        let until = self.now + long;
        self.note(|| format!("fault {kind} of {id} for {long:?}"));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match kind {
            17 | 18 => self.kill(&id),
            19 => {
                worker.stopped_until = until;
                self.count("a worker was stopped");
            }
            20 => worker.hung_until = until,
            21 => {
                if let Some(connection) = worker.connection {
                    self.push(millis(1), Happening::Cut { worker: id.clone(), connection });
                    if self.rng.bool() {
                        self.push(millis(2), Happening::Closed { worker: id, connection });
                    }
                }
            }
            22 => {
                let kinds = [Break::Job, Break::Transport, Break::Device];
                worker.breaks = self.rng.choice(kinds);
            }
            _ => self.push(millis(1), Happening::Ask(Ask::Drain(id))),
        }
    }

    /// A path carries nothing for a while: between two workers, between a worker and the coordinator, or
    /// all of a worker's; in both directions or in one.
    fn fault_of_a_path(&mut self, long: Duration) {
        let (Some(one), Some(other)) = (self.any_worker(), self.any_worker()) else { return };
        let until = self.now + long;
        let (near, far) = (End::Worker(one.clone()), End::Worker(other));
        let (kind, ends) = match self.rng.u32(0..6) {
            0 => ("a pair was parted", vec![(near.clone(), far.clone()), (far, near)]),
            1 => ("a pair was parted one way", vec![(near, far)]),
            2 => {
                let ends = [(near.clone(), End::Coordinator), (End::Coordinator, near)];
                ("a worker lost the coordinator's path", ends.to_vec())
            }
            3 => ("a worker was not heard", vec![(near, End::Coordinator)]),
            4 => ("a worker heard nothing", vec![(End::Coordinator, near)]),
            _ => {
                let others = self.workers.keys().filter(|id| **id != one).cloned();
                let others = others.map(End::Worker).chain([End::Coordinator]);
                let both = |far: End| [(near.clone(), far.clone()), (far, near.clone())];
                ("a worker was cut off", others.flat_map(both).collect())
            }
        };
        self.note(|| format!("{kind} for {long:?}: {ends:?}"));
        self.count(kind);
        self.cuts.extend(ends.into_iter().map(|ends| (ends, until)).collect::<Cuts>());
    }

    /// A bit of some rank's state flips, while nothing else goes wrong and others hold the state too.
    pub(super) fn flip(&mut self) {
        let candidates: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| {
                worker.group.as_ref().is_some_and(|group| {
                    group.start.members.len() > 1
                        && matches!(group.stage, Stage::Forward | Stage::Evaluating)
                })
            })
            .map(|(id, _)| id.clone())
            .collect();
        let Some(id) = self.rng.choice(candidates) else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Some((_, Some(standing))) = &mut worker.held {
            standing.state ^= 1;
            self.count("a bit flipped");
            self.note(|| format!("a bit of {id} flips"));
        }
    }
}
