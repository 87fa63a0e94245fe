//! Bounds on waits and sizes.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bounds on waits and sizes. Each is a key of the coordinator's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A worker that is silent for this long is lost; peers notice one that is silent towards them after
    /// two thirds of it. Shorter notices a dead host sooner, and takes a busy one for dead more easily. A
    /// coordinator that was started again waits this long for the members of its groups.
    #[serde(with = "crate::config::duration")]
    pub heartbeat_timeout: Duration,
    /// A device thread may load a backbone and features for this long.
    #[serde(with = "crate::config::duration")]
    pub loading_timeout: Duration,
    /// A device thread may wait for its peers, and bring laggards level, for this long.
    #[serde(with = "crate::config::duration")]
    pub joining_timeout: Duration,
    /// A device thread may stay at one step or one evaluation slice for this long.
    #[serde(with = "crate::config::duration")]
    pub step_timeout: Duration,
    /// After a rank reports a lost peer, this long is waited for the peer's own sign of death before
    /// the group is formed anew with both. A job that lost all its workers waits as long for one whose
    /// connection alone was lost.
    #[serde(with = "crate::config::duration")]
    pub blame_grace: Duration,
    /// After this many failures between two workers they are not grouped together; after the first
    /// one already, if the one was silent towards the other.
    pub pair_failures: u32,
    /// A pair that failed too often may meet again after this long.
    #[serde(with = "crate::config::duration")]
    pub pair_cooldown: Duration,
    /// A running group takes in free workers when it has been whole for this long. Longer takes in more
    /// at once.
    #[serde(with = "crate::config::duration")]
    pub growth_delay: Duration,
    /// Jobs that may wait; a submit beyond is refused.
    pub queue_limit: u32,
    /// Jobs that are remembered, ended ones among them; a submit beyond is refused. Each costs some
    /// kilobytes of memory and of the journal.
    pub jobs_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat_timeout: Duration::from_secs(3),
            loading_timeout: Duration::from_secs(600),
            joining_timeout: Duration::from_secs(120),
            step_timeout: Duration::from_secs(600),
            blame_grace: Duration::from_millis(300),
            pair_failures: 3,
            pair_cooldown: Duration::from_secs(60),
            growth_delay: Duration::from_millis(200),
            queue_limit: 10_000,
            jobs_max: 100_000,
        }
    }
}
