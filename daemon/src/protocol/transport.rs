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
    /// NCCL between several GPUs, or nothing: a job fails where it cannot be used. One alone needs neither.
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
}

/// What becomes of a generation that cannot use NCCL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
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

/// What rank 0 says once the ranks have agreed on NCCL: the id in hexadecimal, or why it could not make one.
pub type Made = Result<String, String>;

/// Decides whether NCCL it is, from all ranks' offers, by rank. Every rank decides the same. Only then is an id made:
/// before, nobody is sure to listen for it.
///
/// # Errors
/// What it is instead.
pub fn agree(offers: &[Offer]) -> Result<(), Instead> {
    let mut ranks = (0_u32..).zip(offers);
    if let Some((rank, offer)) = ranks.find(|(_, offer)| offer.wish == Transport::Tcp) {
        let why = format!("{} was told to use TCP", name(rank, offer));
        return Err(instead(offers, why, false));
    }
    obstacle(offers).map_or(Ok(()), |why| Err(instead(offers, why, true)))
}

/// What it is where all had agreed on NCCL and rank 0 could not make its id. Every rank decides the same.
pub fn without_id(offers: &[Offer], why: &str) -> Instead {
    let maker = offers.first().map_or_else(|| "rank 0".into(), |offer| name(0, offer));
    instead(offers, format!("{maker} could not make NCCL's id: {why}"), true)
}

/// TCP, unless a rank wants NCCL only.
fn instead(offers: &[Offer], why: String, is_surprise: bool) -> Instead {
    match (0_u32..).zip(offers).find(|(_, offer)| offer.wish == Transport::Nccl) {
        Some((rank, offer)) => Instead::Refused {
            why: format!("{} was told to use NCCL only; {why}", name(rank, offer)),
        },
        None => Instead::Tcp { why, is_surprise },
    }
}

/// A rank, as people are told of it.
fn name(rank: u32, offer: &Offer) -> String {
    format!("rank {rank} ({})", offer.host)
}

/// Why these ranks cannot use NCCL, if they cannot.
fn obstacle(offers: &[Offer]) -> Option<String> {
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

    /// Three ranks that can use NCCL.
    fn able() -> Vec<Offer> {
        let one = |rank| Offer {
            host: format!("n{rank}:7"),
            wish: Transport::Auto,
            card: format!("machine/{rank}"),
            nccl: Ok(22_809),
        };
        (0..3).map(one).collect()
    }

    /// What they agree on, but for what `change` does to the middle one.
    fn with(change: impl FnOnce(&mut Offer)) -> Result<(), Instead> {
        let mut offers = able();
        change(&mut offers[1]);
        let text = serde_json::to_string(&offers).unwrap();
        agree(&serde_json::from_str::<Vec<Offer>>(&text).unwrap())
    }

    fn tcp(why: &str, is_surprise: bool) -> Instead {
        Instead::Tcp { why: why.into(), is_surprise }
    }

    #[test]
    fn nccl_is_used_where_all_have_it() {
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|one| one.wish = Transport::Nccl), Ok(()));
    }

    #[test]
    fn else_all_use_tcp_and_say_why() {
        let told = with(|one| one.wish = Transport::Tcp);
        assert_eq!(told, Err(tcp("rank 1 (n1:7) was told to use TCP", false)));
        let missing = with(|one| one.nccl = Err("not found".into()));
        assert_eq!(missing, Err(tcp("rank 1 (n1:7) has no NCCL: not found", true)));
        let older = with(|one| one.nccl = Ok(22_703));
        assert_eq!(older, Err(tcp("NCCL is 22703 on rank 1 (n1:7) and 22809 on rank 0", true)));
        let shared = with(|one| one.card = "machine/0".into());
        let why = "rank 1 (n1:7) and rank 0 share one GPU, which NCCL refuses";
        assert_eq!(shared, Err(tcp(why, true)));
    }

    #[test]
    fn whoever_wants_nccl_only_is_not_given_tcp() {
        let refused = with(|one| {
            one.wish = Transport::Nccl;
            one.nccl = Err("not found".into());
        });
        let why = "rank 1 (n1:7) was told to use NCCL only; rank 1 (n1:7) has no NCCL: not found";
        assert_eq!(refused, Err(Instead::Refused { why: why.into() }));
    }

    #[test]
    fn a_rank_0_that_makes_no_id_is_named_and_the_wishes_hold() {
        let mut offers = able();
        let why = "rank 0 (n0:7) could not make NCCL's id: no interface";
        assert_eq!(without_id(&offers, "no interface"), tcp(why, true));
        offers[2].wish = Transport::Nccl;
        let why = format!("rank 2 (n2:7) was told to use NCCL only; {why}");
        assert_eq!(without_id(&offers, "no interface"), Instead::Refused { why });
    }
}
