//! What is checked on a GPU, by `gpu-test.sh` of `make gpu-bundle`: each check is a test that is ignored
//! elsewhere, and leaves a line in the report. `PTV2_TEST_DEVICE=cpu` runs all that a processor can. The first digit of a
//! name is its group: each runs in a process of its own, in this order, and the last one after the comparison with PEFT.

mod attention;
mod goldens;
mod jobs;
mod masks;
mod nccl;
mod report;

use crate::e2e::harness;
use ptv2_daemon::collective::nccl::Library;
use report::check;
use std::sync::OnceLock;

/// A check that needs a GPU; elsewhere the report says that it was not run.
fn check_on_gpu(name: &str, body: impl FnOnce() -> String) {
    if harness::device().starts_with("cuda") {
        check(name, body);
    } else {
        report::skipped(name, "needs a GPU");
    }
}

/// What this process computes on, as a worker readies itself for it.
fn device() -> tch::Device {
    static READY: OnceLock<tch::Device> = OnceLock::new();
    *READY.get_or_init(|| {
        let name = harness::device();
        let Some(index) = name.strip_prefix("cuda:") else { return tch::Device::Cpu };
        let index = index.parse().unwrap();
        let gpu =
            ptv2_daemon::cuda::ready(index, harness::cuda_pytorch().as_deref(), &harness::env);
        println!("{}", gpu.unwrap());
        tch::Device::Cuda(index as usize)
    })
}

/// A check of the real NCCL.
fn check_nccl(name: &str, body: impl FnOnce(&Library, tch::Device) -> String) {
    check_on_gpu(&format!("NCCL, a group of one: {name}"), || {
        let (library, device) = nccl::real();
        body(&library, device)
    });
}

/// A check that needs the large backbone.
fn check_with_large(name: &str, body: impl FnOnce() -> String) {
    if jobs::large().exists() {
        check_on_gpu(name, body);
    } else {
        report::skipped(name, "needs the large backbone, which could not be made");
    }
}

/// A shape for each check: where one does not fit, the others are told.
fn attention(index: usize) {
    let shape = attention::Shape::of(device(), index);
    check(&shape.title(), || attention::kernels(shape));
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t00_goldens_hold_in_fp32() {
    check("goldens, fp32, within 1e-3", goldens::fp32);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t01_goldens_hold_in_bf16() {
    check("goldens, bf16", goldens::bf16);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t02_architectures_agree_with_the_processor() {
    check(
        "gradients with dropout, four architectures, against the processor",
        goldens::architectures,
    );
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t03_the_kernels_masks_are_the_operators() {
    check_on_gpu("dropout's masks: the kernel's bits are the operators'", masks::kernel);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t10_nccl_connects_reduces_aborts_and_connects_again() {
    check_nccl("connect, reduce, abort, connect again", nccl::a_group_of_one);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t11_nccl_sends_to_and_receives_from_itself() {
    check_nccl("send and receive in one group", nccl::to_itself);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t12_nccl_sums_and_gathers() {
    check_nccl("the calls of all-reduce and all-gather", nccl::sums_and_gathers);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t13_nccl_reduces_by_a_ring() {
    check_nccl("reduce by a ring, the call", nccl::a_ring_of_one);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t14_nccl_aborts_behind_queued_work() {
    check_nccl("an abort behind queued work, connect again", nccl::an_abort_behind_work);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t20_repeated_runs_have_one_hash() {
    check("one hash for repeated runs", jobs::repeated_runs);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t21_two_workers_share_the_device_over_tcp() {
    check("two workers on one device, over TCP", jobs::two_workers);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t30_a_worker_whose_device_is_lost_ends() {
    check("a kernel whose assertion fails: the worker ends, another goes on", jobs::lost_device);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t40_too_much_for_the_memory_is_told_and_survived() {
    check_with_large(
        "too much for the memory is refused by what it takes, and the worker goes on",
        jobs::too_much,
    );
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t41_memory_that_runs_out_in_a_step_is_told_and_survived() {
    check_with_large(
        "memory that runs out in a step: told, given back, and the worker goes on",
        jobs::runs_out,
    );
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t50_a_warm_worker_begins_soon() {
    check("submit to first step, warm, tiny backbone", jobs::warm_start);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t60_attention_of_the_first_shape() {
    attention(0);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t61_attention_of_the_second_shape() {
    attention(1);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t62_attention_of_the_third_shape() {
    attention(2);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t63_attention_of_the_fourth_shape() {
    attention(3);
}

#[test]
#[ignore = "run by gpu-test.sh"]
fn t90_faults_change_no_bit() {
    check("chaos, short form", || {
        crate::chaos::short();
        "no bit changed".into()
    });
}
