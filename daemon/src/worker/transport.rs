//! What a generation reduces over: NCCL beside TCP between GPUs, where all ranks can; else TCP alone.

use super::Shared;
use super::held::Exit;
use crate::collective::nccl::{Library, Nccl, Setting, UniqueId};
use crate::collective::tcp::Tcp;
use crate::collective::{BEFORE, Collective};
use crate::cuda;
use crate::device::Compute;
use crate::protocol::transport::{Instead, Made, Offer, Transport, agree, without_id};
use ptv2_common::api::LogLevel;
use ptv2_common::error::Explained;
use ptv2_common::session::{FromWorker, Start};
use ptv2_common::spec::Reduction;

/// What people are told where NCCL was to be expected.
const OVER_TCP: &str = "the ranks reduce over TCP, through host memory, which is slower";

/// Has the ranks agree, once they have met over TCP.
///
/// # Errors
/// Why this rank left: a peer was lost, or a rank wants NCCL and nothing else.
pub(super) fn choose(
    shared: &Shared,
    start: &Start,
    mut tcp: Tcp,
) -> Result<Box<dyn Collective>, Exit> {
    // A group is of one kind of device, so all ranks come here or none does.
    if !may_use_nccl(shared.config.compute, tcp.world()) {
        return Ok(Box::new(tcp));
    }
    let say = |level, message: String| {
        if start.rank == 0 {
            let job = start.job.id.clone();
            shared.outbox.put(FromWorker::Log { job, level, message });
        }
    };
    // All ranks were told the same, so they need not agree.
    if let Some(why) = &start.without_nccl {
        refuse_if_nccl_only(shared.config.transport, why)?;
        say(LogLevel::Warn, format!("{OVER_TCP}: {why}"));
        return Ok(Box::new(tcp));
    }
    let library = Library::find(shared.config.nccl.as_deref());
    let own = offer(shared, library.as_ref());
    let make = || match &library {
        Ok(library) => library.unique_id().map_err(|error| error.to_string()),
        // Its own word would have kept all from it.
        Err(error) => Err(error.to_string()),
    };
    let chosen = settle(&mut tcp, &own, make)?;
    match (chosen, library) {
        (Chosen::Nccl(id), Ok(library)) => {
            let reduction = start.job.spec.training.reduction.unwrap_or_default();
            let setting = Setting {
                library: &library,
                id,
                device: shared.config.compute.torch(),
                reduction,
                within: shared.config.waits.join,
            };
            let group = Nccl::join(tcp, &setting)?;
            let (version, place) = (library.version(), library.place());
            tracing::info!(place, "the ranks reduce over NCCL {version}");
            let how = match reduction {
                Reduction::Ordered => "in order",
                Reduction::Ring => "by a ring",
            };
            say(LogLevel::Info, format!("the ranks reduce over NCCL {version}, {how}"));
            Ok(Box::new(group))
        }
        (Chosen::Tcp { why, is_surprise }, _) => {
            tracing::info!(why, "the ranks reduce over TCP, through host memory");
            if is_surprise {
                say(LogLevel::Warn, format!("{OVER_TCP}: {why}"));
            }
            Ok(Box::new(tcp))
        }
        // Its own word would have kept all from it.
        (Chosen::Nccl(_), Err(error)) => Err(error.into()),
    }
}

/// What this rank reduces over, and all others with it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Chosen {
    /// NCCL, by the id that rank 0 has made.
    Nccl(UniqueId),
    /// TCP, why not NCCL, and whether someone should know.
    Tcp { why: String, is_surprise: bool },
}

