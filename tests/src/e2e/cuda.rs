//! Torch's libraries for GPUs are found and loaded by the program that computes on processors, too. Computing
//! on a GPU is tried by `make gpu-test`.

use super::harness::{Cluster, binary, cuda_pytorch, ends, superglue, text, tiny_cb};
use std::process::Command;

/// What `ptv2d devices` says with this PyTorch, or any that it finds.
fn devices(pytorch: Option<&std::path::Path>) -> String {
    let mut command = Command::new(binary("ptv2d"));
    command.arg("devices");
    if let Some(pytorch) = pytorch {
        command.arg("--libtorch-cuda").arg(pytorch);
    }
    let run = ends(&mut command);
    assert!(run.status.success(), "{}", text(&run.stderr));
    text(&run.stdout)
}

/// Whether this machine has a GPU for the programs: then they do not say what they lack.
fn has_gpu() -> bool {
    !devices(None).contains("GPUs     none")
}

#[test]
fn libraries_for_gpus_are_loaded_into_the_same_program() {
    let Some(pytorch) = cuda_pytorch() else { return };
    let said = devices(Some(&pytorch));
    assert!(said.contains("PyTorch  2.11.0+cu13"), "{said}");
    assert!(said.contains(&format!("loaded from {}", pytorch.display())), "{said}");
    assert!(said.contains("torch    with CUDA 13"), "{said}");
    assert!(said.contains("CUDA     cuBLAS 13.1.0, cuBLASLt 130"), "{said}");
    assert!(said.contains(", cuDNN 919"), "{said}");
    if said.contains("has no NVIDIA driver") {
        let count = "GPUs that it can compute on: 0: Found no NVIDIA driver on your system";
        assert!(said.contains(count), "{said}");
    }
}

#[test]
fn a_pytorch_that_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let lib = folder.path().join("torch/lib");
    std::fs::create_dir_all(&lib).unwrap();
    std::fs::write(lib.join("libtorch_cuda.so"), "").unwrap();
    let version = "__version__ = '2.9.1+cu128'\ncuda: Optional[str] = '12.8'\n";
    std::fs::write(folder.path().join("torch/version.py"), version).unwrap();
    let said = devices(Some(folder.path()));
    assert!(said.contains("PyTorch 2.9.1+cu128"), "{said}");
    assert!(said.contains("pip install torch==2.11.0"), "{said}");
    let said = devices(Some(&folder.path().join("elsewhere")));
    assert!(said.contains("has no libtorch_cuda.so"), "{said}");
}

#[test]
fn a_gpu_that_is_asked_for_and_cannot_be_had_is_explained() {
    if has_gpu() {
        println!("skipped: this machine has a GPU");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let state = folder.path().join("state");
    let worker = ["worker", "--coordinator", "http://127.0.0.1:1", "--token-file"];
    let local = ["local", "--listen", "127.0.0.1:0", "--state"];
    for (command, place) in [(worker, &token), (local, &state)] {
        for device in ["cuda", "cuda:3"] {
            let mut program = Command::new(binary("ptv2d"));
            program.args(command).arg(place).args(["--device", device]);
            let run = ends(program.env_remove("CUDA_VISIBLE_DEVICES").current_dir(folder.path()));
            let said = text(&run.stderr);
            assert_eq!(run.status.code(), Some(1), "{said}");
            let index = device.strip_prefix("cuda:").unwrap_or("0");
            assert!(said.contains(&format!("{device} would be device {index}")), "{said}");
            assert!(said.contains("driver") && said.contains("expected: "), "{said}");
            assert!(said.contains("hint: "), "{said}");
        }
    }
    assert!(!state.exists(), "nothing was begun");
}

/// One that took the processor, as there is no GPU, computes with one that was told to.
#[test]
fn auto_computes_on_the_processor_where_there_is_no_gpu() {
    let Some(data) = superglue() else { return };
    if has_gpu() {
        println!("skipped: this machine has a GPU");
        return;
    }
    let mut cluster = Cluster::by_file(&data);
    cluster.worker(1, &["--device", "cpu"]);
    cluster.set("CUDA_VISIBLE_DEVICES", "GPU-8a".into());
    cluster.worker(1, &["--device", "auto"]);
    let workers = cluster.json(&["workers"]);
    let mut given: Vec<_> = workers
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| {
            assert_eq!(worker["device"], "cpu");
            worker["visible_device"]["name"].as_str().map(str::to_owned)
        })
        .collect();
    given.sort();
    assert_eq!(given, [None, Some("GPU-8a".into())]);
    let log = std::fs::read_to_string(cluster.folder.path().join("worker-1.log")).unwrap();
    assert!(log.contains("cuda:0 is given and of no use"), "{log}");
    assert!(log.contains("computes on the CPU; GPU: GPU-8a"), "{log}");
    let status = cluster.run(&tiny_cb(&data, ""), &["--workers", "2"]);
    assert_eq!(status["state"], "succeeded");
}
