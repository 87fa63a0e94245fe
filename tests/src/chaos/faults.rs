//! The kinds of faults.

use super::cluster::COORDINATOR;
use super::proxy::Node;

/// What is done to the processes and to the network between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// One worker of several, by SIGKILL.
    Kill,
    /// One worker, while another fault lasts and others have found each other again.
    KillMeanwhile,
    /// One worker, while there is no coordinator.
    KillUnattended,
    /// All workers at once.
    KillAll,
    /// SIGSTOP for less than the heartbeat timeout.
    ShortStop,
    /// SIGSTOP for more than it.
    LongStop,
    /// The coordinator, by SIGKILL; started again on the same folder and port.
    Coordinator,
    /// A connection between two workers is reset.
    ResetPeer,
    /// A worker's connection to the coordinator is reset.
    ResetSession,
    /// Bytes do not pass for some seconds.
    Hole(Hole),
}

/// Between whom bytes do not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hole {
    /// Two workers.
    Pair,
    /// From one worker to another.
    OneWay,
    /// A worker and the coordinator.
    Session,
    /// From a worker to the coordinator.
    Up,
    /// From the coordinator to a worker.
    Down,
    /// A worker and everybody else.
    Isolation,
}

impl Kind {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 15] = [
        Self::Kill,
        Self::KillMeanwhile,
        Self::KillUnattended,
        Self::KillAll,
        Self::ShortStop,
        Self::LongStop,
        Self::Coordinator,
        Self::ResetPeer,
        Self::ResetSession,
        Self::Hole(Hole::Pair),
        Self::Hole(Hole::OneWay),
        Self::Hole(Hole::Session),
        Self::Hole(Hole::Up),
        Self::Hole(Hole::Down),
        Self::Hole(Hole::Isolation),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 one worker",
            Self::KillMeanwhile => "  while a fault lasts",
            Self::KillUnattended => "  without coordinator",
            Self::KillAll => "kill -9 all workers",
            Self::ShortStop => "SIGSTOP, short",
            Self::LongStop => "SIGSTOP, long",
            Self::Coordinator => "kill -9 coordinator",
            Self::ResetPeer => "reset worker/worker",
            Self::ResetSession => "reset worker/coord.",
            Self::Hole(Hole::Pair) => "hole worker/worker",
            Self::Hole(Hole::OneWay) => "hole worker>worker",
            Self::Hole(Hole::Session) => "hole worker/coord.",
            Self::Hole(Hole::Up) => "hole worker>coord.",
            Self::Hole(Hole::Down) => "hole coord.>worker",
            Self::Hole(Hole::Isolation) => "hole worker/all",
        }
    }

    /// Whether worker processes die of it.
    pub(crate) fn kills_workers(self) -> bool {
        matches!(self, Self::Kill | Self::KillMeanwhile | Self::KillUnattended | Self::KillAll)
    }
}

impl Hole {
    /// The directions that are cut, of a victim and one of its peers.
    pub(crate) fn directions(self, victim: Node, peer: Node) -> Vec<(Node, Node)> {
        let both = |other: Node| [(victim, other), (other, victim)];
        match self {
            Self::Pair => both(peer).to_vec(),
            Self::OneWay => vec![(victim, peer)],
            Self::Session => both(COORDINATOR).to_vec(),
            Self::Up => vec![(victim, COORDINATOR)],
            Self::Down => vec![(COORDINATOR, victim)],
            Self::Isolation => {
                (0..=COORDINATOR).filter(|other| *other != victim).flat_map(both).collect()
            }
        }
    }

    /// The workers that it hits.
    pub(crate) fn hits(self, victim: Node, peer: Node) -> Vec<Node> {
        match self {
            Self::Pair | Self::OneWay => vec![victim, peer],
            Self::Session | Self::Up | Self::Down | Self::Isolation => vec![victim],
        }
    }
}
