//! One rank alone: all that one GPU can show of a group.

use super::{Library, stand_in};
use crate::collective::nccl::{Nccl, Setting};
use crate::collective::tests::{ELEMENTS, SLICES, listeners, parts, spec, values};
use crate::collective::{AbortHandle, Collective, CollectiveError};
use crate::numerics::tree::{Node, sum};
use ptv2_common::spec::Reduction;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Connects, reduces in order and by a ring, is aborted, and connects anew.
fn check(library: &Library, device: Device) {
    let listeners = listeners(1);
    let expected = Tensor::from_slice(&sum(Node::root(SLICES), &mut values));
    for (generation, reduction) in
        (1..).zip([Reduction::Ordered, Reduction::Ring, Reduction::Ordered])
    {
        let abort = AbortHandle::default();
        let mut spec = spec(&listeners, 0, b"key");
        spec.generation = generation;
        let tcp = listeners[0].join(&spec, &abort).unwrap();
        let id = library.unique_id().unwrap();
        let within = Duration::from_secs(60);
        let setting = Setting { library, id, device, reduction, within };
        let mut group = Nccl::join(tcp, &setting).unwrap();
        let own = parts(0, &[1.0]);
        let own: Vec<_> = own
            .iter()
            .map(|(node, values)| (*node, Tensor::from_slice(values).to(device)))
            .collect();
        let mut out = Tensor::zeros([ELEMENTS as i64], (Kind::Float, device));
        for step in 0..3 {
            let stamps = group.reduce_tensors(step, SLICES, &own, &[7; 24], &mut out).unwrap();
            assert_eq!(stamps, [[7; 24]]);
            // One rank's sum is the tree's, whatever way it goes.
            assert_eq!(out.to(Device::Cpu), expected);
        }
        abort.abort();
        let after = group.reduce_tensors(3, SLICES, &own, &[7; 24], &mut out);
        assert_eq!(after, Err(CollectiveError::Aborted));
    }
}

#[test]
fn one_rank_alone_reduces_is_aborted_and_begins_anew() {
    check(&Library::find(Some(stand_in())).unwrap(), Device::Cpu);
}

/// Needs PyTorch's CUDA libraries in the process before it is asked for a GPU.
#[test]
#[ignore = "needs a GPU"]
fn one_gpu_alone_reduces_is_aborted_and_begins_anew() {
    assert!(tch::Cuda::is_available(), "torch sees no GPU");
    check(&Library::find(None).unwrap(), Device::Cuda(0));
}
