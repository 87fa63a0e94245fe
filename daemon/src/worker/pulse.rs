//! What the device thread is doing, and since when: read by the heartbeat, told to a coordinator that
//! starts again, and written to the pulse file where there is one.

use crate::clock;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::place::{DevicePhase, Moment, Place, PulseRecord};
use ptv2_common::session::{Attached, FromWorker, Stage};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Debug)]
struct Beat {
    serving: Option<(JobId, Generation)>,
    attached: Option<Attached>,
    place: Option<Place>,
    phase: DevicePhase,
    since: Instant,
    backbone_loads: u64,
    speed: Option<f64>,
    moment: Moment,
    uploading: bool,
    updates: u64,
}

/// The device thread's last sign of life.
#[derive(Debug)]
pub(super) struct Pulse {
    beat: Mutex<Beat>,
    file: Option<File>,
}

impl Pulse {
    /// Begins idle. Each change is written to the file, if one is named.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn new(file: Option<&Path>) -> Result<Self, Explained> {
        let beat = Beat {
            serving: None,
            attached: None,
            place: None,
            phase: DevicePhase::Idle,
            since: clock::now(),
            backbone_loads: 0,
            speed: None,
            moment: Moment::Idle,
            uploading: false,
            updates: 0,
        };
        let create = |path: &Path| {
            File::create(path).map_err(|error| {
                Explained::new(format!("the pulse file cannot be made: {error}"))
                    .at(path.display().to_string())
            })
        };
        Ok(Self { beat: Mutex::new(beat), file: file.map(create).transpose()? })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Beat) -> T) -> T {
        let mut beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut beat);
        if let Some(file) = &self.file {
            // Whoever reads it can do without one record.
            drop(file.write_all_at(&beat.record().to_bytes(), 0));
        }
        result
    }

    /// The device thread enters a generation.
    pub(super) fn enters(&self, job: &JobId, generation: Generation) {
        self.with(|beat| {
            beat.serving = Some((job.clone(), generation));
            let (job, stage) = (job.clone(), Stage::Forming);
            beat.attached = Some(Attached { job, generation, stage });
        });
    }

    /// Its part in the generation is further.
    pub(super) fn is(&self, stage: Stage) {
        self.with(|beat| {
            if !matches!(stage, Stage::Forming | Stage::Running) {
                beat.serving = None;
            }
            if let Some(attached) = &mut beat.attached {
                attached.stage = stage;
            }
        });
    }

    /// It has forgotten a job.
    pub(super) fn forgets(&self, job: &JobId) {
        self.with(|beat| drop(beat.attached.take_if(|attached| attached.job == *job)));
    }

    /// It moved: another phase, or another place within it.
    pub(super) fn moved(&self, phase: DevicePhase, place: Option<Place>) {
        self.with(|beat| {
            beat.phase = phase;
            beat.place = place;
            beat.since = clock::now();
            beat.moment = match phase {
                DevicePhase::Idle => Moment::Idle,
                DevicePhase::Loading => Moment::Loading,
                DevicePhase::Joining => Moment::Joining,
                DevicePhase::Stepping => Moment::Forward,
                DevicePhase::Evaluating => Moment::Evaluation,
                DevicePhase::Finishing => Moment::Finishing,
            };
        });
    }

    /// It does something else within a phase.
    pub(super) fn now(&self, moment: Moment) {
        self.with(|beat| beat.moment = moment);
    }

    /// It applied a step.
    pub(super) fn stepped(&self, place: Place) {
        self.with(|beat| {
            beat.place = Some(place);
            beat.updates += 1;
        });
    }

    /// A checkpoint is being written, or no longer.
    pub(super) fn uploading(&self, uploading: bool) {
        self.with(|beat| beat.uploading = uploading);
    }

    /// A backbone was loaded.
    pub(super) fn loaded(&self) {
        self.with(|beat| beat.backbone_loads += 1);
    }

    /// How fast the slices of the job are, or that it is not known for this job.
    pub(super) fn speed(&self, speed: Option<f64>) {
        self.with(|beat| beat.speed = speed);
    }

    /// What this worker is, or was last, a member of.
    pub(super) fn attached(&self) -> Option<Attached> {
        self.with(|beat| beat.attached.clone())
    }

    /// The message that tells the coordinator.
    pub(super) fn heartbeat(&self) -> FromWorker {
        self.with(|beat| FromWorker::Heartbeat {
            serving: beat.serving.clone(),
            place: beat.place,
            phase: beat.phase,
            phase_age_ms: clock::millis(clock::now().saturating_duration_since(beat.since)),
            backbone_loads: beat.backbone_loads,
            speed: beat.speed,
        })
    }
}

impl Beat {
    fn record(&self) -> PulseRecord {
        PulseRecord {
            moment: self.moment,
            uploading: self.uploading,
            generation: self.attached.as_ref().map_or(0, |attached| attached.generation.0),
            step: self.place.map_or(0, |place| place.step),
            updates: self.updates,
        }
    }
}
