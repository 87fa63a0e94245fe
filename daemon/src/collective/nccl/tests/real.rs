//! The real library, where one lies on this machine: without a GPU it loads, makes ids, and says why it cannot
//! connect.

use super::super::{Communicator, State};
use super::Library;
use crate::clock;
use std::path::PathBuf;
use std::time::Duration;
use tch::Device;

/// Where PyTorch's package of NCCL lies, as `make venv` brings it.
fn place() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    let versions = PathBuf::from(home).join(".cache/ptv2/venv/lib").read_dir().ok()?;
    let inside = "site-packages/nvidia/nccl/lib/libnccl.so.2";
    versions.flatten().map(|version| version.path().join(inside)).find(|path| path.exists())
}

#[test]
fn the_real_library_loads_and_explains_itself_without_a_gpu() {
    let Some(place) = place() else {
        println!("skipped: no libnccl.so.2 under ~/.cache/ptv2/venv; `make venv` brings one");
        return;
    };
    let library = Library::find(Some(&place)).unwrap();
    assert!(library.version().to_string().starts_with("2."), "{}", library.version());
    let id = library.unique_id().unwrap();
    assert!(id.iter().any(|byte| *byte != 0));
    assert_ne!(id, library.unique_id().unwrap());
    if crate::cuda::count().is_ok() {
        println!("skipped: what it says without a GPU, since there is one");
        return;
    }
    let deadline = clock::now() + Duration::from_secs(20);
    let said = match Communicator::begin(&library, &id, (0, 1), Device::Cpu) {
        Err(error) => error,
        Ok(begun) => loop {
            match begun.state() {
                Err(error) => break error,
                Ok(State::Ready) => panic!("it connects without a GPU"),
                Ok(State::InProgress) => assert!(clock::now() < deadline, "no answer"),
            }
            std::thread::yield_now();
        },
    };
    let said = said.to_string();
    println!("{} without a GPU: {said}", library.version());
    assert!(said.contains("on rank 0") && said.contains("NCCL says"), "{said}");
}
