//! Names of jobs, workers and generations.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A job: `j` and ten hexadecimal digits, chosen at random by the coordinator.
    JobId
}
text_id! {
    /// A worker process: `w` and ten hexadecimal digits, chosen at random at its start. A process
    /// that starts again is another worker.
    WorkerId
}

/// Grows whenever a job's group changes. Every message of a group carries it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl JobId {
    /// Makes an id from random bytes.
    pub fn from_random(bytes: [u8; 5]) -> Self {
        Self(format!("j{}", hex::encode(bytes)))
    }
}

impl WorkerId {
    /// Makes an id from random bytes.
    pub fn from_random(bytes: [u8; 5]) -> Self {
        Self(format!("w{}", hex::encode(bytes)))
    }
}
