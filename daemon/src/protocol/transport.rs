//! What a generation's ranks reduce over. Each says what it has, and all conclude the same.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a worker was told to reduce over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// NCCL between GPUs where it can be used; else, and on CPUs, TCP.
    #[default]
    Auto,
    /// NCCL, or nothing: a job fails where it cannot be used.
    Nccl,
    /// TCP through host memory, also between GPUs.
    Tcp,
}

/// What a rank has to reduce over, as it says when a generation begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Host name and process id, for people.
    pub host: String,
    /// What it was told.
    pub wish: Transport,
    /// Its card: the machine and where it is plugged in.
    pub card: String,
    /// NCCL's version there, or why there is none.
    pub nccl: Result<i32, String>,
    /// The id that rank 0 has made, in hexadecimal.
    pub id: Option<String>,
}

/// What all ranks reduce over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreed {
    /// NCCL, by this id.
    Nccl {
        /// In hexadecimal.
        id: String,
    },
    /// TCP, and why not NCCL.
    Tcp {
        /// For people.
        why: String,
        /// Whether someone should know, since nobody asked for it.
        is_surprise: bool,
    },
    /// Nothing: a rank wants NCCL only, and this is why it cannot be.
    Refused {
        /// For people.
        why: String,
    },
}

/// Decides, from all ranks' offers, by rank. Every rank decides the same.
pub fn agree(offers: &[Offer]) -> Agreed {
    let ranks = || (0_u32..).zip(offers);
    let name = |rank: u32, offer: &Offer| format!("rank {rank} ({})", offer.host);
    let told_tcp = ranks().find(|(_, offer)| offer.wish == Transport::Tcp);
    let (why, is_surprise) = if let Some((rank, offer)) = told_tcp {
        (format!("{} was told to use TCP", name(rank, offer)), false)
    } else {
        match (obstacle(offers, name), offers.first().and_then(|first| first.id.clone())) {
            (None, Some(id)) => return Agreed::Nccl { id },
            (None, None) => ("rank 0 has made no id".into(), true),
            (Some(why), _) => (why, true),
        }
    };
    match ranks().find(|(_, offer)| offer.wish == Transport::Nccl) {
        Some((rank, offer)) => Agreed::Refused {
            why: format!("{} was told to use NCCL only; {why}", name(rank, offer)),
        },
        None => Agreed::Tcp { why, is_surprise },
    }
}

/// Why these ranks cannot use NCCL, if they cannot.
fn obstacle(offers: &[Offer], name: impl Fn(u32, &Offer) -> String) -> Option<String> {
    let mut cards = BTreeMap::new();
    let mut first = None;
    for (rank, offer) in (0_u32..).zip(offers) {
        let version = match &offer.nccl {
            Ok(version) => *version,
            Err(why) => return Some(format!("{} has no NCCL: {why}", name(rank, offer))),
        };
        let (expected, of) = *first.get_or_insert((version, rank));
        if version != expected {
            let here = name(rank, offer);
            return Some(format!("NCCL is {version} on {here} and {expected} on rank {of}"));
        }
        if let Some(other) = cards.insert(&offer.card, rank) {
            let here = name(rank, offer);
            return Some(format!("{here} and rank {other} share one GPU, which NCCL refuses"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three ranks that can use NCCL, but for what `change` does to the middle one.
    fn with(change: impl FnOnce(&mut Offer)) -> Agreed {
        let mut offers: Vec<Offer> = (0..3)
            .map(|rank| Offer {
                host: format!("n{rank}:7"),
                wish: Transport::Auto,
                card: format!("machine/{rank}"),
                nccl: Ok(22_809),
                id: (rank == 0).then(|| "ab".into()),
            })
            .collect();
        change(&mut offers[1]);
        let text = serde_json::to_string(&offers).unwrap();
        agree(&serde_json::from_str::<Vec<Offer>>(&text).unwrap())
    }

    fn tcp(why: &str, is_surprise: bool) -> Agreed {
        Agreed::Tcp { why: why.into(), is_surprise }
    }

    #[test]
    fn nccl_is_used_where_all_have_it() {
        assert_eq!(with(|_| {}), Agreed::Nccl { id: "ab".into() });
        assert_eq!(with(|one| one.wish = Transport::Nccl), Agreed::Nccl { id: "ab".into() });
    }

    #[test]
    fn else_all_use_tcp_and_say_why() {
        let told = with(|one| one.wish = Transport::Tcp);
        assert_eq!(told, tcp("rank 1 (n1:7) was told to use TCP", false));
        let missing = with(|one| one.nccl = Err("not found".into()));
        assert_eq!(missing, tcp("rank 1 (n1:7) has no NCCL: not found", true));
        let older = with(|one| one.nccl = Ok(22_703));
        assert_eq!(older, tcp("NCCL is 22703 on rank 1 (n1:7) and 22809 on rank 0", true));
        let shared = with(|one| one.card = "machine/0".into());
        let why = "rank 1 (n1:7) and rank 0 share one GPU, which NCCL refuses";
        assert_eq!(shared, tcp(why, true));
    }

    #[test]
    fn whoever_wants_nccl_only_is_not_given_tcp() {
        let refused = with(|one| {
            one.wish = Transport::Nccl;
            one.nccl = Err("not found".into());
        });
        let why = "rank 1 (n1:7) was told to use NCCL only; rank 1 (n1:7) has no NCCL: not found";
        assert_eq!(refused, Agreed::Refused { why: why.into() });
    }
}
