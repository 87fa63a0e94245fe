//! What a generation reduces over: NCCL beside TCP between GPUs, where all ranks can; else TCP alone.

use super::Shared;
use super::held::Exit;
use crate::collective::Collective;
use crate::collective::nccl::{Library, Nccl, Setting};
use crate::collective::tcp::Tcp;
use crate::cuda;
use crate::device::Compute;
use crate::protocol::transport::{Agreed, Offer, Transport, agree};
use ptv2_common::api::LogLevel;
use ptv2_common::error::Explained;
use ptv2_common::session::{FromWorker, Start};
use ptv2_common::spec::Reduction;

/// The step that messages before the first step carry.
const BEFORE: u64 = u64::MAX;

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
    if !may_use_nccl(shared.config.compute) {
        return Ok(Box::new(tcp));
    }
    if let Some(why) = &start.without_nccl {
        return without_nccl(shared, start, why).map(|()| Box::new(tcp) as Box<dyn Collective>);
    }
    let library = Library::find(shared.config.nccl.as_deref());
    let own = offer(shared, start.rank, library.as_ref());
    let own = serde_json::to_vec(&own).map_err(|error| Explained::from_error(&error))?;
    let mut offers: Vec<Offer> = Vec::new();
    for bytes in tcp.all_gather_bytes(BEFORE, &own)? {
        offers.push(serde_json::from_slice(&bytes).map_err(|error| Explained::from_error(&error))?);
    }
    let say = |level, message: String| {
        if start.rank == 0 {
            let job = start.job.id.clone();
            shared.outbox.put(FromWorker::Log { job, level, message });
        }
    };
    match (agree(&offers), library) {
        (Agreed::Nccl { id }, Ok(library)) => {
            let reduction = start.job.spec.training.reduction.unwrap_or_default();
            let mut bytes = [0; 128];
            hex::decode_to_slice(&id, &mut bytes)
                .map_err(|_| Explained::new("rank 0 sent an id of NCCL that is none"))?;
            let setting = Setting {
                library: &library,
                id: bytes,
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
        (Agreed::Tcp { why, is_surprise }, _) => {
            tracing::info!(why, "the ranks reduce over TCP, through host memory");
            if is_surprise {
                say(LogLevel::Warn, format!("{OVER_TCP}: {why}"));
            }
            Ok(Box::new(tcp))
        }
        (Agreed::Refused { why }, _) => Err(Explained::new(why)
            .at("--transport")
            .hint("make NCCL usable there, or start the workers with --transport auto")
            .into()),
        // Its own word would have kept all from it.
        (Agreed::Nccl { .. }, Err(error)) => Err(error.into()),
    }
}

/// All ranks were told the same, so they need not agree.
fn without_nccl(shared: &Shared, start: &Start, why: &str) -> Result<(), Exit> {
    if shared.config.transport == Transport::Nccl {
        return Err(Explained::new(format!("this worker was told to use NCCL only; {why}"))
            .at("--transport")
            .hint(
                "NCCL_DEBUG=INFO shows what NCCL does; or start the workers with --transport auto",
            )
            .into());
    }
    if start.rank == 0 {
        let (job, level) = (start.job.id.clone(), LogLevel::Warn);
        let message = format!("{OVER_TCP}: {why}");
        shared.outbox.put(FromWorker::Log { job, level, message });
    }
    Ok(())
}

/// Whether these devices may reduce over NCCL: in a build for tests, CPUs too, through a stand-in.
fn may_use_nccl(compute: Compute) -> bool {
    match compute {
        Compute::Cuda(_) => true,
        #[cfg(feature = "faults")]
        Compute::Cpu => crate::faults::nccl_on_cpu(),
        #[cfg(not(feature = "faults"))]
        Compute::Cpu => false,
    }
}

/// What this rank has.
fn offer(shared: &Shared, rank: u32, library: Result<&Library, &Explained>) -> Offer {
    let host = shared.hello.host.clone();
    let wish = shared.config.transport;
    let mut offer = Offer { host, wish, card: String::new(), nccl: Err(String::new()), id: None };
    if wish == Transport::Tcp {
        return offer;
    }
    offer.nccl = library.map(|library| library.version().0).map_err(|error| {
        let hint = error.hint.as_deref().unwrap_or_default();
        format!("{error}; {hint}")
    });
    match (card(shared), library) {
        (Err(why), _) => offer.nccl = Err(why),
        (Ok(card), Ok(library)) if rank == 0 => {
            offer.card = card;
            match library.unique_id() {
                Ok(id) => offer.id = Some(hex::encode(id)),
                Err(error) => offer.nccl = Err(error.to_string()),
            }
        }
        (Ok(card), _) => offer.card = card,
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