/// Has the ranks agree; and only where all want NCCL, rank 0 make the id and tell it over the group: from then on
/// NCCL listens in rank 0's process, and nothing ends that but a communicator.
///
/// # Errors
/// Why this rank left: a peer was lost, or a rank wants NCCL and nothing else, which all ranks find alike.
fn settle(
    tcp: &mut Tcp,
    own: &Offer,
    make: impl FnOnce() -> Result<UniqueId, String>,
) -> Result<Chosen, Exit> {
    let own = serde_json::to_vec(own).map_err(|error| Explained::from_error(&error))?;
    let mut offers: Vec<Offer> = Vec::new();
    for bytes in tcp.all_gather_bytes(BEFORE, &own)? {
        offers.push(serde_json::from_slice(&bytes).map_err(|error| Explained::from_error(&error))?);
    }
    let instead = match agree(&offers) {
        Err(instead) => instead,
        Ok(()) => match made(tcp, make)? {
            Ok(id) => return Ok(Chosen::Nccl(id)),
            Err(why) => without_id(&offers, &why),
        },
    };
    match instead {
        Instead::Tcp { why, is_surprise } => Ok(Chosen::Tcp { why, is_surprise }),
        Instead::Refused { why } => Err(Explained::new(why)
            .at("--transport")
            .hint("make NCCL usable there, or start the workers with --transport auto")
            .into()),
    }
}

/// Where NCCL has failed and is not to be used, a worker that may use nothing else fails the job.
fn refuse_if_nccl_only(wish: Transport, why: &str) -> Result<(), Exit> {
    if wish != Transport::Nccl {
        return Ok(());
    }
    Err(Explained::new(format!("this worker was told to use NCCL only; {why}"))
        .at("--transport")
        .hint("NCCL_DEBUG=INFO shows what NCCL does; or start the workers with --transport auto")
        .into())
}

/// Rank 0 makes the id and tells all ranks, or why there is none.
fn made(
    tcp: &mut Tcp,
    make: impl FnOnce() -> Result<UniqueId, String>,
) -> Result<Result<UniqueId, String>, Exit> {
    let own = if tcp.rank() == 0 {
        let made: Made = make().map(hex::encode);
        serde_json::to_vec(&made).map_err(|error| Explained::from_error(&error))?
    } else {
        Vec::new()
    };
    let said = tcp.all_gather_bytes(BEFORE, &own)?;
    let said = said.first().map_or(&[][..], Vec::as_slice);
    let made: Made = serde_json::from_slice(said).map_err(|error| Explained::from_error(&error))?;
    let id = match made {
        Ok(id) => id,
        Err(why) => return Ok(Err(why)),
    };
    let mut bytes = [0; 128];
    hex::decode_to_slice(&id, &mut bytes)
        .map_err(|_| Explained::new("rank 0 sent an id of NCCL that is none"))?;
    Ok(Ok(bytes))
}

/// Whether so many ranks on these devices may reduce over NCCL: in a build for tests, CPUs too, through a stand-in. A
/// rank alone sends nothing, and sums where its gradients lie, so that no library is opened and no id made for it.
fn may_use_nccl(compute: Compute, world: u32) -> bool {
    let is_usable = match compute {
        Compute::Cuda(_) => true,
        #[cfg(feature = "faults")]
        Compute::Cpu => crate::faults::nccl_on_cpu(),
        #[cfg(not(feature = "faults"))]
        Compute::Cpu => false,
    };
    is_usable && world > 1
}

/// What this rank has.
fn offer(shared: &Shared, library: Result<&Library, &Explained>) -> Offer {
    let host = shared.hello.host.clone();
    let wish = shared.config.transport;
    let mut offer = Offer { host, wish, card: String::new(), nccl: Err(String::new()) };
    if wish == Transport::Tcp {
        return offer;
    }
    offer.nccl = library.map(|library| library.version().0).map_err(|error| {
        let hint = error.hint.as_deref().unwrap_or_default();
        format!("{error}; {hint}")
    });
    match card(shared) {
        Ok(card) => offer.card = card,
        Err(why) => offer.nccl = Err(why),
    }
    offer
}

