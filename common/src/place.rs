//! How far a rank is, and what its device thread is doing.

use serde::{Deserialize, Serialize};

/// How far a rank is in a job. Ordered: whoever is greater is ahead.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub struct Place {
    /// Optimizer steps applied.
    pub step: u64,
    /// What is done at this step.
    pub phase: PlacePhase,
    /// Evaluation slices done, while evaluating.
    pub evaluation_slice: u32,
}

impl Place {
    /// Which state a rank at this place holds: after so many steps, and whether it is the next run's
    /// first one rather than the last of the run before.
    pub fn state(&self) -> (u64, bool) {
        (self.step, self.phase == PlacePhase::Begun)
    }
}

/// The phases of one step, in order.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PlacePhase {
    /// The step was applied; the next was not begun.
    #[default]
    Applied,
    /// Evaluating the state after this step.
    Evaluating,
    /// The evaluation after this step is complete.
    Evaluated,
    /// The next run's first values were made, where a job has several seeds.
    Begun,
}

/// What a device thread is doing. Each phase has its own bound in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DevicePhase {
    /// Waiting for work.
    Idle,
    /// Loading the backbone or features.
    Loading,
    /// Meeting the other ranks and bringing laggards level.
    Joining,
    /// Computing slices, reducing and updating.
    Stepping,
    /// Evaluating.
    Evaluating,
    /// Writing the final files.
    Finishing,
}

/// What a worker does at this very moment, finer than [`DevicePhase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Waiting for work.
    Idle = 0,
    /// Loading the backbone or features.
    Loading = 1,
    /// Meeting the other ranks and becoming level.
    Joining = 2,
    /// Forward and backward passes of slices.
    Forward = 3,
    /// Exchanging partial sums.
    Reduction = 4,
    /// Clipping and the optimizer.
    Update = 5,
    /// Scoring validation rows.
    Evaluation = 6,
    /// Seeing the last checkpoint into the store.
    Finishing = 7,
}

impl Moment {
    const ALL: [Self; 8] = [
        Self::Idle,
        Self::Loading,
        Self::Joining,
        Self::Forward,
        Self::Reduction,
        Self::Update,
        Self::Evaluation,
        Self::Finishing,
    ];
}

/// The content of a worker's pulse file (`ptv2d worker --pulse-file`): what a process was doing can
/// still be read when it is dead, which the tests of sudden death rest on.
///
/// 32 bytes: moment, 1 while a checkpoint is written, six zeros, then generation, step and updates as
/// little-endian 64-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PulseRecord {
    /// What the device thread does.
    pub moment: Moment,
    /// Whether a checkpoint is being written beside it.
    pub uploading: bool,
    /// The generation that it serves or served last; 0 before the first.
    pub generation: u64,
    /// Optimizer steps applied to the state it holds.
    pub step: u64,
    /// Optimizer updates made by this process, in any job.
    pub updates: u64,
}

impl PulseRecord {
    /// Length of a record in bytes.
    pub const LENGTH: usize = 32;

    /// The file's content.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = self.moment as u8;
        bytes[1] = u8::from(self.uploading);
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.step.to_le_bytes());
        bytes[24..].copy_from_slice(&self.updates.to_le_bytes());
        bytes
    }

    /// Reads a file's content; `None` for what is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LENGTH] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Some(Self {
            moment: *Moment::ALL.get(usize::from(bytes[0]))?,
            uploading: bytes[1] != 0,
            generation: word(8),
            step: word(16),
            updates: word(24),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_record_survives_its_file() {
        for moment in Moment::ALL {
            let record =
                PulseRecord { moment, uploading: true, generation: 3, step: 70, updates: 9 };
            assert_eq!(PulseRecord::from_bytes(&record.to_bytes()), Some(record));
        }
        assert_eq!(PulseRecord::from_bytes(&[9; 32]), None);
        assert_eq!(PulseRecord::from_bytes(&[0; 31]), None);
    }
}
