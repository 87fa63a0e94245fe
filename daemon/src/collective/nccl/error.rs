//! Why a call of NCCL failed, or was not made.

use std::fmt::Display;

/// NCCL's version, as it counts: 22809 is 2.28.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i32);

impl Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(all) = self;
        write!(f, "{}.{}.{}", all / 10_000, all / 100 % 100, all % 100)
    }
}

/// A call failed, or was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// The library refused, or reported a failure of what it did beside.
    #[error("{operation} failed on rank {rank}: NCCL says \"{text}\" (code {code}): {last}")]
    Failed {
        /// NCCL's name of the function.
        operation: &'static str,
        /// This rank.
        rank: u32,
        /// What it gave.
        code: i32,
        /// NCCL's text for the code.
        text: String,
        /// The last error of the library, in its own words.
        last: String,
    },
    /// An argument would have been punished.
    #[error("{operation} was not called on rank {rank}: {what}")]
    Argument {
        /// NCCL's name of the function.
        operation: &'static str,
        /// This rank.
        rank: u32,
        /// What was wrong, and what was expected.
        what: String,
    },
    /// The communicator was ended, by this thread or another.
    #[error("{operation} was not called on rank {rank}: its communicator was ended")]
    Ended {
        /// NCCL's name of the function.
        operation: &'static str,
        /// This rank.
        rank: u32,
    },
}