/// The machine, and where the card is plugged in: what NCCL tells cards apart by.
fn card(shared: &Shared) -> Result<String, String> {
    match shared.config.compute {
        Compute::Cpu => Ok(shared.hello.host.clone()),
        Compute::Cuda(index) => {
            // One of all containers of a machine.
            let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
            let machine =
                machine.map_err(|error| format!("the machine has no boot id: {error}"))?;
            let gpu = cuda::look(index).map_err(|error| error.to_string())?;
            Ok(format!("{}/{}", machine.trim(), gpu.bus))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::AbortHandle;
    use crate::collective::tests::{listeners, spec};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_rank_alone_has_no_use_for_nccl() {
        assert!(!may_use_nccl(Compute::Cuda(0), 1));
        assert!(may_use_nccl(Compute::Cuda(0), 2));
        assert!(!may_use_nccl(Compute::Cpu, 2));
    }

    fn able(rank: u32) -> Offer {
        let (host, card) = (format!("n{rank}"), format!("machine/{rank}"));
        Offer { host, wish: Transport::Auto, card, nccl: Ok(22_809) }
    }

    /// What three ranks come to, each for itself, and how often an id was asked for.
    fn settled(offers: &[Offer], id: &Result<UniqueId, String>) -> (Vec<String>, u32) {
        let listeners = listeners(3);
        let asked = AtomicU32::new(0);
        let one = |rank: u32| {
            let listener = &listeners[rank as usize];
            let spec = spec(&listeners, rank, b"key");
            let mut tcp = listener.join(&spec, &AbortHandle::default()).unwrap();
            let make = || {
                asked.fetch_add(1, Ordering::SeqCst);
                id.clone()
            };
            match settle(&mut tcp, &offers[rank as usize], make) {
                Ok(chosen) => format!("{chosen:?}"),
                Err(Exit::Job(error)) => error.to_string(),
                Err(_) => panic!("rank {rank} left"),
            }
        };
        let found = std::thread::scope(|scope| {
            let ranks = [0, 1, 2].map(|rank| {
                scope.spawn({
                    let one = &one;
                    move || one(rank)
                })
            });
            ranks.map(|rank| rank.join().unwrap())
        });
        (found.into(), asked.load(Ordering::SeqCst))
    }

    #[test]
    fn an_id_is_made_once_all_want_one_and_reaches_all() {
        let offers: Vec<Offer> = (0..3).map(able).collect();
        let (found, asked) = settled(&offers, &Ok([7; 128]));
        assert_eq!(found, vec![format!("{:?}", Chosen::Nccl([7; 128])); 3]);
        assert_eq!(asked, 1);
    }

    /// Each would leave a listener behind.
    #[test]
    fn no_id_is_asked_for_where_the_ranks_reduce_over_tcp() {
        let mut offers: Vec<Offer> = (0..3).map(able).collect();
        offers[2].wish = Transport::Tcp;
        let (found, asked) = settled(&offers, &Ok([7; 128]));
        assert!(found.iter().all(|one| one.contains("rank 2 (n2) was told to use TCP")));
        assert_eq!(asked, 0);
        offers[2] = Offer { nccl: Err("not found".into()), ..able(2) };
        offers[1].wish = Transport::Nccl;
        let (found, asked) = settled(&offers, &Ok([7; 128]));
        assert!(found.iter().all(|one| one.contains("rank 2 (n2) has no NCCL")), "{found:?}");
        assert_eq!(asked, 0);
    }

    #[test]
    fn a_rank_0_that_makes_no_id_is_told_to_all_and_all_do_the_same() {
        let mut offers: Vec<Offer> = (0..3).map(able).collect();
        let failed = Err("no interface".into());
        let (found, asked) = settled(&offers, &failed);
        let why = "rank 0 (n0) could not make NCCL's id: no interface".into();
        let tcp = format!("{:?}", Chosen::Tcp { why, is_surprise: true });
        assert_eq!((found, asked), (vec![tcp; 3], 1));
        offers[2].wish = Transport::Nccl;
        let (found, _) = settled(&offers, &failed);
        let alike = found.iter().all(|one| *one == found[0]);
        assert!(alike && found[0].contains("rank 2 (n2) was told to use NCCL only"), "{found:?}");
        assert!(found[0].contains("no interface"), "{found:?}");
    }
}
