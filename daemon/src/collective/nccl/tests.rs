//! NCCL through the stand-in for its library; the conformance suite runs on it, too.

mod alone;
mod calls;
mod processes;
mod real;

use super::{Nccl, Setting};
use crate::collective::Collective;
use crate::collective::tcp::Tcp;
use ptv2_common::spec::Reduction;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tch::Device;

pub(super) use super::library::Library;

/// The stand-in, which the C compiler makes from `tests/nccl-stand-in`.
fn stand_in() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/nccl-stand-in.sh");
        let run = Command::new(script).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap().trim().into()
    })
}

/// Has the ranks that met over TCP meet over NCCL as well.
fn join(mut tcp: Tcp, reduction: Reduction, within: Duration) -> super::Result<Nccl> {
    let library = Library::find(Some(stand_in())).unwrap();
    let own = if tcp.rank() == 0 { library.unique_id().unwrap().to_vec() } else { Vec::new() };
    let ids = tcp.all_gather_bytes(0, &own)?;
    let id = *ids[0].first_chunk().unwrap();
    let device = Device::Cpu;
    Nccl::join(tcp, &Setting { library: &library, id, device, reduction, within })
}

/// What the conformance suite runs on.
pub(crate) fn over(tcp: Tcp) -> Box<dyn Collective> {
    Box::new(join(tcp, Reduction::Ordered, Duration::from_secs(20)).unwrap())
}
