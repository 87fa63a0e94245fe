//! What the device thread is doing, and since when: read by the heartbeat.

use crate::clock;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::place::{DevicePhase, Place};
use ptv2_common::session::FromWorker;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Debug)]
struct Beat {
    serving: Option<(JobId, Generation)>,
    place: Option<Place>,
    phase: DevicePhase,
    since: Instant,
    backbone_loads: u64,
}

/// The device thread's last sign of life.
#[derive(Debug)]
pub(super) struct Pulse {
    beat: Mutex<Beat>,
}

impl Default for Pulse {
    fn default() -> Self {
        let beat = Beat {
            serving: None,
            place: None,
            phase: DevicePhase::Idle,
            since: clock::now(),
            backbone_loads: 0,
        };
        Self { beat: Mutex::new(beat) }
    }
}

impl Pulse {
    fn with<T>(&self, change: impl FnOnce(&mut Beat) -> T) -> T {
        change(&mut self.beat.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device thread serves another generation, or none.
    pub(super) fn serve(&self, serving: Option<(JobId, Generation)>) {
        self.with(|beat| beat.serving = serving);
    }

    /// It moved: another phase, or another place within it.
    pub(super) fn moved(&self, phase: DevicePhase, place: Option<Place>) {
        self.with(|beat| {
            beat.phase = phase;
            beat.place = place;
            beat.since = clock::now();
        });
    }

    /// A backbone was loaded.
    pub(super) fn loaded(&self) {
        self.with(|beat| beat.backbone_loads += 1);
    }

    /// The message that tells the coordinator.
    pub(super) fn heartbeat(&self) -> FromWorker {
        self.with(|beat| FromWorker::Heartbeat {
            serving: beat.serving.clone(),
            place: beat.place,
            phase: beat.phase,
            phase_age_ms: clock::millis(clock::now().saturating_duration_since(beat.since)),
            backbone_loads: beat.backbone_loads,
        })
    }
}
